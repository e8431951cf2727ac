"""Tests of judging and cutting models: what is known after a cut, and what is wrong with parts."""

from datetime import timedelta

import numpy as np
import pytest

from core.histories import Histories
from core.model_parts import PART_BYTES, Activation, Published, cut, superseded
from core.newsletter_state import NewsletterState
from streams.judging import Judge
from streams.training import _fitted
from tests.unit.deciding_samples import NOW, Sample, available, fold, person, publication, reader, topics

READERS, ITEMS = 120, 40


def engaged(who: int, number: int, after_h: float) -> Sample:
    value = {"subscriber_id": person(who), "publication_id": publication(number), "occurred_at": NOW + timedelta(hours=after_h)}
    return Sample("ContentClicked", value | {"evidence": "click", "link": 0, "delivery_id": None})


def two_crowds() -> NewsletterState:
    """Even readers read even publications, odd ones odd ones; topics say nothing about it."""
    rng = np.random.default_rng(0)
    state = fold(NewsletterState(), [available(n, "physics", title=f"Title {n}", approved_at=NOW) for n in range(ITEMS)])
    for who in range(READERS):
        mine = rng.permutation(np.arange(who % 2, ITEMS, 2))[:12]
        fold(state, reader(person(who), topics=topics("physics")))
        fold(state, [engaged(who, int(n), hour + who / 1000) for hour, n in enumerate(mine)])
    return state


def test_a_model_that_knows_who_reads_what_together_is_judged_better_than_none():
    """Half of the publications are another crowd's: only what was read together tells them apart."""
    state = two_crowds()
    judge = Judge(state)
    assert judge.readers > 50
    without, model = judge.ndcg(None), _fitted("m1", state, state.histories)
    assert judge.ndcg(model) > without + 0.1
    assert judge.ndcg(model) == judge.ndcg(model)


def test_what_the_model_in_use_has_seen_is_not_judged_by():
    """After its own fitting there may be nothing yet."""
    assert Judge(two_crowds(), NOW + timedelta(days=1)).readers == 0
    assert Judge(NewsletterState()).readers == 0
    assert Judge(NewsletterState()).ndcg(None) == 0


def test_histories_before_an_instant():
    """The newest are left out, and the rest is as it was."""
    state = two_crowds()
    earlier = state.histories.before(int((NOW + timedelta(hours=6)).timestamp() * 1000))
    assert isinstance(earlier, Histories)
    assert {len(earlier.of(key)) for key in state.histories.keys()} == {6}  # noqa: SIM118 - it is no dict


def test_a_model_is_cut_into_parts_and_joined():
    """Parts may come in any order, and twice."""
    data = bytes(range(256)) * 5_000
    values = cut("m1", data, {"ndcg@10": "0.5"}, NOW)
    assert [len(value["data"]) for value in values] == [PART_BYTES, PART_BYTES, len(data) - 2 * PART_BYTES]
    found = Published("m1")
    for value in [*reversed(values), values[0]]:
        found.take(value)
    assert found.joined() == data
    assert (found.metrics, found.fitted_at, found.size_bytes) == ({"ndcg@10": "0.5"}, NOW, len(data))
    assert [found.drop(part) for part in (2, 2, 0, 1)] == [False, False, False, True]


@pytest.mark.parametrize(("left_out", "changed", "says"), [(1, None, "part 1 of its 3"), (None, 2, "SHA-256")])
def test_what_is_wrong_with_parts_is_said(left_out, changed, says):
    """A missing part, and other bytes."""
    values, found = cut("m1", bytes(1_200_000), {}, NOW), Published("m1")
    for value in values:
        if value["part"] != left_out:
            found.take(value | ({"data": b"other"} if value["part"] == changed else {}))
    with pytest.raises(ValueError, match=says):
        found.joined()


def activated(*versions: str | None, days_ago: float) -> list[Activation]:
    """Activations a day apart, the last of them so many days ago."""
    times = [NOW - timedelta(days=days_ago + later) for later in reversed(range(len(versions)))]
    before = [None, *versions[:-1]]
    return [Activation(*one) for one in zip(versions, before, ["x"] * len(versions), times, strict=True)]


@pytest.mark.parametrize(
    ("published", "activations", "dropped"),
    [
        ("abcdefg", activated(*"abcdefg", days_ago=30), "abcd"),  # the newest three, which has the one in use and those before
        ("abcdefg", activated(*"abcdefg", days_ago=0.5), "a"),  # b ended within five days: a slot of then may still be sent
        ("abcdefgh", activated("d", days_ago=30), "ae"),  # three to go back to, and the three newest
        ("abcdefgh", activated("a", "h", days_ago=30), "bcde"),  # the one before it
        ("abcdefgh", activated("a", None, days_ago=30), "bcde"),  # rolled back to none
        ("abcde", [], "ab"),
        ("ab", [], ""),
    ],
)
def test_versions_that_a_slot_may_name_or_that_one_may_go_back_to_are_kept(published, activations, dropped):
    """All others are dropped, the oldest first."""
    assert "".join(superseded(published, activations, NOW)) == dropped
