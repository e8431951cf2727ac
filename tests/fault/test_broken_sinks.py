"""The checker over real sinks that are broken on purpose: each way of breaking must be caught, and a good sink must not."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from runtime.kafka import admin_client, committed_offsets, end_offsets, partitions_of, read_range
from sinks.loop import EXIT_CODE
from tests import fix_sandbox
from tests.fault.checker import Report, check
from tests.fault.commits import OFFSETS, read_commits
from tests.fault.journal import Act, Journal, Row, Status, read_hits
from tests.fault.patience import Places
from tests.fault.watch import Watch, ledger_rows
from tests.fix_sandbox import SandboxProcess
from tests.fix_stack import Stack
from tests.sinks_kit import ROOT, World, environ_of, wait_for, world
from tests.sinks_samples import request

pytestmark = pytest.mark.stack
sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox


@pytest.fixture(scope="module")
def sinks(stack: Stack, sandbox_process: SandboxProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Topics and databases of their own, with consent running."""
    with world(
        stack,
        tmp_path_factory.mktemp("sinks"),
        ses_endpoint_url=f"{sandbox_process.url}/ses",
        provider_timeout_s=1.0,
        lease_s=2.0,
        sweep_interval_s=0.3,
        instance_id="only",
    ) as one:
        one.define_newsletter()
        one.start("consent")
        yield one


class Trial:
    """Deliveries of their own through a sink that is broken in one way, watched from outside."""

    def __init__(self, sinks: World, sandbox: SandboxProcess) -> None:
        self.sinks, self.sandbox = sinks, sandbox
        topic = sinks.topics.deliveries("email", "bulk")
        self.groups = {topic: f"{sinks.topics.prefix}.sink.email.bulk"}
        committed_offsets(admin_client(sinks.settings), self.groups[topic])  # a new broker has no OFFSETS before it is asked
        self.commits_before = self.ends(OFFSETS)
        self.watch = Watch(sinks.settings, self.groups, self.ends(topic), sinks.codec, every_s=0.1)
        self.requests = sinks.requests(6, items=[sinks.publish()])
        self.acts: list[Act] = []

    def ends(self, topic: str) -> Places:
        """Return where a topic ends."""
        admin = admin_client(self.sinks.settings)
        return end_offsets(admin, partitions_of(admin, [topic]))

    def start(self, way: str, *more: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start the sink and deliver."""
        command = [sys.executable, "-m", "tests.fault.broken_sink", way, *more]
        with (self.sinks.folder / f"broken-{way}.log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environ_of(self.sinks.settings) | environment, stdout=log, stderr=log
            )
        self.watch.start()
        self.sinks.deliver(self.requests)
        return process

    def rows(self) -> list[Row]:
        """Return the ledger's rows of it."""
        return ledger_rows(self.sinks.settings, [request["delivery_id"] for request in self.requests])

    def report(self, watched: bool = True) -> Report:
        """Return what the checker says of it; with watched=False from what was written down alone."""
        self.watch.end()
        ids = [request["delivery_id"] for request in self.requests]
        statuses = [Status.of(event) for event in self.sinks.statuses() if event.value["delivery_id"] in ids]
        written = read_range(self.sinks.settings, self.commits_before, self.ends(OFFSETS))
        commits, rebalances = read_commits(written, self.groups)
        return check(
            Journal(
                acts=self.acts,
                requests=self.watch.requests,
                rows=ledger_rows(self.sinks.settings, ids),
                statuses=statuses,
                hits=read_hits(self.sandbox.journal / "requests.jsonl"),
                early=self.watch.early if watched else [],
                commits=commits,
                rebalances=rebalances,
            )
        )

    def reported(self) -> bool:
        """Whether every delivery has a report."""
        return all(self.sinks.states(self.requests).values())

    def calls(self) -> int:
        """Return how many calls reached the provider."""
        return len(read_hits(self.sandbox.journal / "requests.jsonl"))


@pytest.fixture
def trial(sinks: World, sandbox: SandboxProcess) -> Trial:
    """A trial."""
    return Trial(sinks, sandbox)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a sink in good order."""
    process.terminate()
    process.wait(90)


def problems(report: Report) -> str:
    """Return what the checker found."""
    return "\n".join(problem for verdict in report.broken for problem in verdict.problems)


UNSUBSCRIBED = {
    "newsletter_id": None,
    "kind": "all",
    "via": "cli",
    "delivery_id": None,
    "unsubscribed_at": datetime(2026, 11, 22, tzinfo=UTC),
}


def lose_an_answer(sandbox: SandboxProcess, **more: Any) -> None:
    """Let the provider accept one call and close the connection."""
    sandbox.fault("ses", "drop_after_accept", count=1, **more)


def test_passes_a_good_sink(trial: Trial, sandbox: SandboxProcess) -> None:
    """The same faults, no breakage: every message holds."""
    lose_an_answer(sandbox)
    process = trial.start("none")
    wait_for(trial.reported, "the reports")
    wait_for(lambda: all(row.reported for row in trial.rows()), "the ledger")
    stop(process)
    report = trial.report()
    assert not report.broken, str(report)
    assert len(report.verdicts) == 6


def test_catches_an_offset_that_is_committed_before_the_outcome(trial: Trial) -> None:
    """Committed when read, then killed: the offsets are past deliveries that the ledger does not know; they are lost."""
    process = trial.start("early", NEWSWIRE_FAILPOINTS="sink.after_poll=sleep:60")
    wait_for(lambda: trial.watch.early, "the commit")
    process.kill()
    process.wait()
    again = trial.sinks.start("ses-bulk")
    again.wait_running()
    assert again.stop() == 0
    found = problems(trial.report())
    assert "was committed while the ledger knew nothing of it" in found
    assert "the ledger does not know it: lost" in found


def test_catches_an_offset_that_is_committed_once_claimed(trial: Trial, tmp_path: Path) -> None:
    """Nothing is lost here, and the checker is not told what was seen: the times of commits and outcomes are enough.

    The calls end once all are seen to be committed: on a busy machine a commit takes seconds.
    """
    process = trial.start("claimed", str(go := tmp_path / "go"), NEWSWIRE_LEASE_S="300")
    wait_for(lambda: len({early.delivery_id for early in trial.watch.early}) == 6, "the commits")
    go.touch()
    wait_for(trial.reported, "the reports")
    wait_for(lambda: all(row.reported for row in trial.rows()), "the ledger")
    stop(process)
    report = trial.report(watched=False)
    mine = [verdict for verdict in report.verdicts if verdict.about in {one["delivery_id"] for one in trial.requests}]
    assert len(mine) == 6
    assert all("ms before there was an outcome" in str(verdict) for verdict in mine), str(report)


def test_catches_a_claim_whose_offset_is_committed(trial: Trial) -> None:
    """Seen while it lasts: the offset is committed, and the ledger has neither an outcome nor the request."""
    process = trial.start("claimed", NEWSWIRE_FAILPOINTS="sink.before_call=sleep:60")
    wait_for(lambda: trial.watch.early, "the commit")
    process.kill()
    process.wait()
    again = trial.sinks.start("ses-bulk")
    wait_for(trial.reported, "the reports")
    again.wait_running()
    assert again.stop() == 0
    assert "was committed while it was claimed without an outcome" in problems(trial.report())


def test_catches_a_call_that_overtakes_an_earlier_one(trial: Trial) -> None:
    """Two issues of one subscriber, the second at the provider before the call for the first began: by whatever time."""
    trial.requests = trial.sinks.requests(1, items=[trial.sinks.publish()])
    (first,) = trial.requests
    second = request(first["subscriber_id"], address=first["address"], items=[trial.sinks.publish()])
    process = trial.start("order", first["delivery_id"], second["delivery_id"])
    wait_for(lambda: [row.state for row in trial.rows()] == ["claimed"], "the first claim")
    trial.requests.append(second)
    trial.sinks.deliver([second])
    wait_for(trial.reported, "the reports")
    stop(process)
    report = trial.report()
    assert f"{second['delivery_id']} was sent" in problems(report), str(report)
    assert f"before the call for {first['delivery_id']} began" in problems(report)


def test_ends_a_sink_whose_follower_has_stopped(trial: Trial) -> None:
    """What that had not read would be taken for missing and its deliveries for failed: the next sink sends them."""
    process = trial.start("deaf", "unheard")
    wait_for(trial.reported, "the reports")
    trial.sinks.define_newsletter("unheard")
    wait_for(lambda: b"deaf on purpose" in (trial.sinks.folder / "broken-deaf.log").read_bytes(), "the follower's end")
    trial.requests = trial.sinks.requests(6, newsletter_id="unheard", items=[trial.sinks.publish()])
    trial.sinks.deliver(trial.requests)
    assert process.wait(120) == EXIT_CODE
    again = trial.sinks.start("ses-bulk")
    wait_for(trial.reported, "the reports of the next sink")
    again.wait_running()
    assert again.stop() == 0
    assert {row.state for row in trial.rows()} == {"sent"}


def test_catches_a_call_that_begins_3_s_after_an_unsubscribe(trial: Trial, tmp_path: Path) -> None:
    """What is promised are 2 s, and what the checker allows is not a second more."""
    go = tmp_path / "go"
    process = trial.start("late", str(go))
    wait_for(lambda: [row.state for row in trial.rows()] == ["claimed"] * 6, "the claims")
    trial.sinks.change("SubscriberUnsubscribed", gone := trial.requests[0]["subscriber_id"], **UNSUBSCRIBED)
    trial.acts.append(Act(datetime.now(UTC), "their unsubscribe", gone))
    wait_for(lambda: datetime.now(UTC) > trial.acts[0].at + timedelta(seconds=3), "3 s")
    go.touch()
    wait_for(trial.reported, "the reports")
    stop(process)
    report = trial.report()
    assert "after their unsubscribe was acknowledged" in problems(report), str(report)
    mine = {one["delivery_id"] for one in trial.requests}
    assert [verdict.about for verdict in report.broken if verdict.about in mine] == [trial.requests[0]["delivery_id"]]


def test_catches_a_skipped_claim(trial: Trial) -> None:
    """Called without a claim: a provider has what the ledger does not know."""
    process = trial.start("claim")
    wait_for(lambda: trial.calls() >= 6, "the calls")
    stop(process)
    assert "a provider was called without a claim" in problems(trial.report())


def test_catches_a_retry_under_a_new_id(trial: Trial, sandbox: SandboxProcess) -> None:
    """The answer was lost and the message sent again under another id: nobody requested that id."""
    lose_an_answer(sandbox)
    process = trial.start("new-id")
    wait_for(trial.reported, "the reports")
    stop(process)
    assert "an id that nobody requested" in problems(trial.report())


def test_catches_a_second_send_without_a_recorded_unknown(trial: Trial, sandbox: SandboxProcess) -> None:
    """The answer was lost and the message sent again at once: twice at the provider, never unknown."""
    lose_an_answer(sandbox)
    process = trial.start("twice")
    wait_for(trial.reported, "the reports")
    stop(process)
    assert "without having been recorded as unknown first: twice" in problems(trial.report())
