"""Tests of the hour at which somebody usually reads."""

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest

from core.cadence import DAY_MIN, EPOCH
from core.due import timing
from core.explain import explain_newsletter
from core.names import USUAL_HOUR
from core.newsletter_state import NewsletterState
from core.reading_hours import BATCH, MIN_SEEN
from tests.unit.deciding_samples import Sample, available, fold, linked, person, preferred, publication, reader, registered, slot
from tests.unit.test_due import at, lives

ANNA, BEN = person(1), person(2)
SLOT = at("2026-11-25T12:00")
"""A Wednesday: what was before Sunday the 22nd, 00:00 UTC, counts."""


def opened(number: int, when: datetime, who: str = ANNA, name: str = "ContentOpened", **more) -> Sample:
    value = {"subscriber_id": who, "publication_id": publication(number), "occurred_at": when, "delivery_id": None}
    value |= {"channel": "email", "evidence": "pixel"} | more
    return Sample(name, value)


def habit(clock: str, days: int, start: str = "2026-10-15", who: str = ANNA, first: int = 0, **more) -> list[Sample]:
    """Opening something else each day at this UTC time."""
    return [opened(first + day, at(f"{start}T{clock}") + timedelta(days=day), who, **more) for day in range(days)]


def usual(state: NewsletterState, slot_at: datetime = SLOT, who: int = 0, **rules) -> int:
    return int(timing(state, np.array([who]), slot(slot_at, **rules)).minute[0])


def anna(zone: str = "UTC", *events) -> NewsletterState:
    return fold(NewsletterState(), reader(ANNA, zone, local_minute=USUAL_HOUR), list(events))


def test_the_newsletters_hour_counts_until_enough_is_known():
    """The prior; a few openings change nothing, and neither does any number within one quarter hour."""
    assert usual(anna()) == 540
    assert usual(anna("UTC", *habit("19:35", MIN_SEEN - 1))) == 540
    assert usual(anna("UTC", *habit("19:35", MIN_SEEN))) == 19 * 60 + 30
    burst = [opened(number, at("2026-11-20T19:35") + timedelta(seconds=number)) for number in range(30)]
    assert usual(anna("UTC", *burst)) == 540
    assert usual(anna("UTC", *burst), local_minute=600) == 600


def test_a_packed_state_knows_the_hour_though_what_was_read_is_old():
    """A restart moves nobody's issue: publications that are older than what shards keep were read in these weeks."""
    old = [available(number, approved_at=at("2026-08-01T00:00")) for number in range(12)]
    state = anna("UTC", *habit("19:35", 12), *old, available(50, approved_at=SLOT))
    loaded = NewsletterState()
    loaded.load(state.dump())
    assert usual(loaded) == usual(state) == 19 * 60 + 30
    loaded.load(fold(state, available(51, approved_at=SLOT + timedelta(days=150))).dump())
    assert len(loaded.content.items) == 1


def test_the_hour_is_that_of_the_subscribers_clock():
    """06:35 UTC in October is 08:35 in Berlin, after the change of clocks 07:35."""
    summer, winter = habit("05:35", 10, "2026-10-15"), habit("06:35", 26, "2026-10-26", first=100)
    assert usual(anna("Europe/Berlin", *summer, *winter)) == 7 * 60 + 30


def test_what_a_machine_did_is_no_evidence():
    """Openings by a privacy proxy, and clicks of a scanner that follows every link."""
    proxy = habit("03:05", 20, evidence="pixel_proxy")
    assert usual(anna("UTC", *proxy, *habit("19:35", 10, first=100))) == 19 * 60 + 30
    scans = [
        opened(200 + 10 * day + link, at("2026-10-20T03:05") + timedelta(days=day, seconds=link), name="ContentClicked",
               evidence="click", link=link, delivery_id=f"20261020-{day}")
        for day in range(20) for link in range(6)
    ]  # fmt: skip
    assert usual(anna("UTC", *scans, *habit("19:35", 10, first=100))) == 19 * 60 + 30


def test_the_clock_is_round():
    """Reading at 23:50 and at 00:05 is one habit, not two."""
    around = [*habit("23:50", 9), *habit("00:05", 9, first=100), *habit("12:00", 12, first=200)]
    assert usual(anna("UTC", *around)) in (23 * 60 + 45, 0)


def test_newer_habits_outweigh_older_ones():
    """Twenty evenings in summer, and ten mornings of late."""
    assert usual(anna("UTC", *habit("21:00", 20, "2026-08-01"), *habit("06:45", 10, "2026-11-10", first=100))) == 6 * 60 + 45
    assert usual(anna("UTC", *habit("21:00", 20, "2026-05-01"))) == 540, "half a year ago is no habit"


def test_the_order_of_arrival_changes_nothing():
    """Of engagements, of the zone, and of decisions."""
    events = [*habit("19:35", 12), *habit("07:05", 30, first=100)]
    shuffled = events.copy()
    random.Random(3).shuffle(shuffled)
    people = reader(ANNA, "Asia/Tokyo", local_minute=USUAL_HOUR)
    one, other = fold(NewsletterState(), people, events), fold(NewsletterState(), shuffled, people)
    assert usual(one) == usual(other) == 16 * 60


def test_alone_and_with_others_is_the_same():
    """More readers at once than a batch holds, each with a habit of their own."""
    chance, events, clocks = random.Random(5), [], []
    for number in range(BATCH + 10):
        clocks.append(chance.randrange(96) * 15)
        clock = f"{clocks[-1] // 60:02d}:{clocks[-1] % 60:02d}"
        events += [*reader(person(number), local_minute=USUAL_HOUR), *habit(clock, 10, who=person(number))]
    state = fold(NewsletterState(), events)
    together = timing(state, np.arange(BATCH + 10), slot(SLOT)).minute.tolist()
    for number in (0, 1, 17, BATCH - 1, BATCH, BATCH + 9):
        assert usual(state, who=number) == together[number]
    theirs = sum(minute == clock for minute, clock in zip(together, clocks, strict=True))
    assert theirs > 0.9 * BATCH, "the prior holds those next to it"


def test_it_moves_between_weeks_only():
    """The new habit outweighs the old one on a Thursday, and counts from the Monday after it."""
    state = anna("UTC", *habit("19:35", 20), *habit("07:05", 40, "2026-11-16", first=100))
    minutes = [usual(state, at("2026-11-16T12:00") + timedelta(days=day)) for day in range(21)]
    assert minutes == [19 * 60 + 30] * 14 + [7 * 60] * 7


def test_an_hour_that_is_a_little_better_moves_nobody():
    """The hour of the last issue stays, until another is clearly better."""
    evenings, mornings = habit("19:35", 20), habit("07:05", 23, first=100)
    assert usual(anna("UTC", *evenings, *mornings)) == 7 * 60
    state = anna("UTC", *evenings, *mornings)
    state.issued.give("daily", np.array([0]), ["2026-11-24T19:30"], int(at("2026-11-24T19:30").timestamp()) // 60, 1)
    assert usual(state) == 19 * 60 + 30
    assert usual(fold(state, habit("07:20", 20, first=200))) == 7 * 60


@pytest.mark.parametrize(("before", "after"), [("19:35", "06:20"), ("06:20", "19:35")])
def test_a_moved_hour_neither_repeats_nor_skips_an_issue(before, after):
    """Two months in which the habit changes: one issue each day, at first at the one hour, then at the other."""
    state = anna("Asia/Tokyo", *habit(before, 20, "2026-10-01"), *habit(after, 50, "2026-10-21", first=100))
    (issues,) = lives(state, "2026-10-20T00:00", "2026-12-10T00:00")
    days = [group[:10] for _, group in issues]
    assert all((datetime.fromisoformat(b) - datetime.fromisoformat(a)).days == 1 for a, b in pairwise(days))
    assert len({group[11:] for _, group in issues}) == 2


def test_choosing_the_usual_hour_skips_nothing_today():
    """At noon, with a usual hour of 07:00 and 18:00 before: today's comes at 18:00."""
    state = fold(NewsletterState(), reader(ANNA, local_minute=1080), habit("07:05", 30))
    when = "2026-11-25T12:00"
    choose = (when, preferred(ANNA, local_minute=USUAL_HOUR, changed_at=at(when)))
    (issues,) = lives(state, "2026-11-25T00:00", "2026-11-27T00:00", choose)
    assert [group for _, group in issues] == ["2026-11-25T18:00", "2026-11-26T07:00"]


def test_what_was_read_in_another_zone_keeps_its_hour():
    """Mornings in Berlin stay mornings after moving to Tokyo."""
    state = anna("Europe/Berlin", *habit("06:35", 20, "2026-10-27"))
    moved = fold(state, preferred(ANNA, time_zone="Asia/Tokyo", changed_at=at("2026-11-18T00:00")))
    assert usual(moved) == 7 * 60 + 30


def test_a_newsletter_of_several_hours_a_day_has_no_usual_one():
    """Every six hours: the newsletter's count. Every two days: the subscriber's."""
    state = anna("UTC", *habit("19:35", 12))
    assert usual(state, cadence="hours", every_hours=6) == 540
    assert usual(state, cadence="hours", every_hours=48) == 19 * 60 + 30


def test_the_explanation_names_hour_and_evidence():
    """`newswire why` says since when it is so, or what is missing."""
    known = fold(anna("UTC", *habit("07:35", 23)), available(900, approved_at=at("2026-11-25T05:00")))
    due = slot(at("2026-11-25T07:30"))
    told = explain_newsletter(known, due, ANNA, due["slot_at"])
    assert told.verdict == "chosen"
    assert "Usually reads at 07:30 (seen 23 times), so the issue comes at 07:30." in told.because
    little = explain_newsletter(anna("UTC", *habit("07:35", 3)), due, ANNA, due["slot_at"]).because
    assert any("3 times of reading are too few to tell (8 are needed)" in sentence and "09:00" in sentence for sentence in little)
    often = explain_newsletter(anna(), slot(SLOT, cadence="hours", every_hours=6), ANNA, SLOT).because
    assert any("several hours of the day" in sentence for sentence in often)


def test_a_zone_that_the_data_dropped_is_named():
    """It counts as UTC, and `newswire why` says so."""
    state = fold(NewsletterState(), registered(ANNA), preferred(ANNA, newsletters=["daily"]), linked(ANNA))
    state.table.zones.add("Mars/Olympus")
    state.table.column("zone")[0] = state.table.zones.index["Mars/Olympus"]
    told = explain_newsletter(state, slot(), ANNA, SLOT).because
    assert any("does not know Mars/Olympus: UTC counts" in sentence for sentence in told)


def test_weeks_begin_on_monday():
    """1970 began on a Thursday."""
    assert EPOCH.isoweekday() == 4
    assert (datetime(2026, 11, 23, tzinfo=UTC).date() - EPOCH).days * DAY_MIN % (7 * DAY_MIN) == 4 * DAY_MIN
