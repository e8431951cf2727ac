"""What a hanging process says of itself."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import asyncio, os, signal
from runtime import stacks

async def innermost():
    os.kill(os.getpid(), signal.SIGUSR2)
    await asyncio.sleep(0.05)

async def outer():
    await innermost()

async def main():
    loop = asyncio.get_running_loop()
    stacks.on_signal(loop)
    await outer()
    print("went on")

asyncio.run(main())
"""


def test_sigusr2_shows_where_each_task_waits_and_the_process_goes_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert "Current thread" in done.stderr  # the thread's stack, by faulthandler
    for name in ("main", "outer", "innermost"):
        assert f" in {name}" in done.stderr
    assert done.stdout == "went on\n"
