"""What the decisions of both kinds share: verdicts, the envelope of AudienceDecided, and what is remembered of it.

A decision is a pure function of a shard's state and the source's event, so that it can be made again. The verdicts are an array
(subscriber x channel); lists and counts are both taken from it, each on its own, so that the accounting can check one against
the other. Rows are in the order of subscriber_id: equal states give equal bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core.errors import SetupError
from core.names import CHANNELS, GATE_REASONS, NO_CHANNEL
from core.subscribers import SubscriberTable, subscriber_key
from core.zones import TZDATA_VERSION

CODE_VERSION: Final = "deciding-5"
"""Raised when the same state and event would be decided otherwise; recorded with every decision."""

MAX_RECORD_BYTES: Final = 1024 * 1024
"""A decision record stays below this uncompressed: half of what topics and clients allow."""

DAY_MS: Final = 86_400_000

NOT_CONCERNED: Final = 0
CHOSEN: Final = 1
GATES: Final = tuple(GATE_REASONS)
GATE_CODE: Final = {reason: position + 2 for position, reason in enumerate(GATES)}
"""Verdict of a gate; verdicts are NOT_CONCERNED, CHOSEN and these."""

NO_CHANNEL_COLUMN: Final = len(CHANNELS)
"""Column of the verdicts for a gate without a channel."""

Rows = npt.NDArray[np.int64]
Verdicts = npt.NDArray[np.int8]
"""(rows, channels + 1): a verdict for each subscriber and channel; the last column is for gates without a channel."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a decision is made: the shard, the chunk, and how far the shard's logs were applied."""

    shard: int
    shards: int
    chunk: int
    applied: Mapping[str, int]


@dataclass(slots=True)
class Table:
    """A table of texts that a record names once and refers to by index."""

    names: list[str] = field(default_factory=list)
    index: dict[str, int] = field(default_factory=dict)

    def of(self, name: str) -> int:
        """Return the index of a name."""
        position = self.index.get(name)
        if position is None:
            position = self.index[name] = len(self.names)
            self.names.append(name)
        return position


@dataclass(slots=True)
class Remembered:
    """Which (source, chunk) was decided: for each source a bit a chunk, the latest time in ms, and how many chunks there are."""

    sources: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def __contains__(self, source_chunk: tuple[str, int]) -> bool:
        return bool(self.sources.get(source_chunk[0], (0, 0, 0))[0] >> source_chunk[1] & 1)

    def add(self, source_id: str, chunk: int, at_ms: int, chunks: int) -> bool:
        """Remember a decision; False when it was there, so that a later copy changes nothing."""
        bits, latest_ms, known = self.sources.get(source_id, (0, 0, chunks))
        if bits >> chunk & 1:
            return False
        self.sources[source_id] = (bits | 1 << chunk, max(latest_ms, at_ms), known)
        return True

    def chunks_of(self, source_id: str, otherwise: int) -> int:
        """Return how many chunks a source was cut into when it was first decided.

        A source that is copied again after the setting was changed must not be cut otherwise: somebody would be decided twice.
        """
        return self.sources.get(source_id, (0, 0, otherwise))[2]

    def forget_before(self, before_ms: int) -> None:
        """Drop sources decided before an instant; call it with what is older than their topic keeps."""
        for source_id in [key for key, (_, at_ms, _) in self.sources.items() if at_ms < before_ms]:
            del self.sources[source_id]

    def as_list(self) -> list[list[Any]]:
        """Return the content for packing, in the order of source_id."""
        return [[source_id, format(bits, "x"), *rest] for source_id, (bits, *rest) in sorted(self.sources.items())]

    @classmethod
    def from_list(cls, items: Iterable[Sequence[Any]]) -> "Remembered":
        """Return what as_list gave."""
        return cls({source_id: (int(bits, 16), at_ms, chunks) for source_id, bits, at_ms, chunks in items})


def gate_verdicts(
    concerned: npt.NDArray[np.bool_], channels: npt.NDArray[np.bool_], gates: Sequence[tuple[str, npt.NDArray[np.bool_]]]
) -> Verdicts:
    """Return the verdicts of rows.

    concerned is (rows); channels (rows, channels) says which ones each would have it on; the first gate that is true counts.
    Somebody with no channel is gated without one, by an earlier gate of the list or as no_channel.
    """
    code = np.full(len(concerned), CHOSEN, dtype=np.int8)
    reachable = channels.any(axis=1)
    for reason, stopped in reversed([*gates, ("no_channel", ~reachable)]):
        code[stopped] = GATE_CODE[reason]
    verdicts = np.zeros((len(concerned), len(CHANNELS) + 1), dtype=np.int8)
    verdicts[:, :NO_CHANNEL_COLUMN] = np.where(concerned[:, None] & channels, code[:, None], NOT_CONCERNED)
    verdicts[:, NO_CHANNEL_COLUMN] = np.where(concerned & ~reachable, code, NOT_CONCERNED)
    return verdicts


def gated_entries(
    table: SubscriberTable, rows: Rows, verdicts: Verdicts, channels: Table, reasons: Table
) -> list[dict[str, Any]]:
    """Return the gated list of a record, one entry a subscriber and channel."""
    found = np.argwhere(verdicts > CHOSEN)
    return [
        {
            "subscriber": table.ids[rows[row]],
            "channel": -1 if column == NO_CHANNEL_COLUMN else channels.of(CHANNELS[column]),
            "reason": reasons.of(GATES[verdicts[row, column] - 2]),
        }
        for row, column in found.tolist()
    ]


def counts(verdicts: Verdicts) -> tuple[int, list[dict[str, Any]]]:
    """Return how many were not concerned at all, and on each channel; counted from the verdicts.

    Every channel is named in every record, because one that nobody has in this chunk may occur in another of the same source.
    """
    nobody = int(np.bincount((verdicts != NOT_CONCERNED).any(axis=1).astype(np.int64), minlength=2)[0])
    by_channel = [
        {"channel": channel, "not_concerned": int(np.bincount(verdicts[:, column], minlength=1)[NOT_CONCERNED])}
        for column, channel in enumerate((*CHANNELS, NO_CHANNEL))
    ]
    return nobody, by_channel


def registered_rows(table: SubscriberTable, chunk: int, chunks: int) -> Rows:
    """Return the rows of a chunk that a decision is about."""
    rows = table.chunk_rows(chunk, chunks)
    return np.asarray(rows[table.column("registered")[rows] & ~table.column("erased")[rows]])


def registered_row(table: SubscriberTable, subscriber_id: str) -> Rows:
    """Return the one row of a subscriber, none when they are not registered or were erased."""
    row = table.row_of.get(subscriber_key(subscriber_id))
    if row is None or not table.column("registered")[row] or table.column("erased")[row]:
        return np.zeros(0, dtype=np.int64)
    return np.array([row], dtype=np.int64)


def envelope(place: Place, *, chunks: int, population: int, verdicts: Verdicts, decided_at: datetime) -> dict[str, Any]:
    """Return the fields of AudienceDecided that do not depend on the kind of source."""
    not_concerned, channel_counts = counts(verdicts)
    return {
        "shard": place.shard,
        "shards": place.shards,
        "chunk": place.chunk,
        "chunks": chunks,
        "population": population,
        "not_concerned": not_concerned,
        "channel_counts": channel_counts,
        "applied": [{"topic": topic, "next_offset": offset} for topic, offset in sorted(place.applied.items())],
        "model_version": None,
        "policy": "",
        "candidate_set": None,
        "tzdata_version": TZDATA_VERSION,
        "code_version": CODE_VERSION,
        "decided_at": decided_at,
        "variants": [],
        "looks": [],
    }


def check_record_size(size_bytes: int, source_kind: str) -> None:
    """Raise SetupError, naming the setting, when an encoded decision is larger than a record may be."""
    if size_bytes > MAX_RECORD_BYTES:
        setting = "NEWSWIRE_ALERT_CHUNKS" if source_kind == "alert" else "NEWSWIRE_NEWSLETTER_CHUNKS"
        raise SetupError(
            f"A decision of {size_bytes:,} bytes is above the limit of {MAX_RECORD_BYTES:,}: raise {setting} on the "
            "audience stage, so that a chunk holds fewer subscribers; sources that are admitted from then on are cut finer."
        )


def check_decision(value: Mapping[str, Any]) -> None:
    """Assert what must hold of every decision: the lists and the counts agree for each channel."""
    listed = dict.fromkeys((*CHANNELS, NO_CHANNEL), 0)
    names = [*value["channels"], NO_CHANNEL]
    for name in ("chosen", "gated"):
        for entry in value[name]:
            listed[names[entry["channel"]]] += 1
    for count in value["channel_counts"]:
        total = listed[count["channel"]] + count["not_concerned"]
        assert total == value["population"], f"{count['channel']}: {total} of {value['population']} accounted for"
