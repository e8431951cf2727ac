"""Everything that reads and writes Kafka without Faust, in one place to import from."""

from runtime.follower import LogFollower
from runtime.producer import ProduceFailed, Producer, RecordRefused
from runtime.reading import (
    admin_client,
    assign,
    committed_offsets,
    end_offsets,
    ensure_first_offsets,
    from_coordinator,
    is_passing,
    make_consumer,
    membership,
    partitions_of,
    read_at,
    read_range,
    start_offsets,
    take,
    to_raw,
)

__all__ = [
    "LogFollower",
    "ProduceFailed",
    "Producer",
    "RecordRefused",
    "admin_client",
    "assign",
    "committed_offsets",
    "end_offsets",
    "ensure_first_offsets",
    "from_coordinator",
    "is_passing",
    "make_consumer",
    "membership",
    "partitions_of",
    "read_at",
    "read_range",
    "start_offsets",
    "take",
    "to_raw",
]
