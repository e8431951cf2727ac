"""The second try of `make test`: a failure alone counts, an accident beside others is named."""

from pathlib import Path

import pytest

from tests.unsteady import main

ONCE = """
import os
from pathlib import Path
def test_once():
    seen = Path("seen")
    if not seen.exists():
        seen.touch()
        raise AssertionError("the first time")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    (tmp_path / "test_once.py").write_text(ONCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return tmp_path


def test_what_fails_once_is_named_and_passes(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Both its failure and its name are printed."""
    assert main(["-q"]) == 0
    printed = capfd.readouterr().out
    assert "the first time" in printed
    assert printed.splitlines()[-2:] == ["unsteady, passed alone (why each failed stands above):", "  test_once.py::test_once"]


def test_a_test_that_ends_its_worker_is_run_again(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """xdist starts another worker for it; that it passes there is not enough."""
    (folder / "test_once.py").write_text(ONCE.replace('raise AssertionError("the first time")', "os._exit(1)"))
    assert main(["-q", "-n", "1", "--dist", "loadfile"]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "  test_once.py::test_once"


def test_what_fails_alone_fails(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One broken test fails the run, whatever passes alone beside it."""
    (folder / "test_broken.py").write_text("def test_broken():\n    assert not 'broken'\n")
    assert main(["-q"]) == 1
    assert "FAILED test_broken.py::test_broken" in capfd.readouterr().out.splitlines()[-2]


def test_a_fixture_that_fails_once_takes_a_whole_file_with_it(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """All its tests are tried again, however many; where many files fail something is broken, and nothing is tried again."""
    body = ONCE.replace("def test_once():", "import pytest\n@pytest.fixture(scope='module')\ndef shared():")
    tests = "\n".join(f"def test_{number}(shared): pass" for number in range(30))
    (folder / "test_once.py").write_text(f"{body}\n{tests}\n")
    assert main(["-q"]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "  test_once.py::test_29"
    for number in range(11):
        (folder / f"test_broken_{number}.py").write_text("def test_broken(): assert not 'broken'\n")
    assert main(["-q"]) == 1
    assert "now alone" not in capfd.readouterr().out


def test_only_tests_have_a_second_try(folder: Path) -> None:
    """A wrong option, or no test at all, keeps pytest's code."""
    assert main(["--no-such-option"]) == 4
    assert main(["-k", "none_of_these"]) == 5
    assert not (folder / "seen").exists()
