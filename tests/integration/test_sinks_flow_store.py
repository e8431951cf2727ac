"""What the processes of a channel share in the ledger's database, and the command that shows it."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from core.flow.bucket import Rate
from runtime.settings import Settings
from sinks.flow_store import FlowStore, Noted
from sinks.ledger import open_pool
from tests.fix_stack import Stack
from tests.sinks_kit import ROOT, environ_of, ledger_database

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
            while time.monotonic() - began < 1.0:
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


async def test_the_command_shows_breakers_rates_and_schedules(database: Settings) -> None:
    """What was noted last of each breaker; the closed destination is gone; the shared speed; every wait."""
    at = datetime(2026, 11, 22, 9, tzinfo=UTC)
    async with open_pool(database.ledger_database_url, 1) as pool:
        store = FlowStore(pool, "webhook")
        await store.note([Noted("webhook", "aa", "open", "4 of 4", at), Noted("webhook", "bb", "open", "4 of 4", at)])
        await store.note([Noted("webhook", "aa", "closed", "it works again", at)])
        await FlowStore(pool, "slack").note([Noted("slack", "", "open", "5 of 5", at)])
        assert [n.destination for n in await store.noted()] == ["bb"]
        await FlowStore(pool, "slack").take("bulk", 1, Rate(20.0, 20.0), 5.0)

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
