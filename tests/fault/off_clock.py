"""A Newswire process whose clock is wrong: `python -m tests.fault.off_clock SECONDS PROCESS`.

The wall clock is read in one place only (a test walks the imports), so that is where it is set off. libfaketime would
reach the clients' libraries too, but librdkafka's threads do not start under it.
"""

import sys
from datetime import datetime, timedelta

from runtime.clock import SystemClock
from runtime.commands import main


def set_off(seconds: float) -> None:
    """Let every reading of the wall clock be wrong by so many seconds."""
    right = SystemClock.now

    def wrong(self: SystemClock) -> datetime:
        return right(self) + timedelta(seconds=seconds)

    SystemClock.now = wrong  # type: ignore[method-assign]


if __name__ == "__main__":
    set_off(float(sys.argv[1]))
    sys.argv = ["newswire", "run", sys.argv[2]]
    main()
