"""One run: faults by its plan over all processes of a running stack, then the witnesses are heard and checked.

A run has people, content and sources of its own, so that many runs share one stack. It ends when everything it asked
for is settled and holds, or fails when that takes too long; what was done twice or lost stays so and is found either way.
"""

import contextlib
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from core.names import CHANNELS, LANES
from tests.fault import checker
from tests.fault.commits import OFFSETS
from tests.fault.journal import Act, Decision, Journal, Requested, Status, read_hits
from tests.fault.patience import PASSING, Places
from tests.fault.plan import Plan, Timed
from tests.fault.probe import EdgeProbe
from tests.fault.stack import Stack
from tests.fault.upstream import Input, Upstream
from tests.fault.watch import Watch, sink_groups

SETTLE_S = 90.0
"""When a run fails that is not settled; a run takes 5 to 20 s."""
LATE_S = 60.0
"""How long what is settled may take to agree everywhere: the last report, the read model, a provider's late line."""
POLL_S = 0.3


@dataclass(frozen=True)
class Result:
    """What came of a run."""

    plan: Plan
    report: checker.Report
    took_s: float
    missed: tuple[str, ...]
    """Failpoints that no process came by."""
    requests: list[Requested]
    acts: list[Act]
    said: list[checker.Verdict]
    """What of the report is not about a message."""

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        return not self.report.broken


class Closing:
    """What many runs came to in the end: a delivery of an early one may have been sent again during a late one."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.since = stack.ends(stack.topics.delivery_status)
        self.journal_file = stack.layout.sandbox / "requests.jsonl"
        self.hits_before = max((hit.n for hit in read_hits(self.journal_file)), default=0)
        self.requests: list[Requested] = []
        self.acts: list[Act] = []

    def add(self, result: Result) -> None:
        """Take a run in."""
        self.requests += result.requests
        self.acts += result.acts

    def report(self) -> checker.Report:
        """Return the verdict on every delivery of all runs, once it holds, or time is over: what is unknown is sent again."""
        deadline = time.monotonic() + LATE_S
        while True:
            report = self._report()
            if not report.broken or time.monotonic() > deadline:
                return report
            time.sleep(1.0)

    def _report(self) -> checker.Report:
        ids = list(dict.fromkeys(one.delivery_id for one in self.requests))
        known = set(ids)
        statuses = [Status.of(event) for event, _ in self.stack.events(self.since) if event.value["delivery_id"] in known]
        hits = read_hits(self.journal_file, self.hits_before)
        rows, others = self.stack.rows(ids), self.stack.others(ids)
        return checker.check(
            Journal(requests=self.requests, acts=self.acts, rows=rows, statuses=statuses, hits=hits, others=others)
        )


class Run:
    """One run on a stack that is up; the stack is left healed."""

    settle_s = SETTLE_S

    def __init__(self, stack: Stack, upstream: Upstream, plan: Plan, say: Callable[[str], None] = lambda _: None) -> None:
        self.stack, self.plan, self.say = stack, plan, say
        self.input = Input(upstream, f"{plan.seed}-{uuid.uuid4().hex[:8]}", plan.copies)
        topics = stack.topics
        self.deliveries = [topics.deliveries(channel, lane) for channel in CHANNELS for lane in LANES]
        self.watched = [*(topics.decisions(lane) for lane in LANES), topics.delivery_status]
        self.letters = [spec.dead_letters for spec in topics.specs() if spec.dead_letters]
        self.journal_file = stack.layout.sandbox / "requests.jsonl"
        self.heard = Journal()
        """The witnesses' last words."""
        self.sources: list[str] = []
        self.goal: Places = {}
        """Where the log ended when all of the input was in it; others go on writing."""
        self.seen = ""
        """How far the content was when it was last looked for."""
        self.probe: EdgeProbe | None = None
        """Somebody who unsubscribes all the time, where the edge is tested."""
        self.more: Callable[[], None] = lambda: None
        """What else happens, beside the plan."""

    def __call__(self) -> Result:
        """Do it."""
        began = time.monotonic()
        stack = self.stack
        since, since_letters = stack.ends(*self.watched), stack.ends(*self.letters)
        self.commits_before = stack.ends(OFFSETS)
        self.hits_before = max((hit.n for hit in read_hits(self.journal_file)), default=0)
        watch = Watch(stack.settings, sink_groups(stack.topics), stack.ends(*self.deliveries), stack.codec)
        watch.start()
        faults = threading.Thread(target=self._faults, daemon=True)
        try:
            stack.arm(self.plan.points)
            faults.start()
            if self.probe is not None and not self.probe.is_alive():
                self.probe.start()
            late = self._input()
            faults.join()
            report = self._verdict(watch, since, since_letters)
            said = self.verdicts()
            report.verdicts.extend(said)
            if late:
                report.verdicts.append(checker.Verdict("the run", "", (late,)))
            missed = tuple(line for line in stack.armed() if line)
        finally:
            stack.heal()
        return Result(self.plan, report, time.monotonic() - began, missed, self.heard.requests, self.input.acts, said)

    def _faults(self) -> None:
        """Let what comes from outside happen, each at its time, and wait for the end of all of it."""
        others = [threading.Thread(target=self._happen, args=[one], daemon=True) for one in self.plan.timed]
        for other in others:
            other.start()
        self.more()
        for other in others:
            other.join()

    def _happen(self, one: Timed) -> None:
        time.sleep(one.at_s)
        with contextlib.suppress(*PASSING):
            self.stack.happen(one)

    def _input(self) -> str:
        """Produce the run's input; return what was waited for in vain, if anything."""
        run = self.input
        run.register()
        run.define()
        publications = run.publish()
        if self.plan.poison:
            run.spoil()
        if not self._until(lambda: self._approved(publications)):
            return f"waited {SETTLE_S:.0f} s in vain for the content to be approved and known to every shard ({self.seen})"
        for fault in self.plan.providers:
            self.stack.control("/control/faults", dict(fault))
        self.sources = [run.alert(1), run.tick(2), run.alert(2)]
        time.sleep(self.plan.unsubscribe_at_s)
        run.unsubscribe()
        self.rounds()
        return ""

    def rounds(self) -> None:
        """Go on with alerts after the first sources."""
        for _ in range(self.plan.rounds):
            time.sleep(2.0)
            self.alert()

    def alert(self) -> str:
        """Raise the next alert and return the source."""
        self.sources.append(source := self.input.alert(len(self.sources)))
        return source

    def verdicts(self) -> list[checker.Verdict]:
        """Return what is to be said beyond each message, when all is settled."""
        return [] if self.probe is None else self.probe.verdicts()

    def _approved(self, publications: list[str]) -> bool:
        sql = "select count(*) from api.publications where publication_id = any(%s::uuid[]) and state = 'approved'"
        people = "select count(*) from api.subscribers where subscriber_id = any(%s::uuid[])"
        self.seen = "the database does not answer"
        approved, known = self.stack.query(sql, publications)[0][0], self.stack.query(people, list(self.input.people))[0][0]
        self.seen = f"approved {approved}, people {known}, Kafka does not say how far the stages are"
        if approved < len(publications) or known < len(self.input.people):
            return False
        self.goal = self.goal or self.stack.everywhere()
        behind = self.stack.behind(self.goal, "audience", "alerts", "newsletters")
        self.seen = f"approved {approved}, people {known}, {behind} records behind"
        return behind == 0

    def _until(self, condition: Callable[[], bool], timeout_s: float = SETTLE_S) -> bool:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(*PASSING):
                if condition():
                    return True
            time.sleep(POLL_S)
        return False

    def settled(self, sources: list[str]) -> bool:
        """Return whether every delivery of these sources has come to an end."""
        sql = """select count(distinct source_id), coalesce(bool_and(complete) and sum(pending + not_fanned_out) = 0, false)
                 from api.accounting where source_id = any(%s)"""
        found, settled = self.stack.query(sql, sources)[0]
        return bool(settled) and found == len(sources)

    def _verdict(self, watch: Watch, since: Places, since_letters: Places) -> checker.Report:
        """Hear the witnesses until all holds, or time is over: what is only late is not broken."""
        if self.sources:
            self._until(lambda: self.settled(self.sources), self.settle_s)
        watch.end()
        deadline = time.monotonic() + LATE_S
        while True:
            journal = self.journal(watch, since, since_letters)
            report = checker.check(journal)
            if not report.broken or time.monotonic() > deadline:
                self.heard = journal
                return report
            time.sleep(1.0)
            watch.look()

    def journal(self, watch: Watch, since: Places, since_letters: Places) -> Journal:
        """Return what is known now."""
        stack, topics = self.stack, self.stack.topics
        events = stack.events(since)
        mine = set(self.sources)
        requests = [one for one in watch.requests if one.source_id in mine]
        ids = list(dict.fromkeys(one.delivery_id for one in requests))
        known = set(ids)
        commits, rebalances = stack.commits(self.commits_before)
        status = [
            Status.of(event) for event, raw in events if raw.topic == topics.delivery_status and event.value["source_id"] in mine
        ]
        return Journal(
            expected=self.input.expected,
            acts=self.input.acts,
            poison=self.input.poison,
            decisions=[
                Decision.of(event)
                for event, raw in events
                if raw.topic != topics.delivery_status and event.value["source_id"] in mine
            ],
            requests=requests,
            rows=stack.rows(ids),
            statuses=status,
            hits=read_hits(self.journal_file, self.hits_before),
            others=stack.others(ids),
            early=[one for one in watch.early if one.delivery_id in known],
            commits=commits,
            rebalances=rebalances,
            letters=stack.letters(since_letters),
            accounting=stack.accounting(self.sources),
        )
