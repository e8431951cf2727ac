"""Snapshots of a shard as records: packing, splitting, and finding the newest complete one.

A snapshot is written in parts under the keys a/0, a/1, ... or b/0, b/1, ..., in turns: while one set is being
overwritten, and after compaction, the other is complete. A part belongs to a snapshot by its snapshot_id.
"""

import struct
import uuid
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

PART_BYTES = 500_000
"""Data in a part: with its other fields a record stays below 512 kB."""
_MAGIC = b"NWS1"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a snapshot holds: the packed state, and how far each log is contained in it."""

    shard: int
    shards: int
    format: int
    applied: dict[str, int]
    decided: dict[tuple[str, int], int]
    state: bytes
    slot: str = ""


def _pack(snapshot: Snapshot) -> bytes:
    parts = [_MAGIC, struct.pack(">I", len(snapshot.decided))]
    for (source_id, chunk), offset in sorted(snapshot.decided.items()):
        name = source_id.encode()
        parts.append(struct.pack(f">H{len(name)}sIQ", len(name), name, chunk, offset))
    parts.append(snapshot.state)
    return b"".join(parts)


def _unpack(data: bytes) -> tuple[dict[tuple[str, int], int], bytes]:
    if data[:4] != _MAGIC:
        raise ValueError("no snapshot")
    (count,) = struct.unpack_from(">I", data, 4)
    decided, at = {}, 8
    for _ in range(count):
        (length,) = struct.unpack_from(">H", data, at)
        name, chunk, offset = struct.unpack_from(f">{length}sIQ", data, at + 2)
        decided[name.decode(), chunk] = offset
        at += 2 + length + 12
    return decided, data[at:]


def pack_parts(snapshot: Snapshot, taken_at: datetime, part_bytes: int = PART_BYTES) -> list[dict[str, Any]]:
    """Return the values of the ShardSnapshot records of a snapshot, in order of their parts."""
    data = _pack(snapshot)
    pieces = [data[start : start + part_bytes] for start in range(0, len(data), part_bytes)]
    common = {
        "shard": snapshot.shard,
        "shards": snapshot.shards,
        "snapshot_id": str(uuid.uuid4()),
        "parts": len(pieces),
        "format": snapshot.format,
        "applied": [{"topic": topic, "next_offset": offset} for topic, offset in sorted(snapshot.applied.items())],
        "taken_at": taken_at,
    }
    return [{**common, "part": part, "data": piece} for part, piece in enumerate(pieces)]


def newest(records: Iterable[tuple[int, str, dict[str, Any]]], shards: int, format: int) -> Snapshot | None:
    """Return the newest complete snapshot of (offset, key, value) records of one partition, None when there is none.

    Only the last record of a key counts, as after compaction. Snapshots of another packing or number of shards are
    passed over.
    """
    last: dict[str, tuple[int, dict[str, Any]]] = {}
    for offset, key, value in records:
        last[key] = (offset, value)
    found: dict[str, list[tuple[int, str, dict[str, Any]]]] = defaultdict(list)
    for key, (offset, value) in last.items():
        if value["format"] == format and value["shards"] == shards:
            found[value["snapshot_id"]].append((offset, key, value))
    complete = [parts for parts in found.values() if {p[2]["part"] for p in parts} == set(range(parts[0][2]["parts"]))]
    if not complete:
        return None
    parts = sorted(max(complete, key=lambda c: max(p[0] for p in c)), key=lambda p: p[2]["part"])
    first = parts[0][2]
    decided, state = _unpack(b"".join(p[2]["data"] for p in parts))
    applied = {entry["topic"]: entry["next_offset"] for entry in first["applied"]}
    return Snapshot(first["shard"], shards, format, applied, decided, state, parts[0][1].partition("/")[0])
