"""The codec: wire format, headers, places and the typed errors of everything that is none of it."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from core.errors import (
    BadHeaders,
    TrailingBytes,
    Truncated,
    Unavailable,
    UnknownSchema,
    WrongPartition,
    WrongTopic,
    WrongType,
)
from core.ids import tick_id
from schemas import files
from schemas.codec import Codec, FileSource
from schemas.partition import partition_for
from schemas.records import Raw
from schemas.topics import Topics
from tests.unit.codec_samples import NOW, OTHER, SUBSCRIBER, consumed, make_codec, sent


@pytest.fixture
def topics() -> Topics:
    return Topics()


@pytest.fixture
def codec(topics: Topics) -> Codec:
    return Codec(topics, FileSource(topics))


@pytest.fixture
def raw(topics: Topics, codec: Codec) -> Callable[..., Raw]:
    record = codec.encode(topics.delivery_status, "DeliverySent", sent(), key=SUBSCRIBER, time=NOW, id="id-1", causation_id="c-1")
    return lambda **changes: consumed(record, **changes)


def without(raw: Raw, *names: str) -> tuple[tuple[str, bytes], ...]:
    return tuple(header for header in raw.headers if header[0] not in names)


def test_value_is_confluent_wire_format(raw: Callable[..., Raw], topics: Topics) -> None:
    """A zero byte and the schema's id in four bytes stand before the record."""
    value = raw().value
    assert value is not None
    assert value[0] == 0
    assert int.from_bytes(value[1:5], "big") == FileSource(topics).id_of(topics.delivery_status, "DeliverySent")


def test_round_trip_gives_value_place_and_context_back(raw: Callable[..., Raw], codec: Codec) -> None:
    """Everything that was encoded is in the decoded event."""
    event = codec.decode(raw())
    assert (event.name, event.value, event.key) == ("DeliverySent", sent(), SUBSCRIBER)
    assert (event.id, event.source, event.time) == ("id-1", "/newswire", NOW)
    assert (event.partition, event.offset, event.causation_id, event.correlation_id) == (raw().partition, 41, "c-1", None)


def test_headers_are_cloudevents_in_binary_mode(raw: Callable[..., Raw]) -> None:
    """The attributes of CloudEvents 1.0 stand in headers with the prefix ce_."""
    headers = dict(raw().headers)
    assert headers["ce_specversion"] == b"1.0"
    assert headers["ce_type"] == b"newswire.DeliverySent"
    assert headers["ce_subject"] == SUBSCRIBER.encode()
    assert headers["content-type"] == b"application/avro"
    assert datetime.fromisoformat(headers["ce_time"].decode()) == NOW


def test_headers_that_upstream_left_out_are_filled_from_the_record(raw: Callable[..., Raw], codec: Codec) -> None:
    """Id from the position, source from the topic, time from the broker."""
    event = codec.decode(raw(headers=()))
    assert event.id == f"newswire.delivery-status/{raw().partition}/41"
    assert event.source == "/newswire.delivery-status"
    assert event.time == datetime(2026, 11, 22, 9, 30, tzinfo=UTC)


def test_ids_are_random_unless_given(topics: Topics, codec: Codec) -> None:
    """Two records of the same value have different ids."""
    one, two = (codec.encode(topics.delivery_status, "DeliverySent", sent(), key=SUBSCRIBER, time=NOW) for _ in range(2))
    assert dict(one.headers)["ce_id"] != dict(two.headers)["ce_id"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("ce_type", b"newswire.DeliveryFailed"),
        ("ce_subject", OTHER.encode()),
        ("ce_time", b"yesterday"),
        ("ce_time", b"2026-11-22T09:30:00"),
        ("ce_id", b"\xff\xfe"),
        ("traceparent", b"\xff"),
    ],
)
def test_contradicting_or_unreadable_headers_are_refused(raw: Callable[..., Raw], codec: Codec, name: str, data: bytes) -> None:
    """A header that says something else than the value makes the record a dead letter."""
    with pytest.raises(BadHeaders):
        codec.decode(raw(headers=(*without(raw(), name), (name, data))))


def test_header_without_a_value_counts_as_left_out(raw: Callable[..., Raw], codec: Codec) -> None:
    """Kafka allows null headers."""
    assert codec.decode(raw(headers=(("ce_id", None), *without(raw(), "ce_id")))).id.endswith("/41")


def test_every_shorter_value_is_truncated(raw: Callable[..., Raw], codec: Codec) -> None:
    """No prefix of a record is taken for a record."""
    value = raw().value
    assert value is not None
    for length in range(len(value)):
        with pytest.raises(Truncated):
            codec.decode(raw(value=value[:length]))


@pytest.mark.parametrize("value", [None, b"", b"\0\0\0", b'{"title": "json"}', b"\1\0\0\0\1abc"])
def test_what_is_no_wire_format_is_truncated(raw: Callable[..., Raw], codec: Codec, value: bytes | None) -> None:
    """Tombstones, JSON and other framings are none of it."""
    with pytest.raises(Truncated):
        codec.decode(raw(value=value))


def test_a_tombstone_is_one_where_only_the_newest_of_a_key_counts(raw: Callable[..., Raw], codec: Codec, topics: Topics) -> None:
    """In a topic that keeps everything it is a record that is none."""
    gone = raw()._replace(topic=topics.models, value=None)
    assert codec.is_tombstone(gone)
    assert not codec.is_tombstone(gone._replace(value=b""))
    assert not codec.is_tombstone(raw(value=None))


def test_trailing_bytes_are_refused(raw: Callable[..., Raw], codec: Codec) -> None:
    """fastavro alone would ignore them."""
    with pytest.raises(TrailingBytes, match="3 bytes"):
        codec.decode(raw(value=(raw().value or b"") + b"\0\0\0"))


def test_unknown_schema_id_is_refused(raw: Callable[..., Raw], codec: Codec) -> None:
    """The id is not in the registry."""
    with pytest.raises(UnknownSchema):
        codec.decode(raw(value=b"\0\x7f\xff\xff\xff" + (raw().value or b"")[5:]))


def test_text_that_is_no_utf8_is_refused(raw: Callable[..., Raw], codec: Codec) -> None:
    """The bytes have the right lengths but are no text."""
    value = (raw().value or b"").replace(b"daily", b"\xff\xfe\xff\xfe\xff")
    with pytest.raises(WrongType):
        codec.decode(raw(value=value))


def test_event_of_another_topic_is_refused(raw: Callable[..., Raw], codec: Codec, topics: Topics) -> None:
    """Both sides check that the topic holds such events."""
    with pytest.raises(WrongTopic):
        codec.decode(raw(topic=topics.subscribers))
    with pytest.raises(WrongTopic):
        codec.encode(topics.subscribers, "DeliverySent", sent(), key=SUBSCRIBER, time=NOW)
    with pytest.raises(WrongTopic):
        codec.encode("elsewhere", "DeliverySent", sent(), key=SUBSCRIBER, time=NOW)


def test_key_in_the_wrong_partition_is_refused_with_what_to_do(raw: Callable[..., Raw], codec: Codec) -> None:
    """librdkafka's default partitioner is the usual cause."""
    wrong = (partition_for(SUBSCRIBER.encode(), 12) + 1) % 12
    with pytest.raises(WrongPartition, match="set partitioner=murmur2_random"):
        codec.decode(raw(partition=wrong))


@pytest.mark.parametrize("key", [None, b"\xff\xfe", OTHER.encode(), SUBSCRIBER.upper().encode()])
def test_key_that_is_not_the_records_own_is_refused(raw: Callable[..., Raw], codec: Codec, key: bytes | None) -> None:
    """Key and record name the same aggregate."""
    with pytest.raises(WrongPartition):
        codec.decode(raw(key=key))


def test_shard_in_the_record_is_the_partition(topics: Topics, codec: Codec) -> None:
    """On audience and decisions the partition is explicit."""
    value = {"shard": 3, "shards": 12, "publication_id": OTHER, "reason": "retracted", "withdrawn_at": NOW}
    record = codec.encode(topics.audience_newsletters, "ContentWithdrawn", value, key="3", time=NOW)
    assert record.partition == 3
    assert codec.decode(consumed(record)).value == value
    with pytest.raises(WrongPartition):
        codec.decode(consumed(record, partition=4))
    with pytest.raises(WrongPartition):
        codec.encode(topics.audience_newsletters, "ContentWithdrawn", value, key="3", time=NOW, partition=4)
    with pytest.raises(WrongPartition):
        codec.encode(topics.audience_newsletters, "ContentWithdrawn", value, key="4", time=NOW)


def test_tick_is_keyed_by_its_minute(topics: Topics, codec: Codec) -> None:
    """The key is the minute's text, and must be."""
    minute = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
    value = {"tick_id": tick_id(minute, None), "minute": minute}
    record = codec.encode(topics.ticks, "Tick", value, key="2026-11-22T09:00Z", time=minute)
    assert codec.decode(consumed(record)).key == "2026-11-22T09:00Z"
    with pytest.raises(WrongPartition):
        codec.encode(topics.ticks, "Tick", value, key="2026-11-22T09:01Z", time=minute)


@pytest.mark.parametrize(
    "changes",
    [
        {"attempt": 2**31},
        {"attempt": 1.5},
        {"attempt": True},
        {"attempt": "1"},
        {"attempt": None},
        {"channel": b"email"},
        {"channel": 5},
        {"reason": 5},
        {"provider_receipt_hash": "text"},
        {"occurred_at": datetime(2026, 11, 22, 9, 30)},  # noqa: DTZ001
        {"occurred_at": 1_795_339_800_000},
        {"surplus": 1},
    ],
)
def test_value_of_another_type_names_its_field(topics: Topics, codec: Codec, changes: dict[str, Any]) -> None:
    """fastavro alone would cut 1.5 to 1, write 2**31 and take a naive instant for local time."""
    with pytest.raises(WrongType, match=rf"DeliverySent\.{next(iter(changes))}\b"):
        codec.encode(topics.delivery_status, "DeliverySent", sent(**changes), key=SUBSCRIBER, time=NOW)


def test_missing_field_is_named_and_a_default_is_filled_in(topics: Topics, codec: Codec) -> None:
    """Only fields with a default may be left out."""
    value = sent()
    del value["reason"]
    record = codec.encode(topics.delivery_status, "DeliverySent", value, key=SUBSCRIBER, time=NOW)
    assert codec.decode(consumed(record)).value["reason"] is None
    del value["attempt"]
    with pytest.raises(WrongType, match=r"DeliverySent\.attempt: is missing"):
        codec.encode(topics.delivery_status, "DeliverySent", value, key=SUBSCRIBER, time=NOW)


def test_error_message_holds_no_value(topics: Topics) -> None:
    """A value may be personal, and messages reach logs and dead letters."""
    topics, codec = make_codec()
    value = {"subscriber_id": SUBSCRIBER, "channel": "email", "address": b"canary@example.org", "linked_at": "canary"}
    with pytest.raises(Exception) as refusal:  # noqa: PT011
        codec.encode(topics.subscribers, "ChannelLinked", value, key=SUBSCRIBER, time=NOW)
    assert "canary" not in str(refusal.value)
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None


def test_instants_of_every_zone_are_the_same_instant(topics: Topics, codec: Codec) -> None:
    """Offsets are turned into UTC, parts of a millisecond are dropped."""
    local = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    record = codec.encode(topics.delivery_status, "DeliverySent", sent(occurred_at=local), key=SUBSCRIBER, time=local)
    event = codec.decode(consumed(record))
    assert event.value["occurred_at"] == event.time == NOW
    assert event.time.utcoffset() == timedelta(0)


class _Registry:
    """A source with one writer's schema of our choosing."""

    def __init__(self, schema: dict[str, Any] | None) -> None:
        self.schema = schema

    def id_of(self, topic: str, event: str) -> int:
        return 1

    def schema_of(self, schema_id: int) -> dict[str, Any]:
        if self.schema is None:
            raise Unavailable("the registry is down")
        return self.schema


def _with(changed: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> dict[str, Any]:
    schema = json.loads(files.text("DeliverySent"))
    return {**schema, "fields": changed(schema["fields"])}


def test_older_writer_is_resolved_to_the_newest_version(topics: Topics, raw: Callable[..., Raw]) -> None:
    """A field that the writer did not know gets its default, one that we do not know is skipped."""
    older = _with(lambda fields: [field for field in fields if field["name"] != "provider_receipt_hash"])
    writer = Codec(topics, FileSource(topics))
    value = sent(provider_receipt_hash=None)
    body = writer.encode(topics.delivery_status, "DeliverySent", value, key=SUBSCRIBER, time=NOW)
    newer = _with(lambda fields: [*fields, {"name": "cost", "type": ["null", "int"], "default": None, "doc": "x"}])
    assert Codec(topics, _Registry(newer)).decode(consumed(body, value=body.value + b"\2\x0e")).value == value
    after_the_hash = body.value[-8:]
    assert body.value[-9:-8] == b"\0", "the hash's branch is null, one byte before attempt, template and occurred_at"
    cut = body.value[:-9] + after_the_hash
    assert Codec(topics, _Registry(older)).decode(consumed(body, value=cut)).value == value


def test_schema_that_is_none_is_refused_and_registry_that_is_down_is_not(topics: Topics, raw: Callable[..., Raw]) -> None:
    """Unavailable passes through: the record is fine."""
    with pytest.raises(WrongTopic):
        Codec(topics, _Registry({"type": "string"})).decode(raw())
    with pytest.raises(WrongTopic):
        Codec(topics, _Registry({**files.schema("DeliverySent"), "namespace": "elsewhere"})).decode(raw())
    with pytest.raises(UnknownSchema):
        Codec(topics, _Registry(_with(lambda fields: [{"name": "x", "type": "nonsense"}]))).decode(raw())
    with pytest.raises(UnknownSchema):
        Codec(topics, _Registry(_with(lambda fields: fields[:-1]))).decode(raw(value=(raw().value or b"")[:-6]))
    with pytest.raises(Unavailable):
        Codec(topics, _Registry(None)).decode(raw())


def test_value_alone_is_decoded_without_looking_at_key_and_headers(raw: Callable[..., Raw], codec: Codec) -> None:
    """The hot path of projections and sinks."""
    assert codec.decode_value(raw().topic, raw().value or b"") == ("DeliverySent", sent())
