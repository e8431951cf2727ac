"""What newsletters choose from: the fold of the content events of one shard, and who engaged with what.

State: a row a publication, found by publication_id; a subscriber's engagements as a set of (publication, kind) with times. Both
know a publication by its id before its content is there, so that the fold does not depend on how topics are interleaved.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core.folding import StateEvent, to_ms
from core.ranking import COUNTER_HALF_LIFE_D, PROFILE_HALF_LIFE_D, Floats, decay, engagement_weight, padded_topics, unit_rows

NEWSLETTER_QUALITY: Final = 0.8
"""Quality must be strictly above this for newsletters."""

ALERT_QUALITY: Final = 0.9
"""Quality must be strictly above this for alerts."""

MAX_ENGAGEMENTS: Final = 400
"""Engagements kept a subscriber, the newest: with a half-life of 30 days older ones weigh little, and memory stays bounded."""


@dataclass(slots=True)
class Content:
    """One publication as the shard knows it; revision 0 while only its id is known."""

    publication_id: str
    revision: int = 0
    available: bool = False
    retracted: bool = False
    quality: float = 0.0
    content_type: str = ""
    approved_ms: int = 0
    partition: int = 0
    offset: int = 0
    topics: tuple[tuple[str, float], ...] = ()
    engagement: float = 0.0
    engaged_ms: int = 0

    def as_list(self) -> list[Any]:
        """Return the fields for packing."""
        return [getattr(self, name) for name in self.__slots__]

    def engaged_at(self, now_ms: int) -> float:
        """Return the decayed engagement at an instant."""
        return self.engagement * float(decay(np.array(now_ms - self.engaged_ms), COUNTER_HALF_LIFE_D))

    def add_engagement(self, weight: float, at_ms: int) -> None:
        """Add to the counter; events may come in any order of their times."""
        if at_ms > self.engaged_ms:
            self.engagement, self.engaged_ms = self.engaged_at(at_ms), at_ms
        self.engagement = max(
            0.0, self.engagement + weight * float(decay(np.array(self.engaged_ms - at_ms), COUNTER_HALF_LIFE_D))
        )


@dataclass(frozen=True, slots=True)
class Candidates:
    """Publications that a newsletter may choose, in the order of publication_id."""

    index: npt.NDArray[np.int64]
    """Row of each in the ContentTable."""
    topic_names: list[str]
    """Sorted; the columns of topics."""
    topics: Floats
    """Unit rows (candidates, topics)."""
    topic_columns: npt.NDArray[np.int64]
    topic_weights: Floats
    """The same as lists, padded; see ranking.padded_topics."""
    engagement: npt.NDArray[np.float64]
    age_h: npt.NDArray[np.float64]


class ContentTable:
    """The publications of one shard's newsletters."""

    def __init__(self) -> None:
        self.items: list[Content] = []
        self.index: dict[str, int] = {}

    def row(self, publication_id: str) -> int:
        """Return the row of a publication; a new one has no content yet."""
        row = self.index.get(publication_id)
        if row is None:
            row = self.index[publication_id] = len(self.items)
            self.items.append(Content(publication_id))
        return row

    def apply(self, event: StateEvent) -> bool:
        """Fold ContentAvailable and ContentWithdrawn; False for other events.

        A retraction is for ever; what was replaced comes back with a higher revision.
        """
        if event.name not in ("ContentAvailable", "ContentWithdrawn"):
            return False
        value = event.value
        item = self.items[self.row(value["publication_id"])]
        if event.name == "ContentWithdrawn":
            item.available = False
            item.retracted |= value["reason"] == "retracted"
        elif value["revision"] > item.revision:
            item.revision, item.available = value["revision"], not item.retracted
            item.quality, item.content_type = value["quality"], value["content_type"]
            item.approved_ms = to_ms(value["approved_at"])
            item.partition, item.offset = value["content_partition"], value["content_offset"]
            item.topics = tuple((topic["topic"], topic["weight"]) for topic in value["topics"])
        return True

    def candidates(self, *, slot_ms: int, max_age_h: float, min_quality: float, content_types: Collection[str]) -> Candidates:
        """Return what may be chosen at a slot: available, quality strictly above the gate, of these types, young enough."""
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
            engagement=np.array([item.engaged_at(slot_ms) for item in chosen]),
            age_h=np.array([(slot_ms - item.approved_ms) / 3_600_000 for item in chosen]),
        )


class Engagements:
    """Who engaged with what: for each subscriber a set of (publication row, kind) with weight and time.

    The same kind of engagement with the same publication counts once, so that events may come twice.
    """

    def __init__(self) -> None:
        self.of: dict[bytes, dict[tuple[int, str], tuple[float, int]]] = {}

    def apply(self, event: StateEvent, key: bytes, content: ContentTable) -> bool:
        """Fold one event of the engagements topic; False for other events."""
        if event.name not in ("ContentOpened", "ContentClicked", "ReactionAdded", "ReactionRemoved"):
            return False
        value, removed = event.value, event.name == "ReactionRemoved"
        publication = content.row(value["publication_id"])
        kind = value["reaction"] if event.name.startswith("Reaction") else event.name
        mine = self.of.setdefault(key, {})
        if removed:
            weight, at_ms = mine.pop((publication, kind), (0.0, 0))
            content.items[publication].add_engagement(-weight, at_ms)
            return True
        weight = engagement_weight(event.name, value)
        if weight > 0 and (publication, kind) not in mine:
            at_ms = to_ms(value["occurred_at"])
            mine[publication, kind] = (weight, at_ms)
            content.items[publication].add_engagement(weight, at_ms)
            if len(mine) > MAX_ENGAGEMENTS:
                del mine[next(iter(mine))]
        return True

    def profiles(
        self, keys: Iterable[bytes], content: ContentTable, columns: Mapping[str, int], now_ms: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return Σ w·½^(Δt/30 d)·topics_e for each key (rows, topics) and Σ w·½^(Δt/30 d) (rows); topics_e has length 1."""
        wanted = list(keys)
        sums, weights = np.zeros((len(wanted), len(columns))), np.zeros(len(wanted))
        for row, key in enumerate(wanted):
            for (publication, _), (weight, at_ms) in self.of.get(key, {}).items():
                known = content.items[publication].topics
                share = weight * 0.5 ** (max(now_ms - at_ms, 0) / (PROFILE_HALF_LIFE_D * 86_400_000))
                length = sum(value * value for _, value in known) ** 0.5
                weights[row] += share
                for topic, value in known:
                    sums[row, columns[topic]] += share * value / length
        return sums, weights
