"""Kafka's side of the engine: reading from stored offsets in bounded batches, and the consumer group's own offsets.

Partitions are assigned, not subscribed: PostgreSQL says where to read from and who may write. The group's offsets are
committed all the same, so that lag is visible and Kafka's tools can ask for a replay.
"""

import logging
from collections.abc import Collection, Mapping, Sequence

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from core.errors import SetupError, Unavailable
from projections.store import Offsets, Position
from runtime.clock import Clock, SystemClock
from runtime.kafka import admin_client, assign, end_offsets, is_passing, make_consumer, partitions_of, start_offsets, take, to_raw
from runtime.settings import Settings
from schemas.records import Raw

MAX_EVENTS = 1000
"""Events a batch: beyond it upserts gain nothing."""
MAX_BATCH_BYTES = 4_000_000
"""Bytes a batch: about five full decisions of 2,500 deliveries, so that a transaction stays below a second."""
LINGER_S = 0.2
"""How long a batch that is not full waits for more: five transactions a second when little happens."""
_TAKE = 100
"""Records a call: bounds the memory that fat records take beyond a batch."""
_QUEUE_KB = 4096
"""Records fetched ahead, a partition; 132 partitions are read at once."""
_FETCH = {"fetch_min_bytes": 65_536, "fetch_wait_max_ms": 500}
"""A fetch of 132 partitions costs more than a status: the broker lets some come together, as the batch does."""
_ANSWER_S = 10.0
"""Longest wait for the group's coordinator."""
_GONE = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)

log = logging.getLogger(__name__)


class Log:
    """The topics of one projection, and its consumer group."""

    def __init__(self, settings: Settings, group: str, topics: Sequence[str]) -> None:
        self.group, self._settings, self._topics = group, settings, topics
        self._admin = admin_client(settings)
        self._asking = make_consumer(settings, group)  # joins nothing

    def partitions(self) -> list[Position]:
        """Return every partition; SetupError when a topic is missing, Unavailable without a broker."""
        return partitions_of(self._admin, self._topics)

    def starts(self) -> Offsets:
        """Return the first offset that is still kept of each partition."""
        return start_offsets(self._admin, self.partitions())

    def ends(self) -> Offsets:
        """Return the next offset to be written of each partition."""
        return end_offsets(self._admin, self.partitions())

    def committed(self, positions: Collection[Position] | None = None) -> Offsets:
        """Return what the group has committed for these partitions (all by default); those without a commit are left out.

        A consumer is asked, not the admin client: after a broker's crash librdkafka's admin requests to a group's
        coordinator time out for ever, or abort the process (its issue 4605).
        """
        try:
            asked = self.partitions() if positions is None else positions
            found = self._asking.committed([TopicPartition(*place) for place in asked], timeout=_ANSWER_S)
        except KafkaException as error:
            raise Unavailable(f"Kafka does not tell the group's offsets: {error.args[0].str()}") from error
        refused = next((tp.error for tp in found if tp.error is not None), None)
        if refused is not None:
            raise Unavailable(f"Kafka does not tell the group's offsets: {refused.str()}")
        return {(tp.topic, tp.partition): tp.offset for tp in found if tp.offset >= 0}

    def read(self, offsets: Mapping[Position, int]) -> "Reader":
        """Return a reader from these offsets; it can also commit for the group."""
        return Reader(self._settings, self.group, offsets)


class Reader:
    """A consumer of given partitions from given offsets."""

    def __init__(self, settings: Settings, group: str, offsets: Mapping[Position, int], *, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._consumer = make_consumer(settings, group, queued_max_messages_kbytes=_QUEUE_KB, **_FETCH)
        self._waiting: list[Raw] = []
        self._waiting_bytes = 0
        assign(self._consumer, offsets)

    def batch(self, wait_s: float, linger_s: float = LINGER_S) -> list[Raw]:
        """Return what has arrived within `wait_s`, at most 1000 records and 4 MB (or one record that is larger).

        SetupError when records before a stored offset were deleted from the log; KafkaException on other lasting errors.
        """
        until = self._clock.monotonic() + wait_s
        while not self._full():
            left_s = max(0.0, until - self._clock.monotonic())
            before = len(self._waiting)
            for message in take(self._consumer, left_s, _TAKE):
                error = message.error()
                if error is None:
                    raw = to_raw(message)
                    self._waiting.append(raw)
                    self._waiting_bytes += len(raw.value or b"")
                elif error.code() in _GONE:
                    raise SetupError(
                        f"{message.topic()}/{message.partition()} no longer keeps what follows the stored offset: "
                        "run `newswire projections rebuild` for what reads it."
                    )
                elif not is_passing(error):
                    raise KafkaException(error)
            if before == 0 and self._waiting:
                until = self._clock.monotonic() + linger_s
            elif left_s == 0.0 and len(self._waiting) == before:
                break
        return self._cut()

    def _full(self) -> bool:
        return len(self._waiting) >= MAX_EVENTS or self._waiting_bytes >= MAX_BATCH_BYTES

    def _cut(self) -> list[Raw]:
        """Take as many records as a batch may have, at least one if there is any."""
        count = size_bytes = 0
        for raw in self._waiting[:MAX_EVENTS]:
            if count and size_bytes + len(raw.value or b"") > MAX_BATCH_BYTES:
                break
            size_bytes += len(raw.value or b"")
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        self._waiting_bytes -= size_bytes
        return taken

    def commit(self, offsets: Mapping[Position, int]) -> None:
        """Commit for the group and wait for the answer; Unavailable when it was not taken."""
        wanted = [TopicPartition(t, p, offset) for (t, p), offset in offsets.items()]
        try:
            answered = self._consumer.commit(offsets=wanted, asynchronous=False)
        except KafkaException as error:
            raise Unavailable(f"Kafka did not take the group's offsets: {error.args[0].str()}") from error
        refused = next((tp.error for tp in answered or () if tp.error is not None), None)
        if refused is not None:
            raise Unavailable(f"Kafka did not take the group's offsets: {refused.str()}")

    def close(self) -> None:
        """Leave the group and drop what was fetched."""
        self._consumer.close()
