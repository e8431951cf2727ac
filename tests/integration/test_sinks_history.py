"""The ledger's memory: timelines, giving deliveries back, and retiring days; on real PostgreSQL, Kafka and sink processes."""

import json
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from core.errors import InputError
from sinks.history import decided_at, ledger_connection, read_rows, timeline
from sinks.redrive import Answer, give_back
from sinks.retiring import Retired, days, retire
from sinks.statements import GIVE_BACK
from tests import fix_sandbox
from tests.fix_sandbox import SandboxProcess
from tests.fix_stack import Stack
from tests.sinks_kit import ROOT, Process, World, environ_of, wait_for, world

pytestmark = pytest.mark.stack
sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox


@pytest.fixture(scope="module")
def sinks(stack: Stack, sandbox_process: SandboxProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Topics and databases, with consent running."""
    with world(
        stack,
        tmp_path_factory.mktemp("history"),
        ses_endpoint_url=f"{sandbox_process.url}/ses",
        provider_timeout_s=5.0,
        lease_s=8.0,
        sweep_interval_s=0.3,
        actor="ada",
    ) as one:
        one.define_newsletter()
        one.start("consent")
        yield one


@pytest.fixture(scope="module")
def ses(sinks: World) -> Process:
    """The bulk mail sink."""
    return sinks.start("ses-bulk")


def newswire(sinks: World, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    """Run a command with --json as a process of its own; return what it printed."""
    command = [sys.executable, "-c", "from runtime.commands import main; main()", "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environ_of(sinks.settings), capture_output=True, text=True, timeout=180)
    assert done.returncode == code, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def row_of(sinks: World, request: dict[str, Any]) -> dict[str, Any]:
    """The ledger's row of a delivery; empty before it is claimed."""
    try:
        return read_rows(sinks.settings, [request["delivery_id"]])[0]
    except InputError:
        return {}


def wait_for_state(sinks: World, request: dict[str, Any], state: str, *, reported: bool = True) -> dict[str, Any]:
    """Wait until the delivery is in a state, and that is reported; return its row."""

    def there() -> dict[str, Any] | None:
        row = row_of(sinks, request)
        return row if row and row["state"] == state and (row["reported_at"] or not reported) else None

    return dict(wait_for(there, f"{request['delivery_id']} to be {state}"))


def words(row: dict[str, Any]) -> list[tuple[str, int | None]]:
    """The timeline without its times."""
    return [(step.what, step.attempt) for step in timeline(row)]


def test_a_delivery_sent_at_once_has_no_history(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """Its timeline is made of its row alone; latency and receipt are in it."""
    (request,) = sinks.requests(1, items=[sinks.publish()])
    sinks.deliver([request])
    row = wait_for_state(sinks, request, "sent")
    assert row["history"] is None
    assert words(row) == [("claimed", 1), ("sent", 1), ("reported", 1)]
    sent = timeline(row)[1]
    assert sent.receipt_hash == row["receipt_hash"]
    assert sent.call_ms is not None
    assert sent.call_ms >= 0
    claimed, outcome, reported = (step.at for step in timeline(row))
    assert claimed <= outcome <= reported


def test_shows_a_retry_an_unknown_and_a_redrive_as_one_timeline(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """Refused and tried again, then the answer is lost, then given back by hand: every step, in order, with its particulars."""
    (request,) = sinks.requests(1, items=[sinks.publish()])
    sandbox.fault("ses", "error", count=4)
    sinks.deliver([request])
    wait_for(lambda: len(row_of(sinks, request).get("history") or ()) >= 3, "it to be parked")
    sandbox.ask("/control/faults", method="DELETE")
    sandbox.fault("ses", "drop_after_accept", count=1)
    unknown = wait_for_state(sinks, request, "unknown")
    answers = give_back(sinks.settings, [request["delivery_id"]], by="ada", why="she asked", unknown_too=True, dry_run=False)
    assert answers == [Answer(request["delivery_id"], True, "to the sink email-bulk")]
    row = wait_for_state(sinks, request, "sent")

    steps = timeline(row)
    kinds = [step.what for step in steps]
    assert (kinds[0], next(kind for kind in kinds if kind != "claimed")) == ("claimed", "retry")  # a lease may end before
    assert kinds[-8:] == ["retry", "claimed", "unknown", "reported", "redriven", "claimed", "sent", "reported"]
    assert [step.at for step in steps] == sorted(step.at for step in steps)
    retries = [step for step in steps if step.what == "retry"]
    assert [step.attempt for step in retries] == list(range(1, len(retries) + 1))
    assert all(step.reason and step.call_ms is not None for step in retries)
    assert retries[-1].due_at is not None
    lost, redriven = (next(step for step in steps if step.what == what) for what in ("unknown", "redriven"))
    assert (lost.reason, lost.attempt, lost.at) == ("answer_lost", unknown["attempt"], unknown["outcome_at"])
    assert (redriven.by, redriven.why, redriven.attempt) == ("ada", "she asked", unknown["attempt"] + 1)
    assert row["attempt"] == unknown["attempt"] + 2
    assert sandbox.counts("delivery_id") == {request["delivery_id"]: 2}, "the answer was lost, not the message"
    assert [name for name, _, _ in sinks.states([request])[request["delivery_id"]]] == ["DeliveryUnknown", "DeliverySent"]

    (shown,) = newswire(sinks, "delivery", "show", request["delivery_id"])
    assert shown["state"] == "sent"
    assert [step["what"] for step in shown["timeline"]] == kinds
    assert [step["event"] for step in shown["timeline"] if step["what"] == "reported"] == ["DeliveryUnknown", "DeliverySent"]


def test_gives_a_failed_delivery_back_and_what_was_sent_not(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """A failure goes out under the same id after a retry by hand; a second one is refused, and nothing is sent twice."""
    (request,) = sinks.requests(1, items=[sinks.publish()])
    sandbox.fault("ses", "partial", code="MESSAGE_REJECTED", only=request["delivery_id"])
    sinks.deliver([request])
    failed = wait_for_state(sinks, request, "failed")
    sandbox.ask("/control/faults", method="DELETE")

    (told,) = newswire(sinks, "delivery", "retry", request["delivery_id"], "--reason", "x", "--dry-run")
    assert told["answer"] == "would be given back"
    assert row_of(sinks, request) == failed, "a dry run changes nothing"
    (told,) = newswire(sinks, "delivery", "retry", request["delivery_id"], "--reason", "The template was mended")
    assert told["answer"] == "given back"
    row = wait_for_state(sinks, request, "sent")
    assert words(row) == [
        ("claimed", 1), ("failed", 1), ("reported", 1), ("redriven", 2), ("claimed", 3), ("sent", 3), ("reported", 3)
    ]  # fmt: skip
    assert sandbox.counts("delivery_id") == {request["delivery_id"]: 1}
    (told,) = newswire(sinks, "delivery", "retry", request["delivery_id"], "--reason", "again", code=1)
    assert told["answer"] == "refused"
    assert told["detail"].startswith("it was sent at")
    assert row_of(sinks, request) == row


def test_a_delivery_given_back_is_looked_at_again_before_it_is_sent(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """Who has unsubscribed since gets nothing: the ordinary path suppresses it, and a dry run says so beforehand."""
    (request,) = sinks.requests(1, items=[sinks.publish()])
    sandbox.fault("ses", "partial", code="MESSAGE_REJECTED", only=request["delivery_id"])
    sinks.deliver([request])
    wait_for_state(sinks, request, "failed")
    sandbox.ask("/control/faults", method="DELETE")
    subject = f"sub:{request['subscriber_id']}/nl"
    sinks.change("PreferencesChanged", request["subscriber_id"], newsletters=["weekly"], changed_at=datetime.now(UTC))
    wait_for(lambda: sinks.ledger("SELECT 1 FROM ledger.barred WHERE subject = %s", subject), "the preference")
    (told,) = newswire(sinks, "delivery", "retry", request["delivery_id"], "--reason", "x", "--dry-run")
    assert told["detail"] == f"to the sink email-bulk; as things are it will not be sent: unsubscribed ({subject})"
    newswire(sinks, "delivery", "retry", request["delivery_id"], "--reason", "x")
    row = wait_for_state(sinks, request, "suppressed")
    assert row["reason"] == "unsubscribed"
    assert words(row)[-4:] == [("redriven", 2), ("claimed", 2), ("suppressed", 2), ("reported", 2)]
    assert sandbox.counts("delivery_id") == {}


def test_an_unknown_delivery_is_given_back_only_when_asked_for(sinks: World, ses: Process, sandbox: SandboxProcess) -> None:
    """It may have arrived: that has to be said; what bounced was sent, and is never given back."""
    source = "daily@2026-11-22T09:17Z"
    (request,) = sinks.requests(1, items=[sinks.publish()], source_id=source)
    sandbox.fault("ses", "drop_after_accept", count=1)
    sinks.deliver([request])
    wait_for_state(sinks, request, "unknown")
    assert newswire(sinks, "delivery", "retry", "--source", source, "--dry-run") == []
    (told,) = newswire(sinks, "delivery", "retry", "--source", source, "--unknown", "--dry-run")
    assert (told["answer"], told["deliveries"]) == ("would be given back", 1)
    (told,) = newswire(sinks, "delivery", "retry", request["delivery_id"], "--reason", "x", code=1)
    assert told["detail"] == "it may have arrived (answer_lost); with --unknown it is sent all the same"
    sinks.ledger(
        "UPDATE ledger.deliveries SET state = 'failed', reason = 'bounced' WHERE delivery_id = %s",
        request["delivery_id"].split("-", 1)[1],
    )
    (told,) = newswire(sinks, "delivery", "retry", request["delivery_id"], "--reason", "x", "--unknown", code=1)
    assert told["detail"] == "it was sent, and failed afterwards (bounced); it is not sent again"
    (listed,) = newswire(sinks, "delivery", "list", "--reason", "bounced")
    assert listed["delivery_id"] == request["delivery_id"]


def test_says_what_is_wrong_with_an_id(sinks: World) -> None:
    """No delivery id, or one that the ledger does not know: a sentence and exit code 2."""
    (told,) = newswire(sinks, "delivery", "show", "abc", code=2)
    assert "no delivery id" in told["error"]
    unknown = f"20260101-{uuid.uuid4()}"
    (told,) = newswire(sinks, "delivery", "show", unknown, code=2)
    assert told["error"].startswith(f"delivery: the ledger has no {unknown}")
    (told,) = newswire(sinks, "delivery", "retry", unknown, "--reason", "x", code=2)
    assert told["error"].startswith(f"delivery: the ledger has no {unknown}")


INSERT = """
INSERT INTO ledger.deliveries (day, delivery_id, channel, lane, source_id, source_kind, subscriber_id, state, attempt, claimed_at,
    not_after, outcome_at, reported_at)
VALUES (%s, %s, 'slack', 'bulk', 's', 'alert', %s, %s, 1, now(), now(), CASE WHEN %s <> 'claimed' THEN now() END, %s)
"""


def old_delivery(sinks: World, age_days: int, state: str = "sent", *, reported: bool = True) -> tuple[date, str]:
    """Put a delivery into the partition of a day so many days ago."""
    day, uid = datetime.now(UTC).date() - timedelta(days=age_days), str(uuid.uuid4())
    sinks.ledger("SELECT ledger.ensure_days(%s, %s)", day, day)
    reported_at = datetime.now(UTC) if reported else None
    sinks.ledger(INSERT, day, uid, str(uuid.uuid4()), state, state, reported_at)
    return day, uid


def answers(retired: list[Retired]) -> dict[date, str]:
    """What was done with each day."""
    return {one.day.day: one.done for one in retired}


def test_detaches_old_days_only_when_all_is_settled(sinks: World) -> None:
    """Claimed, parked, unknown or not reported holds a day back, and it is named; a young day is not looked at."""
    settled, _ = old_delivery(sinks, 20)
    held = {
        "claimed": old_delivery(sinks, 21, "claimed", reported=False)[0],
        "parked": old_delivery(sinks, 22, "retry")[0],
        "unknown": old_delivery(sinks, 23, "unknown")[0],
        "unreported": old_delivery(sinks, 24, "sent", reported=False)[0],
    }
    young, _ = old_delivery(sinks, 9)
    expected = {settled: "detached"} | dict.fromkeys(held.values(), "kept")
    assert answers(retire(sinks.settings, dry_run=True)) == expected
    before = days(sinks.settings)
    assert all(one.attached for one in before), "a dry run changes nothing"
    done = retire(sinks.settings)
    assert answers(done) == expected
    for what, day in held.items():
        (one,) = (r.day for r in done if r.day.day == day)
        assert (getattr(one, what), one.unsettled) == (1, 1)
    standing = {one.day: one.attached for one in days(sinks.settings)}
    assert not standing[settled]
    assert all(standing[day] for day in (*held.values(), young))
    assert sinks.ledger("SELECT count(*) FROM ledger.deliveries WHERE day = %s", settled) == [(0,)]
    assert answers(retire(sinks.settings, with_unknown=True))[held["unknown"]] == "detached"
    shown = {line["day"]: line for line in newswire(sinks, "ledger", "days")}
    assert shown[str(held["claimed"])]["claimed"] == 1
    assert newswire(sinks, "ledger", "retire") == [
        {"day": str(day), "answer": "kept", "deliveries": 1, "unsettled": 1}
        for day in sorted(day for what, day in held.items() if what != "unknown")
    ]


def test_adds_what_others_know_of_a_delivery(sinks: World) -> None:
    """When it was decided, from the read models if they can be asked, and what a recall did about it."""
    day, uid = old_delivery(sinks, 0)
    delivery_id = f"{day:%Y%m%d}-{uid}"
    settings = replace(sinks.settings, database_url=sinks.settings.ledger_database_url)
    assert decided_at(sinks.settings, delivery_id) is None
    assert decided_at(settings, delivery_id) is None, "there are no read models here"
    at = datetime(2026, 11, 22, 9, tzinfo=UTC)
    sinks.ledger("CREATE SCHEMA api")
    sinks.ledger("CREATE TABLE api.deliveries AS SELECT %s::text AS delivery_id, %s::timestamptz AS decided_at", delivery_id, at)
    assert decided_at(settings, delivery_id) == at
    sinks.ledger(
        "INSERT INTO ledger.edits (subject, day, delivery_id, channel, subscriber_id, state, settled_at) "
        "VALUES ('pub:p', %s, %s, 'slack', %s, 'edited', now())",
        day, uid, str(uuid.uuid4()),
    )  # fmt: skip
    (shown,) = newswire(sinks, "delivery", "show", delivery_id)
    assert [(step["what"], step.get("reason")) for step in shown["timeline"]][-1] == ("recall edited", "pub:p")


def test_a_held_delivery_says_what_holds_it_and_the_command_that_it_names_lets_it_go(
    sinks: World, ses: Process, sandbox: SandboxProcess
) -> None:
    """Stopped, shown, resumed by what is shown, and let go by the guard."""
    newswire(sinks, "stop", "channel", "email", "--reason", "a test")
    (request,) = sinks.requests(1, items=[sinks.publish()])
    wait_for(lambda: sinks.ledger("SELECT 1 FROM ledger.barred WHERE subject = 'stop:ch:email'"), "the stop to be known")
    sinks.deliver([request])
    wait_for(lambda: row_of(sinks, request).get("reason") == "stopped", "it to be held")
    (shown,) = newswire(sinks, "delivery", "show", request["delivery_id"])
    (said,) = shown["waits_for"]
    assert said.startswith("It is held by the stop of channel email")
    program, *command = shlex.split(said.split("`")[-2])
    assert (program, command[0]) == ("newswire", "resume")
    newswire(sinks, *command)
    guard = sinks.start("guard")
    wait_for_state(sinks, request, "sent")
    assert newswire(sinks, "delivery", "show", request["delivery_id"])[0]["waits_for"] == []
    assert guard.stop() == 0


def test_two_who_give_a_delivery_back_at_once_do_it_once(sinks: World) -> None:
    """Both looked at the same state and attempt; the second finds it changed."""
    day, uid = old_delivery(sinks, 0, "failed")
    values = {"days": [day], "ids": [uid], "attempts": [1], "states": ["failed"], "requests": [b"r"], "by": "ada", "why": "x"}
    with ledger_connection(sinks.settings) as connection:
        assert connection.execute(GIVE_BACK, values).fetchall() == [(uid,)]
        assert connection.execute(GIVE_BACK, values).fetchall() == []
        connection.execute("DELETE FROM ledger.deliveries WHERE delivery_id = %s", [uid])


def test_keeps_the_first_and_the_last_of_a_long_history(sinks: World) -> None:
    """However often a delivery is refused, its row stays small: 20 entries from the beginning, 80 from the end."""
    (history,) = sinks.ledger(
        "WITH RECURSIVE made(n, h) AS (SELECT 0, NULL::jsonb UNION ALL "
        "SELECT n + 1, ledger.noted(h, jsonb_build_object('attempt', n, 'reason', NULL)) FROM made WHERE n < 300) "
        "SELECT h FROM made WHERE n = 300"
    )[0]
    assert history == [{"attempt": n} for n in (*range(20), *range(220, 300))]


def test_a_detached_day_is_still_shown_until_it_is_dropped(sinks: World) -> None:
    """90 days later the table goes, and then the ledger does not know the delivery."""
    day, uid = old_delivery(sinks, 100)
    delivery_id = f"{day:%Y%m%d}-{uid}"
    assert answers(retire(sinks.settings))[day] == "detached"
    assert read_rows(sinks.settings, [delivery_id])[0]["state"] == "sent"
    assert answers(retire(sinks.settings))[day] == "dropped"
    with pytest.raises(InputError, match="its day's partition was dropped"):
        read_rows(sinks.settings, [delivery_id])


def test_finishes_a_detach_that_was_cut_short(sinks: World) -> None:
    """While another transaction uses the ledger the detach waits; cut off there, the day is left half-way and finished later."""
    import psycopg

    day, _ = old_delivery(sinks, 30)
    url = sinks.settings.ledger_database_url
    with psycopg.connect(url) as reader, psycopg.connect(url, autocommit=True) as impatient:
        reader.execute("SELECT count(*) FROM ledger.deliveries")
        impatient.execute("SET statement_timeout = 300")
        with pytest.raises(psycopg.errors.QueryCanceled):
            impatient.execute(f"ALTER TABLE ledger.deliveries DETACH PARTITION ledger.deliveries_{day:%Y%m%d} CONCURRENTLY")
    assert answers(retire(sinks.settings))[day] == "detached"
    assert not next(one for one in days(sinks.settings) if one.day == day).attached
