"""Data for `make bench-ranking`, read from folders in CiteULike's and Deskdrop's formats; nothing of it is kept but vectors.

CiteULike's format: users.dat (line u: "n item item ..."), item-tag.dat (line i: "n tag tag ..."), tags.dat (line t: the tag) and
citeutitles.txt (line i: the title), items and tags counted from 0, item numbers rising with time; each plain or with .gz.
"""

import csv
import gzip
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.errors import SetupError
from core.model import NewItem
from core.sparse import Ints
from core.vectors import to_int8
from runtime import embedding

TOPICS = 300
"""The most used tags; rarer ones were typed by the very readers that are asked about."""

CACHE = Path(".newswire/ranking")
"""Vectors by the hash of the titles and of the model."""

EVENT_WEIGHTS = {"VIEW": 1.0, "LIKE": 2.0, "BOOKMARK": 2.5, "FOLLOW": 3.0, "COMMENT CREATED": 4.0}


@dataclass(frozen=True)
class Papers:
    """Items, and who saved them."""

    items: list[NewItem]
    reader: Ints
    item: Ints

    def without_topics(self) -> "Papers":
        """Return the same with titles only."""
        bare = [NewItem(item.publication_id, item.title, item.vector, ()) for item in self.items]
        return Papers(bare, self.reader, self.item)


@dataclass(frozen=True)
class Events:
    """Engagements in the order of time."""

    reader: Ints
    item: Ints
    at_ms: Ints
    weight: npt.NDArray[np.float64]


def lines(folder: Path, name: str) -> list[str]:
    """Return the lines of a file, plain or with .gz; SetupError when it is not there or is no text."""
    for path, opened in ((folder / name, open), (folder / f"{name}.gz", gzip.open)):
        if path.is_file():
            try:
                with opened(path, "rt", encoding="utf-8", errors="replace") as file:
                    return file.read().split("\n")
            except OSError as error:
                raise SetupError(f"{path} cannot be read ({error}); fetch it again.") from None
    raise SetupError(
        f"{folder} has no {name} or {name}.gz; give --data a folder in CiteULike's format (its README describes it)."
    )


def numbers(folder: Path, name: str) -> list[Ints]:
    """Return lines of "n x x ..." as arrays of x."""
    found = []
    for number, line in enumerate(lines(folder, name), start=1):
        try:
            count, *rest = [int(word) for word in line.split()] or [0]
        except ValueError:
            raise SetupError(f"{folder / name} line {number} has something that is no number; it must be 'n x x ...'.") from None
        if count != len(rest):
            raise SetupError(f"{folder / name} line {number} says {count} numbers and has {len(rest)}; it must be 'n x x ...'.")
        found.append(np.array(rest, dtype=np.int64))
    return found


def papers(folder: Path, *, embed: bool) -> Papers:
    """Return the papers of a folder in CiteULike's format, with vectors when `embed`; SetupError says what is wrong."""
    titles, users = lines(folder, "citeutitles.txt"), numbers(folder, "users.dat")
    tagged, names = numbers(folder, "item-tag.dat"), lines(folder, "tags.dat")
    if not titles[-1]:
        titles.pop()
    tagged += [np.zeros(0, dtype=np.int64)] * (len(titles) - len(tagged))
    saved = np.concatenate(users)
    if not len(saved) or saved.max() >= len(titles) or max((tags.max(initial=0) for tags in tagged), default=0) >= len(names):
        raise SetupError(f"{folder} names items or tags that have no line in citeutitles.txt or tags.dat, or nobody saved any.")
    used = np.argsort(-np.bincount(np.concatenate(tagged), minlength=len(names)), kind="stable")[:TOPICS]
    known = {int(tag): names[tag] for tag in used}
    vectors = _vectors(titles) if embed else [None] * len(titles)
    items = [
        NewItem(f"{place:08d}", title, vector, tuple((known[tag], 1.0) for tag in tags.tolist() if tag in known))
        for place, (title, vector, tags) in enumerate(zip(titles, vectors, tagged, strict=False))
    ]
    return Papers(items, np.repeat(np.arange(len(users)), [len(user) for user in users]), saved)


def _vectors(titles: list[str]) -> list[bytes | None]:
    digest = hashlib.sha256("\n".join((embedding.VECTOR_MODEL, *titles)).encode()).hexdigest()[:16]
    path = CACHE / f"{digest}.npy"
    if not path.is_file():
        print(f"Embedding {len(titles):,} titles, some 5 ms each; kept in {path} ...", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = to_int8(embedding.load().embed(titles))
        part = path.with_suffix(".part.npy")
        np.save(part, rows)
        part.rename(path)
    return [row.tobytes() if row.any() else None for row in np.load(path)]


def events(folder: Path) -> Events:
    """Return the engagements of a folder in Deskdrop's format."""
    rows = list(csv.DictReader(lines(folder, "users_interactions.min.csv")))
    try:
        rows = sorted(rows, key=lambda row: int(row["timestamp"]))
        _, reader = np.unique([row["personId"] for row in rows], return_inverse=True)
        _, item = np.unique([row["contentId"] for row in rows], return_inverse=True)
        at_ms = np.array([int(row["timestamp"]) * 1_000 for row in rows], dtype=np.int64)
        weight = np.array([EVENT_WEIGHTS[row["eventType"]] for row in rows])
    except (KeyError, ValueError) as error:
        raise SetupError(f"{folder}/users_interactions.min.csv has a row that cannot be read: {error}.") from None
    return Events(reader.astype(np.int64), item.astype(np.int64), at_ms, weight)


def first_morning(at_ms: int) -> int:
    """Return the first 08:00 UTC at or after a time, in milliseconds."""
    moment = datetime.fromtimestamp(at_ms / 1_000, UTC)
    morning = moment.replace(hour=8, minute=0, second=0, microsecond=0)
    return int(morning.timestamp() * 1_000) + (86_400_000 if morning < moment else 0)
