"""Tests of the fold of subscriber events."""

from datetime import timedelta

import numpy as np
import pytest

from core.errors import EventRefused
from core.ids import chunk_of
from core.names import CHANNELS
from core.rules import validate
from core.subscribers import SubscriberTable, subscriber_key
from tests.unit.deciding_samples import (
    NOW,
    erased,
    fold,
    linked,
    person,
    preferred,
    reader,
    registered,
    topics,
    unlinked,
    unsubscribed,
    verified,
)

ANNA, BEN = person(1), person(2)


def rows(table: SubscriberTable) -> np.ndarray:
    return np.arange(len(table))


def channel_of(table: SubscriberTable, row: int = 0) -> str | None:
    index = int(table.first_channel(np.array([row]))[0])
    return None if index < 0 else CHANNELS[index]


def test_registering_alone_subscribes_to_nothing():
    """Consent comes first."""
    table = fold(SubscriberTable(), registered(ANNA))
    assert table.column("registered").tolist() == [True]
    assert not table.column("alerts").any()
    assert not table.takes(rows(table), "daily").any()


def test_an_address_is_used_only_when_verified():
    """Linking is not enough, and a new address is unverified again."""
    table = fold(SubscriberTable(), registered(ANNA), linked(ANNA))
    assert channel_of(table) is None
    assert channel_of(fold(table, verified(ANNA))) == "email"
    assert channel_of(fold(table, linked(ANNA, address=b"\x01new"))) is None
    fold(table, verified(ANNA), unlinked(ANNA))
    assert channel_of(table) is None
    assert table.addresses[0] == [None] * 4


def test_verifying_a_channel_without_an_address_changes_nothing():
    """There is nothing to verify."""
    assert channel_of(fold(SubscriberTable(), registered(ANNA), verified(ANNA))) is None


def test_first_verified_channel_in_own_order_is_used():
    """Channels that the order does not name are not used."""
    table = fold(SubscriberTable(), reader(ANNA), linked(ANNA, "slack"), verified(ANNA, "slack"))
    assert channel_of(table) == "email"
    assert channel_of(fold(table, preferred(ANNA, channels=["webhook", "slack", "email"]))) == "slack"
    assert channel_of(fold(table, preferred(ANNA, channels=["webhook"]))) is None
    assert channel_of(fold(table, preferred(ANNA, channels=[]))) is None


def test_null_preferences_stay_and_others_replace_the_whole_field():
    """A change of one preference leaves the others."""
    table = fold(SubscriberTable(), reader(ANNA, topics=topics("physics", "maths")), preferred(ANNA, topics=topics("art")))
    everybody = rows(table)
    assert table.takes(everybody, "daily").all()
    assert not table.declares_any(everybody, ["physics", "maths"]).any()
    assert table.declares_any(everybody, ["art"]).all()


@pytest.mark.parametrize(
    ("kind", "newsletter", "left", "alerts"),
    [("newsletter", "daily", ["weekly"], True), ("alerts", None, ["daily", "weekly"], False), ("all", None, [], False)],
)
def test_unsubscribing_removes_what_it_names(kind, newsletter, left, alerts):
    """One newsletter, the alerts, or everything."""
    table = fold(SubscriberTable(), reader(ANNA, newsletters=["daily", "weekly"]), unsubscribed(ANNA, kind, newsletter))
    assert [name for name in ("daily", "weekly") if table.takes(rows(table), name)[0]] == left
    assert table.column("alerts")[0] == alerts


def test_erasure_empties_the_row_for_good():
    """Nothing of an erased subscriber is left, and later events do not bring them back."""
    table = fold(SubscriberTable(), reader(ANNA), erased(ANNA), reader(ANNA))
    assert table.population(0, 1) == 0
    assert table.column("erased").tolist() == [True]
    assert table.addresses[0] == [None] * 4
    assert not table.column("topics").any()


def test_quiet_hours_may_span_midnight():
    """From 22:00 to 07:00, start included, end not."""
    hours = [{"start_minute": 22 * 60, "end_minute": 7 * 60}, {"start_minute": 720, "end_minute": 780}]
    table = fold(SubscriberTable(), registered(ANNA), preferred(ANNA, quiet_hours=hours))
    minutes = {0: True, 7 * 60 - 1: True, 7 * 60: False, 720: True, 780: False, 22 * 60: True, 22 * 60 - 1: False}
    for minute, quiet in minutes.items():
        assert table.in_quiet_hours(rows(table), np.array([minute]))[0] == quiet, minute
    assert not fold(table, preferred(ANNA, quiet_hours=[])).in_quiet_hours(rows(table), np.array([0])).any()


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (registered(ANNA, "Mars/Olympus"), "time_zone"),
        (preferred(ANNA, language="en" + "-variant1" * 4), "language"),
        (preferred(ANNA, channels=["pigeon"]), "channels"),
        (preferred(ANNA, urgent_channels=["pigeon"]), "urgent_channels"),
        (linked(ANNA, "pigeon"), "channel"),
        (preferred(ANNA, local_minute=7), "local_minute"),
        (preferred(ANNA, topics=[{"topic": "x", "weight": 0.0}]), "topics"),
        (preferred(ANNA, quiet_hours=[{"start_minute": 0, "end_minute": 1440}]), "quiet_hours"),
        (registered("nobody"), "subscriber_id"),
        (unsubscribed(ANNA, "some"), "kind"),
    ],
)
def test_an_event_that_breaks_a_rule_is_refused_by_field_and_changes_nothing(event, field):
    """The check names the field, and the fold agrees with it."""
    with pytest.raises(EventRefused) as refused:
        validate(event.name, event.value)
    assert refused.value.field == field
    table = fold(SubscriberTable(), reader(BEN))
    before = table.dump()
    assert fold(table, event).dump() == before


def test_chunk_of_a_row_is_that_of_its_id():
    """Chunks are ranges of the hash of the subscriber_id, in the order of the ids, and cover everybody once."""
    people = [person(number * 7919 % 1000) for number in range(300)]
    table = fold(SubscriberTable(), [registered(who) for who in people])
    found = [table.ids[row] for chunk in range(4) for row in table.chunk_rows(chunk, 4)]
    assert sorted(found) == sorted(subscriber_key(who) for who in people)
    for chunk in range(4):
        expected = sorted(subscriber_key(who) for who in people if chunk_of(who, 4) == chunk)
        assert [table.ids[row] for row in table.chunk_rows(chunk, 4)] == expected
    assert sum(table.population(chunk, 4) for chunk in range(4)) == 300


def test_equal_tables_dump_equal_bytes_whatever_the_order():
    """The order of rows and of names does not show."""
    hours = [{"start_minute": 0, "end_minute": 60}]
    anna = [*reader(ANNA, "Asia/Tokyo", topics=topics("b", "a"), tags=["x"]), preferred(ANNA, quiet_hours=hours * 3)]
    anna.append(preferred(ANNA, paused_until=NOW + timedelta(days=1), quiet_hours=hours))
    ben = reader(BEN, "Europe/Berlin", "slack", topics=topics("a", "c"), newsletters=["weekly"], urgent_channels=["slack"])
    one, other = fold(SubscriberTable(), anna, ben), fold(SubscriberTable(), ben, anna)
    assert one.dump() == other.dump()


def test_a_loaded_table_goes_on_as_the_dumped_one():
    """Every column survives, and the fold goes on."""
    table = fold(
        SubscriberTable(), [item for number in range(200) for item in reader(person(number), topics=topics(f"t{number % 9}"))]
    )
    copy = SubscriberTable()
    copy.load(table.dump())
    more = [*reader(person(500)), unsubscribed(person(3)), preferred(person(4), topics=topics("new"), channels=["slack"])]
    assert fold(copy, more).dump() == fold(table, more).dump()


def test_empty_table_survives_packing():
    """A shard without subscribers has a snapshot too."""
    copy = SubscriberTable()
    copy.load(SubscriberTable().dump())
    assert len(fold(copy, reader(ANNA))) == 1


def test_foreign_bytes_are_a_value_error():
    """A snapshot that cannot be read is recognised as such."""
    with pytest.raises(ValueError, match="no packed state"):
        SubscriberTable().load(b"something else")


def test_a_row_that_is_new_or_emptied_after_loading_has_the_same_defaults():
    """Erasing somebody gives the same bytes before and after packing."""
    table = fold(SubscriberTable(), reader(ANNA, "Asia/Tokyo"), preferred(ANNA, language="de"))
    copy = SubscriberTable()
    copy.load(table.dump())
    later = [erased(ANNA), preferred(BEN, alerts=True)]
    assert fold(copy, later).dump() == fold(table, later).dump()
    assert [copy.zones.names[index] for index in copy.column("zone")] == ["UTC", "UTC"]
