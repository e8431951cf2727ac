"""Tests of who is due: cadences, days, holidays, late slots, and changes that must neither repeat an issue nor skip one."""

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest

from core.cadence import nominal_day, read_nominal
from core.deciding import decide_newsletter
from core.due import due_groups
from core.explain import explain_newsletter
from core.newsletter_state import NewsletterState
from core.verdicts import Place
from tests.unit.deciding_samples import NOW, Sample, available, fold, person, preferred, reader, registered, slot

ANNA, BEN = person(1), person(2)
QUARTER = timedelta(minutes=15)
CHANGES = (("12:00", 1200), ("19:00", 420))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def decide(state: NewsletterState, what: dict, now: datetime | None = None) -> dict:
    return decide_newsletter(state, what, Place(0, 12, 0, {}), now or what["slot_at"])


def groups(value: dict) -> list[str]:
    return [value["issue_groups"][entry["issue_group"]] for entry in value["chosen"]]


def reasons(value: dict) -> list[str]:
    return [value["reasons"][entry["reason"]] for entry in value["gated"]]


def lives(state: NewsletterState, start: str, end: str, *changes: tuple[str, Sample], **rules) -> list[list[tuple]]:
    """Decide each slot in turn, remember it, and return the issues of each subscriber: UTC slot and nominal local slot."""
    slot_at, left = at(start), [(at(text), change) for text, change in changes]
    rows = np.arange(len(state.table))
    found: list[list[tuple[datetime, str]]] = [[] for _ in rows]
    while slot_at < at(end):
        while left and left[0][0] <= slot_at:
            state.apply(left.pop(0)[1])
        due = due_groups(state, rows, slot(slot_at, **rules), "")
        who = np.flatnonzero(due.group >= 0)
        issued = [due.groups[group] for group in due.group[who].tolist()]
        for row, group in zip(who.tolist(), issued, strict=True):
            found[row].append((slot_at, group))
        state.issued.give("daily", who, issued, int(slot_at.timestamp()) // 60, len(rows))
        slot_at += QUARTER
    return found


def run(state: NewsletterState, start: str, end: str, *changes: tuple[str, Sample], **rules) -> list[str]:
    """Return all of them as `UTC slot: nominal local slot`, in the order of their slots."""
    found = [issue for issues in lives(state, start, end, *changes, **rules) for issue in issues]
    return [f"{slot_at:%d %H:%M}: {group}" for slot_at, group in sorted(found)]


def changed(when: str, who: str = ANNA, **more) -> tuple[str, Sample]:
    return when, preferred(who, changed_at=at(when), **more)


def anna(zone: str = "UTC", **more) -> NewsletterState:
    return fold(NewsletterState(), reader(ANNA, zone, **more))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"days": [2, 4]}, ["03 09:00: 2026-11-03T09:00", "05 09:00: 2026-11-05T09:00"]),
        ({"cadence": "monthly", "month_day": 4}, ["04 09:00: 2026-11-04T09:00"]),
        (
            {"cadence": "hours", "every_hours": 36, "local_minute": 120},
            [
                "01 14:00: 2026-11-01T14:00",
                "03 02:00: 2026-11-03T02:00",
                "04 14:00: 2026-11-04T14:00",
                "06 02:00: 2026-11-06T02:00",
                "07 14:00: 2026-11-07T14:00",
            ],
        ),
        ({"cadence": "hours", "every_hours": 36, "local_minute": 120, "days": [2]}, ["03 02:00: 2026-11-03T02:00"]),
    ],
)
def test_each_cadence_comes_when_it_says(rules, expected):
    """From Sunday 1 November to Saturday 7 November 2026."""
    assert run(anna(), "2026-11-01T00:00", "2026-11-08T00:00", **rules) == expected


def test_a_monthly_issue_comes_on_the_last_day_of_a_shorter_month():
    """28 February, 31 March and 30 April."""
    issues = [
        issue[-16:-6]
        for month in ("2027-02-26", "2027-03-26", "2027-04-26")
        for issue in run(anna(), month, (at(month) + timedelta(days=9)).isoformat()[:19], cadence="monthly", month_day=31)
    ]
    assert issues == ["2027-02-28", "2027-03-31", "2027-04-30"]


def test_own_days_narrow_a_newsletters_days_and_leave_a_monthly_one_alone():
    """Tuesdays of a daily one; a monthly one on a Sunday comes all the same."""
    state = anna(days=[2])
    assert run(state, "2026-11-01T00:00", "2026-11-08T00:00") == ["03 09:00: 2026-11-03T09:00"]
    assert run(anna(days=[2]), "2026-11-01T00:00", "2026-11-08T00:00", cadence="monthly") == ["01 09:00: 2026-11-01T09:00"]
    assert run(anna(days=[2]), "2026-11-01T00:00", "2026-11-08T00:00", days=[3]) == []
    state = fold(anna(days=[2]), preferred(ANNA, days=[]))
    assert len(run(state, "2026-11-01T00:00", "2026-11-08T00:00")) == 7
    told = explain_newsletter(anna(days=[2]), slot(NOW), ANNA, NOW)
    assert "who takes newsletters on Tue" in told.because[0]


def test_a_holiday_is_a_gate_and_the_content_waits():
    """Who was due is told so; a pause is one as well; the next day brings what was left."""
    state = fold(NewsletterState(), reader(ANNA), reader(BEN, "Asia/Tokyo"), available(1))
    value = decide(state, slot(NOW, skip_dates=["2026-11-22"]))
    assert (reasons(value), value["chosen"], value["not_concerned"]) == (["holiday"], [], 1)
    assert "no issue on this local date" in explain_newsletter(state, slot(NOW, skip_dates=["2026-11-22"]), ANNA, NOW).because[-1]
    state.apply(Sample("AudienceDecided", value))
    assert groups(decide(state, slot(NOW + timedelta(days=1), skip_dates=["2026-11-22"]))) == ["2026-11-23T09:00"]
    tokyo = slot(at("2026-11-22T00:00"), skip_dates=["2026-11-21"])
    assert groups(decide(state, tokyo)) == ["2026-11-22T09:00"], "the date is that of the subscriber"


def test_what_is_late_is_sent_within_the_newsletters_limit():
    """late_h after the slot; what is later is skipped as expired."""
    state = fold(NewsletterState(), reader(ANNA), available(1))
    weekly = slot(NOW, days=[7], late_h=48)
    value = decide(state, weekly, NOW + timedelta(hours=48))
    assert (groups(value), value["not_after"]) == (["2026-11-22T09:00"], NOW + timedelta(hours=48))
    assert reasons(decide(state, weekly, NOW + timedelta(hours=48, minutes=1))) == ["expired"]
    assert reasons(decide(state, slot(NOW, days=[7], late_h=1), NOW + timedelta(hours=2))) == ["expired"]


def test_slots_of_days_made_up_for_at_once_bring_one_issue():
    """After an outage the last slot is sent, late; those before it are skipped as expired."""
    state = fold(NewsletterState(), reader(ANNA), reader(BEN, days=[5]), available(1))
    now, found = at("2026-11-22T09:30"), []
    for days_back in (3, 2, 1, 0):
        value = decide(state, slot(NOW - timedelta(days=days_back), late_h=120), now)
        state.apply(Sample("AudienceDecided", value))
        found.append((len(value["chosen"]), reasons(value)))
    assert found == [(0, ["expired"]), (1, ["expired"]), (0, ["expired"]), (1, [])], "Ben's is the one of Friday, 20 November"
    holiday = slot(NOW - timedelta(days=1), late_h=120, skip_dates=["2026-11-22"])
    assert groups(decide(fold(NewsletterState(), reader(ANNA), available(1)), holiday, now)) == ["2026-11-21T09:00"]


def test_a_variant_may_come_at_another_hour():
    """The hour of an experiment's variant counts where no choice of the subscriber's does."""
    variants = [
        {"name": name, "weight": 0.5, "subject": None, "template": None, "ranking": None, "local_minute": minute}
        for name, minute in (("control", None), ("early", 420))
    ]
    who = [person(number) for number in range(40)]
    state = fold(NewsletterState(), [reader(one) for one in who], reader(person(50), local_minute=600))
    issues = run(state, "2026-11-22T06:00", "2026-11-22T11:00", variants=variants, seed="x")
    assert {issue[-5:] for issue in issues} == {"07:00", "09:00", "10:00"}
    assert sum(issue.endswith("10:00") for issue in issues) == 1
    assert len(issues) == 41


# ---- changes ----


def test_a_zone_that_jumps_over_todays_slot_brings_the_issue_at_its_old_time():
    """From Lisbon to Tokyo at 08:00: 09:00 is past there. From Tokyo to Lisbon: it was had there."""
    east = changed("2026-11-22T08:00", time_zone="Asia/Tokyo")
    assert run(anna("Europe/Lisbon"), "2026-11-22T00:00", "2026-11-24T00:00", east) == [
        "22 09:00: 2026-11-22T09:00",
        "23 00:00: 2026-11-23T09:00",
    ]
    west = changed("2026-11-22T08:00", time_zone="Europe/Lisbon")
    assert run(anna("Asia/Tokyo"), "2026-11-21T23:00", "2026-11-24T00:00", west) == [
        "22 00:00: 2026-11-22T09:00",
        "23 09:00: 2026-11-23T09:00",
    ]


@pytest.mark.parametrize(
    ("minute", "change", "expected"),
    [
        (1080, {"local_minute": 420}, ["22 18:00", "23 07:00"]),  # past already: today as before
        (1080, {"local_minute": 960}, ["22 16:00", "23 16:00"]),  # still ahead
        (420, {"local_minute": 1080}, ["22 07:00", "23 18:00"]),  # had today
        (420, {"local_minute": -1}, ["22 07:00", "23 09:00"]),
        (1080, {"days": [1]}, ["23 18:00"]),  # Sunday is not wanted any more
    ],
)
def test_another_hour_counts_from_the_next_issue_that_is_not_past(minute, change, expected):
    """Changed at noon of Sunday, 22 November."""
    found = run(anna(local_minute=minute), "2026-11-22T00:00", "2026-11-24T00:00", changed("2026-11-22T12:00", **change))
    assert [issue[:8] for issue in found] == expected


def test_who_tries_out_several_hours_loses_no_issue():
    """Three changes in ten minutes, all to hours that are past."""
    changes = [changed(f"2026-11-22T12:0{n}", local_minute=minute) for n, minute in enumerate((420, 435, 450))]
    assert run(anna(local_minute=1080), "2026-11-22T00:00", "2026-11-24T00:00", *changes) == [
        "22 18:00: 2026-11-22T18:00",
        "23 07:30: 2026-11-23T07:30",
    ]


def test_a_new_subscriber_gets_nothing_for_what_was_before():
    """Registering at noon with an hour that is past waits for tomorrow; so does subscribing later."""
    state = fold(NewsletterState(), registered(ANNA), preferred(ANNA, newsletters=["daily"], local_minute=420, changed_at=NOW))
    assert run(state, "2026-11-22T12:00", "2026-11-23T12:00") == ["23 07:00: 2026-11-23T07:00"]


def test_a_change_that_is_known_before_a_late_slot_skips_nothing():
    """The deciders were down from 08:00 to 13:00; at 11:00 she moved from 09:00 to 07:00. Then from 09:00 to 12:00."""
    for minute, expected in ((420, "22 09:00: 2026-11-22T09:00"), (720, "22 12:00: 2026-11-22T12:00")):
        state = fold(anna(local_minute=540), changed("2026-11-22T11:00", local_minute=minute)[1])
        assert run(state, "2026-11-22T08:00", "2026-11-23T00:00") == [expected]


def test_changes_that_are_known_before_late_slots_count_from_when_they_were_made():
    """At noon from 18:00 to 20:00, at 19:00 to 07:00, and the deciders were down: today's was still due at 20:00."""
    state = fold(anna(local_minute=1080), *(changed(f"2026-11-22T{at_}", local_minute=m)[1] for at_, m in CHANGES))
    assert run(state, "2026-11-22T08:00", "2026-11-23T00:00") == ["22 20:00: 2026-11-22T20:00"]


def test_issues_of_a_slot_far_ahead_stand_in_nobodys_way():
    """A clock that was years ahead for a minute."""
    state = anna()
    state.issued.give("daily", np.array([0]), ["2030-01-01T09:00"], int(at("2030-01-01T09:00").timestamp()) // 60, 1)
    assert len(run(state, "2026-11-22T00:00", "2026-11-24T00:00")) == 2


ZONES = ("UTC", "Asia/Tokyo", "America/Los_Angeles", "Asia/Kathmandu", "Pacific/Auckland", "America/St_Johns", "Europe/Berlin")


@pytest.mark.parametrize(
    ("rules", "days"),
    [({}, 1), ({"days": [1]}, 7), ({"cadence": "hours", "every_hours": 48}, 2), ({"cadence": "monthly", "month_day": 30}, 31)],
)
def test_whatever_is_changed_each_period_has_one_issue(rules, days):
    """Thousands of lives with up to three changes of zone and hour at random: the days of the issues follow one another.

    A day of a daily one may be left out when the next issue comes before its old time: a day and a half without one at most.
    """
    chance, changes, count = random.Random(11), [], 3_000 if days == 1 else 1_000
    state = fold(
        NewsletterState(),
        [reader(person(n), chance.choice(ZONES), local_minute=chance.choice([-1, 0, 435, 720, 1425])) for n in range(count)],
    )
    for number in range(count):
        for _ in range(chance.randrange(1, 4)):
            when = at("2026-03-29T12:00") + timedelta(minutes=chance.randrange(2 * 1440))
            hour = {"local_minute": chance.randrange(96) * 15}
            choice = {"time_zone": chance.choice(ZONES)} if chance.random() < 0.5 else hour
            changes.append(changed(f"{when:%Y-%m-%dT%H:%M}", person(number), **choice))
    changes.sort(key=lambda change: change[0])
    start, end = at("2026-03-26T12:00"), at("2026-04-02T12:00")
    if days > 2:
        start, end = start - timedelta(days=days), end + timedelta(days=days)
    for number, issues in enumerate(lives(state, start.isoformat()[:19], end.isoformat()[:19], *changes, **rules)):
        assert len(issues) >= (end - start).days // days - 2
        for (slot_at, group), (next_at, following) in pairwise(issues):
            ahead = (nominal_day(read_nominal(following)) - nominal_day(read_nominal(group))).days
            close = next_at - slot_at <= timedelta(hours=36)
            assert ahead in ((days,) if days < 31 else (28, 30, 31)) or (ahead == 2 and close), (number, issues)
