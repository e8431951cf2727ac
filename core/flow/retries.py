"""When a delivery that the provider did not take is tried again: one visible schedule for each channel and lane.

A try that was refused for a passing reason is repeated in the process a few times, when the provider asks for no longer
than a moment: that is for what is over in a second. Then the delivery is parked in the ledger, where no restart loses it
and where it holds up nobody, each time for the next step. Webhooks have no tries in the process: their steps are those of
the specification, counted from the first call. How often is bounded by time alone: a delivery that could only be tried
after its not_after has failed (attempts_exhausted).
Jitter: full, uniform(0, step) (Brooker, "Exponential Backoff And Jitter", AWS, 2015), but for webhooks +-20 % of the step,
as their specification has it; never sooner than the provider asks, and then up to a tenth later, so that all those who
were told the same do not come back together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

SHORT_ASK_S: Final = 2.0
"""What asks for a longer wait is parked at once, so that it does not fill the window."""
LATER: Final = 0.1
"""Share of the asked wait that is added at most."""

_MINUTE, _HOUR = 60.0, 3600.0
Uniform = Callable[[float, float], float]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A channel's and lane's retries."""

    short_s: tuple[float, ...]
    """Ceilings of the waits in the process, a try each."""
    long_s: tuple[float, ...]
    """Steps of the waits in the ledger, one each time that it is parked; the last one repeats."""
    jitter: tuple[float, float]
    """The wait lies between these shares of the step."""

    def __post_init__(self) -> None:
        assert self.long_s
        assert list(self.long_s) == sorted(self.long_s)
        assert 0.0 <= self.jitter[0] <= self.jitter[1]


_FULL = (0.0, 1.0)
_SHORT = (0.5, 1.0)
_URGENT = Schedule(_SHORT, (4.0, 8.0, 15.0, 30.0, _MINUTE, 2 * _MINUTE, 5 * _MINUTE), _FULL)
"""An alert is worth something now: it is tried every few minutes until it expires."""
_BULK = Schedule(_SHORT, (8.0, 15.0, 30.0, _MINUTE, 2 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE), _FULL)
"""While a provider is down its breaker keeps attempts from being made, so the steps stay short: the end of an outage is
noticed by the breaker, not by the schedule."""

SCHEDULES: Final[Mapping[tuple[str, str], Schedule]] = MappingProxyType(
    {
        **{(channel, "urgent"): _URGENT for channel in ("email", "slack", "discord")},
        **{(channel, "bulk"): _BULK for channel in ("email", "slack", "discord")},
        ("webhook", "urgent"): Schedule(
            (), (5.0, 15.0, 30.0, _MINUTE, 2 * _MINUTE, 5 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE), (0.8, 1.2)
        ),
        # Standard Webhooks, "Retry schedule": 0, 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h
        ("webhook", "bulk"): Schedule(
            (),
            (5.0, 5 * _MINUTE, 30 * _MINUTE, 2 * _HOUR, 5 * _HOUR, 10 * _HOUR, 14 * _HOUR, 20 * _HOUR, 24 * _HOUR),
            (0.8, 1.2),
        ),
    }
)
"""Channel and lane."""


def short_wait_s(schedule: Schedule, tries: int, asked_s: float, uniform: Uniform) -> float:
    """Return the wait before the next call in this process, after so many, for what asks for at most SHORT_ASK_S."""
    assert 1 <= tries <= len(schedule.short_s)
    assert asked_s <= SHORT_ASK_S
    return asked_s + uniform(0.0, schedule.short_s[tries - 1])


def long_wait_s(schedule: Schedule, time: int, asked_s: float, uniform: Uniform) -> float:
    """Return how long a delivery is parked when it is for that time (1 is the first)."""
    assert time >= 1
    step_s = schedule.long_s[min(time, len(schedule.long_s)) - 1]
    low, high = schedule.jitter
    return max(asked_s + uniform(0.0, LATER * asked_s), uniform(low * step_s, high * step_s))
