"""Where else a subscriber can be reached."""

from dataclasses import dataclass
from typing import Any

import pytest

from core.contact import Contact, other_contact


@dataclass
class Event:
    """An event of one subscriber."""

    name: str
    value: dict[str, Any]


REGISTERED = Event("SubscriberRegistered", {"language": "de"})


def linked(channel: str, address: bytes | None = None) -> list[Event]:
    """An address that was given and verified."""
    return [
        Event("ChannelLinked", {"channel": channel, "address": address or channel.encode()}),
        Event("ChannelVerified", {"channel": channel}),
    ]


def prefers(*channels: str) -> Event:
    """The order of channels that somebody wants."""
    return Event("PreferencesChanged", {"language": None, "channels": list(channels)})


BOTH = [REGISTERED, *linked("webhook"), *linked("email"), *linked("slack")]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (BOTH, Contact("email", b"email", "de")),
        ([*BOTH, prefers("webhook", "slack", "email")], Contact("slack", b"slack", "de")),
        ([*BOTH, Event("PreferencesChanged", {"language": "en", "channels": None})], Contact("email", b"email", "en")),
        ([*BOTH, Event("ChannelUnlinked", {"channel": "email"})], Contact("slack", b"slack", "de")),
        ([*BOTH, Event("ChannelLinked", {"channel": "email", "address": b"new"})], Contact("slack", b"slack", "de")),
        ([*BOTH, *linked("email", b"new")], Contact("email", b"new", "de")),
        ([*BOTH, Event("SubscriberErased", {})], None),
        ([REGISTERED, *linked("webhook")], None),
        ([REGISTERED, Event("ChannelVerified", {"channel": "email"})], None),
        ([], None),
    ],
)
def test_finds_the_first_verified_channel_but_one(events: list[Event], expected: Contact | None) -> None:
    """By preference, else in the usual order; never an address that was replaced and not verified again."""
    assert other_contact(events, "webhook") == expected
