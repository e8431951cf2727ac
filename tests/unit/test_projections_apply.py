"""The pure half of the read models: folding batches into statements."""

import uuid
from datetime import timedelta

import pytest

from core.errors import CodecError
from core.ids import delivery_id, issue_id
from core.names import STATE_RANK
from projections.catalogue import PROJECTIONS, projection
from projections.decoding import Decoder
from projections.deliveries import DELIVERIES, chosen_deliveries, uuid_text
from projections.model import SQL_FOLDER, plain, texts, times, unique
from projections.store import Generation
from schemas.codec import Codec, FileSource
from schemas.records import Raw
from schemas.topics import Topics
from tests.projections_kit import ALERT, AT, NOT_AFTER, TOPICS, decided, requested, status, subscriber


@pytest.mark.parametrize("source_id", ["daily@2026-11-22T09:00Z", ALERT])
def test_delivery_ids_equal_those_of_the_core(source_id):
    """The fast derivation gives what fan-out gives."""
    event = decided([(n, c) for n in range(50) for c in ("email", "webhook")], source_id=source_id)
    for found, subscriber_id, channel, _ in chosen_deliveries(event.value):
        kind = event.value["source_kind"]
        cause = source_id if kind == "alert" else issue_id(subscriber_id, "daily", "2026-11-22T09:00")
        assert found == delivery_id(cause, kind, subscriber_id, channel, NOT_AFTER)


def test_uuid_text_is_the_canonical_text():
    """Sixteen bytes print as uuid.UUID prints them."""
    some = uuid.uuid4()
    assert uuid_text(some.bytes) == str(some)


def test_array_literals_escape_what_postgresql_would_read():
    """Quotes, backslashes, braces, commas and NULL stay texts; U+0000 cannot be stored and is replaced."""
    assert texts(['a"b', "c\\d", "{e,f}", "NULL", None, "g\x00h"]) == '{"a\\"b","c\\\\d","{e,f}","NULL",NULL,"g\ufffdh"}'
    assert unique(['a"b', "c"]) == texts(['a"b', "c"])
    assert unique(["a\\", "b"]) == texts(["a\\", "b"])
    assert unique([]) == "{}"
    assert unique(["a", "b"]) == '{"a","b"}'
    assert plain([1, None, True, 0.5]) == "{1,NULL,True,0.5}"
    assert times([AT, None]) == '{"2026-11-22T09:00:00+00:00",NULL}'


def test_one_batch_names_each_delivery_once():
    """However many events a batch has of a delivery, the upsert has one row of it, with the highest state."""
    events = [
        status("DeliverySent", 1, "email", after_s=1),
        requested(1, "email"),
        status("DeliveryFailed", 1, "email", after_s=3, reason="bounced"),
        status("DeliverySent", 1, "email", after_s=1),
    ]
    (*_, states) = DELIVERIES.apply(events)
    assert states.params["ids"].count('"') == 2
    assert states.params["states"] == "{6}"
    assert states.params["reasons"] == '{"bounced"}'
    assert states.params["sent"] == times([AT + timedelta(seconds=1)])


def test_a_later_copy_in_the_same_batch_gives_no_deliveries():
    """Of two copies of a chunk the one with the lower offset counts."""
    first, later = decided([(1, "email")], offset=4), decided([(2, "email")], offset=9)
    statements = DELIVERIES.apply([first, later])
    chosen = next(s for s in statements if "deliveries" in s.params)
    assert subscriber(1) in chosen.params["subscribers"]
    assert subscriber(2) not in chosen.params["subscribers"]


def test_nothing_gives_no_statements():
    """An empty batch touches nothing."""
    assert all(item.apply([]) == [] for item in PROJECTIONS)


def test_every_projection_has_its_sql_and_nothing_is_orphaned():
    """The registry and the folder of SQL name the same projections, views and tables."""
    names = {item.name for item in PROJECTIONS}
    assert {path.name for path in SQL_FOLDER.glob("*.sql")} == {f"{n}.{kind}.sql" for n in names for kind in ("tables", "views")}
    for item in PROJECTIONS:
        assert item.tables_sql.count("create table ") == len(item.tables)
        assert all(f"create table {table} (" in item.tables_sql for table in item.tables)
        assert item.views_sql.count("create or replace view ") == len(item.views)
        assert all(f"create or replace view api.{view} as" in item.views_sql for view in item.views)
        assert projection(item.name) is item


def test_the_view_spells_states_in_the_order_of_their_rank():
    """api.deliveries names states by position; the positions are core.names.STATE_RANK."""
    spelled = ", ".join(f"'{state}'" for state, _ in sorted(STATE_RANK.items(), key=lambda item: item[1]))
    assert f"(array[{spelled}])[d.state + 1]" in DELIVERIES.views_sql


def test_the_fingerprint_changes_with_prefix_and_version():
    """Another prefix reads other topics, so its rows are others."""
    item = PROJECTIONS[0]
    assert item.fingerprint(Topics("a", 2)) != item.fingerprint(Topics("b", 2))
    assert item.fingerprint(Topics("a", 2)) == item.fingerprint(Topics("a", 2))


def test_a_generation_names_its_schema():
    """The schema says projection and number."""
    assert Generation("deliveries", 3, "", "live", "").schema == "rm_deliveries_g3"


def _raw(event, codec):
    record = codec.encode(event.topic, event.name, event.value, key=event.key, time=event.time)
    return Raw(record.topic, record.partition, 7, record.key, record.value, record.headers, 0)


def test_a_shortened_event_has_the_fields_that_are_needed():
    """Reading stops behind the lane; what is read equals what the codec reads."""
    source = FileSource(TOPICS)
    raw = _raw(requested(1, "email"), Codec(TOPICS, source))
    short, whole = Decoder(TOPICS, source, DELIVERIES.prefixes).decode(raw), Codec(TOPICS, source).decode(raw)
    assert short.value == {name: whole.value[name] for name in short.value}
    assert {"delivery_id", "subscriber_id", "source_id", "source_kind", "channel", "lane"} <= set(short.value)
    assert "items" not in short.value
    assert (short.name, short.offset) == ("DeliveryRequested", 7)


@pytest.mark.parametrize(
    "damage",
    [lambda v: v[:20], lambda v: v[:3], lambda v: b"\x01" + v[1:], lambda v: v[:1] + b"\xff\xff\xff\xff" + v[5:]],
    ids=["truncated", "too short", "no wire format", "unknown schema"],
)
def test_a_damaged_hot_event_is_the_codecs_error(damage):
    """The short way round never hides that a record is no event."""
    source = FileSource(TOPICS)
    raw = _raw(requested(1, "email"), Codec(TOPICS, source))
    bad = Raw(raw.topic, raw.partition, raw.offset, raw.key, damage(raw.value), raw.headers, 0)
    with pytest.raises(CodecError) as expected:
        Codec(TOPICS, source).decode(bad)
    with pytest.raises(type(expected.value)):
        Decoder(TOPICS, source, DELIVERIES.prefixes).decode(bad)
