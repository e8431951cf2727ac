"""A slow, obvious schedule: somebody watches the wall clock of each zone, one quarter hour after the other.

Shares nothing with `core/schedule.py` and `core/cadence.py` but the time-zone data: times are naive datetimes, and calendars are
written down by walking them.
"""

import calendar
import importlib.resources
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

QUARTER = timedelta(minutes=15)
EPOCH = datetime.fromisoformat("1970-01-01")


@dataclass(frozen=True)
class Profile:
    """A newsletter's rules, and what a subscriber chose."""

    rules: dict[str, Any] = field(hash=False)
    minute: int
    days: frozenset[int] = frozenset(range(1, 8))

    def wants(self, clock: datetime) -> bool:
        """Whether a wall clock that shows this is one of their slots."""
        rules = self.rules
        if rules["cadence"] == "hours":
            start = EPOCH + timedelta(minutes=self.minute)
            fits = (clock - start) % timedelta(hours=rules["every_hours"]) == timedelta(0)
            return fits and clock.isoweekday() in rules["days"] and clock.isoweekday() in self.days
        if clock.hour * 60 + clock.minute != self.minute:
            return False
        if rules["cadence"] == "monthly":
            return clock.day == min(rules["month_day"], calendar.monthrange(clock.year, clock.month)[1])
        return clock.isoweekday() in rules["days"] and clock.isoweekday() in self.days

    def slots(self, start: datetime, end: datetime) -> set[datetime]:
        """All of their slots between two naive times."""
        return {clock for clock in quarters(start, end) if self.wants(clock)}


def quarters(start: datetime, end: datetime) -> Iterator[datetime]:
    """Every quarter hour from start up to end."""
    while start < end:
        yield start
        start += QUARTER


def read_zone(name: str) -> ZoneInfo:
    """A zone of the pinned data."""
    with (importlib.resources.files("tzdata") / "zoneinfo").joinpath(*name.split("/")).open("rb") as data:
        return ZoneInfo.from_file(data, key=name)


def distinct_zones(names: list[str]) -> list[str]:
    """One name of each that have the same data, to the byte."""
    found: dict[bytes, str] = {}
    for name in sorted(names):
        found.setdefault((importlib.resources.files("tzdata") / "zoneinfo").joinpath(*name.split("/")).read_bytes(), name)
    return sorted(found.values())


class Watcher:
    """Watches one wall clock and says which of its quarter hours are new: each one once, in order, none left out."""

    def __init__(self, name: str, start: datetime) -> None:
        self._zone = read_zone(name)
        self._seen_until = self._clock(start - QUARTER)
        for back in range(1, 97 * 2):  # what an earlier reading showed already, when clocks went back since
            self._seen_until = max(self._seen_until, self._clock(start - back * QUARTER))

    def _clock(self, at: datetime) -> datetime:
        return at.replace(tzinfo=UTC).astimezone(self._zone).replace(tzinfo=None)

    def new(self, at: datetime) -> tuple[datetime, ...]:
        """The quarter hours that the clock reached since it was last looked at; at is a naive UTC time."""
        clock = self._clock(at)
        found = []
        while self._seen_until < clock:
            self._seen_until += QUARTER
            found.append(self._seen_until)
        return tuple(found)
