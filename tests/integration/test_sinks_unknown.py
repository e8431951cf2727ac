"""Unknown deliveries of each provider on real processes: found, sent again, or held, and never twice without being reported."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from runtime.kafka import end_offsets, partitions_of, read_range, start_offsets
from sinks.unknown import LEFT_S
from tests import fix_sandbox
from tests.fix_sandbox import SandboxProcess
from tests.fix_stack import Stack
from tests.sinks_kit import World, wait_for, world

pytestmark = pytest.mark.stack
sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox

SECRET = "whsec_bmV3c3dpcmUtZGVtby1zZWNyZXQtb2YtMzItYnl0ZXM="
UNKNOWN, AGAIN = ("DeliveryUnknown", "answer_lost", 1), ("DeliverySent", None, 2)


@pytest.fixture(scope="module")
def sinks(stack: Stack, sandbox_process: SandboxProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Topics and databases, with consent and the bulk sinks running."""
    url = sandbox_process.url
    with world(
        stack,
        tmp_path_factory.mktemp("unknown"),
        ses_endpoint_url=f"{url}/ses",
        slack_base_url=f"{url}/slack/api/",
        discord_base_url=f"{url}/discord/api/v10",
        webhook_allow_http_loopback=True,
        provider_timeout_s=3.0,
        lease_s=6.0,
        sweep_interval_s=0.2,
        instance_id="only",  # a process that was killed is followed at once
        unknown_window_s=4.0,
    ) as one:
        one.define_newsletter()
        one.start("consent")
        for process in ("ses-bulk", "slack-bulk", "discord-bulk", "webhook-bulk"):
            one.start(process)
        yield one


ADDRESSES = {"slack": "C0123456", "discord": "123456789012345678"}


def address_of(channel: str, sandbox: SandboxProcess) -> str:
    """An address of its own for every test, so that histories do not meet."""
    number = uuid.uuid4().int % 10**9
    return {
        "email": f"r{number}@example.org", "slack": f"C{number}", "discord": str(10**17 + number),
        "webhook": f'{{"url": "{sandbox.url}/hooks/h{number}", "secret": "{SECRET}"}}',
    }[channel]  # fmt: skip


def deliver(sinks: World, sandbox: SandboxProcess, channel: str, **fields: Any) -> dict[str, Any]:
    """Deliver one message and return its request."""
    fields = {"items": [sinks.publish()], **fields}
    (request,) = sinks.requests(1, [address_of(channel, sandbox)], channel=channel, **fields)
    sinks.deliver([request])
    return request


def reports(sinks: World, request: dict[str, Any], count: int) -> list[Any]:
    """Wait until a delivery has so many distinct reports, and return them."""
    return wait_for(lambda: len(found := sinks.states([request])[request["delivery_id"]]) >= count and found, f"{count} reports")


def row(sinks: World, request: dict[str, Any], columns: str) -> tuple[Any, ...]:
    """Return columns of a delivery's row."""
    return sinks.ledger(f"SELECT {columns} FROM ledger.deliveries WHERE delivery_id = %s", request["delivery_id"][9:])[0]


@pytest.mark.parametrize("channel", ["slack", "discord"])
def test_finds_what_had_arrived(sinks: World, sandbox: SandboxProcess, channel: str) -> None:
    """The answer was lost after the provider had accepted: found in the channel, sent with its receipt, not sent again."""
    sandbox.fault(channel, "drop_after_accept", count=1)
    request = deliver(sinks, sandbox, channel)
    assert reports(sinks, request, 2) == [UNKNOWN, ("DeliverySent", None, 1)]
    accepted = sandbox.ask(f"/control/requests?provider={channel}&outcome=accepted")["requests"]
    assert len(accepted) == 1
    receipt, subscriber = row(sinks, request, "receipt, subscriber_id")
    plain = sinks.keys.decrypt(str(subscriber), "receipt", bytes(receipt)).decode()
    assert plain.endswith(accepted[0]["receipt"].rpartition(":")[2])
    (history,) = row(sinks, request, "history")
    assert [entry["state"] for entry in history] == ["unknown"]


@pytest.mark.parametrize("channel", ["slack", "discord"])
def test_sends_again_what_had_not_arrived(sinks: World, sandbox: SandboxProcess, channel: str) -> None:
    """The connection broke before the provider had read the request: not in the channel, so it is sent, once."""
    sandbox.fault(channel, "drop_before_accept", count=1)
    request = deliver(sinks, sandbox, channel)
    assert reports(sinks, request, 2) == [UNKNOWN, AGAIN]
    assert sandbox.counts()[channel] == 1
    (history,) = row(sinks, request, "history")
    assert [(entry["state"], entry.get("reason")) for entry in history][:2] == [
        ("unknown", "answer_lost"),
        ("retry", "not_arrived"),
    ]


def test_sends_a_webhook_again_under_the_same_id(sinks: World, sandbox: SandboxProcess) -> None:
    """The receiver knows the repetition by its webhook-id; the delivery was reported as unknown between the two."""
    sandbox.fault("webhook", "drop_after_accept", count=1)
    request = deliver(sinks, sandbox, "webhook")
    assert reports(sinks, request, 2) == [UNKNOWN, AGAIN]
    lines = sandbox.ask(f"/control/requests?provider=webhook&delivery_id={request['delivery_id']}")["requests"]
    assert len(lines) == 2
    assert len({line["digest"] for line in lines}) == 1


def test_holds_a_newsletter_that_stays_unknown(sinks: World, sandbox: SandboxProcess) -> None:
    """No SEND event within the window: held, not sent again, and still open for its SEND event."""
    sandbox.fault("ses", "drop_after_accept", count=1)
    request = deliver(sinks, sandbox, "email")
    assert reports(sinks, request, 1) == [UNKNOWN]
    wait_for(lambda: row(sinks, request, "check_at = 'infinity'") == (True,), "the delivery to be held")
    assert sandbox.counts()["ses"] == 1
    assert row(sinks, request, "state, reason, request IS NOT NULL") == ("unknown", "answer_lost", True)


def test_sends_again_for_a_newsletter_that_asks_for_it(sinks: World, sandbox: SandboxProcess) -> None:
    """The policy is the source's own."""
    sinks.define_newsletter("weekly", on_unknown="resend")
    sandbox.fault("ses", "drop_after_accept", count=1)
    request = deliver(sinks, sandbox, "email", newsletter_id="weekly", source_id="weekly@2026-11-22T09:00Z")
    assert reports(sinks, request, 2) == [UNKNOWN, AGAIN]
    assert sandbox.counts("delivery_id")[request["delivery_id"]] == 2
    (history,) = row(sinks, request, "history")
    assert ("retry", "unresolved") in [(entry["state"], entry.get("reason")) for entry in history]


def test_an_alert_that_stays_unknown_is_sent_again_unless_it_says_otherwise(sinks: World, sandbox: SandboxProcess) -> None:
    """An alert twice is better than none, and that it was sent again is on record; its source may want it held."""
    urgent = sinks.start("ses-urgent")
    for policy in None, "hold":
        sandbox.fault("ses", "drop_after_accept", count=1)
        request = deliver(sinks, sandbox, "email", lane="urgent", **sinks.raise_alert(on_unknown=policy))
        if policy is None:
            assert reports(sinks, request, 2) == [UNKNOWN, AGAIN]
            continue
        assert reports(sinks, request, 1) == [UNKNOWN]
        wait_for(lambda: row(sinks, request, "check_at = 'infinity'") == (True,), "the delivery to be held")  # noqa: B023
        assert sandbox.counts("delivery_id")[request["delivery_id"]] == 1
    assert urgent.stop() == 0


def test_holds_what_is_too_late_to_be_sent_again(sinks: World, sandbox: SandboxProcess) -> None:
    """Its not_after is near: no second call, whatever the policy says."""
    sandbox.fault("webhook", "drop_after_accept", count=1)
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=LEFT_S - 5)
    request = deliver(sinks, sandbox, "webhook", not_after=soon)
    assert reports(sinks, request, 1) == [UNKNOWN]
    wait_for(lambda: row(sinks, request, "check_at = 'infinity'") == (True,), "the delivery to be held")
    assert sandbox.counts()["webhook"] == 1


def test_asks_again_while_the_provider_does_not_answer(sinks: World, sandbox: SandboxProcess) -> None:
    """Slack is down when it is asked: unknown stays unknown within its window, and nothing is sent."""
    sandbox.fault("slack", "drop_after_accept", count=1)
    request = deliver(sinks, sandbox, "slack")
    reports(sinks, request, 1)
    assert reports(sinks, request, 2)[1] == ("DeliverySent", None, 1)
    assert sandbox.counts()["slack"] == 1


@pytest.mark.parametrize(("point", "calls"), [("sink.before_call", 0), ("sink.after_call", 1)])
def test_resolves_what_a_killed_process_left(sinks: World, sandbox: SandboxProcess, point: str, calls: int) -> None:
    """Killed before or after the call: its lease ends, the record is read again, and the channel tells which it was."""
    running = next(p for p in sinks.processes if p.name == "slack-bulk" and p.ended() is None)
    running.wait_running()
    assert running.stop() == 0
    dying = sinks.start("slack-bulk", NEWSWIRE_FAILPOINTS=f"{point}=kill")
    request = deliver(sinks, sandbox, "slack")
    wait_for(lambda: dying.ended() is not None, "the kill")
    assert sandbox.counts().get("slack", 0) == calls
    sinks.start("slack-bulk")
    unknown, after = reports(sinks, request, 2)
    assert unknown == ("DeliveryUnknown", "lease_expired", 1)
    assert after == ("DeliverySent", None, 1 if calls else 2)
    assert sandbox.counts()["slack"] == 1


def test_a_refusal_of_the_second_attempt_does_not_deny_the_first(sinks: World, sandbox: SandboxProcess) -> None:
    """The first may have arrived: the delivery stays unknown and is held, its history has both, its endpoint is disabled."""
    sandbox.fault("webhook", "drop_after_accept", count=1)
    sandbox.fault("webhook", "refuse", status=410)
    request = deliver(sinks, sandbox, "webhook")
    assert reports(sinks, request, 2) == [UNKNOWN, ("DeliveryUnknown", "may_have_arrived", 2)]
    assert row(sinks, request, "state, reason, check_at = 'infinity'") == ("unknown", "may_have_arrived", True)
    assert ended(sinks, request) == ["unknown answer_lost", "retry unresolved", "failed endpoint_disabled"]
    wait_for(lambda: disabled(sinks, request), "its endpoint to be disabled all the same")
    assert sandbox.counts("delivery_id")[request["delivery_id"]] == 1


def test_what_is_given_back_by_hand_and_not_sent_stays_unknown(sinks: World, sandbox: SandboxProcess) -> None:
    """An unknown mail, whose reader unsubscribed meanwhile, is given back: not sent, and still nobody knows of the first."""
    sandbox.fault("ses", "drop_after_accept", count=1)
    request = deliver(sinks, sandbox, "email")
    assert reports(sinks, request, 1) == [UNKNOWN]
    subscriber = request["subscriber_id"]
    sinks.change(
        "SubscriberUnsubscribed", subscriber, newsletter_id="daily", kind="newsletter", via="page", delivery_id=None,
        unsubscribed_at=datetime.now(UTC),
    )  # fmt: skip
    wait_for(lambda: sinks.ledger("SELECT 1 FROM ledger.barred WHERE subject LIKE %s", f"%{subscriber}%"), "the unsubscribe")
    wait_for(lambda: row(sinks, request, "check_at = 'infinity'") == (True,), "the delivery to be held")
    sinks.command("delivery", "retry", "--unknown", "--reason", "Asked for it", request["delivery_id"])
    assert reports(sinks, request, 2) == [UNKNOWN, ("DeliveryUnknown", "may_have_arrived", 3)]
    assert ended(sinks, request) == ["unknown answer_lost", "redriven", "suppressed unsubscribed"]
    assert sandbox.counts("delivery_id")[request["delivery_id"]] == 1


def ended(sinks: World, request: dict[str, Any]) -> list[str]:
    """The states and reasons of a delivery's history."""
    (history,) = row(sinks, request, "history")
    return [f"{one['state']} {one.get('reason', '')}".strip() for one in history]


def disabled(sinks: World, request: dict[str, Any]) -> bool:
    """Whether provider-events says that the delivery's endpoint is gone."""
    admin = AdminClient({"bootstrap.servers": sinks.settings.kafka_bootstrap_servers})
    places = partitions_of(admin, [sinks.topics.provider_events])
    raws = read_range(sinks.settings, start_offsets(admin, places), end_offsets(admin, places))
    return any(
        event.name == "EndpointDisabled" for raw in raws if (event := sinks.codec.decode(raw)).key == request["subscriber_id"]
    )
