"""What the processes of a channel share in the ledger's database, and the command that shows it."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, cast

import pytest

from core.errors import Unavailable
from core.flow.breaker import Change, State
from core.flow.bucket import Rate
from core.flow.rates import RATES, ChannelRates
from runtime.clock import SystemClock
from runtime.producer import Producer
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.records import Record
from schemas.sources import FileSource
from schemas.topics import Topics
from sinks.announcing import Announcer, Changed
from sinks.flight import Flight
from sinks.flow_store import FlowStore
from sinks.ledger import Pool, open_pool
from sinks.pacing import Paces
from sinks.provider import Message, Sender
from tests.fix_stack import Stack
from tests.sinks_kit import ROOT, environ_of, ledger_database
from tests.sinks_samples import delivery, issue

pytestmark = pytest.mark.stack


@pytest.fixture
def database(stack: Stack) -> Iterator[Settings]:
    """A database of this test's own."""
    with ledger_database(stack) as made:
        yield made


async def test_processes_together_take_no_more_than_the_rate(database: Settings) -> None:
    """Four at once, two of each lane, for a second: the burst, and what flowed in; both lanes got something."""
    rate, taken = Rate(200.0, 50.0), {"urgent": 0, "bulk": 0}
    async with open_pool(database.ledger_database_url, 4) as pool:
        began = time.monotonic()

        async def process(lane: str) -> None:
            store = FlowStore(pool, "email")
            while (past_s := time.monotonic() - began) < 1.0 or (
                past_s < 60 and (sum(taken.values()) < 50 or 0 in taken.values())
            ):
                taken[lane] += (await store.take(lane, 100, rate, None)).tokens

        await asyncio.gather(*(process(lane) for lane in ("urgent", "bulk", "urgent", "bulk")))
        took_s = time.monotonic() - began
    assert sum(taken.values()) <= 50 + 5 + 200.0 * took_s + 1
    assert sum(taken.values()) >= 50
    assert min(taken.values()) > 0


async def test_a_throttled_answer_of_one_process_slows_the_others(database: Settings) -> None:
    """The pause and the lower speed are in the row, and so is a new ceiling."""
    async with open_pool(database.ledger_database_url, 2) as pool:
        one, other = FlowStore(pool, "email"), FlowStore(pool, "email")
        assert (await one.take("urgent", 10, Rate(100.0, 100.0), None)).tokens == 10
        assert (await one.take("urgent", 10, Rate(100.0, 100.0), 30.0)).tokens == 0
        grant = await other.take("urgent", 10, Rate(100.0, 100.0), None)
        assert grant.tokens == 0
        assert grant.held_s > 25.0
        assert grant.per_s < 60.0
        assert (await other.take("urgent", 10, Rate(10.0, 10.0), None)).per_s <= 10.0
        assert (await FlowStore(pool, "slack").take("bulk", 1, Rate(20.0, 20.0), None)).tokens == 1


class Log:
    """A producer that keeps what it is given; it can be out of order."""

    def __init__(self) -> None:
        self.codec = Codec(topics := Topics(), FileSource(topics))
        self.said: list[tuple[str, str]] = []
        self.broken = False

    async def send(self, records: Sequence[Record]) -> list[int]:
        """Take records, or raise Unavailable."""
        if self.broken:
            raise Unavailable("no broker")
        for record in records:
            assert record.key is not None
            state = self.codec.decode_value(record.topic, record.value)[1]["state"]
            self.said.append((record.key.decode().removeprefix("breaker/"), state))
        return [0] * len(records)


def announcer(pool: Pool, log: Log, channel: str) -> Announcer:
    """A process that announces its breakers."""
    producer = cast(Producer, log)
    return Announcer(pool, log.codec, Topics(), producer, asyncio.Queue(), SystemClock(), channel=channel)


def changed(state: State, destination: str = "", reason: str = "4 of 4") -> Changed:
    """A change of a breaker at nine."""
    return Changed(destination, Change(state, reason), datetime(2026, 11, 22, 9, tzinfo=UTC))


async def test_a_breaker_is_as_bad_as_the_process_that_finds_it_worst(database: Settings) -> None:
    """One's closed does not hide another's open; what is said of all changes with the last of them, and is said once."""
    async with open_pool(database.ledger_database_url, 3) as pool:
        log = Log()
        one, other = announcer(pool, log, "slack"), announcer(pool, log, "slack")
        await one.take([changed("open"), changed("open", "aa")])
        await other.take([changed("open"), changed("half_open"), changed("closed"), changed("closed", "aa")])
        await announcer(pool, log, "email").take([changed("closed")])
        assert log.said == [("slack", "open"), ("slack/aa", "open")]
        noted = [(each.destination, each.state) for each in await FlowStore(pool, "slack").noted()]
        assert noted == [("", "open"), ("aa", "open")]
        await other.take([changed("open", "aa")])
        await one.take([changed("half_open"), changed("closed"), changed("closed", "aa")])
        assert log.said[2:] == [("slack", "half_open"), ("slack", "closed")]
        await other.take([changed("closed", "aa")])
        assert log.said[4:] == [("slack/aa", "closed")]


async def test_what_a_gone_process_held_counts_no_more(database: Settings) -> None:
    """Once it was not seen for a while another says so; one that was only slow says again what it holds."""
    async with open_pool(database.ledger_database_url, 3) as pool, await pool.getconn() as connection:
        log = Log()
        slow, gone, other = (announcer(pool, log, "slack") for _ in range(3))
        await slow.take([changed("open", "aa")])
        await gone.take([changed("open")])
        await other.take([])
        await other.take([])
        assert log.said == [("slack/aa", "open"), ("slack", "open")]
        await connection.execute("UPDATE ledger.breaker_processes SET seen_at = seen_at - interval '1 minute'")
        await connection.commit()
        await other.take([])
        assert sorted(log.said[2:]) == [("slack", "closed"), ("slack/aa", "closed")]
        await slow.take([])
        assert log.said[4:] == [("slack/aa", "open")]


async def test_nothing_is_announced_twice_or_never_when_kafka_does_not_answer(database: Settings) -> None:
    """What could not be produced is not written down as said."""
    async with open_pool(database.ledger_database_url, 3) as pool:
        log = Log()
        one = announcer(pool, log, "slack")
        log.broken = True
        with pytest.raises(Unavailable):
            await one.take([changed("open")])
        assert await FlowStore(pool, "slack").noted() == []
        log.broken = False
        for _ in range(2):
            await one.take([changed("open")])
        assert log.said == [("slack", "open")]


SLOW: Final = replace(RATES["slack"], destination=Rate(0.01, 5.0))
"""Five at once and then one in 100 s: what the test itself takes does not count."""


def paces(pool: Pool, lane: str, rates: ChannelRates = SLOW) -> Paces:
    """The turns of a process."""
    return Paces(
        FlowStore(pool, "slack"), rates, Flight(100), SystemClock(), lane=lane, shards=1, hashed=str.encode,
        day_of_sender=lambda message: 0,
    )  # fmt: skip


def turns(process: Paces, destination: str, most: int = 10) -> int:
    """Take turns until one is refused, at most so many; return how many were taken."""
    message = Message(delivery(), destination, issue(), Sender("Newswire", "news@newswire.example"))
    for taken in range(most):
        if not process.turn(destination, message, SystemClock().monotonic())[1]:
            return taken
    return most


async def test_a_destination_gets_its_rate_from_all_processes_together(database: Settings) -> None:
    """What one took the other cannot have; bulk makes room for urgent; a pause holds for both; mail domains are not shared."""
    async with open_pool(database.ledger_database_url, 2) as pool:
        urgent, bulk, other = paces(pool, "urgent"), paces(pool, "bulk"), paces(pool, "bulk")
        assert turns(urgent, "C1", 3) == 3
        await urgent.share()
        assert turns(bulk, "C1", 1) == 1, "it does not know yet"
        await bulk.share()
        assert turns(bulk, "C1") == 1
        await bulk.share()
        assert turns(urgent, "C1") == 2, "bulk's do not count against urgent"
        await urgent.share()
        assert turns(other, "C1", 1) == 1
        await other.share()
        assert turns(other, "C1") == 0
        assert turns(other, "C2") == 5

        other.slow("C3", Message(delivery(), "C3", issue(), Sender("Newswire", "news@newswire.example")), 0.0, 1e9)
        await other.share()
        assert turns(urgent, "C3", 1) == 1
        await urgent.share()
        assert turns(urgent, "C3") == 0

        mail = [paces(pool, "bulk", RATES["email"]) for _ in range(2)]
        for each in mail:
            assert turns(each, "example.org", 400) == 400
            await each.share()
        assert await names(pool) == {b"C1".hex(), b"C2".hex(), b"C3".hex()}
        async with pool.connection() as connection:
            for column in "free_at", "held_until":
                await connection.execute(
                    f"UPDATE ledger.paces SET {column} = {column} - interval '1 hour' WHERE {column} < now() + interval '1 hour'"
                )
        await FlowStore(pool, "slack").forget()
        assert await names(pool) == {b"C3".hex()}, "it is held still"


async def names(pool: Pool) -> set[str]:
    """Return the destinations that there are rows of."""
    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT destination FROM ledger.paces")
        return {row[0] async for row in cursor}


async def test_the_command_shows_breakers_rates_and_schedules(database: Settings) -> None:
    """What was said last of each breaker; the closed destination is gone; the shared speed; every wait."""
    async with open_pool(database.ledger_database_url, 1) as pool:
        log = Log()
        await announcer(pool, log, "webhook").take([changed("open", "aa"), changed("open", "bb"), changed("closed", "aa")])
        await announcer(pool, log, "slack").take([changed("open")])
        assert [n.destination for n in await FlowStore(pool, "webhook").noted()] == ["bb"]
        await FlowStore(pool, "slack").take("bulk", 1, Rate(20.0, 20.0), 60.0)

    def show(*options: str) -> str:
        code = "import sys; from runtime.commands import main; sys.argv[0] = 'newswire'; main()"
        command = [sys.executable, "-c", code, *options]
        return subprocess.run(command, cwd=ROOT, env=environ_of(database), capture_output=True, text=True, check=True).stdout

    rows = [json.loads(line) for line in show("--json", "channels").splitlines()]
    breakers = {(r["channel"], r["destination"]): r["breaker"] for r in rows if "breaker" in r}
    assert breakers == {
        ("email", "provider"): "closed", ("slack", "provider"): "open", ("discord", "provider"): "closed",
        ("webhook", "bb"): "open",
    }  # fmt: skip
    (bucket,) = [r for r in rows if r.get("of") == "provider" and r["channel"] == "slack"]
    assert bucket["per_second"] == 20.0
    assert bucket["held_for_s"] > 0
    assert {(r["channel"], r["lane"]) for r in rows if "in_the_ledger_s" in r} >= {("webhook", "bulk"), ("email", "urgent")}
    text = show("channels", "--channel", "webhook")
    assert "86,400" in text
    assert "Retry-After" in text
