"""The one way to write to Kafka: an idempotent librdkafka producer whose delivery reports are awaited.

Guarantee: `send` returns only when every record is acknowledged by all in-sync replicas; records of one producer keep
their order per partition. A record whose `send` raised may be in the log all the same.
"""

import asyncio
import functools
import logging
import threading
from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as _Client

from core.errors import SetupError, Unavailable
from runtime import metrics
from runtime.clock import Clock, SystemClock
from runtime.settings import Settings
from schemas.records import Record, Tombstone

MAX_MESSAGE_BYTES = 2_097_152
"""Largest record and request, as on the broker and in every consumer."""
DELIVERY_TIMEOUT_S = 30
"""How long librdkafka tries to deliver a record before it reports a failure."""
COMPRESSION = "zstd"
"""The Faust stages read it with aiokafka's codec library, cramjam, which the requirements therefore name."""
FIND_AGAIN_MS = 10_000
"""How long a client without any broker waits before it asks the bootstrap servers again (librdkafka's own: 300,000). A broker
that was slow for a moment is missing from the metadata, and a client that asked just then knows nobody any more."""
LINGER_MS = 2
"""Batching delay: records of one `send` share a request, and an alert does not wait."""
_POLL_S = 1.0
"""How often the poll thread looks whether it should stop; reports and errors wake it at once."""
_FULL_QUEUE_PAUSE_S = 0.01
EXIT_CODE = 70
"""Exit code of a process that ends because going on would lose an event."""

log = logging.getLogger(__name__)


class ProduceFailed(Unavailable):
    """Kafka did not acknowledge some records; they may or may not be in the log."""


class RecordRefused(ValueError):
    """A record that can never be written, such as one above 2 MB: a programming error."""


class _Batch:
    """Delivery reports of one send; `done` is called once, in the poll thread, when the last has come."""

    def __init__(self, size: int) -> None:
        self.offsets = [-1] * size
        self.waiting = size
        self.errors: list[KafkaError] = []
        self.done: functools.partial[None] | None = None

    def report(self, index: int, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.errors.append(error)
        else:
            self.offsets[index] = message.offset() or 0
        self.waiting -= 1
        if self.waiting == 0 and self.done is not None:
            self.done()

    def result(self, topic: str) -> list[int]:
        if not self.errors:
            return self.offsets
        first = self.errors[0]
        metrics.PRODUCE_FAILURES.labels(topic).inc(len(self.errors))
        if first.code() in (KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION):
            raise SetupError(f"topic {topic} (or that partition of it) does not exist: create the topics with `make schemas`.")
        if first.code() in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD):
            raise RecordRefused(f"{topic}: {first.str()}")
        raise ProduceFailed(f"{len(self.errors)} of {len(self.offsets)} records to {topic} were not acknowledged: {first.str()}")


class Producer:
    """Idempotent producer with its own poll thread; use it from one event loop, or through `send_sync`."""

    def __init__(self, settings: Settings, client_id: str, *, clock: Clock | None = None) -> None:
        """Connect lazily; nothing is written before the first send."""
        self.settings, self.client_id = settings, client_id
        self._clock: Clock = clock or SystemClock()
        self._fatal: KafkaError | None = None
        self._client = _Client(
            {
                "bootstrap.servers": settings.kafka_bootstrap_servers,
                "client.id": client_id,
                "enable.idempotence": True,
                "acks": "all",
                "compression.type": COMPRESSION,
                "partitioner": "murmur2_random",
                "linger.ms": LINGER_MS,
                "message.max.bytes": MAX_MESSAGE_BYTES,
                "delivery.timeout.ms": DELIVERY_TIMEOUT_S * 1000,
                "metadata.recovery.rebootstrap.trigger.ms": FIND_AGAIN_MS,
                "queue.buffering.max.messages": 100_000,
                "queue.buffering.max.kbytes": 65_536,
                "error_cb": self._on_error,
            },
            logger=logging.getLogger("runtime.librdkafka"),
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, name=f"producer-{client_id}", daemon=True)
        self._thread.start()

    def _poll(self) -> None:
        while not self._stopping.is_set():
            try:
                self._client.poll(_POLL_S)
            except Exception:  # of a callback; the reports after it are waited for all the same
                log.exception("a delivery report could not be handed over")
                self._stopping.wait(_FULL_QUEUE_PAUSE_S)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error
            log.error("the producer failed for good: %s", error.str())
        else:
            log.warning("producer: %s", error.str())

    def _enqueue(self, record: Record | Tombstone, batch: _Batch, index: int) -> bool:
        """Return False when the queue is full; nothing was enqueued then."""
        if self._fatal is not None:
            raise RuntimeError(f"the producer failed for good: {self._fatal.str()}")
        assert record.partition is not None, f"a record to {record.topic} without a partition"
        try:
            self._client.produce(
                record.topic,
                value=record.value,
                key=record.key,
                headers=list(record.headers),
                partition=record.partition,
                on_delivery=functools.partial(batch.report, index),
            )
        except BufferError:
            return False
        except KafkaException as error:
            batch.report(index, error.args[0], None)
        return True

    async def send(self, records: Sequence[Record]) -> list[int]:
        """Return the offsets in order once every record is acknowledged; ProduceFailed, RecordRefused or SetupError."""
        if not records:
            return []
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        batch = _Batch(len(records))
        batch.done = functools.partial(_resolve, loop, future)
        began = self._clock.monotonic()
        for index, record in enumerate(records):
            while not self._enqueue(record, batch, index):  # noqa: ASYNC110 - librdkafka signals no room
                await asyncio.sleep(_FULL_QUEUE_PAUSE_S)
        await future
        topic = records[0].topic
        offsets = batch.result(topic)
        metrics.PRODUCED.labels(topic).inc(len(records))
        metrics.PRODUCE_SECONDS.observe(self._clock.monotonic() - began)
        return offsets

    def send_sync(self, records: Sequence[Record | Tombstone], timeout_s: float = DELIVERY_TIMEOUT_S) -> list[int]:
        """Do the same from a thread without an event loop; ProduceFailed also when `timeout_s` has passed."""
        if not records:
            return []
        done = threading.Event()
        batch = _Batch(len(records))
        batch.done = functools.partial(done.set)
        deadline = self._clock.monotonic() + timeout_s
        for index, record in enumerate(records):
            while not self._enqueue(record, batch, index):
                if self._clock.monotonic() > deadline:
                    raise ProduceFailed(f"the producer's queue is full: Kafka has acknowledged nothing for {timeout_s:g} s")
                self._stopping.wait(_FULL_QUEUE_PAUSE_S)
        if not done.wait(max(0.0, deadline - self._clock.monotonic())):
            raise ProduceFailed(f"Kafka did not acknowledge {len(records)} records to {records[0].topic} within {timeout_s:g} s")
        metrics.PRODUCED.labels(records[0].topic).inc(len(records))
        return batch.result(records[0].topic)

    def close(self) -> None:
        """Wait up to 5 s for what is under way, then let the thread end; reports that come later are lost."""
        self._client.flush(5)
        self._stopping.set()


def _resolve(loop: asyncio.AbstractEventLoop, future: "asyncio.Future[None]") -> None:
    def settle() -> None:
        if not future.done():
            future.set_result(None)

    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)
