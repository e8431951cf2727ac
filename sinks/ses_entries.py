"""An entry of SES's bulk call: what differs from one mail to the next, quoted as it stands in the call.

Data is JSON inside JSON. Its items, nearly all of it, are quoted once for all messages. The markup of as many of the first items
as fit their template's frame in every message of a call goes once, in the layout, and an entry has these items' values only
(core/rendering/framing.py): two fifths fewer bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Self

import orjson

from core.rendering.email import Shown, newsletter_frames
from core.rendering.framing import MOST_ITEMS, placeholder
from core.rendering.model import AlertMessage, Issue
from core.rendering.templating import MailTemplate

MAX_TEMPLATE_DATA: Final = 262_144
"""Characters of an entry's data (API reference of SendBulkEmail)."""
_END: Final = b'}"'
"""Of an entry's data."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of SendBulkEmail but for its data, which depends on how many frames the layout of its call has."""

    fields: dict[str, Any]
    data: bytes
    """What does not depend on it, as it stands in the call; of an alert all."""
    items: Sequence[Shown[bytes]] | None
    framed: int
    """How many of its first items fit their frames."""

    @classmethod
    def of(cls, fields: dict[str, Any], data: bytes, items: Sequence[Shown[bytes]] | None) -> Self | None:
        """Return an entry; None when SES would refuse its data for its size."""
        size, framed, fits = len(data), 0, True
        for _, html, text, values in items or ():
            size += len(html) + len(text)
            fits = fits and values is not None and framed < MOST_ITEMS
            framed += fits
        entry = cls(fields, data, items, framed)
        small = size <= MAX_TEMPLATE_DATA / 2  # in bytes, and without what is between the items
        return entry if small or len(orjson.loads(entry.text(()))) <= MAX_TEMPLATE_DATA else None

    def text(self, forms: Sequence[bytes]) -> bytes:
        """Return the data as it stands in the call; forms are what the fields of its first items are put into."""
        if self.items is None:
            return self.data
        parts = [self.data[: -len(_END)]]
        parts += [form % item.fields for form, item in zip(forms, self.items, strict=False)]
        parts += (b',\\"items_html\\":\\"', *(item.html for item in self.items[len(forms) :]))
        parts += (b'\\",\\"items_text\\":\\"', *(item.text for item in self.items), b'\\"', _END)
        return b"".join(parts)

    def whole(self, forms: Sequence[bytes]) -> dict[str, Any]:
        """Return the entry with its data."""
        content = {"ReplacementTemplate": {"ReplacementTemplateData": orjson.Fragment(self.text(forms))}}
        return {**self.fields, "ReplacementEmailContent": content}


def forms_of(content: Issue | AlertMessage, framed: int) -> tuple[bytes, ...]:
    """Return what the first items' fields are put into in a call whose layout has so many frames."""
    return _forms(content.template, content.language, framed) if isinstance(content, Issue) else ()


@lru_cache(maxsize=64)
def _forms(template: MailTemplate, language: str, framed: int) -> tuple[bytes, ...]:
    return tuple(
        b"".join(b',\\"%b\\":\\"%%b\\"' % placeholder(name, position).encode() for name in frame.names)
        for position, frame in enumerate(newsletter_frames(template, language, framed))
    )


def quoted_object(values: Mapping[str, str]) -> bytes:
    """Return what TemplateData holds, JSON text, as it stands in the call: once more quoted as a string."""
    return orjson.dumps(orjson.dumps(values).decode())


def quoted(text: str) -> bytes:
    """Return a part of a value as it stands in the call."""
    return orjson.dumps(orjson.dumps(text)[1:-1].decode())[1:-1]
