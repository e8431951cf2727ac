"""Readership: how much the subscribers of each shard of a `newsletters` worker read, said again when it has changed.

Consumes nothing: the counts are worked out from the shards' states. Produces `readership` (ReadershipCounted), which the audience
stage adds up over the shards. State: what was said last of each loaded shard, so that a shard that was just loaded says it again.
Ordering key: the shard. Guarantee: within some seconds of a change the newest event of the shard is what its state says; one that
could not be written is tried again.
"""

import asyncio
from weakref import WeakKeyDictionary

from core.errors import Unavailable
from core.folding import to_ms
from core.newsletter_state import NewsletterState
from core.readership import Count, as_items
from runtime.shards import Shard, Shards
from runtime.stage import Stage
from schemas.records import Record

COUNTING_SHARE = 0.02
"""Most of a core that counting takes: when it takes long, it is done less often."""

COUNTS_BYTES_S = 10_000
"""Rate to which a shard's events are limited: counts of 2,000 publications are 100 kB, and said every 10 s at most."""


class Counting:
    """Counts as a task of the stage."""

    def __init__(self, stage: Stage, shards: Shards[NewsletterState]) -> None:
        self._stage, self._shards = stage, shards
        self._said: WeakKeyDictionary[Shard[NewsletterState], tuple[tuple[int, int], float]] = WeakKeyDictionary()
        """What changes the last event of a shard holds, and when the next may come."""
        stage.spawn(self._run)

    async def _run(self) -> None:
        clock, interval_s = self._stage.clock, self._stage.settings.readership_interval_s
        while True:
            await asyncio.sleep(interval_s)
            for shard in self._shards.owned():
                changes = (shard.state.histories.changes, shard.state.content.changes)
                said, due = self._said.get(shard, (None, 0.0))
                if said != changes and clock.monotonic() >= due:
                    began = clock.monotonic()
                    counts = await asyncio.to_thread(shard.state.own_counts, to_ms(clock.now()))
                    took_s, record = clock.monotonic() - began, self._record(shard, counts)
                    try:
                        await self._stage.producer.send([record])
                    except Unavailable as error:
                        self._stage.log.warning("the readership of shard %s was not written: %s", shard.partition, error)
                    else:
                        self._said[shard] = changes, clock.monotonic() + len(record.value) / COUNTS_BYTES_S
                    await asyncio.sleep(took_s / COUNTING_SHARE)

    def _record(self, shard: Shard[NewsletterState], counts: dict[str, Count]) -> Record:
        topics, now, partition = self._stage.topics, self._stage.clock.now(), shard.partition
        value = {"shard": partition, "shards": topics.shards, "counts": as_items(counts), "counted_at": now}
        return self._stage.codec.encode(
            topics.readership, "ReadershipCounted", value, key=str(partition), time=now, partition=partition
        )
