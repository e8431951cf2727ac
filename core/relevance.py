"""How relevant publications are to readers: r = A/σA + B/σB + E/σE + Z/σZ, the sum of what exists.

A, meaning: cosine of the content vector and the reader's sum of what they read. B, topics: cosine of topics and interests. E,
factors: cosine of collaborative factors. Z, reading: the weighted sum over the reader's history of the publication's column
(`reading_weights`), so that a long history outweighs the other components by a little only.
What r of a fitted item counts is less (model.KNOWN_PART).
A component that a reader or a publication has no row for (zeros) adds nothing, so every cold start is a working state.

Batches are padded to BATCH_ROWS, because a matrix product of one row differs from the same row in a larger product; so alone and
in a batch a reader gets the same answer.
"""

import itertools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core.model import MOST_WEIGHT, Carried, Sigmas
from core.ranking import BATCH_ROWS, BLOCK_ROWS
from core.sparse import Ints, Postings, entries_of, sparse_rows
from core.vectors import Floats

DEFAULT_SIGMAS: Final = Sigmas()
"""Without a fitted model."""

LENGTH_POWER: Final = 0.25
"""1 would make all histories equally long: who reads much is likelier to read what their history speaks for."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """The candidates of a slot, made ready once for all its readers."""

    matrix: Floats
    """(T + d + F, candidates): topics, vectors and factors, each divided by its sigma."""
    postings: Postings | None
    """The reading columns by fitted item (fitted items, candidates), divided by their sigma; None without a model."""
    sigmas: Sigmas
    part: Floats
    """(candidates): what r of each counts (Carried.part), which the matrix and the postings are multiplied by."""

    @property
    def candidates(self) -> int:
        """How many there are."""
        return int(self.matrix.shape[1])


def shelf(topics: Floats, vectors: Floats | None, carried: Carried | None, items: int, sigmas: Sigmas = DEFAULT_SIGMAS) -> Shelf:
    """Return candidates ready for `relevance`.

    topics is (candidates, T), unit rows. With a model: carried has a row a candidate, items is len(model.items), sigmas those of
    the model, and vectors None. Without one: carried is None, items 0, and vectors (candidates, d) the content vectors as unit
    rows (vectors.from_int8), or None.
    """
    parts = [topics / np.float32(sigmas.topics)]
    if carried is not None:
        vectors = carried.vectors
        parts.append(vectors / np.float32(sigmas.meaning))
        parts.append(carried.factors / np.float32(sigmas.factors))
    elif vectors is not None:
        parts.append(vectors / np.float32(sigmas.meaning))
    postings, part = None, np.ones(len(topics), dtype=np.float32) if carried is None else carried.part
    if carried is not None and items:
        rows, places = np.nonzero(carried.items >= 0)
        fitted, weights = carried.items[rows, places], carried.weights[rows, places] / np.float32(sigmas.reading)
        postings = Postings(sparse_rows(fitted, rows, weights * part[rows], (items, len(topics))))
    matrix = np.concatenate(parts, axis=1).T * part
    return Shelf(np.ascontiguousarray(matrix, dtype=np.float32), postings, sigmas, part)


@dataclass(frozen=True, slots=True)
class Readers:
    """Readers whose history is summed up; `relevance` takes at most BATCH_ROWS at once."""

    interests: Floats
    """(rows, T): B, unit rows (ranking.interest)."""
    meanings: Floats
    """(rows, d): A, unit rows of Σ weight·located vector of what they read; (rows, 0) when the shelf has no vectors."""
    factors: Floats
    """(rows, F): E, Model.reader_factors; (rows, 0) without a model."""
    owner: Ints
    """(entries), sorted: whose history an entry belongs to, 0 to rows - 1."""
    item: Ints
    """(entries): place of a fitted item in Model.items. What was read but is not fitted has no entry."""
    weight: npt.NDArray[Any]
    """(entries): decayed weight above 0, as in B."""

    def part(self, start: int, stop: int) -> "Readers":
        """Return the readers from start to stop, as rows 0 to stop - start - 1."""
        first, last = np.searchsorted(self.owner, [start, stop])
        sides = (self.interests[start:stop], self.meanings[start:stop], self.factors[start:stop])
        return Readers(*sides, self.owner[first:last] - start, self.item[first:last], self.weight[first:last])

    def some(self, rows: Ints) -> "Readers":
        """Return these readers (sorted) in their order."""
        mine, owner = entries_of(self.owner, rows)
        sides = (self.interests[rows], self.meanings[rows], self.factors[rows])
        return Readers(*sides, owner, self.item[mine], self.weight[mine])

    def reading_weights(self) -> Floats:
        """Return what the entries weigh in Z."""
        return reading_weights(self.owner, self.weight, len(self.interests))


def reading_weights(owner: Ints, weight: npt.NDArray[Any], rows: int) -> Floats:
    """Return what entries of histories weigh in Z: at most 1 each, over the length (L2) of each reader's to LENGTH_POWER."""
    capped = np.minimum(weight, MOST_WEIGHT)
    length = np.bincount(owner, np.square(capped), minlength=rows) ** (LENGTH_POWER / 2)
    return np.asarray(capped / length[owner], dtype=np.float32)


def relevance(readers: Readers, candidates: Shelf) -> Floats:
    """Return r of every candidate for every reader of a batch (rows, candidates)."""
    rows = len(readers.interests)
    assert rows <= BATCH_ROWS, "batches are cut before"
    padded = np.zeros((BATCH_ROWS, len(candidates.matrix)), dtype=np.float32)
    np.concatenate([readers.interests, readers.meanings, readers.factors], axis=1, out=padded[:rows])
    scores = (padded @ candidates.matrix)[:rows]
    if candidates.postings is not None:
        weight = readers.reading_weights()
        ends = np.searchsorted(readers.owner, np.arange(0, rows + BLOCK_ROWS, BLOCK_ROWS)).tolist()
        for first, last in itertools.pairwise(ends):
            candidates.postings.add(readers.owner[first:last], readers.item[first:last], weight[first:last], scores)
    return scores
