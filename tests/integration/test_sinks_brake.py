"""Brake and canary on a real broker, PostgreSQL and sandbox: a source pauses by itself, and says so."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from schemas.records import Record
from tests import fix_sandbox
from tests.fix_sandbox import SandboxProcess
from tests.fix_stack import Stack
from tests.sinks_kit import Process, World, records_of, wait_for, world

pytestmark = pytest.mark.stack
sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox


@pytest.fixture(scope="module")
def sinks(stack: Stack, sandbox_process: SandboxProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Topics and databases, with consent, the guard and a mail sink running."""
    with world(
        stack, tmp_path_factory.mktemp("brake"), ses_endpoint_url=f"{sandbox_process.url}/ses", sweep_interval_s=0.3,
        instance_id="only",
    ) as one:  # fmt: skip
        one.start("consent")
        one.start("guard")
        yield one


@pytest.fixture(scope="module")
def ses(sinks: World) -> Process:
    """The bulk mail sink."""
    return sinks.start("ses-bulk")


def statuses(
    sinks: World, source_id: str, sent: int, bounced: int = 0, complained: int = 0, *, channel: str = "email"
) -> list[Record]:
    """Events as the sinks and the feedback process write them: so many sent, of which some came back."""
    made = []
    for number in range(sent):
        subscriber, delivery_id = str(uuid.uuid4()), f"20991231-{uuid.uuid4()}"
        came_back = "bounced" if number < bounced else "complained" if number < bounced + complained else None
        for name, reason in (("DeliverySent", None), *([("DeliveryFailed", came_back)] if came_back else [])):
            value = {
                "delivery_id": delivery_id, "subscriber_id": subscriber, "source_id": source_id, "source_kind": "newsletter",
                "channel": channel, "lane": "bulk", "reason": reason, "provider_receipt_hash": None, "attempt": 1,
                "occurred_at": datetime.now(UTC),
            }  # fmt: skip
            about = {"source": f"/newswire/sinks/{channel}", "correlation_id": source_id, "time": datetime.now(UTC)}
            made.append(sinks.codec.encode(sinks.topics.delivery_status, name, value, key=subscriber, **about))
    return made


def controls(sinks: World, control_id: str) -> list[tuple[str, str, str]]:
    """(action, who, why) of everything that was said about something."""
    events = [sinks.codec.decode(raw).value for raw in records_of(sinks.settings, sinks.topics.controls)]
    return [(v["action"], v["changed_by"], v["reason"]) for v in events if v["control_id"] == control_id]


def counted(sinks: World, source: str) -> int:
    """How many sends of a source the brake knows."""
    return int(sinks.ledger("SELECT coalesce(sum(sent), 0) FROM ledger.sends WHERE source = %s", source)[0][0])


def resume(sinks: World, control_id: str) -> None:
    """Resume as an operator."""
    value = {
        "control_id": control_id, "action": "resume", "reason": "mended", "changed_by": "cli", "changed_at": datetime.now(UTC),
    }  # fmt: skip
    sinks.produce(sinks.topics.controls, "ControlChanged", value, control_id)


def unsettled(sinks: World, requests: list[dict[str, Any]]) -> int:
    """How many deliveries have no report."""
    return sum(not found for found in sinks.states(requests).values())


def waiting(sinks: World, source_id: str) -> dict[str, int]:
    """How many deliveries of a source are held, by what holds them."""
    rows = sinks.ledger(
        "SELECT reason, count(*) FROM ledger.deliveries WHERE state = 'retry' AND source_id = %s GROUP BY reason", source_id
    )
    return dict(rows)  # type: ignore[arg-type]


def test_stops_a_newsletter_that_bounces_and_says_so(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """Not below 500 sent, not at 5 %; above it the newsletter is held in every slot, once, until somebody resumes it."""
    sinks.define_newsletter("bouncing")
    slots = [f"bouncing@2026-11-2{day}T09:00Z" for day in (1, 2)]
    sinks.produce_all(statuses(sinks, f"{slots[0]}#test-1", 9, bounced=9))
    sinks.produce_all(statuses(sinks, slots[0], 480, bounced=26))
    wait_for(lambda: counted(sinks, "bouncing") == 480, "the first sends to be counted")
    sinks.produce_all(statuses(sinks, slots[1], 40))
    wait_for(lambda: counted(sinks, "bouncing") == 520, "all sends to be counted")
    assert controls(sinks, "source/bouncing") == [], "26 of 520 are 5 %, and a test send counts nothing"
    more = statuses(sinks, slots[1], 1, bounced=1)
    sinks.produce_all([*more, *more])
    wait_for(lambda: controls(sinks, "source/bouncing"), "the brake")
    ((action, who, why),) = controls(sinks, "source/bouncing")
    assert (action, who) == ("stop", "brake")
    assert why.startswith("by email, 27 bounced (5.2%) and 0 complained (0.00%) of 52")
    requests = sinks.requests(20, items=[sinks.publish()], source_id="bouncing@2026-11-23T09:00Z", newsletter_id="bouncing")
    sinks.deliver(requests)
    wait_for(lambda: waiting(sinks, requests[0]["source_id"]) == {"stopped": 20}, "everything to be held")
    assert sandbox.counts().get("ses", 0) == 0
    sinks.produce_all(statuses(sinks, slots[1], 30, bounced=30))
    wait_for(lambda: counted(sinks, "bouncing") == 552, "what still comes back to be counted")
    resume(sinks, "source/bouncing")
    wait_for(lambda: unsettled(sinks, requests) == 0, "the rest to be sent")
    wait_for(lambda: counted(sinks, "bouncing") == 572, "the rest to be counted")
    next(p for p in reversed(sinks.processes) if p.name == "guard").kill()
    sinks.start("guard")  # it knows of the resume, and does not weigh again what was weighed before it
    sinks.produce_all(statuses(sinks, slots[1], 1, bounced=1))
    wait_for(lambda: counted(sinks, "bouncing") == 573, "one more to be counted")
    sinks.produce_all(statuses(sinks, "after@2026-11-22T09:00Z", 500, complained=1))
    wait_for(lambda: controls(sinks, "source/after"), "the brake to have weighed everything until then")
    assert [action for action, _, _ in controls(sinks, "source/bouncing")] == ["stop", "resume"]


def test_stops_for_complaints_and_counts_channels_and_sources_apart(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """One in 1,000 is the limit; what a channel without bounces sent does not hide them; an alert is a source too."""
    alert = str(uuid.uuid4())
    sinks.produce_all(
        [
            *statuses(sinks, "fine@2026-11-22T09:00Z", 1000, complained=1),
            *statuses(sinks, "annoying@2026-11-22T09:00Z", 1000, complained=2),
            *statuses(sinks, "annoying@2026-11-22T09:00Z", 2000, channel="slack"),
            *statuses(sinks, alert, 500, bounced=30),
        ]
    )
    wait_for(lambda: controls(sinks, "source/annoying") and controls(sinks, f"source/{alert}"), "the brakes")
    assert "2 complained (0.20%) of 1000 sent" in controls(sinks, "source/annoying")[0][2]
    wait_for(lambda: counted(sinks, "fine") == 1000, "the fine one to be counted")
    assert controls(sinks, "source/fine") == []


@pytest.mark.parametrize("fault", ["killed", "cut"])
def test_counts_on_where_it_was(sinks: World, ses: Process, sandbox: SandboxProcess, fault: str) -> None:
    """Counts and offsets are one transaction: nothing is counted twice or not at all when the guard is cut off from the
    database, or killed and the one that waits takes over.
    """
    sinks.produce_all(statuses(sinks, f"{fault}@2026-11-22T09:00Z", 400, bounced=10))
    wait_for(lambda: counted(sinks, fault) > 0, "the first sends to be counted")
    if fault == "killed":
        first, standby = next(p for p in reversed(sinks.processes) if p.name == "guard"), sinks.start("guard")
        standby.wait_running()
        first.kill()
    else:
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        sinks.ledger(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
    sinks.produce_all(statuses(sinks, f"{fault}@2026-11-22T09:00Z", 200, bounced=21))
    wait_for(lambda: controls(sinks, f"source/{fault}"), "the brake, once")
    wait_for(lambda: counted(sinks, fault) >= 600, "the rest to be counted")
    assert counted(sinks, fault) == 600
    assert sinks.ledger("SELECT count(*) FROM ledger.returns WHERE source = %s", fault) == [(31,)]


def test_says_what_to_do_without_a_schema(sinks: World) -> None:
    """A database that was not migrated is named in one sentence."""
    base = sinks.settings.ledger_database_url.rsplit("/", 1)[0]
    process = sinks.start("guard", replace(sinks.settings, ledger_database_url=f"{base}/postgres"))
    assert wait_for(lambda: process.ended() is not None and process.ended(), "its end") != 0
    assert "newswire migrate" in process.log.read_text()
    assert "Traceback" not in process.log.read_text()


def test_sends_to_a_canary_first(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """A share goes out; the others wait until the time has passed since the first send, and follow by themselves."""
    sinks.define_newsletter("careful", canary_share=0.2, canary_hold_min=5)
    slot = "careful@2026-11-22T09:00Z"
    requests = sinks.requests(400, items=[sinks.publish()], source_id=slot, newsletter_id="careful")
    sinks.deliver(requests)
    wait_for(lambda: unsettled(sinks, requests) == waiting(sinks, slot).get("canary", 0), "the canary to be sent")
    first = 400 - unsettled(sinks, requests)
    assert 40 < first < 130
    wait_for(lambda: counted(sinks, "careful") == first, "the canary to be counted")
    assert controls(sinks, f"canary/{slot}") == []
    sinks.ledger("UPDATE ledger.sends SET first_at = first_at - interval '5 minutes' WHERE source = 'careful'")
    wait_for(lambda: unsettled(sinks, requests) == 0, "the others to follow")
    assert [(action, who) for action, who, _ in controls(sinks, f"canary/{slot}")] == [("resume", "canary")]
    assert sandbox.counts("delivery_id") == {r["delivery_id"]: 1 for r in requests}
    late = sinks.requests(50, items=requests[0]["items"], source_id=slot, newsletter_id="careful")
    sinks.deliver(late)
    wait_for(lambda: unsettled(sinks, late) == 0, "those who come later to be sent at once")
    next(p for p in reversed(sinks.processes) if p.name == "ses-bulk").kill()
    sinks.start("ses-bulk")
    last = sinks.requests(20, items=requests[0]["items"], source_id=slot, newsletter_id="careful")
    sinks.deliver(last)
    wait_for(lambda: unsettled(sinks, last) == 0, "a new process to know it as well")


def test_nobody_follows_a_canary_that_comes_back(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """The brake stops the newsletter within the canary's time: the others are not sent when it is over."""
    sinks.define_newsletter("unlucky", canary_share=0.2, canary_hold_min=5)
    slot = "unlucky@2026-11-22T09:00Z"
    sinks.produce_all(statuses(sinks, "unlucky@2026-11-21T09:00Z", 5000))
    requests = sinks.requests(100, items=[sinks.publish()], source_id=slot, newsletter_id="unlucky")
    sinks.deliver(requests)
    wait_for(lambda: unsettled(sinks, requests) == waiting(sinks, slot).get("canary", 0), "the canary to be sent")
    held = unsettled(sinks, requests)
    assert 50 < held < 100
    sinks.produce_all(statuses(sinks, slot, 500, bounced=40))
    wait_for(lambda: controls(sinks, "source/unlucky"), "the brake, by the slot alone")
    sinks.ledger("UPDATE ledger.sends SET first_at = first_at - interval '1 hour' WHERE source = 'unlucky'")
    more = sinks.requests(40, items=requests[0]["items"], source_id=slot, newsletter_id="unlucky")
    sinks.deliver(more)
    wait_for(lambda: sum(waiting(sinks, slot).values()) == held + 40, "the late ones to be held as well")
    assert controls(sinks, f"canary/{slot}") == []
    resume(sinks, "source/unlucky")
    wait_for(lambda: unsettled(sinks, requests + more) == 0, "all to be sent after the resume")
    assert sandbox.counts("delivery_id") == {r["delivery_id"]: 1 for r in requests + more}
