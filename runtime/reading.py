"""Reading Kafka with librdkafka: consumers, offsets, ranges, single records, and the first offsets of a group.

Every consumer reads committed records only, commits nothing by itself, and takes records of up to 2 MB.
"""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from core.errors import SetupError, Unavailable
from runtime.clock import Clock, SystemClock
from runtime.producer import FIND_AGAIN_MS, MAX_MESSAGE_BYTES
from runtime.settings import Settings
from schemas.records import Raw

TopicOffsets = dict[tuple[str, int], int]
"""(topic, partition) -> offset."""

REQUEST_TIMEOUT_S = 10.0
"""Longest wait for one answer of a broker to an administrative request."""
ASK_AGAIN_S = 3.0
"""How long a group's coordinator is waited for before a request is sent to it once more."""
_PASSING = (
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._RESOLVE,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.REQUEST_TIMED_OUT,
)
_GONE = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)

_librdkafka_log = logging.getLogger("runtime.librdkafka")
log = logging.getLogger(__name__)


def make_consumer(settings: Settings, group: str | None, **config: Any) -> Consumer:
    """Return a consumer; `config` takes librdkafka names with underscores for dots, such as auto_offset_reset="error".

    Without a group it is for `assign` only: it joins and commits nothing. Offsets are never committed by themselves.
    A missing or lost offset is an error unless `auto_offset_reset` says otherwise.
    """
    values: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "group.id": group or f"{settings.topic_prefix}.no-group",
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "fetch.wait.max.ms": 1000,  # what arrives is answered at once; an idle fetch costs the broker as much as a busy one
        "fetch.max.bytes": 8 * MAX_MESSAGE_BYTES,
        "max.partition.fetch.bytes": MAX_MESSAGE_BYTES,
        "message.max.bytes": MAX_MESSAGE_BYTES,
        "receive.message.max.bytes": 16 * MAX_MESSAGE_BYTES,
        "queued.max.messages.kbytes": 16_384,
        "fetch.queue.backoff.ms": 50,
        "fetch.error.backoff.ms": 100,
        "reconnect.backoff.max.ms": 2000,
        "metadata.recovery.rebootstrap.trigger.ms": FIND_AGAIN_MS,
    }
    values.update({name.replace("_", "."): value for name, value in config.items()})
    values["enable.auto.commit"] = False
    return Consumer(values, logger=_librdkafka_log)


def membership(settings: Settings, group: str) -> dict[str, Any]:
    """Return what `make_consumer` takes for a member that subscribes: how partitions are shared, how long it may be silent."""
    static = {"group_instance_id": f"{settings.instance_id}.{group}"} if settings.instance_id else {}
    timeout_ms = round(settings.session_timeout_s * 1000)
    return {
        "partition_assignment_strategy": "cooperative-sticky",
        "session_timeout_ms": timeout_ms,
        "heartbeat_interval_ms": timeout_ms // 5,
        **static,
    }


def to_raw(message: Message) -> Raw:
    """Return a consumed record as plain data; the message must carry no error."""
    assert message.error() is None
    return Raw(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        key=message.key(),
        value=message.value(),
        headers=tuple((name, value or b"") for name, value in message.headers() or ()),
        timestamp_ms=message.timestamp()[1],
    )


def admin_client(settings: Settings) -> AdminClient:
    """Return a client for administrative requests; it connects lazily."""
    values = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "reconnect.backoff.max.ms": 2000,
        "metadata.recovery.rebootstrap.trigger.ms": FIND_AGAIN_MS,
    }
    return AdminClient(values, logger=_librdkafka_log)


def partitions_of(
    admin: "AdminClient | Consumer", topics: Collection[str], timeout_s: float = REQUEST_TIMEOUT_S
) -> list[tuple[str, int]]:
    """Return every (topic, partition) of these topics; SetupError when one is missing, Unavailable without a broker."""
    try:
        found = admin.list_topics(timeout=timeout_s).topics
    except KafkaException as error:
        raise _unavailable(error) from error
    missing = [t for t in topics if t not in found or found[t].error is not None]
    if missing:
        raise SetupError(f"topic {missing[0]} does not exist: create the topics with `make schemas`.")
    return [(topic, partition) for topic in topics for partition in sorted(found[topic].partitions)]


def offsets_of(
    admin: AdminClient, partitions: Collection[tuple[str, int]], spec: OffsetSpec, timeout_s: float = REQUEST_TIMEOUT_S
) -> TopicOffsets:
    """Return the offsets that `spec` names, with one request; Unavailable when a broker does not answer in time."""
    asked = {TopicPartition(topic, partition): spec for topic, partition in partitions}
    if not asked:
        return {}
    try:
        futures = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=timeout_s)
        return {(tp.topic, tp.partition): future.result(timeout_s + 1).offset for tp, future in futures.items()}
    except KafkaException as error:
        partitions_of(admin, [], timeout_s)  # all metadata anew: else librdkafka asks a restarted broker in vain for minutes
        raise _unavailable(error) from error
    except TimeoutError as error:
        raise _unavailable(error) from error


def end_offsets(
    admin: AdminClient, partitions: Collection[tuple[str, int]], timeout_s: float = REQUEST_TIMEOUT_S
) -> TopicOffsets:
    """Return the next offset to be written of each partition (read committed), with one request."""
    return offsets_of(admin, partitions, OffsetSpec.latest(), timeout_s)


def start_offsets(
    admin: AdminClient, partitions: Collection[tuple[str, int]], timeout_s: float = REQUEST_TIMEOUT_S
) -> TopicOffsets:
    """Return the first offset that is still kept of each partition, with one request."""
    return offsets_of(admin, partitions, OffsetSpec.earliest(), timeout_s)


def assign(consumer: Consumer, positions: Mapping[tuple[str, int], int]) -> None:
    """Let a groupless consumer read these partitions from these offsets."""
    consumer.assign([TopicPartition(topic, partition, offset) for (topic, partition), offset in positions.items()])


def take(consumer: Consumer, timeout_s: float, at_most: int = 500) -> list[Message]:
    """Return what has arrived, waiting only for the first (`Consumer.consume` alone waits until it has them all)."""
    first = consumer.poll(timeout_s)
    return [] if first is None else [first, *consumer.consume(at_most - 1, timeout=0)]


def _unavailable(error: BaseException) -> Unavailable:
    detail = error.args[0].str() if error.args and isinstance(error.args[0], KafkaError) else str(error) or type(error).__name__
    return Unavailable(f"Kafka does not answer: {detail}")


def is_passing(error: KafkaError) -> bool:
    """Return whether librdkafka goes on by itself after this error."""
    return bool(error.retriable()) or error.code() in _PASSING


def read_range(
    settings: Settings,
    positions: Mapping[tuple[str, int], int],
    ends: Mapping[tuple[str, int], int],
    *,
    stall_s: float = 30.0,
    clock: Clock | None = None,
) -> Iterator[Raw]:
    """Yield the records of each partition from its position up to, not including, its end; in order per partition.

    A position whose record is gone (retention) goes on at the first that is kept. Unavailable when nothing arrives for
    `stall_s`, although not everything was read. Blocks; for threads.
    """
    clock = clock or SystemClock()
    open_ = {tp for tp, position in positions.items() if position < ends[tp]}
    if not open_:
        return
    consumer = make_consumer(settings, None, auto_offset_reset="earliest", enable_partition_eof=True, fetch_wait_max_ms=50)
    try:
        assign(consumer, {tp: positions[tp] for tp in open_})
        last = clock.monotonic()
        while open_:
            messages = take(consumer, 0.2)
            if messages:
                last = clock.monotonic()
            elif clock.monotonic() - last > stall_s:
                raise Unavailable(f"Kafka sent nothing for {stall_s:g} s while {len(open_)} partitions were being read")
            for message in messages:
                tp = (message.topic() or "", message.partition() or 0)
                error, offset = message.error(), message.offset() or 0
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    if is_passing(error):
                        continue
                    raise KafkaException(error)
                if error is None and tp in open_ and offset < ends[tp]:
                    yield to_raw(message)
                if offset + (1 if error is None else 0) >= ends[tp]:
                    open_.discard(tp)
    finally:
        consumer.close()


def read_at(settings: Settings, topic: str, partition: int, offset: int, timeout_s: float = REQUEST_TIMEOUT_S) -> Raw | None:
    """Return the record at an offset, None when it is gone (or not written yet); Unavailable after `timeout_s`."""
    admin, tp = admin_client(settings), (topic, partition)
    if not start_offsets(admin, [tp], timeout_s)[tp] <= offset < end_offsets(admin, [tp], timeout_s)[tp]:
        return None
    for raw in read_range(settings, {tp: offset}, {tp: offset + 1}, stall_s=timeout_s):
        return raw if raw.offset == offset else None
    return None


def ensure_first_offsets(
    settings: Settings, group: str, topics: Collection[str], timeout_s: float = REQUEST_TIMEOUT_S, patience_s: float = 60.0
) -> int:
    """Commit the earliest offset wherever this group has none yet, and return for how many partitions.

    Does nothing when the group has members: only a new or stopped group is given offsets, because a running one that
    loses its offsets must stop and be looked at. SetupError when offsets are missing and cannot be set; Unavailable when
    Kafka has not answered a request within `timeout_s`, tried again for `patience_s`: a busy broker is no reason to end.
    """
    clock = SystemClock()
    until = clock.monotonic() + patience_s
    while True:
        try:
            return _ensure_first_offsets(settings, group, topics, timeout_s)
        except Unavailable as error:
            if clock.monotonic() > until:
                raise
            log.warning("%s waits for Kafka: %s", group, error)


def _ensure_first_offsets(settings: Settings, group: str, topics: Collection[str], timeout_s: float) -> int:
    admin = admin_client(settings)
    partitions = partitions_of(admin, topics, timeout_s)
    missing = _without_offset(admin, group, partitions, timeout_s)
    if not missing:
        return 0
    starts = start_offsets(admin, missing, timeout_s)
    wanted = [TopicPartition(topic, partition, offset) for (topic, partition), offset in starts.items()]
    try:
        request = partial(admin.alter_consumer_group_offsets, [ConsumerGroupTopicPartitions(group, wanted)])
        answer = from_coordinator(request, group, timeout_s)
        refused = next((tp.error for tp in answer.topic_partitions if tp.error is not None), None)
    except KafkaException as error:
        if is_passing(error.args[0]):
            raise _unavailable(error) from error
        refused = error.args[0]
    except TimeoutError as error:
        raise _unavailable(error) from error
    if refused is not None and _without_offset(admin, group, partitions, timeout_s):
        raise SetupError(
            f"group {group} has no offsets for {missing[0][0]} and Kafka refuses to set them ({refused.str()}): "
            "stop every process of the group, then start it again."
        )
    return len(missing)


def _without_offset(
    admin: AdminClient, group: str, partitions: Sequence[tuple[str, int]], timeout_s: float
) -> list[tuple[str, int]]:
    committed = committed_offsets(admin, group, timeout_s)
    return [tp for tp in partitions if tp not in committed]


def committed_offsets(admin: AdminClient, group: str, timeout_s: float = REQUEST_TIMEOUT_S) -> TopicOffsets:
    """Return what a group has committed, nothing for a group that does not exist; Unavailable when Kafka does not answer."""
    request = partial(admin.list_consumer_group_offsets, [ConsumerGroupTopicPartitions(group)])
    try:
        known = from_coordinator(request, group, timeout_s).topic_partitions
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return {}
        raise _unavailable(error) from error
    except TimeoutError as error:
        raise _unavailable(error) from error
    return {(tp.topic, tp.partition): tp.offset for tp in known if tp.offset >= 0}


def from_coordinator(request: Any, group: str, timeout_s: float) -> ConsumerGroupTopicPartitions:
    """Return a coordinator's answer to a request that may be repeated; it is sent again every `ASK_AGAIN_S`.

    librdkafka lets such a request wait for the next change of a broker's state when it did not find the coordinator at
    once; when that change came just before, it waits out its whole time-out beside a healthy broker (rdkafka_coord.c,
    "rely on state broadcast to trigger retry").
    """
    clock = SystemClock()
    deadline = clock.monotonic() + timeout_s
    while True:
        wait_s = max(0.1, min(ASK_AGAIN_S, deadline - clock.monotonic()))
        try:
            answer: ConsumerGroupTopicPartitions = request(request_timeout=wait_s)[group].result(wait_s + 1)
            return answer
        except (KafkaException, TimeoutError) as error:
            late = isinstance(error, TimeoutError) or error.args[0].code() == KafkaError._TIMED_OUT
            if not late or clock.monotonic() >= deadline:
                raise
