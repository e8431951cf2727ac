"""What each subscriber of a shard was given: a bit for each pair of a subscriber and a publication that was ever given."""

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


class Given:
    """Rows are those of the subscriber table, publications rows of the content table; both may grow at any time."""

    def __init__(self) -> None:
        self._bits = np.zeros((64, 16), dtype=np.uint8)
        self._column_of = np.full(64, -1, dtype=np.int32)
        self._columns = 0

    def give(self, rows: Rows, publications: Rows) -> None:
        """Remember that rows were given publications, pair by pair."""
        if not len(rows):
            return
        self._know(int(publications.max()) + 1)
        new = np.unique(publications[self._column_of[publications] < 0])
        self._column_of[new] = self._columns + np.arange(len(new))
        self._columns += len(new)
        height, width = int(rows.max()) + 1, (self._columns + 7) // 8
        if height > len(self._bits) or width > self._bits.shape[1]:
            larger = np.zeros((_grown(len(self._bits), height), _grown(self._bits.shape[1], width)), dtype=np.uint8)
            larger[: len(self._bits), : self._bits.shape[1]] = self._bits
            self._bits = larger
        columns = self._column_of[publications]
        np.bitwise_or.at(self._bits, (rows, columns >> 3), np.left_shift(1, columns & 7).astype(np.uint8))

    def of(self, rows: Rows, publications: Rows) -> npt.NDArray[np.bool_]:
        """Return (rows, publications): what each was given."""
        self._know(int(publications.max(initial=-1)) + 1)
        found = np.zeros((len(rows), len(publications)), dtype=np.bool_)
        known = np.flatnonzero(self._column_of[publications] >= 0)
        there = np.flatnonzero(rows < len(self._bits))
        columns = self._column_of[publications[known]]
        lines = self._bits[rows[there]][:, columns >> 3]
        found[np.ix_(there, known)] = lines >> (columns & 7).astype(np.uint8) & 1
        return found

    @classmethod
    def from_bits(cls, bits: npt.NDArray[np.uint8]) -> "Given":
        """Return what `of` gave for all rows and publications, packed along the publications (little)."""
        given, every = cls(), np.unpackbits(bits, axis=1, bitorder="little")
        rows, publications = np.nonzero(every)
        given.give(rows, publications)
        return given

    def _know(self, publications: int) -> None:
        missing = publications - len(self._column_of)
        if missing > 0:
            more = np.full(max(missing, len(self._column_of) // 4), -1, dtype=np.int32)
            self._column_of = np.concatenate([self._column_of, more])


def _grown(size: int, wanted: int) -> int:
    return size if wanted <= size else max(wanted, size * 5 // 4)
