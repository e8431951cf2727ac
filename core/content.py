"""What newsletters choose from: the fold of the content events of one shard.

State: a row a publication, found by publication_id, with its content vector. Others know a publication by its row before its
content is there, so that the fold does not depend on how topics are interleaved. The shards of a process have the same content:
a publication never changes but is replaced, so that they can share it (`shared`), and it stands in memory once.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from sys import intern
from typing import Any, Final
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from core.folding import StateEvent, happened_ms
from core.vectors import Floats, Int8s

NEWSLETTER_QUALITY: Final = 0.8
"""Quality must be strictly above this for newsletters."""

ALERT_QUALITY: Final = 0.9
"""Quality must be strictly above this for alerts."""

MAX_TITLE: Final = 300
"""Characters kept of a title: what the fitted model knows it by, and what a reason names."""

MAX_DIMENSIONS: Final = 4_096
"""Dimensions of a content vector; a longer one is no vector."""

OFFERED_MS: Final = 85 * 86_400_000
"""How long after its first approval a publication may be chosen, whatever revisions it gets: who was given it is known for as
long as decisions are kept (90 days), and an issue may be 5 days late (names.MAX_LATE_H). No shorter than names.MAX_AGE_H."""

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Content:
    """One publication as a shard knows it; revision 0 while only its id is known."""

    publication_id: str
    revision: int = 0
    available: bool = False
    retracted: bool = False
    quality: float = 0.0
    content_type: str = ""
    title: str = ""
    approved_ms: int = 0
    first_ms: int = 0
    """When its first revision was approved."""
    partition: int = 0
    offset: int = 0
    topics: tuple[tuple[str, float], ...] = ()
    vector_model: str | None = None
    vector: bytes = b""
    """int8 values; empty without a model."""


PACKED: Final = tuple(field.name for field in fields(Content))[:-2]
"""What a packed state lists of a publication; its vector is packed with the others."""

_known: Final[WeakValueDictionary[tuple[str, int], Content]] = WeakValueDictionary()


def shared(item: Content) -> Content:
    """Return an equal publication that another shard of the process has, or this one: they stand in memory once."""
    key = (item.publication_id, item.revision)
    known = _known.get(key)
    if known == item:
        return known
    _known[key] = item
    return item


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
    topic_columns: Rows
    topic_weights: npt.NDArray[np.float64]
    """The same as lists, as Facts have them."""
    strongest: npt.NDArray[np.int64]
    """Column of the topic of each that weighs most, the first of equals; -1 for none."""
    age_h: npt.NDArray[np.float64]
    covered: frozenset[str]
    """Topics of all that there was of the newsletter's content types for OFFERED_MS, whether or not it may be chosen."""
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
        self.dimensions: dict[str, int] = {}
        """Of the vectors of each embedding model, by its name: those of the first."""
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
        if event.name == "ContentWithdrawn":
            self.put(row, replace(item, available=False, retracted=item.retracted or value["reason"] == "retracted"))
        elif value["revision"] > item.revision:
            new = Content(
                item.publication_id,
                value["revision"],
                available=not item.retracted,
                retracted=item.retracted,
                quality=value["quality"],
                content_type=value["content_type"],
                title=" ".join((value.get("title") or "").split())[:MAX_TITLE],
                approved_ms=happened_ms(event, value["approved_at"]),
                first_ms=happened_ms(event, value.get("first_approved_at") or value["approved_at"]),
                partition=value["content_partition"],
                offset=value["content_offset"],
                topics=tuple((intern(topic["topic"]), topic["weight"]) for topic in value["topics"]),
            )
            self.put(row, self._with_vector(new, value.get("vector_model"), value.get("vector")))
        return True

    def put(self, row: int, item: Content) -> None:
        """Replace what is known of a row's publication."""
        self.items[row] = shared(item)
        self.changes += 1

    def _with_vector(self, item: Content, model: str | None, vector: bytes | None) -> Content:
        """Return a publication with its vector; one whose length is not that of its model's others, or of zeros, is none."""
        if not model or not vector or not vector.strip(b"\0") or len(vector) > MAX_DIMENSIONS:
            return item
        if self.dimensions.setdefault(model, len(vector)) != len(vector):
            return item
        return replace(item, vector_model=intern(model), vector=bytes(vector))

    def vectors(self, model: str | None, rows: Rows) -> Int8s:
        """Return the vectors that an embedding model made of rows (rows, dimensions); zeros where there is none."""
        size = self.dimensions.get(model or "", 0)
        items, none = [self.items[row] for row in rows.tolist()], bytes(size)
        raw = b"".join([item.vector if item.vector_model == model else none for item in items])
        return np.frombuffer(raw, dtype=np.int8).reshape(len(rows), size)

    def facts(self) -> Facts:
        """Return what is known of all publications; the last answer is kept until something changes."""
        asked = (self.changes, len(self.items))
        if self._facts is None or self._facts[0] != asked:
            names = sorted({topic for item in self.items for topic, _ in item.topics})
            columns, weights = topic_lists(self.items, names)
            order = np.empty(len(self.items), dtype=np.int64)
            order[sorted(range(len(self.items)), key=lambda row: self.items[row].publication_id)] = np.arange(len(self.items))
            approved_ms = np.array([item.approved_ms for item in self.items], dtype=np.int64)
            keys = [(item.publication_id, item.revision) for item in self.items]
            self._facts = (asked, Facts(keys, order, approved_ms, names, columns, weights))
        return self._facts[1]

    def vector_model(self, rows: Rows) -> str | None:
        """Return the embedding model that most of these rows have a vector of, None when none has one; ties by name."""
        models = [self.items[row].vector_model for row in rows.tolist()]
        counts = Counter(name for name in models if name is not None)
        return min(counts, key=lambda name: (-counts[name], name), default=None)

    def candidates(self, *, slot_ms: int, max_age_h: float, min_quality: float, content_types: Collection[str]) -> Candidates:
        """Return what may be chosen at a slot: available, quality strictly above the gate, of these types, young enough (the
        revision, and the publication).

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
            and item.first_ms >= slot_ms - OFFERED_MS
            and (not content_types or item.content_type in content_types)
        ]
        recent = (item for item in self.items if item.approved_ms >= slot_ms - OFFERED_MS)
        covered = {
            topic for item in recent if not content_types or item.content_type in content_types for topic, _ in item.topics
        }
        rows = [row for _, row in sorted(found)]
        chosen = [self.items[row] for row in rows]
        names = sorted({topic for item in chosen for topic, _ in item.topics})
        columns, weights = topic_lists(chosen, names)
        matrix, (owners, places) = np.zeros((len(chosen), len(names)), dtype=np.float32), np.nonzero(weights)
        matrix[owners, columns[owners, places]] = weights[owners, places]
        return Candidates(
            index=np.array(rows, dtype=np.int64),
            topic_names=names,
            topics=matrix,
            topic_columns=columns,
            topic_weights=weights,
            strongest=np.where(matrix.any(axis=1), matrix.argmax(axis=1), -1) if names else np.full(len(rows), -1),
            age_h=np.array([(slot_ms - item.approved_ms) / 3_600_000 for item in chosen]),
            covered=frozenset(covered),
            digest=hashlib.sha256("".join(f"{item.publication_id}/{item.revision}\n" for item in chosen).encode()).hexdigest(),
        )


def topic_lists(items: Sequence[Content], names: Sequence[str]) -> tuple[Rows, npt.NDArray[np.float64]]:
    """Return the topics of publications as places in names and weights of length 1 (L2), padded with 0 (items, longest list)."""
    place = {name: number for number, name in enumerate(names)}
    counts = np.array([len(item.topics) for item in items], dtype=np.int64)
    there = np.arange(counts.max(initial=1)) < counts[:, None]
    columns, weights = np.zeros(there.shape, dtype=np.int64), np.zeros(there.shape)
    columns[there] = [place[topic] for item in items for topic, _ in item.topics]
    weights[there] = [weight for item in items for _, weight in item.topics]
    length = np.sqrt(np.square(weights).sum(axis=1, keepdims=True))
    return columns, np.divide(weights, length, out=weights, where=length > 0)
