"""Definitions of newsletters: the fold of the `newsletters` topic that every process agrees on.

Pure. A definition counts when it obeys the rules and its revision is above all before it in the log; a copy of the one that
counts changes nothing. Everything else is refused, by name of the field, and no fold takes it.
"""

from collections.abc import Mapping
from typing import Any, Final

from core.errors import EventRefused
from core.folding import StateEvent, first_difference
from core.rules import obeys, validate

EVENT: Final = "NewsletterDefined"
INCIDENTAL: Final = ("revision", "defined_at")
"""Fields in which two definitions may differ that say the same."""


class Definitions:
    """The revisions of each newsletter that count, with their offsets. A thread may fold while another one asks."""

    def __init__(self) -> None:
        self._revisions: dict[str, dict[int, tuple[int, Mapping[str, Any]]]] = {}
        self._newest: dict[str, Mapping[str, Any]] = {}

    def apply(self, event: StateEvent, offset: int) -> bool:
        """Fold one event at its offset, and return whether a newsletter is now as it says."""
        value = event.value
        if event.name != EVENT or not obeys(EVENT, value):
            return False
        revisions = self._revisions.setdefault(value["newsletter_id"], {})
        if revisions and value["revision"] <= max(revisions):
            return False
        revisions[value["revision"]] = offset, value
        self._newest[value["newsletter_id"]] = value
        return True

    def newest(self, newsletter_id: str) -> Mapping[str, Any] | None:
        """Return a newsletter as it is defined now, None when it is not."""
        return self._newest.get(newsletter_id)

    def all(self) -> list[Mapping[str, Any]]:
        """Return every newsletter as it is defined now, in the order of their ids."""
        newest = self._newest.copy()
        return [newest[newsletter_id] for newsletter_id in sorted(newest)]

    def admit(self, value: Mapping[str, Any], offset: int) -> None:
        """Raise EventRefused unless the definition at this offset counts, or is a copy of one that does; it was folded before."""
        validate(EVENT, value)
        revisions = self._revisions[value["newsletter_id"]].copy()
        number = value["revision"]
        higher = [known for known, (place, _) in revisions.items() if known > number and place < offset]
        place, first = revisions.get(number, (offset, value))
        if place == offset and higher:
            raise EventRefused(EVENT, "revision", f"{number} is below revision {max(higher)}, which is known: use a higher one")
        different = first_difference(first, value, INCIDENTAL)
        if different is not None:
            raise EventRefused(EVENT, different, f"differs from revision {number} as it was defined first: raise the revision")
