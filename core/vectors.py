"""Content vectors: int8 bytes in events, unit float32 rows where they are used.

A vector is quantised by its own largest value, so its length is lost and its direction is kept: whoever reads one scales it to
length 1. Rows of zeros mean that there is no vector.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Int8s = npt.NDArray[np.int8]

_LARGEST: Final = 127
"""Of an int8, on both sides of zero."""


def unit_rows(matrix: npt.NDArray[Any]) -> Floats:
    """Return the rows scaled to length 1 (L2); rows of zeros stay so."""
    wide = np.asarray(matrix, dtype=np.float64)
    length = np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
    length[length == 0] = 1
    found: Floats = np.divide(wide, length, out=np.empty(wide.shape, dtype=np.float32), casting="same_kind")
    return found


def components(rows: Floats, most: int) -> Floats:
    """Return the axes along which rows (n, dimensions) are longest (dimensions, at most so many), the longest first."""
    wide = rows.astype(np.float64)
    _, axes = np.linalg.eigh(wide.T @ wide)
    return np.asarray(axes[:, ::-1][:, :most], dtype=np.float32)


def to_int8(rows: npt.NDArray[Any]) -> Int8s:
    """Return float rows (n, dimensions) as int8, the largest value of each row as 127 or -127."""
    wide = np.asarray(rows, dtype=np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0)
    scaled = np.divide(wide * _LARGEST, largest, out=np.zeros_like(wide), where=largest > 0)
    return np.asarray(np.rint(scaled), dtype=np.int8)


def from_int8(rows: Int8s) -> Floats:
    """Return int8 rows (n, dimensions) as rows of length 1; rows of zeros stay so."""
    return unit_rows(rows)


def centred(rows: Int8s, mean: Floats) -> Floats:
    """Return int8 rows (n, dimensions) as unit rows, minus the mean of all, as unit rows again; rows of zeros stay so."""
    wide = from_int8(rows)
    missing = ~rows.any(axis=1)
    wide -= mean
    wide[missing] = 0
    return unit_rows(wide)
