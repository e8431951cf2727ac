"""Records on their way to Kafka and back, as plain data."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Record:
    """A record to produce; the partition is always explicit when the codec made it."""

    topic: str
    key: bytes | None
    value: bytes
    headers: Headers
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What takes the records of a key out of a compacted topic."""

    topic: str
    key: bytes
    partition: int
    headers: Headers = ()
    value: None = None


@dataclass(frozen=True, slots=True)
class Raw:
    """A record as it was consumed, not decoded; value is None for a tombstone."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Event:
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
