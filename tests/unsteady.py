"""Runs pytest, and what failed once more, alone: `python -m tests.unsteady ARGUMENTS OF PYTEST`.

On a machine that is busy with four tests at once one of some thousand may fail that holds. A test that fails twice alone too is
broken, and the run with it; one that passes alone is named at the end, whatever it said stands above, and wants mending. As a
plugin of pytest it writes the tests that failed into --failed-into, also those whose worker ended.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

FAILED = 1
"""pytest's exit code when tests ran and some failed; any other failure is not about tests."""
TRIES = 2
"""How often a test is run alone before it counts as broken."""
MOST_FILES, MOST_TESTS = 10, 100
"""More failures than these are no accident; a fixture that fails takes all tests of its file with it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take --failed-into."""
    parser.addoption("--failed-into", type=Path, help="file for the ids of the tests that failed")


def pytest_configure(config: pytest.Config) -> None:
    """Listen in the process that reports, not in its workers."""
    if config.getoption("failed_into") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Failed(config.getoption("failed_into")))


class _Failed:
    def __init__(self, file: Path) -> None:
        self._file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            with self._file.open("a") as file:
                file.write(f"{report.nodeid}\n")


def _pytest(*arguments: str) -> tuple[int, list[str]]:
    """Return pytest's exit code, and the tests that failed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "failed"
        file.touch()
        command = [sys.executable, "-m", "pytest", "-p", "tests.unsteady", f"--failed-into={file}", *arguments]
        code = subprocess.run(command, check=False).returncode
        return code, list(dict.fromkeys(file.read_text().splitlines()))


def main(arguments: Sequence[str]) -> int:
    """Return pytest's exit code."""
    code, failed = _pytest(*arguments)
    files = {one.partition("::")[0] for one in failed}
    if code != FAILED or not failed or len(files) > MOST_FILES or len(failed) > MOST_TESTS:
        return code
    left = failed
    for _ in range(TRIES):
        print(f"\n{len(left)} failed; now alone, one after the other:", *left, sep="\n  ", flush=True)
        code, left = _pytest(*left, "-q", "--tb=short", "--show-capture=no")
        if code == 0:
            print("unsteady, passed alone (why each failed stands above):", *failed, sep="\n  ", flush=True)
        if code != FAILED or not left:
            break
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
