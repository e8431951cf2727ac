"""After the call: outcomes into the ledger, then their events into delivery-status, then the note that they are reported.

Consumes (delivery, outcome) pairs; produces delivery-status. Order: as they end. Guarantees: an outcome is durable before
its event is produced, its event acknowledged before it counts as reported, and only then is the record's offset finished.
The event's ce_id is made of delivery, state and attempt, so that reporting twice is the same event twice.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from core.errors import KeyDestroyed, Unavailable
from core.flow.retries import SCHEDULES, long_wait_s
from core.ids import event_id
from core.outcomes import EVENT_OF_STATE, RETRY_STATE, Dead, Outcome, Retry, Sent, Skipped, Unknown, reason_of, state_of
from runtime import metrics
from runtime.clock import Clock
from runtime.failpoints import hit_async
from runtime.keys import KeyStore, hashed_receipt
from runtime.producer import Producer
from runtime.retry import backoff
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.records import Record
from schemas.topics import Topics
from sinks.delivery import Delivery
from sinks.flight import Flight
from sinks.ledger import Ledger, Result, Settled

BATCH: Final = 500
"""Most outcomes in one statement or one produce."""
OUTCOME_LINGER_S: Final = {"urgent": 0.0, "bulk": 0.1}
REPORT_LINGER_S: Final = {"urgent": 0.0, "bulk": 0.5}
"""How long an outcome, and then its report, waits for others: single calls end one by one, and a statement and a request to
Kafka for each of them would cost as much as the calls. An alert's wait for nothing."""
LOOKS: Final = 5
"""How often it is looked meanwhile whether a whole batch has come together."""
RELEASED: Final = "released"
"""Reason of a Retry for a claim that is given back without a call; it is due at once."""

if TYPE_CHECKING:
    from sinks.endpoints import Endpoints

log = logging.getLogger(__name__)
T = TypeVar("T")


async def gather(queue: "asyncio.Queue[T]", limit: int, linger_s: float = 0.0) -> list[T]:
    """Wait for one item, then at most `linger_s` for more of them; return at most `limit`."""
    items = [await queue.get()]
    for _ in range(LOOKS if linger_s else 0):
        if len(items) + queue.qsize() >= limit:
            break
        await asyncio.sleep(linger_s / LOOKS)
    while len(items) < limit and not queue.empty():
        items.append(queue.get_nowait())
    return items


async def persist(what: str, step: Callable[[], Awaitable[T]]) -> T:
    """Do a step again, with backoff, until the dependency answers; every step here may be done again."""
    attempt = 0
    while True:
        try:
            return await step()
        except Unavailable as error:
            attempt += 1
            log.warning("%s: %s", what, error)
            await asyncio.sleep(backoff(attempt))


def status_record(codec: Codec, topics: Topics, settled: Settled, *, channel: str, lane: str) -> Record:
    """Return the event of delivery-status for a state of the ledger; the same state gives the same event."""
    delivery_id = settled.delivery_id
    value = {
        "delivery_id": delivery_id,
        "subscriber_id": settled.subscriber_id,
        "source_id": settled.source_id,
        "source_kind": settled.source_kind,
        "channel": channel,
        "lane": lane,
        "reason": settled.reason,
        "provider_receipt_hash": settled.receipt_hash,
        "attempt": settled.attempt,
        "template": settled.template,
        "occurred_at": settled.outcome_at,
    }
    return codec.encode(
        topics.delivery_status,
        EVENT_OF_STATE[settled.state],
        value,
        key=settled.subscriber_id,
        time=settled.outcome_at,
        id=event_id(delivery_id, settled.state, str(settled.attempt)),
        source=f"/newswire/sinks/{channel}",
        correlation_id=settled.source_id,
        causation_id=delivery_id,
    )


class Settlement:
    """The last steps of one sink process."""

    def __init__(
        self, settings: Settings, ledger: Ledger, keys: KeyStore, codec: Codec, topics: Topics, producer: Producer,
        flight: Flight, clock: Clock, *, channel: str, lane: str, endpoints: "Endpoints | None" = None,
    ) -> None:  # fmt: skip
        settings.require("receipt_key")
        self._endpoints = endpoints
        self._receipt_key = bytes.fromhex(settings.receipt_key)
        self._ledger, self._keys, self._codec, self._topics, self._producer = ledger, keys, codec, topics, producer
        self._flight, self._clock, self._channel, self._lane = flight, clock, channel, lane
        self._schedule = SCHEDULES[channel, lane]
        self._outcomes: asyncio.Queue[tuple[Delivery, Outcome]] = asyncio.Queue()
        self._reports: asyncio.Queue[tuple[Settled, Delivery | None]] = asyncio.Queue()
        # neither queue needs a bound of its own: what is in them is in hand, and that is bounded by the window

    def outcome(self, delivery: Delivery, outcome: Outcome) -> None:
        """Take what a delivery came to."""
        metrics.OUTCOMES.labels(
            f"{self._channel}-{self._lane}", self._channel, type(outcome).__name__.lower(), reason_of(outcome) or ""
        ).inc()
        self._outcomes.put_nowait((delivery, outcome))

    def report(self, settled: Settled, delivery: Delivery | None) -> None:
        """Take a state of the ledger to be reported, with the delivery in hand that it ends."""
        self._reports.put_nowait((settled, delivery))

    async def write_outcomes(self) -> None:
        """Write outcomes to the ledger, for ever."""
        while True:
            pairs = await gather(self._outcomes, BATCH, OUTCOME_LINGER_S[self._lane])
            receipts = await persist("receipts", partial(asyncio.to_thread, self._encrypted, pairs))
            results = [self._result(d, outcome, receipt) for (d, outcome), receipt in zip(pairs, receipts, strict=True)]
            settled = await persist("outcomes", partial(self._ledger.write_outcomes, results))
            await hit_async("sink.after_outcome")
            ended = {s.uuid: s for s in settled}
            for delivery, _ in pairs:
                if delivery.uuid in ended:
                    self.report(ended[delivery.uuid], delivery)
                else:
                    self._flight.finish(delivery)  # parked, or overtaken: the sweeper sees to it

    def _encrypted(self, pairs: Sequence[tuple[Delivery, Outcome]]) -> list[bytes | None]:
        """Return the providers' receipts, encrypted; in a thread, because keys may have to be fetched."""
        sent = [d.subscriber_id for d, outcome in pairs if isinstance(outcome, Sent)]
        self._keys.prefetch(sent)
        return [self._sealed(d, outcome.receipt) if isinstance(outcome, Sent) else None for d, outcome in pairs]

    def _sealed(self, delivery: Delivery, receipt: str) -> bytes | None:
        try:
            return self._keys.encrypt(delivery.subscriber_id, "receipt", receipt.encode())
        except KeyDestroyed:
            return None  # erased since the call; the hash stays

    def _result(self, delivery: Delivery, outcome: Outcome, receipt: bytes | None) -> Result:
        uncalled = not delivery.called
        if isinstance(outcome, Retry):
            # without a call the wait is exact: nothing was refused, and who gave it knows when it may go
            after_s = outcome.after_s
            if not uncalled:
                after_s = long_wait_s(self._schedule, delivery.rounds + 1, outcome.after_s, random.uniform)
            if after_s < (delivery.not_after - self._clock.now()).total_seconds():
                return Result(delivery, RETRY_STATE, outcome.reason, after_s=after_s, uncalled=uncalled)
            outcome = Dead("attempts_exhausted") if delivery.attempt > int(uncalled) else Skipped("expired")
        if isinstance(outcome, Sent):
            return Result(delivery, state_of(outcome), None, self._hash(outcome.receipt), receipt)
        if delivery.in_doubt and not isinstance(outcome, Unknown):
            # this attempt did not arrive, an earlier one may have: only "unknown" is true of the delivery. It counts as an
            # attempt even without a call, so that its report is not taken for the one before.
            delivery.refused = reason_of(outcome)
            doubt = Unknown("may_have_arrived")
            return Result(delivery, state_of(doubt), doubt.reason, refused=f"{state_of(outcome)}/{delivery.refused}")
        return Result(delivery, state_of(outcome), reason_of(outcome), uncalled=uncalled)

    def _hash(self, receipt: str) -> bytes:
        return hashed_receipt(self._receipt_key, self._channel, receipt)

    async def report_outcomes(self) -> None:
        """Produce the events of outcomes and note that they are reported, for ever."""
        while True:
            pairs = await gather(self._reports, BATCH, REPORT_LINGER_S[self._lane])
            settled = [s for s, _ in pairs]
            await persist("delivery-status", partial(self._produce, pairs))
            await hit_async("sink.after_status")
            await persist("reported", partial(self._ledger.mark_reported, settled))
            await hit_async("sink.after_reported")
            for _, delivery in pairs:
                if delivery is not None:
                    self._flight.finish(delivery)

    async def _produce(self, pairs: Sequence[tuple[Settled, Delivery | None]]) -> None:
        records = [status_record(self._codec, self._topics, s, channel=self._channel, lane=self._lane) for s, _ in pairs]
        if self._endpoints is not None:
            records += self._endpoints.gone(pairs)
        await self._producer.send(records)
