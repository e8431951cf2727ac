"""From Kafka to claims: polling, the group's rebalances, decoding, claiming, committing.

Consumes deliveries.<channel>.<lane>; writes dead letters for what is no delivery. Guarantees: an offset is committed only
when everything below it is finished; when partitions are taken away nothing new starts for them, calls under way end and
their offsets are committed first. Polling goes on in a thread while the rest waits, so the group keeps this member.
"""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from core.errors import CodecError, EventRefused, Unavailable
from runtime import metrics
from runtime.clock import Clock
from runtime.deadletters import dead_letter
from runtime.failpoints import hit_async
from runtime.kafka import is_passing, make_consumer, membership, take, to_raw
from runtime.producer import Producer
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.records import Raw
from schemas.topics import Topics
from sinks.calls import Calls
from sinks.delivery import Delivery, Position
from sinks.flight import Flight
from sinks.flow import Flow
from sinks.ledger import DAYS_AHEAD, DAYS_KEPT, Ledger
from sinks.settle import Settlement, persist

POLL_S: Final = 0.5
"""Longest wait for a record, and how much longer a stop may take for it; a record ends it at once. A rebalance is served
within it, and the wait goes on."""
PAUSED_POLL_S: Final = 0.1
"""The same while the partitions are paused, when no record can end it: how late they may be resumed."""
COMMIT_EVERY_S: Final = {"urgent": 0.25, "bulk": 1.0}
"""What a process that dies has not committed is read again, and found in the ledger."""
DRAIN_S: Final = 9.0
"""How long calls under way may take to end when partitions go or the process stops; what does not end becomes unknown."""
FETCH: Final = {"urgent": {}, "bulk": {"fetch_min_bytes": 262_144, "fetch_wait_max_ms": 500}}
"""Bulk waits a little for more to come: each answer, and the claim that follows it, costs broker, ledger and this process
nearly the same, full or not."""
PAUSE_AFTER_S: Final = 2.0
"""How long polling waits for room before the partitions are paused; far below max.poll.interval.ms."""
LAG_WAIT_S: Final = 0.1
"""Wait before claiming again while consent is behind."""

log = logging.getLogger(__name__)


class Intake:
    """The consuming half of one sink process."""

    def __init__(
        self, settings: Settings, topics: Topics, codec: Codec, producer: Producer, ledger: Ledger, calls: Calls,
        settlement: Settlement, flight: Flight, flow: Flow, clock: Clock, *, channel: str, lane: str, batch: int,
    ) -> None:  # fmt: skip
        self._settings, self._topics, self._codec, self._producer, self._ledger = settings, topics, codec, producer, ledger
        self._calls, self._settlement, self._flight, self._clock, self._batch = calls, settlement, flight, clock, batch
        self._lane, self._flow, self._process = lane, flow, f"{channel}-{lane}"
        self.topic = topics.deliveries(channel, lane)
        self.group = f"{settings.topic_prefix}.sink.{channel}.{lane}"
        self._raws: asyncio.Queue[list[tuple[Raw, Position]]] = asyncio.Queue(maxsize=2)
        self._consumer: Consumer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._paused = False
        self._turn = asyncio.Lock()
        """The client's calls take turns: its own gate is unfair, and a commit beside an idle poll waited up to 17 s at it."""

    def open(self) -> None:
        """Join the group."""
        self._loop = asyncio.get_running_loop()
        member = membership(self._settings, self.group)
        self._consumer = make_consumer(self._settings, self.group, **FETCH[self._lane], **member)
        self._consumer.subscribe([self.topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    # -- in the poll thread: the group's callbacks --------------------------------------------------------------------

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._on_loop(self._begin([p.partition for p in partitions]))
        consumer.incremental_assign(partitions)
        if self._paused:
            consumer.pause(partitions)
        log.info("%s: %s partitions more", self.group, len(partitions))

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        offsets = self._on_loop(self._leave({p.partition for p in partitions}))
        self._commit(consumer, offsets)
        consumer.incremental_unassign(partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._on_loop(self._leave({p.partition for p in partitions}))  # somebody else has them: nothing to commit
        consumer.incremental_unassign(partitions)

    def _on_loop(self, coroutine: object) -> dict[int, int]:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()  # type: ignore[arg-type]

    # -- in the event loop ----------------------------------------------------------------------------------------------

    async def _begin(self, partitions: Sequence[int]) -> dict[int, int]:
        for partition in partitions:
            self._flight.offsets.assign(partition)
        return {}

    async def _leave(self, partitions: set[int]) -> dict[int, int]:
        """Let calls of these partitions end, forget them, and return their offsets to commit."""
        self._flight.leaving |= partitions
        await self._ended(partitions)
        offsets = {p: o for p, o in self._flight.offsets.committable().items() if p in partitions}
        for partition in partitions:
            self._flight.offsets.revoke(partition)
        self._flight.leaving -= partitions
        return offsets

    async def _ended(self, partitions: set[int] | None) -> None:
        until = self._clock.monotonic() + DRAIN_S
        while (left := self._flight.in_hand(partitions)) and self._clock.monotonic() < until:  # noqa: ASYNC110 - many end it
            await asyncio.sleep(0.01)
        if left:
            log.warning("%s: %s calls did not end within %s s", self.group, left, DRAIN_S)

    async def poll(self) -> None:
        """Read records until the process stops."""
        assert self._consumer is not None
        while not self._flight.stopping:
            full = not await self._room()
            async with self._turn:
                self._pause(full or self._flow.blocked)
                wait_s = PAUSED_POLL_S if self._paused else POLL_S
                messages = await asyncio.to_thread(take, self._consumer, wait_s, self._batch)
            raws = []
            for message in messages:
                error = message.error()
                if error is not None:
                    self._check(error)
                    continue
                raw = to_raw(message)
                position = self._flight.offsets.begin(raw.partition, raw.offset)
                if position is not None:
                    raws.append((raw, position))
            if raws:
                await hit_async("sink.after_poll")
                await self._raws.put(raws)

    async def _room(self) -> bool:
        """Wait a little for room for a batch; pausing at once would throw away what librdkafka has fetched ahead."""
        until = self._clock.monotonic() + PAUSE_AFTER_S
        while self._flight.room < self._batch or self._raws.full():
            if self._clock.monotonic() > until or self._flight.stopping:
                return False
            await asyncio.sleep(0.01)
        return True

    def _check(self, error: KafkaError) -> None:
        if not is_passing(error) and error.code() != KafkaError._MAX_POLL_EXCEEDED:
            raise KafkaException(error)
        log.warning("%s: %s", self.group, error.str())

    def _pause(self, wanted: bool) -> None:
        """Pause or resume all partitions: polling must go on for the group's sake even when nothing may be taken in hand."""
        assert self._consumer is not None
        if wanted != self._paused:
            assignment = self._consumer.assignment()
            (self._consumer.pause if wanted else self._consumer.resume)(assignment)
            self._paused = wanted
            metrics.PARTITIONS_PAUSED.labels(self._process).set(wanted)

    async def claim(self) -> None:
        """Decode and claim what was read, for ever."""
        while True:
            raws = await self._raws.get()
            deliveries = await self._decoded(raws)
            while deliveries and not self._flight.stopping:
                with self._flight.claiming():
                    if self._calls.informed() and await self._claimed(deliveries):
                        break
                await asyncio.sleep(LAG_WAIT_S)
                deliveries = [d for d in deliveries if d.position is not None and self._flight.offsets.holds(d.position)]

    async def _claimed(self, deliveries: Sequence[Delivery]) -> bool:
        """Claim deliveries and hand them on; False when consent is behind."""
        self._calls.name_templates(deliveries)
        claims = await persist("claims", partial(self._ledger.claim, deliveries, self._clock.monotonic()))
        if claims is None:
            return False
        await hit_async("sink.after_claim")
        by_uuid = {d.uuid: d for d in deliveries}
        for settled in claims.settled:
            delivery = by_uuid[settled.uuid]
            self._flight.take(delivery)
            self._settlement.report(settled, delivery)
        if claims.left:
            await persist("requests", partial(self._ledger.keep_requests, claims.left))
        for delivery in claims.left:
            self._flight.finish(delivery)
        for delivery in claims.claimed:
            self._calls.claimed(delivery)
        return True

    async def _decoded(self, raws: Sequence[tuple[Raw, Position]]) -> list[Delivery]:
        """Return the deliveries to claim: each once, none that is in hand already, none of a revoked partition."""
        today = self._clock.now().date()
        found: dict[str, Delivery] = {}
        for raw, position in raws:
            if not self._flight.offsets.holds(position):
                continue
            delivery = await self._delivery(raw, position)
            if delivery is None or delivery.delivery_id in found or delivery.delivery_id in self._flight:
                self._flight.offsets.finish(position)
                continue
            age_days = (today - delivery.day).days
            if age_days > DAYS_KEPT:
                self._flight.offsets.finish(position)  # settled and forgotten; sending it again would be wrong
            elif -age_days > DAYS_AHEAD:
                error = EventRefused("DeliveryRequested", "not_after", f"is more than {DAYS_AHEAD} days ahead")
                await self._refuse(raw, error)
                self._flight.offsets.finish(position)
            else:
                found[delivery.delivery_id] = delivery
        return list(found.values())

    async def _delivery(self, raw: Raw, position: Position) -> Delivery | None:
        attempt = 0
        while True:
            try:
                event = self._codec.decode(raw)
                return Delivery.of(event.value, raw.value or b"", position)
            except (CodecError, EventRefused) as error:
                await self._refuse(raw, error)
                return None
            except Unavailable as error:
                attempt += 1
                log.warning("decode: %s", error)
                await asyncio.sleep(min(5.0, 0.1 * 2**attempt))

    async def _refuse(self, raw: Raw, error: Exception) -> None:
        now = self._clock.now()
        await dead_letter(self._producer, self._topics, raw, error, attempts=1, first_at=now, last_at=now)

    async def commit(self) -> None:
        """Commit finished offsets, for ever."""
        assert self._consumer is not None
        while True:
            await asyncio.sleep(COMMIT_EVERY_S[self._lane])
            await self.commit_now()

    async def commit_now(self) -> None:
        """Commit what is finished now."""
        if not self._flight.offsets.committable():
            return
        async with self._turn:
            offsets = self._flight.offsets.committable()
            done = await asyncio.to_thread(self._commit, self._consumer, offsets)
            if done:
                self._flight.offsets.committed(offsets)
        if done:
            await hit_async("sink.after_commit")

    def _commit(self, consumer: Consumer | None, offsets: dict[int, int]) -> bool:
        """Commit; False when the group is rebalancing or Kafka does not answer: then it is tried again, or read again."""
        if not offsets or consumer is None:
            return False
        try:
            consumer.commit(offsets=[TopicPartition(self.topic, p, o) for p, o in offsets.items()], asynchronous=False)
        except KafkaException as error:
            log.warning("%s: offsets were not committed: %s", self.group, error.args[0].str())
            return False
        return True

    async def drain(self) -> None:
        """Wait for what is under way, commit, and leave the group."""
        await self._ended(None)
        await self.commit_now()
        if self._consumer is not None:
            async with self._turn:
                await asyncio.to_thread(self._consumer.close)
