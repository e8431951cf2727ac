"""How long to wait before trying again."""

import random
from collections.abc import Callable

BASE_S = 0.1
"""First ceiling: a dependency that restarts needs about a second."""
CAP_S = 5.0
"""Highest ceiling: after an outage everything goes on within this time."""


def backoff(
    attempt: int, *, base_s: float = BASE_S, cap_s: float = CAP_S, uniform: Callable[[float, float], float] = random.uniform
) -> float:
    """Return seconds to wait before attempt + 1 (attempt counts from 1): exponential with full jitter.

    Formula: uniform(0, min(cap, base * 2 ** (attempt - 1))), Brooker, "Exponential Backoff And Jitter" (AWS, 2015).
    """
    assert attempt >= 1
    return uniform(0.0, min(cap_s, base_s * 2.0 ** min(attempt - 1, 30)))
