"""What both deciders do: keep the shards' states current, and decide the chunks of a source one after the other.

Rule 1 of "Deciding" is `Shard.decide`: the decision is written and its report seen before the state changes and the event is
acknowledged. Shards of one batch are worked on side by side, the sources of one shard in the order of its log.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from core.errors import Unavailable
from core.ids import event_id
from core.verdicts import Place, Remembered, check_record_size
from runtime.shards import Shard, Shards
from runtime.stage import Stage
from schemas.records import Event

STATE_BATCH_EVENTS = 500
"""Events of a state topic that are absorbed at once; each is microseconds of work."""

STATE_BATCH_S = 0.01
"""Longest wait for such a batch: how much staler than the log a preference may be for this reason."""


class Decider:
    """Handlers of a decider; `S` is the state of its shards."""

    def __init__(self, stage: Stage, shards: Shards[Any], decisions_topic: str) -> None:
        self._stage, self._shards, self._decisions = stage, shards, decisions_topic

    def follow(self, topic: str) -> None:
        """Absorb the events of a state topic as they come."""
        self._stage.consume_batches(topic, self.absorb, STATE_BATCH_EVENTS, STATE_BATCH_S)

    async def absorb(self, events: list[Event]) -> None:
        """Fold events into their shards' states; what a state contains already is skipped."""
        for event in events:
            shard = await self._shards.get(event.partition)
            if shard is not None:
                shard.absorb(event)

    async def by_shard(self, events: Sequence[Event], work: Callable[[Shard[Any], Event], Awaitable[None]]) -> None:
        """Do work for each event: shards side by side, the events of a shard in order.

        Waits for all shards before it raises, so that nothing of this batch still runs when it is handled again. An error that is
        not passing goes before one that is.
        """
        places: dict[int, list[Event]] = {}
        for event in events:
            places.setdefault(event.partition, []).append(event)

        async def one(partition: int, mine: list[Event]) -> None:
            shard = await self._shards.get(partition)
            if shard is not None:
                for event in mine:
                    await work(shard, event)

        results = await asyncio.gather(*(one(*item) for item in places.items()), return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        if errors:
            raise min(errors, key=lambda error: isinstance(error, Unavailable))

    def undecided(self, shard: Shard[Any], source_id: str, chunks: int) -> bool:
        """Return whether any chunk of a source is not decided yet."""
        return not all(shard.is_decided(source_id, chunk) for chunk in range(shard.state.decided.chunks_of(source_id, chunks)))

    async def decide_source(
        self, shard: Shard[Any], event: Event, source_id: str, chunks: int, decide: Callable[[Place, int], dict[str, Any]]
    ) -> None:
        """Decide every chunk of a source that is not decided yet; decide(place, chunks) returns AudienceDecided."""
        decided: Remembered = shard.state.decided
        chunks = decided.chunks_of(source_id, chunks)
        for chunk in range(chunks):
            if shard.is_decided(source_id, chunk):
                continue
            place = Place(shard.partition, self._stage.topics.shards, chunk, shard.applied)
            value = decide(place, chunks)
            record = self._stage.codec.encode(
                self._decisions,
                "AudienceDecided",
                value,
                key=f"{source_id}/{chunk}",
                time=event.time,
                id=event_id("AudienceDecided", source_id, str(shard.partition), str(chunk)),
                source=f"/newswire/streams/{self._stage.name}",
                correlation_id=source_id,
                causation_id=event.id,
                partition=shard.partition,
            )
            check_record_size(len(record.value), value["source_kind"])
            await shard.decide(record, source_id, chunk, value)
            await asyncio.sleep(0)  # heartbeats and other shards between two chunks
