"""A circuit breaker: stops calling a dependency that mostly fails, and lets one call through now and then to look.

State: the outcomes of the last `window` calls, in memory of one process. Not thread-safe; it belongs to one event loop.
"""

from collections import deque
from typing import Literal

from runtime.clock import Clock, SystemClock


class Breaker:
    """Closed (calls go through), open (none), half-open (one at a time, which decides)."""

    def __init__(
        self,
        window: int = 20,
        min_calls: int = 5,
        failure_share: float = 0.5,
        open_s: float = 5.0,
        *,
        clock: Clock | None = None,
    ) -> None:
        """Open when at least `min_calls` of the last `window` calls are known and `failure_share` of them failed."""
        assert 0 < min_calls <= window
        assert 0.0 < failure_share <= 1.0
        self._results: deque[bool] = deque(maxlen=window)
        self._min_calls, self._share, self._open_s = min_calls, failure_share, open_s
        self._clock: Clock = clock or SystemClock()
        self._opened_at: float | None = None
        self._trial = False

    @property
    def state(self) -> Literal["closed", "open", "half_open"]:
        """Return what a call would meet now."""
        if self._opened_at is None:
            return "closed"
        return "open" if self.retry_after_s() > 0 else "half_open"

    def retry_after_s(self) -> float:
        """Return seconds until a call may be tried; 0 when it may be tried now."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._open_s - self._clock.monotonic())

    def allow(self) -> bool:
        """Return whether to call now; a True must be followed by `succeeded`, `failed` or `abandoned`."""
        if self._opened_at is None:
            return True
        if self.retry_after_s() > 0 or self._trial:
            return False
        self._trial = True
        return True

    def succeeded(self) -> None:
        """Record that a call succeeded; closes a half-open breaker."""
        if self._opened_at is not None:
            self._opened_at, self._trial = None, False
            self._results.clear()
        self._results.append(True)

    def failed(self) -> None:
        """Record that a call failed because of the dependency; may open the breaker."""
        self._results.append(False)
        if self._opened_at is not None:
            self._opened_at, self._trial = self._clock.monotonic(), False
            return
        failures = self._results.count(False)
        if len(self._results) >= self._min_calls and failures >= self._share * len(self._results):
            self._opened_at = self._clock.monotonic()

    def abandoned(self) -> None:
        """Record that an allowed call was not made, or says nothing about the dependency."""
        self._trial = False
