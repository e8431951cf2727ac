"""What a process that hangs is doing: `kill -USR2 PID` writes the stacks of its threads and asyncio tasks to its log.

Consumes and produces nothing; the process goes on as before. The threads' stacks come even while the interpreter is stuck,
the tasks' once it runs Python again.
"""

import asyncio
import faulthandler
import signal
import sys
from collections.abc import Iterator
from typing import Any


def on_signal(*loops: asyncio.AbstractEventLoop) -> None:
    """From now on SIGUSR2 writes the stacks, and those of the tasks of these event loops. For the main thread."""

    def show(number: int, frame: object) -> None:
        for loop in loops:
            for task in asyncio.all_tasks(loop):
                print(f"Task {task.get_name()}:", *_awaited(task.get_coro()), sep="\n  ", file=sys.stderr)
        sys.stderr.flush()

    signal.signal(signal.SIGUSR2, show)
    faulthandler.register(signal.SIGUSR2, all_threads=True, chain=True)


def _awaited(coroutine: Any) -> Iterator[str]:
    """Yield where a coroutine waits, and where what it waits for does, to the innermost; compiled ones do not say."""
    while coroutine is not None:
        frame = next((found for kind in ("cr_frame", "ag_frame", "gi_frame") if (found := getattr(coroutine, kind, None))), None)
        yield f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}" if frame else repr(coroutine)
        kinds = ("cr_await", "ag_await", "gi_yieldfrom")
        coroutine = next((inner for kind in kinds if (inner := getattr(coroutine, kind, None)) is not None), None)
