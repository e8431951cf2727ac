"""Retries on a real broker, registry, PostgreSQL and sandbox: when, for whom, and after a claim that ended too early."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import psycopg
import pytest

from sinks.statements import EXPIRE
from tests import fix_sandbox
from tests.fix_sandbox import SandboxProcess
from tests.fix_stack import Stack
from tests.sinks_kit import Process, World, wait_for, world

pytestmark = pytest.mark.stack
sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox

SECRET = "whsec_bmV3c3dpcmUtZGVtby1zZWNyZXQtb2YtMzItYnl0ZXM="


@pytest.fixture(scope="module")
def sinks(stack: Stack, sandbox_process: SandboxProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Topics and databases, with consent running; each test starts the sink that it needs."""
    with world(
        stack,
        tmp_path_factory.mktemp("retries"),
        slack_base_url=f"{sandbox_process.url}/slack/api/",
        webhook_allow_http_loopback=True,
        provider_timeout_s=2.0,
        lease_s=4.0,
        sweep_interval_s=0.3,
        instance_id="only",  # a process that was killed is followed at once
    ) as one:
        one.define_newsletter()
        one.start("consent")
        yield one


@pytest.fixture
def start(sinks: World) -> Iterator[Any]:
    """Start a process that ends with the test."""
    mine: list[Process] = []

    def begin(process: str, **environment: str) -> Process:
        mine.append(sinks.start(process, **environment))
        return mine[-1]

    yield begin
    for one in mine:
        one.kill()


class Silence:
    """A server that takes requests and never answers."""

    def __init__(self) -> None:
        self.asked = 0
        self.url = ""
        self._loop = asyncio.new_event_loop()
        listening = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(listening),))
        self._thread.start()
        assert listening.wait(60)

    async def _serve(self, listening: threading.Event) -> None:
        self._end = asyncio.Event()
        async with await asyncio.start_server(self._taken, "127.0.0.1", 0, backlog=512) as server:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            listening.set()
            await self._end.wait()

    async def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        await self._end.wait()
        writer.close()

    def stop(self) -> None:
        """Hang up."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()


@pytest.fixture
def silence() -> Iterator[Silence]:
    """Endpoints that do not answer."""
    one = Silence()
    yield one
    one.stop()


def hooks(sinks: World, urls: list[str]) -> list[dict[str, Any]]:
    """Requests to endpoints, one each."""
    addresses = [f'{{"url": "{url}", "secret": "{SECRET}"}}' for url in urls]
    return sinks.requests(len(urls), addresses, channel="webhook", items=[sinks.publish()])


def sent(sinks: World, requests: list[dict[str, Any]]) -> int:
    """Return how many of these were sent."""
    ids = [r["delivery_id"][9:] for r in requests]
    (row,) = sinks.ledger("SELECT count(*) FROM ledger.deliveries WHERE delivery_id = ANY(%s::uuid[]) AND state = 'sent'", ids)
    return int(row[0])


def test_a_webhook_is_tried_again_when_its_schedule_says(sinks: World, start: Any, sandbox: SandboxProcess) -> None:
    """One call, then 5 s, 5 min and 30 min, +-20 %: what `newswire channels` shows is what the delivery's history has."""
    sandbox.fault("webhook", "error", only="steps")
    start("webhook-bulk")
    (request,) = hooks(sinks, [f"{sandbox.url}/hooks/steps"])
    sinks.deliver([request])
    parked = "SELECT history FROM ledger.deliveries WHERE delivery_id = %s::uuid AND jsonb_array_length(history) = %s"
    for times in (1, 2, 3):
        ((history,),) = wait_for(lambda n=times: sinks.ledger(parked, request["delivery_id"][9:], n), "it to be parked")
        sinks.ledger("UPDATE ledger.deliveries SET next_attempt_at = now() WHERE state = 'retry' AND channel = 'webhook'")
    at = [(datetime.fromisoformat(one["due_at"]) - datetime.fromisoformat(one["at"])).total_seconds() for one in history]
    (row,) = (r for r in sinks.command("channels", "--channel", "webhook") if (r.get("lane"), "jitter" in r) == ("bulk", True))
    assert (row["in_the_process_s"], row["jitter"]) == ([], "80% to 120%")
    assert row["in_the_ledger_s"][:3] == [5, 300, 1800]
    assert all(0.8 * step - 0.1 <= waited <= 1.2 * step + 0.1 for step, waited in zip(row["in_the_ledger_s"], at, strict=False))
    assert [one["attempt"] for one in history] == [1, 2, 3]


def test_endpoints_that_do_not_answer_hold_up_nobody(sinks: World, start: Any, sandbox: SandboxProcess, silence: Silence) -> None:
    """A hundred and more endpoints take the request and say nothing, for a minute: the others get theirs meanwhile."""
    start("webhook-bulk", NEWSWIRE_PROVIDER_TIMEOUT_S="200", NEWSWIRE_LEASE_S="210").wait_running()
    urls = [f"{silence.url}/{number}" for number in range(128)] + [f"{sandbox.url}/hooks/well{number}" for number in range(10)]
    requests = hooks(sinks, urls)
    sinks.deliver(requests[:128])
    wait_for(lambda: silence.asked >= 32, "calls that nobody answers")
    sinks.deliver(requests[128:])
    wait_for(lambda: sent(sinks, requests[128:]) == 10, "the others to be sent")
    assert sent(sinks, requests) == 10


def test_what_lost_its_claim_before_the_call_is_sent_after_all(sinks: World, start: Any, sandbox: SandboxProcess) -> None:
    """The ledger, or the process, stands still for longer than a lease: what waits for its call is taken for unknown by
    others, and the one that knows that no call was made gives it back. Nothing is left to a person, nothing is sent twice."""
    sandbox.fault("slack", "error")
    sink = start("slack-bulk")
    requests = sinks.requests(30, [f"C0{number:04d}" for number in range(30)], channel="slack", items=[sinks.publish()])
    sinks.deliver(requests)
    wait_for(lambda: sinks.ledger("SELECT 1 FROM ledger.breakers WHERE channel = 'slack' AND state = 'open'"), "it to open")
    claimed = "SELECT count(*) FROM ledger.deliveries WHERE channel = 'slack' AND state = 'claimed'"
    wait_for(lambda: sinks.ledger(claimed)[0][0] >= 10, "claims that wait")
    os.kill(sink.pid, signal.SIGSTOP)
    wait_for(lambda: sinks.ledger(claimed + " AND lease_until > now()") == [(0,)], "the leases to end")
    with psycopg.connect(sinks.settings.ledger_database_url, autocommit=True) as other:
        lost = other.execute(EXPIRE, {"channel": "slack", "lane": "bulk", "limit": 500}).fetchall()
    assert len(lost) >= 10
    sandbox.ask("/control/faults", method="DELETE")
    os.kill(sink.pid, signal.SIGCONT)
    wait_for(lambda: sent(sinks, requests) == 30, "all to be sent")
    assert set(sandbox.counts("delivery_id", outcome="accepted").values()) == {1}
