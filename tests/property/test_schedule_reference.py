"""The schedule against a slow, obvious reference: every nominal slot exactly once, none missing, in every zone, for each cadence.

Without --all-zones a sample: the changes of clocks of hand-picked zones, and some weeks of others. With it, all zones and ten
years, which takes half an hour.
"""

import random
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from core.cadence import Schedule, day_bits, nominal_of
from core.schedule import due, due_at, falls_somewhere, local_slots, next_slots
from core.zones import RETIRED, zone_names
from tests.property.schedule_walk import QUARTER, Profile, Watcher, distinct_zones
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
