"""From a ranking to an issue: not too much of one topic, and a last slot that explores.

Both are seeded by what they are about, so an issue can be worked out again, byte for byte, from the log.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core.ranking import SCORE_SCALE, Ranked
from core.sparse import Ints

POOL: Final = 200
"""Ranks that an issue is chosen from: what `ranking.best` is asked for."""

TEMPERATURE: Final = 0.5
"""τ of the exploration slot, in units of the score."""

PROPENSITY_SCALE: Final = 1_000_000
"""Propensities are whole multiples of 1e-6."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The items of issues, best first, the explored one last; all (rows, k)."""

    candidate: Ints
    """-1 where there is none."""
    score: Ints
    """In units of 1e-4."""
    propensity: npt.NDArray[np.float64]
    """How probable the item was in its slot; 1 for what was not drawn."""


def draws(source_id: str, subscribers: Sequence[bytes]) -> npt.NDArray[np.float64]:
    """Return a number in [0, 1) for each subscriber (any id as bytes): the same for the same source and subscriber, for ever."""
    prefix = hashlib.sha256(source_id.encode() + b"\n")
    found = np.empty(len(subscribers), dtype=np.float64)
    for row, subscriber in enumerate(subscribers):
        mine = prefix.copy()
        mine.update(subscriber)
        found[row] = int.from_bytes(mine.digest()[:6], "big") / 2**48
    return found


def choose(
    ranked: Ranked, strongest: Ints, k: int, topic_share: float, exploration: float, drawn: npt.NDArray[np.float64]
) -> Chosen:
    """Return issues of at most k items out of the POOL best candidates of each row.

    strongest (candidates) is each candidate's strongest topic as a whole number, -1 for none. At most max(1, ⌊topic_share·k⌋)
    items have the same one, greedily by score, unless nothing else is left. With exploration ε > 0 the last of k slots is drawn
    from (1-ε)·softmax(s/τ) + ε/|pool| over what is left of the POOL best; drawn (rows) is a number in [0, 1) a row (`draws`).
    """
    rows, width = ranked.candidate.shape
    k = min(k, width)
    explores = exploration > 0 and k > 0
    taken = _diverse(ranked.candidate, strongest, k - 1 if explores else k, max(1, int(topic_share * k + 1e-9)))
    place = np.full((rows, k), width)
    row, column = np.nonzero(taken)
    place[row, np.arange(len(row)) - np.searchsorted(row, row)] = column
    propensity = np.ones((rows, k))
    if explores and rows:
        pool = (ranked.candidate >= 0) & ~taken
        probability = _policy(ranked.score / SCORE_SCALE, pool, exploration)
        upto = np.cumsum(probability, axis=1)
        found = (upto <= drawn[:, None] * upto[:, -1:]).sum(axis=1)
        last = width - 1 - pool[:, ::-1].argmax(axis=1)
        found = np.minimum(found, last)
        some = pool.any(axis=1)
        place[:, k - 1] = np.where(some, found, width)
        own = np.rint(probability[np.arange(rows), found] * PROPENSITY_SCALE) / PROPENSITY_SCALE
        propensity[:, k - 1] = np.where(some, own, 1.0)
    filled = np.where(place < width, place, 0)
    there = (place < width) & (np.take_along_axis(ranked.candidate, filled, axis=1) >= 0) if width else place < width
    return Chosen(
        np.where(there, np.take_along_axis(ranked.candidate, filled, axis=1), -1) if width else place,
        np.where(there, np.take_along_axis(ranked.score, filled, axis=1), 0) if width else place,
        np.where(there, propensity, 1.0),
    )


def _diverse(candidate: Ints, strongest: Ints, k: int, most: int) -> npt.NDArray[np.bool_]:
    """Return which places are taken (rows, width): the first k, but only `most` of a topic while there are others.

    A place is taken when fewer than `most` of its topic stand before it, until there are k.
    """
    rows, width = candidate.shape
    if not rows or not width or k <= 0:
        return np.zeros((rows, width), dtype=np.bool_)
    there, place = candidate >= 0, np.arange(width)
    topic = np.where(there, strongest[candidate], -1) + 1
    keys = topic * width + place
    keys.sort(axis=1)
    sorted_topic, sorted_place = np.divmod(keys, width)
    first = np.ones((rows, width), dtype=np.bool_)
    first[:, 1:] = sorted_topic[:, 1:] != sorted_topic[:, :-1]
    before = place - np.maximum.accumulate(np.where(first, place, 0), axis=1)
    fits = np.empty((rows, width), dtype=np.bool_)
    np.put_along_axis(fits, sorted_place, (before < most) | (sorted_topic == 0), axis=1)
    fits &= there
    taken = fits & (np.cumsum(fits, axis=1) <= k)
    for row in np.flatnonzero(taken.sum(axis=1) < k).tolist():
        left = np.flatnonzero(~taken[row] & there[row])[: k - int(taken[row].sum())]
        taken[row, left] = True
    return taken


def _policy(scores: npt.NDArray[Any], pool: npt.NDArray[np.bool_], exploration: float) -> npt.NDArray[np.float64]:
    """Return the probability of each place of the pool (rows, width); rows without a pool are zeros."""
    weight = np.exp((scores - scores[:, :1]) / TEMPERATURE) * pool
    total, size = weight.sum(axis=1, keepdims=True), pool.sum(axis=1, keepdims=True)
    likely = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
    evenly = np.divide(pool, size, out=np.zeros_like(weight), where=size > 0)
    return np.asarray((1 - exploration) * likely + exploration * evenly, dtype=np.float64)
