"""Breaker, bucket, pace and retry schedules: each rule on its own, with the time given."""

import pytest

from core.flow.breaker import Breaker, BreakerPlan, Change
from core.flow.bucket import SLOWEST_SHARE, Bucket, Pace, Rate, Speed
from core.flow.rates import RATES, WARM_DAY, warm_up_rate
from core.flow.retries import LATER, SCHEDULES, SHORT_ASK_S, long_wait_s, short_wait_s
from core.names import CHANNELS, LANES

PLAN = BreakerPlan(window=10, window_s=60.0, min_calls=4, failure_share=0.5, open_s=1.0, open_cap_s=4.0)


def lowest(low: float, high: float) -> float:
    """The shortest wait that jitter allows."""
    return low


def highest(low: float, high: float) -> float:
    """The longest."""
    return high


def opened(breaker: Breaker, now_s: float = 0.0) -> Breaker:
    """Let calls fail until it is open."""
    while breaker.state == "closed":
        assert breaker.allow(now_s) is True
        breaker.record(False, breaker.epoch, now_s)
    return breaker


def test_a_breaker_opens_at_half_of_enough_calls() -> None:
    """Three failures are too few; of four calls two are half."""
    few, half = Breaker(PLAN), Breaker(PLAN)
    assert [few.record(False, few.epoch, 0.0) for _ in range(3)] == [None] * 3
    assert [half.record(ok, half.epoch, 0.0) for ok in (True, True, False)] == [None] * 3
    assert half.record(False, half.epoch, 0.0) == Change("open", "2 of the last 4 calls failed")
    assert half.allow(0.5) is False


def test_a_breaker_forgets_what_is_older_than_its_window() -> None:
    """Failures of an hour ago open nothing."""
    breaker = Breaker(PLAN)
    for _ in range(3):
        breaker.record(False, breaker.epoch, 0.0)
    assert breaker.record(False, breaker.epoch, 3600.0) is None
    assert breaker.failing(3600.0)
    assert not breaker.failing(7200.0)


def test_one_call_decides_and_the_pause_doubles_to_its_cap() -> None:
    """Half-open lets one call through; each failed trial doubles the pause; a success closes it and resets the pause."""
    breaker, now_s, pauses = opened(Breaker(PLAN)), 0.0, []
    for _ in range(4):
        pauses.append(breaker.until_s - now_s)
        now_s = breaker.until_s
        assert isinstance(breaker.allow(now_s), Change)
        assert breaker.allow(now_s) is False
        change = breaker.record(False, breaker.epoch, now_s)
        assert change is not None
        assert change.state == "open"
    assert pauses == [1.0, 2.0, 4.0, 4.0]
    now_s = breaker.until_s
    breaker.allow(now_s)
    assert breaker.record(True, breaker.epoch, now_s) == Change("closed", "it works again")
    assert opened(breaker, now_s).until_s == now_s + 1.0


def test_a_late_result_of_an_earlier_epoch_counts_for_nothing() -> None:
    """What began before it opened neither closes nor reopens it."""
    breaker = Breaker(PLAN)
    began = breaker.epoch
    opened(breaker)
    breaker.allow(breaker.until_s)
    assert breaker.record(True, began, 10.0) is None
    assert breaker.state == "half_open"
    assert breaker.record(False, began, 10.0) is None
    assert breaker.state == "half_open"


def test_a_trial_that_was_not_made_gives_its_place_to_the_next() -> None:
    """Else a message that was barred at the last moment would leave it half-open for ever."""
    breaker = opened(Breaker(PLAN))
    now_s = breaker.until_s
    breaker.allow(now_s)
    breaker.abandon(breaker.epoch, now_s)
    assert isinstance(breaker.allow(now_s), Change)


def test_a_restored_breaker_begins_with_a_trial() -> None:
    """It was open when the process ended: one call looks, the others wait."""
    breaker = Breaker(PLAN)
    breaker.restore(5.0)
    assert isinstance(breaker.allow(5.0), Change)
    assert breaker.allow(5.0) is False


def bucket(per_s: float = 100.0, burst: float = 100.0) -> Bucket:
    """A full bucket at time 0."""
    return Bucket(Speed(per_s), burst, burst, max(1.0, burst / 10), 0.0)


def test_bulk_leaves_a_reserve_and_urgent_takes_it() -> None:
    """Of a full bucket of 100 bulk gets its own 10 and 80; urgent then still has 20."""
    after, given = bucket().grant("bulk", 1_000, 0.0)
    assert given == 90
    assert after.grant("urgent", 1_000, 0.0)[1] == 20


def test_bulk_keeps_a_tenth_while_urgent_takes_all_it_can() -> None:
    """Ten seconds of urgent without end: bulk gets its tenth, urgent the rest."""
    one, taken = bucket(), {"urgent": 0, "bulk": 0}
    for step in range(1, 101):
        for lane in ("urgent", "bulk"):
            one, given = one.grant(lane, 1_000, step / 10)
            taken[lane] += given
    assert taken["bulk"] == pytest.approx(100 + 10, abs=90)
    assert taken["bulk"] >= 100
    assert taken["urgent"] >= 890
    assert sum(taken.values()) <= 100 * 10 + 110


def test_an_account_of_one_a_second_still_sends_bulk() -> None:
    """A new SES account: the reserve is nothing then, and all that urgent leaves goes to bulk."""
    one, taken = bucket(1.0, 1.0), 0
    for second in range(1, 31):
        one, given = one.grant("bulk", 5, float(second))
        taken += given
    assert taken >= 28


def test_a_throttled_answer_halves_the_speed_once_and_it_comes_back() -> None:
    """Two answers about the same moment slow down once; the floor is a twentieth; after 25 s all of it is back."""
    speed = Speed(100.0).slowed(0.0).slowed(0.5)
    assert speed.at(0.5) == pytest.approx(51.0)
    assert speed.at(10.0) == pytest.approx(70.0)
    assert speed.at(25.0) == 100.0
    for second in range(2, 60, 2):
        speed = speed.slowed(float(second) / 1.9)
    assert speed.at(31.0) >= 100.0 * SLOWEST_SHARE


def test_a_bucket_that_is_held_gives_nothing_and_saves_nothing() -> None:
    """The provider named a time; what would have flowed in until then is not sent in one burst after it."""
    held = bucket().grant("urgent", 1_000, 0.0)[0].slowed(0.0, 10.0)
    assert held.grant("urgent", 10, 9.9)[1] == 0
    assert held.grant("urgent", 1_000, 10.0)[1] <= 1
    assert held.grant("urgent", 1_000, 11.0)[1] <= 75


def test_a_new_ceiling_takes_effect_and_keeps_what_was_slowed() -> None:
    """GetAccount says 10 a second: no more than that, at once."""
    changed = bucket().slowed(0.0, 0.0).with_rate(Rate(10.0, 10.0))
    assert changed.speed.at(0.0) == 10.0
    assert changed.grant("urgent", 1_000, 0.0)[1] == 10


def test_a_pace_gives_turns_in_order_and_parks_those_far_off() -> None:
    """One a second with a burst of three: 0, 0, 0, 1, 2, then parked one after the other."""
    pace = Pace(Rate(1.0, 3.0))
    assert [pace.turn(0.0, 2.0) for _ in range(5)] == [(0.0, True), (0.0, True), (0.0, True), (1.0, True), (2.0, True)]
    parked = [pace.turn(0.0, 2.0) for _ in range(3)]
    assert [taken for _, taken in parked] == [False] * 3
    assert [wait for wait, _ in parked] == [4.0, 5.0, 6.0]
    assert not pace.idle(0.0)
    assert pace.idle(100.0)


def test_a_pace_waits_as_long_as_its_destination_asks() -> None:
    """Retry-After holds for everything to that destination, and its speed is halved."""
    pace = Pace(Rate(1.0, 5.0))
    pace.slow(0.0, 30.0)
    wait_s, taken = pace.turn(0.0, 5.0)
    assert not taken
    assert wait_s >= 30.0
    assert pace.per_s(0.0) == 0.5
    assert pace.turn(31.0, 5.0) == (0.0, True)


@pytest.mark.parametrize(("channel", "lane"), sorted(SCHEDULES))
def test_waits_are_never_shorter_than_asked_and_grow(channel: str, lane: str) -> None:
    """The provider's own delay is the floor, with at most a tenth on top of it; the steps grow and the last one repeats."""
    schedule = SCHEDULES[channel, lane]
    steps = [long_wait_s(schedule, time, 0.0, highest) for time in range(1, 30)]
    assert steps == sorted(steps)
    assert steps[-1] == schedule.long_s[-1] * schedule.jitter[1]
    assert long_wait_s(schedule, 1, 100_000.0, lowest) == 100_000.0
    assert long_wait_s(schedule, 1, 200_000.0, highest) == pytest.approx(200_000.0 * (1 + LATER))
    for tries in range(1, len(schedule.short_s) + 1):
        assert short_wait_s(schedule, tries, 1.5, lowest) == 1.5
        assert 1.5 <= short_wait_s(schedule, tries, 1.5, highest) <= SHORT_ASK_S + schedule.short_s[-1]


def test_webhooks_follow_the_standard_schedule() -> None:
    """Standard Webhooks: 5 s, 5 min, 30 min, 2, 5, 10, 14, 20 and 24 h, +-20 %, and no other tries in between."""
    assert SCHEDULES["webhook", "bulk"].short_s == ()
    steps = [long_wait_s(SCHEDULES["webhook", "bulk"], n, 0.0, lambda low, high: (low + high) / 2) for n in range(1, 10)]
    assert steps == [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]
    assert long_wait_s(SCHEDULES["webhook", "bulk"], 2, 0.0, lowest) == pytest.approx(240)
    assert long_wait_s(SCHEDULES["webhook", "bulk"], 2, 0.0, highest) == pytest.approx(360)


def test_every_channel_has_rates_and_schedules() -> None:
    """The tables are complete, and each row says where it comes from."""
    assert set(RATES) == set(CHANNELS)
    assert set(SCHEDULES) == {(channel, lane) for channel in CHANNELS for lane in LANES}
    assert all(rates.source for rates in RATES.values())


def test_a_new_sender_warms_up_day_by_day() -> None:
    """A day's mails are spread over it, an hour's worth at once; it grows, and ends."""
    days = [warm_up_rate(day) for day in range(1, WARM_DAY)]
    assert all(rate is not None for rate in days)
    assert days[0] is not None
    assert days[0].per_s * 86_400 == pytest.approx(500)
    assert days[0].burst == pytest.approx(500 / 24)
    rates = [rate.per_s for rate in days if rate]
    assert rates == sorted(rates)
    assert warm_up_rate(WARM_DAY) is None
