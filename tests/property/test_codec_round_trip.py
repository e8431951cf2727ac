"""Whatever fits a schema comes back as it was, and no other bytes are taken for it."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import CodecError
from core.ids import minute_text
from schemas import files
from schemas.codec import Codec, FileSource
from schemas.documents import to_document, to_value
from schemas.topics import Topics
from tests.unit.codec_samples import NOW, FixedCipher, consumed

TOPICS = Topics()
CODEC = Codec(TOPICS, FileSource(TOPICS), FixedCipher())
ENVELOPE = st.binary(min_size=32, max_size=60).map(lambda data: b"\x01" + data)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
INSTANTS = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda instant: instant.replace(microsecond=instant.microsecond // 1000 * 1000)
)


def strategy(avro: Any, named: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return a strategy of values of an Avro type; named types are remembered at their definition."""
    if isinstance(avro, list):
        return st.one_of([strategy(branch, named) for branch in avro])
    if isinstance(avro, str):
        simple = {
            "null": st.none(),
            "boolean": st.booleans(),
            "string": TEXT,
            "bytes": st.binary(max_size=40),
            "int": st.integers(-(2**31), 2**31 - 1),
            "long": st.integers(-(2**63), 2**63 - 1),
            "float": st.floats(width=32, allow_nan=False, allow_infinity=False),
            "double": st.floats(allow_nan=False, allow_infinity=False),
        }
        return simple[avro] if avro in simple else named[avro]
    if avro.get("logicalType") == "timestamp-millis":
        return INSTANTS
    if avro["type"] == "array":
        return st.lists(strategy(avro["items"], named), max_size=3)
    if avro["type"] == "map":
        return st.dictionaries(TEXT, strategy(avro["values"], named), max_size=3)
    if avro["type"] == "fixed":
        named[avro["name"]] = st.binary(min_size=avro["size"], max_size=avro["size"])
    elif avro["type"] == "record":
        named[avro["name"]] = record(avro, named)
    else:
        return strategy(avro["type"], named)
    return named[avro["name"]]


def record(avro: dict[str, Any], named: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    fields = {}
    for field in avro["fields"]:
        plain = strategy(field["type"], named)
        nullable = isinstance(field["type"], list)
        fields[field["name"]] = plain if "encrypted" not in field else st.one_of(st.none(), ENVELOPE) if nullable else ENVELOPE
    return st.fixed_dictionaries(fields)


STRATEGIES = {event: strategy(files.schema(event), {}) for event in files.event_names()}


def placed(event: str, value: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Return topic, key and a value whose shard is a partition."""
    topic = TOPICS.topics_of(event)[0]
    spec = TOPICS.spec(topic)
    if "shard" in value:
        value = {**value, "shard": value["shard"] % spec.partitions}
    if spec.key_field is None:
        return topic, "key", value
    field = value[spec.key_field]
    return topic, minute_text(field) if isinstance(field, datetime) else str(field), value


@pytest.mark.parametrize("event", files.event_names())
def test_any_value_of_a_schema_comes_back(event: str) -> None:
    """Through bytes, and through JSON as people write it."""

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(STRATEGIES[event])
    def round_trip(value: dict[str, Any]) -> None:
        topic, key, value = placed(event, value)
        encoded = CODEC.encode(topic, event, value, key=key, time=NOW)
        assert CODEC.decode(consumed(encoded)).value == value
        assert to_value(event, to_document(event, value)) == value

    round_trip()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_bytes_are_an_event_or_a_codec_error(data: st.DataObject) -> None:
    """No other exception comes out of decoding, whatever a producer wrote."""
    event = data.draw(st.sampled_from(["DeliverySent", "AlertBatch", "AudienceDecided", "PublicationSubmitted"]))
    topic, key, value = placed(event, data.draw(STRATEGIES[event]))
    encoded = CODEC.encode(topic, event, value, key=key, time=NOW)
    damaged = bytearray(encoded.value)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(damaged)))
    received = bytes(damaged[:end]) + data.draw(st.binary(max_size=3))
    with suppress(CodecError):
        CODEC.decode(consumed(encoded, value=received))
