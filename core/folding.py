"""What the folds of `core` read of an event, so that they need nothing of the codec."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol

AHEAD_MS: Final = 3_600_000
"""How much later than its record an event may say that something happened: clocks differ by seconds, and Kafka itself takes
records that are up to an hour ahead."""


class StateEvent(Protocol):
    """A decoded event; `schemas.records.Event` is one."""

    @property
    def name(self) -> str:
        """Name of the event, such as SubscriberRegistered."""

    @property
    def value(self) -> Mapping[str, Any]:
        """Its fields; timestamps are aware datetimes."""

    @property
    def timestamp_ms(self) -> int:
        """When Kafka had its record; 0 when that is not known."""


def first_difference(one: Mapping[str, Any], other: Mapping[str, Any], but: Collection[str] = ()) -> str | None:
    """Return the first field in which two values of an event differ, other than those in `but`; None when they are the same."""
    return next((name for name in one if name not in but and one[name] != other.get(name)), None)


def to_ms(instant: datetime) -> int:
    """Return an aware instant as milliseconds since 1970."""
    return round(instant.timestamp() * 1000)


def happened_ms(event: StateEvent, instant: datetime) -> int:
    """Return when an event says that something happened, as milliseconds since 1970; at most AHEAD_MS after its record.

    A clock that is wrong by days changes only what it is about, and what is replayed is clamped as it was.
    """
    at_ms = to_ms(instant)
    return min(at_ms, event.timestamp_ms + AHEAD_MS) if event.timestamp_ms > 0 else at_ms


def happened_at(event: StateEvent, instant: datetime) -> datetime:
    """Return the same as an instant."""
    at_ms = happened_ms(event, instant)
    return instant if at_ms == to_ms(instant) else datetime.fromtimestamp(at_ms / 1000, UTC)
