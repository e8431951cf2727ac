"""When a newsletter is due: pure functions of its calendar, a UTC minute and the pinned time-zone data.

Slots lie on quarter hours of UTC; every offset in use is a multiple of a quarter hour, so every local quarter hour is one.
Daylight saving: a local time that does not exist is due at the first slot after the gap, and one that comes twice is due the
first time only. So every nominal local slot of a zone is due exactly once, in their order.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from core.cadence import DAY_MIN, EPOCH, Schedule, nominal_of
from core.zones import SLOT_MIN, zone, zone_names

Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

SLOT: Final = timedelta(minutes=SLOT_MIN)

NOT_DUE: Final = -1


def is_slot(minute: datetime) -> bool:
    """Return whether an aware instant lies on a quarter hour of UTC."""
    at = minute.astimezone(UTC)
    return at.minute % SLOT_MIN == 0 and at.second == 0 and at.microsecond == 0


def slot_before(minute: datetime) -> datetime:
    """Return the slot at or before an instant."""
    at = minute.astimezone(UTC)
    return at.replace(minute=at.minute - at.minute % SLOT_MIN, second=0, microsecond=0)


@lru_cache(maxsize=4096)
def local_slots(zone_name: str, slot_at: datetime) -> tuple[int, ...]:
    """Return the nominal local slots that are due in a zone at a UTC slot, in their order; see core.cadence.

    Usually one. None when this local time already was (clocks went back); several when clocks went forward since the slot
    before: those that do not exist, and the one that does.
    """
    zone_info = zone(zone_name)
    local = slot_at.astimezone(zone_info)
    before = (slot_at - SLOT).astimezone(zone_info)
    now = _nominal(local)
    skipped = now - _nominal(before) - SLOT_MIN
    missing = range(now - skipped, now, SLOT_MIN)
    return tuple(missing) if local.fold else (*missing, now)


def _nominal(local: datetime) -> int:
    return nominal_of(local.date(), local.hour * 60 + local.minute)


@lru_cache(maxsize=65_536)
def due_at(zone_name: str, nominal: int) -> datetime:
    """Return the UTC slot at which a nominal local slot is due in a zone."""
    local = datetime.combine(EPOCH, datetime.min.time()) + timedelta(minutes=nominal)
    at = local.replace(tzinfo=zone(zone_name)).astimezone(UTC)
    while nominal not in local_slots(zone_name, at):  # it does not exist: it is due when the gap ends
        at -= SLOT
    return at


@lru_cache(maxsize=64)
def _slots_somewhere(slot_at: datetime) -> frozenset[int]:
    return frozenset(slot for name in zone_names() for slot in local_slots(name, slot_at))


def falls_somewhere(schedule: Schedule, minute: datetime) -> bool:
    """Return whether a newsletter's schedule falls in this UTC minute somewhere on earth, for somebody's local minute.

    Which subscribers are due is decided from the slot.
    """
    return is_slot(minute) and any(schedule.may_fall(slot) for slot in _slots_somewhere(minute))


def due(
    zones: Sequence[str],
    zone_index: npt.NDArray[np.integer],
    minute: Ints,
    days: npt.NDArray[np.integer],
    schedule: Schedule,
    slot_at: datetime,
) -> Ints:
    """Return the nominal local slot that is due for each row at a UTC slot, or NOT_DUE.

    zone_index, minute (of the local day) and days (ISO weekdays as bits) have one entry a row. When clocks go forward over
    several of a row's slots, the last counts, and there is one issue.
    """
    result = np.full(len(minute), NOT_DUE, dtype=np.int64)
    if not is_slot(slot_at):
        return result
    used = np.flatnonzero(np.bincount(zone_index, minlength=len(zones)))
    for layer in _layers(tuple(zones), tuple(used.tolist()), slot_at):
        weekdays: Ints = schedule.weekdays_of(layer)
        weekdays[layer < 0] = 0
        if weekdays.any():
            here = layer[zone_index]
            fits = schedule.at_minute(here, minute) & ((weekdays[zone_index] & days) != 0)
            result[fits] = here[fits]
    return result


@lru_cache(maxsize=64)
def _layers(zones: tuple[str, ...], used: tuple[int, ...], slot_at: datetime) -> list[Ints]:
    """Return arrays over the zones: in the last each one's last nominal slot, before it the ones that do not exist.

    Cached, because many newsletters, shards and chunks ask about the same slot.
    """
    found = [local_slots(zones[index], slot_at) for index in used]
    depth, layers = max((len(slots) for slots in found), default=0), []
    for back in range(depth, 0, -1):
        layer = np.full(len(zones), NOT_DUE, dtype=np.int64)
        layer[list(used)] = [slots[-back] if back <= len(slots) else NOT_DUE for slots in found]
        layers.append(layer)
    return layers


def local_nominal(zones: Sequence[str], zone_index: npt.NDArray[np.integer], instant: datetime) -> Ints:
    """Return what each row's wall clock shows at an instant, in minutes since 1970-01-01T00:00 of that clock."""
    clocks = np.zeros(max(len(zones), 1), dtype=np.int64)
    for index in np.flatnonzero(np.bincount(zone_index, minlength=1)).tolist():
        clocks[index] = _nominal(instant.astimezone(zone(zones[index])))
    return np.asarray(clocks[zone_index])


def local_minute_of_day(zones: Sequence[str], zone_index: npt.NDArray[np.integer], instant: datetime) -> npt.NDArray[np.int16]:
    """Return the minute of the local day, 0 to 1439, of each row at an instant."""
    return (local_nominal(zones, zone_index, instant) % DAY_MIN).astype(np.int16)


def next_slots(schedule: Schedule, zone_name: str, after: datetime) -> Iterator[tuple[datetime, int]]:
    """Yield the UTC slots from an instant on at which a newsletter has an issue in a zone, and the nominal one of each.

    For somebody without a local minute and days of their own. Ends only with the calendar.
    """
    at = slot_before(after)
    if at < after:
        at += SLOT
    day = _nominal(at.astimezone(zone(zone_name))) // DAY_MIN - 1
    step = schedule.every_min if schedule.cadence == "hours" else DAY_MIN
    found: tuple[datetime, int] | None = None
    while True:
        if schedule.comes_on(day):
            first = day * DAY_MIN + (schedule.local_minute - day * DAY_MIN) % step
            for nominal in range(first, (day + 1) * DAY_MIN, step):
                slot_at = due_at(zone_name, nominal)
                if found is not None and found[0] != slot_at:
                    yield found
                found = (slot_at, nominal) if slot_at >= at else None
        day += 1
