"""Fitting the item side of the ranking: items and who read them in, core.model.Model out.

Pure functions of their arguments with fixed seeds; streams/training.py reads the log and publishes. The recipe: ALS factors, EASE
columns, TF-IDF of titles, the mean of the vectors, and the spread of each component over sampled pairs of readers and items.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from implicit.als import AlternatingLeastSquares
from scipy.linalg import lapack
from scipy.sparse import csr_matrix

from core.model import Model, NewItem, Sigmas, cut, unit_sparse, words_of
from core.relevance import reading_weights
from core.sparse import Ints, SparseRows, weighted_sums
from core.vectors import Floats, Int8s, centred, components, from_int8, unit_rows

FACTORS: Final = 128
REGULARIZATION: Final = 5.0
ALPHA: Final = 10.0
ITERATIONS: Final = 12
"""Of ALS, as found best on papers; see the table of `make bench-ranking`."""

MEANING_DIMENSIONS: Final = 96
"""Of content vectors, after the projection: a quarter of the time, and it ranks as well."""

EASE_LAMBDA: Final = 100.0
"""What is added to the diagonal, in readers."""

MAX_ITEMS: Final = 20_000
"""Items of a model, the most read: EASE keeps 4 bytes for every pair of them while it is fitted, 1.6 GB."""

READING_SPREAD: Final = 0.75
"""Of the standard deviation of Z over histories as they are fitted, what is left of it when they are ranked by: entries have lost
weight by then, and the other components are of length 1 whatever the weights."""

SAMPLED_READERS: Final = 512
SAMPLED_ITEMS: Final = 1_024
"""Pairs over which the sigmas are taken."""


def fit(
    version: str,
    vector_model: str | None,
    items: Sequence[NewItem],
    reader: Ints,
    item: Ints,
    weight: npt.NDArray[Any],
) -> Model:
    """Return the model of items and of who engaged with them.

    Engagements are parallel arrays: reader (whole numbers), item (place in items) and weight (above 0). Items that nobody engaged
    with are left out. Vectors of another length than most are dropped.
    """
    counts = np.bincount(item, minlength=len(items))
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda place: (-counts[place], items[place].publication_id))[:MAX_ITEMS]
    kept = sorted(order, key=lambda place: items[place].publication_id)
    place_of = np.full(len(items), -1, dtype=np.int64)
    place_of[kept] = np.arange(len(kept))
    known = place_of[item] >= 0
    read = _reads(reader[known], place_of[item[known]], weight[known], len(kept))
    chosen = [items[place] for place in kept]
    vectors = _vectors(chosen)
    there = vectors.any(axis=1)
    mean = from_int8(vectors[there]).mean(axis=0) if there.any() else np.zeros(vectors.shape[1], dtype=np.float32)
    words = Counter(word for entry in chosen for word in set(words_of(entry.title)))
    vocabulary = {word: place for place, word in enumerate(sorted(word for word, count in words.items() if count > 1))}
    rarity = np.array([np.log((1 + len(kept)) / (1 + words[word])) + 1 for word in vocabulary], dtype=np.float32)
    texts = [[(word, rarity[vocabulary[word]]) for word in words_of(entry.title) if word in vocabulary] for entry in chosen]
    topics = {name: place for place, name in enumerate(sorted({name for entry in chosen for name, _ in entry.topics}))}
    factors, fold = _als(read)
    model = Model(
        version=version,
        vector_model=vector_model if there.any() else None,
        items=tuple(entry.publication_id for entry in chosen),
        mean=mean,
        projection=components(centred(vectors[there], mean), MEANING_DIMENSIONS),
        vectors=vectors,
        words=tuple(vocabulary),
        word_weights=rarity,
        item_words=unit_sparse(texts, vocabulary),
        topics=tuple(topics),
        item_topics=unit_sparse([entry.topics for entry in chosen], topics),
        factors=factors,
        fold=fold,
        columns=_ease(read),
        sigmas=Sigmas(),
        metrics={"items": str(len(kept)), "readers": str(read.shape[0]), "engagements": str(read.nnz)},
    )
    return replace(model, sigmas=_sigmas(model, chosen, read))


def _reads(reader: Ints, item: Ints, weight: npt.NDArray[Any], items: int) -> csr_matrix:
    """Return readers by items, a row for each reader who read anything; what was engaged with twice adds up."""
    _, row = np.unique(reader, return_inverse=True)
    shape = (int(row.max(initial=-1)) + 1, items)
    return csr_matrix((np.asarray(weight, dtype=np.float32), (row, item)), shape=shape)


def _vectors(items: Sequence[NewItem]) -> Int8s:
    lengths = Counter(len(item.vector) for item in items if item.vector)
    dimensions = min(lengths, key=lambda length: (-lengths[length], length), default=0)
    vectors = np.zeros((len(items), dimensions), dtype=np.int8)
    for place, item in enumerate(items):
        if item.vector is not None and len(item.vector) == dimensions:
            vectors[place] = np.frombuffer(item.vector, dtype=np.int8)
    return vectors


def _als(reads: csr_matrix) -> tuple[Floats, Floats]:
    """Return the items' factors (N, F), and the matrix (F, F) that takes a sum of them to a reader's factor.

    The exact solution for one reader takes a system of F equations of its own. (YᵀY + λI)⁻¹, the same for all, ranks as well and
    costs one product.
    """
    if not reads.nnz:
        return np.zeros((reads.shape[1], 0), dtype=np.float32), np.zeros((0, 0), dtype=np.float32)
    als = AlternatingLeastSquares(
        factors=FACTORS, regularization=REGULARIZATION, alpha=ALPHA, iterations=ITERATIONS, random_state=0, num_threads=1
    )
    als.fit(reads, show_progress=False)
    factors = np.asarray(als.item_factors, dtype=np.float32)
    wide = factors.astype(np.float64)
    fold = np.linalg.inv(wide.T @ wide + REGULARIZATION * np.eye(wide.shape[1]))
    return factors, np.asarray(fold, dtype=np.float32)


def _ease(reads: csr_matrix) -> SparseRows:
    """Return the reading columns (N, N), row c those of item c: EASE on who read what, whatever the weight, cut.

    With G = XᵀX + λI and P = G⁻¹, the weight of a read item i for item c is -P_ic / P_cc (Steck 2019). In place.
    """
    items = reads.shape[1]
    plain = csr_matrix((np.ones_like(reads.data), reads.indices, reads.indptr), shape=reads.shape)
    gram = np.asarray((plain.T @ plain).todense(), dtype=np.float32, order="F")
    gram[np.diag_indices(items)] += EASE_LAMBDA
    columns, values = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.float32)]
    starts = np.zeros(items + 1, dtype=np.int64)
    if items:
        lower, _ = lapack.spotrf(gram, overwrite_a=1, lower=1, clean=1)
        inverse, _ = lapack.spotri(lower, overwrite_c=1, lower=1)
        for item in range(items):
            whole = np.concatenate([inverse[item, :item], inverse[item:, item]])
            whole = whole / -whole[item]
            whole[item] = 0
            places, weights = cut(whole)
            columns.append(places)
            values.append(weights)
            starts[item + 1] = starts[item] + len(places)
    return SparseRows(starts, np.concatenate(columns).astype(np.int32), np.concatenate(values), items)


def _sigmas(model: Model, items: Sequence[NewItem], reads: csr_matrix) -> Sigmas:
    """Return what the components are divided by, from sampled readers and items, the items placed as if they were new."""
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(reads.shape[0])[:SAMPLED_READERS])
    places = np.sort(rng.permutation(len(items))[:SAMPLED_ITEMS])
    carried = model.carry_as_new([items[place] for place in places])
    topics = model.item_topics.dense()
    part = reads[rows].tocsr()
    owner = np.repeat(np.arange(len(rows)), np.diff(part.indptr))
    history = owner, part.indices.astype(np.int64), part.data
    meaning = unit_rows(weighted_sums(model.locate(model.vectors), *history, len(rows))) @ carried.vectors.T
    interests = unit_rows(weighted_sums(topics, *history, len(rows))) @ topics[places].T
    factors = model.reader_factors(*history, len(rows)) @ carried.factors.T
    weights = csr_matrix((reading_weights(owner, part.data, len(rows)), part.indices, part.indptr), shape=part.shape)
    there = carried.items >= 0
    column = csr_matrix((carried.weights[there], (np.nonzero(there)[0], carried.items[there])), shape=(len(places), len(items)))
    reading = np.asarray((weights @ column.T).todense())
    spreads = {"meaning": meaning, "topics": interests * 2, "factors": factors, "reading": reading * READING_SPREAD}
    found = {name: float(values.std()) for name, values in spreads.items() if values.size}
    return Sigmas(**{name: value for name, value in found.items() if value > 0})
