"""What the whole stack promises, with every process running and some of them killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fix_whole import Whole

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]


def bin_kafka(whole: Whole, *words: str) -> str:
    """Run one of Kafka's own tools against the stack."""
    root = Path(__file__).parents[2]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "NEWSWIRE_HOME": str(whole.home)}
    return subprocess.run(
        [root / "bin" / "kafka", *words], env=environ, capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_publication_reaches_every_channel_and_the_accounting_closes(whole: Whole) -> None:
    """One issue each on four channels: sent, counted at the provider, and balanced."""
    newsletter = whole.define_newsletter()
    whole.publish()
    hook = whole.env["NEWSWIRE_INBOX_URL"].rstrip("/") + "/hooks/test"
    secret = "whsec_bmV3c3dpcmUtZGVtby1zZWNyZXQtb2YtMzItYnl0ZXM="
    addresses = {
        "email": "a@example.org",
        "slack": "C0123456789",
        "discord": "900000000000000001",
        "webhook": {"url": hook, "secret": secret},
    }
    for channel, address in addresses.items():
        whole.register(1, newsletters=[newsletter], channels={channel: address})
    source = f"{newsletter}@{whole.slot()}"
    whole.command("tick", newsletter, "--slot", source.split("@")[1])
    whole.wait_for(lambda: whole.settled(source), "the newsletter")
    rows = {row["channel"]: row for row in whole.accounting(source)}
    assert {channel: row["sent"] for channel, row in rows.items()} == {"email": 1, "slack": 1, "discord": 1, "webhook": 1}
    assert all(
        row["balance"] == 0 and row["population"] == row["chosen"] + row["gated"] + row["not_concerned"] for row in rows.values()
    )
    assert len({row["population"] for row in rows.values()}) == 1


def test_same_slot_again_changes_nothing(whole: Whole) -> None:
    """A second tick of a slot is already decided."""
    newsletter = whole.define_newsletter()
    whole.publish(1)
    whole.register(3, newsletters=[newsletter])
    slot = whole.slot()
    for _ in range(2):
        whole.command("tick", newsletter, "--slot", slot)
        whole.wait_for(lambda: whole.settled(f"{newsletter}@{slot}"), "the newsletter")
        whole.quiesce()
    assert sorted(whole.accepted_for(f"{newsletter}@{slot}").values()) == [1, 1, 1]


def test_killed_decider_keeps_its_first_decision(whole: Whole) -> None:
    """A worker dies after its first AudienceDecided, preferences change, it comes back: the first decision holds."""
    newsletter = whole.define_newsletter()
    whole.publish()
    people = whole.register(24, newsletters=[newsletter])
    source = f"{newsletter}@{whole.slot()}"
    whole.set_failpoint("newsletters:decide.after_produce=kill@3")
    before = whole.pid("newsletters")
    whole.command("tick", newsletter, "--slot", source.split("@")[1])
    whole.wait_for(lambda: whole.pid("newsletters") != before, "the worker's death")
    whole.set_failpoint("")
    whole.stack("stop", "newsletters")
    rows_of = "select subscriber_id::text from api.deliveries where source_id = %s"
    decided = {row[0] for row in whole.wait_for(lambda: whole.query(rows_of, source), "the decisions before the kill")}
    for person in people[::6]:
        whole.command("prefer", person, "--newsletters", "")
    whole.stack("start", "newsletters")
    whole.wait_for(lambda: whole.settled(source), "the newsletter")
    rows = whole.accounting(source)
    assert all(row["balance"] == 0 and row["complete"] for row in rows)
    chosen = {row[0] for row in whole.query(rows_of, source)}
    assert decided <= chosen, "a decision that was in the log was changed"
    assert set(people) - set(people[::6]) <= chosen, "somebody who changed nothing was lost"
    assert all(count <= 1 for count in whole.accepted_for(source).values())


def test_every_group_reset_to_the_beginning_sends_nothing(whole: Whole) -> None:
    """Kafka's own tool resets every group; nothing is decided again and nothing reaches a provider."""
    newsletter = whole.define_newsletter()
    whole.publish(1)
    whole.register(5, newsletters=[newsletter])
    source = f"{newsletter}@{whole.slot()}"
    whole.command("tick", newsletter, "--slot", source.split("@")[1])
    whole.wait_for(lambda: whole.settled(source), "the newsletter")
    whole.quiesce()
    before, decisions = whole.sandbox("/control/counts?by=provider"), decision_end(whole)
    whole.stack("stop", "newswire")
    groups = [line.split()[0] for line in bin_kafka(whole, "groups", "--list").splitlines() if line.startswith("newswire.")]
    assert len(groups) >= 15
    named = [word for group in groups for word in ("--group", group)]
    bin_kafka(whole, "groups", "--reset-offsets", "--to-earliest", "--all-topics", "--execute", *named)
    whole.stack("up")
    whole.quiesce()
    whole.wait_for(lambda: whole.lag() == 0, "every group to catch up", 240)
    whole.wait_for(lambda: whole.settled(source), "the rebuilt read model")
    assert whole.sandbox("/control/counts?by=provider") == before
    assert decision_end(whole) == decisions
    assert all(row["balance"] == 0 for row in whole.accounting(source))


def decision_end(whole: Whole) -> str:
    """Return the end offsets of the decisions topics, as Kafka's tool prints them."""
    return bin_kafka(whole, "offsets", "--topic-partitions", "newswire.decisions.bulk,newswire.decisions.urgent")


def test_partition_moves_away_and_back_across_an_unsubscribe(whole: Whole) -> None:
    """A second worker takes partitions and leaves; who unsubscribed meanwhile is chosen by nobody."""
    newsletter = whole.define_newsletter()
    whole.publish(1)
    people = whole.register(24, newsletters=[newsletter])
    environ = {"PATH": "/usr/bin:/bin", "NEWSWIRE_HOME": str(whole.home)}
    program = Path(sys.executable).with_name("newswire")
    second = subprocess.Popen([program, "run", "newsletters"], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        whole.wait_for(lambda: whole.groups("newsletters")["newsletters"].members == 2, "the second worker")
        for person in people[:4]:
            whole.command("unsubscribe", person, "--newsletter", newsletter)
        whole.quiesce()
    finally:
        second.kill()
        second.wait()
    whole.wait_for(lambda: whole.groups("newsletters")["newsletters"].members == 1, "the second worker's end")
    source = f"{newsletter}@{whole.slot()}"
    whole.command("tick", newsletter, "--slot", source.split("@")[1])
    whole.wait_for(lambda: whole.settled(source), "the newsletter")
    chosen = {r[0] for r in whole.query("select subscriber_id::text from api.deliveries where source_id = %s", source)}
    assert chosen == set(people[4:])
    assert set(whole.accepted_for(source).values()) == {1}


def test_delivery_status_is_read_with_nothing_but_the_registry(whole: Whole) -> None:
    """A consumer of another team: confluent_kafka and the registry, no Newswire code."""
    newsletter = whole.define_newsletter()
    whole.publish(1)
    person = whole.register(1, newsletters=[newsletter])[0]
    source = f"{newsletter}@{whole.slot()}"
    whole.command("tick", newsletter, "--slot", source.split("@")[1])
    whole.wait_for(lambda: whole.settled(source), "the newsletter")
    script = Path(__file__).parents[2] / "deploy" / "samples" / "consume_status.py"
    environ = {**whole.env, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-I", str(script), "--source", source, "--count", "1"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    status = json.loads(done.stdout.splitlines()[0])
    assert (status["event"], status["subscriber_id"], status["channel"]) == ("DeliverySent", person, "email")


def test_unsubscribe_by_one_click_stops_the_next_issue(whole: Whole) -> None:
    """The link in a delivered message unsubscribes without a database, and the next slot does not choose that person."""
    newsletter = whole.define_newsletter()
    whole.publish(1)
    whole.register(1, newsletters=[newsletter])
    source = f"{newsletter}@{whole.slot(3)}"
    whole.command("tick", newsletter, "--slot", source.split("@")[1])
    whole.wait_for(lambda: whole.settled(source), "the first issue")
    delivery = whole.query("select delivery_id from api.deliveries where source_id = %s", source)[0][0]
    link = unsubscribe_link(whole, delivery)
    answer = subprocess.run(
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-d", "List-Unsubscribe=One-Click", link],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == "200"
    whole.quiesce()
    again = f"{newsletter}@{whole.slot(1)}"
    whole.command("tick", newsletter, "--slot", again.split("@")[1])
    whole.wait_for(
        lambda: whole.accounting(again) and all(row["complete"] for row in whole.accounting(again)), "the second issue"
    )
    assert sum(row["chosen"] for row in whole.accounting(again)) == 0


def unsubscribe_link(whole: Whole, delivery: str) -> str:
    """Return the address in the List-Unsubscribe header that the provider received."""
    messages = whole.sandbox("/inbox/messages?limit=5000")["messages"]
    headers = dict(next(m["body"]["headers"] for m in messages if m["delivery_id"] == delivery))
    assert headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    return str(headers["List-Unsubscribe"].strip("<>"))


def test_killed_sink_leaves_nothing_lost_and_nothing_sent_twice(whole: Whole) -> None:
    """A sink dies with calls under way: each delivery ends sent once, or is recorded as unknown."""
    newsletter = whole.define_newsletter()
    whole.publish(1)
    whole.register(40, newsletters=[newsletter])
    source = f"{newsletter}@{whole.slot()}"
    before = whole.pid("ses-bulk")
    whole.set_failpoint("ses-bulk:sink.after_call=kill")
    whole.command("tick", newsletter, "--slot", source.split("@")[1])
    whole.wait_for(lambda: whole.pid("ses-bulk") != before, "the sink's death")
    whole.set_failpoint("")
    whole.wait_for(lambda: whole.settled(source), "the rest", 180)
    counts = whole.accepted_for(source)
    assert len(counts) == 40
    assert max(counts.values()) == 1
    row = whole.accounting(source)[0]
    assert (row["balance"], row["sent"] + row["unknown"]) == (0, 40)
    states = dict(whole.query("select delivery_id, state from api.deliveries where source_id = %s", source))
    assert all(states[one] == "unknown" for one, count in counts.items() if count == 0)


def test_demo_again_sends_nothing_even_with_a_stage_killed(whole: Whole) -> None:
    """The demo twice, with kill -9 of the newsletters stage in the middle of the second run: it sends nothing more."""
    command = [sys.executable, "-m", "deploy.demo", "--home", str(whole.home)]
    first = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert first.returncode == 0, first.stdout[-4000:] + first.stderr[-2000:]
    second = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert second.stdout is not None
    printed, killed = "", 0
    for line in second.stdout:
        printed += line
        if "publications scored" in line and not killed:
            killed = whole.pid("newsletters")
            os.kill(killed, signal.SIGKILL)
    assert killed not in (0, whole.pid("newsletters")), "the stage was not killed, or did not come back"
    assert second.wait(timeout=60) == 0, printed[-4000:]
    assert "in this run: 0" in printed
    assert table(printed) == table(first.stdout)


def table(printed: str) -> str:
    """Return the accounting that the demo printed."""
    return printed[printed.index("What became of") : printed.index("Sandbox providers")]
