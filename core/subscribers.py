"""The subscribers of one shard: the fold of the subscriber events into a table with a row a subscriber.

State: numpy arrays for what rules are vectorised over, Python lists for the rest. Rows are never removed, so that a row's number
holds for the life of the table; that of who was erased, or never registered and not heard of for UNKNOWN_KEPT_MS, is empty. The
fold depends on the order of their partition only, so it can be interleaved with other topics in any way. It is total: an event
that breaks a rule of its contract (an unknown zone or channel) changes nothing; the admission stage writes it to the dead
letters.

Consent comes first: registering alone subscribes to nothing, and an address is not used before it is verified.
"""

import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core.cadence import EVERY_DAY, day_bits
from core.folding import StateEvent, happened_ms, to_ms
from core.ids import uuid_bytes
from core.names import CHANNELS
from core.packing import pack, pack_bytes, unpack, unpack_bytes
from core.rules import obeys
from core.vocabulary import Vocabulary
from core.zones import FALLBACK_ZONE

Array = npt.NDArray[Any]

FORMAT: Final = 3
"""Version of the packing; a change of the columns below raises it."""

UNKNOWN_KEPT_MS: Final = 130 * 86_400_000
"""How long what is told of somebody who is not registered (yet) is kept, by the times of the records."""

FALLBACK_LANGUAGE: Final = "en"
"""Language of a row that was never registered."""

MOVES_KEPT: Final = 3
"""Earlier choices of zone, local minute and days that are remembered, so that somebody who tries out a few loses no issue."""

CHANNEL_INDEX: Final = {channel: index for index, channel in enumerate(CHANNELS)}
_NO_ADDRESSES: Final = (None,) * len(CHANNELS)

# Column: dtype, value of a new row, width (0: one value; -1: grows with its vocabulary, or with the longest list of quiet hours).
# known_ms: the time of the record that registered a row, or of the newest about it while there is none.
# moved_ms and old_*: when zone, local_minute and days were changed, the last time first, and what they were until then.
_COLUMNS: Final[dict[str, tuple[str, int, int]]] = {
    "registered": ("?", 0, 0),
    "known_ms": ("<i8", 0, 0),
    "erased": ("?", 0, 0),
    "hash": ("<u4", 0, 0),
    "language": ("<i2", 0, 0),
    "zone": ("<i2", 0, 0),
    "alerts": ("?", 0, 0),
    "paused_until_ms": ("<i8", 0, 0),
    "local_minute": ("<i2", -1, 0),
    "days": ("|u1", EVERY_DAY, 0),
    "moved_ms": ("<i8", 0, MOVES_KEPT),
    "old_zone": ("<i2", 0, MOVES_KEPT),
    "old_minute": ("<i2", -1, MOVES_KEPT),
    "old_days": ("|u1", EVERY_DAY, MOVES_KEPT),
    "alerts_a_day": ("<i4", -1, 0),
    "order": ("|i1", -1, len(CHANNELS)),
    "urgent": ("?", 0, len(CHANNELS)),
    "verified": ("?", 0, len(CHANNELS)),
    "newsletters": ("?", 0, -1),
    "tags": ("?", 0, -1),
    "topics": ("<f4", 0, -1),
    "quiet_start": ("<i2", -1, -1),
    "quiet_end": ("<i2", -1, -1),
}
_TIMING: Final = {"old_zone": "zone", "old_minute": "local_minute", "old_days": "days"}
_VOCABULARIES: Final = {"newsletters": "newsletters", "tags": "tags", "topics": "topics"}


def subscriber_key(subscriber_id: str) -> bytes:
    """Return the 16 bytes of a subscriber_id; ValueError when it is no UUID."""
    return uuid_bytes(subscriber_id)


class SubscriberTable:
    """The subscribers of one shard; columns are read through `column(name)`."""

    def __init__(self) -> None:
        self.ids: list[bytes] = []
        self.row_of: dict[bytes, int] = {}
        self.addresses: list[list[bytes | None]] = []
        self.languages, self.zones = Vocabulary(first=FALLBACK_LANGUAGE), Vocabulary(first=FALLBACK_ZONE)
        self.newsletters, self.tags, self.topics = Vocabulary(), Vocabulary(), Vocabulary()
        self._columns: dict[str, Array] = {
            name: np.full((64, max(width, 0)) if width else (64,), fill, dtype=dtype)
            for name, (dtype, fill, width) in _COLUMNS.items()
        }
        self._sorted_rows: npt.NDArray[np.int64] | None = None
        self.newest_ms = 0
        """Latest time of a record about a subscriber."""

    def __len__(self) -> int:
        return len(self.ids)

    def column(self, name: str) -> Array:
        """Return a column, one entry (or line) a row; a view, valid until the next event."""
        return self._columns[name][: len(self.ids)]

    # ---- what deciding asks ----

    def sorted_rows(self) -> npt.NDArray[np.int64]:
        """Return all rows in the order of subscriber_id."""
        if self._sorted_rows is None or len(self._sorted_rows) != len(self.ids):
            words = np.frombuffer(b"".join(self.ids), dtype=">u8").reshape(-1, 2)
            self._sorted_rows = np.lexsort((words[:, 1], words[:, 0])).astype(np.int64)
        return self._sorted_rows

    def kept_rows(self) -> npt.NDArray[np.int64]:
        """Return the rows that are packed, in the order of subscriber_id: all but those that are forgotten."""
        rows = self.sorted_rows() if self.ids else np.zeros(0, dtype=np.int64)
        kept = self.column("registered") | self.column("erased") | (self.column("known_ms") >= self.newest_ms - UNKNOWN_KEPT_MS)
        return rows[kept[rows]]

    def chunk_rows(self, chunk: int, chunks: int) -> npt.NDArray[np.int64]:
        """Return the rows of a chunk, registered or not, in the order of subscriber_id."""
        rows = self.sorted_rows()
        return np.asarray(rows[(self.column("hash")[rows].astype(np.int64) * chunks) >> 32 == chunk])

    def population(self, chunk: int, chunks: int) -> int:
        """Return how many subscribers of a chunk are registered and not erased, counted from the flags alone."""
        here = (self.column("hash").astype(np.int64) * chunks) >> 32 == chunk
        return int(np.count_nonzero(here & self.column("registered") & ~self.column("erased")))

    def first_channel(self, rows: npt.NDArray[np.int64], allowed: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.int64]:
        """Return the first verified channel in each row's own order (index into CHANNELS), or -1.

        allowed is a mask over CHANNELS of what a source may use.
        """
        order = self.column("order")[rows].astype(np.int64)
        usable = self.column("verified")[rows]
        if allowed is not None:
            usable = usable & allowed
        ready = (order >= 0) & np.take_along_axis(usable, np.maximum(order, 0), axis=1)
        place = ready.argmax(axis=1)
        first = order[np.arange(len(rows)), place]
        return np.where(ready.any(axis=1), first, -1)

    def declares_any(self, rows: npt.NDArray[np.int64], topics: Iterable[str]) -> npt.NDArray[np.bool_]:
        """Return which rows declared at least one of these topics."""
        return self._has_any("topics", self.topics, rows, topics)

    def tagged_any(self, rows: npt.NDArray[np.int64], tags: Iterable[str]) -> npt.NDArray[np.bool_]:
        """Return which rows have at least one of these tags."""
        return self._has_any("tags", self.tags, rows, tags)

    def takes(self, rows: npt.NDArray[np.int64], newsletter_id: str) -> npt.NDArray[np.bool_]:
        """Return which rows subscribed to a newsletter."""
        return self._has_any("newsletters", self.newsletters, rows, [newsletter_id])

    def _has_any(self, name: str, names: Vocabulary, rows: npt.NDArray[np.int64], wanted: Iterable[str]) -> npt.NDArray[np.bool_]:
        columns = [names.index[item] for item in wanted if item in names.index]
        if not columns:
            return np.zeros(len(rows), dtype=np.bool_)
        picked = np.asarray((self.column(name)[:, columns] > 0).any(axis=1))
        return np.asarray(picked[rows])

    def in_quiet_hours(self, rows: npt.NDArray[np.int64], minute_of_day: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Return which rows are within their quiet hours at a local minute (one a row); hours may span midnight."""
        start, end = self.column("quiet_start")[rows], self.column("quiet_end")[rows]
        minute = minute_of_day[:, None]
        inside = np.where(start <= end, (start <= minute) & (minute < end), (minute >= start) | (minute < end))
        return np.asarray(((start >= 0) & inside).any(axis=1))

    # ---- the fold ----

    def row(self, key: bytes) -> int:
        """Return the row of a subscriber; a new one is empty and not registered."""
        row = self.row_of.get(key)
        if row is None:
            row = self.row_of[key] = len(self.ids)
            self.ids.append(key)
            self.addresses.append(list(_NO_ADDRESSES))
            if row == len(self._columns["hash"]):
                self._grow_rows(row + row // 4)
            text = key.hex()
            dashed = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
            self._columns["hash"][row] = zlib.crc32(dashed.encode())
            self._columns["order"][row] = range(len(CHANNELS))
        return row

    def apply(self, event: StateEvent) -> bool:
        """Fold one event of the subscribers topic; False when it is of another kind."""
        handler = _HANDLERS.get(event.name)
        if handler is None:
            return False
        if not obeys(event.name, event.value):
            return True
        row = self.row(subscriber_key(event.value["subscriber_id"]))
        self.newest_ms = max(self.newest_ms, event.timestamp_ms)
        if not self._columns["erased"][row]:
            self._heard_of(row)
            moving = _MOVING.get(event.name)
            if moving is None or not self._columns["newsletters"][row].any():
                handler(self, row, event.value)
                return True
            before = self._timing(row)
            handler(self, row, event.value)
            if self._timing(row) != before:
                self._moved(row, before, happened_ms(event, event.value[moving]))
        return True

    def _heard_of(self, row: int) -> None:
        """Note when a record about a row came until it is registered; what is known of it and too old is forgotten first."""
        if not self._columns["registered"][row]:
            if self._columns["known_ms"][row] < self.newest_ms - UNKNOWN_KEPT_MS:
                self._empty(row)
            self._columns["known_ms"][row] = self.newest_ms

    def _timing(self, row: int) -> tuple[int, ...]:
        return tuple(int(self._columns[name][row]) for name in _TIMING.values())

    def _moved(self, row: int, before: tuple[int, ...], at_ms: int) -> None:
        """Note that the issues of a subscriber of newsletters come at another time from now on."""
        for name, value in zip(("moved_ms", *_TIMING), (at_ms, *before), strict=True):
            line = self._columns[name][row]
            line[1:] = line[:-1].copy()
            line[0] = value

    def _registered(self, row: int, value: Mapping[str, Any]) -> None:
        self._columns["registered"][row] = True
        self._set_zone(row, value["time_zone"])
        self._columns["language"][row] = self.languages.add(value["language"])
        self._set_flags("tags", self.tags, row, value.get("tags") or ())

    def _preferences(self, row: int, value: Mapping[str, Any]) -> None:
        columns = self._columns
        if (zone := value.get("time_zone")) is not None:
            self._set_zone(row, zone)
        if (language := value.get("language")) is not None:
            columns["language"][row] = self.languages.add(language)
        if (topics := value.get("topics")) is not None:
            self._set_topics(row, topics)
        if (channels := value.get("channels")) is not None:
            known = [CHANNEL_INDEX[channel] for channel in dict.fromkeys(channels)]
            columns["order"][row] = known + [-1] * (len(CHANNELS) - len(known))
        if (urgent := value.get("urgent_channels")) is not None:
            columns["urgent"][row] = [channel in urgent for channel in CHANNELS]
        if (newsletters := value.get("newsletters")) is not None:
            self._set_flags("newsletters", self.newsletters, row, newsletters)
        if (tags := value.get("tags")) is not None:
            self._set_flags("tags", self.tags, row, tags)
        if (quiet := value.get("quiet_hours")) is not None:
            self._set_quiet_hours(row, quiet)
        if (days := value.get("days")) is not None:
            columns["days"][row] = day_bits(days)
        if (paused := value.get("paused_until")) is not None:
            columns["paused_until_ms"][row] = to_ms(paused)
        for name in ("alerts", "local_minute", "alerts_a_day"):
            if (plain := value.get(name)) is not None:
                columns[name][row] = plain

    def _linked(self, row: int, value: Mapping[str, Any]) -> None:
        channel = CHANNEL_INDEX[value["channel"]]
        self.addresses[row][channel] = value["address"]
        self._columns["verified"][row, channel] = False

    def _verified(self, row: int, value: Mapping[str, Any]) -> None:
        channel = CHANNEL_INDEX[value["channel"]]
        if self.addresses[row][channel] is not None:
            self._columns["verified"][row, channel] = True

    def _unlinked(self, row: int, value: Mapping[str, Any]) -> None:
        channel = CHANNEL_INDEX[value["channel"]]
        self.addresses[row][channel] = None
        self._columns["verified"][row, channel] = False

    def _unsubscribed(self, row: int, value: Mapping[str, Any]) -> None:
        kind = value["kind"]
        if kind == "newsletter":
            column = self.newsletters.index.get(value.get("newsletter_id") or "")
            if column is not None:
                self._columns["newsletters"][row, column] = False
        if kind in ("alerts", "all"):
            self._columns["alerts"][row] = False
        if kind == "all":
            self._columns["newsletters"][row] = False

    def _erased(self, row: int, value: Mapping[str, Any]) -> None:
        self._empty(row)
        self._columns["erased"][row] = True

    def _empty(self, row: int) -> None:
        for name, (_, fill, _width) in _COLUMNS.items():
            if name != "hash":
                self._columns[name][row] = fill
        self._columns["order"][row] = range(len(CHANNELS))
        self.addresses[row] = list(_NO_ADDRESSES)

    def _set_zone(self, row: int, zone: str) -> None:
        self._columns["zone"][row] = self.zones.add(zone)

    def _set_topics(self, row: int, topics: Iterable[Mapping[str, Any]]) -> None:
        columns = [self._vocabulary_column("topics", self.topics, item["topic"]) for item in topics]
        self._columns["topics"][row] = 0
        for column, item in zip(columns, topics, strict=True):
            self._columns["topics"][row, column] = item["weight"]

    def _set_flags(self, name: str, names: Vocabulary, row: int, wanted: Iterable[str]) -> None:
        columns = [self._vocabulary_column(name, names, item) for item in wanted]
        self._columns[name][row] = False
        self._columns[name][row, columns] = True

    def _set_quiet_hours(self, row: int, hours: list[Mapping[str, int]]) -> None:
        for name, field in (("quiet_start", "start_minute"), ("quiet_end", "end_minute")):
            self._grow_width(name, len(hours))
            self._columns[name][row] = -1
            self._columns[name][row, : len(hours)] = [item[field] for item in hours]

    def _vocabulary_column(self, name: str, names: Vocabulary, item: str) -> int:
        column = names.add(item)
        self._grow_width(name, column + 1)
        return column

    def _grow_width(self, name: str, width: int) -> None:
        array = self._columns[name]
        if width > array.shape[1]:
            wider = np.full((len(array), max(width, array.shape[1] * 5 // 4)), _COLUMNS[name][1], dtype=array.dtype)
            wider[:, : array.shape[1]] = array
            self._columns[name] = wider

    def _grow_rows(self, rows: int) -> None:
        for name, array in self._columns.items():
            longer = np.full((rows, *array.shape[1:]), _COLUMNS[name][1], dtype=array.dtype)
            longer[: len(array)] = array
            self._columns[name] = longer

    # ---- packing ----

    def dump(self) -> bytes:
        """Return the table as bytes. Equal tables give equal bytes, whatever the order their rows and names came in."""
        rows = self.kept_rows()
        arrays: dict[str, Array] = {"ids": np.frombuffer(b"".join(self.ids[row] for row in rows), dtype=np.uint8)}
        head: dict[str, Any] = {"format": FORMAT, "newest_ms": self.newest_ms}
        for name in _COLUMNS:
            column = self.column(name)[rows]
            if name in _VOCABULARIES:
                vocabulary: Vocabulary = getattr(self, name)
                order = [index for index in vocabulary.sorted_order() if index < column.shape[1]]
                head[name], column = [vocabulary.names[index] for index in order], column[:, order]
            elif name in ("language", "zone", "old_zone"):
                vocabulary = self.languages if name == "language" else self.zones
                order = vocabulary.sorted_order()
                head[name] = [vocabulary.names[index] for index in order]
                column = np.argsort(np.array([0, *order])).astype(column.dtype)[column]
            if name.startswith("quiet"):
                column = column[:, : int((column >= 0).any(axis=0).sum())]
            if name == "topics":
                where = np.nonzero(column)
                arrays["topic_rows"], arrays["topic_columns"] = where[0].astype(np.int32), where[1].astype(np.int32)
                arrays["topic_weights"] = column[where]
            else:
                arrays[name] = column
        flat = [address or b"" for row in rows for address in self.addresses[row]]
        arrays["addresses"], arrays["address_lengths"] = pack_bytes(flat)
        return pack(head, arrays)

    def load(self, data: bytes) -> None:
        """Replace the table by a packed one; ValueError when the bytes are none."""
        head, arrays = unpack(data)
        if head.get("format") != FORMAT:
            raise ValueError(f"subscriber table has format {head.get('format')}, this code reads {FORMAT}")
        raw = arrays["ids"].tobytes()
        self.ids = [raw[start : start + 16] for start in range(0, len(raw), 16)]
        self.row_of = {key: row for row, key in enumerate(self.ids)}
        self._sorted_rows, self.newest_ms = None, head["newest_ms"]
        self.languages = Vocabulary(head["language"], first=FALLBACK_LANGUAGE)
        self.zones = Vocabulary(head["zone"], first=FALLBACK_ZONE)
        self.newsletters, self.tags, self.topics = (Vocabulary(head[name]) for name in ("newsletters", "tags", "topics"))
        count = len(self.ids)
        topics = np.zeros((count, len(self.topics.names)), dtype=np.float32)
        topics[arrays["topic_rows"], arrays["topic_columns"]] = arrays["topic_weights"]
        arrays["topics"] = topics
        for name in _COLUMNS:
            self._columns[name] = arrays[name]
        self._grow_rows(max(64, count + count // 4))
        width = len(CHANNELS)
        flat: list[bytes | None] = [item or None for item in unpack_bytes(arrays["addresses"], arrays["address_lengths"])]
        self.addresses = [flat[start : start + width] for start in range(0, len(flat), width)]


_MOVING: Final = {"SubscriberRegistered": "registered_at", "PreferencesChanged": "changed_at"}
"""Events that may change when issues come, and the field with their time."""

_HANDLERS: Final = {
    "SubscriberRegistered": SubscriberTable._registered,
    "PreferencesChanged": SubscriberTable._preferences,
    "ChannelLinked": SubscriberTable._linked,
    "ChannelVerified": SubscriberTable._verified,
    "ChannelUnlinked": SubscriberTable._unlinked,
    "SubscriberUnsubscribed": SubscriberTable._unsubscribed,
    "SubscriberErased": SubscriberTable._erased,
}
