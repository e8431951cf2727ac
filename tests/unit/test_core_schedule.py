"""Tests of the pure schedule: when a newsletter is due, everywhere."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from core.cadence import EVERY_DAY, Schedule, day_bits, nominal_text
from core.schedule import due, falls_somewhere, is_slot, local_slots
from core.zones import RETIRED, zone, zone_names
from tests.unit.deciding_samples import RULES


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def slots(name: str, text: str) -> list[str]:
    return [nominal_text(item) for item in local_slots(name, at(text))]


def schedule(**rules) -> Schedule:
    return Schedule.of(RULES | rules)


def test_every_zone_has_offsets_on_quarter_hours():
    """A slot on a quarter hour of UTC is a quarter hour everywhere, in both halves of the year."""
    for text in ("2026-01-15T09:00", "2026-07-15T09:00"):
        for name in zone_names():
            assert all(item % 15 == 0 for item in local_slots(name, at(text))), name


@pytest.mark.parametrize(
    ("name", "utc", "nominal"),
    [
        ("UTC", "2026-11-22T09:00", ["2026-11-22T09:00"]),
        ("Asia/Kathmandu", "2026-11-22T03:15", ["2026-11-22T09:00"]),
        ("Pacific/Kiritimati", "2026-11-21T19:00", ["2026-11-22T09:00"]),
        ("America/New_York", "2026-11-22T14:00", ["2026-11-22T09:00"]),
    ],
)
def test_nominal_local_slot_of_a_zone(name, utc, nominal):
    """An ordinary slot has one nominal local time."""
    assert slots(name, utc) == nominal


def test_a_local_time_that_does_not_exist_is_due_after_the_gap():
    """In Berlin 02:00 to 02:45 do not exist on 29 March 2026: they are due together with 03:00."""
    missing = [f"2026-03-29T02:{minute:02d}" for minute in (0, 15, 30, 45)]
    assert slots("Europe/Berlin", "2026-03-29T01:00") == [*missing, "2026-03-29T03:00"]
    assert slots("Europe/Berlin", "2026-03-29T01:15") == ["2026-03-29T03:15"]


def test_a_local_time_that_comes_twice_is_due_the_first_time_only():
    """In Berlin 02:30 comes twice on 25 October 2026."""
    assert slots("Europe/Berlin", "2026-10-25T00:30") == ["2026-10-25T02:30"]
    assert slots("Europe/Berlin", "2026-10-25T01:30") == []


@pytest.mark.parametrize("name", ["Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Tehran", "America/Sao_Paulo"])
def test_every_local_quarter_hour_of_a_year_is_due_exactly_once(name):
    """No nominal slot is left out or comes twice, over both changes of the clocks."""
    start, days = at("2026-01-01T00:00"), 366
    found = [nominal_text(item) for step in range(days * 96) for item in local_slots(name, start + timedelta(minutes=15 * step))]
    assert len(found) == len(set(found))
    first = datetime.fromisoformat(found[0])
    assert found == [(first + timedelta(minutes=15 * step)).strftime("%Y-%m-%dT%H:%M") for step in range(len(found))]


def test_slots_lie_on_quarter_hours():
    """Minutes between quarter hours are no slots of any newsletter."""
    assert is_slot(at("2026-11-22T09:15"))
    assert not is_slot(at("2026-11-22T09:01"))
    assert not falls_somewhere(schedule(), at("2026-11-22T09:01"))


def test_schedule_falls_where_a_chosen_weekday_is_somewhere():
    """A Monday newsletter has slots from the first Monday hour in Kiritimati to the last one in the far west."""
    assert not falls_somewhere(schedule(days=[1]), at("2026-11-22T09:45"))
    assert falls_somewhere(schedule(days=[1]), at("2026-11-22T10:00"))
    assert falls_somewhere(schedule(days=[1]), at("2026-11-24T11:45"))
    assert not falls_somewhere(schedule(days=[1]), at("2026-11-24T12:00"))


def test_schedule_falls_where_a_day_of_the_month_is_somewhere():
    """A monthly one has slots for the some 50 hours of its day, in November the 30th for the 31st."""
    monthly = schedule(cadence="monthly", month_day=31)
    assert not falls_somewhere(monthly, at("2026-11-29T09:45"))
    assert falls_somewhere(monthly, at("2026-11-29T10:00"))
    assert falls_somewhere(monthly, at("2026-12-01T11:45"))
    assert not falls_somewhere(monthly, at("2026-12-01T12:00"))


def test_schedule_of_hours_falls_where_somebodys_minute_does():
    """Every five hours that is always; every 31 days, on the days that are somebody's first of a period."""
    assert falls_somewhere(schedule(cadence="hours", every_hours=5), at("2026-11-22T09:15"))
    falls = [falls_somewhere(schedule(cadence="hours", every_hours=744), at(f"2026-11-{day:02d}T12:00")) for day in range(1, 31)]
    assert 1 <= sum(falls) <= 3


def test_a_schedule_may_fall_on_everybodys_minute():
    """Every 36 hours: each quarter hour of the first day of a period is somebody's, the half day after it nobody's."""
    two = schedule(cadence="hours", every_hours=36)
    start = two.every_min * 10
    assert [two.may_fall(start + minute) for minute in range(0, two.every_min, 15)] == [True] * 96 + [False] * 48


def test_own_minute_and_weekday_decide_who_is_due():
    """Rows are due at the newsletter's minute or their own, on its days in their zone, when they are theirs."""
    zones, who = ["UTC", "Asia/Tokyo"], np.array([0, 0, 1, 1, 0])
    minute, days = np.array([540, 600, 540, 18 * 60, 540]), np.array([EVERY_DAY] * 4 + [day_bits([1, 2])])
    found = due(zones, who, minute, days, schedule(days=[7]), at("2026-11-22T09:00"))
    assert [nominal_text(slot) if slot >= 0 else "" for slot in found.tolist()] == [
        "2026-11-22T09:00",
        "",
        "",
        "2026-11-22T18:00",
        "",
    ]
    assert due(zones, who[:1], minute[:1], days[:1], schedule(days=[1]), at("2026-11-22T09:00")).tolist() == [-1]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, "daily at 09:00"),
        ({"days": [1, 3]}, "Mon Wed at 09:00"),
        ({"cadence": "monthly", "month_day": 31, "local_minute": 0}, "monthly on day 31 or the last at 00:00"),
        ({"cadence": "monthly", "month_day": 1}, "monthly on day 1 at 09:00"),
        ({"cadence": "hours", "every_hours": 6}, "every 6 hours, counted from 09:00"),
        ({"cadence": "hours", "every_hours": 1, "local_minute": 45}, "every hour, counted from 00:45"),
        ({"cadence": "hours", "every_hours": 4, "days": [6]}, "every 4 hours, counted from 09:00 on Sat"),
    ],
)
def test_a_cadence_in_words(rules, expected):
    """As `newswire newsletter list` shows it."""
    assert schedule(**rules).in_words() == expected


def test_a_zone_that_is_not_known_counts_as_utc():
    """Data that is newer may have dropped a name that a state still holds; a name it dropped long ago means what it meant."""
    assert zone("Mars/Olympus").key == "UTC"
    assert zone("US/Pacific-New").key == "America/Los_Angeles"
    assert not RETIRED.keys() & (zone_names() - RETIRED.keys())
    assert slots("Asia/Calcutta", "2026-11-22T03:30") == slots("Asia/Kolkata", "2026-11-22T03:30") == ["2026-11-22T09:00"]
