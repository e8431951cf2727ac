"""What each subscriber of a shard engaged with: the fold of the engagements topic.

State: for each subscriber a packed list of ENTRY, in the order of arrival; at most MAX_ENTRIES of them, the newest. A publication
is known by its row in the shard's ContentTable, which it has before its content is there: engagement with a publication that is
not known yet counts from when it is. An entry counts or does not; that depends on the set of events only, not on their order:

- of opens, and of each reaction, the newest counts; one that was taken back does not, also when it arrives after its removal;
- of clicks on a publication the newest that no scanner made counts.
"""

import zlib
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from core.evidence import engagement_weight, scanned
from core.folding import StateEvent, happened_ms
from core.ranking import COUNTER_HALF_LIFE_D, decay
from core.readership import LISTED_MS, SCALE

MAX_ENTRIES: Final = 400
"""Entries kept a subscriber, the newest: with a half-life of 30 days older ones weigh little, and memory stays bounded."""

SETTLED_MS: Final = 86_400_000
"""A day later no other click of its burst, or on its publication, comes any more that would make a click count or not."""

SUM_KEYS: Final = 4_096
"""Subscribers whose histories are joined at once to be counted: 13 kB each at most."""

ENTRY: Final = np.dtype(
    [
        ("publication", "<i4"),  # row of the ContentTable
        ("kind", "<u4"),  # CRC-32 of the event's name, or of the reaction's
        ("delivery", "<u8"),  # hash of the delivery that a click came from; 0 for none, and for what is no click
        ("at_ms", "<i8"),
        ("weight", "<f4"),  # see core.evidence
        ("link", "<i2"),
        ("counts", "<i2"),  # 1 or 0
    ]
)
"""One engagement, 32 bytes."""

Entries = npt.NDArray[np.void]
"""An array of ENTRY."""

_EVENTS: Final = ("ContentOpened", "ContentClicked", "ReactionAdded", "ReactionRemoved")
_CLICK: Final = zlib.crc32(b"ContentClicked")


class Histories:
    """Who engaged with what."""

    def __init__(self) -> None:
        self._of: dict[bytes, bytes] = {}
        self.changes = 0
        """How often something changed: what was worked out from all of it holds while this stays the same."""

    def apply(self, event: StateEvent, key: bytes, publication: int) -> None:
        """Fold one event of the engagements topic about a row of the ContentTable."""
        weight = engagement_weight(event.name, event.value)
        if weight > 0:
            entries = self.of(key)
            at_ms = happened_ms(event, event.value["occurred_at"])
            added = (_clicked if event.name == "ContentClicked" else _marked)(entries, event, publication, at_ms, weight)
            if added is not entries:
                self._of[key] = _bounded(added).tobytes()
                self.changes += 1

    def of(self, key: bytes) -> Entries:
        """Return what a subscriber engaged with, in the order of arrival, what does not count included; read-only."""
        return np.frombuffer(self._of.get(key, b""), dtype=ENTRY)

    def of_all(self, keys: Iterable[bytes]) -> tuple[npt.NDArray[np.int64], Entries]:
        """Return the entries that count of several subscribers: the place of the subscriber of each, and the entries."""
        parts = [self._of.get(key, b"") for key in keys]
        entries = np.frombuffer(b"".join(parts), dtype=ENTRY)
        lengths = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts)) // ENTRY.itemsize
        owner = np.repeat(np.arange(len(parts)), lengths)
        counts = entries["counts"] == 1
        return owner[counts], entries[counts]

    def counts(self, now_ms: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return how much these subscribers read each publication, see core.readership: row, as_of_ms and reads.

        What was engaged with after now, by a clock that is ahead, counts when it is then; what nobody engaged with for LISTED_MS
        is left out. May run in a thread beside the fold: what comes meanwhile counts or does not.
        """
        keys, parts = list(self._of), [(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))]
        for start in range(0, len(keys), SUM_KEYS):
            entries = np.frombuffer(b"".join(self._of.get(key, b"") for key in keys[start : start + SUM_KEYS]), dtype=ENTRY)
            counts = (entries["counts"] == 1) & (entries["at_ms"] <= now_ms)
            parts.append((entries["publication"][counts], entries["at_ms"][counts], entries["weight"][counts]))
        publication, at_ms, weight = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        rows = int(publication.max(initial=-1)) + 1
        as_of_ms = np.zeros(rows, dtype=np.int64)
        np.maximum.at(as_of_ms, publication, at_ms)
        share = weight * decay(as_of_ms[publication] - at_ms, COUNTER_HALF_LIFE_D)
        reads = np.bincount(publication, np.rint(share * SCALE), minlength=rows) / SCALE
        listed = np.flatnonzero(as_of_ms > now_ms - LISTED_MS)
        return listed, as_of_ms[listed], reads[listed]

    def read_since(self, at_ms: int) -> set[int]:
        """Return the rows of the publications that somebody engaged with since an instant."""
        found: set[int] = set()
        for entries in map(self.of, self._of):
            found.update(entries["publication"][entries["at_ms"] >= at_ms].tolist())
        return found

    def before(self, at_ms: int) -> "Histories":
        """Return what was engaged with before an instant: what a model that is to be judged may know."""
        earlier = Histories()
        for key in self.keys():
            entries = self.of(key)
            earlier._of[key] = entries[entries["at_ms"] < at_ms].tobytes()
        return earlier

    def forget(self, key: bytes) -> None:
        """Drop what somebody engaged with who was erased, or is not known."""
        if self._of.pop(key, None) is not None:
            self.changes += 1

    def keys(self) -> list[bytes]:
        """Return the subscribers who engaged with anything, in the order of their keys."""
        return sorted(self._of)

    # ---- packing ----

    def dump(self, place_of: Mapping[int, int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
        """Return keys, entries of each and the entries, publications as their new places; what has none is left out."""
        places = np.full(max(place_of, default=-1) + 1, -1, dtype=np.int32)
        places[list(place_of)] = list(place_of.values())
        keys, lengths, parts = [], [], []
        for key in self.keys():
            entries = self.of(key).copy()
            known = entries["publication"] < len(places)
            entries = entries[known]
            entries["publication"] = places[entries["publication"]]
            entries = entries[entries["publication"] >= 0]
            if len(entries):
                keys.append(key)
                lengths.append(len(entries))
                parts.append(entries.tobytes())
        return (
            np.frombuffer(b"".join(keys), dtype=np.uint8),
            np.array(lengths, dtype=np.int32),
            np.frombuffer(b"".join(parts), dtype=np.uint8),
        )

    def load(self, keys: npt.NDArray[np.uint8], lengths: npt.NDArray[np.int32], packed: npt.NDArray[np.uint8]) -> None:
        """Take over what dump returned."""
        raw, names = packed.tobytes(), keys.tobytes()
        ends = np.cumsum(lengths.astype(np.int64)) * ENTRY.itemsize
        starts = ends - lengths.astype(np.int64) * ENTRY.itemsize
        spans = zip(starts.tolist(), ends.tolist(), strict=True)
        self._of = {names[16 * number : 16 * number + 16]: raw[start:end] for number, (start, end) in enumerate(spans)}
        self.changes += 1


def is_engagement(name: str) -> bool:
    """Return whether an event is of the engagements topic."""
    return name in _EVENTS


def _entry(publication: int, kind: int, at_ms: int, weight: float, counts: int, delivery: int = 0, link: int = 0) -> Entries:
    return np.array([(publication, kind, delivery, at_ms, weight, link, counts)], dtype=ENTRY)


def _marked(entries: Entries, event: StateEvent, publication: int, at_ms: int, weight: float) -> Entries:
    """Return the entries with an open, a reaction or its removal: the newest counts, and of one instant the removal."""
    value, removed = event.value, event.name == "ReactionRemoved"
    kind = zlib.crc32(event.name.encode() if event.name == "ContentOpened" else value["reaction"].encode())
    new = _entry(publication, kind, at_ms, weight, 0 if removed else 1)
    found = np.flatnonzero((entries["publication"] == publication) & (entries["kind"] == kind))
    if not len(found):
        return np.concatenate([entries, new])
    known = entries[found[0]]
    if (at_ms, removed) <= (int(known["at_ms"]), not known["counts"]):
        return entries
    changed = entries.copy()
    changed[found[0]] = new[0]
    return changed


def _clicked(entries: Entries, event: StateEvent, publication: int, at_ms: int, weight: float) -> Entries:
    """Return the entries with a click, and what counts of all clicks that it has to do with."""
    value = event.value
    text = value.get("delivery_id")
    delivery = zlib.crc32(text.encode()) + 1 if text else 0
    link = min(int(value.get("link", 0)), 32_767)
    clicks = entries["kind"] == _CLICK
    there = clicks & (entries["publication"] == publication)
    if (there & (entries["delivery"] == delivery) & (entries["at_ms"] == at_ms) & (entries["link"] == link)).any():
        return entries
    changed = np.concatenate([entries, _entry(publication, _CLICK, at_ms, weight, 1, delivery, link)])
    here = clicks & (entries["delivery"] == delivery) & (delivery > 0)
    if here.any() or there.any():
        _count_clicks(changed, {publication, *entries["publication"][here].tolist()})
    return changed


def _count_clicks(entries: Entries, publications: set[int]) -> None:
    """Mark which clicks on these publications count."""
    clicks = entries["kind"] == _CLICK
    concerned = clicks & np.isin(entries["publication"], list(publications))
    machine = np.zeros(len(entries), dtype=np.bool_)
    for delivery in set(entries["delivery"][concerned].tolist()) - {0}:
        of_one = np.flatnonzero(clicks & (entries["delivery"] == delivery))
        machine[of_one] = scanned(entries["link"][of_one], entries["at_ms"][of_one])
    entries["counts"][concerned] = 0
    for publication in publications:
        mine = np.flatnonzero(concerned & ~machine & (entries["publication"] == publication))
        if len(mine):
            entries["counts"][mine[entries["at_ms"][mine].argmax()]] = 1


def _bounded(entries: Entries) -> Entries:
    """Return at most MAX_ENTRIES of the entries, to which one was added, in their order.

    Without the oldest click that does not count and will not any more, and those of its delivery, or else without the oldest:
    what a scanner does with every issue pushes no reading out, and no part of a burst stays behind and looks like a person's.
    """
    if len(entries) <= MAX_ENTRIES:
        return entries
    at_ms = entries["at_ms"]
    idle = (entries["counts"] == 0) & (entries["kind"] == _CLICK) & (at_ms < at_ms.max() - SETTLED_MS)
    if idle.any():
        first = np.where(idle, at_ms, np.iinfo(np.int64).max).argmin()
        return np.asarray(entries[~(idle & (entries["delivery"] == entries["delivery"][first]))])
    oldest = int(at_ms.argmin())
    return np.concatenate([entries[:oldest], entries[oldest + 1 :]])
