"""The calendar of a newsletter: which nominal local slots are on it. Without time zones: `core/schedule.py` has those.

A nominal local slot is a local day and a quarter hour of it, as the subscriber's wall clock shows it; it is counted in minutes
since 1970-01-01T00:00 of that clock. Cadences: `weekdays` (those of days), `monthly` (on month_day, in a shorter month on its
last day) and `hours` (every every_hours hours of the wall clock, counted from local_minute of 1970-01-01, on days).

A subscriber's own minute replaces the newsletter's. Their own weekdays narrow those of the newsletter; a monthly issue comes on
its day whatever their weekdays, because there is only one.

A period is what a subscriber gets one issue of: the local day, month, or span of every_hours. Each has at most one slot of any
subscriber's, so that a minute, a zone or days that change between two slots cannot bring a second issue of the same period.

Whole arithmetic alone, so that the same functions serve one slot and an array of them, and who only checks a definition need not
load numpy.
"""

import re
from calendar import monthrange
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

DAY_MIN: Final = 1_440
WEEK_H: Final = 168
EVERY_DAY: Final = 0b1111111
"""Bits of the ISO weekdays, Monday the lowest."""

EPOCH: Final = date(1970, 1, 1)
_EPOCH_WEEKDAY: Final = 3
"""1970-01-01 was a Thursday: so many days after a Monday."""

_GROUP: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}")
_NAMES: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def day_bits(days: Collection[int]) -> int:
    """Return ISO weekdays as bits; none given means every day."""
    return sum({1 << (day - 1) for day in days}) or EVERY_DAY


def days_text(bits: int) -> str:
    """Return weekdays in words, such as Mon Wed."""
    return "daily" if bits == EVERY_DAY else " ".join(name for place, name in enumerate(_NAMES) if bits >> place & 1)


def minute_text(minute: int) -> str:
    """Return a minute of the day, such as 09:00."""
    return f"{minute // 60:02d}:{minute % 60:02d}"


def nominal_of(day: date, minute: int) -> int:
    """Return a local day and minute as a nominal slot."""
    return (day - EPOCH).days * DAY_MIN + minute


def nominal_day(nominal: int) -> date:
    """Return the local day of a nominal slot."""
    return EPOCH + timedelta(days=nominal // DAY_MIN)


def nominal_text(nominal: int) -> str:
    """Return the issue_group of a nominal slot, such as 2026-11-22T09:00."""
    return f"{nominal_day(nominal).isoformat()}T{minute_text(nominal % DAY_MIN)}"


def read_nominal(issue_group: str) -> int | None:
    """Return the nominal slot of an issue_group, None for one of another form: that of a forced slot is a UTC minute."""
    if not _GROUP.fullmatch(issue_group):
        return None
    day, _, minute = issue_group.partition("T")
    return nominal_of(date.fromisoformat(day), int(minute[:2]) * 60 + int(minute[3:]))


def _month_and_day(day: Any) -> tuple[Any, Any]:
    """Return the month since 1970 and the day of it, from 1, of a day since 1970.

    After Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days: years begin in March, in eras of 400.
    """
    since = day + 719_468
    era, of_era = since // 146_097, since % 146_097
    year = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    return (year + era * 400 - 1970) * 12 + month + 2, of_year - (153 * month + 2) // 5 + 1


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a newsletter comes."""

    cadence: str
    days: int
    """ISO weekdays as bits."""
    local_minute: int
    month_day: int
    every_min: int
    skipped: frozenset[int]
    """Local days since 1970 on which there is no issue."""

    @classmethod
    def of(cls, rules: Mapping[str, Any]) -> "Schedule":
        """Return the schedule of a NewsletterDefined, or of the rules of a SlotDue."""
        return cls(
            rules["cadence"],
            day_bits(rules["days"]),
            rules["local_minute"],
            rules["month_day"],
            rules["every_hours"] * 60,
            frozenset((date.fromisoformat(text) - EPOCH).days for text in rules["skip_dates"]),
        )

    def weekdays_of(self, nominal: Any) -> Any:
        """Return whether the day of a slot is on the calendar: 0, or the bits one of which a subscriber's days must have."""
        day = nominal // DAY_MIN
        if self.cadence == "monthly":
            number, following = _month_and_day(day)[1], _month_and_day(day + 1)[1]
            return EVERY_DAY * ((number == self.month_day) | ((number < self.month_day) & (following == 1)))
        return (1 << (day + _EPOCH_WEEKDAY) % 7) & self.days

    def at_minute(self, nominal: Any, minute: Any) -> Any:
        """Return whether the time of a slot is that of a subscriber whose local minute is `minute`."""
        if self.cadence == "hours":
            return (nominal - minute) % self.every_min == 0
        return nominal % DAY_MIN == minute

    def may_fall(self, nominal: int) -> bool:
        """Return whether a slot is that of a subscriber with some local minute of their own."""
        fits = bool(self.weekdays_of(nominal))
        return fits and nominal % self.every_min < DAY_MIN if self.cadence == "hours" else fits

    def is_skipped(self, nominal: int) -> bool:
        """Return whether there is no issue on the local day of a slot."""
        return nominal // DAY_MIN in self.skipped

    def period(self, nominal: Any) -> Any:
        """Return the period of a slot; periods are counted from 1970."""
        if self.cadence == "hours":
            return nominal // self.every_min
        return _month_and_day(nominal // DAY_MIN)[0] if self.cadence == "monthly" else nominal // DAY_MIN

    def slot_in(self, period: int, minute: int, days: int) -> int | None:
        """Return the slot that a period has for somebody with this local minute and these days, None when it has none."""
        if self.cadence == "monthly":
            year, month = 1970 + period // 12, period % 12 + 1
            return nominal_of(date(year, month, min(self.month_day, monthrange(year, month)[1])), minute)
        start = period * (self.every_min if self.cadence == "hours" else DAY_MIN)
        slot = start + (minute - start) % self.every_min if self.cadence == "hours" else start + minute
        return slot if self.weekdays_of(slot) & days else None

    @property
    def has_an_hour(self) -> bool:
        """Whether issues come at one hour of the day, so that it can be the one at which somebody usually reads."""
        return self.cadence != "hours" or self.every_min % DAY_MIN == 0

    def comes_on(self, day: int) -> bool:
        """Return whether there is an issue on a local day since 1970, for who has no minute and no days of their own."""
        start = day * DAY_MIN
        step = self.every_min if self.cadence == "hours" else DAY_MIN
        slot = start + (self.local_minute - start) % step
        return day not in self.skipped and slot < start + DAY_MIN and bool(self.weekdays_of(slot))

    def in_words(self) -> str:
        """Return the cadence in words, such as Mon Wed at 09:00."""
        at = minute_text(self.local_minute)
        if self.cadence == "monthly":
            return f"monthly on day {self.month_day}{' or the last' if self.month_day > 28 else ''} at {at}"
        if self.cadence == "hours":
            where = "" if self.days == EVERY_DAY else f" on {days_text(self.days)}"
            hours = "hour" if self.every_min == 60 else f"{self.every_min // 60} hours"
            return f"every {hours}, counted from {at}{where}"
        return f"{days_text(self.days)} at {at}"
