"""Tests of what a shard's state forgets, and of clocks that are wrong: the same with and without a snapshot in between."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from core.alert_state import AlertState
from core.content import OFFERED_MS
from core.deciding import decide_newsletter
from core.folding import AHEAD_MS, to_ms
from core.histories import MAX_ENTRIES
from core.names import MAX_AGE_H, MAX_LATE_H
from core.newsletter_state import CONTENT_KEPT_MS, NewsletterState
from core.subscribers import UNKNOWN_KEPT_MS, subscriber_key
from core.verdicts import DAY_MS, Place
from tests.unit.deciding_samples import (
    NOW,
    Sample,
    available,
    clicked,
    fold,
    linked,
    person,
    preferred,
    publication,
    reader,
    registered,
    slot,
)

ANNA, BEN, CEM = person(1), person(2), person(3)
DAY = timedelta(days=1)


def at(instant: datetime, *events) -> list[Sample]:
    """Events as Kafka had them at an instant."""
    return [replace(event, timestamp_ms=to_ms(instant)) for event in fold_list(events)]


def fold_list(events) -> list[Sample]:
    return [one for event in events for one in (fold_list(event) if isinstance(event, list) else [event])]


def restarted(state):
    """The same state after a restart from its own snapshot."""
    again = type(state)()
    again.load(state.dump())
    return again


def issue(state: NewsletterState, when: datetime, give: bool = True, **rules) -> dict[bytes, list[str]]:
    """Decide the slot of an instant; return the publications of each reader."""
    value = decide_newsletter(state, slot(when, **rules), Place(0, 12, 0, {}), when)
    if give:
        fold(state, at(when, Sample("AudienceDecided", value)))
    ids = [item["publication_id"] for item in value["publications"]]
    return {entry["subscriber"]: [ids[item["publication"]] for item in entry["items"]] for entry in value["chosen"]}


@pytest.mark.parametrize("days", [40, 84, 86, 100, 400])
@pytest.mark.parametrize("again", [restarted, lambda state: state])
def test_a_new_revision_never_comes_again_to_who_had_the_publication(days, again):
    """However old it is, and whether or not the shard was restarted since."""
    first = NOW - days * DAY
    state = fold(NewsletterState(), at(first, reader(ANNA), available(1, approved_at=first)))
    assert issue(state, first) == {subscriber_key(ANNA): [publication(1)]}
    later = [available(2, approved_at=NOW - DAY), available(1, revision=2, approved_at=NOW - DAY, first_approved_at=first)]
    state = again(fold(state, at(NOW - DAY, reader(BEN), later[0])))
    fold(state, at(NOW - DAY, later[1]))
    found = issue(state, NOW)
    assert found[subscriber_key(ANNA)] == [publication(2)]
    assert (publication(1) in found[subscriber_key(BEN)]) == (days < OFFERED_MS / DAY_MS)


def test_what_may_be_chosen_is_remembered_as_long_as_decisions_are_kept():
    """The constants fit: an issue may be late, and a newsletter may take what is as old as it may be."""
    assert MAX_AGE_H * 3_600_000 <= OFFERED_MS
    assert OFFERED_MS + MAX_LATE_H * 3_600_000 <= CONTENT_KEPT_MS


def test_a_clock_that_is_ahead_settles_nothing_early():
    """A click dated a year ahead counts from when Kafka had it; the bursts of a scanner are still told from a person's clicks."""
    one = replace(clicked(ANNA, 1, days_ago=-365), timestamp_ms=to_ms(NOW))
    burst = [clicked(ANNA, 10 + number, days_ago=0, delivery_id="d", link=number) for number in range(3)]
    state = fold(NewsletterState(), at(NOW, reader(ANNA)), one, at(NOW, burst[:2]))
    entries = state.histories.of(subscriber_key(ANNA))
    assert entries["at_ms"].max() == to_ms(NOW) + AHEAD_MS
    for number in range(MAX_ENTRIES):
        seconds = timedelta(seconds=number)
        fold(state, at(NOW, clicked(ANNA, 100 + number, days_ago=0, occurred_at=NOW + seconds)))
    fold(state, at(NOW, burst[2]))
    of_burst = state.histories.of(subscriber_key(ANNA))
    rows = [state.content.row(publication(10 + number)) for number in range(3)]
    assert not of_burst["counts"][[row in rows for row in of_burst["publication"].tolist()]].any()


def test_a_change_dated_ahead_counts_from_when_kafka_had_it():
    """Otherwise the hours from before it would count for as long as the clock was wrong."""
    change = preferred(ANNA, local_minute=600, changed_at=NOW + 365 * DAY)
    state = fold(NewsletterState(), at(NOW, reader(ANNA), change))
    assert int(state.table.column("moved_ms")[0].max()) == to_ms(NOW) + AHEAD_MS


def test_a_slot_far_ahead_forgets_no_decision():
    """A forced slot of another year is decided today, and what was decided before stays decided."""
    state = fold(NewsletterState(), at(NOW, reader(ANNA), available(1)))
    issue(state, NOW)
    value = decide_newsletter(state, slot(NOW + 3650 * DAY, forced=True), Place(0, 12, 0, {}), NOW)
    fold(state, at(NOW, Sample("AudienceDecided", value)))
    assert (slot()["source_id"], 0) in restarted(state).decided


def read(state: NewsletterState, who: str) -> int:
    return len(state.histories.of(subscriber_key(who)))


UNKNOWN = timedelta(milliseconds=UNKNOWN_KEPT_MS)


def test_who_never_becomes_known_is_forgotten():
    """After UNKNOWN_KEPT_MS in which nothing came of them, by the times of the records; who is registered is not."""
    old = NOW - UNKNOWN - DAY
    some = [clicked(ANNA, 1), clicked(BEN, 1), clicked(CEM, 1), preferred(BEN), linked(CEM, address=b"\x01c"), registered(ANNA)]
    state = fold(NewsletterState(), at(old, some), at(NOW - DAY, clicked(CEM, 2)))
    assert [read(state, who) for who in (ANNA, BEN, CEM)] == [1, 1, 2]
    fold(state, at(NOW, clicked(person(9), 3), registered(person(9))))
    kept = restarted(state)
    assert [read(kept, who) for who in (ANNA, BEN, CEM)] == [1, 0, 2]
    assert set(kept.table.row_of) == {subscriber_key(ANNA), subscriber_key(person(9))}
    assert kept.dump() == state.dump() == restarted(kept).dump()


@pytest.mark.parametrize("again", [restarted, lambda state: state])
def test_who_becomes_known_too_late_begins_anew(again):
    """In any order of the topics, and whether or not the shard was restarted in between."""
    old, engaged = NOW - UNKNOWN - DAY, [clicked(ANNA, 1), clicked(BEN, 1)]
    told = [preferred(ANNA, newsletters=["daily"]), preferred(BEN, newsletters=["daily"])]
    state = fold(NewsletterState(), at(old, engaged, told), at(old + 2 * DAY, clicked(BEN, 2), preferred(BEN, alerts=True)))
    other = fold(NewsletterState(), at(old, told), at(old + 2 * DAY, preferred(BEN, alerts=True)))
    late = at(NOW, registered(ANNA), registered(CEM))
    state = fold(again(fold(state, late[1:])), late)
    fold(other, late[1:], late, at(old, engaged[0]))
    assert (read(state, ANNA), read(other, ANNA), read(state, BEN)) == (0, 0, 2)
    rows = [state.table.row_of[subscriber_key(who)] for who in (ANNA, BEN)]
    assert [bool(state.table.column("newsletters")[row].any()) for row in rows] == [False, True]
    assert state.table.dump() == other.table.dump()


@pytest.mark.parametrize("again", [lambda state: state, restarted])
def test_who_is_heard_of_again_after_too_long_begins_anew(again):
    """Whether or not there was a snapshot in between."""
    state = fold(NewsletterState(), at(NOW - UNKNOWN - DAY, clicked(ANNA, 1)), at(NOW, clicked(BEN, 1)))
    state = fold(again(state), at(NOW, clicked(ANNA, 2)), at(NOW, registered(ANNA)))
    assert read(state, ANNA) == 1


def test_a_snapshot_of_alerts_leaves_out_who_is_not_known():
    """What was sent stays with whom it was sent to."""
    state = fold(AlertState(), at(NOW - UNKNOWN - DAY, preferred(ANNA)), at(NOW, reader(BEN, alerts=True)))
    row = state.table.row_of[subscriber_key(BEN)]
    decided = {
        "source_id": "a", "source_kind": "alert", "decided_at": NOW, "chunk": 0, "chunks": 1, "dedup_key": None,
        "chosen": [{"subscriber": subscriber_key(BEN)}],
    }  # fmt: skip
    again = restarted(fold(state, at(NOW, Sample("AudienceDecided", decided))))
    assert (row, again.table.row_of) == (1, {subscriber_key(BEN): 0})
    assert again.received(again.table.sorted_rows(), NOW + timedelta(hours=1)).tolist() == [1]
