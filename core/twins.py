"""Which publications are so alike that an issue has one of them only: two versions of a paper, or the same one from two sources.

Pure. Alike are equal titles, but for case, accents and punctuation, and content vectors of one embedding model whose cosine is
above ALIKE, if their titles have the same numbers: a part II means nearly the same as a part I, and 1.12 is not 11.2. What is
like a third one is alike too.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from core.sparse import Ints
from core.vectors import Int8s

ALIKE: Final = 0.95
"""Of 4,200 titles of papers 15 pairs with the same numbers are above it: editions, versions and double entries, but for three."""

BLOCK_ROWS: Final = 512
"""Vectors that are compared at once with all: 20 MB where there are 2,000."""

_NO_WORD: Final = re.compile(r"[\W_]+")
_NUMBER: Final = re.compile(r"\d+|\b[ivx]+\b")


def plain_title(title: str) -> str:
    """Return what is compared of a title: its letters and digits, without case and accents."""
    letters = unicodedata.normalize("NFKD", title)
    return _NO_WORD.sub("", "".join(one for one in letters if not unicodedata.combining(one)).casefold())


def twins(titles: Sequence[str], vectors: Int8s) -> Ints | None:
    """Return for each publication the number of the group that it is alike in, -1 for none; None when no two are alike.

    vectors is (titles, dimensions), zeros or no dimensions for who has none. Products of these whole numbers are exact, so the
    answer does not depend on the machine.
    """
    groups, first = np.arange(len(titles)), dict[tuple[str, int], int]()
    kinds = dict[tuple[str, ...], int]()
    numbers = [kinds.setdefault(tuple(_NUMBER.findall(title.casefold())), len(kinds)) for title in titles]
    for place, (title, kind) in enumerate(zip(titles, numbers, strict=True)):
        if name := plain_title(title):
            groups[place] = groups[first.setdefault((name, kind), place)]
    for members in _close(vectors, np.array(numbers, dtype=np.int64)):
        groups[np.isin(groups, groups[members])] = groups[members].min()
    sizes = np.bincount(groups, minlength=1)
    return np.where(sizes[groups] > 1, groups, -1) if (sizes > 1).any() else None


def _close(vectors: Int8s, kind: Ints) -> Iterator[Ints]:
    """Yield rows whose cosine with one of them is above ALIKE, all of one kind."""
    wide = vectors.astype(np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide, dtype=np.float64))
    lengths[lengths == 0] = np.inf
    for start in range(0, len(wide), BLOCK_ROWS):
        lines = wide[start : start + BLOCK_ROWS]
        alike = lines @ wide[start:].T > ALIKE * lengths[start : start + BLOCK_ROWS, None] * lengths[start:]
        alike &= kind[start : start + BLOCK_ROWS, None] == kind[start:]
        for row in np.flatnonzero(np.count_nonzero(alike, axis=1) > 1).tolist():
            yield start + np.flatnonzero(alike[row])
