"""Which variant of an experiment somebody has: GrowthBook's hash, version 2, so that its tools can check and analyse it. Pure.

    bucket = fnv1a32(str(fnv1a32(seed + subscriber_id))) mod 10,000
    the variant is the first whose share, added up in the order of the definition, reaches above bucket / 10,000

(GrowthBook, "Building Your Own SDK", hash version 2; the tests compare this with its Python library.) The same seed, subscriber
and shares always give the same variant: nothing is stored, and no order of events matters.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

BUCKETS: Final = 10_000
_OFFSET: Final = 0x811C9DC5
_PRIME: Final = 0x01000193
_MASK: Final = 0xFFFFFFFF
_HEX: Final = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
_DASHES: Final = (8, 13, 18, 23)
"""Where a UUID's text has its dashes."""
_LETTERS: Final = np.array([place for place in range(36) if place not in _DASHES])
_LOWEST: Final = 10 ** np.arange(10, dtype=np.uint64)

Rows = npt.NDArray[np.int64]


def buckets(seed: str, subscribers: Sequence[bytes]) -> Rows:
    """Return the bucket, 0 to BUCKETS - 1, of each subscriber, given as the 16 bytes of their UUID."""
    text = np.empty((len(subscribers), 36), dtype=np.uint8)
    text[:, _DASHES] = ord("-")
    raw = np.frombuffer(b"".join(subscribers), dtype=np.uint8).reshape(len(subscribers), 16)
    text[:, _LETTERS] = _HEX[np.stack([raw >> 4, raw & 15], axis=2).reshape(len(subscribers), 32)]
    state = _OFFSET
    for unit in np.frombuffer(seed.encode("utf-16-le"), dtype="<u2").tolist():  # as GrowthBook's own, in JavaScript, reads it
        state = ((state ^ unit) * _PRIME) & _MASK
    first = np.full(len(subscribers), state, dtype=np.uint64)
    for place in range(36):
        first = ((first ^ text[:, place]) * np.uint64(_PRIME)) & np.uint64(_MASK)
    second = np.full(len(subscribers), _OFFSET, dtype=np.uint64)
    for power in _LOWEST[::-1]:  # over the decimal digits, without those before the first
        there = first >= power if power > 1 else np.ones(len(subscribers), dtype=np.bool_)
        digit = first // power % np.uint64(10) + np.uint64(ord("0"))
        second = np.where(there, ((second ^ digit) * np.uint64(_PRIME)) & np.uint64(_MASK), second)
    return (second % np.uint64(BUCKETS)).astype(np.int64)


def assigned(seed: str, subscribers: Sequence[bytes], shares: Sequence[float]) -> Rows:
    """Return the variant of each subscriber, as an index into the shares, which sum to 1."""
    ends = np.cumsum(np.asarray(shares, dtype=np.float64))
    ends[-1] = 1.0
    return np.searchsorted(ends, buckets(seed, subscribers) / BUCKETS, side="right").astype(np.int64)


def variants_of(newsletter_id: str, rules: Mapping[str, Any], subscribers: Sequence[bytes]) -> Rows:
    """Return the variant of a newsletter's definition that each subscriber has; -1 for all while no experiment runs."""
    if not rules["variants"]:
        return np.full(len(subscribers), -1, dtype=np.int64)
    return assigned(rules["seed"] or newsletter_id, subscribers, [variant["weight"] for variant in rules["variants"]])


def rules_of(rules: Mapping[str, Any], variant: int) -> Mapping[str, Any]:
    """Return the rules as they are for a variant: what it names instead of what the definition says; -1 is the definition."""
    if variant < 0:
        return rules
    own = rules["variants"][variant]
    return {**rules, **{name: own[name] for name in ("subject", "template", "ranking", "local_minute") if own[name] is not None}}
