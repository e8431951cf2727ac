"""Sparse rows and their products, in the order in which entries stand, so that a row's sums do not depend on other rows."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core.vectors import Floats

Ints = npt.NDArray[np.int64]

BLOCK: Final = 16
"""Entries of a row of Postings that are read at once."""

SUM_ROWS: Final = 512
"""Rows of sums that are added to at once: they stay in the processor's cache."""


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


class Postings:
    """Sparse rows made ready for what ranking does with them: adding many of them up, and looking single values up.

    The entries of a row fill blocks of BLOCK, the last one with zeros: a block is read at once.
    """

    def __init__(self, matrix: SparseRows) -> None:
        self.width = matrix.width
        counts = np.diff(matrix.starts)
        self._starts = np.concatenate([[0], np.cumsum(-(-counts // BLOCK))])
        self._padding = self._starts[:-1] * BLOCK - matrix.starts[:-1]
        """How much further than in the matrix the entries of each row stand."""
        place = np.repeat(self._padding, counts) + np.arange(len(matrix.values))
        self._columns = np.zeros((int(self._starts[-1]), BLOCK), dtype=np.min_scalar_type(max(matrix.width - 1, 0)))
        self._values = np.zeros(self._columns.shape, dtype=np.float32)
        self._columns.reshape(-1)[place], self._values.reshape(-1)[place] = matrix.columns, matrix.values
        cells = np.repeat(np.arange(len(matrix)) * matrix.width, counts) + matrix.columns
        self._bits = np.zeros(len(matrix) * matrix.width // 64 + 1, dtype="<u8")
        """A bit a cell of the whole matrix: few have a value, and most questions end here."""
        np.bitwise_or.at(self._bits, cells >> 6, np.left_shift(np.uint64(1), (cells & 63).astype(np.uint64)))
        self._upto = np.cumsum(np.bitwise_count(self._bits), dtype=np.int64)
        """How many values there are up to the end of each word of bits."""

    def add(self, owner: Ints, row: Ints, weight: Floats, sums: Floats) -> None:
        """Add weight·row to the owner's line of sums (owners, width), entry by entry."""
        first = self._starts[row]
        counts = self._starts[row + 1] - first
        ends = np.cumsum(counts)
        if not len(ends) or not ends[-1]:
            return
        block = np.repeat(first - ends + counts, counts)
        block += np.arange(len(block))
        counts *= BLOCK
        # Blocks are there; numpy is faster when it need not ask.
        cell = self._columns.take(block, axis=0, mode="clip").reshape(-1).astype(np.int64)
        cell += np.repeat(owner * self.width, counts)
        value = self._values.take(block, axis=0, mode="clip").reshape(-1)
        value *= np.repeat(weight, counts)
        np.add.at(sums.reshape(-1), cell, value)

    def of(self, row: Ints, column: Ints) -> Floats:
        """Return single values, 0 where there is none, in the shape of row and column broadcast."""
        cells = row * self.width + column
        byte = self._bits.view(np.uint8).take(cells >> 3, mode="clip")
        there = np.flatnonzero((byte & np.left_shift(1, (cells & 7).astype(np.uint8))).astype(np.bool_))
        cell = cells.reshape(-1)[there]
        word, bit = cell >> 6, (cell & 63).astype(np.uint64)
        place = self._upto[word] - np.bitwise_count(self._bits[word] >> bit)  # without this cell and those after it in the word
        found = np.zeros(cells.size, dtype=np.float32)
        found[there] = self._values.reshape(-1)[place + self._padding[cell // self.width]]
        return found.reshape(cells.shape)


def side_by_side(owner: Ints) -> tuple[Ints, list[Ints]]:
    """Return lists of entries as steps that many owners take at once; owner (entries) is sorted and says whose each entry is.

    The owners, the longest list first, and for each step the next entry of the first so many of them: so each owner's entries
    are taken in their order, alone and among others.
    """
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    counts = np.diff(np.append(first, len(owner)))
    order = np.argsort(-counts, kind="stable")
    first, counts = first[order], counts[order]
    many = np.searchsorted(-counts, -np.arange(int(counts.max(initial=0))))
    return owner[first], [first[:count] + step for step, count in enumerate(many.tolist())]


def entries_of(owner: Ints, owners: Ints) -> tuple[Ints, Ints]:
    """Return which entries belong to these owners (sorted), and the place of each one's owner among them; owner is sorted."""
    place = np.searchsorted(owners, owner)
    mine = np.flatnonzero(np.append(owners, -1)[place] == owner)
    return mine, place[mine]


def weighted_sums(table: Floats, owner: Ints, line: Ints, weight: npt.NDArray[Any], rows: int) -> Floats:
    """Return Σ weight·table[line] of each owner (rows, columns of the table); entries are sorted by owner.

    Each owner's entries are added one after the other, many owners side by side: the sums stay in the cache, and do not depend on
    who else is there.
    """
    sums, weights = np.zeros((rows, table.shape[1]), dtype=np.float32), np.asarray(weight, dtype=np.float32)
    terms = np.empty((SUM_ROWS, table.shape[1]), dtype=np.float32)
    ends = np.searchsorted(owner, np.arange(0, rows + SUM_ROWS, SUM_ROWS)).tolist()
    for first, last in pairwise(ends):
        owners, steps = side_by_side(owner[first:last])
        added = np.zeros((len(owners), table.shape[1]), dtype=np.float32)
        for step in steps:
            entry, count = step + first, len(step)
            table.take(line[entry], axis=0, out=terms[:count], mode="clip")  # no copy through a buffer, as checking needs one
            terms[:count] *= weights[entry, None]
            added[:count] += terms[:count]
        sums[owners] = added
    return sums


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
