"""The feedback process on a real broker and PostgreSQL: notices become states by rank, addresses are suppressed in time."""

import hmac
import itertools
import json
import random
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import CliRunner

from runtime.commands import main
from runtime.health import check_groups
from schemas.codec import Clear
from schemas.records import Event, Record
from sinks.consent import address_mark
from sinks.suppression import REFRESH_S
from tests import fix_sandbox
from tests.fix_sandbox import SandboxProcess
from tests.fix_stack import Stack
from tests.sinks_kit import Process, World, environ_of, records_of, reset_group, wait_for, world

pytestmark = pytest.mark.stack
sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox
SECRET = "whsec_bmV3c3dpcmUtZGVtby1zZWNyZXQtb2YtMzItYnl0ZXM="

KNOWN_S = 3.0 * REFRESH_S
"""After which a sink, of which nothing can be seen of it from outside, has read the suppression list again on any machine."""


@pytest.fixture(scope="module")
def sinks(stack: Stack, sandbox_process: SandboxProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Topics and databases, with consent and feedback running."""
    url = sandbox_process.url
    with world(
        stack,
        tmp_path_factory.mktemp("feedback"),
        ses_endpoint_url=f"{url}/ses",
        slack_base_url=f"{url}/slack/api/",
        webhook_allow_http_loopback=True,
        provider_timeout_s=5.0,
        lease_s=8.0,
        sweep_interval_s=0.3,
        instance_id="only",  # a process that was killed is followed at once
    ) as one:
        one.define_newsletter()
        one.start("consent")
        one.start("ses-bulk")
        one.start("feedback").wait_running()
        yield one


def notice(sinks: World, name: str, request: dict[str, Any], number: int = 1, **fields: Any) -> Record:
    """A notice about a delivery as the edge records it."""
    now = datetime.now(UTC)
    value = {
        "subscriber_id": request["subscriber_id"], "delivery_id": request["delivery_id"], "channel": request["channel"],
        "provider_event_id": f"{name}-{number}", "provider_receipt_hash": bytes(32), "occurred_at": now, **fields,
    }  # fmt: skip
    if name == "DeliveryBounced":
        value = {"permanent": True, "detail": "Permanent/General", "address": None} | value
    elif name == "ComplaintReceived":
        value = {"detail": "abuse", "address": None} | value
    elif name == "DeliveryDelayed":
        value = {"detail": "MailboxFull"} | value
    return sinks.codec.encode(sinks.topics.provider_events, name, value, key=request["subscriber_id"], time=now)


def sent(sinks: World, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
    """Deliver and wait until the sink has reported all as sent."""
    requests = sinks.requests(count, items=[sinks.publish()], **fields)
    sinks.deliver(requests)
    wait_for(lambda: all(sinks.states(requests).values()), "the deliveries to be sent")
    return requests


def last(sinks: World, requests: list[dict[str, Any]], event: str) -> dict[str, Any]:
    """Wait until every delivery was reported as this event, and return all reports."""
    wait_for(lambda: all(event in {s[0] for s in found} for found in sinks.states(requests).values()), f"{event} everywhere")
    return sinks.states(requests)


def behind(sinks: World) -> int:
    """How many notices the feedback process has not committed yet."""
    groups = {group.name: group.lag for group in check_groups(sinks.settings)}
    return groups[f"{sinks.settings.topic_prefix}.sink.feedback"]


def unlinked(sinks: World, subscriber_id: str) -> list[Event]:
    """Return the ChannelUnlinked of a subscriber."""
    raws = records_of(sinks.settings, sinks.topics.subscribers)
    events = [sinks.codec.decode(raw) for raw in raws]
    return [e for e in events if e.name == "ChannelUnlinked" and e.value["subscriber_id"] == subscriber_id]


def test_ends_in_the_same_state_whatever_the_order(sinks: World, sandbox: SandboxProcess) -> None:
    """Every order of accepted, delayed, delivered and bounced, one after the other and repeated: failed(bounced); without the
    bounce confirmed. Each state is reported once."""
    kinds = ("ProviderAccepted", "DeliveryDelayed", "ProviderDelivered", "DeliveryBounced")
    orders = [*itertools.permutations(kinds), *itertools.permutations(kinds[:3])]
    requests = sent(sinks, len(orders) + len(kinds))
    requests, markers = requests[: len(orders)], requests[len(orders) :]
    for number, marker in enumerate(markers):
        step = [notice(sinks, order[number % len(order)], r) for r, order in zip(requests, orders, strict=True)]
        sinks.produce_all([*step, *step])
        sinks.produce_all([notice(sinks, "ProviderDelivered", marker)])
        last(sinks, [marker], "DeliveryConfirmed")
        wait_for(lambda: behind(sinks) == 0, "the round to be handled")
    states = sinks.states(requests)
    for request, order in zip(requests, orders, strict=True):
        found = states[request["delivery_id"]]
        wanted = ("DeliveryFailed", "bounced") if "DeliveryBounced" in order else ("DeliveryConfirmed", None)
        assert found[-1][:2] == wanted, order
        assert len(found) == len({event for event, _, _ in found}), order
    rows = dict(sinks.ledger("SELECT state, count(*) FROM ledger.deliveries GROUP BY state"))
    assert rows == {"failed": 24, "confirmed": 6 + len(markers)}


def test_an_automatic_reply_is_no_failure_in_any_order(sinks: World, sandbox: SandboxProcess) -> None:
    """Out-of-office before or after the delivery notice: confirmed; a full mailbox is a failure, and suppresses nothing."""
    first, second, full = sent(sinks, 3)
    reply = {"permanent": False, "detail": "Transient/General"}
    sinks.produce_all(
        [
            notice(sinks, "DeliveryBounced", first, **reply), notice(sinks, "ProviderDelivered", first),
            notice(sinks, "ProviderDelivered", second), notice(sinks, "DeliveryBounced", second, **reply),
            notice(sinks, "DeliveryBounced", full, permanent=False, detail="Transient/MailboxFull",
                   address=Clear(f"{full['subscriber_id']}@example.org")),
        ]
    )  # fmt: skip
    last(sinks, [first, second], "DeliveryConfirmed")
    assert last(sinks, [full], "DeliveryFailed")[full["delivery_id"]][-1][:2] == ("DeliveryFailed", "bounced")
    assert unlinked(sinks, full["subscriber_id"]) == []
    assert {s[0] for s in sinks.states([first])[first["delivery_id"]]} == {"DeliverySent", "DeliveryConfirmed"}


def test_resolves_an_unknown_delivery_by_its_send_event(sinks: World, sandbox: SandboxProcess) -> None:
    """The answer was lost after SES had accepted: unknown until ProviderAccepted comes, then sent; and nothing is sent twice."""
    sandbox.fault("ses", "drop_after_accept", count=1)
    requests = sinks.requests(3, items=[sinks.publish()])
    sinks.deliver(requests)
    wait_for(lambda: all(sinks.states(requests).values()), "reports")
    lost = [r for r in requests if sinks.states([r])[r["delivery_id"]][-1][0] == "DeliveryUnknown"]
    assert lost
    sinks.produce_all([notice(sinks, "ProviderAccepted", r, provider_receipt_hash=bytes(range(32))) for r in lost])
    states = last(sinks, lost, "DeliverySent")
    assert all(found == [("DeliveryUnknown", "answer_lost", 1), ("DeliverySent", None, 1)] for found in states.values())
    hashes = sinks.ledger(
        "SELECT DISTINCT receipt_hash FROM ledger.deliveries WHERE delivery_id = ANY (%s::uuid[])",
        [r["delivery_id"][9:] for r in lost],
    )
    assert hashes == [(bytes(range(32)),)]
    assert set(sandbox.counts("delivery_id").values()) == {1}


def test_a_send_event_ends_a_retry_that_was_none(sinks: World, sandbox: SandboxProcess) -> None:
    """SES answered 503 and had taken the message all the same: the parked delivery is sent, and not sent again."""
    sandbox.fault("ses", "error")
    requests = sinks.requests(2, items=[sinks.publish()])
    sinks.deliver(requests)
    ids = [r["delivery_id"][9:] for r in requests]
    park = """UPDATE ledger.deliveries SET next_attempt_at = now() + interval '1 hour'
              WHERE state = 'retry' AND delivery_id = ANY(%s::uuid[]) RETURNING 1"""
    wait_for(lambda: len(sinks.ledger(park, ids)) == 2, "both to be parked, and to stay so")
    sinks.produce_all([notice(sinks, "ProviderAccepted", r) for r in requests])
    last(sinks, requests, "DeliverySent")
    sandbox.ask("/control/faults", method="DELETE")
    again = sent(sinks)
    assert sandbox.counts("delivery_id") == {again[0]["delivery_id"]: 1}


def test_suppresses_an_address_before_the_next_send(sinks: World, sandbox: SandboxProcess) -> None:
    """A permanent bounce: the channel is unlinked, nobody is sent to at that address any more, and SES's own list has it."""
    (request,) = sent(sinks)
    address = f"{request['subscriber_id']}@example.org"
    sinks.keys.index_address("email", address, request["subscriber_id"])
    other = str(uuid.uuid4())
    sinks.keys.create([other])
    sinks.keys.index_address("email", address.upper(), other)
    sinks.produce_all([notice(sinks, "DeliveryBounced", request, address=Clear(address))])
    last(sinks, [request], "DeliveryFailed")
    for subscriber in (request["subscriber_id"], other):
        (event,) = wait_for(lambda s=subscriber: unlinked(sinks, s), "the channel to be unlinked")
        assert (event.value["channel"], event.value["reason"]) == ("email", "bounced")
    wait_for(lambda: sinks.ledger("SELECT count(*) FROM ledger.suppressions WHERE address IS NOT NULL") == [(0,)], "the mirror")
    assert sandbox.ask(f"/ses/v2/email/suppression/addresses/{address}")["SuppressedDestination"]["Reason"] == "BOUNCE"

    # a new subscriber with the same address, of whom consent knows nothing: the list alone bars them
    time.sleep(KNOWN_S)
    before = sandbox.counts().get("ses", 0)
    same = sinks.requests(1, [f" {address.upper()} "], items=[sinks.publish()])
    sinks.deliver(same)
    wait_for(lambda: all(sinks.states(same).values()), "a report")
    assert sinks.states(same)[same[0]["delivery_id"]] == [("DeliverySuppressed", "suppressed_address", 0)]
    assert sandbox.counts().get("ses", 0) == before


def test_a_person_lifts_a_suppression(sinks: World, sandbox: SandboxProcess) -> None:
    """`newswire suppression`: looked up, lifted, sent to again; an address that is not there is an error that says so."""
    mend = "mended@example.org"
    (request,) = sinks.requests(1, [mend], items=[sinks.publish()])
    sinks.deliver([request])
    last(sinks, [request], "DeliverySent")
    sinks.produce_all([notice(sinks, "DeliveryBounced", request, address=Clear(mend))])
    hashed = sinks.keys.address_hash("email", mend)
    held = "SELECT announced_at IS NOT NULL FROM ledger.suppressions WHERE address_hash = %s"
    wait_for(lambda: sinks.ledger(held, hashed) == [(True,)], "the suppression")

    def run(*words: str) -> Any:
        return CliRunner().invoke(main, ["--json", "suppression", *words], env=environ_of(sinks.settings))

    assert json.loads(run("show", mend.upper()).stdout)["reason"] == "bounced"
    assert json.loads(run("lift", mend).stdout)["lifted"] == 1
    assert run("lift", mend).exit_code == 2
    assert "newswire suppression show" in run("lift", "other@example.org").stderr

    def is_sent() -> bool:
        (after,) = sinks.requests(1, [mend], items=[sinks.publish()])
        sinks.deliver([after])
        (report, *_) = wait_for(lambda: sinks.states([after])[after["delivery_id"]], "a report")
        return bool(report[0] == "DeliverySent")

    wait_for(is_sent, "the sink to know")


def test_leaves_the_new_address_of_a_subscriber_alone(sinks: World, sandbox: SandboxProcess) -> None:
    """The bounce is about an address that was replaced meanwhile: that one is suppressed, the channel stays."""
    (request,) = sent(sinks)
    sinks.keys.index_address("email", "new@example.org", request["subscriber_id"])
    old = Clear(f"{request['subscriber_id']}@example.org")
    sinks.produce_all([notice(sinks, "ComplaintReceived", request, address=old)])
    states = last(sinks, [request], "DeliveryFailed")
    assert states[request["delivery_id"]][-1][:2] == ("DeliveryFailed", "complained")
    hashed = sinks.keys.address_hash("email", old)
    assert sinks.ledger("SELECT reason FROM ledger.suppressions WHERE address_hash = %s", hashed) == [("complained",)]
    assert unlinked(sinks, request["subscriber_id"]) == []


def test_an_erased_persons_bounce_still_fails_the_delivery(sinks: World, sandbox: SandboxProcess) -> None:
    """The key is gone: nothing can be read, nothing stops."""
    (request,) = sent(sinks)
    record = notice(sinks, "DeliveryBounced", request, address=Clear(f"{request['subscriber_id']}@example.org"))
    sinks.keys.destroy(request["subscriber_id"])
    (after,) = sent(sinks)
    sinks.produce_all([record, notice(sinks, "ProviderDelivered", after)])
    last(sinks, [request], "DeliveryFailed")
    last(sinks, [after], "DeliveryConfirmed")


def test_dead_letters_what_is_no_notice(sinks: World, sandbox: SandboxProcess) -> None:
    """Bytes, and an id that is no delivery's: what follows is handled; a delivery that the ledger does not know is ignored."""
    (request,) = sent(sinks)
    topic = sinks.topics.provider_events
    unknown = {**request, "delivery_id": f"20261123-{uuid.uuid4()}"}
    sinks.produce_all([Record(topic, b"x", b"poison", (), partition) for partition in (0, 1)])
    sinks.produce_all(
        [
            notice(sinks, "ProviderDelivered", {**request, "delivery_id": "nonsense"}),
            notice(sinks, "ProviderDelivered", unknown), notice(sinks, "ProviderDelivered", request),
        ]
    )  # fmt: skip
    last(sinks, [request], "DeliveryConfirmed")
    reasons = [dict(letter.headers)["dlq.reason"] for letter in records_of(sinks.settings, f"{topic}.dlq")]
    assert sorted(reasons) == [b"refused", b"truncated", b"truncated"]


def hook(sinks: World, sandbox: SandboxProcess, name: str, count: int = 1) -> list[dict[str, Any]]:
    """Requests to a webhook endpoint of that name."""
    address = f'{{"url": "{sandbox.url}/hooks/{name}", "secret": "{SECRET}"}}'
    return sinks.requests(count, [address] * count, channel="webhook", items=[sinks.publish()])


def test_disables_an_endpoint_that_is_gone(sinks: World, sandbox: SandboxProcess) -> None:
    """410: the delivery fails, its subscriber's channel is unlinked, they are told by mail, and nobody is sent to there."""
    sink, urgent = sinks.start("webhook-bulk"), sinks.start("ses-urgent")
    (request,) = hook(sinks, sandbox, "gone")
    owner, at = request["subscriber_id"], datetime.now(UTC)
    mail = sinks.keys.encrypt(owner, "address.email", b"owner@example.org")
    sinks.change("ChannelLinked", owner, channel="webhook", address=request["address"], linked_at=at)
    sinks.change("ChannelVerified", owner, channel="webhook", method="operator", verified_at=at)
    sinks.change("ChannelLinked", owner, channel="email", address=mail, linked_at=at)
    sinks.change("ChannelVerified", owner, channel="email", method="operator", verified_at=at)
    sandbox.fault("webhook", "refuse", status=410, only="gone")
    sinks.deliver([request])
    assert last(sinks, [request], "DeliveryFailed")[request["delivery_id"]] == [("DeliveryFailed", "endpoint_disabled", 1)]
    (event,) = wait_for(lambda: unlinked(sinks, request["subscriber_id"]), "the channel to be unlinked")
    assert (event.value["channel"], event.value["reason"]) == ("webhook", "disabled")
    told = wait_for(lambda: sandbox.ask("/inbox/messages?channel=email")["messages"], "the owner to be told")
    assert [(m["to"] if "to" in m else m["destination"], m["subject"]) for m in told] == [
        ("owner@example.org", "Your webhook was switched off")
    ]
    sandbox.ask("/control/faults", method="DELETE")
    wait_for(lambda: sinks.ledger("SELECT count(*) FROM ledger.suppressions WHERE channel = 'webhook'") == [(1,)], "the list")
    time.sleep(KNOWN_S)
    (other,) = hook(sinks, sandbox, "gone")
    sinks.deliver([other])
    wait_for(lambda: sinks.states([other])[other["delivery_id"]], "a report")
    assert sinks.states([other])[other["delivery_id"]] == [("DeliverySuppressed", "suppressed_address", 0)]
    assert sandbox.counts().get("webhook", 0) == 0
    assert sandbox.counts()["ses"] == 1
    assert (sink.stop(), urgent.stop()) == (0, 0)


def test_disables_an_endpoint_that_fails_for_five_days(sinks: World, sandbox: SandboxProcess) -> None:
    """Failing for five days and still, be its breaker open or not: disabled. Failing since now, or again after days without a
    call: noted. Working again: forgotten."""
    names = ("fails-old", "fails-open", "fails-new", "fails-again", "works")
    old, open_, new, again, works = (hook(sinks, sandbox, name)[0] for name in names)
    for request, last_h in ((old, 0), (open_, 0), (again, 72), (works, 0)):
        sinks.ledger(
            "INSERT INTO ledger.failing_endpoints VALUES (%s, %s, now() - interval '5 days 1 s', now() - %s * interval '1 hour')",
            address_mark(request["address"]).encode(), request["subscriber_id"], last_h,
        )  # fmt: skip
    hashed = hmac.digest(
        bytes.fromhex(sinks.settings.receipt_key), f"destination\x1fwebhook\x1f{sandbox.url}/hooks/fails-open".encode(), "sha256"
    )
    sinks.ledger(
        "INSERT INTO ledger.breakers (channel, destination, state, reason, changed_at) VALUES ('webhook', %s, 'open', '', now())",
        hashed.hex(),
    )
    sandbox.fault("webhook", "error", only="fails")
    sink = sinks.start("webhook-bulk")
    sink.wait_running()
    sinks.deliver([old, open_, new, again, works])
    for request in (old, open_):
        (event,) = wait_for(lambda who=request["subscriber_id"]: unlinked(sinks, who), "the channel to be unlinked")
        assert event.value["reason"] == "disabled"
    known = "SELECT subscriber_id::text, since > now() - interval '1 hour' FROM ledger.failing_endpoints"
    noted = {(request["subscriber_id"], True) for request in (new, again)}
    wait_for(lambda: set(sinks.ledger(known)) == noted, "the new ones to be noted and the others forgotten")
    assert all(unlinked(sinks, request["subscriber_id"]) == [] for request in (new, again, works))
    assert sink.stop() == 0


def test_does_all_again_without_effect_when_it_is_killed_or_reset(sinks: World, sandbox: SandboxProcess) -> None:
    """Killed at each step, restarted, and its group set back: every delivery has its state once, every unlink comes once."""
    requests = sent(sinks, 40)
    seed = random.randrange(1 << 30)
    kinds = random.Random(seed).choices(("ProviderDelivered", "DeliveryBounced"), k=40)
    records = [
        notice(sinks, kind, r, **({"address": Clear(f"{r['subscriber_id']}@example.org")} if kind == "DeliveryBounced" else {}))
        for r, kind in zip(requests, kinds, strict=True)
    ]
    running = next(p for p in sinks.processes if p.name == "feedback" and p.ended() is None)
    assert running.stop() == 0
    sinks.produce_all(records)
    for point in ("feedback.after_suppress", "feedback.after_states"):
        dying = sinks.start("feedback", NEWSWIRE_FAILPOINTS=f"{point}=kill")
        wait_for(lambda p=dying: p.ended() is not None, f"the kill at {point}")
    again: Process = sinks.start("feedback")
    again.wait_running()
    failed = [r for r, kind in zip(requests, kinds, strict=True) if kind == "DeliveryBounced"]
    confirmed = [r for r, kind in zip(requests, kinds, strict=True) if kind == "ProviderDelivered"]
    last(sinks, failed, "DeliveryFailed")
    last(sinks, confirmed, "DeliveryConfirmed")
    assert again.stop() == 0
    before = {event.id for event in sinks.statuses()}
    reset_group(sinks.settings, f"{sinks.settings.topic_prefix}.sink.feedback", sinks.topics.provider_events)
    sinks.start("feedback").wait_running()
    (marker,) = sent(sinks)
    sinks.produce_all([notice(sinks, "ProviderDelivered", marker)])
    last(sinks, [marker], "DeliveryConfirmed")
    new = {event.id for event in sinks.statuses()} - before
    assert len(new) == 2, f"seed {seed}: only the marker's own"
    assert all(len(unlinked(sinks, r["subscriber_id"])) == 1 for r in failed), f"seed {seed}"
