"""Newsletters: who gets which issue. State: the subscribers of a shard, the content, engagements, and what each was given.

Pure; the stage `streams/newsletters.py` does the reading and writing. A slot concerns who subscribed, matches the newsletter's
audience, is due at that minute (everybody when it is forced), and has not had this newsletter's issue for the same local slot.
Gates, the first that holds counts: expired, paused, no_channel, empty_issue.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core.content import Content, ContentTable, Engagements
from core.folding import StateEvent, to_ms
from core.packing import pack, pack_bytes, unpack, unpack_bytes
from core.schedule import due
from core.subscribers import SubscriberTable, subscriber_key
from core.verdicts import DAY_MS, Remembered, Rows

FORMAT: Final = 1
"""Version of the packed state."""

CONTENT_KEPT_MS: Final = 90 * DAY_MS
"""Publications approved earlier than this before the newest are dropped with a snapshot: as long as their topic is kept."""

DECIDED_KEPT_MS: Final = 95 * DAY_MS
"""Decisions are remembered for longer than their topic keeps them (90 days): a reset group decides nothing again."""

ISSUES_KEPT_MS: Final = 7 * DAY_MS
"""Who had an issue of a local slot is remembered for a week; a slot's local times lie within two days of it."""


class NewsletterState:
    """State of a shard of `newsletters`: the fold of subscribers, engagements, audience.newsletters and decisions.bulk."""

    def __init__(self) -> None:
        self.table = SubscriberTable()
        self.content = ContentTable()
        self.engagements = Engagements()
        self.decided = Remembered()
        self.issued: dict[tuple[str, str], tuple[int, npt.NDArray[np.bool_]]] = {}
        self._given = np.zeros((64, 16), dtype=np.uint8)
        self._newest_ms = 0

    def apply(self, event: StateEvent) -> None:
        """Fold one event; others than these change nothing."""
        if self.table.apply(event) or self.content.apply(event):
            return
        if event.name == "AudienceDecided":
            self._apply_decided(event.value)
        elif "subscriber_id" in event.value:
            try:
                key = subscriber_key(event.value["subscriber_id"])
            except ValueError:
                return
            self.engagements.apply(event, key, self.content)

    def _apply_decided(self, value: Mapping[str, Any]) -> None:
        at_ms = to_ms(value["slot_at"]) if value["source_kind"] == "newsletter" else 0
        if not at_ms or not self.decided.add(value["source_id"], value["chunk"], at_ms, value["chunks"]):
            return
        self._newest_ms = max(self._newest_ms, at_ms)
        publications = [self.content.row(item["publication_id"]) for item in value["publications"]]
        rows, columns = [], []
        by_group: dict[int, list[int]] = {}
        for entry in value["chosen"]:
            row = self.table.row(entry["subscriber"])
            by_group.setdefault(entry["issue_group"], []).append(row)
            items = [publications[item["publication"]] for item in entry["items"]]
            rows += [row] * len(items)
            columns += items
        self._give(np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64))
        for group, members in by_group.items():
            key = (value["newsletter_id"], value["issue_groups"][group])
            issued_ms, mask = self.issued.get(key, (at_ms, np.zeros(0, dtype=np.bool_)))
            if len(mask) < len(self.table):
                mask = np.pad(mask, (0, len(self.table) - len(mask)))
            np.put(mask, members, True)
            self.issued[key] = (max(issued_ms, at_ms), mask)
        for key in [key for key, (issued_ms, _) in self.issued.items() if issued_ms < self._newest_ms - ISSUES_KEPT_MS]:
            del self.issued[key]

    def _give(self, rows: Rows, columns: Rows) -> None:
        height, width = len(self.table), (len(self.content.items) + 7) // 8
        if height > len(self._given) or width > self._given.shape[1]:
            larger = np.zeros((max(height, len(self._given) * 5 // 4), max(width, self._given.shape[1] * 5 // 4)), dtype=np.uint8)
            larger[: len(self._given), : self._given.shape[1]] = self._given
            self._given = larger
        if len(rows):
            np.bitwise_or.at(self._given, (rows, columns >> 3), np.left_shift(1, columns & 7).astype(np.uint8))

    def given(self, rows: Rows, columns: Rows) -> npt.NDArray[np.bool_]:
        """Return (rows, publications): what each was already given; columns are rows of the content table."""
        self._give(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
        lines = self._given[rows][:, columns >> 3]
        return np.asarray(lines >> (columns & 7).astype(np.uint8) & 1, dtype=np.bool_)

    def had_issue(self, newsletter_id: str, issue_group: str) -> npt.NDArray[np.bool_]:
        """Return which rows were chosen for a newsletter's issue of a local slot."""
        _, mask = self.issued.get((newsletter_id, issue_group), (0, np.zeros(0, dtype=np.bool_)))
        return np.pad(mask, (0, len(self.table) - len(mask)))

    # ---- packing ----

    def dump(self) -> bytes:
        """Return the state as bytes; equal states give equal bytes."""
        self.decided.forget_before(self._newest_ms - DECIDED_KEPT_MS)
        rows = self.table.sorted_rows() if len(self.table) else np.zeros(0, dtype=np.int64)
        newest_ms = max((item.approved_ms for item in self.content.items), default=0)
        kept = sorted(
            (row for row, item in enumerate(self.content.items) if not 0 < item.approved_ms < newest_ms - CONTENT_KEPT_MS),
            key=lambda row: self.content.items[row].publication_id,
        )
        place_of = {row: place for place, row in enumerate(kept)}
        given = self.given(rows, np.array(kept, dtype=np.int64))
        groups = sorted(self.issued.items())
        issued = np.zeros((len(groups), len(rows)), dtype=np.bool_)
        for place, (_, (_, mask)) in enumerate(groups):
            issued[place, : len(mask)] = mask
        engaged = [
            [key.hex(), [[place_of[item], kind, *entry] for (item, kind), entry in mine.items() if item in place_of]]
            for key, mine in sorted(self.engagements.of.items())
            if mine
        ]
        packed, lengths = pack_bytes([self.table.dump()])
        head = {
            "format": FORMAT,
            "newest_ms": self._newest_ms,
            "decided": self.decided.as_list(),
            "issued": [[*key, issued_ms] for key, (issued_ms, _) in groups],
            "content": [self.content.items[row].as_list() for row in kept],
            "engaged": engaged,
            "rows": len(rows),
        }
        given_bits, issued_bits = np.packbits(given, axis=1, bitorder="little"), np.packbits(issued[:, rows], axis=1)
        return pack(head, {"table": packed, "lengths": lengths, "given": given_bits, "issued": issued_bits})

    def load(self, data: bytes) -> None:
        """Replace the state by a packed one; ValueError when the bytes are none."""
        head, arrays = unpack(data)
        if head.get("format") != FORMAT:
            raise ValueError(f"state of newsletters has format {head.get('format')}, this code reads {FORMAT}")
        NewsletterState.__init__(self)
        self.table.load(unpack_bytes(arrays["table"], arrays["lengths"])[0])
        self.decided, self._newest_ms = Remembered.from_list(head["decided"]), head["newest_ms"]
        for fields in head["content"]:
            item = Content(*fields)
            item.topics = tuple((topic, weight) for topic, weight in item.topics)
            self.content.items[self.content.row(item.publication_id)] = item
        self.engagements.of = {
            bytes.fromhex(key): {(place, kind): (weight, at_ms) for place, kind, weight, at_ms in mine}
            for key, mine in head["engaged"]
        }
        self._given = arrays["given"]
        bits = np.unpackbits(arrays["issued"], axis=1, count=head["rows"]).astype(np.bool_)
        self.issued = {(item[0], item[1]): (item[2], bits[place]) for place, item in enumerate(head["issued"])}


def newsletter_audience(
    table: SubscriberTable, rows: Rows, newsletter_id: str, rules: Mapping[str, Any]
) -> npt.NDArray[np.bool_]:
    """Return which rows subscribed to a newsletter and match its audience."""
    concerned = table.takes(rows, newsletter_id)
    if rules["audience_topics"]:
        concerned = concerned & table.declares_any(rows, rules["audience_topics"])
    if rules["audience_tags"]:
        concerned = concerned & table.tagged_any(rows, rules["audience_tags"])
    if rules["audience_languages"]:
        wanted = np.array([name in rules["audience_languages"] for name in table.languages.names])
        concerned = concerned & wanted[table.column("language")[rows]]
    return concerned


def due_groups(state: NewsletterState, rows: Rows, slot: Mapping[str, Any], forced_group: str) -> tuple[Rows, list[str]]:
    """Return the issue group of each row that is due and has not had it (index, -1 for not due), and the groups."""
    table, rules = state.table, slot["rules"]
    if slot["forced"]:
        group, groups = np.zeros(len(rows), dtype=np.int64), [forced_group]
    else:
        group, groups = due(
            table.zones.names,
            table.column("zone")[rows],
            table.column("local_minute")[rows],
            days=rules["days"],
            local_minute=rules["local_minute"],
            slot_at=slot["slot_at"],
        )
    for index, name in enumerate(groups):
        group[(group == index) & state.had_issue(slot["newsletter_id"], name)[rows]] = -1
    return group, groups


def newsletter_not_after(slot_at: datetime) -> datetime:
    """Return when an issue stops being worth sending: 24 h after its slot."""
    return slot_at + timedelta(days=1)
