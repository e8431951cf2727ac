"""kill -9 of a sink between every pair of its steps, counted at the provider: nothing lost, nothing twice, all reported."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests import fix_sandbox
from tests.fix_sandbox import SandboxProcess
from tests.fix_stack import Stack
from tests.sinks_kit import World, wait_for, world

pytestmark = pytest.mark.stack
sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox

SENT, UNKNOWN = ("DeliverySent", None, 1), ("DeliveryUnknown", "lease_expired", 1)
KILLED_BY = -9


@pytest.fixture(scope="module")
def sinks(stack: Stack, sandbox_process: SandboxProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Topics and databases, with consent running, leases for slow machines, and a static member: nobody waits for a session."""
    with world(
        stack,
        tmp_path_factory.mktemp("sinks"),
        ses_endpoint_url=f"{sandbox_process.url}/ses",
        webhook_allow_http_loopback=True,
        provider_timeout_s=5.0,
        lease_s=6.0,
        sweep_interval_s=0.3,
        instance_id="only",
    ) as one:
        one.define_newsletter()
        one.start("consent")
        yield one


def kill_and_restart(sinks: World, failpoint: str, requests: list[dict[str, Any]], process: str = "ses-bulk") -> dict[str, Any]:
    """Deliver to a sink that dies at a failpoint, start it again, and return all reports once every delivery has one."""
    dying = sinks.start(process, NEWSWIRE_FAILPOINTS=f"{failpoint}=kill")
    sinks.deliver(requests)
    assert wait_for(dying.ended, f"the kill at {failpoint}") == KILLED_BY
    again = sinks.start(process)
    states: dict[str, Any] = {}

    def settled() -> bool:
        nonlocal states
        states = sinks.states(requests)
        return all(states.values())

    wait_for(settled, "a report of every delivery")
    wait_for(
        lambda: sinks.ledger("SELECT count(*) FROM ledger.deliveries WHERE reported_at IS NULL") == [(0,)],
        "the outbox to be empty",
    )
    total = sinks.ledger("SELECT count(*) FROM ledger.deliveries")[0][0]
    wait_for(lambda: sum(sinks.committed().values()) == total, "every offset to be committed")
    again.wait_running()
    assert again.stop() == 0
    return sinks.states(requests)


STEPS = (
    "after_poll",
    "after_claim",
    "before_call",
    "after_call",
    "after_outcome",
    "after_status",
    "after_reported",
    "after_commit",
)


@pytest.mark.parametrize("failpoint", STEPS)
def test_survives_a_kill(sinks: World, sandbox: SandboxProcess, failpoint: str) -> None:
    """Only what was claimed and has no outcome is unknown, and that is never sent again; everything else is sent once."""
    requests = sinks.requests(40, items=[sinks.publish()])
    states = kill_and_restart(sinks, f"sink.{failpoint}", requests)
    hits = sandbox.counts("delivery_id")
    assert all(found in ([SENT], [UNKNOWN]) for found in states.values()), states
    assert set(hits.values()) <= {1}
    unknown = {delivery_id for delivery_id, found in states.items() if found == [UNKNOWN]}
    if failpoint in ("after_claim", "before_call"):
        assert unknown
        assert not unknown & set(hits)
    elif failpoint == "after_call":
        assert unknown
        assert unknown <= set(hits)
    elif failpoint == "after_poll":
        assert not unknown
    else:
        assert len(unknown) < len(requests)  # what had its outcome keeps it; another call may have been under way
    assert {r["delivery_id"] for r in requests} - unknown <= set(hits)


def test_keeps_a_late_retry_from_being_sent_twice(sinks: World, sandbox: SandboxProcess) -> None:
    """Killed after a refused call was parked and claimed again: that attempt is unknown, and no third call is made for it."""
    requests = sinks.requests(3, items=[sinks.publish()])
    sandbox.fault("ses", "throttle", count=3)
    dying = sinks.start("ses-bulk", NEWSWIRE_FAILPOINTS="sink.before_call=kill@4")
    sinks.deliver(requests)
    assert wait_for(dying.ended, "the kill") == KILLED_BY
    again = sinks.start("ses-bulk")
    wait_for(lambda: all(sinks.states(requests).values()), "a report of every delivery")
    assert again.stop() == 0
    hits = sandbox.counts("delivery_id")
    for delivery_id, found in sinks.states(requests).items():
        assert [name for name, _, _ in found] in (["DeliverySent"], ["DeliveryUnknown"])
        assert hits.get(delivery_id, 0) == (1 if found[0][0] == "DeliverySent" else 0)
        assert found[0][2] >= 2
