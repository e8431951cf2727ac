"""Newsletters: who gets which issue. State: the subscribers of a shard, the content and how much it is read, engagements, and
what each was given.

Pure; the stage `streams/newsletters.py` does the reading and writing. A slot concerns who subscribed, matches the newsletter's
audience, and is due (core/due.py). Gates, the first that holds counts: expired, holiday, paused, no_channel, empty_issue.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from sys import intern
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core import subscribers
from core.content import PACKED, Content, ContentTable
from core.folding import StateEvent, to_ms
from core.given import Given
from core.histories import Histories, is_engagement
from core.ids import is_test
from core.issued import LastIssues
from core.packing import pack, pack_bytes, unpack, unpack_bytes
from core.ranking import COUNTER_HALF_LIFE_D, decay
from core.readership import MOST, Count, Readership, of_items
from core.rules import obeys
from core.subscribers import UNKNOWN_KEPT_MS, SubscriberTable, subscriber_key
from core.verdicts import DAY_MS, Remembered, Rows

FORMAT: Final = 4
"""Version of the packed state."""

SNAPSHOT_FORMAT: Final = FORMAT * 100 + subscribers.FORMAT
"""Version of a snapshot: of the state and of the table of subscribers in it."""

CONTENT_KEPT_MS: Final = 90 * DAY_MS
"""Publications approved earlier than this before the newest are dropped with a snapshot: as long as their topic is kept."""

READ_KEPT_MS: Final = 130 * DAY_MS
"""But not while somebody's usual hour may rest on when they were read: reading_hours.KEPT_W, a week, and a slot that is late."""

DECIDED_KEPT_MS: Final = 95 * DAY_MS
"""Decisions are remembered for longer than their topic keeps them (90 days): a reset group decides nothing again."""


class NewsletterState:
    """State of a shard of `newsletters`: the fold of subscribers, engagements, audience.newsletters and decisions.bulk."""

    def __init__(self) -> None:
        self.table = SubscriberTable()
        self.content = ContentTable()
        self.histories = Histories()
        self.readership = Readership()
        self.decided = Remembered()
        self.issued = LastIssues()
        self._given = Given()
        self._newest_ms = 0
        self._heard: dict[bytes, int] = {}
        """The latest time of a record of an engagement of each who is not registered."""
        self._heard_ms = 0
        """The latest of all engagements."""

    def apply(self, event: StateEvent) -> None:
        """Fold one event; others than these change nothing."""
        if self.table.apply(event):
            if event.name in ("SubscriberErased", "SubscriberRegistered"):
                self._known(event)
        elif event.name == "AudienceDecided":
            self._apply_decided(event.value)
        elif is_engagement(event.name):
            self._engaged(event)
        elif event.name == "ContentRead":
            self._counted(event.value)
        else:
            self.content.apply(event)

    def _known(self, event: StateEvent) -> None:
        """Forget what somebody engaged with who is erased, or who is registered and was not heard of for too long before."""
        if not obeys(event.name, event.value):
            return
        key = subscriber_key(event.value["subscriber_id"])
        heard_ms = self._heard.pop(key, None)
        if event.name == "SubscriberErased" or (heard_ms is not None and heard_ms < self._since_ms(key)):
            self.histories.forget(key)

    def _since_ms(self, key: bytes) -> int:
        """Return since when it counts what is told of a registered subscriber: what came earlier may have been forgotten."""
        return int(self.table.column("known_ms")[self.table.row_of[key]]) - UNKNOWN_KEPT_MS

    def _engaged(self, event: StateEvent) -> None:
        """Fold an engagement; an erased subscriber has none, whichever topic was read first."""
        if not obeys(event.name, event.value):
            return
        key = subscriber_key(event.value["subscriber_id"])
        publication = self.content.row(event.value["publication_id"])
        self._heard_ms = max(self._heard_ms, event.timestamp_ms)
        row = self.table.row_of.get(key)
        if row is not None and self.table.column("erased")[row]:
            return
        if row is None or not self.table.column("registered")[row]:
            if self._heard.get(key, self._heard_ms) < self._heard_ms - UNKNOWN_KEPT_MS:
                self.histories.forget(key)  # as if there had been a snapshot in between
            self._heard[key] = max(self._heard.get(key, 0), event.timestamp_ms)
        elif 0 < event.timestamp_ms < self._since_ms(key):
            return
        self.histories.apply(event, key, publication)

    def _forget_unknown(self) -> None:
        """Forget who is not registered and was not heard of for too long."""
        for key in [key for key, heard_ms in self._heard.items() if heard_ms < self._heard_ms - UNKNOWN_KEPT_MS]:
            del self._heard[key]
            self.histories.forget(key)

    def _counted(self, value: Mapping[str, Any]) -> None:
        if value["replaces"]:
            self.readership.clear()
        counts = of_items(value["counts"])
        rows = np.array([self.content.row(publication_id) for publication_id in counts], dtype=np.int64)
        as_of_ms = np.array([count.as_of_ms for count in counts.values()], dtype=np.int64)
        self.readership.put(rows, as_of_ms, np.array([count.reads for count in counts.values()], dtype=np.float64))

    def own_counts(self, now_ms: int) -> dict[str, Count]:
        """Return how much the subscribers of this shard read what may be chosen; the MOST read when there are more."""
        rows, as_of_ms, reads = self.histories.counts(now_ms)
        items, left = self.content.items, reads * decay(now_ms - as_of_ms, COUNTER_HALF_LIFE_D)
        found = [
            (-rest, items[row].publication_id, Count(at_ms, count))
            for row, at_ms, count, rest in zip(rows.tolist(), as_of_ms.tolist(), reads.tolist(), left.tolist(), strict=True)
            if items[row].available
        ]
        return {publication_id: count for _, publication_id, count in sorted(found)[:MOST]}

    def _apply_decided(self, value: Mapping[str, Any]) -> None:
        at_ms = to_ms(value["decided_at"])
        if value["source_kind"] != "newsletter":
            return
        if not self.decided.add(value["source_id"], value["chunk"], at_ms, value["chunks"]) or is_test(value["source_id"]):
            return
        self._newest_ms = max(self._newest_ms, at_ms)
        publications = [self.content.row(item["publication_id"]) for item in value["publications"]]
        rows, columns, members, groups = [], [], [], []
        for entry in value["chosen"]:
            row = self.table.row(entry["subscriber"])
            members.append(row)
            groups.append(value["issue_groups"][entry["issue_group"]])
            items = [publications[item["publication"]] for item in entry["items"]]
            rows += [row] * len(items)
            columns += items
        self.give(np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64))
        self.issued.give(
            value["newsletter_id"], np.array(members, dtype=np.int64), groups, to_ms(value["slot_at"]) // 60_000, len(self.table)
        )

    def give(self, rows: Rows, columns: Rows) -> None:
        """Remember that rows were given publications, pair by pair; columns are rows of the content table."""
        self._given.give(rows, columns)

    def given(self, rows: Rows, columns: Rows) -> npt.NDArray[np.bool_]:
        """Return (rows, publications): what each was already given; columns are rows of the content table."""
        return self._given.of(rows, columns)

    # ---- packing ----

    def dump(self) -> bytes:
        """Return the state as bytes; equal states give equal bytes."""
        self.decided.forget_before(self._newest_ms - DECIDED_KEPT_MS)
        self._forget_unknown()
        rows = self.table.kept_rows()
        kept = self._kept()
        place_of = {row: place for place, row in enumerate(kept)}
        given = self.given(rows, np.array(kept, dtype=np.int64))
        read_as_of, reads = self.readership.dump(np.array(kept, dtype=np.int64))
        readers, entries, engaged = self.histories.dump(place_of)
        packed, lengths = pack_bytes([self.table.dump(), self.issued.dump(rows, len(self.table))])
        head: dict[str, Any] = {
            "format": FORMAT,
            "newest_ms": self._newest_ms,
            "heard_ms": self._heard_ms,
            "decided": self.decided.as_list(),
            "content": [[getattr(self.content.items[row], name) for name in PACKED] for row in kept],
            "vectors": sorted(self.content.dimensions),
        }
        given_bits = np.packbits(given, axis=1, bitorder="little")
        unknown = sorted(self._heard)
        heard = np.array([self._heard[key] for key in unknown], dtype=np.int64)
        arrays: dict[str, Any] = {"table": packed, "lengths": lengths, "given": given_bits, "heard": heard}
        arrays["unknown"] = np.frombuffer(b"".join(unknown), dtype=np.uint8)
        arrays |= {"readers": readers, "entries": entries, "engaged": engaged, "read_as_of": read_as_of, "reads": reads}
        for number, name in enumerate(head["vectors"]):
            arrays[f"vectors{number}"] = self.content.vectors(name, np.array(kept, dtype=np.int64))
        return pack(head, arrays)

    def _kept(self) -> list[int]:
        """Return the rows of the content table that a packed state has, in the order of publication_id."""
        items = self.content.items
        newest_ms = max((item.approved_ms for item in items), default=0)
        read = self.histories.read_since(newest_ms - READ_KEPT_MS)
        rows = (row for row, item in enumerate(items) if row in read or not 0 < item.approved_ms < newest_ms - CONTENT_KEPT_MS)
        return sorted(rows, key=lambda row: items[row].publication_id)

    def load(self, data: bytes) -> None:
        """Replace the state by a packed one; ValueError when the bytes are none."""
        head, arrays = unpack(data)
        if head.get("format") != FORMAT:
            raise ValueError(f"state of newsletters has format {head.get('format')}, this code reads {FORMAT}")
        NewsletterState.__init__(self)
        table, issued = unpack_bytes(arrays["table"], arrays["lengths"])
        self.table.load(table)
        self.issued.load(issued)
        self.decided, self._newest_ms, self._heard_ms = Remembered.from_list(head["decided"]), head["newest_ms"], head["heard_ms"]
        lines = {name: arrays[f"vectors{number}"] for number, name in enumerate(head["vectors"])}
        self.content.dimensions = {name: line.shape[1] for name, line in lines.items()}
        for number, values in enumerate(head["content"]):
            plain: dict[str, Any] = dict(zip(PACKED, values, strict=True))
            item = Content(**plain | {"topics": tuple((intern(topic), weight) for topic, weight in plain["topics"])})
            name = next((name for name, line in lines.items() if line[number].any()), None)
            vector = lines[name][number].tobytes() if name is not None else b""
            self.content.put(self.content.row(item.publication_id), replace(item, vector_model=name, vector=vector))
        self.histories.load(arrays["readers"], arrays["entries"], arrays["engaged"])
        self.readership.put(np.arange(len(head["content"])), arrays["read_as_of"], arrays["reads"])
        self._given = Given.from_bits(arrays["given"])
        unknown = arrays["unknown"].tobytes()
        self._heard = {unknown[16 * n : 16 * n + 16]: heard_ms for n, heard_ms in enumerate(arrays["heard"].tolist())}


def audience_filters(table: SubscriberTable, rows: Rows, slot: Mapping[str, Any]) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Yield what a newsletter's audience is made of: the name of a filter, and which rows pass it.

    Who is sent a test need not match the audience, but must have subscribed.
    """
    rules = slot["rules"]
    yield "subscription", table.takes(rows, slot["newsletter_id"])
    if slot["test_subscriber"] is not None:
        return
    if rules["audience_topics"]:
        yield "topics", table.declares_any(rows, rules["audience_topics"])
    if rules["audience_tags"]:
        yield "tags", table.tagged_any(rows, rules["audience_tags"])
    if rules["audience_languages"]:
        wanted = np.array([name in rules["audience_languages"] for name in table.languages.names])
        yield "languages", wanted[table.column("language")[rows]]


def newsletter_audience(table: SubscriberTable, rows: Rows, slot: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Return which rows subscribed to a newsletter and match its audience."""
    concerned = np.ones(len(rows), dtype=np.bool_)
    for _, passing in audience_filters(table, rows, slot):
        concerned &= passing
    return concerned
