"""What the folds of `core` read of an event, so that they need nothing of the codec."""

from collections.abc import Mapping
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


def to_ms(instant: datetime) -> int:
    """Return an aware instant as milliseconds since 1970."""
    return round(instant.timestamp() * 1000)
