"""Tests of the relevance: the sum of the components against a slow reference, what is missing, batches, and the reasons."""

import numpy as np
import pytest

from core.model import Carried, Sigmas
from core.relevance import BATCH_ROWS, Readers, relevance, shelf
from core.sparse import sparse_rows
from core.vectors import centred, from_int8, to_int8, unit_rows

ITEMS, CANDIDATES, ROWS = 60, 90, 60
SIGMAS = Sigmas(meaning=0.3, topics=0.2, factors=0.7, reading=0.05)


def carried(rng: np.random.Generator) -> Carried:
    items = np.full((CANDIDATES, 20), -1, dtype=np.int32)
    weights = np.zeros((CANDIDATES, 20), dtype=np.float32)
    for row in range(CANDIDATES):
        some = rng.choice(ITEMS, int(rng.integers(0, 20)), replace=False)
        items[row, : len(some)], weights[row, : len(some)] = some, rng.normal(size=len(some)) * 0.1
    vectors, factors = (unit_rows(rng.normal(size=(CANDIDATES, size))) for size in (300, 128))
    return Carried(vectors, factors, items, weights, np.where(np.arange(CANDIDATES) % 3, 1, 0.5).astype(np.float32))


def readers(rng: np.random.Generator) -> Readers:
    owner = np.sort(rng.integers(0, ROWS - 5, 1_500))
    sides = [unit_rows(rng.normal(size=(ROWS, size))) for size in (50, 300, 128)]
    return Readers(*sides, owner, rng.integers(0, ITEMS, len(owner)), rng.random(len(owner)) + 0.1)


def part(whole: Readers, row: int) -> Readers:
    mine = whole.owner == row
    sides = (whole.interests[row : row + 1], whole.meanings[row : row + 1], whole.factors[row : row + 1])
    return Readers(*sides, np.zeros(mine.sum(), dtype=np.int64), whole.item[mine], whole.weight[mine])


@pytest.fixture
def sample() -> tuple[Readers, np.ndarray, Carried, np.ndarray]:
    rng = np.random.default_rng(3)
    topics, new, people = unit_rows(rng.random((CANDIDATES, 50))), carried(rng), readers(rng)
    return people, topics, new, relevance(people, shelf(topics, None, new, ITEMS, SIGMAS))


def terms(people: Readers, new: Carried, row: int, candidate: int) -> dict[int, float]:
    """What each entry of a history adds, in double precision."""
    mine = np.flatnonzero(people.owner == row)
    weight = np.minimum(people.weight, 1)
    length = np.sqrt((weight[mine] ** 2).sum()) ** 0.25
    column = {int(i): float(w) for i, w in zip(new.items[candidate], new.weights[candidate], strict=True) if i >= 0}
    return {
        int(entry): weight[entry] / length * column[int(people.item[entry])] / SIGMAS.reading
        for entry in mine
        if int(people.item[entry]) in column
    }


def test_relevance_is_the_sum_of_its_components(sample):
    """A/σA + B/σB + E/σE + Z/σZ, one pair at a time; of what is known only a part."""
    people, topics, new, found = sample
    for row in range(0, ROWS, 7):
        for candidate in range(CANDIDATES):
            wanted = (
                people.interests[row].astype(float) @ topics[candidate] / SIGMAS.topics
                + people.meanings[row].astype(float) @ new.vectors[candidate] / SIGMAS.meaning
                + people.factors[row].astype(float) @ new.factors[candidate] / SIGMAS.factors
                + sum(terms(people, new, row, candidate).values())
            )
            assert found[row, candidate] == pytest.approx(wanted * new.part[candidate], abs=2e-4)


def test_alone_and_in_a_batch_give_the_same_relevance(sample):
    """Bit for bit."""
    people, topics, new, found = sample
    shelved = shelf(topics, None, new, ITEMS, SIGMAS)
    for row in range(ROWS):
        assert relevance(part(people, row), shelved)[0].tobytes() == found[row].tobytes()


def test_single_terms_can_be_looked_up(sample):
    """What an item that was read adds to a candidate, and 0 where it adds nothing."""
    _, topics, new, _ = sample
    postings = shelf(topics, None, new, ITEMS, SIGMAS).postings
    dense = np.zeros((ITEMS, CANDIDATES), dtype=np.float32)
    rows, places = np.nonzero(new.items >= 0)
    dense[new.items[rows, places], rows] = new.weights[rows, places] / np.float32(SIGMAS.reading) * new.part[rows]
    found = postings.of(np.arange(ITEMS)[:, None], np.arange(CANDIDATES))
    assert (found == dense).all()


def test_a_long_history_outweighs_the_rest_by_a_little_and_stronger_engagement_by_nothing(sample):
    """Sixteen times the weight speaks eight times as loud; above that of reading it counts no more."""
    people, topics, new, _ = sample
    shelved = shelf(topics, None, new, ITEMS, SIGMAS)
    none = [np.zeros_like(side) for side in (people.interests, people.meanings, people.factors)]

    def weighing(factor: float) -> np.ndarray:
        return relevance(Readers(*none, people.owner, people.item, people.weight * factor), shelved)

    assert weighing(0.16) == pytest.approx(weighing(0.01) * 8, abs=1e-3)
    assert (weighing(10) == weighing(20)).all()


def test_every_cold_start_works(sample):
    """No model; no vectors; no readers; no topics; no candidates."""
    people, topics, new, _ = sample
    none, nothing = np.zeros((ROWS, 0), dtype=np.float32), np.zeros(0, dtype=np.int64)
    without = Readers(people.interests, none, none, nothing, nothing, nothing)
    plain = relevance(without, shelf(topics, None, None, 0))
    assert plain.shape == (ROWS, CANDIDATES)
    vectors = Readers(people.interests, people.meanings, none, nothing, nothing, nothing)
    assert relevance(vectors, shelf(topics, new.vectors, None, 0)).shape == (ROWS, CANDIDATES)
    nobody = Readers(*(side[:0] for side in (people.interests, people.meanings, people.factors)), nothing, nothing, nothing)
    assert relevance(nobody, shelf(topics, None, new, ITEMS, SIGMAS)).shape == (0, CANDIDATES)
    empty = new.take(np.zeros(0, dtype=np.int64))
    assert relevance(people, shelf(topics[:0], None, empty, ITEMS, SIGMAS)).shape == (ROWS, 0)


def test_more_than_a_batch_is_a_mistake():
    """Whoever calls cuts the batches."""
    rows = np.zeros((BATCH_ROWS + 1, 1), dtype=np.float32)
    nothing = np.zeros(0, dtype=np.int64)
    with pytest.raises(AssertionError):
        relevance(Readers(rows, rows[:, :0], rows[:, :0], nothing, nothing, nothing), shelf(rows, None, None, 0))


def test_int8_keeps_directions():
    """A vector and its int8 form differ by less than half a hundredth; a zero row stays zero."""
    rows = unit_rows(np.random.default_rng(5).normal(size=(50, 384)))
    rows[7] = 0
    stored = to_int8(rows)
    assert (stored.max(axis=1)[rows.any(axis=1)] <= 127).all()
    assert np.einsum("ij,ij->i", from_int8(stored), rows)[rows.any(axis=1)].min() > 0.999
    mean = from_int8(stored).mean(axis=0)
    assert not from_int8(stored)[7].any()
    assert not centred(stored, mean)[7].any()


def test_sparse_rows_are_what_they_are_made_of():
    """Dense, transposed, and multiplied."""
    rng = np.random.default_rng(6)
    dense = (rng.random((9, 7)) * (rng.random((9, 7)) < 0.3)).astype(np.float32)
    rows, columns = np.nonzero(dense)
    order = rng.permutation(len(rows))
    made = sparse_rows(rows[order], columns[order], dense[rows, columns][order], dense.shape)
    assert (made.dense() == dense).all()
    assert (made.transposed().dense() == dense.T).all()
