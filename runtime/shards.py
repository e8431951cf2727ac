"""Shards: the state of a decider, one plain object a partition, and the rules that make its decisions final.

Consumes: the snapshot, state and decisions topics of its partitions, with plain consumers. Produces: decisions (through
`Shard.decide`) and snapshots. State: what the logs fold to; a snapshot only shortens the fold. Order: of each topic;
events of different topics of a shard come in any order relative to each other, also in a fold from scratch.

Rules of deciding (ARCHITECTURE):
1. `decide` writes the decision, sees its report, and only then changes the state.
2. A shard is given out (`get`) only after its decisions were read to the end; what is decided is not decided again.
   A follower goes on reading: a first copy that is not ours means that another process decides for this shard, or did
   while we were cut off; the state here is worth nothing then, so the process ends (71) and is rebuilt.
3. The first copy in the log wins; later ones change nothing.
4. A state event is absorbed when its offset is not contained yet; whether to decide never depends on offsets.

A shard is dropped when an assignment no longer contains it, or when the assignment did not follow directly on ours:
then another process may have owned the shard between.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Generic

from core.errors import CodecError, Unavailable
from runtime import failpoints, metrics
from runtime.retry import backoff
from runtime.shard_follower import DecisionsFollower
from runtime.shard_loading import Folded, Loader, Logs, S
from runtime.shard_snapshots import Snapshot, pack_parts
from runtime.stage import PartitionLost, Stage
from schemas.records import Event, Raw, Record

FOREIGN_EXIT_CODE = 71
"""Exit code of a process that met a first copy that is not its own."""
SNAPSHOT_BYTES_S = 200_000
"""Rate to which a shard's snapshots are limited: a state of 30 MB is written every 150 s at most."""

_LOOK_S = 0.25
"""How often a handler that waits for a shard looks whether a rebalance waits for it."""

log = logging.getLogger(__name__)


class Shard(Folded[S]):
    """One loaded shard; use it from the event loop only."""

    def __init__(self, stage: Stage, decisions_topic: str, partition: int, state: S) -> None:
        super().__init__(partition, state)
        self.lost = False
        self._stage, self._topic = stage, decisions_topic
        self._pending: dict[tuple[str, int], int | None] = {}
        """Decisions that are being written -> offset of the first copy that the follower has seen meanwhile."""

    def absorb(self, event: Event) -> bool:
        """Fold an event of a state topic; False when the state contains it already. PartitionLost when it is not ours."""
        if self.lost:
            raise PartitionLost(f"shard {self.partition}")
        return super().absorb(event)

    def is_decided(self, source_id: str, chunk: int) -> bool:
        """Return whether this chunk has a decision in the log."""
        return (source_id, chunk) in self.decided

    async def decide(self, record: Record, source_id: str, chunk: int, value: Any = None) -> None:
        """Write a decision and, once Kafka has it, apply it to the state exactly as it stands in the log (rule 1).

        The chunk must not be decided yet. `value` is only compared with the ids. Raises ProduceFailed (Unavailable)
        when it is not known whether the decision is in the log: if it is, the follower meets it and the process ends.
        """
        key = (source_id, chunk)
        assert record.topic == self._topic, f"a decision to {record.topic}"
        assert record.partition == self.partition, f"a decision of shard {self.partition} to partition {record.partition}"
        assert value is None or (value["source_id"], value["chunk"]) == key, f"the value is not of {key}"
        assert key not in self.decided, f"{key} is decided already"
        assert key not in self._pending, f"{key} is being decided already"
        if self.lost:
            raise PartitionLost(f"shard {self.partition}")
        await failpoints.hit_async("decide.before_produce")
        self._pending[key] = None
        offset: int | None = None
        try:
            offset = (await self._stage.producer.send([record]))[0]
            await failpoints.hit_async("decide.after_produce")
        finally:
            seen = self._pending.pop(key)
            if seen is not None and seen != offset and (offset is None or seen < offset):
                _die_of(self._topic, self.partition, key, seen)
        if self.lost:
            raise PartitionLost(f"shard {self.partition}")  # its new owner finds the decision in the log
        now_ms = int(self._stage.clock.now().timestamp() * 1000)
        raw = Raw(record.topic, self.partition, offset, record.key, record.value, record.headers, now_ms)
        self.state.apply(self._stage.codec.decode(raw))
        self.decided[key] = offset
        self.applied[self._topic] = max(self.applied.get(self._topic, 0), offset + 1)
        metrics.DECISIONS.labels(self._topic).inc()
        await failpoints.hit_async("decide.after_state")

    def seen(self, raw: Raw) -> None:
        """Take note of a record of the decisions log; ends the process when it is a first copy and not ours."""
        if self.lost or raw.offset < self.followed:
            return
        key = self._key_of(raw)
        if key is not None:
            first = self.decided.get(key)
            if first is None and key in self._pending:
                if self._pending[key] is None:
                    self._pending[key] = raw.offset
            elif first is None or raw.offset < first:
                _die_of(self._topic, self.partition, key, raw.offset)
            elif raw.offset > first:
                metrics.LATER_COPIES.labels(self._topic).inc()
        self.followed = raw.offset + 1

    def _key_of(self, raw: Raw) -> tuple[str, int] | None:
        """Return (source_id, chunk); the record is decoded only when its key is not that of our own first copy."""
        source_id, _, number = (raw.key or b"").decode(errors="replace").rpartition("/")
        if number.isdigit() and self.decided.get((source_id, int(number))) == raw.offset:
            return source_id, int(number)
        try:
            event = self._stage.codec.decode(raw)
        except CodecError as error:
            metrics.FOLLOWER_SKIPPED.labels("decisions", error.code).inc()
            return None
        return event.value["source_id"], event.value["chunk"]

    def settled(self) -> bool:
        """Return whether every decision in the state is known to be a first copy, so that a snapshot is the truth."""
        return not self.lost and not self._pending and self.followed >= self.applied.get(self._topic, 0)


def _die_of(topic: str, partition: int, key: tuple[str, int], offset: int) -> None:
    what = "holds a first copy that this process did not write: it ends and is rebuilt"
    log.critical("%s/%s@%s (%s/%s) %s", topic, partition, offset, *key, what)
    logging.shutdown()
    os._exit(FOREIGN_EXIT_CODE)


class _Place(Generic[S]):
    """A partition of the present assignment; `shard` is set when it is loaded."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.shard: Shard[S] | None = None
        self.snapshot_applied: dict[str, int] = {}
        self.snapshot_due = 0.0


class Shards(Generic[S]):
    """All shards that this process owns."""

    def __init__(
        self,
        stage: Stage,
        *,
        make: Callable[[int], S],
        state_topics: Sequence[str],
        decisions_topic: str,
        snapshot_topic: str,
        format: int,
    ) -> None:
        """Take charge of the stage's shards; `make` returns an empty state, `format` is the version of its packing.

        Becomes the stage's `on_assigned` when that is not set; who sets it calls `on_assigned` here.
        """
        self._stage, self._make = stage, make
        self._decisions, self._snapshots, self._format = decisions_topic, snapshot_topic, format
        logs = Logs(tuple(state_topics), decisions_topic, snapshot_topic)
        self._loader = Loader(stage.settings, stage.codec, logs, format, stage.clock)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="shards")
        self._places: dict[int, _Place[S]] = {}
        self._loads: set[asyncio.Task[None]] = set()
        self._follower: DecisionsFollower | None = None
        if stage.on_assigned is None:
            stage.on_assigned = self._on_assignment
        stage.spawn(self._write_snapshots)

    async def _on_assignment(self, assigned: set[tuple[str, int]]) -> None:
        by_topic: dict[str, set[int]] = {}
        for topic, partition in assigned:
            if self._stage.topics.spec(topic).sharded:
                by_topic.setdefault(topic, set()).add(partition)
        sets = list(by_topic.values())
        assert all(s == sets[0] for s in sets), f"the topics of a shard went to different workers: {by_topic}"
        await self.on_assigned(sets[0] if sets else set())

    async def on_assigned(self, partitions: set[int]) -> None:
        """Drop the shards that are gone and start loading the new ones; returns at once."""
        for partition in list(self._places):
            if partition not in partitions or not self._stage.continuous:
                place = self._places.pop(partition)
                if place.shard is not None:
                    place.shard.lost = True
                place.ready.set()
        fresh = {partition: _Place[S]() for partition in sorted(partitions) if partition not in self._places}
        self._places.update(fresh)
        metrics.SHARDS_READY.set(sum(p.shard is not None for p in self._places.values()))
        self._follow()
        if fresh:
            task = asyncio.get_running_loop().create_task(self._load(fresh))
            self._loads.add(task)
            task.add_done_callback(self._loads.discard)

    async def get(self, partition: int) -> Shard[S] | None:
        """Return the shard once it is loaded; None when this process does not own it any more.

        A handler that gets None returns: its event belongs to a lost assignment, so the stage does not acknowledge it.
        """
        while True:
            place = self._places.get(partition)
            if place is None:
                self._stage.assert_stale(f"shard {partition} is not assigned")
                return None
            while not place.ready.is_set():
                if self._stage.leaving():
                    raise PartitionLost(f"shard {partition}")  # a rebalance waits for this handler; the event comes again
                await asyncio.wait([asyncio.ensure_future(place.ready.wait())], timeout=_LOOK_S)
            if self._places.get(partition) is place:
                return place.shard

    def owned(self) -> list[Shard[S]]:
        """Return the shards that are loaded."""
        return [place.shard for _, place in sorted(self._places.items()) if place.shard is not None]

    async def _load(self, places: dict[int, _Place[S]]) -> None:
        loop, began, attempt = asyncio.get_running_loop(), self._stage.clock.monotonic(), 0
        while True:
            attempt += 1
            wanted = [p for p, place in places.items() if self._places.get(p) is place]
            shards = {p: Shard(self._stage, self._decisions, p, self._make(p)) for p in wanted}
            try:
                await loop.run_in_executor(self._pool, self._loader.load, shards, self._make)
                break
            except Unavailable as error:
                log.warning("shards %s cannot be loaded yet: %s", wanted, error)
                await asyncio.sleep(backoff(attempt))
            except Exception as error:  # noqa: BLE001 - ends the process
                self._stage.die(error)
        took_s = self._stage.clock.monotonic() - began
        metrics.SHARD_LOAD_SECONDS.observe(took_s)
        log.info("shards %s loaded in %.2f s", sorted(shards), took_s)
        for partition, shard in shards.items():
            place = places[partition]
            if self._places.get(partition) is place:
                place.shard, place.snapshot_applied = shard, dict(shard.applied) if shard.slot else {}
                place.snapshot_due = self._stage.clock.monotonic() + self._stage.settings.snapshot_interval_s
                place.ready.set()
            else:
                shard.lost = True
        metrics.SHARDS_READY.set(len(self.owned()))
        self._follow()

    def _follow(self) -> None:
        """Let the follower read exactly the partitions of the loaded shards."""
        positions = {shard.partition: shard.followed for shard in self.owned()}
        if self._follower is None:
            if not positions:
                return
            loop = asyncio.get_running_loop()
            self._follower = DecisionsFollower(self._stage.settings, self._decisions, loop, self._seen, self._stage.die)
            self._follower.start()
        self._follower.follow(positions)

    def _seen(self, raws: list[Raw]) -> None:
        for raw in raws:
            place = self._places.get(raw.partition)
            if place is not None and place.shard is not None:
                place.shard.seen(raw)

    # -- snapshots --------------------------------------------------------------------------------------------------

    async def _write_snapshots(self) -> None:
        """Write a snapshot of each shard that has changed, when it is due and its decisions are settled."""
        while True:
            await asyncio.sleep(min(1.0, self._stage.settings.snapshot_interval_s / 2))
            for place in list(self._places.values()):
                shard = place.shard
                if shard is None or self._stage.clock.monotonic() < place.snapshot_due:
                    continue
                if shard.applied != place.snapshot_applied and shard.settled():
                    await self._write_snapshot(place, shard)

    async def _write_snapshot(self, place: _Place[S], shard: Shard[S]) -> None:
        slot = "b" if shard.slot == "a" else "a"
        applied, taken_at = dict(shard.applied), self._stage.clock.now()
        shards, state = self._stage.settings.shards, shard.state.dump()
        values = pack_parts(Snapshot(shard.partition, shards, self._format, applied, dict(shard.decided), state), taken_at)
        try:
            records = [self._part(slot, value, taken_at) for value in values]
            await self._stage.producer.send(records)
        except Unavailable as error:
            log.warning("the snapshot of shard %s was not written: %s", shard.partition, error)
            return
        size_bytes = sum(len(record.value) for record in records)
        wait_s = max(self._stage.settings.snapshot_interval_s, size_bytes / SNAPSHOT_BYTES_S)
        place.snapshot_due = self._stage.clock.monotonic() + wait_s
        shard.slot, place.snapshot_applied = slot, applied
        metrics.SNAPSHOTS.inc()

    def _part(self, slot: str, value: dict[str, Any], taken_at: datetime) -> Record:
        key, partition = f"{slot}/{value['part']}", value["shard"]
        return self._stage.codec.encode(self._snapshots, "ShardSnapshot", value, key=key, time=taken_at, partition=partition)
