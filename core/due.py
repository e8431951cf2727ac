"""Who is due at a slot of a newsletter: the schedule of `core/schedule.py` applied to the state of a shard. Pure.

A subscriber gets one issue a period (core/cadence.py), at the slot that their zone, their minute and their days give it, and none
for a period at or before that of the last issue they had. When one of the three changes, a period whose new slot was past by then
comes at the slot that it had before, unless the next issue comes first: so a change neither repeats an issue nor skips one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import numpy as np

from core.cadence import DAY_MIN, Schedule, nominal_text, read_nominal
from core.experiments import rules_of, variants_of
from core.folding import to_ms
from core.issued import NEVER
from core.names import MAX_LATE_H, USUAL_HOUR
from core.newsletter_state import NewsletterState
from core.reading_hours import Readers, usual_minutes
from core.schedule import NOT_DUE, Bools, Ints, due, due_at, local_nominal
from core.subscribers import MOVES_KEPT
from core.verdicts import DAY_MS, Rows
from core.zones import SLOT_MIN

MOVE_MS: Final = 3 * DAY_MS
"""How long after a change the slots from before it are looked at: the days of two zones lie less than two days apart."""

LOOK_AHEAD: Final = MAX_LATE_H
"""Periods after a late one in which a later issue is looked for: of an hour each at least, within MAX_LATE_H."""


@dataclass(frozen=True, slots=True)
class Due:
    """Who is due, for each row."""

    group: Ints
    """Index into groups, NOT_DUE for who is not due or had it."""
    groups: list[str]
    """The nominal local slots; for a forced slot its UTC minute."""
    holiday: Bools
    """Whether it is due but there is no issue on that local day."""
    had: Bools
    """Whether it would be due, but the issue of this period, or of a later one, was had."""


class Timing(NamedTuple):
    """What decides when a row's issues come: index of the zone, minute of the local day, ISO weekdays as bits."""

    zone: Ints
    minute: Ints
    days: Ints

    def of(self, places: Ints) -> "Timing":
        """Return the same for some of the rows."""
        return Timing(*(column[places] for column in self))


def due_groups(state: NewsletterState, rows: Rows, slot: Mapping[str, Any], forced_group: str) -> Due:
    """Return which rows are due at a slot (a SlotDue); everybody when it is forced."""
    nobody = np.zeros(len(rows), dtype=np.bool_)
    if slot["forced"]:
        return Due(np.zeros(len(rows), dtype=np.int64), [forced_group], nobody, nobody)
    schedule, zones = Schedule.of(slot["rules"]), state.table.zones.names
    nominal = due(zones, *timing(state, rows, slot), schedule, slot["slot_at"])
    _catch_up(state, rows, slot, schedule, nominal)
    had = np.zeros(len(rows), dtype=np.bool_)
    places = np.flatnonzero(nominal != NOT_DUE)
    last = state.issued.of(slot["newsletter_id"], rows[places], len(state.table))
    had[places] = last.had(schedule, nominal[places], to_ms(slot["slot_at"]) // 60_000)
    places = places[~had[places]]
    slots, group = np.unique(nominal[places], return_inverse=True)
    groups, holiday = np.full(len(rows), NOT_DUE, dtype=np.int64), np.zeros(len(rows), dtype=np.bool_)
    groups[places] = group.reshape(-1)
    skipped = np.array([schedule.is_skipped(one) for one in slots.tolist()], dtype=np.bool_)
    holiday[places] = skipped[groups[places]]
    return Due(groups, [nominal_text(one) for one in slots.tolist()], holiday, had)


def timing(state: NewsletterState, rows: Rows, slot: Mapping[str, Any], change: int | None = None) -> Timing:
    """Return what decides when the issues of rows come: now, or as it was before the change-th last change."""
    columns = ("zone", "local_minute", "days") if change is None else ("old_zone", "old_minute", "old_days")
    values = [state.table.column(name)[rows].astype(np.int64) for name in columns]
    zone, own, days = values if change is None else (column[:, change] for column in values)
    minute = np.where(own < 0, newsletter_minutes(state, rows, slot), own)
    usual = np.flatnonzero((own == USUAL_HOUR) & state.table.takes(rows, slot["newsletter_id"]))
    if len(usual) and Schedule.of(slot["rules"]).has_an_hour:
        minute[usual], _ = usual_hours(state, rows[usual], zone[usual], slot)
    return Timing(zone, minute, days)


def newsletter_minutes(state: NewsletterState, rows: Rows, slot: Mapping[str, Any]) -> Ints:
    """Return the newsletter's minute for each row: that of its variant, when an experiment runs."""
    rules = slot["rules"]
    minutes = [rules_of(rules, number)["local_minute"] for number in range(-1, len(rules["variants"]))]
    if len(minutes) == 1:
        return np.full(len(rows), minutes[0], dtype=np.int64)
    variant = variants_of(slot["newsletter_id"], rules, [state.table.ids[row] for row in rows.tolist()])
    return np.array(minutes, dtype=np.int64)[variant + 1]


def usual_hours(state: NewsletterState, rows: Rows, zone: Ints, slot: Mapping[str, Any]) -> tuple[Ints, Ints]:
    """Return the minute at which rows usually read, and in how many quarter hours they were seen reading."""
    table, prior = state.table, newsletter_minutes(state, rows, slot)
    last = state.issued.of(slot["newsletter_id"], rows, len(table)).minute()
    readers = Readers(
        keys=[table.ids[row] for row in rows.tolist()],
        zone=zone,
        moved_ms=table.column("moved_ms")[rows],
        old_zone=table.column("old_zone")[rows],
        day=local_nominal(table.zones.names, zone, slot["slot_at"]) // DAY_MIN,
        prior=prior,
        last=np.where(last == NEVER, prior, last),
    )
    return usual_minutes(state.histories, table.zones.names, readers)


def _catch_up(state: NewsletterState, rows: Rows, slot: Mapping[str, Any], schedule: Schedule, nominal: Ints) -> None:
    """Fill in the slots of rows that are due by what was in force before a change, because the change passed over the period."""
    moved, slot_ms = state.table.column("moved_ms")[rows], to_ms(slot["slot_at"])
    places = np.flatnonzero((moved > slot_ms - MOVE_MS).any(axis=1) & (nominal == NOT_DUE))
    if not len(places):
        return
    part, zones = rows[places], state.table.zones.names
    timings = [timing(state, part, slot, change) for change in (None, *range(MOVES_KEPT))]
    for change in range(MOVES_KEPT):
        before = due(zones, *timings[change + 1], schedule, slot["slot_at"])
        before[moved[places, change] <= slot_ms - MOVE_MS] = NOT_DUE
        periods = schedule.period(before)
        for place in np.flatnonzero((before != NOT_DUE) & (nominal[places] == NOT_DUE)).tolist():
            since = [datetime.fromtimestamp(at_ms / 1000, UTC) for at_ms in moved[places[place], : change + 1].tolist()]
            later = [[int(column[place]) for column in item] for item in timings[: change + 1]]
            past = [
                _passed(schedule, zones[zone], int(periods[place]), minute, days, at)
                for (zone, minute, days), at in zip(later, since, strict=True)
            ]
            if past[0] and False not in past:
                nominal[places[place]] = before[place]


def _passed(schedule: Schedule, zone: str, period: int, minute: int, days: int, at: datetime) -> bool | None:
    """Return whether the slot of a period was past at an instant; None when it has none."""
    slot = schedule.slot_in(period, minute, days)
    return None if slot is None else due_at(zone, slot) <= at


def overtaken(state: NewsletterState, rows: Rows, slot: Mapping[str, Any], groups: Due, now: datetime) -> Bools:
    """Return for which rows that are due the issue after this one is due by now as well, so that this one is not sent any more.

    When the slots of days are made up for at once, each subscriber gets one issue, the last, and not one for each slot.
    """
    found = np.zeros(len(rows), dtype=np.bool_)
    if slot["forced"] or now - slot["slot_at"] < timedelta(minutes=SLOT_MIN):
        return found
    schedule, zones = Schedule.of(slot["rules"]), state.table.zones.names
    places = np.flatnonzero(groups.group != NOT_DUE)
    nominal = np.array([read_nominal(name) for name in groups.groups], dtype=np.int64)[groups.group[places]]
    lines = np.stack([nominal, *timing(state, rows[places], slot)], axis=1)
    kinds, kind = np.unique(lines, axis=0, return_inverse=True)
    late = [_next_is_due(schedule, zones[zone], at, minute, days, now) for at, zone, minute, days in kinds.tolist()]
    found[places] = np.array(late, dtype=np.bool_)[kind.reshape(-1)]
    return found


def _next_is_due(schedule: Schedule, zone: str, nominal: int, minute: int, days: int, now: datetime) -> bool:
    period = schedule.period(nominal)
    for ahead in range(1, LOOK_AHEAD + 1):
        slot = schedule.slot_in(period + ahead, minute, days)
        if slot is not None and not schedule.is_skipped(slot):
            return due_at(zone, slot) <= now
    return False


def newsletter_not_after(slot_at: datetime, late_h: int) -> datetime:
    """Return when an issue stops being worth sending."""
    return slot_at + timedelta(hours=late_h)
