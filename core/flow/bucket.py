"""Token buckets: how many messages may go now, to a whole provider (`Bucket`) or to one destination (`Pace`).

A bucket's speed is its ceiling until the provider says that it was too fast; then it is halved, and grows back by itself
(additive increase, multiplicative decrease: Chiu and Jain, 1989). `Bucket` is a value that the processes of a channel
share through a table and take from in blocks; `Pace` is one process's own, gives out the time of a turn, and learns afterwards
which turns other processes took.
"""

from dataclasses import dataclass, replace
from typing import Final

SLOWER: Final = 0.5
"""Factor of the speed after a throttled answer."""
SLOWEST_SHARE: Final = 0.05
"""Share of the ceiling that is always left: something must go out to find out that it works again."""
FASTER_PER_S: Final = 0.02
"""Share of the ceiling that comes back in a second: from half to all of it in 25 s."""
SLOW_AGAIN_S: Final = 1.0
"""Throttled answers within this time are about the same moment, so they slow down once."""
BULK_SHARE: Final = 0.1
"""Share of the refill that only bulk may take, so that it never starves."""
URGENT_SHARE: Final = 0.2
"""Share of the bucket that bulk leaves for urgent."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How many a second, and how many at once."""

    per_s: float
    burst: float

    def __post_init__(self) -> None:
        assert self.per_s > 0
        assert self.burst >= 1

    def of(self, share: float) -> "Rate":
        """Return a share of it; at least one at once."""
        return Rate(self.per_s * share, max(1.0, self.burst * share))


@dataclass(frozen=True, slots=True)
class Speed:
    """A rate's present speed: the ceiling, or less since it was slowed down."""

    ceiling: float
    slowed_to: float | None = None
    slowed_at_s: float = 0.0

    def at(self, now_s: float) -> float:
        """Return messages a second."""
        if self.slowed_to is None:
            return self.ceiling
        grown = self.slowed_to + self.ceiling * FASTER_PER_S * max(0.0, now_s - self.slowed_at_s)
        return min(self.ceiling, grown)

    def slowed(self, now_s: float) -> "Speed":
        """Return the speed after a throttled answer."""
        if self.slowed_to is not None and now_s - self.slowed_at_s < SLOW_AGAIN_S:
            return self
        return replace(self, slowed_to=max(SLOWER * self.at(now_s), SLOWEST_SHARE * self.ceiling), slowed_at_s=now_s)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A provider's bucket. Urgent takes from the common tokens; bulk from its own first, then from the common ones but for
    what is kept for urgent. What bulk's own part cannot hold goes to the common one."""

    speed: Speed
    burst: float
    common: float
    bulk: float
    at_s: float
    held_until_s: float = 0.0
    """Nothing is given before: the provider named a time."""

    def with_rate(self, rate: Rate) -> "Bucket":
        """Return it with another ceiling, as the provider says that it is now."""
        if (rate.per_s, rate.burst) == (self.speed.ceiling, self.burst):
            return self
        slowed = None if self.speed.slowed_to is None else min(self.speed.slowed_to, rate.per_s)
        speed = replace(self.speed, ceiling=rate.per_s, slowed_to=slowed)
        common, bulk = min(self.common, rate.burst), min(self.bulk, _bulk_cap(rate.burst))
        return replace(self, speed=speed, burst=rate.burst, common=common, bulk=bulk)

    def refilled(self, now_s: float) -> "Bucket":
        """Return it with what has flowed in since; a clock that goes back changes nothing."""
        if now_s <= self.at_s:
            return self
        inflow = self.speed.at(now_s) * (now_s - max(self.at_s, min(self.held_until_s, now_s)))
        bulk = min(_bulk_cap(self.burst), self.bulk + BULK_SHARE * inflow)
        common = min(self.burst, self.common + inflow - (bulk - self.bulk))
        return replace(self, common=common, bulk=bulk, at_s=now_s)

    def grant(self, lane: str, wanted: int, now_s: float) -> tuple["Bucket", int]:
        """Return the bucket afterwards and how many whole tokens of those wanted were given, maybe 0."""
        bucket = self.refilled(now_s)
        if now_s < bucket.held_until_s:
            return bucket, 0
        if lane == "urgent":
            given = min(wanted, int(bucket.common))
            return replace(bucket, common=bucket.common - given), given
        spare = max(0.0, bucket.common - int(URGENT_SHARE * self.burst))
        given = min(wanted, int(bucket.bulk + spare))
        own = min(bucket.bulk, float(given))
        return replace(bucket, bulk=bucket.bulk - own, common=bucket.common - (given - own)), given

    def slowed(self, now_s: float, hold_s: float) -> "Bucket":
        """Return it after a throttled answer that asks to wait so long."""
        bucket = self.refilled(now_s)
        return replace(bucket, speed=bucket.speed.slowed(now_s), held_until_s=max(bucket.held_until_s, now_s + hold_s))


def _bulk_cap(burst: float) -> float:
    return max(1.0, BULK_SHARE * burst)


class Pace:
    """A destination's turns (the generic cell rate algorithm: ITU-T I.371): one at a time, the first `burst` at once."""

    __slots__ = ("_burst", "_free_at_s", "_parked_until_s", "_speed", "_used_s", "held_until_s")

    def __init__(self, rate: Rate) -> None:
        self._speed, self._burst = Speed(rate.per_s), rate.burst
        self._free_at_s = self._parked_until_s = self.held_until_s = float("-inf")
        self._used_s = 0.0

    def per_s(self, now_s: float) -> float:
        """Return its present speed."""
        return self._speed.at(now_s)

    def turn(self, now_s: float, longest_s: float) -> tuple[float, bool]:
        """Return the wait for the next turn, and whether the turn was taken.

        It is not taken when the wait is longer than `longest_s`: then the wait is for coming back and asking again, and
        whoever asks after that is told a later time, so that they do not all come back at once.
        """
        gap_s = 1.0 / self._speed.at(now_s)
        starts_at_s = max(now_s, self._free_at_s - (self._burst - 1.0) * gap_s, self.held_until_s)
        if starts_at_s - now_s <= longest_s:
            self._used_s = gap_s + (self._used_s if self._free_at_s > now_s else 0.0)  # what lies back counts no more
            self._free_at_s = max(self._free_at_s, starts_at_s) + gap_s
            return starts_at_s - now_s, True
        self._parked_until_s = max(self._parked_until_s, starts_at_s) + gap_s
        return self._parked_until_s - now_s, False

    def slow(self, now_s: float, hold_s: float) -> None:
        """Take a throttled answer that asks to wait so long."""
        self._speed = self._speed.slowed(now_s)
        self.held_until_s = max(self.held_until_s, now_s + hold_s)

    def ahead_s(self, now_s: float) -> float:
        """Return how far off the end of the turns is that were taken."""
        return self._free_at_s - now_s

    def reported(self) -> float:
        """Return the time that the turns take which were taken since this was asked last."""
        used_s, self._used_s = self._used_s, 0.0
        return used_s

    def follow(self, now_s: float, ahead_s: float, held_s: float) -> None:
        """Take what all processes took: the end of the turns but for those not reported yet, and a pause, both from now."""
        self._free_at_s = max(self._free_at_s, now_s + ahead_s + self._used_s)
        self.held_until_s = max(self.held_until_s, now_s + held_s)

    def idle(self, now_s: float) -> bool:
        """Return whether a new one would do as well."""
        full_speed = self._speed.at(now_s) >= self._speed.ceiling
        return full_speed and max(self._free_at_s, self._parked_until_s, self.held_until_s) <= now_s
