"""Tests of the ticker's pure parts and of the slot that the command takes."""

from datetime import UTC, datetime, timedelta

import pytest

from core.errors import InputError
from runtime.options import parse_slot
from streams.ticker import due_minutes, newest_minute

NOW = datetime(2026, 11, 22, 9, 0, 30, tzinfo=UTC)
MINUTE = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


def test_begins_at_the_current_minute():
    """Without a tick in the log there is nothing to make up for."""
    assert due_minutes(None, NOW) == [MINUTE]


def test_continues_without_gap_or_repeat():
    """From the minute after the last one."""
    assert due_minutes(MINUTE - timedelta(minutes=3), NOW) == [MINUTE - timedelta(minutes=back) for back in (2, 1, 0)]
    assert due_minutes(MINUTE, NOW) == []
    assert due_minutes(MINUTE + timedelta(minutes=5), NOW) == [], "a clock that was set back waits"


def test_a_tick_far_ahead_does_not_silence_the_clock():
    """It is no tick of the clock's, like those that were asked for; clocks that differ by minutes are believed."""
    ticks = [{"minute": MINUTE + timedelta(minutes=ahead), "newsletter_id": None} for ahead in (-2, 5, 60 * 24 * 365)]
    ticks.append({"minute": MINUTE + timedelta(minutes=6), "newsletter_id": "daily"})
    assert newest_minute(ticks, NOW) == MINUTE + timedelta(minutes=5)
    assert newest_minute(ticks[2:], NOW) is None


def test_a_longer_gap_is_filled_for_as_long_as_an_issue_may_be_late():
    """What is older would be past not_after, whatever the newsletter says."""
    minutes = due_minutes(MINUTE - timedelta(days=9), NOW)
    assert (minutes[0], minutes[-1], len(minutes)) == (MINUTE - timedelta(hours=120), MINUTE, 120 * 60 + 1)
    assert len(due_minutes(MINUTE - timedelta(days=3), NOW)) == 72 * 60


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("tomorrow", "no time"),
        ("2026-11-22T09:00", "no time"),
        ("2026-11-31T09:00Z", "no time that exists"),
        ("2026-11-22T09:00:30Z", "whole minute"),
        ("2026-11-17T08:59Z", "120 hours ago"),
        ("2026-11-23T09:01Z", "24 hours ahead"),
    ],
)
def test_a_slot_that_cannot_be_meant_is_refused(text, word):
    """The message says what is wrong."""
    with pytest.raises(InputError, match=word):
        parse_slot(text, NOW, at_any_time=False)


def test_slots_that_are_taken():
    """With any zone, the current minute by default, and any time for a replay."""
    assert parse_slot("2026-11-22T10:00+01:00", NOW, at_any_time=False) == MINUTE
    assert parse_slot(None, NOW, at_any_time=False) == MINUTE
    assert parse_slot("2020-01-01T00:00Z", NOW, at_any_time=True).year == 2020
