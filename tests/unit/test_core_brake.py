"""The brake's scales: over which sends a source is weighed, and when it passes a limit."""

from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.brake import MIN_SENT, WINDOW, Sends, Weight, window

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)


def sends(*hours_and_counts: tuple[float, int]) -> list[Sends]:
    """Sends so many hours ago."""
    return [Sends(NOW - timedelta(hours=hours), count) for hours, count in hours_and_counts]


@pytest.mark.parametrize(
    ("bounced", "complained", "sent", "reason"),
    [
        (25, 0, 500, None), (26, 0, 500, "bounced"), (0, 1, 1000, None), (0, 2, 1000, "complained"), (0, 1, 500, "complained"),
        (500, 2, 1000, "complained"), (0, 0, 10_000, None),
    ],
)  # fmt: skip
def test_stops_above_the_limits_and_not_at_them(bounced: int, complained: int, sent: int, reason: str | None) -> None:
    """More than 5 % bounced, or more than 0.1 % complained; a complaint is the graver reason."""
    assert Weight(NOW, sent, bounced, complained).reason == reason


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        ([(1, 600), (20, 600), (30, 5000)], (20, 1200)),  # a day, when that is enough
        ([(1, 200), (200, 200), (400, 200), (600, 200)], (400, 600)),  # else as far back as it needs
        ([(30, 5000)], (30, 5000)),
        ([(1, 499)], None),
        ([], None),
    ],
)
def test_weighs_a_day_or_the_last_five_hundred(sent: list[tuple[float, int]], found: tuple[float, int] | None) -> None:
    """A large source is weighed over its last day, a small one over its last 500 or a few more."""
    assert window(sends(*sent), NOW) == (None if found is None else (NOW - timedelta(hours=found[0]), found[1]))


def test_says_the_figures() -> None:
    """What is written into the stop is what an operator needs to decide."""
    weight = Weight(NOW - timedelta(hours=1), 1000, 62, 1)
    assert weight.words() == "62 bounced (6.2%) and 1 complained (0.10%) of 1000 sent since 2026-11-22 08:00 UTC"


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 400)), max_size=30), st.randoms(use_true_random=False))
def test_the_order_of_what_is_weighed_does_not_matter(sent: list[tuple[float, int]], random: Random) -> None:
    """Any order gives the same window; it covers the last day whenever that holds enough."""
    given_sends = sends(*sent)
    one = window(given_sends, NOW)
    random.shuffle(given_sends)
    assert window(given_sends, NOW) == one
    assert (one is None) == (sum(s.sent for s in given_sends) < MIN_SENT)
    if one is not None:
        assert one[1] >= sum(s.sent for s in given_sends if s.since >= NOW - WINDOW)
        assert one[1] == sum(s.sent for s in given_sends if s.since >= one[0])
