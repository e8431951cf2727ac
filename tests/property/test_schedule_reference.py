"""The schedule against a slow, obvious reference: every nominal slot exactly once, none missing, in every zone, for each cadence.

The time zones: every change of clocks in all zones and ten years. The whole, for each cadence: without --all-zones a sample, the
changes of hand-picked zones and some weeks of others; with it, every quarter hour of all zones and ten years, in half an hour.
"""

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest

from core.cadence import Schedule, day_bits, nominal_of
from core.schedule import due, due_at, falls_somewhere, local_slots, next_slots
from core.zones import RETIRED, zone_names
from tests.property.schedule_walk import QUARTER, Profile, Watcher, distinct_zones, quarters, read_zone
from tests.unit.deciding_samples import RULES

WEEKEND, MIDWEEK = frozenset({6, 7}), frozenset({2, 3, 4})
PROFILES = (
    Profile(RULES, 540),
    Profile(RULES, 150),  # 02:30, which does not exist, or comes twice, in much of the world
    Profile(RULES, 0),
    Profile(RULES, 1425, WEEKEND),
    Profile(RULES | {"days": [1, 3]}, 120, MIDWEEK),
    Profile(RULES | {"cadence": "monthly", "month_day": 31}, 135),
    Profile(RULES | {"cadence": "monthly", "month_day": 29}, 0, WEEKEND),
    Profile(RULES | {"cadence": "hours", "every_hours": 1}, 15),
    Profile(RULES | {"cadence": "hours", "every_hours": 5, "days": [1, 2, 3, 4, 5]}, 150),
    Profile(RULES | {"cadence": "hours", "every_hours": 36}, 120, MIDWEEK),
    Profile(RULES | {"cadence": "hours", "every_hours": 744}, 540),
)
TEN_YEARS = (datetime.fromisoformat("2024-01-01"), datetime.fromisoformat("2034-01-01"))
CHANGES = [
    ("Europe/Berlin", datetime.fromisoformat("2026-03-29")),
    ("Europe/Berlin", datetime.fromisoformat("2026-10-25")),
    ("America/New_York", datetime.fromisoformat("2027-03-14")),
    ("America/New_York", datetime.fromisoformat("2027-11-07")),
    ("America/St_Johns", datetime.fromisoformat("2026-03-08")),
    ("Australia/Lord_Howe", datetime.fromisoformat("2026-04-04")),  # half an hour
    ("Australia/Lord_Howe", datetime.fromisoformat("2026-10-03")),
    ("Antarctica/Troll", datetime.fromisoformat("2026-03-29")),  # two hours
    ("Antarctica/Troll", datetime.fromisoformat("2026-10-25")),
    ("Africa/Cairo", datetime.fromisoformat("2026-04-24")),  # at midnight
    ("Africa/Cairo", datetime.fromisoformat("2026-10-29")),
    ("America/Asuncion", datetime.fromisoformat("2024-10-06")),
    ("Asia/Beirut", datetime.fromisoformat("2027-03-28")),
    ("America/Scoresbysund", datetime.fromisoformat("2024-03-31")),  # offset and daylight saving at once
    ("Asia/Almaty", datetime.fromisoformat("2024-02-29")),  # an offset for good
    ("Africa/Casablanca", datetime.fromisoformat("2026-02-15")),  # back for Ramadan
    ("Africa/Casablanca", datetime.fromisoformat("2026-03-22")),
    ("Pacific/Apia", datetime.fromisoformat("2011-12-30")),  # a day that does not exist
    ("Pacific/Fakaofo", datetime.fromisoformat("2011-12-30")),
]
"""Days on or about which clocks change."""


def check(zones: list[str], start: datetime, end: datetime) -> int:
    """Compare every quarter hour of these zones between two naive UTC times; return how many slots were due."""
    watchers = [Watcher(name, start) for name in zones]
    plans = [
        (
            profile.slots(start - timedelta(days=3), end + timedelta(days=3)),
            Schedule.of(profile.rules),
            np.full(len(zones), profile.minute),
            np.full(len(zones), day_bits(profile.days)),
        )
        for profile in PROFILES
    ]
    index, found_so_far = np.arange(len(zones)), 0
    newest = np.full((len(plans), len(zones)), -1)
    while start < end:
        slot_at, clocks = start.replace(tzinfo=UTC), [watcher.new(start) for watcher in watchers]
        for number, (slots, schedule, minute, days) in enumerate(plans):
            wanted = {clock: [nominal(at) for at in clock if at in slots][-1:] for clock in set(clocks)}
            expected = np.array([wanted[clock][0] if wanted[clock] else -1 for clock in clocks])
            found = due(zones, index, minute, days, schedule, slot_at)
            assert (found == expected).all(), (slot_at, PROFILES[number], [zones[at] for at in np.flatnonzero(found != expected)])
            here = found >= 0
            if here.any():
                assert start.hour % 4 or falls_somewhere(schedule, slot_at), (slot_at, PROFILES[number])
                assert (found[here] > newest[number][here]).all(), "a nominal slot came twice"
                newest[number][here] = found[here]
                found_so_far += int(here.sum())
        start += QUARTER
    return found_so_far


def nominal(clock: datetime) -> int:
    return nominal_of(clock.date(), clock.hour * 60 + clock.minute)


@pytest.mark.parametrize(("zone", "day"), CHANGES)
def test_each_nominal_slot_once_when_clocks_change(zone, day):
    """From two days before to three days after, in the zone itself and in one that changes nothing."""
    assert check([zone, "UTC"], day - timedelta(days=2), day + timedelta(days=3)) > 250


def changes_of(name: str) -> tuple[tuple[datetime, timedelta], ...]:
    """When the clocks of a zone change in ten years, to the quarter hour, in naive UTC, and their offset from then on."""
    zone, (at, end), day = read_zone(name), TEN_YEARS, timedelta(days=1)

    def offset(when: datetime) -> timedelta:
        return when.replace(tzinfo=UTC).astimezone(zone).utcoffset() or timedelta()

    found = [(at, offset(at))]
    while at < end:
        if offset(at + day) != found[-1][1]:
            change = next(when for when in quarters(at, at + day + QUARTER) if offset(when) != found[-1][1])
            found.append((change, offset(change)))
        at += day
    return tuple(found)


def test_each_nominal_slot_once_at_every_change_of_clocks_in_all_zones_and_ten_years():
    """Five hours before and after each; in between, a zone's offset stays the same. Zones that change alike are one."""
    different = {changes_of(name): name for name in distinct_zones(sorted(zone_names() - RETIRED.keys()))}
    windows = {(at, before, after): name for changes, name in different.items() for (_, before), (at, after) in pairwise(changes)}
    assert len(different) > 60
    assert len(windows) > 300
    for (at, *_), name in windows.items():
        first, last = at - timedelta(hours=5), at + timedelta(hours=5)
        watcher = Watcher(name, first)
        for when in quarters(first, last):
            slot_at = when.replace(tzinfo=UTC)
            wanted = tuple(map(nominal, watcher.new(when)))
            assert local_slots(name, slot_at) == wanted, (name, slot_at)
            assert {due_at(name, slot) for slot in wanted} <= {slot_at}, (name, slot_at)


def test_each_nominal_slot_once_in_sampled_zones_and_weeks():
    """All zones are asked for one day each run of the test, and a third of them for a week; the sample is always the same."""
    chance = random.Random(5)
    zones = distinct_zones(sorted(zone_names() - RETIRED.keys()))
    first, last = TEN_YEARS
    for count, days in ((len(zones), 1), (len(zones) // 3, 5)):
        start = first + timedelta(days=chance.randrange((last - first).days - days))
        check(chance.sample(zones, count), start, start + timedelta(days=days))


def test_every_slot_is_due_when_its_instant_says():
    """due_at is the inverse of local_slots, in gaps as well."""
    for zone, day in CHANGES:
        for step in range(96 * 3):
            slot_at = (day - timedelta(days=1) + step * QUARTER).replace(tzinfo=UTC)
            for slot in local_slots(zone, slot_at):
                assert due_at(zone, slot) == slot_at, (zone, slot_at)


@pytest.mark.parametrize("profile", [profile for profile in PROFILES if len(profile.days) == 7])
def test_next_slots_are_those_that_become_due(profile):
    """What `newswire newsletter next` prints is what the deciders find."""
    rules = profile.rules | {"local_minute": profile.minute}
    schedule, start = Schedule.of(rules), datetime(2026, 3, 28, 10, 7, tzinfo=UTC)
    ahead = next_slots(schedule, "Europe/Berlin", start)
    first = [next(ahead) for _ in range(3)]
    minute, days = np.array([profile.minute]), np.array([day_bits(())])
    found, slot_at = [], datetime(2026, 3, 28, 10, 15, tzinfo=UTC)
    while len(found) < 3:
        slot = int(due(["Europe/Berlin"], np.array([0]), minute, days, schedule, slot_at)[0])
        found += [(slot_at, slot)] if slot >= 0 else []
        slot_at += QUARTER
    assert first == found


def test_each_nominal_slot_once_in_all_zones_and_ten_years(request):
    """The whole sweep, when it is asked for; a year at a time, so that it says where it is."""
    if not request.config.getoption("--all-zones"):
        pytest.skip("takes half an hour: --all-zones runs it")
    zones = distinct_zones(sorted(zone_names() - RETIRED.keys()))
    start, end = TEN_YEARS
    while start < end:
        following = start.replace(year=start.year + 1)
        found = check(zones, start, following)
        print(f"{start.year}: {len(zones)} zones, {found:,} slots", flush=True)
        start = following
