"""Sparse rows and their products, in the order in which entries stand, so that a row's sums do not depend on other rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.vectors import Floats

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SparseRows:
    """A matrix (rows, width) as lists of entries: those of row r are starts[r]:starts[r + 1]."""

    starts: Ints
    """(rows + 1)."""
    columns: npt.NDArray[np.int32]
    """(entries)."""
    values: Floats
    """(entries)."""
    width: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def transposed(self) -> "SparseRows":
        """Return the matrix (width, rows); the entries of each row are in the order of their columns."""
        order = np.argsort(self.columns, kind="stable")
        starts = np.zeros(self.width + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.columns, minlength=self.width), out=starts[1:])
        owners = np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.starts))
        return SparseRows(starts, owners[order], self.values[order], len(self))

    def take(self, rows: Ints) -> tuple[Ints, Ints]:
        """Return how many entries each of these rows has, and the places of the entries, one row after the other."""
        first = self.starts[rows]
        counts = self.starts[rows + 1] - first
        before = np.cumsum(counts) - counts
        return counts, np.repeat(first - before, counts) + np.arange(int(counts.sum()))

    def dense(self) -> Floats:
        """Return the matrix (rows, width)."""
        found = np.zeros((len(self), self.width), dtype=np.float32)
        found[np.repeat(np.arange(len(self)), np.diff(self.starts)), self.columns] = self.values
        return found


def sparse_rows(
    rows: npt.NDArray[Any], columns: npt.NDArray[Any], values: npt.NDArray[Any], shape: tuple[int, int]
) -> SparseRows:
    """Return entries in any order, given as (row, column, value), as SparseRows of this shape, sorted by column."""
    order = np.lexsort((columns, rows))
    starts = np.zeros(shape[0] + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=shape[0]), out=starts[1:])
    return SparseRows(starts, columns[order].astype(np.int32), values[order].astype(np.float32), shape[1])


def product(left: SparseRows, right: SparseRows) -> Floats:
    """Return left · right as a dense matrix (len(left), right.width); left.width is len(right)."""
    counts, place = right.take(left.columns.astype(np.int64))
    owner = np.repeat(np.arange(len(left)), np.diff(left.starts))
    cells = np.repeat(owner * right.width, counts) + right.columns[place]
    values = np.repeat(left.values, counts) * right.values[place]
    return np.bincount(cells, values, minlength=len(left) * right.width).reshape(len(left), right.width).astype(np.float32)
