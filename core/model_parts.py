"""A fitted model on its way through the log: cut into ModelPublished records, and put together again. Pure."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from core.names import MAX_LATE_H

PART_BYTES: Final = 500_000
"""Data in a part: with its other fields a record stays below 512 kB."""

KEPT: Final = 3
"""Versions kept for going back: the newest, and those up to the one in use."""


@dataclass(frozen=True, slots=True)
class Activation:
    """One ModelActivated; version None is ranking without a model."""

    version: str | None
    previous: str | None
    by: str
    at: datetime


def superseded(published: Collection[str], activations: Sequence[Activation], now: datetime) -> list[str]:
    """Return the versions that nothing needs any more, oldest first; activations are in their order.

    Needed are KEPT versions up to the one in use, the one before it, KEPT of the newest, and what was in use within MAX_LATE_H: a
    slot of that time names it, and may still be sent.
    """
    versions, since = sorted(published), now - timedelta(hours=MAX_LATE_H)
    needed: set[str | None] = set(versions[-KEPT:])
    ends = [*(one.at for one in activations[1:]), now]
    needed |= {one.version for one, end in zip(activations, ends, strict=False) if end >= since}
    if activations:
        used = activations[-1]
        needed |= {used.previous, *[version for version in versions if version <= (used.version or "")][-KEPT:]}
    return [version for version in versions if version not in needed]


def cut(version: str, data: bytes, metrics: Mapping[str, str], fitted_at: datetime) -> list[dict[str, Any]]:
    """Return the values of the ModelPublished records of a packed model, in the order of their parts."""
    pieces = [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)] or [b""]
    common = {
        "model_version": version,
        "parts": len(pieces),
        "sha256": hashlib.sha256(data).digest(),
        "metrics": dict(metrics),
        "fitted_at": fitted_at,
    }
    return [{**common, "part": number, "data": piece} for number, piece in enumerate(pieces)]


@dataclass(slots=True)
class Published:
    """The parts of one version that were read; of a part that was written again the last one counts."""

    version: str
    parts: int = 0
    sha256: bytes = b""
    metrics: dict[str, str] = field(default_factory=dict)
    fitted_at: datetime | None = None
    data: dict[int, bytes] = field(default_factory=dict)

    def take(self, value: Mapping[str, Any]) -> None:
        """Take a ModelPublished of this version."""
        self.parts, self.sha256 = value["parts"], value["sha256"]
        self.metrics, self.fitted_at = dict(value["metrics"]), value["fitted_at"]
        self.data[value["part"]] = value["data"]

    def drop(self, part: int) -> bool:
        """Forget a part that was taken out of the log; return whether none is left."""
        self.data.pop(part, None)
        return not self.data

    @property
    def size_bytes(self) -> int:
        """How large the packed model is, as far as it was read."""
        return sum(len(piece) for piece in self.data.values())

    def joined(self) -> bytes:
        """Return the packed model; ValueError says what is wrong with its parts."""
        missing = sorted(set(range(self.parts)) - self.data.keys())
        if missing:
            raise ValueError(f"part {missing[0]} of its {self.parts} parts was not published")
        data = b"".join(self.data[number] for number in range(self.parts))
        if hashlib.sha256(data).digest() != self.sha256:
            raise ValueError("its parts do not have the SHA-256 that it was published with")
        return data
