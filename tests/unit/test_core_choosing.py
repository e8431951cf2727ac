"""Tests of diversity and exploration: against a slow greedy, the logged propensity, and the same answer for ever."""

import numpy as np
import pytest

from core.choosing import OWN_SHARE, POOL, TEMPERATURE, choose, draws, shares
from core.ranking import Ranked

TOPICS = 6


@pytest.fixture
def sample() -> tuple[Ranked, np.ndarray]:
    rng = np.random.default_rng(0)
    candidate = np.array([rng.permutation(300)[:POOL] for _ in range(80)])
    score = -np.sort(-rng.integers(0, 30_000, (80, POOL)), axis=1)
    candidate[5, 3:], score[5, 3:] = -1, 0
    candidate[6], score[6] = -1, 0
    return Ranked(candidate, score), rng.integers(-1, TOPICS, 300)


def greedily(ranked: Ranked, strongest: np.ndarray, row: int, k: int, most: list[int]) -> list[int]:
    taken, skipped = [], []
    for candidate in ranked.candidate[row].tolist():
        same = sum(1 for other in taken if strongest[other] == strongest[candidate])
        if candidate < 0:
            continue
        if len(taken) < k and (strongest[candidate] < 0 or same < most[strongest[candidate]]):
            taken.append(candidate)
        else:
            skipped.append(candidate)
    order = ranked.candidate[row].tolist()
    return sorted(taken + skipped[: k - len(taken)], key=order.index)


@pytest.mark.parametrize(("k", "share"), [(10, 0.4), (10, 0.1), (5, 1.0), (3, 0.0)])
def test_no_issue_has_too_much_of_one_topic(sample, k, share):
    """Greedily by score; what has no topic is not counted."""
    ranked, strongest = sample
    found = choose(ranked, strongest, k, share, 0.0, np.zeros(80))
    for row in range(80):
        wanted = greedily(ranked, strongest, row, k, [max(1, int(share * k))] * TOPICS)
        assert found.candidate[row].tolist() == wanted + [-1] * (k - len(wanted))
    assert (found.propensity == 1).all()
    assert (np.diff(found.score, axis=1) <= 0).all()


def test_a_topic_has_as_large_a_share_as_in_the_readers_interests(sample):
    """Never less than topic_share, and never all; who has no interests is limited by topic_share."""
    ranked, strongest = sample
    interests = np.zeros((80, TOPICS), dtype=np.float32)
    interests[1, 2], interests[2, [1, 3]], interests[3] = 1, np.sqrt(0.5), 1
    found = choose(ranked, strongest, 10, shares(interests, 0.3), 0.0, np.zeros(80))
    for row, own in ((0, {}), (1, {2: 8}), (2, {1: 5, 3: 5}), (3, {})):
        most = [own.get(topic, 3) for topic in range(TOPICS)]
        wanted = greedily(ranked, strongest, row, 10, most)
        assert found.candidate[row].tolist() == wanted
    assert shares(interests, 0.3).max() == np.float32(OWN_SHARE)
    nothing = choose(ranked, np.full(300, -1), 10, shares(np.zeros((80, 0), dtype=np.float32), 0.3), 0.0, np.zeros(80))
    assert (nothing.candidate[0] == ranked.candidate[0, :10]).all()


def test_one_topic_fills_an_issue_when_there_is_no_other(sample):
    """An issue is not left empty for variety's sake."""
    ranked, _ = sample
    found = choose(ranked, np.zeros(300, dtype=np.int64), 10, 0.4, 0.0, np.zeros(80))
    assert (found.candidate[0] == ranked.candidate[0, :10]).all()


def test_the_last_slot_is_drawn_with_the_logged_propensity(sample):
    """(1-ε)·softmax(s/τ) + ε/|pool| over what is left; the others are as they would be without."""
    ranked, strongest = sample
    plain = choose(ranked, strongest, 9, 4 / 9, 0.0, np.zeros(80))
    one = Ranked(np.repeat(ranked.candidate[:1], 4_000, axis=0), np.repeat(ranked.score[:1], 4_000, axis=0))
    found = choose(one, strongest, 10, 0.4, 0.1, (np.arange(4_000) + 0.5) / 4_000)
    assert (found.candidate[:, :9] == plain.candidate[0]).all()
    left = [place for place in range(POOL) if ranked.candidate[0, place] not in plain.candidate[0].tolist()]
    scores = ranked.score[0, left] / 10_000
    likely = np.exp(scores / TEMPERATURE) / np.exp(scores / TEMPERATURE).sum()
    wanted = dict(zip(ranked.candidate[0, left].tolist(), (0.9 * likely + 0.1 / len(left)).tolist(), strict=True))
    for candidate, propensity in zip(found.candidate[:, 9].tolist(), found.propensity[:, 9].tolist(), strict=True):
        assert propensity == pytest.approx(wanted[candidate], abs=1e-6)
    drawn = {candidate: float((found.candidate[:, 9] == candidate).mean()) for candidate in wanted}
    assert max(abs(drawn[candidate] - wanted[candidate]) for candidate in wanted) < 1e-3


def test_a_row_of_few_candidates_explores_what_there_is(sample):
    """Three candidates fill three slots of ten, and none fills none."""
    ranked, strongest = sample
    found = choose(ranked, strongest, 10, 0.4, 0.1, np.full(80, 0.999999))
    assert sorted(found.candidate[5][found.candidate[5] >= 0].tolist()) == sorted(ranked.candidate[5, :3].tolist())
    assert (found.candidate[6] == -1).all()
    assert (found.propensity[6] == 1).all()
    single = choose(Ranked(ranked.candidate[:, :1], ranked.score[:, :1]), strongest, 10, 0.4, 0.1, np.zeros(80))
    assert single.candidate.shape == (80, 1)
    assert (single.propensity == 1).all()


def test_what_was_drawn_never_has_a_propensity_of_0():
    """However small the share of chance: inverse propensities are finite."""
    far = Ranked(np.arange(POOL)[None, :], np.array([[200_000] * 10 + [0] * (POOL - 10)]))
    found = choose(far, np.full(POOL, -1), 10, 1.0, 1e-5, np.array([1 - 1e-9]))
    assert found.candidate[0, 9] == POOL - 1
    assert found.propensity[0, 9] == 1e-6


def test_at_most_so_much_of_an_issue_is_general(sample):
    """As many as concern the reader, and GENERAL_SHARE: the best of them; nothing where all is; the last slot may draw any."""
    ranked, strongest = sample
    general = np.random.default_rng(1).random(ranked.candidate.shape) < 0.7
    general[1, 2:], general[2], general[3], general[4] = True, True, False, True
    general[1, :2] = general[4, 150] = False
    plain = choose(ranked, strongest, 10, 0.4, 0.0, np.zeros(80), general=general)
    for row in range(80):
        beside = [place for place in range(POOL) if general[row, place] and ranked.candidate[row, place] >= 0]
        concerning = [place for place in range(POOL) if not general[row, place] and ranked.candidate[row, place] >= 0]
        able = sorted(concerning + beside[: min(3, len(concerning))])
        one = Ranked(ranked.candidate[row : row + 1, able], ranked.score[row : row + 1, able])
        wanted = greedily(one, strongest, 0, 10, [4] * TOPICS)
        assert plain.candidate[row].tolist() == wanted + [-1] * (10 - len(wanted))
    assert [int((plain.candidate[row] >= 0).sum()) for row in (1, 2, 3, 4)] == [4, 0, 10, 2]
    found = choose(ranked, strongest, 10, 0.4, 0.1, np.full(80, 0.5), general=general)
    drawn = found.propensity < 1
    assert [int((found.candidate[row] >= 0).sum()) for row in (1, 2, 3, 4)] == [5, 0, 10, 3]
    for row in range(80):
        count = int((found.candidate[row] >= 0).sum())
        assert (found.candidate[row, :count] >= 0).all()
        assert len(set(found.candidate[row, :count].tolist())) == count
        assert not drawn[row, : count - 1].any()
    assert drawn[1, 4]
    assert found.candidate[1, :4].tolist() == plain.candidate[1, :4].tolist()


def test_nothing_to_choose_from():
    """No candidates, or nobody."""
    empty = np.zeros((4, 0), dtype=np.int64)
    assert choose(Ranked(empty, empty), np.zeros(0, dtype=np.int64), 10, 0.4, 0.1, np.zeros(4)).candidate.shape == (4, 0)
    nobody = np.zeros((0, 20), dtype=np.int64)
    assert choose(Ranked(nobody, nobody), np.zeros(30, dtype=np.int64), 10, 0.4, 0.1, np.zeros(0)).candidate.shape == (0, 10)


def test_alone_and_in_a_batch_give_the_same_issue(sample):
    """Bit for bit."""
    ranked, strongest = sample
    drawn = draws("newsletter:1", [b"%016d" % row for row in range(80)])
    together = choose(ranked, strongest, 10, 0.4, 0.1, drawn)
    for row in range(80):
        only = slice(row, row + 1)
        alone = choose(Ranked(ranked.candidate[only], ranked.score[only]), strongest, 10, 0.4, 0.1, drawn[only])
        for name in ("candidate", "score", "propensity"):
            assert getattr(alone, name)[0].tobytes() == getattr(together, name)[row].tobytes()


def test_draws_depend_on_source_and_subscriber_alone():
    """The same for ever: these figures must not change."""
    one, other = bytes(range(16)), bytes(range(1, 17))
    assert draws("a", [one, other]).tolist() == [draws("a", [one])[0], draws("a", [other])[0]]
    assert draws("a", [one])[0] != draws("b", [one])[0]
    assert draws("source", [one, other]).tolist() == DRAWN
    many = draws("spread", [b"%016d" % number for number in range(10_000)])
    assert abs(many.mean() - 0.5) < 0.02
    assert many.min() >= 0
    assert many.max() < 1


DRAWN = [0.17507599741574797, 0.642979337476331]
