"""Admission: which submissions are well-formed, which are duplicates, and which quality passes which gate.

Pure. State: what is known of each publication of a partition, folded from the `publications` topic in the order of the log; so a
submission gets the same verdict when it is read again, however far the fold has got meanwhile.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from core.content import ALERT_QUALITY, NEWSLETTER_QUALITY
from core.errors import EventRefused
from core.folding import StateEvent
from core.rules import obeys, validate

CONTENT_FIELDS: Final = (
    "content_type",
    "title",
    "summary",
    "body",
    "url",
    "authors",
    "topics",
    "language",
    "published_at",
    "attributes",
)
"""What makes two submissions of one revision the same, in the order in which a difference is named."""


def _canonical(value: Any) -> Any:
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    if isinstance(value, Mapping):
        return {name: _canonical(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return value


def field_digest(value: Any) -> bytes:
    """Return a short digest (8 bytes) of one field, by which a difference is found."""
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def content_sha256(submitted: Mapping[str, Any]) -> bytes:
    """Return the SHA-256 of the canonical content: the fields of CONTENT_FIELDS as JSON with sorted keys, times in ms."""
    content = {name: _canonical(submitted.get(name)) for name in CONTENT_FIELDS}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).digest()


@dataclass(slots=True)
class Revision:
    """One accepted revision of a publication, and what was said about it since."""

    offset: int
    content_sha256: bytes
    digests: tuple[bytes, ...]
    previous: int = 0
    quality: float | None = None
    scorer: str = ""
    scored_at: datetime | None = None
    vector: bytes | None = None
    vector_model: str | None = None
    """As scored; forgotten when the revision is settled."""
    settled: bool = False

    def settle(self) -> None:
        """Take note that it was approved or rejected."""
        self.settled, self.vector = True, None


@dataclass(slots=True)
class Publication:
    """What is known of one publication."""

    revisions: dict[int, Revision] = field(default_factory=dict)
    retracted: bool = False
    first_approved_at: datetime | None = None


class Publications:
    """What is known of the publications of one partition: the fold of the publications topic."""

    def __init__(self) -> None:
        self.known: dict[str, Publication] = {}

    def apply(self, event: StateEvent, offset: int) -> None:
        """Fold one event at its offset; events come in the order of the log, each once."""
        value = event.value
        item = self.known.get(value["publication_id"])
        if event.name == "PublicationSubmitted":
            self._submitted(value, offset)
        elif event.name == "PublicationRetracted":
            self.known.setdefault(value["publication_id"], Publication()).retracted = True
        elif item is not None and (revision := item.revisions.get(value["revision"])) is not None:
            if event.name == "PublicationScored" and revision.quality is None:
                revision.quality, revision.scorer, revision.scored_at = value["quality"], value["scorer"], value["scored_at"]
                revision.vector, revision.vector_model = value["vector"], value["vector_model"]
            elif event.name in ("PublicationApproved", "PublicationRejected"):
                revision.settle()
                if event.name == "PublicationApproved" and item.first_approved_at is None:
                    item.first_approved_at = value["approved_at"]

    def _submitted(self, value: Mapping[str, Any], offset: int) -> None:
        if not obeys("PublicationSubmitted", value):
            return
        revisions = self.known.setdefault(value["publication_id"], Publication()).revisions
        highest = max(revisions, default=0)
        if value["revision"] > highest:
            digests = tuple(field_digest(value.get(name)) for name in CONTENT_FIELDS)
            revisions[value["revision"]] = Revision(offset, content_sha256(value), digests, previous=highest)

    def accepted(self, value: Mapping[str, Any], offset: int) -> Revision | None:
        """Return the revision that the submission at this offset is; None for a duplicate, which changes nothing.

        The submission must have been folded. Raises EventRefused, naming the first differing field, when the revision is known
        with other content, and naming the revision when a higher one was known.
        """
        validate("PublicationSubmitted", value)
        revisions = self.known[value["publication_id"]].revisions
        found = revisions.get(value["revision"])
        if found is None:
            higher = min(number for number in revisions if number > value["revision"])
            raise EventRefused(
                "PublicationSubmitted",
                "revision",
                f"{value['revision']} is below revision {higher}, which is known: use a higher one",
            )
        if found.offset == offset:
            return found
        for name, digest in zip(CONTENT_FIELDS, found.digests, strict=True):
            if field_digest(value.get(name)) != digest:
                raise EventRefused(
                    "PublicationSubmitted",
                    name,
                    f"differs from what revision {value['revision']} was submitted with; send a change as a higher revision",
                )
        return None

    def changed_fields(self, publication_id: str, revision: int) -> list[str]:
        """Return the names of the fields that differ from the revision that this one replaces."""
        revisions = self.known[publication_id].revisions
        new, old = revisions[revision], revisions[revisions[revision].previous]
        return [name for name, one, other in zip(CONTENT_FIELDS, new.digests, old.digests, strict=True) if one != other]


@dataclass(frozen=True, slots=True)
class Gate:
    """What a quality is good enough for; both gates are strict."""

    newsletters: bool
    alerts: bool


def gate(quality: float) -> Gate:
    """Return what a quality passes: newsletters above 0.8, alerts above 0.9."""
    return Gate(newsletters=quality > NEWSLETTER_QUALITY, alerts=quality > ALERT_QUALITY)
