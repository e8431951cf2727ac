"""The test on engagement alone: a newsletter every morning, from articles that have no text and no topics here.

At 08:00 UTC of every day in the last 40 % of the log each reader gets ten articles; what they open for the first time within the
next day is relevant. The model is fitted anew every morning from what was known then, as `newswire run training` does; popularity
with decay and the score are ranking.freshness and ranking.best, as in a newsletter.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.model import NewItem
from core.ranking import BATCH_ROWS, COUNTER_HALF_LIFE_D, PROFILE_HALF_LIFE_D, best, decay, freshness, liveliness
from core.relevance import Readers, relevance, shelf
from core.sparse import Ints
from streams.fitting import fit
from tests.benchmarks.ranking_data import Events, first_morning
from tests.benchmarks.ranking_papers import recall_and_ndcg

DAY_MS = 86_400_000
CANDIDATE_DAYS = 60
FEWEST_CANDIDATES = 30
BASELINE_HALF_LIFE_H = 24.0
HALF_LIFE_H = 4.0
"""Of an article's age; a newsletter's half_life_h. Chosen on the mornings before the last 40 % of the log."""


@dataclass(frozen=True)
class Morning:
    """One day's newsletter."""

    at_ms: int
    known: int
    """Events before it."""
    candidates: Ints
    readers: Ints
    relevant: list[Ints]
    """Places in candidates."""
    opened: npt.NDArray[np.bool_]
    """(readers, candidates)."""
    born_ms: Ints
    """Of the candidates."""


def mornings(log: Events, first: float, last: float) -> Iterator[Morning]:
    """Yield the mornings between two shares of the log's events that have candidates, readers and something relevant."""
    items, people, end = int(log.item.max()) + 1, int(log.reader.max()) + 1, len(log.at_ms) - 1
    born = np.full(items, np.iinfo(np.int64).max)
    np.minimum.at(born, log.item, log.at_ms)
    for at_ms in range(first_morning(int(log.at_ms[int(end * first)])), int(log.at_ms[int(end * last)]), DAY_MS):
        known, tomorrow = np.searchsorted(log.at_ms, [at_ms, at_ms + DAY_MS])
        candidates = np.flatnonzero((born < at_ms) & (born >= at_ms - CANDIDATE_DAYS * DAY_MS))
        if len(candidates) < FEWEST_CANDIDATES:
            continue
        opened = np.zeros((people, items), dtype=np.bool_)
        opened[log.reader[:known], log.item[:known]] = True
        opens = np.zeros_like(opened)
        opens[log.reader[known:tomorrow], log.item[known:tomorrow]] = True
        wanted = (opens & ~opened)[:, candidates] & opened.any(axis=1)[:, None]
        readers = np.flatnonzero(wanted.any(axis=1))
        if len(readers):
            relevant = [np.flatnonzero(wanted[reader]) for reader in readers]
            yield Morning(at_ms, int(known), candidates, readers, relevant, opened[np.ix_(readers, candidates)], born[candidates])


def scores_of(log: Events, morning: Morning) -> Iterator[npt.NDArray[np.float32]]:
    """Yield batches of r, from a model fitted on what was known."""
    known = slice(0, morning.known)
    items = [NewItem(f"{place:08d}", "", None, ()) for place in range(int(log.item.max()) + 1)]
    weight = log.weight[known] * decay(morning.at_ms - log.at_ms[known], PROFILE_HALF_LIFE_D)
    model = fit("bench", None, items, log.reader[known], log.item[known], log.weight[known])
    carried = model.carry([items[place] for place in morning.candidates.tolist()])
    none = np.zeros((len(morning.candidates), 0), dtype=np.float32)
    shelved = shelf(none, None, carried, len(model.items), model.sigmas)
    place_of = np.array([model.index.get(item.publication_id, -1) for item in items])
    row_of = np.full(int(log.reader.max()) + 1, -1)
    for start in range(0, len(morning.readers), BATCH_ROWS):
        readers = morning.readers[start : start + BATCH_ROWS]
        row_of[:] = -1
        row_of[readers] = np.arange(len(readers))
        mine = np.flatnonzero(row_of[log.reader[known]] >= 0)
        mine = mine[np.argsort(row_of[log.reader[mine]], kind="stable")]
        owner, item = row_of[log.reader[mine]], place_of[log.item[mine]]
        nothing = np.zeros((len(readers), 0), dtype=np.float32)
        factors = model.reader_factors(owner, item, weight[mine], len(readers))
        yield relevance(Readers(nothing, nothing, factors, owner, item, weight[mine]), shelved)


def evaluated(log: Events, first: float, last: float, every: int = 1) -> tuple[float, float, int]:
    """Return NDCG@10 of popularity with decay and of ours over all sends between two shares of the log, and their number."""
    plain: list[float] = []
    ours: list[float] = []
    for number, morning in enumerate(mornings(log, first, last)):
        if number % every:
            continue
        known = slice(0, morning.known)
        counts = np.bincount(
            log.item[known],
            log.weight[known] * decay(morning.at_ms - log.at_ms[known], COUNTER_HALF_LIFE_D),
            minlength=int(log.item.max()) + 1,
        )[morning.candidates]
        age_h = (morning.at_ms - morning.born_ms) / 3_600_000
        same = np.zeros(morning.opened.shape, dtype=np.float32)
        listed = best(same, freshness(counts, age_h, BASELINE_HALF_LIFE_H), morning.opened, 10).candidate
        plain += recall_and_ndcg(listed, morning.relevant)[1]
        scores = np.concatenate(list(scores_of(log, morning)))
        read_ms = np.zeros(int(log.item.max()) + 1, dtype=np.int64)
        np.maximum.at(read_ms, log.item[known], log.at_ms[known])
        idle_h = (morning.at_ms - read_ms[morning.candidates]) / 3_600_000
        fresh = freshness(counts, age_h, HALF_LIFE_H) * liveliness(counts, idle_h)
        listed = best(scores, fresh, morning.opened, 10).candidate
        ours += recall_and_ndcg(listed, morning.relevant)[1]
    return float(np.mean(plain)), float(np.mean(ours)), len(ours)
