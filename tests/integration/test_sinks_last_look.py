"""The look at consent between a connection and its request: with every provider's real client, and in a whole sink process."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.outcomes import Sent, Unknown
from sinks.last_look import Look
from tests import fix_sandbox
from tests.fix_sandbox import SandboxProcess
from tests.fix_stack import Stack
from tests.sinks_kit import World, metric, wait_for, world
from tests.sinks_samples import SECRET, Answers, address, free_port, http, opened, prepared

sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox
FOLLOWED = 'newswire_follower_applied_total{follower="sink-webhook-bulk"}'


@pytest.mark.parametrize("channel", ["email", "slack", "discord", "webhook"])
async def test_writes_no_request_when_somebody_objects_once_the_connection_is_there(
    channel: str, sandbox: SandboxProcess
) -> None:
    """The provider sees a connection and not a byte; the next call of the same client is made, on a kept connection too."""
    async with Answers(http(200)) as server, opened(channel, server.url) as provider:
        refused = Look(lambda: False)
        with refused.during():
            outcomes = await provider.call([prepared(provider, address(channel, server.url))])
        assert refused.refused
        assert outcomes == [Unknown("answer_lost")]
        assert server.requests == []
    async with opened(channel, sandbox.url) as provider:
        for may_go in (True, False, True):
            look = Look(lambda may_go=may_go: may_go)  # type: ignore[misc]
            with look.during():
                outcomes = await provider.call([prepared(provider, address(channel, sandbox.url))])
            assert look.refused is not may_go
            assert isinstance(outcomes[0], Sent) is may_go


async def test_looks_again_before_what_discord_was_throttled_for() -> None:
    """hikari waits for a 429 by itself: what was objected to meanwhile is not asked for a second time."""
    throttled = http(
        429, '{"message": "slow down", "retry_after": 0.2, "global": false}', Retry_After="1", X_RateLimit_Scope="user"
    )
    async with Answers(throttled) as server, opened("discord", server.url) as provider:
        look = Look(lambda: not server.requests)
        with look.during():
            await provider.call([prepared(provider, address("discord", server.url))])
        assert look.refused
        assert len(server.requests) == 1


@pytest.fixture(scope="module")
def port() -> int:
    """Where the sink shows its metrics."""
    return free_port()


@pytest.fixture(scope="module")
def sinks(stack: Stack, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Topics and databases, with consent and a webhook sink running."""
    with world(
        stack, tmp_path_factory.mktemp("look"), webhook_allow_http_loopback=True, provider_timeout_s=20.0, lease_s=25.0,
        sweep_interval_s=0.3,
    ) as one:  # fmt: skip
        one.define_newsletter()
        one.start("consent")
        one.start("webhook-bulk", NEWSWIRE_METRICS_PORT=str(port)).wait_running()
        yield one


@contextlib.contextmanager
def full_house() -> Iterator[tuple[socket.socket, list[tuple[str, int]]]]:
    """A listening socket whose queue is full of guests: who connects waits until somebody is accepted."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        listening.settimeout(1.0)
        guests = [stack.enter_context(socket.socket()) for _ in range(2)]
        for guest in guests:
            guest.setblocking(False)
            guest.connect_ex(listening.getsockname())
        yield listening, [guest.getsockname() for guest in guests]


def connecting(port: int) -> int:
    """How many connections to a port are being opened (state SYN_SENT)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return sum(1 for line in lines if line[2].endswith(f":{port:04X}") and line[3] == "02")


@pytest.mark.stack
def test_an_unsubscribe_while_the_connection_is_being_opened_is_in_time(sinks: World, port: int) -> None:
    """The destination takes seconds to accept: whoever unsubscribes meanwhile gets nothing, the other one does."""
    asked: list[bytes] = []
    known = metric(port, FOLLOWED)
    with full_house() as (listening, guests):
        there = listening.getsockname()[1]
        urls = [json.dumps({"url": f"http://127.0.0.1:{there}/{name}", "secret": SECRET}) for name in ("leaves", "stays")]
        requests = sinks.requests(2, urls, channel="webhook", items=[sinks.publish()])
        waiting = connecting(there)
        sinks.deliver(requests)
        wait_for(lambda: connecting(there) >= waiting + 2, "both connections to be under way")
        leaves = requests[0]["subscriber_id"]
        sinks.change(
            "SubscriberUnsubscribed", leaves, newsletter_id="daily", kind="newsletter", via="page", delivery_id=None,
            unsubscribed_at=datetime.now(UTC),
        )  # fmt: skip
        wait_for(lambda: metric(port, FOLLOWED) == known + 2, "the sink to know the publication and the unsubscribe")
        until = time.monotonic() + 90
        while time.monotonic() < until and any(not found for found in sinks.states(requests).values()):
            with contextlib.suppress(TimeoutError):
                caller, whence = listening.accept()
                caller.settimeout(15.0)
                with caller, contextlib.suppress(TimeoutError, ConnectionError):
                    if whence not in guests and (head := caller.recv(65_536)):
                        asked.append(head)
                        caller.sendall(http(200))
    assert [line.split(b" ")[1] for line in asked] == [b"/stays"]
    reports = sinks.states(requests)
    assert reports[requests[0]["delivery_id"]] == [("DeliverySuppressed", "unsubscribed", 0)]
    assert reports[requests[1]["delivery_id"]][-1][0] == "DeliverySent"
