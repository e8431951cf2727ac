"""Servers and libraries written by others, from npm, as processes of their own.

They are installed into tests/peers/node_modules by `npm ci` when they are not there; a machine without node skips.
"""

import fcntl
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"
INSTALLED = MODULES / ".package-lock.json"
READY_S = 60.0


def node() -> str:
    """Return the path of node with the peers installed; skips where there is none."""
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None:
        pytest.skip("node and npm are missing: install Node.js 20 or newer to try the sinks on independent peers")
    with (HERE / "package-lock.json").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not INSTALLED.exists() or INSTALLED.stat().st_mtime < (HERE / "package-lock.json").stat().st_mtime:
            made = subprocess.run(["npm", "ci"], cwd=HERE, capture_output=True, text=True, timeout=600, check=False)
            assert made.returncode == 0, f"npm ci in {HERE} failed, so the peers are not there:\n{made.stderr[-2000:]}"
            os.utime(INSTALLED)
    return found


@contextmanager
def server(script: str, *arguments: str, health: str, log: Path, **environment: str) -> Iterator[None]:
    """Run a peer until the block ends; health is an address that answers once it listens."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [node(), str(MODULES / script), *arguments], stdout=output, stderr=output, cwd=log.parent,
            env={"PATH": os.environ["PATH"], "HOME": str(log.parent), **environment},
        )  # fmt: skip
    try:
        until = time.monotonic() + READY_S
        while not _answers(health):
            assert process.poll() is None, f"{script} ended with {process.returncode}:\n{log.read_text()[-2000:]}"
            assert time.monotonic() < until, f"{script} did not answer at {health} in {READY_S} s"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
