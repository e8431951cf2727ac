"""Records of the topics that are folded in the order of the log, and whether the log has gone on since.

Consumes subscribers and controls from the place of an old record to their ends; produces nothing. Whoever writes such a
record to the end of the log once more undoes what was said after it: an unsubscribe, a stop. So `newswire dlq redrive` asks
here first. Guarantee: a record with a later one of the same key, that was there when the check began, is found.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from confluent_kafka.admin import AdminClient, OffsetSpec

from runtime.reading import end_offsets, offsets_of, read_range
from runtime.settings import Settings
from schemas.records import Raw, Record
from schemas.topics import Topics

FOLDED: Final = ("subscribers", "controls")
"""Topics whose last event of a key counts. Elsewhere an event names what it is about, and comes late without harm."""
CAME_FROM: Final = "redriven-from"
"""Header that a record sent again carries: the id of its letter."""

Place = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Late:
    """A record that is to be written once more."""

    letter_id: str
    place: Place
    """Where it was."""
    record: Record
    """As it is to be written: its key, and the partition where it belongs."""
    since: datetime
    """When it was written, or earlier; looked at when it was in another partition, whose offsets tell nothing here."""

    @property
    def moved(self) -> bool:
        """Return whether it was in another partition than it belongs in."""
        return self.place[1] != self.record.partition


def overtaken(settings: Settings, admin: AdminClient, topics: Topics, records: Sequence[Late]) -> dict[Place, str]:
    """Return those of the records that later ones of their key overtook: by place, what the last of these is.

    Blocks. Unavailable when Kafka does not answer.
    """
    by_partition = defaultdict[tuple[str, int], list[Late]](list)
    by_key = defaultdict[tuple[str, int, bytes | None], list[Late]](list)
    for one in records:
        if topics.spec(one.record.topic).base in FOLDED:
            tp = one.record.topic, one.record.partition or 0
            by_partition[tp].append(one)
            by_key[*tp, one.record.key].append(one)
    ends = end_offsets(admin, by_partition)
    starts = {}
    for tp, those in by_partition.items():
        starts[tp] = min((one.place[2] + 1 for one in those if not one.moved), default=ends[tp])
        if moved := [one.since for one in those if one.moved]:
            first = offsets_of(admin, [tp], OffsetSpec.for_timestamp(_ms(min(moved))))[tp]
            starts[tp] = min(starts[tp], first) if first >= 0 else starts[tp]
    found: dict[Place, str] = {}
    for raw in read_range(settings, starts, ends):
        for one in by_key.get((raw.topic, raw.partition, raw.key), ()):
            if _is_later(raw, one):
                found[one.place] = f"{_name(raw)} at {raw.topic}/{raw.partition}@{raw.offset}"
    return found


def _is_later(raw: Raw, one: Late) -> bool:
    if dict(raw.headers).get(CAME_FROM) == one.letter_id.encode():
        return False  # the same once more: its mark was not written
    return raw.timestamp_ms >= _ms(one.since) if one.moved else raw.offset > one.place[2]


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _name(raw: Raw) -> str:
    return dict(raw.headers).get("ce_type", b"a record").decode("utf-8", "replace").rpartition(".")[2]
