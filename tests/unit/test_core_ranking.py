"""Tests of the ranking: the formula, ties, exclusion, and the same answer alone and in a batch."""

import math

import numpy as np
import pytest

from core.ranking import MUCH_READ, SCORE_SCALE, Ranked, best, demand, freshness, interest, liveliness
from core.relevance import BATCH_ROWS, Readers, relevance, shelf
from core.vectors import unit_rows


def rank(people: np.ndarray, content: np.ndarray, fresh: np.ndarray, excluded: np.ndarray, k: int) -> Ranked:
    """The best by topics alone, in batches, as the pipeline ranks without vectors and without a model."""
    shelved, none, nothing = shelf(content, None, None, 0), np.zeros((BATCH_ROWS, 0), np.float32), np.zeros(0, np.int64)
    parts = []
    for start in range(0, max(len(people), 1), BATCH_ROWS):
        rows = people[start : start + BATCH_ROWS]
        readers = Readers(rows, none[: len(rows)], none[: len(rows)], nothing, nothing, nothing)
        parts.append(best(relevance(readers, shelved), fresh, excluded[start : start + BATCH_ROWS], k))
    return Ranked(np.concatenate([part.candidate for part in parts]), np.concatenate([part.score for part in parts]))


@pytest.fixture
def sample() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    people = interest((rng.random((600, 50)) < 0.1) * rng.random((600, 50)), np.zeros((600, 50)), np.zeros(600))
    content = unit_rows((rng.random((400, 50)) < 0.1) * rng.random((400, 50)))
    fresh = freshness(rng.random(400) * 9, rng.random(400) * 48, 24.0)
    return people, content, fresh, rng.random((600, 400)) < 0.3


def test_scores_follow_the_formula(sample):
    """(0.05 + r~)·log1p(1 + e)·(1 + (2^⅔ - 1)·age/h)^-1.5, worked out in double precision."""
    people, content, fresh, excluded = sample
    found = rank(people, content, fresh, excluded, 10)
    cosine = people.astype(float) @ content.astype(float).T
    low, high = cosine.min(1, keepdims=True), cosine.max(1, keepdims=True)
    score = (0.05 + (cosine - low) / np.where(high > low, high - low, 1)) * fresh
    score[excluded] = -1
    best = -np.sort(-score, axis=1)[:, :10]
    assert np.abs(found.score / SCORE_SCALE - best).max() < 1.1e-4


def test_age_halves_the_worth_of_a_publication_once_and_takes_less_of_it_later():
    """log1p(1 + e~)·(1 + (2^⅔ - 1)·age/h)^-1.5; a time to come is now."""
    found = freshness(np.array([0.0, 0, 0, 0, 9]), np.array([-5.0, 0, 24, 240, 24]), 24.0)
    late = math.log(2) / (1 + 10 * (4 ** (1 / 3) - 1)) ** 1.5
    assert found == pytest.approx([math.log(2), math.log(2), math.log(2) / 2, late, math.log(2 + 9 / (1 + 9 / MUCH_READ)) / 2])
    assert late > math.log(2) / 2**10


def test_how_much_is_read_counts_as_a_share_of_many_and_for_itself_among_few():
    """A thousand times the readers change nothing where many read; a single read of one reader does not stand for a crowd."""
    reads = np.array([0.0, 1, 4, 9, 40])
    assert demand(reads * 1e3) == pytest.approx(demand(reads * 1e6), rel=0.01)
    assert demand(reads / 1e3) == pytest.approx(reads / 1e3, rel=0.01)
    assert (np.diff(demand(reads * 1e6)) > 0).all()
    assert demand(np.zeros(3)).tolist() == [0, 0, 0]
    assert demand(np.zeros(0)).tolist() == []


def test_what_nobody_reads_any_more_counts_less_where_many_read():
    """Halved after 18 hours in a crowd, and hardly touched among a few readers; never without a reader at all."""
    idle_h = np.array([-1.0, 0, 18, 180])
    assert liveliness(np.full(4, 1e9), idle_h) == pytest.approx([1, 1, 1 / 2, 1 / math.sqrt(31)])
    assert liveliness(np.full(4, 0.1), idle_h).min() > 0.96
    assert liveliness(np.zeros(4), idle_h).tolist() == [1, 1, 1, 1]


def test_alone_and_in_a_batch_give_the_same_answer(sample):
    """Every row of every batch, bit for bit."""
    people, content, fresh, excluded = sample
    together = rank(people, content, fresh, excluded, 10)
    for row in range(len(people)):
        alone = rank(people[row : row + 1], content, fresh, excluded[row : row + 1], 10)
        assert np.array_equal(alone.candidate[0], together.candidate[row])
        assert np.array_equal(alone.score[0], together.score[row])


def test_excluded_candidates_are_never_chosen(sample):
    """Fewer than k are left as -1."""
    people, content, fresh, excluded = sample
    found = rank(people, content, fresh, excluded, 10)
    assert not np.take_along_axis(excluded, found.candidate, axis=1).any()
    nearly = np.ones_like(excluded)
    nearly[:, 7] = False
    found = rank(people, content, fresh, nearly, 3)
    assert (found.candidate == [7, -1, -1]).all()


def test_ties_go_to_the_first_candidate():
    """Candidates are in the order of publication_id."""
    people, content = unit_rows(np.ones((1, 1))), unit_rows(np.ones((6, 1)))
    found = rank(people, content, freshness(np.zeros(6), np.zeros(6), 24.0), np.zeros((1, 6), dtype=bool), 4)
    assert found.candidate.tolist() == [[0, 1, 2, 3]]


def test_large_scores_do_not_overflow():
    """Above 32 bits wider keys are used, with the same order."""
    people, content = unit_rows(np.eye(1, 2)), unit_rows(np.tile(np.eye(2), (3000, 1)))
    fresh = np.full(6000, 50.0, dtype=np.float32)
    found = rank(people, content, fresh, np.zeros((1, 6000), dtype=bool), 3)
    assert found.candidate.tolist() == [[0, 2, 4]]
    assert found.score.tolist() == [[525_000] * 3]


def test_nothing_to_rank():
    """No subscribers, or no candidates."""
    empty = np.zeros((0, 3), dtype=np.float32)
    assert rank(empty, empty, np.zeros(0, np.float32), np.zeros((0, 0), dtype=bool), 5).candidate.shape == (0, 0)
    assert rank(unit_rows(np.ones((2, 3))), empty, np.zeros(0, np.float32), np.zeros((2, 0), dtype=bool), 5).score.shape == (2, 0)


def test_declared_topics_weigh_five_views():
    """Five views of another topic balance the declaration; more outweigh it."""
    declared = np.array([[1.0, 0.0]])
    balanced = interest(declared, np.array([[0.0, 5.0]]), np.array([5.0]))[0]
    assert balanced[0] == pytest.approx(balanced[1])
    assert interest(declared, np.array([[0.0, 9.0]]), np.array([9.0]))[0].argmax() == 1
