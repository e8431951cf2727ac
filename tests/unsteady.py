"""Runs pytest, and what failed once more, alone: `python -m tests.unsteady ARGUMENTS OF PYTEST`.

On a machine that is busy with four tests at once one of some thousand may fail that holds. A test that fails alone too is broken,
and the run with it; one that passes alone is named at the end, whatever it said stands above, and wants mending.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

FAILED = 1
"""pytest's exit code when tests ran and some failed; any other failure is not about tests."""
MOST = 10
"""More failures than these are no accident."""


def _pytest(arguments: Sequence[str], cache: Path) -> int:
    command = [sys.executable, "-m", "pytest", "-o", f"cache_dir={cache}", *arguments]
    return subprocess.run(command, check=False).returncode


def _failed(cache: Path) -> list[str]:
    file = cache / "v" / "cache" / "lastfailed"
    return list(json.loads(file.read_text())) if file.exists() else []


def main(arguments: Sequence[str]) -> int:
    """Return pytest's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        code = _pytest(arguments, cache)
        failed = _failed(cache)
        if code != FAILED or not 0 < len(failed) <= MOST:
            return code
        print(f"\n{len(failed)} failed; now alone, one after the other:", *failed, sep="\n  ", flush=True)
        code = _pytest([*failed, "-q", "--tb=short", "--show-capture=no"], cache)
        if code == 0:
            print("unsteady, passed alone (why each failed stands above):", *failed, sep="\n  ", flush=True)
        return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
