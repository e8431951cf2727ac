"""Loading shards: the newest snapshot, then the state topics, then the decisions, each to its end at that moment.

Runs in a thread; the shards it is given are not in anybody else's hands yet. A log that begins above what the snapshot
contains (retention) is read from where it begins; a snapshot that is ahead of its logs is of other logs and ignored.
"""

import logging
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from core.errors import CodecError
from runtime import metrics
from runtime.clock import Clock
from runtime.reading import admin_client, end_offsets, read_range, start_offsets
from runtime.settings import Settings
from runtime.shard_snapshots import Snapshot, newest
from schemas.codec import Codec
from schemas.records import Event

Positions = dict[tuple[str, int], int]

log = logging.getLogger(__name__)


class ShardState(Protocol):
    """What a decider knows of one shard; implemented in core, as a pure fold."""

    def apply(self, event: Event) -> None:
        """Fold one event of a state topic, or of the decisions topic; applying one twice changes nothing (decisions)."""

    def dump(self) -> bytes:
        """Return the state, packed; equal states give equal bytes."""

    def load(self, data: bytes) -> None:
        """Take over what `dump` returned."""


S = TypeVar("S", bound=ShardState)


class Folded(Generic[S]):
    """One shard as its logs say."""

    def __init__(self, partition: int, state: S) -> None:
        self.partition, self.state = partition, state
        self.applied: dict[str, int] = {}
        """Topic -> next offset that the state does not contain."""
        self.decided: dict[tuple[str, int], int] = {}
        """(source_id, chunk) -> offset of its first copy."""
        self.followed = 0
        """Next offset of the decisions whose first copies were checked."""
        self.slot = ""

    def absorb(self, event: Event) -> bool:
        """Fold an event of a state topic; False when the state contains it already."""
        if event.offset < self.applied.get(event.topic, 0):
            return False
        self.state.apply(event)
        self.applied[event.topic] = event.offset + 1
        return True


@dataclass(frozen=True, slots=True)
class Logs:
    """The topics that a stage's shards are made of."""

    state: tuple[str, ...]
    decisions: str
    snapshots: str


class Loader:
    """Loads shards of one stage."""

    def __init__(self, settings: Settings, codec: Codec, logs: Logs, format: int, clock: Clock) -> None:
        self._settings, self._codec, self._clock = settings, codec, clock
        self._state_topics, self._decisions = logs.state, logs.decisions
        self._snapshots, self._format = logs.snapshots, format
        self._admin = admin_client(settings)

    def load(self, shards: Mapping[int, Folded[Any]], make: Callable[[int], Any]) -> None:
        """Fill these empty shards; Unavailable when Kafka or the registry does not answer."""
        if not shards:
            return
        snapshots = self._read_snapshots(list(shards))
        logs = (*self._state_topics, self._decisions)
        partitions = [(topic, partition) for topic in logs for partition in shards]
        starts, ends = start_offsets(self._admin, partitions), end_offsets(self._admin, partitions)
        for partition, shard in shards.items():
            snapshot = snapshots.get(partition)
            if snapshot is None or any(offset > ends.get((topic, partition), 0) for topic, offset in snapshot.applied.items()):
                continue
            try:
                shard.state.load(snapshot.state)
            except (ValueError, LookupError, struct.error):
                log.exception("the snapshot of shard %s cannot be read; it is folded from its logs", partition)
                shard.state = make(partition)
            else:
                shard.slot = snapshot.slot
                shard.decided.update({k: o for k, o in snapshot.decided.items() if o >= starts[self._decisions, partition]})
                shard.applied.update(snapshot.applied)
        for topics in (self._state_topics, (self._decisions,)):
            positions = {(t, p): max(shards[p].applied.get(t, 0), starts[t, p]) for t in topics for p in shards}
            for event in self._events(positions, {tp: ends[tp] for tp in positions}):
                _fold(shards[event.partition], event, self._decisions)
            for topic, partition in positions:
                shard = shards[partition]
                shard.applied[topic] = max(shard.applied.get(topic, 0), ends[topic, partition])
        for partition, shard in shards.items():
            shard.followed = ends[self._decisions, partition]

    def _events(self, positions: Positions, ends: Positions) -> Iterable[Event]:
        for raw in read_range(self._settings, positions, ends, clock=self._clock):
            try:
                yield self._codec.decode(raw)
            except CodecError as error:  # the stage's agent writes its dead letter when it comes to it
                metrics.FOLLOWER_SKIPPED.labels("shards", error.code).inc()

    def _read_snapshots(self, partitions: list[int]) -> dict[int, Snapshot]:
        asked = [(self._snapshots, partition) for partition in partitions]
        starts, ends = start_offsets(self._admin, asked), end_offsets(self._admin, asked)
        records: dict[int, list[tuple[int, str, dict[str, Any]]]] = defaultdict(list)
        for event in self._events(starts, ends):
            records[event.partition].append((event.offset, event.key, event.value))
        found = {p: newest(records[p], self._settings.shards, self._format) for p in partitions}
        return {partition: snapshot for partition, snapshot in found.items() if snapshot is not None}


def _fold(shard: Folded[Any], event: Event, decisions_topic: str) -> None:
    """Apply an event; of the decisions only the first copy of each chunk."""
    if event.topic == decisions_topic:
        key = (event.value["source_id"], event.value["chunk"])
        if shard.decided.setdefault(key, event.offset) != event.offset:
            metrics.LATER_COPIES.labels(decisions_topic).inc()
            return
    shard.absorb(event)
