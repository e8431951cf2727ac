"""The tests on papers: new publications for readers, readers for new publications, and known publications.

They call what the pipeline calls: streams.fitting.fit, Model.carry, relevance.shelf and relevance.relevance. A history is
given as the pipeline gives it: weights of 1 that halve with time, for which the numbers of the items stand
(HALF_LIFE_SHARE) where the test is later than the history. Every other constant is in the code that is called.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.model import Model, NewItem, unit_sparse, words_of
from core.ranking import BATCH_ROWS, interest
from core.relevance import Readers, Shelf, relevance, shelf
from core.sparse import Ints, product, weighted_sums
from core.vectors import Floats, unit_rows
from streams.fitting import fit
from tests.benchmarks.ranking_data import Papers

HALF_LIFE_SHARE = 0.5
"""Of the items before a test, those in which a save loses half of its weight. Chosen on the split that `--inside` measures."""

Scores = Iterator[tuple[int, Floats]]
"""First row of a batch, and its scores (rows, candidates)."""


@dataclass(frozen=True)
class Figures:
    """Recall and NDCG, or recall and AUC, of one test."""

    first: float
    second: float


@dataclass(frozen=True)
class Case:
    """Readers with their histories (flat, sorted by reader), candidates, and what is relevant for whom."""

    owner: Ints
    history: Ints
    """Place in the papers' items."""
    readers: int
    candidates: Ints
    relevant: list[Ints]
    """For each reader, places in candidates."""
    half_life: float = np.inf
    """Of the weight of a save, in items before the last one of all histories."""


def gains(count: int) -> npt.NDArray[np.float64]:
    """Return 1 / log2(rank + 1) for the first ranks."""
    return 1 / np.log2(np.arange(2, count + 2))


def best_places(scores: Floats, count: int) -> Ints:
    """Return the places of the best of each row, best first, ties by place."""
    count = min(count, scores.shape[1])
    near = np.sort(np.argpartition(-scores, count - 1, axis=1)[:, :count], axis=1)
    order = np.argsort(-np.take_along_axis(scores, near, axis=1), axis=1, kind="stable")
    return np.take_along_axis(near, order, axis=1)


def recall_and_ndcg(found: Ints, relevant: list[Ints]) -> tuple[list[float], list[float]]:
    """Return recall at the width of found, and binary NDCG at 10, of each row."""
    recall, ndcg = [], []
    for places, wanted in zip(found, relevant, strict=True):
        hits = np.isin(places, wanted)
        recall.append(hits.sum() / len(wanted))
        ndcg.append((hits[:10] * gains(len(hits[:10]))).sum() / gains(min(10, len(wanted))).sum())
    return recall, ndcg


def cold_case(papers: Papers, first: int, end: int, *, everybody: bool = False) -> tuple[Papers, Case]:
    """Return the papers before `first` with who saved them, and the test on those from first to end - 1.

    Its readers are those who saved some of both, or with `everybody` all who saved one before.
    """
    before = papers.item < first
    fresh = (papers.item >= first) & (papers.item < end)
    both = np.unique(papers.reader[before])
    if not everybody:
        both = np.intersect1d(both, papers.reader[fresh])
    place = np.full(int(papers.reader.max()) + 1, -1)
    place[both] = np.arange(len(both))
    mine = before & (place[papers.reader] >= 0)
    tests = fresh & (place[papers.reader] >= 0)
    owners, news = place[papers.reader[tests]], papers.item[tests] - first
    relevant = np.split(news, np.cumsum(np.bincount(owners, minlength=len(both)))[:-1])
    train = Papers(papers.items[:first], papers.reader[before], papers.item[before])
    return train, Case(
        place[papers.reader[mine]], papers.item[mine], len(both), np.arange(first, end), relevant, first * HALF_LIFE_SHARE
    )


def held_out(papers: Papers, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Return which saves are a fifth of their reader's."""
    held, starts = np.zeros(len(papers.item), dtype=np.bool_), np.flatnonzero(np.diff(papers.reader, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(papers.item)], strict=True):
        held[start + rng.permutation(end - start)[: (end - start) // 5]] = True
    return held


def mixed_case(papers: Papers, first: int, end: int, rng: np.random.Generator) -> tuple[Papers, Case]:
    """Return the papers before `first` without a fifth of each reader's saves, and the test on known and new ones in one list.

    Relevant are that fifth, and what was saved of the papers from first to end - 1; the readers are those who have both.
    """
    before = papers.item < first
    old = Papers(papers.items[:first], papers.reader[before], papers.item[before])
    held = held_out(old, rng)
    train = Papers(old.items, old.reader[~held], old.item[~held])
    fresh = (papers.item >= first) & (papers.item < end)
    readers = np.intersect1d(np.intersect1d(papers.reader[fresh], old.reader[held]), train.reader)
    wanted = np.isin(papers.reader, readers) & fresh
    tests = np.concatenate([old.reader[held], papers.reader[wanted]]), np.concatenate([old.item[held], papers.item[wanted]])
    relevant = [tests[1][tests[0] == reader] for reader in readers]
    mine = np.isin(train.reader, readers)
    owner = np.searchsorted(readers, train.reader[mine])
    return train, Case(owner, train.item[mine], len(readers), np.arange(end), relevant, first * HALF_LIFE_SHARE)


def warm_case(papers: Papers, rng: np.random.Generator) -> tuple[Papers, Case]:
    """Return a fifth of each reader's saves held out: what is left, and the test on all papers."""
    held = held_out(papers, rng)
    tested = np.unique(papers.reader[held])
    place = np.full(int(papers.reader.max()) + 1, -1)
    place[tested] = np.arange(len(tested))
    mine = ~held & (place[papers.reader] >= 0)
    ends = np.cumsum(np.bincount(place[papers.reader[held]]))
    relevant = np.split(papers.item[held], ends[:-1])
    train = Papers(papers.items, papers.reader[~held], papers.item[~held])
    return train, Case(place[papers.reader[mine]], papers.item[mine], len(tested), np.arange(len(papers.items)), relevant)


def fitted(train: Papers, vector_model: str) -> Model:
    """Return the model of the training part."""
    return fit("bench", vector_model, train.items, train.reader, train.item, np.ones(len(train.item)))


class Ranking:
    """Readers and candidates of a case in a model's space."""

    def __init__(self, model: Model, papers: Papers, case: Case) -> None:
        self.case = case
        new = [papers.items[place] for place in case.candidates.tolist()]
        self.model, self.names = model, [item.publication_id for item in new]
        self._carried = model.carry(new)
        columns = {
            name: place for place, name in enumerate(sorted({*model.topics, *(n for item in new for n, _ in item.topics)}))
        }
        self.topics = unit_sparse([item.topics for item in new], columns).dense()
        self.shelf = shelf(self.topics, None, self._carried, len(model.items), model.sigmas)
        place = np.array([model.index.get(item.publication_id, -1) for item in papers.items])
        known = place[case.history] >= 0
        self._owner, self._item = case.owner[known], place[case.history[known]]
        self._weight = 0.5 ** ((case.history.max(initial=0) - case.history[known]) / case.half_life)
        fitted_items = [papers.items[int(name)] for name in model.items]
        self._read_topics = unit_sparse([item.topics for item in fitted_items], columns).dense()
        self._read_vectors = model.locate(model.vectors)

    def batches(self, *, aged: bool = True) -> Iterator[tuple[int, Readers]]:
        """Yield the readers; with weights of 1 for the baselines, which know no age."""
        for start in range(0, self.case.readers, BATCH_ROWS):
            rows = min(BATCH_ROWS, self.case.readers - start)
            low, high = np.searchsorted(self._owner, [start, start + rows])
            owner, item, weight = self._owner[low:high] - start, self._item[low:high], self._weight[low:high]
            weight = weight if aged else np.ones(len(weight))
            engaged = weighted_sums(self._read_topics, owner, item, weight, rows)
            yield (
                start,
                Readers(
                    interest(np.zeros_like(engaged), engaged, np.bincount(owner, weight, minlength=rows)),
                    unit_rows(weighted_sums(self._read_vectors, owner, item, weight, rows)),
                    self.model.reader_factors(owner, item, weight, rows),
                    owner,
                    item,
                    weight,
                ),
            )

    def scores(self) -> Scores:
        """Yield r, as the pipeline computes it."""
        for start, readers in self.batches():
            yield start, relevance(readers, self.shelf)

    def by_topics(self) -> Scores:
        """Yield component B alone."""
        only: Shelf = shelf(self.topics, None, None, 0)
        nothing = np.zeros((0,), dtype=np.int64)
        for start, readers in self.batches(aged=False):
            none = np.zeros((len(readers.interests), 0), dtype=np.float32)
            yield start, relevance(Readers(readers.interests, none, none, nothing, nothing, nothing), only)

    def by_meaning(self) -> Scores:
        """Yield component A alone."""
        bare, nothing = np.zeros((len(self.names), 0), dtype=np.float32), np.zeros(0, dtype=np.int64)
        only = shelf(bare, self._carried.vectors, None, 0)
        for start, readers in self.batches(aged=False):
            none = np.zeros((len(readers.interests), 0), dtype=np.float32)
            yield start, relevance(Readers(none, readers.meanings, none, nothing, nothing, nothing), only)

    def own_columns(self) -> Floats:
        """Return the plain EASE columns of the candidates that are fitted items (fitted items, candidates), zeros for others."""
        found = np.zeros((len(self.model.items), len(self.case.candidates)), dtype=np.float32)
        place = {name: column for column, name in enumerate(self.names)}
        columns = [place[name] for name in self.model.items if name in place]
        known = [row for row, name in enumerate(self.model.items) if name in place]
        found[:, columns] = self.model.columns.dense()[known].T
        return found

    def by_reading(self, columns: Floats) -> Scores:
        """Yield the plain sum of dense columns (fitted items, candidates) over what was read."""
        for start, readers in self.batches(aged=False):
            yield start, weighted_sums(columns, readers.owner, readers.item, readers.weight, len(readers.interests))


def text_columns(ranking: Ranking, new: list[NewItem]) -> Floats:
    """Return TF-IDF cosines of fitted items and candidates (fitted items, candidates): summed over what was read, a profile."""
    index = {word: place for place, word in enumerate(ranking.model.words)}
    rarity = ranking.model.word_weights
    words = [[(word, rarity[index[word]]) for word in words_of(item.title) if word in index] for item in new]
    return product(ranking.model.item_words, unit_sparse(words, index).transposed())


def evaluated(case: Case, scores: Scores, *, hide: bool = False) -> Figures:
    """Return Recall@100 and NDCG@10 over readers; `hide` keeps what was read out of the lists."""
    recall: list[float] = []
    ndcg: list[float] = []
    for start, rows in scores:
        if hide:
            low, high = np.searchsorted(case.owner, [start, start + len(rows)])
            rows[case.owner[low:high] - start, case.history[low:high]] = -np.inf
        more = recall_and_ndcg(best_places(rows, 100), case.relevant[start : start + len(rows)])
        recall += more[0]
        ndcg += more[1]
    return Figures(float(np.mean(recall)), float(np.mean(ndcg)))


def share_of_new(case: Case, scores: Scores, first: int) -> tuple[float, float]:
    """Return which share of the best hundred of each reader has a number from `first` on, and of what is relevant."""
    found = [best_places(rows, 100) >= first for _, rows in scores]
    return float(np.concatenate(found).mean()), float((np.concatenate(case.relevant) >= first).mean())


def evaluated_alerts(case: Case, scores: Scores) -> Figures:
    """Return Recall@100 over publications when readers are ranked for each, and the mean AUC."""
    matrix = np.concatenate([rows for _, rows in scores]).T
    wanted: list[list[int]] = [[] for _ in case.candidates]
    for reader, places in enumerate(case.relevant):
        for place in places.tolist():
            wanted[place].append(reader)
    recall, areas = [], []
    for row, readers in zip(matrix, wanted, strict=True):
        if readers:
            recall.append(np.isin(best_places(row[None], 100)[0], readers).sum() / len(readers))
            ranks = np.argsort(np.argsort(row, kind="stable"), kind="stable")[readers]
            others = len(row) - len(readers)
            if others:
                areas.append((ranks.sum() - len(readers) * (len(readers) - 1) / 2) / (len(readers) * others))
    return Figures(float(np.mean(recall)), float(np.mean(areas)))
