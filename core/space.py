"""What is worked out once for all readers of a slot, in every shard of the process: candidates on their shelf, and likenesses.

A cache, not a state: everything in it is a pure function of publications, named by publication_id and revision, which every shard
has with the same content, and of the fitted model. It holds the last few slots' candidates and a bounded number of publications.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core.content import Candidates, ContentTable, Rows
from core.model import Carried, Model, NewItem, located
from core.ranking import BATCH_ROWS, rows_product
from core.relevance import DEFAULT_SIGMAS, Shelf, shelf
from core.sparse import Ints
from core.twins import twins
from core.vectors import Floats, Int8s, components, from_int8

Key = tuple[str, int]
"""publication_id and revision."""

SHELVES: Final = 2
"""Sets of candidates kept: two newsletters with rules of their own may be decided in turns."""

PUBLICATIONS: Final = 8_192
"""Publications kept in vectors and likenesses: at most 12 MB of vectors (of 384 dimensions, for each shelf), and 32 MB of
likenesses to 2,000 candidates."""

DIMENSIONS: Final = 128
"""Of content vectors without a fitted model, after the projection: a third of the time, and it ranks as well."""

PROJECTED_FROM: Final = 4 * DIMENSIONS
"""Candidates with vectors from which on these are projected: fewer do not tell which dimensions matter, and take little time."""

LONG: Final = 512
"""Dimensions above which finding the axes of vectors takes so long (0.1 s at 768, seconds above 2,000) that a thread should."""

LIKENESS_SCALE: Final = 32_000
"""Likenesses are kept in 16 bits, as multiples of 1/32000."""


class Lines:
    """A line for each of a bounded number of publications."""

    def __init__(self, width: int, kind: type) -> None:
        self.data: npt.NDArray[Any] = np.zeros((0, width), dtype=kind)
        self._line_of: dict[Key, int] = {}

    def of(self, keys: Sequence[Key], make: Callable[[Rows], npt.NDArray[Any]]) -> Rows:
        """Return the line in `data` of each publication; make(places in keys) returns those that are not there yet."""
        missing = np.array([place for place, key in enumerate(keys) if key not in self._line_of], dtype=np.int64)
        if len(missing) and len(missing) + len(self._line_of) > PUBLICATIONS:
            self.data, self._line_of = self.data[:0], {}
            missing = np.arange(len(keys))
        if len(missing):
            first = len(self._line_of)
            self._line_of.update({keys[place]: first + number for number, place in enumerate(missing.tolist())})
            self.data = np.concatenate([self.data, make(missing)])
        return np.array([self._line_of[key] for key in keys], dtype=np.int64)


class Candidacy:
    """One set of candidates, ready for all their readers."""

    def __init__(self, shelved: Shelf, topics: Floats, vectors: Floats | None, axes: Floats | None = None) -> None:
        self.twins: Ints | None = None
        """Which candidates are alike (core.twins)."""
        self.shelf, self.meaning = shelved, vectors is not None
        """meaning: whether the shelf has vectors."""
        self.axes = axes
        """(dimensions, d): the axes of the shelf's vectors, when these were projected without a fitted model."""
        self.located = None if axes is None else Lines(axes.shape[1], np.float32)
        """Vectors of publications along these axes."""
        self._compared = topics if vectors is None else vectors
        self.likeness = Lines(len(topics), np.int16)
        """Cosine of a publication with each candidate, in units of 1 / LIKENESS_SCALE: of their vectors, or of their topics when
        meaning plays no part. It only tells which reason is named."""

    def liken(self, keys: Sequence[Key], vectors: Callable[[Rows], Floats]) -> Rows:
        """Return the lines of `likeness` of publications; vectors(places in keys) returns their vectors, or topics."""
        columns = self._compared.T

        def make(places: Rows) -> npt.NDArray[np.int16]:
            found = np.zeros((len(places), columns.shape[1]), dtype=np.int16)
            for start in range(0, len(places), BATCH_ROWS):
                some = slice(start, start + BATCH_ROWS)
                found[some] = np.rint(rows_product(vectors(places[some]), columns) * LIKENESS_SCALE)
            return found

        return self.likeness.of(keys, make)


class Space:
    """What is prepared for one fitted model, or for none."""

    def __init__(self, model: Model | None = None) -> None:
        self.model = model
        self._candidacies: OrderedDict[tuple[str, str], Candidacy] = OrderedDict()
        self._located: dict[str, Lines] = {}
        self._carried: tuple[dict[Key, int], Carried | None] = ({}, None)
        self._axes: OrderedDict[str, Floats] = OrderedDict()

    def may_take_long(self, content: ContentTable) -> bool:
        """Return whether there are vectors whose axes take long to find."""
        return self.model is None and max(content.dimensions.values(), default=0) > LONG

    def long_vectors(self, content: ContentTable, candidates: Candidates) -> Int8s | None:
        """Return vectors of candidates for `axes_of` and `take_axes`; None when they are short, or the axes are known."""
        if candidates.digest in self._axes or ("blend", candidates.digest) in self._candidacies:
            return None
        raw = content.vectors(content.vector_model(candidates.index), candidates.index)
        return raw if raw.shape[1] > LONG and _projected(raw) else None

    def take_axes(self, candidates: Candidates, axes: Floats) -> None:
        """Take the axes of candidates, which were worked out beforehand."""
        self._axes[candidates.digest] = axes
        if len(self._axes) > SHELVES:
            self._axes.popitem(last=False)

    def candidacy(self, content: ContentTable, candidates: Candidates, policy: str) -> Candidacy:
        """Return candidates ready to be ranked by a policy (core.names.RANKINGS)."""
        key = (policy, candidates.digest)
        found = self._candidacies.get(key)
        if found is None:
            found = self._prepared(content, candidates, policy)
            if not len(candidates.index):
                return found  # of a chunk that nobody is due in, and not worth keeping
            found.twins = alike(content, candidates)
            self._candidacies[key] = found
            if len(self._candidacies) > SHELVES:
                self._candidacies.popitem(last=False)
        self._candidacies.move_to_end(key)
        return found

    def _prepared(self, content: ContentTable, candidates: Candidates, policy: str) -> Candidacy:
        if policy != "blend":
            return Candidacy(shelf(candidates.topics, None, None, 0), candidates.topics, None)
        if self.model is not None:
            carried = self._carry(content, candidates.index)
            ready = shelf(candidates.topics, None, carried, len(self.model.items), self.model.sigmas)
            return Candidacy(ready, candidates.topics, carried.vectors if carried.vectors.shape[1] else None)
        name = content.vector_model(candidates.index)
        if name is None:
            return Candidacy(shelf(candidates.topics, None, None, 0), candidates.topics, None)
        raw = content.vectors(name, candidates.index)
        vectors = from_int8(raw)
        if not _projected(raw):
            return Candidacy(shelf(candidates.topics, vectors, None, 0, DEFAULT_SIGMAS), candidates.topics, vectors)
        known = self._axes.get(candidates.digest)
        axes = axes_of(raw) if known is None else known
        ready = shelf(candidates.topics, located(vectors, axes), None, 0, DEFAULT_SIGMAS)
        return Candidacy(ready, candidates.topics, vectors, axes)

    def read(self, content: ContentTable, rows: Rows, candidates: Candidates, candidacy: Candidacy) -> tuple[Floats, Rows]:
        """Return the vectors of publications (rows, d) in the space of the candidates' own, zeros for who has none, and the line
        of each in the candidates' `likeness`.
        """
        keys = keys_of(content, rows)
        name = self.model.vector_model if self.model is not None else content.vector_model(candidates.index)
        dimensions = content.dimensions.get(name or "", 0)
        if self.model is not None and dimensions != len(self.model.mean):
            none = np.zeros((len(rows), self.model.projection.shape[1]), dtype=np.float32)
            return none, candidacy.liken(keys, none.__getitem__)

        def whole(places: Rows) -> Floats:
            raw = content.vectors(name, rows[places])
            return self.model.locate(raw) if self.model is not None else from_int8(raw)

        axes, lines = candidacy.axes, candidacy.located
        if axes is not None and lines is not None:
            found = lines.of(keys, lambda places: located(whole(places), axes))
            return lines.data[found], candidacy.liken(keys, whole)
        width = dimensions if self.model is None else self.model.projection.shape[1]
        lines = self._located.setdefault(name or "", Lines(width, np.float32))
        found = lines.of(keys, whole)
        vectors = lines.data[found]
        return vectors, candidacy.liken(keys, vectors.__getitem__)

    def _carry(self, content: ContentTable, rows: Rows) -> Carried:
        """Return publications in the model's space; each is carried once while it is a candidate."""
        assert self.model is not None
        keys, (place_of, known) = keys_of(content, rows), self._carried
        missing = [place for place, key in enumerate(keys) if key not in place_of]
        if missing:
            if len(place_of) + len(missing) > PUBLICATIONS:
                place_of, known, missing = {}, None, list(range(len(keys)))
            new = self.model.carry([self._item(content, int(rows[place])) for place in missing])
            place_of = {**place_of, **{keys[place]: len(place_of) + number for number, place in enumerate(missing)}}
            known = new if known is None else Carried.join([known, new])
            self._carried = (place_of, known)
        if known is None:
            return self.model.carry([])
        return known.take(np.array([place_of[key] for key in keys], dtype=np.int64))

    def _item(self, content: ContentTable, row: int) -> NewItem:
        assert self.model is not None
        item = content.items[row]
        vector = item.vector if item.vector_model == self.model.vector_model else b""
        return NewItem(item.publication_id, item.title, vector or None, item.topics)


def _projected(raw: Int8s) -> bool:
    return bool(np.count_nonzero(raw.any(axis=1)) >= PROJECTED_FROM and raw.shape[1] > DIMENSIONS)


def axes_of(raw: Int8s) -> Floats:
    """Return the axes (dimensions, DIMENSIONS) along which content vectors are compared."""
    return components(from_int8(raw), DIMENSIONS)


def alike(content: ContentTable, candidates: Candidates) -> Ints | None:
    """Return which candidates are alike, as core.twins says it."""
    vectors = content.vectors(content.vector_model(candidates.index), candidates.index)
    return twins([content.items[row].title for row in candidates.index.tolist()], vectors)


def keys_of(content: ContentTable, rows: Rows) -> list[Key]:
    """Return publication_id and revision of rows."""
    known = content.facts().keys
    return [known[row] for row in rows.tolist()]
