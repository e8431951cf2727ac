"""The flow of one process with a virtual clock: who is let through, who waits, who is parked, and what is said about it."""

import hmac
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.errors import SetupError
from core.outcomes import Dead, Outcome, Retry, Sent, Unknown
from runtime.settings import Settings
from sinks.flight import Flight
from sinks.flow import DESTINATION_FAILING, DESTINATION_OPEN, RATE, SUSPECTS, Flow, rates_apply, warming
from sinks.flow_store import Noted
from sinks.provider import PROVIDER_ERROR, THROTTLED, Message, Prepared, Sender
from tests.sinks_samples import delivery, issue

DOWN = Retry(1.0, PROVIDER_ERROR)
KEY = "cd" * 32
NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)


class VirtualClock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.at_s = 1_000.0

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.at_s - 1_000.0)

    def monotonic(self) -> float:
        return self.at_s


class Anyone:
    """A provider whose addresses are its destinations."""

    entries, calls = 50, 4

    def destination(self, message: Message) -> str | None:
        return message.address.rpartition("@")[2] or None


class Store:
    """What an earlier process left."""

    def __init__(self, *noted: Noted) -> None:
        self._noted = list(noted)

    async def noted(self) -> list[Noted]:
        return self._noted


class Bench:
    """A flow on its own, with a clock to set."""

    def __init__(self, channel: str, *noted: Noted, **settings: Any) -> None:
        self.clock, self.flight = VirtualClock(), Flight(100)
        self.flight.offsets.assign(0)
        own = Settings(**{"receipt_key": KEY, "shards": 1, **settings})
        self.flow = Flow(own, Store(*noted), Anyone(), self.flight, self.clock, channel=channel, lane="bulk")  # type: ignore[arg-type]

    def to(self, address: str, sender: str = "news@newswire.example") -> Prepared:
        """A message to an address."""
        return Prepared(Message(delivery(), address, issue(), Sender("Newswire", sender)), None)

    async def call(self, *outcomes: Outcome, to: str = "one") -> bool:
        """Make a call for as many messages as outcomes; False when it is not let through."""
        admitted = await self.flow.admit(len(outcomes), lambda: False)
        if admitted is None:
            return False
        group = [self.to(to) for _ in outcomes][: admitted.count]
        self.flow.answered(group, outcomes[: admitted.count], admitted.epoch, self.clock.at_s)
        return True


async def test_a_provider_that_fails_is_left_alone_and_looked_at_with_one_message() -> None:
    """Five failed calls open it; nothing goes for a second; then one message of fifty looks, and closes it."""
    bench = Bench("email")
    assert [await bench.call(DOWN) for _ in range(5)] == [True] * 5
    assert bench.flow.blocked
    assert not await bench.call(Sent("x"))
    bench.clock.at_s += 1.0
    assert not bench.flow.blocked
    admitted = await bench.flow.admit(50, lambda: False)
    assert admitted is not None
    assert admitted.count == 1
    assert bench.flow.blocked
    assert not await bench.call(Sent("x"))
    bench.flow.answered([bench.to("one")], [Sent("x")], admitted.epoch, bench.clock.at_s)
    assert not bench.flow.looking
    assert await bench.call(*[Sent("x")] * 50)


async def test_refusals_of_messages_say_nothing_against_the_provider() -> None:
    """Dead and throttled are answers; lost answers and 5xx are not, and a call counts by what most of its entries got."""
    bench = Bench("email")
    for outcome in (Dead("rejected"), Retry(1.0, THROTTLED)):
        assert [await bench.call(outcome) for _ in range(30)] == [True] * 30
    assert [await bench.call(*[Sent("x")] * 3, DOWN) for _ in range(30)] == [True] * 30
    calls = 0
    while await bench.call(Unknown("answer_lost"), DOWN, Sent("x")):
        calls += 1
    assert calls == 10, "half of the last twenty"


async def test_a_look_that_is_not_made_leaves_the_place_to_the_next() -> None:
    """Its message was barred at the last moment."""
    bench = Bench("slack")
    while await bench.call(DOWN):
        pass
    bench.clock.at_s += 60.0
    admitted = await bench.flow.admit(1, lambda: False)
    assert admitted is not None
    bench.flow.withdrawn(admitted.epoch, [bench.to("one")], 0)
    assert await bench.call(Sent("x"))


async def test_an_endpoint_that_fails_parks_its_own_only() -> None:
    """Webhooks: no breaker of the provider; the endpoint's opens after four, one message looks later, the others wait on."""
    bench = Bench("webhook")
    for _ in range(4):
        one = bench.to("down")
        if bench.flow.by_destination:
            assert bench.flow.judge(one.message) == 0.0
        admitted = await bench.flow.admit(1, lambda: False)
        assert admitted is not None
        bench.flow.answered([one], [DOWN], admitted.epoch, bench.clock.at_s)
    assert bench.flow.by_destination
    parked = bench.flow.judge(bench.to("down").message)
    assert isinstance(parked, Retry)
    assert parked.reason == DESTINATION_OPEN
    assert 15.0 <= parked.after_s <= 22.5
    assert bench.flow.judge(bench.to("well").message) == 0.0
    assert not bench.flow.blocked
    bench.clock.at_s += 15.0
    look = bench.to("down")
    assert bench.flow.judge(look.message) == 0.0
    assert isinstance(bench.flow.judge(bench.to("down").message), Retry)
    bench.flow.answered([look], [Sent("x")], 0, bench.clock.at_s)
    assert not bench.flow.by_destination, "all is forgotten"


async def test_destinations_that_failed_of_late_have_a_share_of_the_calls_only() -> None:
    """Hundreds of endpoints that hung once: so many may hang again at a time, the others are parked, and new ones go."""
    bench = Bench("webhook")
    failed = [bench.to(f"endpoint-{number}") for number in range(10 * SUSPECTS)]
    bench.flow.answered(failed, [Unknown("answer_lost")] * len(failed), 0, bench.clock.at_s)
    again = [bench.to(one.message.address) for one in failed]
    turns = [bench.flow.judge(one.message) for one in again]
    assert turns[:SUSPECTS] == [0.0] * SUSPECTS
    assert {turn.reason for turn in turns[SUSPECTS:] if isinstance(turn, Retry)} == {DESTINATION_FAILING}
    assert bench.flow.judge(bench.to("well").message) == 0.0
    bench.flow.answered(again[:1], [Sent("x")], 0, bench.clock.at_s)
    bench.flow.dropped(again[1].message.delivery.delivery_id)
    more = [bench.flow.judge(one.message) for one in again[SUSPECTS:]]
    assert more.count(0.0) == 2, "as many as have ended"


async def test_what_was_open_before_a_restart_is_looked_at_first() -> None:
    """The provider by its row, an endpoint by its hash: neither gets more than one call until it works."""
    provider = Bench("discord", Noted("discord", "", "open", "x", NOW))
    await provider.flow.start()
    assert provider.flow.looking
    first = await provider.flow.admit(1, lambda: False)
    assert first is not None
    assert await provider.flow.admit(1, lambda: False) is None

    hashed = hmac.digest(bytes.fromhex(KEY), b"destination\x1fwebhook\x1fdown", "sha256").hex()
    endpoint = Bench("webhook", Noted("webhook", hashed, "open", "x", NOW))
    await endpoint.flow.start()
    assert endpoint.flow.judge(endpoint.to("well").message) == 0.0
    assert endpoint.flow.judge(endpoint.to("down").message) == 0.0
    assert isinstance(endpoint.flow.judge(endpoint.to("down").message), Retry)


async def test_rates_hold_only_where_they_are_switched_on() -> None:
    """By default nothing waits for a sandbox; with NEWSWIRE_RATES=on a Slack channel gets five, then one a second."""
    assert not Bench("slack").flow.by_destination
    bench = Bench("slack", rates="on")
    waits = [bench.flow.judge(bench.to("C1").message) for _ in range(12)]
    assert waits[:5] == [0.0] * 5
    assert waits[5:10] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [w.reason for w in waits[10:] if isinstance(w, Retry)] == [RATE] * 2
    assert bench.flow.judge(bench.to("C2").message) == 0.0


async def test_throttled_answers_of_many_channels_are_about_the_workspace() -> None:
    """One channel's holds that channel; three within a second hold the provider as well."""
    bench = Bench("slack", rates="on")
    for number, blocked in enumerate((False, False, True)):
        bench.flow.answered([bench.to(f"C{number}")], [Retry(30.0, THROTTLED)], 0, bench.clock.at_s)
        assert bench.flow.blocked is blocked
        held = bench.flow.judge(bench.to(f"C{number}").message)
        assert isinstance(held, Retry)
        assert held.after_s >= 30.0


async def test_a_mail_domain_is_divided_among_the_processes() -> None:
    """With one of four partitions a process has a quarter of a domain's burst of 500."""
    bench = Bench("email", rates="on", shards=4)
    taken = 0
    while bench.flow.judge(bench.to("reader@example.org").message) == 0.0:
        taken += 1
    assert taken in (124, 125)


async def test_a_new_sender_begins_low_and_only_that_sender() -> None:
    """First day: an hour's worth of 500 a day at once, then it is parked for hours; a known sender goes on."""
    bench = Bench("email", rates="on", warmup="new.example=2026-11-22")
    taken = 0
    while isinstance(found := bench.flow.judge(bench.to("reader@gmail.com", "news@new.example").message), float):
        taken += 1
    assert taken == 20
    assert found.after_s > 100.0
    assert bench.flow.judge(bench.to("reader@gmail.com").message) == 0.0
    bench.clock.at_s += 40 * 86_400.0
    assert bench.flow.judge(bench.to("reader@gmail.com", "news@new.example").message) == 0.0


def test_settings_that_cannot_be_understood_are_refused() -> None:
    """Each says what to do."""
    assert rates_apply(Settings(live=True))
    assert not rates_apply(Settings(live=True, rates="off"))
    with pytest.raises(SetupError, match="NEWSWIRE_RATES='fast'"):
        rates_apply(Settings(rates="fast"))
    assert warming("a.example=2026-11-20, B.example=2026-11-21") == {
        "a.example": datetime(2026, 11, 20, tzinfo=UTC), "b.example": datetime(2026, 11, 21, tzinfo=UTC),
    }  # fmt: skip
    with pytest.raises(SetupError, match="NEWSWIRE_WARMUP"):
        warming("a.example")
