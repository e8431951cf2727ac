"""What Kafka itself wrote down about the sinks' groups: when each offset was committed, and when members changed.

Read from Kafka's own topic of offsets, so that nothing depends on having looked at the right moment. Its records are not
Avro: a key begins with a version in two bytes (0 and 1: an offset, 2: a group) and goes on with texts, each with its length
in two bytes, and the partition in four; the value of an offset begins with a version and the offset in eight.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

from schemas.records import Raw
from tests.fault.journal import Commit, Rebalance

OFFSETS = "__consumer_offsets"
_OFFSET, _GROUP = (0, 1), 2


def read_commits(raws: Iterable[Raw], topics: Mapping[str, str]) -> tuple[list[Commit], list[Rebalance]]:
    """Return what was committed for these topics, and when the members of their groups changed; `topics` gives the groups."""
    groups = {group: topic for topic, group in topics.items()}
    commits, rebalances = [], []
    for raw in raws:
        if raw.key is None or raw.value is None:
            continue  # an offset that was removed, a group that is no more
        version, (group, rest) = int.from_bytes(raw.key[:2], "big"), _text(raw.key[2:])
        if group not in groups:
            continue
        at = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=raw.timestamp_ms)
        if version == _GROUP:
            rebalances.append(Rebalance(groups[group], at))
        elif version in _OFFSET:
            topic, rest = _text(rest)
            if topic == groups[group]:
                offset = int.from_bytes(raw.value[2:10], "big")
                commits.append(Commit(topic, int.from_bytes(rest[:4], "big"), offset, at))
    return commits, rebalances


def _text(data: bytes) -> tuple[str, bytes]:
    end = 2 + int.from_bytes(data[:2], "big")
    return data[2:end].decode(), data[end:]
