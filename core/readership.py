"""How much publications are read by the subscribers of all shards: the counter e_c of the newsletter score.

Pure. Each shard counts its own subscribers (`Histories.counts`, so that what counts is what counts for a reader's profile too);
the audience stage adds the shards' counts up (`summed`) and copies what changed to every shard, whose state folds it
(`Readership`). So all shards decide a slot with the same numbers, and the numbers stand in each shard's log.

A count is Σ w·½^((as_of - t)/3 d) as of the newest engagement in it, and e_c of an instant is what is left of it by then. It is
absolute and does not change as time passes: it is said again only when something was engaged with, or taken back, and hearing it
twice changes nothing. Its as_of also says how long nobody has read it.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from core.folding import to_ms
from core.ranking import COUNTER_HALF_LIFE_D, decay

SCALE: Final = 65_536
"""Counts are sums of whole multiples of 1/65536, so that they do not depend on an order."""

HALF_LIFE_MS: Final = COUNTER_HALF_LIFE_D * 86_400_000

LISTED_MS: Final = 10 * HALF_LIFE_MS
"""A publication that nobody engaged with for so long is not counted: less than a thousandth of its count would be left."""

MOST: Final = 5_000
"""Publications that a shard counts, the most read, and publications of one event: 300 kB at most."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Count(NamedTuple):
    """How much one publication is read."""

    as_of_ms: int
    reads: float


def summed(shards: Iterable[Mapping[str, Count]]) -> dict[str, Count]:
    """Return the counts of all shards together, by publication_id."""
    found: dict[str, list[Count]] = {}
    for counts in shards:
        for publication_id, count in counts.items():
            found.setdefault(publication_id, []).append(count)
    return {publication_id: _sum(counts) for publication_id, counts in found.items()}


def _sum(counts: list[Count]) -> Count:
    if len(counts) == 1:
        return counts[0]
    as_of_ms = max(count.as_of_ms for count in counts)
    left = (count.reads * 0.5 ** ((as_of_ms - count.as_of_ms) / HALF_LIFE_MS) for count in counts)
    return Count(as_of_ms, sum(round(reads * SCALE) for reads in left) / SCALE)


def changed(now: Mapping[str, Count], before: Mapping[str, Count]) -> dict[str, Count]:
    """Return what is to be said when `before` was said last; what is not counted any more is 0."""
    found = {publication_id: count for publication_id, count in now.items() if before.get(publication_id) != count}
    gone = {publication_id: Count(count.as_of_ms, 0.0) for publication_id, count in before.items() if publication_id not in now}
    return found | gone


class Readership:
    """The counts as a shard was told them, by row of its ContentTable: the fold of ContentRead."""

    def __init__(self) -> None:
        self._as_of_ms: Ints = np.zeros(0, dtype=np.int64)
        self._reads: Floats = np.zeros(0)

    def put(self, rows: Ints, as_of_ms: Ints, reads: Floats) -> None:
        """Take note of counts; they replace earlier ones."""
        missing = int(rows.max(initial=-1)) + 1 - len(self._reads)
        if missing > 0:
            grown = max(missing, len(self._reads) // 4)
            self._as_of_ms = np.concatenate([self._as_of_ms, np.zeros(grown, dtype=np.int64)])
            self._reads = np.concatenate([self._reads, np.zeros(grown)])
        self._as_of_ms[rows], self._reads[rows] = as_of_ms, reads

    def clear(self) -> None:
        """Forget all counts."""
        self._as_of_ms[:], self._reads[:] = 0, 0.0

    def of(self, rows: Ints, now_ms: int) -> Floats:
        """Return e_c of rows at an instant; what is counted as of a later one has not aged."""
        as_of_ms, reads = self.dump(rows)
        return reads * decay(now_ms - as_of_ms, COUNTER_HALF_LIFE_D)

    def idle_h(self, rows: Ints, now_ms: int) -> Floats:
        """Return the hours from the newest engagement with rows to an instant; infinite where there is none."""
        as_of_ms, reads = self.dump(rows)
        return np.where(reads > 0, (now_ms - as_of_ms) / 3_600_000, np.inf)

    def dump(self, rows: Ints) -> tuple[Ints, Floats]:
        """Return the counts of rows; 0 where there is none."""
        known = rows < len(self._reads)
        as_of_ms, reads = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows))
        as_of_ms[known], reads[known] = self._as_of_ms[rows[known]], self._reads[rows[known]]
        return as_of_ms, reads


def as_items(counts: Mapping[str, Count]) -> list[dict[str, Any]]:
    """Return counts as events list them."""
    return [
        {"publication_id": publication_id, "as_of": datetime.fromtimestamp(as_of_ms / 1000, UTC), "reads": reads}
        for publication_id, (as_of_ms, reads) in sorted(counts.items())
    ]


def of_items(items: Iterable[Mapping[str, Any]]) -> dict[str, Count]:
    """Return what `as_items` listed."""
    return {item["publication_id"]: Count(to_ms(item["as_of"]), item["reads"]) for item in items}
