"""When somebody usually reads: the quarter hour of the local day at which their issues come, learned from what they engaged with.

A pure function of a subscriber's history (core/histories.py), zone and last issue, so that it depends on nobody's order of
arrival and can be worked out again. A histogram of local quarter hours with decay, smoothed around the clock; the newsletter's
own hour is the prior. What weighs nothing in the history (privacy proxies, link scanners) is no evidence here, and a quarter hour
counts once, however many clicks it saw.

It is constant within a local week, because only what happened well before the week counts: it moves on a Monday, between two
issues, and not with each opening. And it stays where the last issue came until another hour is clearly better.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from core.cadence import DAY_MIN
from core.histories import Histories
from core.schedule import Ints
from core.zones import SLOT_MIN, zone

MIN_SEEN: Final = 8
"""Quarter hours in which somebody must have read before the hour is theirs: two weeks of every other day."""

PRIOR: Final = 2.0
"""What the newsletter's own hour weighs, in quarter hours of last week."""

MARGIN: Final = 1.25
"""How much better another hour must be than that of the last issue."""

HALF_LIFE_W: Final = 4
"""Half-life of an observation, in weeks: habits change with seasons, not with days."""

KEPT_W: Final = 16
"""Weeks after which an observation counts no more: it would weigh 1/16."""

REACH: Final = 4
"""Quarter hours at which smoothing, a triangle, ends: reading at 07:45 speaks for 07:30 almost as much."""

SETTLED_MS: Final = 24 * 3_600_000
"""How long before Monday 00:00 UTC evidence ends: before that Monday begins anywhere, and with time to arrive."""

BATCH: Final = 1_024
"""Subscribers worked out at once: their histories have 400 entries of 32 bytes each at most."""

_QUARTER_MS: Final = SLOT_MIN * 60_000
_QUARTERS: Final = DAY_MIN // SLOT_MIN
_WEEK_QUARTERS: Final = 7 * _QUARTERS
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Readers:
    """Of whom the hour is asked; arrays have one entry a reader."""

    keys: Sequence[bytes]
    zone: Ints
    """Index of the zone."""
    moved_ms: npt.NDArray[np.int64]
    old_zone: npt.NDArray[np.integer]
    """(readers, changes): until when they had another zone, the last first."""
    day: Ints
    """The local day, since 1970, for which it is asked."""
    prior: Ints
    """The newsletter's minute."""
    last: Ints
    """The minute of the last issue; the newsletter's when there was none."""

    def part(self, start: int, end: int) -> "Readers":
        """Return some of them."""
        some = slice(start, end)
        changes = self.moved_ms[some], self.old_zone[some]
        return Readers(self.keys[some], self.zone[some], *changes, self.day[some], self.prior[some], self.last[some])


def usual_minutes(histories: Histories, zones: Sequence[str], readers: Readers) -> tuple[Ints, Ints]:
    """Return the minute of the local day for each reader, and in how many quarter hours they were seen reading."""
    minutes, seen = readers.prior.copy(), np.zeros(len(readers.keys), dtype=np.int64)
    for start in range(0, len(readers.keys), BATCH):
        end = start + BATCH
        minutes[start:end], seen[start:end] = _of_batch(histories, zones, readers.part(start, end))
    return minutes, seen


def _of_batch(histories: Histories, zones: Sequence[str], readers: Readers) -> tuple[Ints, Ints]:
    count = len(readers.keys)
    cutoff = (_monday(readers.day) * DAY_MIN * 60_000 - SETTLED_MS) // _QUARTER_MS
    owner, entries = histories.of_all(readers.keys)
    quarter = entries["at_ms"] // _QUARTER_MS
    kept = (quarter < cutoff[owner]) & (quarter >= cutoff[owner] - KEPT_W * _WEEK_QUARTERS) & (quarter >= 0)
    once = np.sort(owner[kept] << 32 | quarter[kept])
    once = once[np.diff(once, prepend=-1) > 0]
    owner, quarter = once >> 32, once & 0xFFFFFFFF
    local = (quarter + _offsets(tuple(zones), _zones_then(readers, owner, quarter), quarter)) % _QUARTERS
    weight = 0.5 ** ((cutoff[owner] - 1 - quarter) // _WEEK_QUARTERS / HALF_LIFE_W)
    flat = np.bincount(owner * _QUARTERS + local, weight, minlength=count * _QUARTERS).astype(np.float64)
    cells = flat.reshape(count, _QUARTERS)
    everyone = np.arange(count)
    np.add.at(cells, (everyone, readers.prior // SLOT_MIN), PRIOR)
    score = np.zeros((count, _QUARTERS))
    for shift in range(1 - REACH, REACH):
        score += (1 - abs(shift) / REACH) * np.roll(cells, shift, axis=1)
    score = np.round(score, 6)
    best = score.argmax(axis=1)
    seen = np.bincount(owner, minlength=count)
    clear = score[everyone, best] > MARGIN * score[everyone, readers.last // SLOT_MIN]
    minutes = np.where(clear, best * SLOT_MIN, readers.last)
    return np.where(seen < MIN_SEEN, readers.prior, minutes), seen


def _monday(day: Ints) -> Ints:
    """Return the Monday of the week of each day since 1970, which began on a Thursday."""
    return day - (day + 3) % 7


def _zones_then(readers: Readers, owner: Ints, quarter: Ints) -> Ints:
    """Return the index of the zone that each observation's reader was in at the time, as far as it is known."""
    found: Ints = readers.zone[owner]
    for change in range(readers.moved_ms.shape[1]):
        before = quarter * _QUARTER_MS < readers.moved_ms[owner, change]
        found = np.where(before, readers.old_zone[owner, change], found)
    return found


def _offsets(zones: tuple[str, ...], zone_index: Ints, quarter: Ints) -> Ints:
    """Return the UTC offset of each observation in quarter hours: that of noon UTC, for a day whose clocks change."""
    if not len(quarter):
        return quarter
    day = quarter // _QUARTERS
    first = int(day.min())
    table = np.array([_offsets_of_day(zones, number) for number in range(first, int(day.max()) + 1)], dtype=np.int64)
    return np.asarray(table[day - first, zone_index])


@lru_cache(maxsize=1_024)
def _offsets_of_day(zones: tuple[str, ...], day: int) -> tuple[int, ...]:
    noon = _EPOCH + timedelta(days=day, hours=12)
    offsets = [noon.astimezone(zone(name)).utcoffset() or timedelta() for name in zones]
    return tuple(int(offset.total_seconds()) // (SLOT_MIN * 60) for offset in offsets)
