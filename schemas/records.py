"""Records on their way to Kafka and back, as plain data.

Several of them are made for every message on its way through a process: a frozen dataclass takes four times as long to make.
"""

from datetime import datetime
from typing import Any, NamedTuple

Headers = tuple[tuple[str, bytes], ...]


class Record(NamedTuple):
    """A record to produce; the partition is always explicit when the codec made it."""

    topic: str
    key: bytes | None
    value: bytes
    headers: Headers
    partition: int | None = None


class Tombstone(NamedTuple):
    """What takes the records of a key out of a compacted topic."""

    topic: str
    key: bytes
    partition: int
    headers: Headers = ()
    value: None = None


class Raw(NamedTuple):
    """A record as it was consumed, not decoded; value is None for a tombstone."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int


class Event(NamedTuple):
    """A decoded event: `name` is its type without namespace, `id`, `source` and `time` are CloudEvents'."""

    name: str
    value: dict[str, Any]
    key: str
    id: str
    source: str
    time: datetime
    topic: str
    partition: int
    offset: int
    correlation_id: str | None
    causation_id: str | None
    traceparent: str | None
    timestamp_ms: int = 0
    """Of the record: when Kafka had it, by the producer's clock, at most an hour ahead of the broker's. 0: not known."""
