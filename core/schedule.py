"""When a newsletter is due: pure functions of its definition, a UTC minute and the pinned time-zone data.

Slots lie on quarter hours of UTC; every offset in use is a multiple of a quarter hour, so every local quarter hour is one.
Daylight saving: a local time that does not exist is due at the first slot after the gap, and one that comes twice is due the
first time only.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from core.zones import SLOT_MIN, zone, zone_names

IntArray: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LocalSlot:
    """A nominal local slot: a local day and the minute of it."""

    day: date
    minute: int

    def __str__(self) -> str:
        """Return the issue_group, such as 2026-11-22T09:00."""
        return f"{self.day.isoformat()}T{self.minute // 60:02d}:{self.minute % 60:02d}"


def is_slot(minute: datetime) -> bool:
    """Return whether an aware instant lies on a quarter hour of UTC."""
    at = minute.astimezone(UTC)
    return at.minute % SLOT_MIN == 0 and at.second == 0 and at.microsecond == 0


@lru_cache(maxsize=4096)
def local_slots(zone_name: str, slot_at: datetime) -> tuple[LocalSlot, ...]:
    """Return the nominal local slots that are due in a zone at a UTC slot.

    Usually one. None when this local time already was (clocks went back); several when clocks went forward since the slot
    before: those that do not exist, and the one that does.
    """
    zone_info = zone(zone_name)
    local = slot_at.astimezone(zone_info)
    before = (slot_at - timedelta(minutes=SLOT_MIN)).astimezone(zone_info)
    now_offset, before_offset = local.utcoffset(), before.utcoffset()
    assert now_offset is not None
    assert before_offset is not None
    utc = slot_at.astimezone(UTC).replace(tzinfo=None)
    slots = []
    missing = utc + before_offset
    while missing < utc + now_offset:
        slots.append(_nominal(missing))
        missing += timedelta(minutes=SLOT_MIN)
    if not local.fold:
        slots.append(_nominal(local.replace(tzinfo=None)))
    return tuple(slots)


def _nominal(local: datetime) -> LocalSlot:
    return LocalSlot(local.date(), local.hour * 60 + local.minute)


@lru_cache(maxsize=64)
def _weekdays_somewhere(slot_at: datetime) -> frozenset[int]:
    return frozenset(slot.day.isoweekday() for name in zone_names() for slot in local_slots(name, slot_at))


def falls_somewhere(days: Collection[int], minute: datetime) -> bool:
    """Return whether a newsletter's schedule falls in this UTC minute somewhere on earth.

    days are its ISO weekdays. Every quarter hour of such a day counts, because a subscriber may choose a local minute of their
    own; which subscribers are due is decided from the slot.
    """
    return is_slot(minute) and not _weekdays_somewhere(minute).isdisjoint(days)


def due(
    zones: Sequence[str],
    zone_index: npt.NDArray[np.integer],
    own_minute: npt.NDArray[np.integer],
    *,
    days: Collection[int],
    local_minute: int,
    slot_at: datetime,
) -> tuple[IntArray, list[str]]:
    """Return which subscribers are due at a slot, by row, and the issue groups.

    zone_index and own_minute have one entry a row; own_minute is -1 where the newsletter's local_minute counts. The first result
    is an index into the second, or -1 for a row that is not due. When clocks go forward over several of a row's slots, which
    needs a jump of a day, the last counts.
    """
    wanted = np.where(own_minute < 0, local_minute, own_minute)
    groups: list[str] = []
    result = np.full(len(wanted), -1, dtype=np.int64)
    for index in np.unique(zone_index):
        here = zone_index == index
        for slot in local_slots(zones[int(index)], slot_at):
            if slot.day.isoweekday() not in days:
                continue
            rows = here & (wanted == slot.minute)
            if rows.any():
                name = str(slot)
                if name not in groups:
                    groups.append(name)
                result[rows] = groups.index(name)
    return result, groups


def local_minute_of_day(zones: Sequence[str], zone_index: npt.NDArray[np.integer], instant: datetime) -> npt.NDArray[np.int16]:
    """Return the minute of the local day, 0 to 1439, of each row at an instant."""
    minutes = np.zeros(max(len(zones), 1), dtype=np.int16)
    for index in np.unique(zone_index):
        local = instant.astimezone(zone(zones[int(index)]))
        minutes[int(index)] = local.hour * 60 + local.minute
    return np.asarray(minutes[zone_index])
