"""Alerts: who gets one. State: the subscribers of a shard, and which alerts each was chosen for in the last days.

Pure; the stage `streams/alerts.py` does the reading and writing. An alert concerns who takes alerts and declared one of its
topics (everybody who takes alerts when it has none). Gates, the first that holds counts: expired, unscored, low_quality,
no_channel, duplicate, quiet_hours, cap. A critical alert passes quiet hours and caps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core.content import ALERT_QUALITY
from core.folding import StateEvent, happened_at, to_ms
from core.names import CHANNELS
from core.packing import pack, pack_bytes, unpack, unpack_bytes
from core.rules import MAX_ALERT_LIFE
from core.schedule import local_minute_of_day
from core.subscribers import SubscriberTable
from core.verdicts import (
    DAY_MS,
    Remembered,
    Rows,
    Verdicts,
    gate_verdicts,
)

FORMAT: Final = 1
"""Version of the packed state."""

WINDOW_MS: Final = DAY_MS
"""Caps and dedup keys look back a day."""

KEPT_MS: Final = 2 * DAY_MS
"""Chosen sets older than this, against the newest, are dropped: twice the window, so that a late event still finds its day."""

DECIDED_KEPT_MS: Final = 95 * DAY_MS
"""Decisions are remembered for longer than their topic keeps them (90 days): a reset group decides nothing again."""


@dataclass(slots=True)
class SentAlert:
    """Whom one alert was decided for: a set of rows, so that the same decision twice changes nothing."""

    at_ms: int
    dedup_key: str | None
    rows: npt.NDArray[np.bool_]


class AlertState:
    """State of a shard of `alerts`: the fold of subscribers and decisions.urgent."""

    def __init__(self) -> None:
        self.table = SubscriberTable()
        self.sent: dict[str, SentAlert] = {}
        self.decided = Remembered()
        self._newest_ms = 0

    def apply(self, event: StateEvent) -> None:
        """Fold one event; others than these change nothing."""
        if not self.table.apply(event) and event.name == "AudienceDecided":
            self._apply_decided(event.value)

    def _apply_decided(self, value: Mapping[str, Any]) -> None:
        source_id, at_ms = value["source_id"], to_ms(value["decided_at"])
        if value["source_kind"] != "alert" or not self.decided.add(source_id, value["chunk"], at_ms, value["chunks"]):
            return
        self._newest_ms = max(self._newest_ms, at_ms)
        rows = [self.table.row(entry["subscriber"]) for entry in value["chosen"]]
        if rows:
            sent = self.sent.get(source_id)
            if sent is None:
                sent = self.sent[source_id] = SentAlert(at_ms, value.get("dedup_key"), np.zeros(0, dtype=np.bool_))
            if len(sent.rows) < len(self.table):
                sent.rows = np.pad(sent.rows, (0, len(self.table) - len(sent.rows)))
            np.put(sent.rows, rows, True)
        for old in [key for key, item in self.sent.items() if item.at_ms < self._newest_ms - KEPT_MS]:
            del self.sent[old]

    def received(self, rows: Rows, now: datetime, dedup_key: str | None = None, but: str = "") -> npt.NDArray[np.int64]:
        """Return how many alerts each row was chosen for in the day before now; only those of a dedup key when one is given."""
        total = np.zeros(len(self.table), dtype=np.int64)
        since_ms = to_ms(now) - WINDOW_MS
        for source_id, sent in self.sent.items():
            if sent.at_ms > since_ms and source_id != but and dedup_key in (None, sent.dedup_key):
                total[: len(sent.rows)] += sent.rows
        return np.asarray(total[rows])

    def dump(self) -> bytes:
        """Return the state as bytes; equal states give equal bytes."""
        self.decided.forget_before(self._newest_ms - DECIDED_KEPT_MS)
        rows = self.table.kept_rows()
        sources = sorted(self.sent.items())
        bits = np.zeros((len(sources), len(self.table)), dtype=np.bool_)
        for place, (_, sent) in enumerate(sources):
            bits[place, : len(sent.rows)] = sent.rows
        packed, lengths = pack_bytes([self.table.dump()])
        head = {
            "format": FORMAT,
            "newest_ms": self._newest_ms,
            "decided": self.decided.as_list(),
            "sent": [[source_id, sent.at_ms, sent.dedup_key] for source_id, sent in sources],
            "rows": len(rows),
        }
        return pack(head, {"table": packed, "lengths": lengths, "bits": np.packbits(bits[:, rows], axis=1)})

    def load(self, data: bytes) -> None:
        """Replace the state by a packed one; ValueError when the bytes are none."""
        head, arrays = unpack(data)
        if head.get("format") != FORMAT:
            raise ValueError(f"state of alerts has format {head.get('format')}, this code reads {FORMAT}")
        self.table = SubscriberTable()
        self.table.load(unpack_bytes(arrays["table"], arrays["lengths"])[0])
        self.decided, self._newest_ms = Remembered.from_list(head["decided"]), head["newest_ms"]
        bits = np.asarray(np.unpackbits(arrays["bits"], axis=1, count=head["rows"]).astype(np.bool_))
        self.sent = {item[0]: SentAlert(item[1], item[2], np.asarray(bits[place])) for place, item in enumerate(head["sent"])}


def alert_channels(table: SubscriberTable, rows: Rows) -> npt.NDArray[np.bool_]:
    """Return (rows, channels): all verified ones of the urgent channels, or the first verified one where none is named."""
    urgent = table.column("urgent")[rows]
    named = urgent & table.column("verified")[rows]
    first = table.first_channel(rows)
    single = first[:, None] == np.arange(len(CHANNELS))
    return np.where(urgent.any(axis=1, keepdims=True), named, single)


def alert_concerns(table: SubscriberTable, rows: Rows, alert: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Return which rows an alert concerns."""
    takes = np.asarray(table.column("alerts")[rows])
    topics = [item["topic"] for item in alert["topics"]]
    return np.asarray(takes & table.declares_any(rows, topics)) if topics else takes


def alert_verdicts(state: AlertState, alert: Mapping[str, Any], rows: Rows, now: datetime) -> Verdicts:
    """Return the verdicts of an admitted alert for these rows."""
    table, everybody = state.table, np.ones(len(rows), dtype=np.bool_)
    channels = alert_channels(table, rows)
    quality = alert["quality"]
    gates: list[tuple[str, npt.NDArray[np.bool_]]] = []
    if now > alert["not_after"]:
        gates.append(("expired", everybody))
    if quality is None:
        gates.append(("unscored", everybody))
    elif not quality > ALERT_QUALITY:
        gates.append(("low_quality", everybody))
    gates.append(("no_channel", np.asarray(~channels.any(axis=1))))
    if alert["dedup_key"] is not None:
        gates.append(("duplicate", np.asarray(state.received(rows, now, alert["dedup_key"], but=alert["alert_id"]) > 0)))
    if alert["priority"] != "critical":
        minutes = local_minute_of_day(table.zones.names, table.column("zone")[rows], now)
        gates.append(("quiet_hours", table.in_quiet_hours(rows, minutes)))
        cap = table.column("alerts_a_day")[rows]
        gates.append(("cap", np.asarray((cap >= 0) & (state.received(rows, now, but=alert["alert_id"]) >= cap))))
    return gate_verdicts(alert_concerns(table, rows, alert), channels, gates)


def alert_not_after(raised: StateEvent) -> datetime:
    """Return when an alert stops being worth sending: its expiry, 24 h after it was raised by default, never above 5 days."""
    raised_at, expires_at = raised.value["raised_at"], raised.value["expires_at"]
    life = timedelta(days=1) if expires_at is None else expires_at - raised_at
    return happened_at(raised, raised_at) + min(life, MAX_ALERT_LIFE)
