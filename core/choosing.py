"""From a ranking to an issue: not too much of one topic, nor of what does not concern the reader; a last slot that explores.

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
from core.vectors import Floats

POOL: Final = 200
"""Ranks that an issue is chosen from."""

TEMPERATURE: Final = 0.5
"""τ of the exploration slot, in units of the score."""

OWN_SHARE: Final = 0.8
"""Of an issue, at most of one topic because the reader cares for nothing else: never ten times the same."""

GENERAL_SHARE: Final = 0.3
"""Of an issue's full size, at most of what does not concern a reader of whom it is known what does: a few of what is much read,
or new in other topics, tell what else there is; more are filler, and a shorter issue is better."""

PROPENSITY_SCALE: Final = 1_000_000
"""Propensities are whole multiples of 1e-6, and never 0: whoever weighs by their inverse divides by them."""

_GAMMA, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
"""Of SplitMix64 (Steele, Lea, Flood 2014)."""


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
    """Return a number in [0, 1) for each subscriber (16 bytes): the same for the same source and subscriber, for ever.

    SplitMix64 over the two halves of the id, begun with SHA-256 of the source.
    """
    halves = np.frombuffer(b"".join(subscribers), dtype=">u8").reshape(-1, 2).astype(np.uint64)
    seeds = np.frombuffer(hashlib.sha256(source_id.encode()).digest()[:16], dtype=">u8").astype(np.uint64)
    state = np.zeros(len(halves), dtype=np.uint64)
    for half, seed in zip(halves.T, seeds, strict=True):
        state = (state ^ half ^ seed) + _GAMMA
        state = (state ^ (state >> np.uint64(30))) * _FIRST
        state = (state ^ (state >> np.uint64(27))) * _SECOND
        state ^= state >> np.uint64(31)
    return np.asarray((state >> np.uint64(11)) / 2**53, dtype=np.float64)


def shares(interests: Floats, topic_share: float) -> Floats:
    """Return the largest share of an issue that each topic may have: topic_share, or its part of the reader's interests.

    interests is (rows, topics), from 0; the answer has one more column, for none. Who cares for one topic gets at most OWN_SHARE
    of it (calibration as in Steck, RecSys 2018, as an upper limit only).
    """
    total = interests.sum(axis=1, keepdims=True)
    found = np.full((len(interests), interests.shape[1] + 1), topic_share, dtype=np.float32)
    own = np.minimum(interests / np.where(total > 0, total, np.float32(1)), np.float32(OWN_SHARE))
    np.maximum(found[:, :-1], own, out=found[:, :-1])
    return found


def pool_of(twins: Ints | None) -> int:
    """Return how many of the best (`ranking.best`) `choose` needs, so that POOL different ones are among them."""
    if twins is None:
        return POOL
    members = twins[twins >= 0]
    return POOL + len(members) - len(np.unique(members))


def choose(
    ranked: Ranked, strongest: Ints, k: int, topic_share: float | Floats, exploration: float, drawn: npt.NDArray[np.float64],
    twins: Ints | None = None, general: npt.NDArray[np.bool_] | None = None,
) -> Chosen:  # fmt: skip
    """Return issues of at most k items out of the POOL best candidates of each row.

    strongest (candidates) is each candidate's strongest topic as a whole number, -1 for none. At most max(1, ⌊topic_share·k⌋)
    items have the same one, greedily by score, unless nothing else is left; topic_share is one number, or what `shares` gives.
    Of candidates with the same number in twins (candidates; -1 for none, None when none has one) an issue has the best only.
    general (rows, width; None for none) says what does not concern the reader: at most `most_general` of k are, of the best, and
    an issue that would have nothing else is empty. What is drawn may be general too.
    With exploration ε > 0 the last of k > 1 slots is drawn from (1-ε)·softmax(s/τ) + ε/|pool| over what is left of the POOL best;
    drawn (rows) is a number in [0, 1) a row (`draws`).
    """
    rows, width = ranked.candidate.shape
    asked, k = k, min(k, width)
    if not rows or not k:
        none = np.zeros((rows, k), dtype=np.int64)
        return Chosen(none, none, np.ones((rows, k)))
    explores, everyone = exploration > 0 and asked > 1, np.arange(rows)
    left = ranked.candidate >= 0
    if twins is not None:
        left &= _first_of(left, twins[ranked.candidate])
        left &= np.cumsum(left, axis=1) <= POOL
    able = left if general is None else _concerning(left, general, asked)
    most = np.maximum(1, (np.atleast_2d(topic_share) * k + 1e-5).astype(np.int64))
    place = _diverse(able, strongest[ranked.candidate], k - 1 if explores else k, most)
    there, propensity = place < width, np.ones((rows, k))
    if explores:
        left[np.nonzero(there)[0], place[there]] = False
        probability = _policy(ranked.score, left, exploration)
        upto = np.cumsum(probability, axis=1, dtype=np.float64)
        last = (upto > drawn[:, None] * upto[:, -1:]).argmax(axis=1)
        some = upto[:, -1] > 0
        own = np.maximum(np.rint(probability[everyone, last].astype(np.float64) * PROPENSITY_SCALE), 1) / PROPENSITY_SCALE
        propensity[:, -1] = np.where(some, own, 1.0)
        place, there = np.column_stack([place, last]), np.column_stack([there, some])
        if general is not None:  # what was drawn follows what there is
            order = np.argsort(~there, axis=1, kind="stable")
            place, there, propensity = (np.take_along_axis(one, order, axis=1) for one in (place, there, propensity))
    cell = everyone[:, None], np.where(there, place, 0)
    return Chosen(np.where(there, ranked.candidate[cell], -1), np.where(there, ranked.score[cell], 0), propensity)


def most_general(concerning: Ints, k: int) -> Ints:
    """Return how many items of issues of k may be general: GENERAL_SHARE, and no more than there are others."""
    return np.minimum(concerning, int(GENERAL_SHARE * k + 1e-5))


def _concerning(left: npt.NDArray[np.bool_], general: npt.NDArray[np.bool_], k: int) -> npt.NDArray[np.bool_]:
    """Return what of left (rows, width) may be chosen otherwise than by a draw; where nothing may, left is emptied too."""
    others, rest = left & ~general, left & general
    count = np.count_nonzero(others, axis=1)
    left[count == 0] = False
    return others | (rest & (np.cumsum(rest, axis=1) <= most_general(count, k)[:, None]))


def _first_of(left: npt.NDArray[np.bool_], twin: Ints) -> npt.NDArray[np.bool_]:
    """Return which places of each row (rows, width) are the first that is left of their group in twin, or of none."""
    row, column = np.nonzero(left & (twin >= 0))
    _, first = np.unique(row * (int(twin.max()) + 1) + twin[row, column], return_index=True)
    found = twin < 0
    found[row[first], column[first]] = True
    return found


def _diverse(left: npt.NDArray[np.bool_], topic: Ints, k: int, most: Ints) -> Ints:
    """Return k places of each row, in their order: the first, but only `most` of a topic while there are others.

    left (rows, width) says what there is; what is taken is taken out of it. most is (rows, topics), or 1 where all are alike.
    A row that has too few gets the place `width`.
    """
    rows, width = left.shape
    place, topics = np.full((rows, k), width), int(topic.max()) + 1
    everyone, had = np.arange(rows), np.zeros((rows, topics + 1), dtype=np.int64)
    most = np.broadcast_to(most, (rows, max(topics, most.shape[1])))
    fitting = left.copy()
    for number in range(k):
        first = fitting.argmax(axis=1)
        mine = topic[everyone, first]
        some = fitting[everyone, first]
        left[everyone, first] &= ~some
        fitting[everyone, first] = False
        had[everyone, mine] += some
        full = np.flatnonzero(some & (mine >= 0) & (had[everyone, mine] == most[everyone, mine]))
        fitting[full] &= topic[full] != mine[full, None]
        place[:, number] = np.where(some, first, width)
    has = (place < width).sum(axis=1)
    short = np.flatnonzero(has < k)
    others = left[short] & (np.cumsum(left[short], axis=1) <= k - has[short, None])
    row, column = np.nonzero(others)
    nth = np.arange(len(row)) - np.searchsorted(row, row)
    place[short[row], has[short[row]] + nth] = column
    left[short[row], column] = False
    place[short] = np.sort(place[short], axis=1)
    return place


def _policy(score: npt.NDArray[Any], pool: npt.NDArray[np.bool_], exploration: float) -> Floats:
    """Return the probability of each place of the pool (rows, width); rows without a pool are zeros."""
    weight: Floats = (score - score[:, :1]).astype(np.float32)
    weight *= np.float32(1 / (TEMPERATURE * SCORE_SCALE))
    np.exp(weight, out=weight)
    weight *= pool
    total, size = weight.sum(axis=1, keepdims=True), np.count_nonzero(pool, axis=1, keepdims=True)
    weight *= np.float32(1 - exploration) / np.where(total > 0, total, np.float32(1))
    weight += np.where(pool, np.float32(exploration) / np.maximum(size, 1).astype(np.float32), np.float32(0))
    return weight
