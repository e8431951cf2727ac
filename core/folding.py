"""What the folds of `core` read of an event, so that they need nothing of the codec."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Protocol


class StateEvent(Protocol):
    """A decoded event; `schemas.records.Event` is one."""

    @property
    def name(self) -> str:
        """Name of the event, such as SubscriberRegistered."""

    @property
    def value(self) -> Mapping[str, Any]:
        """Its fields; timestamps are aware datetimes."""


def first_difference(one: Mapping[str, Any], other: Mapping[str, Any], but: Collection[str] = ()) -> str | None:
    """Return the first field in which two values of an event differ, other than those in `but`; None when they are the same."""
    return next((name for name in one if name not in but and one[name] != other.get(name)), None)


def to_ms(instant: datetime) -> int:
    """Return an aware instant as milliseconds since 1970."""
    return round(instant.timestamp() * 1000)
