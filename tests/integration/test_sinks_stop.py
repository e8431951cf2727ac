"""Stop and resume on a real broker, PostgreSQL and sandbox: what reaches the provider afterwards, counted there."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests import fix_sandbox
from tests.fix_sandbox import SandboxProcess
from tests.fix_stack import Stack
from tests.sinks_kit import Process, World, wait_for, world

pytestmark = pytest.mark.stack
sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox

SLOT = "daily@2026-11-22T09:00Z"


@pytest.fixture(scope="module")
def sinks(stack: Stack, sandbox_process: SandboxProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Topics and databases, with consent, the guard and a mail sink running."""
    with world(
        stack, tmp_path_factory.mktemp("stop"), ses_endpoint_url=f"{sandbox_process.url}/ses", provider_timeout_s=10.0,
        lease_s=15.0, sweep_interval_s=0.3,
    ) as one:  # fmt: skip
        one.define_newsletter()
        one.define_newsletter("weekly")
        one.start("consent")
        one.start("guard")
        yield one


@pytest.fixture(scope="module")
def ses(sinks: World) -> Process:
    """The bulk mail sink."""
    return sinks.start("ses-bulk")


def unsettled(sinks: World, requests: list[dict[str, Any]]) -> list[str]:
    """Deliveries without a report."""
    return [delivery_id for delivery_id, found in sinks.states(requests).items() if not found]


def held_of(sinks: World, source_id: str) -> int:
    """How many deliveries of a source are held."""
    statement = "SELECT count(*) FROM ledger.deliveries WHERE state = 'retry' AND reason = 'stopped' AND source_id = %s"
    return int(sinks.ledger(statement, source_id)[0][0])


@pytest.mark.parametrize("scope", [("all",), ("channel", "email"), ("source", SLOT), ("source", "daily")], ids="-".join)
def test_holds_within_two_seconds_and_sends_the_rest_once_when_resumed(
    sinks: World, ses: Process, sandbox: SandboxProcess, scope: tuple[str, ...]
) -> None:
    """No call for it begins later than 2 s after the command has ended; others go on; resumed, everything is sent once."""
    sandbox.fault("ses", "slow_body", delay_s=2.0)
    item = sinks.publish()
    stopped = sinks.requests(1500, items=[item], source_id=SLOT)
    sinks.deliver(stopped)
    wait_for(lambda: sandbox.counts().get("ses", 0) > 100, "the sending to begin")
    assert sinks.command("stop", *scope, "--reason", "Wrong data")[0]["action"] == "stop"
    acknowledged = datetime.now(UTC)
    other = sinks.requests(20, items=[item], source_id="weekly@2026-11-22T09:00Z", newsletter_id="weekly")
    sinks.deliver(other)
    wait_for(lambda: len(unsettled(sinks, stopped)) == held_of(sinks, SLOT), "everything that was not sent to be held")
    held = held_of(sinks, SLOT)
    assert sum(row["count"] for row in sinks.command("held") if row["source"] == SLOT) == held
    assert held > 100, "the test was too slow to stop anything"
    ids = {r["delivery_id"] for r in stopped}
    late = [
        line for line in sandbox.lines()
        if line["delivery_id"] in ids and datetime.fromisoformat(line["at"]) > acknowledged + timedelta(seconds=2)
    ]  # fmt: skip
    assert late == []
    goes_on = scope[0] == "source"
    wait_for(lambda: len(unsettled(sinks, other)) == (0 if goes_on else 20), "the other newsletter")
    named = [row for row in sinks.command("stops") if row["control_id"] == "/".join(scope)]
    assert [(row["reason"], row["changed_by"]) for row in named] == [("Wrong data", "cli")]
    sandbox.ask("/control/faults", method="DELETE")
    sinks.command("resume", *scope, "--reason", "Mended")
    wait_for(lambda: not unsettled(sinks, stopped + other), "everything to be sent")
    assert sandbox.counts("delivery_id") == {r["delivery_id"]: 1 for r in stopped + other}
    assert {found[-1] for found in sinks.states(stopped + other).values()} == {("DeliverySent", None, 1)}
    assert held_of(sinks, SLOT) == 0


def test_a_held_delivery_ends_as_stopped_when_it_is_not_worth_sending_any_more(
    sinks: World, ses: Process, sandbox: SandboxProcess
) -> None:
    """It says why it was not sent: not that it was late, but that somebody had stopped it."""
    sinks.command("stop", "source", "daily", "--reason", "Wrong data")
    wait_for(lambda: sinks.ledger("SELECT 1 FROM ledger.barred WHERE subject = 'stop:src:daily'"), "the stop")
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=15)
    requests = sinks.requests(5, items=[sinks.publish()], not_after=soon)
    sinks.deliver(requests)
    wait_for(lambda: not unsettled(sinks, requests), "the end")
    assert {found[0] for found in sinks.states(requests).values()} == {("DeliverySuppressed", "stopped", 0)}
    assert sandbox.counts().get("ses", 0) == 0
    sinks.command("resume", "source", "daily", "--reason", "Mended")


def test_a_stop_holds_over_a_restart(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """A sink, and a guard, that start while something is stopped know it before the first call."""
    sinks.command("stop", "channel", "email", "--reason", "The account is being moved")
    assert ses.stop() == 0
    requests = sinks.requests(30, items=[sinks.publish()])
    sinks.deliver(requests)
    again = sinks.start("ses-bulk")
    guard = next(p for p in sinks.processes if p.name == "guard")
    assert guard.stop() == 0
    wait_for(lambda: held_of(sinks, SLOT) == 30, "all to be held")
    assert sandbox.counts().get("ses", 0) == 0
    sinks.command("resume", "channel", "email", "--reason", "Moved")
    sinks.start("guard")
    wait_for(lambda: not unsettled(sinks, requests), "everything to be sent")
    assert sandbox.counts("delivery_id") == {r["delivery_id"]: 1 for r in requests}
    assert again.stop() == 0


def test_an_address_that_was_replaced_gets_nothing_that_was_decided_for_it(sinks: World, sandbox: SandboxProcess) -> None:
    """Unlinked, then linked and verified with another address: what was on its way to the old one is not sent."""
    process = sinks.start("ses-bulk")
    (old,) = sinks.requests(1, items=[sinks.publish()])
    subscriber = old["subscriber_id"]
    address = sinks.keys.encrypt(subscriber, "address.email", b"new@example.org")
    sinks.change("ChannelUnlinked", subscriber, channel="email", reason="requested", unlinked_at=datetime.now(UTC))
    sinks.change("ChannelLinked", subscriber, channel="email", address=address, linked_at=datetime.now(UTC))
    sinks.change("ChannelVerified", subscriber, channel="email", method="operator", verified_at=datetime.now(UTC))
    wait_for(lambda: sinks.ledger("SELECT 1 FROM ledger.barred WHERE subject = %s", f"sub:{subscriber}/ch:email"), "the bar")
    wait_for(lambda: sinks.ledger("SELECT 1 FROM ledger.barred WHERE except_for IS NOT NULL"), "the new address")
    (template,) = sinks.requests(1, items=old["items"])
    new = {**template, "subscriber_id": subscriber, "address": address}
    sinks.deliver([old, new])
    wait_for(lambda: not unsettled(sinks, [old, new]), "both to be settled")
    states = sinks.states([old, new])
    assert states[old["delivery_id"]] == [("DeliverySuppressed", "unlinked", 0)]
    assert states[new["delivery_id"]] == [("DeliverySent", None, 1)]
    assert process.stop() == 0
