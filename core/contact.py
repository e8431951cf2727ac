"""Where else a subscriber can be reached: a fold of one person's events. Pure."""

from collections.abc import Iterable
from typing import NamedTuple

from core.folding import StateEvent
from core.names import CHANNELS


class Contact(NamedTuple):
    """A verified address, encrypted, and the language to write in."""

    channel: str
    address: bytes
    language: str


def other_contact(events: Iterable[StateEvent], without: str) -> Contact | None:
    """Return the first verified channel of a subscriber but one, in their order of preference; None when there is none.

    events are all of one subscriber, in order.
    """
    linked: dict[str, bytes] = {}
    verified: set[str] = set()
    order: list[str] = []
    language = "en"
    for event in events:
        value = event.value
        if event.name in ("ChannelLinked", "ChannelUnlinked"):
            verified.discard(value["channel"])
            linked.pop(value["channel"], None)
            if event.name == "ChannelLinked":
                linked[value["channel"]] = value["address"]
        elif event.name == "ChannelVerified" and value["channel"] in linked:
            verified.add(value["channel"])
        elif event.name in ("SubscriberRegistered", "PreferencesChanged"):
            language = value["language"] or language
            order = list(value.get("channels") or order)
        elif event.name == "SubscriberErased":
            return None
    usable = [channel for channel in (*order, *CHANNELS) if channel in verified and channel != without]
    return Contact(usable[0], linked[usable[0]], language) if usable else None
