"""Recall on a real broker, PostgreSQL and sandbox: what was not sent stays unsent, what was sent is edited, all is recorded."""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from core.ids import discord_nonce
from core.names import CHANNELS
from tests import fix_sandbox
from tests.fix_sandbox import SandboxProcess
from tests.fix_stack import Stack
from tests.sinks_kit import Process, World, wait_for, world

pytestmark = pytest.mark.stack
sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox

SECRET = "whsec_bmV3c3dpcmUtZGVtby1zZWNyZXQtb2YtMzItYnl0ZXM="
EDITED = {"email": {("not_editable", None)}} | {channel: {("edited", None)} for channel in ("slack", "discord", "webhook")}
"""What becomes of recipients who have the message."""


@pytest.fixture(scope="module")
def sinks(stack: Stack, sandbox_process: SandboxProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Topics and databases, with consent and the guard running."""
    url = sandbox_process.url
    with world(
        stack,
        tmp_path_factory.mktemp("recall"),
        ses_endpoint_url=f"{url}/ses",
        slack_base_url=f"{url}/slack/api/",
        discord_base_url=f"{url}/discord/api/v10",
        webhook_allow_http_loopback=True,
        sweep_interval_s=0.3,
    ) as one:
        one.define_newsletter()
        one.start("consent")
        one.start("guard")
        yield one


@pytest.fixture(scope="module")
def senders(sinks: World) -> dict[str, Process]:
    """A sink a channel, of the lane for newsletters."""
    return {name: sinks.start(f"{name}-bulk") for name in ("ses", "slack", "discord", "webhook")}


def addresses(sandbox: SandboxProcess) -> dict[str, str]:
    """An address on each channel."""
    endpoint = json.dumps({"url": f"{sandbox.url}/hooks/{uuid.uuid4().hex}", "secret": SECRET})
    number = str(uuid.uuid4().int)
    return {"email": f"{number}@example.org", "slack": f"C{number[:9]}", "discord": f"1{number[:17]}", "webhook": endpoint}


def on_each(sinks: World, sandbox: SandboxProcess, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
    """Requests to new subscribers, so many on each channel."""
    return [
        request
        for _ in range(count)
        for channel, address in addresses(sandbox).items()
        for request in sinks.requests(1, [address], channel=channel, **fields)
    ]


def settle(sinks: World, requests: list[dict[str, Any]]) -> dict[str, list[tuple[str, str | None, int]]]:
    """Wait until every delivery has a report."""
    wait_for(lambda: all(sinks.states(requests).values()), "every delivery to be reported")
    return sinks.states(requests)


def retract(sinks: World, item: dict[str, Any]) -> None:
    """Retract a publication."""
    publication_id = item["publication_id"]
    value = {
        "publication_id": publication_id, "reason": "wrong data", "retracted_by": "cli", "retracted_at": datetime.now(UTC),
    }  # fmt: skip
    sinks.produce(sinks.topics.publications, "PublicationRetracted", value, publication_id)


def edits(sinks: World, subject: str) -> dict[str, set[tuple[str, str | None]]]:
    """Wait until a recall is finished; (state, reason) of its recipients by channel."""
    wait_for(
        lambda: (
            sinks.ledger("SELECT 1 FROM ledger.recalls WHERE subject = %s AND found_at IS NOT NULL", subject)
            and not sinks.ledger("SELECT 1 FROM ledger.edits WHERE subject = %s AND state = 'pending'", subject)
        ),
        "the recall to be finished",
    )
    rows = sinks.ledger("SELECT channel, state, reason FROM ledger.edits WHERE subject = %s", subject)
    return {channel: {row[1:] for row in rows if row[0] == channel} for channel in CHANNELS}


def shown(sandbox: SandboxProcess, channel: str, delivery_id: str) -> str:
    """What a recipient sees of a delivery now; Discord knows it by its nonce."""
    messages = sandbox.ask(f"/inbox/messages?channel={channel}")["messages"]
    name = discord_nonce(delivery_id) if channel == "discord" else delivery_id
    return json.dumps([m["body"] for m in messages if m["delivery_id"] == name])


def test_edits_what_was_sent_wherever_the_channel_can(sinks: World, senders: dict[str, Process], sandbox: SandboxProcess) -> None:
    """Slack and Discord lose the item, a webhook gets an event of its own, mail stays; each recipient has a row."""
    kept, gone = sinks.publish(), sinks.publish()
    requests = on_each(sinks, sandbox, items=[gone, kept])
    unconcerned = on_each(sinks, sandbox, items=[kept])
    sinks.deliver(requests + unconcerned)
    settle(sinks, requests + unconcerned)
    retract(sinks, gone)
    found = edits(sinks, f"pub:{gone['publication_id']}")
    assert found == EDITED
    assert sinks.ledger("SELECT count(*) FROM ledger.edits WHERE request IS NOT NULL") == [(0,)]
    assert sandbox.counts(outcome="updated") == {"ses": 0, "slack": 1, "discord": 1, "webhook": 0}
    for request in requests[1:3]:
        text = shown(sandbox, request["channel"], request["delivery_id"])
        assert f"Result {kept['publication_id']}" in text
        assert "Retracted on" in text
    events = [m["body"]["payload"] for m in sandbox.ask("/inbox/messages?channel=webhook")["messages"]]
    (event,) = [e for e in events if e["type"] == "newswire.publication.retracted"]
    assert event["data"]["delivery_id"] == requests[3]["delivery_id"]
    assert event["data"]["publication_ids"] == [gone["publication_id"]]
    assert {found[-1] for found in sinks.states(requests).values()} == {("DeliverySent", None, 1)}
    told = {(row["channel"], row["state"]): row["count"] for row in sinks.command("recalls", gone["publication_id"])}
    assert told == {("email", "not_editable"): 1, ("slack", "edited"): 1, ("discord", "edited"): 1, ("webhook", "edited"): 1}


def test_what_was_not_sent_yet_is_recorded_for_each_recipient(
    sinks: World, senders: dict[str, Process], sandbox: SandboxProcess
) -> None:
    """Providers are down, everything is parked: retracted, it is suppressed at once and not when its next attempt is due."""
    for provider in ("ses", "slack", "discord", "webhook"):
        sandbox.fault(provider, "error", retry_after_s=300)
    kept, gone = sinks.publish(), sinks.publish()
    alone, both = on_each(sinks, sandbox, items=[gone]), on_each(sinks, sandbox, items=[gone, kept])
    sinks.deliver(alone + both)
    ids = [request["delivery_id"][9:] for request in alone + both]
    park = """UPDATE ledger.deliveries SET next_attempt_at = now() + interval '1 hour'
              WHERE state = 'retry' AND delivery_id = ANY(%s::uuid[]) RETURNING 1"""
    wait_for(lambda: len(sinks.ledger(park, ids)) == 8, "everything to be parked, and to stay so")
    retract(sinks, gone)
    states = settle(sinks, alone)
    assert {found[-1][:2] for found in states.values()} == {("DeliverySuppressed", "empty_issue")}
    sandbox.ask("/control/faults", method="DELETE")
    sinks.ledger("UPDATE ledger.deliveries SET next_attempt_at = now() WHERE state = 'retry'")
    settle(sinks, both)
    found = edits(sinks, f"pub:{gone['publication_id']}")
    assert found == {channel: {("not_sent", "empty_issue"), ("left_out", None)} for channel in CHANNELS}
    late = on_each(sinks, sandbox, items=[gone, kept])
    sinks.deliver(late)
    settle(sinks, late)
    count = "SELECT count(*) FROM ledger.edits WHERE subject = %s AND state = 'left_out'"
    wait_for(lambda: sinks.ledger(count, f"pub:{gone['publication_id']}") == [(8,)], "those who were decided before to be found")
    assert sandbox.counts(outcome="updated")["slack"] == 0


def test_follows_an_alert_about_a_retracted_publication(sinks: World, sandbox: SandboxProcess) -> None:
    """Sent, it is edited; not sent, it is suppressed as retracted; one about something else is left alone."""
    processes = [sinks.start(f"{name}-urgent") for name in ("slack", "webhook")]
    item = sinks.publish()
    about, other = sinks.raise_alert(item["publication_id"]), sinks.raise_alert()
    targets = addresses(sandbox)

    def send(alert: dict[str, Any]) -> list[dict[str, Any]]:
        requests = [
            request
            for channel in ("slack", "webhook")
            for request in sinks.requests(1, [targets[channel]], channel=channel, lane="urgent", **alert)
        ]
        sinks.deliver(requests)
        settle(sinks, requests)
        return requests

    sent = send(about) + send(other)
    retract(sinks, item)
    found = edits(sinks, f"pub:{item['publication_id']}")
    assert (found["slack"], found["webhook"]) == ({("edited", None)}, {("edited", None)})
    assert sinks.ledger("SELECT count(*) FROM ledger.edits WHERE subject = %s", f"pub:{item['publication_id']}") == [(2,)]
    assert "Retracted on" in shown(sandbox, "slack", sent[0]["delivery_id"])
    assert "Retracted on" not in shown(sandbox, "slack", sent[2]["delivery_id"])
    late = send(about)
    assert {found[0] for found in sinks.states(late).values()} == {("DeliverySuppressed", "retracted", 0)}
    cancelled = {"alert_id": other["source_id"], "reason": "false alarm", "cancelled_at": datetime.now(UTC)}
    sinks.produce(sinks.topics.alerts, "AlertCancelled", cancelled, other["source_id"])
    assert edits(sinks, f"alert:{other['source_id']}")["slack"] == {("edited", None)}
    for process in processes:
        assert process.stop() == 0


def test_tries_an_edit_again_and_calls_nobody_who_left(
    sinks: World, senders: dict[str, Process], sandbox: SandboxProcess
) -> None:
    """A provider that is down or throttles is asked again; who unlinked the channel or was erased is not called."""
    gone = sinks.publish()
    requests = on_each(sinks, sandbox, count=3, items=[gone])
    sinks.deliver(requests)
    settle(sinks, requests)
    slack = [r for r in requests if r["channel"] == "slack"]
    webhook = [r for r in requests if r["channel"] == "webhook"]
    sinks.change("ChannelUnlinked", slack[0]["subscriber_id"], channel="slack", reason="requested", unlinked_at=datetime.now(UTC))
    sinks.keys.destroy(slack[1]["subscriber_id"])
    left = {
        "newsletter_id": "daily",
        "kind": "newsletter",
        "via": "page",
        "delivery_id": None,
        "unsubscribed_at": datetime.now(UTC),
    }
    sinks.change("SubscriberUnsubscribed", slack[2]["subscriber_id"], **left)
    sinks.change("SubscriberUnsubscribed", webhook[0]["subscriber_id"], **left)
    sandbox.fault("slack", "throttle", retry_after_s=2, count=1)
    sandbox.fault("discord", "error", count=2)
    sandbox.fault("webhook", "drop_after_accept", count=1)
    guard = next(p for p in sinks.processes if p.name == "guard")
    assert guard.stop() == 0  # its keys are in memory for a minute
    retract(sinks, gone)
    sinks.start("guard")
    found = edits(sinks, f"pub:{gone['publication_id']}")
    assert found["slack"] == {("failed", "unlinked"), ("failed", "erased"), ("edited", None)}
    assert found["discord"] == {("edited", None)}
    assert found["webhook"] == {("failed", "unsubscribed"), ("edited", None)}
    assert sinks.ledger("SELECT max(attempts) > 1 FROM ledger.edits WHERE channel = 'discord'") == [(True,)]
    assert sandbox.counts(outcome="updated") == {"ses": 0, "slack": 1, "discord": 3, "webhook": 0}


def test_a_guard_that_is_killed_goes_on_where_it_was(sinks: World, senders: dict[str, Process], sandbox: SandboxProcess) -> None:
    """What was retracted while none runs, or while one is killed in the middle, is followed up by the next."""
    gone = sinks.publish()
    requests = on_each(sinks, sandbox, count=10, items=[gone])
    sinks.deliver(requests)
    settle(sinks, requests)
    sandbox.fault("discord", "slow_body", delay_s=0.5)
    retract(sinks, gone)
    subject = f"pub:{gone['publication_id']}"
    wait_for(lambda: sandbox.counts(outcome="updated")["discord"] > 0, "the first edit")
    next(p for p in reversed(sinks.processes) if p.name == "guard").kill()
    sandbox.ask("/control/faults", method="DELETE")
    sinks.start("guard")
    assert edits(sinks, subject) == EDITED
    assert sinks.ledger("SELECT count(*) FROM ledger.edits WHERE subject = %s", subject) == [(40,)]
