"""What a provider said about a message, made fit to be stored and shown: short, on one line, without the recipient's data. Pure.

Providers quote what they refuse: addresses, ids of channels and users, links. Left are the words, codes and names of fields.
"""

import re
from collections.abc import Iterable
from typing import Final

MAX_CHARACTERS: Final = 200
"""Of a text as it is stored: a sentence or two."""
READ_CHARACTERS: Final = 2_000
"""Of a text as it came; what stands behind is not looked at."""
SHORTEST_WORD: Final = 3
"""Characters of a part of an address that is taken out by itself: shorter ones are in every other word."""

_HIDDEN: Final = "[...]"
_WORD: Final = re.compile(r"\w+")
_PERSONAL: Final = re.compile(
    r"""
    "[^"]*"@\S* | [^\s"'<>()\[\],;]*@[^\s"'<>()\[\],;]*   # a mail address
    | [a-z][a-z0-9+.-]*://\S+                            # a link
    | \b\d{1,3}(?:\.\d{1,3}){3}\b                        # an IP address
    | \b(?=\w*\d)[A-Z0-9]{8,}\b                          # an id of Slack's
    | \b(?=[\w-]*\d)[\w-]{12,}\b                         # any other id
    | \b\d{7,}\b                                         # a number that is no code
    """,
    re.VERBOSE | re.IGNORECASE,
)
_QUOTED: Final = re.compile(r"(?<!\w)(?:'([^']*)'|\"([^\"]*)\"|<([^>]*)>)(?!\w)")
_NAME: Final = re.compile(r"[A-Za-z_][\w.\[\]]{0,59}")
"""What may stand in quotes: the name of a field, a placeholder or a setting."""


def shown(text: str, addresses: Iterable[str] = ()) -> str:
    """Return a provider's text without personal data, at most MAX_CHARACTERS long; addresses are those that it may be about."""
    text = "".join(c if c.isprintable() else " " for c in text[:READ_CHARACTERS])
    words = {word.lower() for address in addresses for word in _WORD.findall(address) if len(word) >= SHORTEST_WORD}
    text = _PERSONAL.sub(_HIDDEN, text)
    text = _WORD.sub(lambda match: _HIDDEN if match[0].lower() in words else match[0], text)
    text = " ".join(_QUOTED.sub(_quoted, text).split())
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 3].rstrip()}..."


def _quoted(match: re.Match[str]) -> str:
    inside = next(group for group in match.groups() if group is not None)
    return match[0] if _NAME.fullmatch(inside) or inside == _HIDDEN else f"{match[0][0]}{_HIDDEN}{match[0][-1]}"
