"""Tests of how much publications are read over all shards: what counts, the sum, saying what changed, and the same issues."""

from datetime import timedelta

import numpy as np
import pytest

from core import newsletter_state
from core.deciding import decide_newsletter
from core.folding import to_ms
from core.newsletter_state import NewsletterState
from core.readership import Count, as_items, changed, of_items, summed
from core.verdicts import Place
from tests.unit.deciding_samples import (
    NOW,
    Sample,
    available,
    clicked,
    counted,
    erased,
    fold,
    person,
    publication,
    reader,
    slot,
    topics,
    withdrawn,
)

NOW_MS = to_ms(NOW)
DAY_MS = 86_400_000


def liked(who: int, number: int, days_ago: float = 1, name: str = "ReactionAdded") -> Sample:
    return Sample(name, clicked(person(who), number, days_ago).value | {"reaction": "like"})


def shard(*events) -> NewsletterState:
    return fold(NewsletterState(), [available(n) for n in range(8)], *events)


def burst(who: int) -> list[Sample]:
    return [clicked(person(who), n, 0.5 + n / DAY_MS, delivery_id="d") for n in range(4)]


def test_shards_together_count_what_one_would():
    """Wherever a reader is: to the last bit for the newest engagement, and what is left of it later is the formula's."""
    rng = np.random.default_rng(0)
    events = [clicked(person(int(who)), int(n), float(rng.uniform(0, 20))) for who, n in rng.integers(0, [40, 8], size=(300, 2))]
    whole = shard(events)
    shards = [
        shard(*(event for event in events if event.value["subscriber_id"][-1] in part)) for part in ("0123456789", "abcdef")
    ]
    together, alone = summed(one.own_counts(NOW_MS) for one in shards), whole.own_counts(NOW_MS)
    assert together.keys() == alone.keys()
    for publication_id, count in alone.items():
        assert together[publication_id].as_of_ms == count.as_of_ms
        assert together[publication_id].reads == pytest.approx(count.reads, abs=1e-4)
    fold(whole, counted(*shards))
    later = NOW_MS + 5 * DAY_MS
    rows, expected = np.arange(8), np.zeros(8)
    events.sort(key=lambda event: event.value["occurred_at"])
    newest = {(event.value["subscriber_id"], event.value["publication_id"]): event for event in events}
    for event in newest.values():
        row = whole.content.index[event.value["publication_id"]]
        expected[row] += 2 * 0.5 ** ((later - to_ms(event.value["occurred_at"])) / (3 * DAY_MS))
    assert whole.readership.of(rows, later) == pytest.approx(expected, abs=1e-3)


def test_what_counts_for_a_profile_counts_here():
    """Late, twice, taken back, by a scanner, by somebody who was erased, in any order."""
    events = [
        clicked(person(1), 5),
        liked(1, 5),
        clicked(person(2), 5, 2),
        liked(3, 6),
        liked(3, 6, 0.9, "ReactionRemoved"),
        *burst(4),
    ]
    events += [clicked(person(5), 7), erased(person(5))]
    found = shard(events).own_counts(NOW_MS)
    assert {publication_id: round(count.reads, 3) for publication_id, count in found.items()} == {
        publication(5): round(4 + 2 * 0.5 ** (1 / 3), 3)
    }
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(events)).tolist()
        assert shard([events[place] for place in order], events[:3], erased(person(5))).own_counts(NOW_MS) == found


def test_a_count_does_not_change_as_time_passes():
    """So that nothing is said while nobody reads; after 30 days without a reader it is not counted any more."""
    state = shard(clicked(person(1), 1), clicked(person(2), 1, 4))
    found = state.own_counts(NOW_MS)
    assert state.own_counts(NOW_MS + 28 * DAY_MS) == found
    assert state.own_counts(NOW_MS + 30 * DAY_MS) == {}


def test_engagement_of_the_future_counts_when_it_is_then():
    """A clock that is wrong holds no publication up for years."""
    state = shard(clicked(person(1), 1), clicked(person(2), 1, -400), clicked(person(2), 2, -400))
    assert state.own_counts(NOW_MS) == {publication(1): Count(NOW_MS - DAY_MS, 2.0)}
    assert state.own_counts(NOW_MS + 400 * DAY_MS)[publication(2)].reads == 2.0


def test_only_what_may_be_chosen_is_counted_and_the_most_read_first(monkeypatch):
    """Memory and records are bounded."""
    state = shard([clicked(person(who), n) for n in range(4) for who in range(10 - n)], withdrawn(0), clicked(person(1), 99))
    assert list(state.own_counts(NOW_MS)) == [publication(1), publication(2), publication(3)]
    monkeypatch.setattr(newsletter_state, "MOST", 2)
    assert list(state.own_counts(NOW_MS)) == [publication(1), publication(2)]


def test_what_changed_is_said_and_hearing_it_twice_changes_nothing():
    """What is gone is 0; what replaces is all there is; from a snapshot and from the log the state is the same."""
    before = {"a": Count(1, 2.0), "b": Count(1, 2.0), "c": Count(3, 1.0)}
    now = {"a": Count(1, 2.0), "b": Count(2, 3.5), "d": Count(4, 1.0)}
    news = changed(now, before)
    assert news == {"b": Count(2, 3.5), "d": Count(4, 1.0), "c": Count(3, 0.0)}
    assert of_items(as_items(news)) == news
    first, second = shard(clicked(person(1), 1), clicked(person(1), 2)), shard(clicked(person(2), 3), clicked(person(3), 3))
    log = [counted(first), counted(second, replaces=False), counted(first, replaces=False)]
    state, rows = shard(log), np.arange(8)
    assert state.readership.of(rows, NOW_MS).round(3).tolist() == [0, 1.587, 1.587, 3.175, 0, 0, 0, 0]
    assert shard(log, log[1:]).dump() == state.dump()
    loaded = NewsletterState()
    loaded.load(state.dump())
    assert loaded.dump() == state.dump()
    assert loaded.readership.of(rows, NOW_MS).tolist() == state.readership.of(rows, NOW_MS).tolist()
    assert fold(state, counted(second)).readership.of(rows, NOW_MS).round(3).tolist() == [0, 0, 0, 3.175, 0, 0, 0, 0]


def test_what_is_read_now_comes_before_what_was_read_as_much():
    """What is left of an older crowd is more, but nobody reads it any more."""
    old = {"approved_at": NOW - timedelta(days=4)}
    state = fold(NewsletterState(), reader(person(0), topics=[]), available(1, **old), available(2, **old))
    fold(state, [clicked(person(n), 1, 3) for n in range(100, 164)], [clicked(person(n), 2, 0.01) for n in range(100, 130)])
    fold(state, counted(state))
    rows = np.array([state.content.row(publication(n)) for n in (1, 2, 3)])
    assert state.readership.idle_h(rows, NOW_MS).tolist() == [72, pytest.approx(0.24), np.inf]
    assert np.diff(state.readership.of(rows[:2], NOW_MS))[0] < 0
    value = decide_newsletter(state, slot(max_items=2, max_age_h=200.0) | {"model_version": None}, Place(0, 12, 0, {}), NOW)
    assert [value["publications"][item["publication"]]["publication_id"] for item in value["chosen"][0]["items"]] == [
        publication(2),
        publication(1),
    ]


def test_equal_readers_of_different_shards_get_the_same_issue():
    """Also where nobody else reads; the reason says what others read."""
    first = shard(reader(person(1), topics=[]), [clicked(person(who), 5, 0.1) for who in range(10, 15)])
    second = shard(reader(person(1), topics=topics()))
    third = shard([clicked(person(who), 5, 0.1) for who in range(20, 24)], clicked(person(20), 6))
    said = counted(first, second, third)
    issues = []
    for place, state in enumerate((first, second)):
        value = decide_newsletter(fold(state, said), slot(max_items=3), Place(place, 3, 0, {}), NOW)
        (entry,) = value["chosen"]
        issues.append([(value["publications"][i["publication"]], value["reasons"][i["reason"]]) for i in entry["items"]])
    assert issues[0] == issues[1]
    assert (issues[0][0][0]["publication_id"], issues[0][0][1]) == (publication(5), "popular")
