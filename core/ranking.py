"""Ranking of publications for subscribers: interests, the newsletter score, and the best by it.

Everything is linear and can be printed as a reason. A batch always has BATCH_ROWS rows, padded with empty ones, because a matrix
product of one row differs from the same row in a larger product; so alone and in a batch a subscriber gets the same answer.
Scores are rounded to 1e-4, and ties go to the smaller publication_id.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core.vectors import Floats, unit_rows

BATCH_ROWS: Final = 256
"""Rows of one matrix product: a multiple of every kernel's tile, and small enough for the cache."""

N0: Final = 5.0
"""What the declared topics weigh, in views."""

PROFILE_HALF_LIFE_D: Final = 30.0
"""Half-life of an engagement in a subscriber's profile, in days."""

COUNTER_HALF_LIFE_D: Final = 3.0
"""Half-life of an engagement in a publication's counter, in days."""

SCORE_SCALE: Final = 10_000
"""Scores are whole multiples of 1e-4."""


def decay(age_ms: npt.NDArray[Any], half_life_d: float) -> npt.NDArray[np.float64]:
    """Return ½^(age / half-life); an age below 0 counts as 0."""
    return np.asarray(0.5 ** (np.maximum(age_ms, 0) / (half_life_d * 86_400_000.0)), dtype=np.float64)


def interest(declared: npt.NDArray[Any], engaged: npt.NDArray[Any], engaged_weight: npt.NDArray[Any]) -> Floats:
    """Return t_u of component B as unit rows.

    t_u = (n0·declared + Σ w_e·½^(Δt/30 d)·topics_e) / (n0 + Σ w_e·½^(Δt/30 d)); declared and topics_e have length 1. declared is
    (rows, topics) with raw weights, engaged the decayed sum (rows, topics), engaged_weight its weights (rows). The division does
    not change a cosine; it is kept so that rows are comparable with other components.
    """
    total = N0 * unit_rows(declared).astype(np.float64) + engaged
    return unit_rows(total / (N0 + np.asarray(engaged_weight, dtype=np.float64))[:, None])


def freshness(engagement: npt.NDArray[Any], age_h: npt.NDArray[Any], half_life_h: float) -> Floats:
    """Return log1p(0.3 + e_c)·½^(age/h), the part of the score that is the same for everybody."""
    aged = 0.5 ** (np.maximum(age_h, 0) / half_life_h)
    return np.asarray(np.log1p(0.3 + np.asarray(engagement, dtype=np.float64)) * aged, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Ranked:
    """The best of each row: both (rows, k); candidate is -1 where fewer than k were left."""

    candidate: npt.NDArray[np.int64]
    score: npt.NDArray[np.int64]


def best(relevance: Floats, fresh: Floats, excluded: npt.NDArray[np.bool_], k: int) -> Ranked:
    """Return the k best candidates of each row by (0.2 + r~)·fresh, where r~ is the relevance scaled to 0..1 for each row.

    relevance (rows, candidates) is overwritten; candidates are in the order of publication_id; excluded is (rows, candidates).
    Scores are in units of 1e-4.
    """
    rows, candidates = relevance.shape
    k = min(k, candidates)
    if not rows or not candidates:
        return Ranked(np.full((rows, k), -1, dtype=np.int64), np.zeros((rows, k), dtype=np.int64))
    low, high = relevance.min(axis=1, keepdims=True), relevance.max(axis=1, keepdims=True)
    spread = high - low
    np.divide(np.float32(1), spread, out=spread, where=spread > 0)
    relevance -= low
    relevance *= spread
    relevance += np.float32(0.2)
    relevance *= fresh
    relevance *= np.float32(SCORE_SCALE)
    np.rint(relevance, out=relevance)
    # One number holds score and tie-break, so that any selection of the k largest is the right one; 32 bits when they suffice.
    small = (float(relevance.max()) + 1) * candidates < 2**31
    keys: npt.NDArray[Any] = relevance.astype(np.int32 if small else np.int64)
    keys *= candidates
    keys += np.arange(candidates - 1, -1, -1, dtype=keys.dtype)
    np.putmask(keys, excluded, -1)
    if k < candidates:
        keys.partition(candidates - k, axis=1)
        keys = keys[:, candidates - k :]
    kept = np.sort(keys, axis=1)[:, ::-1].astype(np.int64)
    return Ranked(np.where(kept < 0, -1, candidates - 1 - kept % candidates), np.where(kept < 0, 0, kept // candidates))


def strongest_topic(
    interests: Floats, chosen: npt.NDArray[np.int64], topic_columns: npt.NDArray[np.int64], topic_weights: Floats
) -> npt.NDArray[np.int64]:
    """Return for each row and chosen candidate the column of the topic that contributes most to the cosine, or -1 for none.

    chosen is (rows, k), candidates or -1; topic_columns and topic_weights are (candidates, width), padded with -1 and 0.
    """
    columns = topic_columns[chosen]
    share = interests[np.arange(len(interests))[:, None, None], columns] * topic_weights[chosen]
    share[columns < 0] = 0
    best = share.argmax(axis=2)[:, :, None]
    column = np.take_along_axis(columns, best, axis=2)[:, :, 0]
    return np.where(np.take_along_axis(share, best, axis=2)[:, :, 0] > 0, column, -1)


def padded_topics(topics: Sequence[Sequence[tuple[int, float]]]) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return (column, weight) lists of candidates as two arrays (candidates, width), padded with -1 and 0."""
    width = max((len(item) for item in topics), default=0) or 1
    columns, weights = np.full((len(topics), width), -1, dtype=np.int64), np.zeros((len(topics), width), dtype=np.float32)
    for row, item in enumerate(topics):
        for place, (column, weight) in enumerate(item):
            columns[row, place], weights[row, place] = column, weight
    return columns, weights
