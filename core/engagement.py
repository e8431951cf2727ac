"""The value that a button of a message carries: which reaction to which publication of which delivery. Pure.

It comes back from Slack and Discord under their own signature, and only our own messages can carry it, so it needs none of its
own. 75 characters, of the 100 that Discord allows.
"""

import base64
import binascii
import uuid
from datetime import date
from typing import Final, NamedTuple

from core.ids import split_delivery_id

PREFIX: Final = "nw."
LIKE: Final = "like"
MOST: Final = 5
"""Buttons under a message; Discord's row holds no more."""
_REACTIONS: Final = (LIKE, "bookmark")
_SIZE: Final = 54


class Button(NamedTuple):
    """What pressing a button means."""

    reaction: str
    subscriber_id: str
    delivery_id: str
    publication_id: str


def write_button(button: Button) -> str:
    """Return the text of a button."""
    day, delivery = split_delivery_id(button.delivery_id)
    packed = b"".join(
        (
            bytes((1, _REACTIONS.index(button.reaction))),
            uuid.UUID(button.subscriber_id).bytes,
            (day.year * 10_000 + day.month * 100 + day.day).to_bytes(4, "big"),
            delivery.bytes,
            uuid.UUID(button.publication_id).bytes,
        )
    )
    return PREFIX + base64.urlsafe_b64encode(packed).decode()


def read_button(text: str) -> Button | None:
    """Return what a text says, None when it is no button of ours."""
    if not text.startswith(PREFIX) or not text.isascii():
        return None
    try:
        packed = base64.b64decode(text.removeprefix(PREFIX), altchars=b"-_", validate=True)
        day = str(int.from_bytes(packed[18:22], "big"))
        date.fromisoformat(day)
        if len(packed) != _SIZE or packed[0] != 1:
            return None
        return Button(
            _REACTIONS[packed[1]],
            str(uuid.UUID(bytes=packed[2:18])),
            f"{day}-{uuid.UUID(bytes=packed[22:38])}",
            str(uuid.UUID(bytes=packed[38:54])),
        )
    except (binascii.Error, ValueError, IndexError):
        return None
