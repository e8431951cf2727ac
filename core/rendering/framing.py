"""What the items of a mail have in common: markup that goes once into the layout of a call, and not into every message.

Pure. A frame is what a template makes of marks in place of an item's values. An item whose HTML is this markup around values of
its own fits, and its values are all that a message needs of it; one that its template makes otherwise, such as one without a
summary, does not fit, and goes as a whole. The recipient gets the same bytes either way.
"""

import re
import string
from collections.abc import Sequence
from typing import Final, Self

MOST_ITEMS: Final = len(string.ascii_lowercase)
"""Items that have names for their values: title_a, title_b and so on."""

_MARK: Final = re.compile("\x00([a-z]+)\x00")
_NO_MARKUP: Final = re.compile("[{}\x00]")


def mark(name: str) -> str:
    """Return what stands for a value until its place is known; no text has a NUL, cleaning takes it out."""
    return f"\x00{name}\x00"


class Frame:
    """The markup of an item between its values."""

    def __init__(self, markup: Sequence[str], places: Sequence[str]) -> None:
        """markup: one part more than places, which name the value between two parts."""
        self._markup, self._places = markup, places
        self.names = tuple(dict.fromkeys(places))
        """Of the values, each once."""

    @classmethod
    def of(cls, text: str) -> Self | None:
        """Return the frame of a text with marks; None when a placeholder in it could not be told from its markup."""
        parts = _MARK.split(text)
        if len(parts) == 1 or any(_NO_MARKUP.search(part) for part in parts[::2]):
            return None
        return cls(parts[::2], parts[1::2])

    def fields(self, text: str) -> tuple[str, ...] | None:
        """Return an item's values in the order of names; None when it does not fit."""
        first, *between, last = self._markup
        at, until = len(first), len(text) - len(last)
        if until < at or not text.startswith(first) or not text.endswith(last):
            return None
        found: dict[str, str] = {}
        for name, markup in zip(self._places, [*between, None], strict=True):
            end = until if markup is None else text.find(markup, at, until)
            if end < 0 or found.setdefault(name, text[at:end]) != text[at:end]:
                return None
            at = end + len(markup or "")
        return tuple(found.values())

    def placed(self, position: int) -> str:
        """Return the frame of the item at a position (from 0), with placeholders for its values."""
        parts = [self._markup[0]]
        for name, markup in zip(self._places, self._markup[1:], strict=True):
            parts += (f"{{{{{placeholder(name, position)}}}}}", markup)
        return "".join(parts)


def placeholder(name: str, position: int) -> str:
    """Return the name of a value of the item at a position."""
    return f"{name}_{string.ascii_lowercase[position]}"
