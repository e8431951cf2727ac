"""Tests of the pure schedule: when a newsletter is due, everywhere."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from core.schedule import due, falls_somewhere, is_slot, local_slots
from core.zones import zone, zone_names


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def slots(name: str, text: str) -> list[str]:
    return [str(item) for item in local_slots(name, at(text))]


def test_every_zone_has_offsets_on_quarter_hours():
    """A slot on a quarter hour of UTC is a quarter hour everywhere, in both halves of the year."""
    for text in ("2026-01-15T09:00", "2026-07-15T09:00"):
        for name in zone_names():
            assert all(item.minute % 15 == 0 for item in local_slots(name, at(text))), name


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
    found = [str(item) for step in range(days * 96) for item in local_slots(name, start + timedelta(minutes=15 * step))]
    assert len(found) == len(set(found))
    first = datetime.fromisoformat(found[0])
    assert found == [(first + timedelta(minutes=15 * step)).strftime("%Y-%m-%dT%H:%M") for step in range(len(found))]


def test_slots_lie_on_quarter_hours():
    """Minutes between quarter hours are no slots of any newsletter."""
    assert is_slot(at("2026-11-22T09:15"))
    assert not is_slot(at("2026-11-22T09:01"))
    assert not falls_somewhere({1, 2, 3, 4, 5, 6, 7}, at("2026-11-22T09:01"))


def test_schedule_falls_where_a_chosen_weekday_is_somewhere():
    """A Monday newsletter has slots from the first Monday hour in Kiritimati to the last one in the far west."""
    assert not falls_somewhere({1}, at("2026-11-22T09:45"))
    assert falls_somewhere({1}, at("2026-11-22T10:00"))
    assert falls_somewhere({1}, at("2026-11-24T11:45"))
    assert not falls_somewhere({1}, at("2026-11-24T12:00"))


def test_own_minute_and_weekday_decide_who_is_due():
    """Rows are due at the newsletter's minute or their own, on its days in their zone."""
    zones = ["UTC", "Asia/Tokyo"]
    group, groups = due(
        zones,
        np.array([0, 0, 1, 1]),
        np.array([-1, 600, -1, 18 * 60]),
        days=[7],
        local_minute=540,
        slot_at=at("2026-11-22T09:00"),
    )
    assert group.tolist() == [0, -1, -1, 1]
    assert groups == ["2026-11-22T09:00", "2026-11-22T18:00"]
    assert due(zones, np.array([0]), np.array([-1]), days=[1], local_minute=540, slot_at=at("2026-11-22T09:00"))[0].tolist() == [
        -1
    ]


def test_unknown_zone_is_a_key_error():
    """Only zones of the pinned data exist."""
    with pytest.raises(KeyError):
        zone("Mars/Olympus")
