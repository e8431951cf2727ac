"""Tests of writing records from parts: the bytes and the refusals are those of the codec."""

from datetime import timedelta
from io import BytesIO
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from hypothesis import given
from hypothesis import strategies as st

from core.errors import PlaintextRefused, WrongPartition, WrongType
from schemas.assembling import Fields, real, whole
from schemas.codec import Clear, Codec, FileSource
from schemas.partition import partition_for
from schemas.topics import Topics
from tests.unit.codec_samples import NOW, OTHER, SUBSCRIBER

TOPICS = Topics()
CODEC = Codec(TOPICS, FileSource(TOPICS))
TOPIC, NAME = TOPICS.deliveries("email", "bulk"), "DeliveryRequested"
SEALED = b"\x01" + bytes(60)
SHARED: dict[str, Any] = {
    "source_id": "daily@2026-11-22T09:00Z",
    "source_kind": "newsletter",
    "lane": "bulk",
    "priority": "normal",
    "newsletter_id": "daily",
    "newsletter_revision": 3,
    "alert_partition": None,
    "alert_offset": None,
    "not_after": NOW + timedelta(days=1),
    "decided_at": NOW,
    "decision_partition": 7,
    "decision_offset": 2**40,
}
OWN: dict[str, Any] = {
    "delivery_id": "20261123-5b1cbb1e-6a4d-5e7b-8f3a-2b9d0c1e4f60",
    "subscriber_id": SUBSCRIBER,
    "cause_id": "5b1cbb1e-6a4d-5e7b-8f3a-2b9d0c1e4f61",
    "channel": "email",
    "issue_group": "2026-11-22T09:00",
    "address": SEALED,
    "language": "zh-Hant-Übung",
    "variant": None,
    "subject": "{title} – Übersicht",
    "template": "newsletter",
    "items": [],
}
COMMON: dict[str, Any] = {"time": NOW, "source": "/test", "correlation_id": "c"}
PARTITION = partition_for(SUBSCRIBER.encode(), TOPICS.shards)


def written(avro: Any, value: Any) -> bytes:
    buffer = BytesIO()
    schemaless_writer(buffer, parse_schema(avro), value)
    return buffer.getvalue()


@given(st.integers(-(2**63), 2**63 - 1))
def test_whole_numbers_are_written_as_avro_does(number: int):
    """Of any size that a long has."""
    assert whole(number) == written("long", number)


@given(st.floats(width=32, allow_nan=False))
def test_floats_are_written_as_avro_does(number: float):
    """Of any size that a float has."""
    assert schemaless_reader(BytesIO(real(number)), "float", None) == number


@pytest.mark.parametrize("changes", [{}, {"variant": "b", "issue_group": None}, {"address": b"\x01" + bytes(300)}])
def test_a_record_is_that_of_the_codec(changes: dict[str, Any]):
    """Bytes, headers, key and partition; also the second time, when parts are remembered."""
    assembler = CODEC.assembler(TOPIC, NAME, SHARED, partition=PARTITION, **COMMON)
    own = OWN | changes
    ids = {"key": own["subscriber_id"], "id": own["delivery_id"]}
    whole_record = CODEC.encode(TOPIC, NAME, SHARED | own, partition=PARTITION, **ids, **COMMON)
    for _ in range(2):
        assert assembler.record(own, {"items": b"\0"}, **ids) == whole_record


def test_fields_can_be_given_as_bytes():
    """Which is what fan-out does with the items."""
    fields = Fields({"fields": [{"name": "n", "type": ["null", "int"]}, {"name": "t", "type": "string"}]})
    assert fields.encode("n", None) + fields.encode("t", "é") == b"\0\4\xc3\xa9"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"address": b"reader@example.org, in the clear, which must not be"}, PlaintextRefused),
        ({"address": "text"}, WrongType),
        ({"language": Clear("en")}, WrongType),
        ({"language": None}, WrongType),
        ({"issue_group": 7}, WrongType),
        ({"subscriber_id": OTHER}, WrongPartition),
    ],
)
def test_refuses_what_the_codec_refuses(changes: dict[str, Any], error: type[Exception]):
    """A value that is no such field, personal data that is not encrypted, a key that is another's."""
    assembler = CODEC.assembler(TOPIC, NAME, SHARED, partition=PARTITION, **COMMON)
    with pytest.raises(error):
        assembler.record(OWN | changes, {"items": b"\0"}, key=SUBSCRIBER, id="d")


def test_refuses_a_key_of_another_partition():
    """A record in the wrong partition would be handled beside its subscriber's order."""
    assembler = CODEC.assembler(TOPIC, NAME, SHARED, partition=(PARTITION + 1) % TOPICS.shards, **COMMON)
    with pytest.raises(WrongPartition):
        assembler.record(OWN, {"items": b"\0"}, key=SUBSCRIBER, id="d")


def test_refuses_shared_fields_that_do_not_fit():
    """Before any record is made."""
    for changes in ({"decision_offset": "7"}, {"lane": 7}, {"decided_at": NOW.replace(tzinfo=None)}):
        with pytest.raises(WrongType):
            CODEC.assembler(TOPIC, NAME, SHARED | changes, partition=PARTITION, **COMMON)
