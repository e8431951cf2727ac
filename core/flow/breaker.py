"""A circuit breaker: stops calling what mostly fails, and lets one call through now and then to look.

State: the results of the last `window` calls of the last `window_s`. Closed: calls go through. Open: none, for a time that
doubles with every trial that fails. Half-open: one call is under way and decides. Each state has an epoch; a call carries
the epoch in which it was allowed, and its result counts in that epoch only. So a call that began before the breaker opened
neither closes nor opens it when it ends at last, and a result that is given twice counts once for a trial.
"""

from collections import deque
from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True)
class BreakerPlan:
    """When a breaker opens, and for how long."""

    window: int
    """Calls that are looked at, the last ones."""
    window_s: float
    """Older ones count no more."""
    min_calls: int
    """With fewer calls in the window it stays closed."""
    failure_share: float
    """It opens when so many of them failed."""
    open_s: float
    """First pause before a trial."""
    open_cap_s: float
    """Longest pause."""

    def __post_init__(self) -> None:
        assert 0 < self.min_calls <= self.window
        assert 0.0 < self.failure_share <= 1.0
        assert 0.0 < self.open_s <= self.open_cap_s


@dataclass(frozen=True, slots=True)
class Change:
    """A breaker's new state, and why."""

    state: State
    reason: str


class Breaker:
    """One breaker."""

    def __init__(self, plan: BreakerPlan) -> None:
        self._plan = plan
        self._results: deque[tuple[float, bool]] = deque(maxlen=plan.window)
        self._pause_s = plan.open_s
        self.state: State = "closed"
        self.epoch = 0
        self.until_s = 0.0
        """While open: when a trial is allowed."""

    def restore(self, now_s: float) -> None:
        """Begin as one that was not closed when its process ended: a trial decides, at once."""
        self._become("open")
        self.until_s = now_s

    def allow(self, now_s: float) -> Change | bool:
        """Return whether to call now; a Change when this call is the trial.

        An allowed call ends in `record`, or `abandon` if it was not made, with the epoch of this moment.
        """
        if self.state == "closed":
            return True
        if self.state == "half_open" or now_s < self.until_s:
            return False
        self._become("half_open")
        return Change("half_open", "a call looks whether it works again")

    def record(self, ok: bool, epoch: int, now_s: float) -> Change | None:
        """Take the result of a call that was allowed in `epoch`; return the new state when it changes."""
        if epoch != self.epoch:
            return None
        if self.state == "half_open":
            return self._closed() if ok else self._opened(now_s, "the call that looked whether it works again failed")
        self._results.append((now_s, ok))
        while self._results and self._results[0][0] < now_s - self._plan.window_s:
            self._results.popleft()
        if ok:
            return None
        failed = sum(1 for _, result in self._results if not result)
        if len(self._results) < self._plan.min_calls or failed < self._plan.failure_share * len(self._results):
            return None
        return self._opened(now_s, f"{failed} of the last {len(self._results)} calls failed")

    def abandon(self, epoch: int, now_s: float) -> None:
        """Take back a call that was allowed and not made: after a trial's the next one may be a trial at once."""
        if epoch == self.epoch and self.state == "half_open":
            self._become("open")
            self.until_s = now_s

    def failing(self, now_s: float) -> bool:
        """Return whether there is anything to remember: it is not closed, or a call in the window failed."""
        return self.state != "closed" or any(not ok for at_s, ok in self._results if at_s >= now_s - self._plan.window_s)

    def _become(self, state: State) -> None:
        self.state = state
        self.epoch += 1

    def _opened(self, now_s: float, reason: str) -> Change:
        self._pause_s = self._plan.open_s if self.state == "closed" else min(2 * self._pause_s, self._plan.open_cap_s)
        self._become("open")
        self.until_s = now_s + self._pause_s
        self._results.clear()
        return Change("open", reason)

    def _closed(self) -> Change:
        self._become("closed")
        self._results.clear()
        return Change("closed", "it works again")
