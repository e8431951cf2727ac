"""Packed state: a JSON head and raw arrays, compressed. Equal states give equal bytes."""

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_LEVEL: Final = 1
"""zlib's fastest level: snapshots are written often and read seldom."""


def pack(head: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return head (JSON values) and arrays as bytes."""
    described = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    text = json.dumps([head, described], separators=(",", ":"), ensure_ascii=False).encode()
    body = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    return zlib.compress(struct.pack(">I", len(text)) + text + body, _LEVEL)


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Return what pack was given; ValueError when the bytes are none of its."""
    try:
        raw = zlib.decompress(data)
        (size,) = struct.unpack_from(">I", raw)
        head, described = json.loads(raw[4 : 4 + size])
    except (zlib.error, struct.error, TypeError) as error:
        raise ValueError(f"no packed state: {error}") from error
    arrays: dict[str, npt.NDArray[Any]] = {}
    position = 4 + size
    for name, dtype, shape in described:
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(raw, dtype=dtype, count=count, offset=position).reshape(shape).copy()
        position += arrays[name].nbytes
    if position != len(raw):
        raise ValueError(f"packed state has {len(raw)} bytes, its head describes {position}")
    return head, arrays


def pack_bytes(items: list[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Return byte strings as one array and their lengths."""
    return np.frombuffer(b"".join(items), dtype=np.uint8), np.array([len(item) for item in items], dtype=np.int32)


def unpack_bytes(joined: npt.NDArray[np.uint8], lengths: npt.NDArray[np.int32]) -> list[bytes]:
    """Return the byte strings of pack_bytes."""
    raw, ends = joined.tobytes(), np.cumsum(lengths).tolist()
    return [raw[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]
