"""What newsletters choose from: the fold of the content events of one shard.

State: a row a publication, found by publication_id, and the content vectors of each embedding model as one growing array. Others
know a publication by its row before its content is there, so that the fold does not depend on how topics are interleaved. The
shards of a process have the same content: its texts are interned, so that they stand in memory once.
"""

import hashlib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from sys import intern
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core.folding import StateEvent, to_ms
from core.ranking import padded_topics
from core.vectors import Floats, unit_rows

NEWSLETTER_QUALITY: Final = 0.8
"""Quality must be strictly above this for newsletters."""

ALERT_QUALITY: Final = 0.9
"""Quality must be strictly above this for alerts."""

MAX_TITLE: Final = 300
"""Characters kept of a title: what the fitted model knows it by, and what a reason names."""

MAX_DIMENSIONS: Final = 4_096
"""Dimensions of a content vector; a longer one is no vector."""

Rows = npt.NDArray[np.int64]


@dataclass(slots=True)
class Content:
    """One publication as the shard knows it; revision 0 while only its id is known."""

    publication_id: str
    revision: int = 0
    available: bool = False
    retracted: bool = False
    quality: float = 0.0
    content_type: str = ""
    title: str = ""
    approved_ms: int = 0
    partition: int = 0
    offset: int = 0
    topics: tuple[tuple[str, float], ...] = ()

    def as_list(self) -> list[Any]:
        """Return the fields for packing."""
        return [getattr(self, name) for name in self.__slots__]


class Vectors:
    """The content vectors that one embedding model made: int8, a line a publication."""

    def __init__(self, dimensions: int) -> None:
        self._data = np.zeros((64, dimensions), dtype=np.int8)
        self._line_of: dict[int, int] = {}

    @classmethod
    def from_lines(cls, lines: npt.NDArray[np.int8]) -> "Vectors":
        """Return the vectors of rows 0, 1, ..., as `of` gives them."""
        vectors = cls(lines.shape[1])
        for row in np.flatnonzero(lines.any(axis=1)).tolist():
            vectors.put(row, lines[row].tobytes())
        return vectors

    @property
    def dimensions(self) -> int:
        """How many numbers a vector has."""
        return self._data.shape[1]

    def put(self, row: int, vector: bytes) -> None:
        """Keep the vector of a row; it replaces an earlier one."""
        line = self._line_of.setdefault(row, len(self._line_of))
        if line == len(self._data):
            self._data = np.concatenate([self._data, np.zeros((max(64, line // 4), self.dimensions), dtype=np.int8)])
        self._data[line] = np.frombuffer(vector, dtype=np.int8)

    def drop(self, row: int) -> None:
        """Forget the vector of a row: its line is one of zeros."""
        if row in self._line_of:
            self._data[self._line_of[row]] = 0

    def of(self, rows: Rows) -> npt.NDArray[np.int8]:
        """Return the vectors of rows (rows, dimensions); zeros where there is none."""
        lines = np.array([self._line_of.get(row, -1) for row in rows.tolist()], dtype=np.int64)
        found = self._data[lines]
        found[lines < 0] = 0
        return found


@dataclass(frozen=True, slots=True)
class Facts:
    """What is asked of many publications at once: an entry, or a line, a row of the ContentTable."""

    keys: list[tuple[str, int]]
    """publication_id and revision."""
    order: Rows
    """Place in the order of publication_id, which does not depend on what was folded first."""
    approved_ms: Rows
    topic_names: list[str]
    """Sorted."""
    topic_columns: Rows
    """(rows, longest list): places in topic_names, padded with 0."""
    topic_weights: npt.NDArray[np.float64]
    """(rows, longest list): weights of length 1 (L2), padded with 0."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Publications that a newsletter may choose, in the order of publication_id."""

    index: Rows
    """Row of each in the ContentTable."""
    topic_names: list[str]
    """Sorted; the columns of topics."""
    topics: Floats
    """Unit rows (candidates, topics)."""
    topic_columns: npt.NDArray[np.int64]
    topic_weights: Floats
    """The same as lists, padded; see ranking.padded_topics."""
    strongest: npt.NDArray[np.int64]
    """Column of the topic of each that weighs most, the first of equals; -1 for none."""
    age_h: npt.NDArray[np.float64]
    digest: str
    """SHA-256 in hex of their ids and revisions."""

    @property
    def set_id(self) -> str:
        """How many there are and the first 16 digits of the digest: AudienceDecided.candidate_set."""
        return f"{len(self.index)}-{self.digest[:16]}"


class ContentTable:
    """The publications of one shard's newsletters."""

    def __init__(self) -> None:
        self.items: list[Content] = []
        self.index: dict[str, int] = {}
        self.vectors: dict[str, Vectors] = {}
        """By the name of the embedding model."""
        self.changes = 0
        """How many events of content were folded: what was worked out holds while this stays the same."""
        self._candidates: tuple[Any, Candidates] | None = None
        self._facts: tuple[tuple[int, int], Facts] | None = None

    def row(self, publication_id: str) -> int:
        """Return the row of a publication; a new one has no content yet."""
        row = self.index.get(publication_id)
        if row is None:
            row = self.index[intern(publication_id)] = len(self.items)
            self.items.append(Content(intern(publication_id)))
        return row

    def apply(self, event: StateEvent) -> bool:
        """Fold ContentAvailable and ContentWithdrawn; False for other events.

        A retraction is for ever; what was replaced comes back with a higher revision.
        """
        if event.name not in ("ContentAvailable", "ContentWithdrawn"):
            return False
        value = event.value
        row = self.row(value["publication_id"])
        item = self.items[row]
        self.changes += 1
        if event.name == "ContentWithdrawn":
            item.available = False
            item.retracted |= value["reason"] == "retracted"
        elif value["revision"] > item.revision:
            item.revision, item.available = value["revision"], not item.retracted
            item.quality, item.content_type = value["quality"], value["content_type"]
            item.title = intern(" ".join((value.get("title") or "").split())[:MAX_TITLE])
            item.approved_ms = to_ms(value["approved_at"])
            item.partition, item.offset = value["content_partition"], value["content_offset"]
            item.topics = tuple((intern(topic["topic"]), topic["weight"]) for topic in value["topics"])
            self._put_vector(row, value.get("vector_model"), value.get("vector"))
        return True

    def _put_vector(self, row: int, model: str | None, vector: bytes | None) -> None:
        """Keep a vector; one whose length is not that of its model's others is none."""
        for known in self.vectors.values():
            known.drop(row)
        if model and vector and len(vector) <= MAX_DIMENSIONS:
            vectors = self.vectors.setdefault(model, Vectors(len(vector)))
            if vectors.dimensions == len(vector):
                vectors.put(row, vector)

    def facts(self) -> Facts:
        """Return what is known of all publications; the last answer is kept until something changes."""
        asked = (self.changes, len(self.items))
        if self._facts is None or self._facts[0] != asked:
            names = sorted({topic for item in self.items for topic, _ in item.topics})
            place = {name: number for number, name in enumerate(names)}
            width = max((len(item.topics) for item in self.items), default=0)
            columns, weights = np.zeros((len(self.items), width), dtype=np.int64), np.zeros((len(self.items), width))
            for row, item in enumerate(self.items):
                length = sum(weight * weight for _, weight in item.topics) ** 0.5
                for number, (topic, weight) in enumerate(item.topics):
                    columns[row, number], weights[row, number] = place[topic], weight / length
            order = np.empty(len(self.items), dtype=np.int64)
            order[sorted(range(len(self.items)), key=lambda row: self.items[row].publication_id)] = np.arange(len(self.items))
            approved_ms = np.array([item.approved_ms for item in self.items], dtype=np.int64)
            keys = [(item.publication_id, item.revision) for item in self.items]
            self._facts = (asked, Facts(keys, order, approved_ms, names, columns, weights))
        return self._facts[1]

    def vector_model(self, rows: Rows) -> str | None:
        """Return the embedding model that most of these rows have a vector of, None when none has one; ties by name."""
        counts = Counter({name: int(vectors.of(rows).any(axis=1).sum()) for name, vectors in self.vectors.items()})
        best = min(counts, key=lambda name: (-counts[name], name), default=None)
        return best if best is not None and counts[best] else None

    def candidates(self, *, slot_ms: int, max_age_h: float, min_quality: float, content_types: Collection[str]) -> Candidates:
        """Return what may be chosen at a slot: available, quality strictly above the gate, of these types, young enough.

        The chunks of a slot ask for the same, so the last answer is kept.
        """
        asked = (self.changes, slot_ms, max_age_h, min_quality, tuple(content_types))
        if self._candidates is None or self._candidates[0] != asked:
            self._candidates = (asked, self._found(slot_ms, max_age_h, min_quality, content_types))
        return self._candidates[1]

    def _found(self, slot_ms: int, max_age_h: float, min_quality: float, content_types: Collection[str]) -> Candidates:
        floor = max(min_quality, NEWSLETTER_QUALITY)
        oldest_ms = slot_ms - max_age_h * 3_600_000
        found = [
            (item.publication_id, row)
            for row, item in enumerate(self.items)
            if item.available
            and item.quality > floor
            and item.approved_ms >= oldest_ms
            and (not content_types or item.content_type in content_types)
        ]
        rows = [row for _, row in sorted(found)]
        chosen = [self.items[row] for row in rows]
        names = sorted({topic for item in chosen for topic, _ in item.topics})
        column = {name: position for position, name in enumerate(names)}
        lists = [[(column[topic], weight) for topic, weight in item.topics] for item in chosen]
        matrix = np.zeros((len(chosen), len(names)), dtype=np.float32)
        for place, pairs in enumerate(lists):
            for position, weight in pairs:
                matrix[place, position] = weight
        columns, weights = padded_topics(lists)
        return Candidates(
            index=np.array(rows, dtype=np.int64),
            topic_names=names,
            topics=unit_rows(matrix),
            topic_columns=columns,
            topic_weights=weights,
            strongest=np.where(matrix.any(axis=1), matrix.argmax(axis=1), -1) if names else np.full(len(rows), -1),
            age_h=np.array([(slot_ms - item.approved_ms) / 3_600_000 for item in chosen]),
            digest=hashlib.sha256("".join(f"{item.publication_id}/{item.revision}\n" for item in chosen).encode()).hexdigest(),
        )
