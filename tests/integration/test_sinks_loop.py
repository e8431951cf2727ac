"""The sinks' processes on a real broker, registry, PostgreSQL and sandbox: what reaches the provider, what is reported."""

import time
import uuid
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

PROMISED_S = 2.1
"""After so long no sink claims anything without knowing what was in the logs, however busy the machine is."""


@pytest.fixture(scope="module")
def sinks(stack: Stack, sandbox_process: SandboxProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Topics and databases, with consent and the two mail sinks running."""
    url = sandbox_process.url
    with world(
        stack,
        tmp_path_factory.mktemp("sinks"),
        ses_endpoint_url=f"{url}/ses",
        slack_base_url=f"{url}/slack/api/",
        discord_base_url=f"{url}/discord/api/v10",
        webhook_allow_http_loopback=True,
        provider_timeout_s=10.0,
        lease_s=15.0,
        sweep_interval_s=0.3,
    ) as one:
        one.define_newsletter()
        one.start("consent")
        yield one


@pytest.fixture(scope="module")
def ses(sinks: World) -> Process:
    """The bulk mail sink."""
    return sinks.start("ses-bulk")


def reported(sinks: World, requests: list[dict[str, Any]], count: int = 1) -> dict[str, Any]:
    """Wait until every delivery has so many distinct reports, and return them."""
    states: dict[str, Any] = {}

    def complete() -> bool:
        nonlocal states
        states = sinks.states(requests)
        return all(len(found) >= count for found in states.values())

    wait_for(complete, f"{count} reports each")
    return states


def test_sends_a_newsletter_and_reports_it(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """Every delivery reaches the provider once with its headers and tags, is reported once, and its offset is committed."""
    item = sinks.publish()
    requests = sinks.requests(120, items=[item])
    sinks.deliver(requests)
    states = reported(sinks, requests)
    assert set(map(tuple, states.values())) == {(("DeliverySent", None, 1),)}
    counts = sandbox.counts("delivery_id")
    assert {r["delivery_id"]: 1 for r in requests} == counts
    message = sandbox.ask("/inbox/messages?channel=email")["messages"][0]
    headers = dict(map(tuple, message["body"]["headers"]))
    assert headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert headers["List-Unsubscribe"].startswith("<http://127.0.0.1:8090/u/")
    assert "A résumé." in message["body"]["text"]
    assert message["body"]["tags"]["subscriber_id"] in {r["subscriber_id"] for r in requests}
    rows = sinks.ledger(
        "SELECT count(*), count(receipt), count(receipt_hash), count(reported_at) FROM ledger.deliveries WHERE state = 'sent'"
    )
    assert rows == [(120, 120, 120, 120)]
    wait_for(lambda: sum(o for o in sinks.committed().values() if o > 0) >= 120, "offsets to be committed")


def test_marks_a_test_send_and_holds_it_for_no_canary(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """Its subject and the newsletter's name say [Test]; it goes out although the newsletter's real issues begin with a share."""
    sinks.define_newsletter("careful", canary_share=0.001)
    source_id = "careful@2026-11-22T09:00Z#test-0123abcd"
    (request,) = sinks.requests(1, items=[sinks.publish()], source_id=source_id, newsletter_id="careful")
    sinks.deliver([request])
    assert reported(sinks, [request])[request["delivery_id"]] == [("DeliverySent", None, 1)]
    (message,) = sandbox.ask("/inbox/messages?channel=email")["messages"]
    assert message["subject"].startswith("[Test] ")
    assert "[Test] Daily" in message["body"]["text"]


def test_sends_alerts_on_every_channel(sinks: World, sandbox: SandboxProcess) -> None:
    """Each channel's urgent sink speaks its provider's protocol well enough for the sandbox to take the alert."""
    fields, requests = sinks.raise_alert(), []
    secret = "whsec_bmV3c3dpcmUtZGVtby1zZWNyZXQtb2YtMzItYnl0ZXM="
    addresses = {
        "email": "ada@example.org", "slack": "C0123456", "discord": "123456789012345678",
        "webhook": f'{{"url": "{sandbox.url}/hooks/ada", "secret": "{secret}"}}',
    }  # fmt: skip
    processes = [sinks.start(f"{name}-urgent") for name in ("ses", "slack", "discord", "webhook")]
    for channel, address in addresses.items():
        requests += sinks.requests(1, [address], channel=channel, lane="urgent", **fields)
    sinks.deliver(requests)
    states = reported(sinks, requests)
    assert set(map(tuple, states.values())) == {(("DeliverySent", None, 1),)}
    assert {r["delivery_id"]: 1 for r in requests if r["channel"] != "discord"} == {
        k: v for k, v in sandbox.counts("delivery_id").items() if k in {r["delivery_id"] for r in requests}
    }
    assert sandbox.counts() == {"ses": 1, "slack": 1, "discord": 1, "webhook": 1}
    for process in processes:
        assert process.stop() == 0


def test_leaves_a_retracted_item_out_and_skips_an_empty_issue(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """A retraction before the send: the item is left out; an issue of which nothing is left is a skip without an attempt."""
    kept, gone = sinks.publish(), sinks.publish()
    event = {"publication_id": gone["publication_id"], "reason": "wrong", "retracted_by": None, "retracted_at": datetime.now(UTC)}
    sinks.produce(sinks.topics.publications, "PublicationRetracted", event, gone["publication_id"])
    time.sleep(PROMISED_S)
    both, empty = sinks.requests(1, items=[kept, gone]), sinks.requests(1, items=[gone])
    sinks.deliver(both + empty)
    states = reported(sinks, both + empty)
    assert states[both[0]["delivery_id"]] == [("DeliverySent", None, 1)]
    assert states[empty[0]["delivery_id"]] == [("DeliverySuppressed", "empty_issue", 0)]
    html = sandbox.ask("/inbox/messages?channel=email")["messages"][0]["body"]["html"]
    assert kept["publication_id"] in html
    assert gone["publication_id"] not in html


def test_skips_whoever_unsubscribed_was_erased_or_is_too_late(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """Each with its reason, without a call."""
    item = sinks.publish()
    left, erased = sinks.requests(1, items=[item]), sinks.requests(1, items=[item])
    late = sinks.requests(1, items=[item], not_after=datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1))
    sinks.change("PreferencesChanged", left[0]["subscriber_id"], newsletters=["weekly"], changed_at=datetime.now(UTC))
    sinks.keys.destroy(erased[0]["subscriber_id"])
    time.sleep(PROMISED_S)
    sinks.deliver(left + erased + late)
    states = reported(sinks, left + erased + late)
    assert states[left[0]["delivery_id"]] == [("DeliverySuppressed", "unsubscribed", 0)]
    assert states[erased[0]["delivery_id"]] == [("DeliverySuppressed", "erased", 0)]
    assert states[late[0]["delivery_id"]] == [("DeliverySuppressed", "expired", 0)]
    assert sandbox.counts().get("ses", 0) == 0


def test_waits_for_a_provider_that_is_down(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """5xx is no failure: parked or held back by the breaker, nothing is reported, and all are sent when it is back."""
    sandbox.fault("ses", "error")
    requests = sinks.requests(20, items=[sinks.publish()])
    calls = len(sandbox.lines())
    sinks.deliver(requests)
    wait_for(lambda: len(sandbox.lines()) >= calls + 2, "calls that are refused")
    assert not any(sinks.states(requests).values())
    sandbox.ask("/control/faults", method="DELETE")
    states = reported(sinks, requests)
    assert {found[0][0] for found in states.values()} == {"DeliverySent"}
    assert set(sandbox.counts("delivery_id").values()) == {1}


def test_records_a_lost_answer_as_unknown_and_does_not_send_again(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """Accepted, then the connection dropped: unknown(answer_lost) for each entry of the call, and no second call."""
    sandbox.fault("ses", "drop_after_accept", count=1)
    requests = sinks.requests(10, items=[sinks.publish()])
    sinks.deliver(requests)
    states = reported(sinks, requests)
    lost = [d for d, found in states.items() if found == [("DeliveryUnknown", "answer_lost", 1)]]
    assert lost
    assert all(found in ([("DeliverySent", None, 1)], [("DeliveryUnknown", "answer_lost", 1)]) for found in states.values())
    assert sandbox.counts("delivery_id") == {r["delivery_id"]: 1 for r in requests}


def test_tries_single_entries_of_a_call_again(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """HTTP 200 with entries that failed: the throttled are tried again, the rejected fail, the others are sent once."""
    requests = sinks.requests(30, items=[sinks.publish()])
    throttled, rejected = requests[0]["delivery_id"], requests[1]["delivery_id"]
    sandbox.fault("ses", "partial", code="ACCOUNT_THROTTLED", only=throttled, count=1)
    sandbox.fault("ses", "partial", code="MESSAGE_REJECTED", only=rejected)
    sinks.deliver(requests)
    states = reported(sinks, requests)
    assert states[throttled] == [("DeliverySent", None, 2)]
    assert states[rejected] == [("DeliveryFailed", "rejected", 1)]
    assert all(found == [("DeliverySent", None, 1)] for d, found in states.items() if d not in (throttled, rejected))
    assert rejected not in sandbox.counts("delivery_id")


def test_dead_letters_what_is_no_delivery(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """Bytes that are no event, and an id that is no key of the ledger: dead letters, and what follows is sent."""
    from schemas.records import Record
    from tests.sinks_kit import records_of

    topic = sinks.topics.deliveries("email", "bulk")
    sinks.produce_all([Record(topic, b"x", b"poison", (), partition) for partition in (0, 1)])
    (broken,) = sinks.requests(1, items=[sinks.publish()])
    sinks.deliver([{**broken, "delivery_id": "20200101-" + str(uuid.uuid4())}])
    after = sinks.requests(4, items=[sinks.publish()])
    sinks.deliver(after)
    reported(sinks, after)
    letters = records_of(sinks.settings, f"{topic}.dlq")
    reasons = [dict(letter.headers)["dlq.reason"] for letter in letters]
    assert sorted(reasons) == [b"refused", b"truncated", b"truncated"]
    assert all(b"poison" not in (letter.value or b"") for letter in letters), "they could hold personal data"


def test_sends_nothing_while_consent_is_not_known(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """Without the consent process the claims stop after 2 s; when it is back, everything goes out."""
    consent = next(p for p in sinks.processes if p.name == "consent")
    consent.kill()
    time.sleep(2.6)
    requests = sinks.requests(5, items=[sinks.publish()])
    sinks.deliver(requests)
    time.sleep(1.0)
    assert sandbox.counts().get("ses", 0) == 0
    sinks.start("consent")
    reported(sinks, requests)
    assert sandbox.counts()["ses"] == 5


def test_begins_no_call_two_seconds_after_an_unsubscribe(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """While many wait for a slow provider, whoever leaves is not called any more."""
    sandbox.fault("ses", "slow_body", delay_s=0.8)
    requests = sinks.requests(2000, items=[sinks.publish()])
    sinks.deliver(requests)
    wait_for(lambda: sandbox.counts().get("ses", 0) > 100, "the sending to begin")
    leaving = {r["subscriber_id"]: r["delivery_id"] for r in requests[-600:]}
    records = [
        sinks.codec.encode(
            sinks.topics.subscribers,
            "SubscriberUnsubscribed",
            {
                "subscriber_id": s,
                "newsletter_id": "daily",
                "kind": "newsletter",
                "via": "page",
                "delivery_id": None,
                "unsubscribed_at": datetime.now(UTC),
            },
            key=s,
            time=datetime.now(UTC),
        )
        for s in leaving
    ]
    sinks.produce_all(records)
    acknowledged = datetime.now(UTC)
    states = reported(sinks, requests)
    suppressed = {d for d, found in states.items() if found[-1][:2] == ("DeliverySuppressed", "unsubscribed")}
    assert suppressed
    assert suppressed <= set(leaving.values())
    late = [
        line for line in sandbox.lines()
        if line["delivery_id"] in set(leaving.values())
        and datetime.fromisoformat(line["at"]) > acknowledged + timedelta(seconds=2)
    ]  # fmt: skip
    assert late == []
    assert not suppressed & set(sandbox.counts("delivery_id"))


def test_shares_the_work_and_gives_it_up_in_good_order(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """A second process joins and leaves while calls are slow: nothing is unknown, nothing is sent twice, exit code 0."""
    sandbox.fault("ses", "slow_body", delay_s=0.3)
    requests = sinks.requests(1200, items=[sinks.publish()])
    sinks.deliver(requests[:600])
    second = sinks.start("ses-bulk")
    second.wait_running()
    sinks.deliver(requests[600:])
    wait_for(lambda: sandbox.counts().get("ses", 0) > 700, "half of it")
    assert second.stop() == 0
    states = reported(sinks, requests)
    assert {found[0][0] for found in states.values()} == {"DeliverySent"}
    assert sandbox.counts("delivery_id") == {r["delivery_id"]: 1 for r in requests}


def test_sends_nothing_again_when_its_group_is_reset(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """Offsets back at the beginning: every delivery is reported again as the same event, none is sent."""
    from tests.sinks_kit import reset_group

    before = sinks.statuses()
    assert ses.stop() == 0
    sandbox.ask("/control/reset?all=1", {})
    reset_group(sinks.settings, f"{sinks.settings.topic_prefix}.sink.email.bulk", sinks.topics.deliveries("email", "bulk"))
    again = sinks.start("ses-bulk")
    ids = {
        event.id
        for event in before
        if event.value["channel"] == "email" and event.value["lane"] == "bulk" and event.name != "DeliveryUnknown"
    }
    wait_for(lambda: len(sinks.statuses()) >= len(before) + len(ids), "everything to be reported again")
    assert {event.id for event in sinks.statuses()} == {event.id for event in before}
    assert sandbox.counts().get("ses", 0) == 0
    assert again.stop() == 0
