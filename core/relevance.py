"""How relevant publications are to readers: r = A/σA + B/σB + E/σE + Z/σZ, the sum of what exists.

A, meaning: cosine of the content vector and the reader's sum of what they read. B, topics: cosine of topics and interests. E,
factors: cosine of collaborative factors. Z, reading: the weighted sum over the reader's history of the publication's column, the
weights scaled to length 1 (L2), so that neither a long history nor strong engagement outweighs the other components.
A component that a reader or a publication has no row for (zeros) adds nothing, so every cold start is a working state.

Batches are padded to BATCH_ROWS, because a matrix product of one row differs from the same row in a larger product; so alone and
in a batch a reader gets the same answer.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core.model import Carried, Sigmas
from core.ranking import BATCH_ROWS
from core.sparse import Ints, SparseRows, sparse_rows
from core.vectors import Floats

DEFAULT_SIGMAS: Final = Sigmas()
"""Without a fitted model."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """The candidates of a slot, made ready once for all its readers."""

    matrix: Floats
    """(T + d + F, candidates): topics, vectors and factors, each divided by its sigma."""
    postings: SparseRows | None
    """(fitted items, candidates): the reading columns by item, divided by their sigma; None without a model."""
    sigmas: Sigmas

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
    postings = None
    if carried is not None and items:
        rows, places = np.nonzero(carried.items >= 0)
        fitted, weights = carried.items[rows, places], carried.weights[rows, places] / np.float32(sigmas.reading)
        postings = sparse_rows(fitted, rows, weights, (items, len(topics)))
    return Shelf(np.ascontiguousarray(np.concatenate(parts, axis=1).T, dtype=np.float32), postings, sigmas)


@dataclass(frozen=True, slots=True)
class Readers:
    """A batch of at most BATCH_ROWS readers."""

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


@dataclass(frozen=True, slots=True)
class Relevance:
    """What `relevance` found for a batch."""

    scores: Floats
    """(rows, candidates): r. `ranking.best` overwrites it."""
    cell: Ints
    """(terms): row * candidates + candidate of each term of Z."""
    value: Floats
    """(terms): its share of r."""
    ends: Ints
    """(entries): where the terms of each entry of the readers' histories end."""

    def because(self, chosen: Ints, readers: Readers) -> tuple[Ints, Floats, Floats]:
        """Return why candidates were chosen (rows, k; -1 for none), as far as reading goes; all in the shape of chosen.

        The item: place of the fitted item in the reader's history with the largest term, -1 when there is none above 0; its term;
        and Z/σZ, the sum of all terms.
        """
        rows, candidates = self.scores.shape
        item = np.full(chosen.shape, -1, dtype=np.int64)
        largest, total = np.zeros(chosen.shape, dtype=np.float32), np.zeros(chosen.shape, dtype=np.float32)
        if not chosen.size or not len(self.cell):
            return item, largest, total
        slot = np.full(rows * candidates, -1, dtype=np.int32)
        asked = np.flatnonzero(chosen.ravel() >= 0)
        slot[(np.arange(rows)[:, None] * candidates + chosen).ravel()[asked]] = asked
        concerned = np.flatnonzero(slot[self.cell] >= 0)
        place, value = slot[self.cell[concerned]], self.value[concerned]
        total = np.bincount(place, value, minlength=chosen.size).reshape(chosen.shape).astype(np.float32)
        order = np.lexsort((-concerned, value, place))
        last: Ints = order[np.flatnonzero(np.diff(place[order], append=-1))]
        last = last[value[last] > 0]
        item.ravel()[place[last]] = readers.item[np.searchsorted(self.ends, concerned[last], side="right")]
        largest.ravel()[place[last]] = value[last]
        return item, largest, total


def relevance(readers: Readers, candidates: Shelf) -> Relevance:
    """Return r of every candidate for every reader of a batch."""
    rows = len(readers.interests)
    assert rows <= BATCH_ROWS, "batches are cut before"
    sides = np.concatenate([readers.interests, readers.meanings, readers.factors], axis=1)
    padded = np.zeros((BATCH_ROWS, len(candidates.matrix)), dtype=np.float32)
    padded[:rows] = sides
    scores = (padded @ candidates.matrix)[:rows]
    width, postings = candidates.candidates, candidates.postings
    if postings is None or not len(readers.item):
        none = np.zeros(0, dtype=np.int64)
        return Relevance(scores, none, np.zeros(0, dtype=np.float32), none)
    length = np.sqrt(np.bincount(readers.owner, np.square(readers.weight), minlength=rows))
    weight = np.asarray(readers.weight / length[readers.owner], dtype=np.float32)
    counts, place = postings.take(readers.item)
    cell = np.repeat(readers.owner * width, counts) + np.take(postings.columns, place)
    value = np.repeat(weight, counts) * np.take(postings.values, place)
    np.add.at(scores.reshape(-1), cell, value)
    return Relevance(scores, cell, value, np.cumsum(counts))
