"""The item side of the ranking, fitted in batch and published as one blob: what new publications are carried into.

Consumes packed bytes (core/packing.py) that streams/fitting.py made; `load` refuses what it cannot rank with. A publication is
placed by its 30 nearest fitted items: its collaborative factor is the mean of theirs, and its reading column, which says what a
reader of each fitted item is likely to want, the mean of theirs. The subscriber's side is a weighted history of fitted items.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core.packing import pack, unpack
from core.ranking import rows_product
from core.sparse import Ints, SparseRows, product, sparse_rows, weighted_sums
from core.vectors import Floats, Int8s, centred, unit_rows

FORMAT: Final = 1
"""Of the blob; another one is refused."""

NEIGHBOURS: Final = 30
"""Fitted items whose factors and columns place a new publication."""

ALIKE: Final = 200
"""Fitted items that enter a reading column themselves: who read what is alike will want it too."""

ALIKE_PART: Final = 8.0
"""What they weigh in it together. Chosen with the other constants on a split inside the training data: see DECISIONS."""

COLUMN_ENTRIES: Final = 200
"""Entries kept of the reading column of a fitted item, those with the largest absolute weights."""

NEW_ENTRIES: Final = 100
"""Of that of a new publication: a mean of others' has many small ones, and ranks as well without."""

MEANING_PART: Final = 1.0
WORDS_PART: Final = 0.25
TOPICS_PART: Final = 0.5
"""What each kind of likeness counts when neighbours are looked for."""

CARRY_ROWS: Final = 64
"""Publications carried in one matrix product; fewer are padded, so that alone and together give the same bytes."""

TITLE_CHARACTERS: Final = 1_000
"""Of a title, those that are looked at."""

OWN_PART: Final = 16.0
"""What the column of a fitted item itself weighs in its own: some twice of what those of NEIGHBOURS weigh together."""

KNOWN_PART: Final = 0.5
"""What r of a fitted item counts beside that of a new publication: who has not read it by now had their chance."""

MOST_WEIGHT: Final = 1.0
"""Of an entry of a history where it stands for what was read together: to have saved something says no more than to have read
it about what else one reads."""

_WORD: Final = re.compile(r"\w\w+")


def words_of(title: str) -> list[str]:
    """Return the words of a title as the model knows them."""
    return _WORD.findall(title[:TITLE_CHARACTERS].casefold())


@dataclass(frozen=True, slots=True)
class Sigmas:
    """What each component is divided by: its standard deviation over sampled pairs of readers and items, that of topics doubled,
    that of reading times .75 (streams/fitting.py).

    So they are comparable; topics count half, because they are in the likeness of neighbours, and so in E and Z, already.
    """

    meaning: float = 0.15
    topics: float = 0.4
    factors: float = 0.1
    reading: float = 0.1

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"sigma of {item.name} is {value}, not a positive number: fit the model again")


@dataclass(frozen=True, slots=True)
class NewItem:
    """A publication that is to be carried into a model."""

    publication_id: str
    title: str
    vector: bytes | None
    """int8 values from the model's own embedding model (Model.vector_model), or None."""
    topics: Sequence[tuple[str, float]]
    """Topic and weight."""


@dataclass(frozen=True, slots=True)
class Carried:
    """Publications in a model's space, one row each; rows can be kept apart and joined again (`join`)."""

    vectors: Floats
    """(n, d): centred, unit rows; zeros where there is no vector."""
    factors: Floats
    """(n, F): unit rows; zeros where there is no neighbour."""
    items: npt.NDArray[np.int32]
    """(n, COLUMN_ENTRIES): fitted items of the reading column, -1 where it is shorter."""
    weights: Floats
    """(n, COLUMN_ENTRIES): their weights, 0 where it is shorter."""
    part: Floats
    """(n): what r of each counts: KNOWN_PART for a fitted item, 1 for a new one."""

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: Ints) -> "Carried":
        """Return some of the publications."""
        return Carried(self.vectors[rows], self.factors[rows], self.items[rows], self.weights[rows], self.part[rows])

    @staticmethod
    def join(parts: Sequence["Carried"]) -> "Carried":
        """Return the publications of several (at least one), one after the other."""
        return Carried(
            np.concatenate([part.vectors for part in parts]),
            np.concatenate([part.factors for part in parts]),
            np.concatenate([part.items for part in parts]),
            np.concatenate([part.weights for part in parts]),
            np.concatenate([part.part for part in parts]),
        )


@dataclass(frozen=True)
class Model:
    """A fitted model of N items, D dimensions of vectors, F factors, W words and T topics; any of D, F, W, T may be 0."""

    version: str
    vector_model: str | None
    """Name and hash of the embedding model; vectors of another one mean nothing here. None when D is 0."""
    items: tuple[str, ...]
    """publication_id of the fitted items, sorted."""
    mean: Floats
    """(D): mean of the unit vectors of the fitted items."""
    projection: Floats
    """(D, d): principal components of the centred vectors; most of their length in a third of the dimensions."""
    vectors: Int8s
    """(N, D): as the events have them; zeros where an item has none."""
    words: tuple[str, ...]
    word_weights: Floats
    """(W): inverse document frequency."""
    item_words: SparseRows
    """(N, W): unit rows."""
    topics: tuple[str, ...]
    item_topics: SparseRows
    """(N, T): unit rows."""
    factors: Floats
    """(N, F): ALS factors."""
    fold: Floats
    """(F, F): a reader's factor is the unit row of (Σ weight·factors of the items read) · fold, with fold = (YᵀY + λI)⁻¹."""
    columns: SparseRows
    """(N, N): row c has the reading column of item c: what its readers' histories weigh, at most COLUMN_ENTRIES."""
    sigmas: Sigmas
    metrics: Mapping[str, str]
    """Offline figures at fitting."""

    @cached_property
    def index(self) -> dict[str, int]:
        """Place of each fitted item by its publication_id: what histories are given as."""
        return {publication_id: place for place, publication_id in enumerate(self.items)}

    def locate(self, vectors: Int8s) -> Floats:
        """Return raw int8 vectors (n, D) in the space that A is measured in (n, d): centred, projected, unit rows."""
        return located(centred(vectors, self.mean), self.projection)

    def reader_factors(self, owner: Ints, item: Ints, weight: npt.NDArray[Any], readers: int) -> Floats:
        """Return the factor of each reader as unit rows (readers, F); zeros for who read no fitted item.

        The histories are flat and sorted by owner: owner (entries) is the reader's row, item (entries) a place in `items`.
        A weight counts MOST_WEIGHT at most.
        """
        sums = weighted_sums(self.factors, owner, item, np.minimum(weight, MOST_WEIGHT), readers)
        return unit_rows(rows_product(sums, self.fold))

    def carry(self, new: Sequence[NewItem]) -> Carried:
        """Return publications in this model's space; one that is a fitted item itself has its own factor and column.

        Alone and together give the same bytes. It takes some 2 ms a publication at 15,000 items: once a process, not per slot.
        """
        return self._carried(new, self.index)

    def carry_as_new(self, new: Sequence[NewItem]) -> Carried:
        """Return fitted items as if they were not: placed by the others alone."""
        return self._carried(new, {})

    def _carried(self, new: Sequence[NewItem], own: Mapping[str, int]) -> Carried:
        parts = [self._carry(new[start : start + CARRY_ROWS], own) for start in range(0, len(new), CARRY_ROWS)]
        return Carried.join(parts or [self._carry((), own)])

    def _carry(self, new: Sequence[NewItem], own: Mapping[str, int]) -> Carried:
        vectors = np.zeros((CARRY_ROWS, len(self.mean)), dtype=np.int8)
        for row, item in enumerate(new):
            if item.vector is not None and len(item.vector) == len(self.mean):
                vectors[row] = np.frombuffer(item.vector, dtype=np.int8)
        whole = centred(vectors, self.mean)
        factors = np.zeros((len(new), self.factors.shape[1]))
        items = np.full((len(new), COLUMN_ENTRIES), -1, dtype=np.int32)
        weights = np.zeros((len(new), COLUMN_ENTRIES), dtype=np.float32)
        if self.items and new:
            likeness = self._likeness(new, whole)
            for row, item in enumerate(new):
                itself = self.index.get(item.publication_id)
                if itself is not None:
                    likeness[row, itself] = 0
                alike, share = nearest(likeness[row])
                near, part = alike[:NEIGHBOURS], share[:NEIGHBOURS]
                part = part / (float(np.sqrt((part**2).sum())) or 1)
                if item.publication_id in own:
                    near, part = np.array([itself]), np.array([OWN_PART])
                factors[row] = (part[:, None] * self._unit_factors[near]).sum(axis=0)
                entries = COLUMN_ENTRIES if item.publication_id in own else NEW_ENTRIES
                columns, values = self._column(near, part, alike, share, entries)
                items[row, : len(columns)], weights[row, : len(columns)] = columns, values
        counts = np.array([KNOWN_PART if item.publication_id in own else 1.0 for item in new], dtype=np.float32)
        return Carried(located(whole[: len(new)], self.projection), unit_rows(factors), items, weights, counts)

    def _likeness(self, new: Sequence[NewItem], vectors: Floats) -> Floats:
        """Return the likeness of publications and fitted items (CARRY_ROWS, N)."""
        known, weights = self._word, self.word_weights
        found = np.float32(MEANING_PART) * (vectors @ self._centred.T)
        words = [[(word, weights[known[word]]) for word in words_of(item.title) if word in known] for item in new]
        found[: len(new)] += WORDS_PART * product(unit_sparse(words, self._word), self._by_word)
        topics = [[(topic, weight) for topic, weight in item.topics if topic in self._topic] for item in new]
        found[: len(new)] += TOPICS_PART * product(unit_sparse(topics, self._topic), self._by_topic)
        return found

    def _column(
        self, near: Ints, part: npt.NDArray[Any], alike: Ints, share: npt.NDArray[Any], entries: int
    ) -> tuple[Ints, Floats]:
        """Return Σ part · column over `near` + ALIKE_PART · share/Σ share over `alike`, cut to so many entries."""
        counts, place = self.columns.take(near)
        values, total = np.repeat(part, counts) * self.columns.values[place], float(share.sum())
        sums = np.bincount(self.columns.columns[place], values, minlength=len(self.items))
        if total:
            sums[alike] = sums[alike] + ALIKE_PART / total * share
        return cut(sums, entries)

    @cached_property
    def _unit_factors(self) -> Floats:
        return unit_rows(self.factors)

    @cached_property
    def _centred(self) -> Floats:
        return centred(self.vectors, self.mean)

    @cached_property
    def _word(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.words)}

    @cached_property
    def _topic(self) -> dict[str, int]:
        return {topic: place for place, topic in enumerate(self.topics)}

    @cached_property
    def _by_word(self) -> SparseRows:
        return self.item_words.transposed()

    @cached_property
    def _by_topic(self) -> SparseRows:
        return self.item_topics.transposed()

    def dump(self) -> bytes:
        """Return the model packed; `load` gives it back, equal."""
        head = {
            "format": FORMAT,
            "version": self.version,
            "vector_model": self.vector_model,
            "items": self.items,
            "words": self.words,
            "topics": self.topics,
            "sigmas": asdict(self.sigmas),
            "metrics": dict(self.metrics),
        }
        arrays: dict[str, npt.NDArray[Any]] = {name: getattr(self, name) for name in ARRAYS}
        for name in MATRICES:
            matrix: SparseRows = getattr(self, name)
            arrays |= {f"{name}.starts": matrix.starts, f"{name}.columns": matrix.columns, f"{name}.values": matrix.values}
        return pack(head, arrays)


ARRAYS: Final = {
    "mean": ("D", np.float32),
    "projection": ("DP", np.float32),
    "vectors": ("ND", np.int8),
    "word_weights": ("W", np.float32),
    "factors": ("NF", np.float32),
    "fold": ("FF", np.float32),
}
"""Shape and type of each array: N items, D dimensions, P of them after the projection, W words, F factors."""

MATRICES: Final = {"item_words": "W", "item_topics": "T", "columns": "N"}
"""Width of each sparse matrix; all have N rows."""


def load(data: bytes) -> Model:
    """Return a packed model; ValueError says what is wrong with it."""
    head, arrays = unpack(data)
    stated = head.get("format") if isinstance(head, dict) else None
    if stated != FORMAT:
        raise ValueError(f"the model has format {stated!r}, this program reads {FORMAT}: fit it again")
    try:
        names = {key: tuple(str(name) for name in head[key]) for key in ("items", "words", "topics")}
        sizes = {"N": len(names["items"]), "W": len(names["words"]), "T": len(names["topics"])}
        sizes |= {"D": arrays["mean"].size, "F": arrays["fold"].shape[0], "P": arrays["projection"].shape[1]}
        checked: dict[str, Any] = {name: _array(name, arrays[name], *wanted, sizes) for name, wanted in ARRAYS.items()}
        for name, width in MATRICES.items():
            checked[name] = _matrix(name, arrays, sizes["N"], sizes[width])
        sigmas = Sigmas(**head["sigmas"])
        version, vector_model, metrics = head["version"], head["vector_model"], head["metrics"]
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"the model lacks a part or has one of another kind ({error}): fit it again") from error
    for key, values in names.items():
        if len(set(values)) != len(values):
            raise ValueError(f"the model names some of its {key} twice: fit it again")
    checked |= names
    return Model(version=version, vector_model=vector_model, sigmas=sigmas, metrics=metrics, **checked)


def _array(name: str, array: npt.NDArray[Any], shape: str, kind: type, sizes: Mapping[str, int]) -> npt.NDArray[Any]:
    wanted = tuple(sizes[letter] for letter in shape)
    if array.shape != wanted or array.dtype != kind:
        raise ValueError(f"the model's {name} are {array.dtype}{array.shape}, not {np.dtype(kind)}{wanted}: fit it again")
    if not np.isfinite(array).all():
        raise ValueError(f"the model's {name} have a value that is no number (NaN or infinite): fit it again")
    return array


def _matrix(name: str, arrays: Mapping[str, npt.NDArray[Any]], rows: int, width: int) -> SparseRows:
    starts, columns, values = (arrays[f"{name}.{part}"] for part in ("starts", "columns", "values"))
    sizes = {"S": rows + 1, "E": len(columns)}
    _array(f"{name} (starts)", starts, "S", np.int64, sizes)
    _array(f"{name} (columns)", columns, "E", np.int32, sizes)
    _array(f"{name} (values)", values, "E", np.float32, sizes)
    if starts[0] != 0 or starts[-1] != len(columns) or (np.diff(starts) < 0).any():
        raise ValueError(f"the model's {name} have rows that do not follow each other: fit it again")
    if len(columns) and not (columns.min() >= 0 and columns.max() < width):
        raise ValueError(f"the model's {name} point outside the {width} that it knows: fit it again")
    return SparseRows(starts, columns, values, width)


def located(vectors: Floats, axes: Floats) -> Floats:
    """Return rows (n, dimensions) as unit rows of the space that axes (dimensions, d) span."""
    return unit_rows(rows_product(vectors, axes))


def nearest(likeness: npt.NDArray[Any]) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Return the ALIKE most alike of one row, those above 0, most alike first, and what each counts: likeness³."""
    count = min(ALIKE, len(likeness))
    near = np.sort(np.argpartition(-likeness, count - 1)[:count])
    near = near[np.argsort(-likeness[near], kind="stable")]
    near = near[likeness[near] > 0]
    return near, likeness[near].astype(np.float64) ** 3


def cut(column: npt.NDArray[Any], entries: int = COLUMN_ENTRIES) -> tuple[Ints, Floats]:
    """Return place and value of so many entries of a row, those with the largest absolute values."""
    some = np.flatnonzero(column)
    if len(some) > entries:
        some = np.sort(some[np.argpartition(-np.abs(column[some]), entries)[:entries]])
    return some, column[some].astype(np.float32)


def unit_sparse(rows: Sequence[Sequence[tuple[str, float]]], index: Mapping[str, int]) -> SparseRows:
    """Return rows of (name, weight) as unit rows (L2) of the columns that `index` gives them; equal names add up."""
    owner = np.array([row for row, pairs in enumerate(rows) for _ in pairs], dtype=np.int64)
    column = np.array([index[name] for pairs in rows for name, _ in pairs], dtype=np.int64)
    weight = np.array([weight for pairs in rows for _, weight in pairs], dtype=np.float64)
    width = max(len(index), 1)
    cells, place = np.unique(owner * width + column, return_inverse=True)
    sums = np.bincount(place, weight, minlength=len(cells)).astype(np.float64)  # of nothing it is of int
    length = np.sqrt(np.bincount(cells // width, sums**2, minlength=len(rows)))[cells // width]
    values = np.divide(sums, length, out=np.zeros_like(sums), where=length > 0)
    return sparse_rows(cells // width, cells % width, values, (len(rows), len(index)))
