"""Tests of `make bench-ranking` itself, on a small made-up data set in the same formats."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
SUBJECTS = ["protein folding in cells", "graph networks and learning", "interest rates and markets", "ocean climate models"]


def written(folder: Path) -> None:
    """240 papers about four subjects, 90 readers who keep to one or two; eighty mornings of opened articles."""
    rng = np.random.default_rng(0)
    papers, log = folder / "citeulike-a", folder / "deskdrop"
    papers.mkdir(parents=True)
    log.mkdir()
    about = rng.integers(0, 4, 240)
    titles = [f"{SUBJECTS[subject]}, part {number}" for number, subject in enumerate(about)]
    (papers / "citeutitles.txt").write_text("\n".join(titles) + "\n")
    users = []
    for reader in range(90):
        liked = np.flatnonzero((about == reader % 4) | (rng.random(240) < 0.02))
        users.append(np.sort(rng.choice(liked, 30, replace=False)))
    with gzip.open(papers / "users.dat.gz", "wt") as file:
        file.write("".join(f"{len(user)} {' '.join(map(str, user))}\n" for user in users))
    (papers / "item-tag.dat").write_text(
        "".join(f"1 {subject}\n" if number % 3 else "0\n" for number, subject in enumerate(about))
    )
    (papers / "tags.dat").write_text("protein\ngraph\nmarket\nocean\n")
    rows = ["timestamp,eventType,contentId,personId,sessionId"]
    for number in range(1_200):
        day = number // 15
        rows.append(f"{1_600_000_000 + number * 5_760},VIEW,{rng.integers(max(0, day - 9), day + 1)},{rng.integers(0, 40)},1")
    (log / "users_interactions.min.csv").write_text("\n".join(rows) + "\n")


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.benchmarks.ranking", *arguments]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    written(folder)
    return folder


def test_prints_every_row_of_the_table(tmp_path, data):
    """With the split that was used, and the time of a subscriber."""
    done = run(tmp_path, "--data", str(data))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for name in ("new, titles only", "new, titles and topics", "alerts", "known (", "known and new", "daily newsletter"):
        (line,) = [line for line in lines if line.startswith(name)]
        assert "nan" not in line
    assert any("CPU per subscriber" in line for line in lines)
    assert any("never on the test split" in line for line in lines)


def test_takes_a_folder_of_papers_alone(tmp_path, data):
    """Any folder in CiteULike's format, measured inside its training data."""
    done = run(tmp_path, "--data", str(data / "citeulike-a"), "--inside")
    assert done.returncode == 0, done.stderr
    assert "this is that split" in done.stdout
    assert "daily" not in done.stdout


def test_says_what_is_missing_or_wrong(tmp_path, data):
    """The folder, the file or the line, and what to do; no traceback."""
    done = run(tmp_path, "--data", str(tmp_path / "nowhere"))
    assert (done.returncode, done.stderr) == (3, "")
    assert "CiteULike's format" in done.stdout
    folder = tmp_path / "bad"
    folder.mkdir()
    for name in ("item-tag.dat", "tags.dat", "citeutitles.txt"):
        (folder / name).write_bytes((data / "citeulike-a" / name).read_bytes())
    for text, told in (("2 1\n", "line 1 says 2 numbers and has 1"), ("1 x\n", "no number"), ("1 999\n", "no line")):
        (folder / "users.dat").write_text(text)
        done = run(tmp_path, "--data", str(folder))
        assert done.returncode == 3
        assert told in done.stdout, done.stdout + done.stderr
    (folder / "tags.dat").unlink()
    assert "has no tags.dat" in run(tmp_path, "--data", str(folder)).stdout
