"""Ranking of publications for subscribers: interests, the newsletter score, and the best by it.

Everything is linear and can be printed as a reason. A batch always has BATCH_ROWS rows, padded with empty ones, because a matrix
product of one row differs from the same row in a larger product; so alone and in a batch a subscriber gets the same answer.
Scores are rounded to 1e-4, and ties go to the smaller publication_id.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core.vectors import Floats, unit_rows

BATCH_ROWS: Final = 64
"""Rows of one matrix product: a multiple of every kernel's tile. One reader alone pays for all, some 1 ms at 2,000 candidates."""

BLOCK_ROWS: Final = 32
"""Rows whose scores are worked on at once: they stay in the processor's cache from one step to the next."""

N0: Final = 5.0
"""What the declared topics weigh, in views."""

PROFILE_HALF_LIFE_D: Final = 30.0
"""Half-life of an engagement in a subscriber's profile, in days."""

COUNTER_HALF_LIFE_D: Final = 3.0
"""Half-life of an engagement in a publication's counter, in days."""

MUCH_READ: Final = 50.0
"""Reads, in views, from which on they count as a share of what others are read, and no longer for themselves."""

IDLE_H: Final = 6.0
"""Hours without a reader from which on a publication is not as much in demand as it was."""

IDLE_POWER: Final = 0.5
"""With which power of these hours it loses worth, where many read."""

IDLE_READS: Final = 6.0
"""How much read that must be which is read, in views, for half of that power: among few readers a pause says nothing."""

AGE_POWER: Final = 1.5
"""With which power of its age an old publication loses worth."""

RELEVANCE_FLOOR: Final = 0.05
"""What the least relevant candidate counts, beside 1 more for the most relevant."""

SCORE_SCALE: Final = 10_000
"""Scores are whole multiples of 1e-4."""


def rows_product(rows: Floats, matrix: Floats) -> Floats:
    """Return rows @ matrix, in products of BATCH_ROWS: what a row comes to does not depend on which others there are."""
    found = np.empty((len(rows), matrix.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), BATCH_ROWS):
        part = rows[start : start + BATCH_ROWS]
        padded = np.zeros((BATCH_ROWS, rows.shape[1]), dtype=np.float32)
        padded[: len(part)] = part
        found[start : start + len(part)] = (padded @ matrix)[: len(part)]
    return found


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


def demand(engagement: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return e~ = e_c / (1 + ē/MUCH_READ) of all candidates, where ē = Σe²/Σe is how much read that is which is read.

    Where few read, it is the reads themselves, because a few say little; where many do, a share of what is usual there, the same
    for a thousand readers and for a million.
    """
    return np.asarray(engagement, dtype=np.float64) / (1 + _usual(engagement) / MUCH_READ)


def _usual(engagement: npt.NDArray[Any]) -> float:
    """Return ē = Σe²/Σe, 0 where nothing is read."""
    reads = np.asarray(engagement, dtype=np.float64)
    total = float(reads.sum())
    return float(np.square(reads).sum()) / total if total > 0 else 0.0


def liveliness(engagement: npt.NDArray[Any], idle_h: npt.NDArray[Any]) -> Floats:
    """Return (1 + idle/IDLE_H)^(-½·ē/(ē + IDLE_READS)) of all candidates, what freshness is multiplied by.

    idle_h are the hours since somebody engaged with each, or since there is one to engage with.
    """
    usual = _usual(engagement)
    power = IDLE_POWER * usual / (usual + IDLE_READS)
    return np.asarray((1 + np.maximum(idle_h, 0) / IDLE_H) ** -power, dtype=np.float32)


def freshness(engagement: npt.NDArray[Any], age_h: npt.NDArray[Any], half_life_h: float) -> Floats:
    """Return log1p(1 + e~)·(1 + (2^⅔ - 1)·age/h)^-1.5, the part of the score that is the same for everybody.

    The arguments are of all candidates of a slot, in their order. Age halves it at h, and takes less and less after that: what is
    read late is older than an exponential would have it.
    """
    aged = (1 + (2 ** (1 / AGE_POWER) - 1) * np.maximum(age_h, 0) / half_life_h) ** -AGE_POWER
    return np.asarray(np.log1p(1 + demand(engagement)) * aged, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Ranked:
    """The best of each row: both (rows, k); candidate is -1 where fewer than k were left."""

    candidate: npt.NDArray[np.int32]
    score: npt.NDArray[np.int32]


def best(relevance: Floats, fresh: Floats, excluded: npt.NDArray[np.bool_], k: int) -> Ranked:
    """Return the k best candidates of each row by (RELEVANCE_FLOOR + r~)·fresh, r~ the relevance scaled to 0..1 for each row.

    relevance (rows, candidates) is overwritten; candidates are in the order of publication_id; excluded is (rows, candidates).
    Scores are in units of 1e-4.
    """
    rows, candidates = relevance.shape
    k = min(k, candidates)
    if not rows or not k:
        return Ranked(np.zeros((rows, k), dtype=np.int32), np.zeros((rows, k), dtype=np.int32))
    scaled = fresh * np.float32(SCORE_SCALE)
    # One number holds score and tie-break, so any selection of the k largest is the right one; 32 bits when they suffice.
    kind = np.int32 if (1.2 * float(scaled.max()) + 1) * candidates < 2**31 else np.int64
    ties, kept = np.arange(candidates - 1, -1, -1, dtype=kind), np.empty((rows, k), dtype=kind)
    for start in range(0, rows, BLOCK_ROWS):
        some = slice(start, start + BLOCK_ROWS)
        kept[some] = _largest(_keys(relevance[some], scaled, ties), excluded[some], k)
    score = kept // candidates
    candidate = np.where(kept < 0, -1, candidates - 1 - kept + score * candidates)
    return Ranked(candidate.astype(np.int32, copy=False), np.maximum(score, 0).astype(np.int32, copy=False))


def _keys(relevance: Floats, scaled: Floats, ties: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return score·candidates + tie of each cell of a block, overwriting its relevance."""
    low, high = relevance.min(axis=1, keepdims=True), relevance.max(axis=1, keepdims=True)
    spread = high - low
    np.divide(np.float32(1), spread, out=spread, where=spread > 0)
    relevance -= low
    relevance *= spread
    relevance += np.float32(RELEVANCE_FLOOR)
    relevance *= scaled
    np.rint(relevance, out=relevance)
    keys = relevance.astype(ties.dtype)
    keys *= len(ties)
    keys += ties
    return keys


def _largest(keys: npt.NDArray[Any], excluded: npt.NDArray[np.bool_], k: int) -> npt.NDArray[Any]:
    """Return the k largest keys of each row, the largest first; -1 for what is excluded."""
    np.copyto(keys, -1, where=excluded)
    candidates = keys.shape[1]
    if k < candidates:
        keys.partition(candidates - k, axis=1)
    kept = keys[:, candidates - k :]
    kept.sort(axis=1)
    return kept[:, ::-1]
