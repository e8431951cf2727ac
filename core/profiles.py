"""What the subscribers of a chunk read, summed up: the readers' side of the ranking.

Everything is a weighted sum over their histories, weights halving every PROFILE_HALF_LIFE_D, in the order in which the events of
each subscriber came: the same history gives the same bytes, alone and in a batch, whenever it is summed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from core.content import ContentTable, Rows
from core.histories import Histories
from core.ranking import PROFILE_HALF_LIFE_D, decay
from core.sparse import entries_of, weighted_sums
from core.vectors import Floats

READ_MS: Final = 80 * 86_400_000
"""What was approved longer ago than this counts no more: a snapshot may have dropped it (newsletter_state.CONTENT_KEPT_MS)."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Histories of subscribers, one after the other: an entry an engagement that counts, of what is known and not too old."""

    owner: Rows
    """(entries), sorted: place of the subscriber."""
    place: Rows
    """(entries): place of the publication in `rows`."""
    share: npt.NDArray[np.float64]
    """(entries): w·½^(Δt/30 d)."""
    subscribers: int
    rows: Rows
    """(publications): rows of the ContentTable in the order of publication_id, which does not depend on what was folded first."""

    def part(self, start: int, stop: int) -> "Reading":
        """Return the histories of the subscribers from start to stop, as places 0 to stop - start - 1."""
        first, last = np.searchsorted(self.owner, [start, stop])
        stop = min(stop, self.subscribers)
        return Reading(self.owner[first:last] - start, self.place[first:last], self.share[first:last], stop - start, self.rows)

    def some(self, subscribers: Rows) -> "Reading":
        """Return the histories of these subscribers (sorted) in their order."""
        mine, owner = entries_of(self.owner, subscribers)
        return Reading(owner, self.place[mine], self.share[mine], len(subscribers), self.rows)

    def sums(self, table: Floats) -> Floats:
        """Return Σ share·line (subscribers, columns); table has a line for each of `rows`."""
        return weighted_sums(table, self.owner, self.place, self.share, self.subscribers)


def read_by(histories: Histories, content: ContentTable, keys: Sequence[bytes], now_ms: int) -> Reading:
    """Return what subscribers read."""
    owner, entries = histories.of_all(keys)
    facts, read = content.facts(), np.zeros(len(content.items), dtype=np.bool_)
    read[entries["publication"]] = True
    found = np.flatnonzero(read & (facts.approved_ms >= now_ms - READ_MS))
    found = found[np.argsort(facts.order[found])]
    place_of = np.full(len(content.items), -1, dtype=np.int64)
    place_of[found] = np.arange(len(found))
    place = place_of[entries["publication"]]
    mine = np.flatnonzero(place >= 0)
    share = entries["weight"][mine] * decay(now_ms - entries["at_ms"][mine], PROFILE_HALF_LIFE_D)
    return Reading(owner[mine], place[mine], share, len(keys), found)


@dataclass(frozen=True, slots=True)
class TopicLists:
    """Topics of publications, as content.topic_lists gives them."""

    columns: Rows
    weights: npt.NDArray[np.float64]

    @staticmethod
    def of(content: ContentTable, rows: Rows, columns: Mapping[str, int]) -> "TopicLists":
        """Return the topics of rows; columns names them all."""
        facts = content.facts()
        own = np.array([columns[name] for name in facts.topic_names] or [0], dtype=np.int64)
        return TopicLists(own[facts.topic_columns[rows]], facts.topic_weights[rows])

    def telling(self, columns: Rows) -> npt.NDArray[np.bool_]:
        """Return which publications have one of these topics."""
        return np.asarray((np.isin(self.columns, columns) & (self.weights > 0)).any(axis=1))

    def dense(self, width: int) -> Floats:
        """Return the topics as a matrix (publications, width)."""
        found = np.zeros((len(self.columns), width), dtype=np.float32)
        np.add.at(found, (np.arange(len(self.columns))[:, None], self.columns), self.weights)
        return found

    def sums(self, reading: Reading, width: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return Σ share·topics_e (subscribers, width) and Σ share (subscribers)."""
        cells = reading.owner[:, None] * width + self.columns[reading.place]
        values = reading.share[:, None] * self.weights[reading.place]
        sums = np.bincount(cells.ravel(), values.ravel(), minlength=reading.subscribers * width).astype(np.float64)
        total = np.bincount(reading.owner, reading.share, minlength=reading.subscribers).astype(np.float64)
        return sums.reshape(reading.subscribers, width), total
