"""From a tick to the providers' acceptance, with everything on this machine: `make bench`.

Prints messages a second, CPU a message for each process (all of them, broker and database included), each process's
resident memory, whether any message was lost or doubled, and the latency of single alerts to their first acceptance. With
--email everybody reads by mail and gets an issue of ten items, which is what the budget is for. The sandbox providers answer
at once: their rates, which a real provider has, are off unless somebody switches them on. Figures are of one run on one
machine: compare them with each other, not with another machine's.
"""

import argparse
import json
import os
import statistics
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from deploy import population
from deploy.client import STEP_TIMEOUT_S, StackClient, StepFailed
from deploy.stack.layout import Layout
from deploy.stack.supervision import Supervisor
from edge.publishing import read_events
from edge.writing import Log
from runtime.documents import Document

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
LOOK_S = 0.1
"""Between two looks at the providers' counts during a newsletter; each costs the sandbox less than a millisecond."""
ALERT_LOOK_S = 0.005
"""The same during an alert: the resolution of its latency."""
STALLED_S = 60.0
"""A run in which nothing is accepted for so long has failed."""
PLAIN_WIDTH = 140
PATIENCE_S = 0.01
"""Longest wait for registering, for each subscriber: ten times what it takes on 2 cores that have nothing else to do."""

BUDGET_US = {"newsletters": 110, "fanout-bulk": 55, "kafka": 45, "ses-bulk": 595, "projections": 75, "sandbox": 250, "all": 1200}
"""The aim for CPU a message where all are mails: 100,000 a minute on 2 cores (ARCHITECTURE). A process's share of the messages
makes it less: `ses-bulk` is asked for a part of them only."""


def stat_fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def processes(home: Path) -> dict[str, list[int]]:
    """Return by the name of each of the stack's programs its pid and those of its descendants, such as the database's."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        if found := stat_fields(pid):
            children.setdefault(int(found[1]), []).append(pid)

    def family(pid: int) -> list[int]:
        return [pid, *(one for child in children.get(pid, []) for one in family(child))]

    states = Supervisor(Layout.at(home)).states()
    return {name: family(state.pid) for name, state in states.items() if state.pid}


def cpu_s(pids: list[int]) -> float:
    """Return the CPU seconds of these processes in user and kernel mode, those of their ended children included."""
    return sum(int(field) for pid in pids for field in stat_fields(pid)[11:15]) / TICKS_PER_S


def resident_mb(pids: list[int]) -> float:
    """Return the proportional resident memory of these processes in MB (shared pages counted once over all)."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def accepted(stack: StackClient) -> int:
    """Return how many messages all providers accepted."""
    return int(sum(stack.sandbox("/control/counts?by=provider").values()))


def settled(stack: StackClient, source: str) -> bool:
    """Whether a source is complete and nothing of it is pending."""
    sql = """select coalesce(bool_and(complete) and sum(pending + not_fanned_out) = 0, false)
             from api.accounting where source_id = %s"""
    return bool(stack.query(sql, source)[0][0])


def by_mail(document: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a subscriber who gets every issue by mail, with the zone, language and topics of this one."""
    kept = {name: document[name] for name in ("subscriber_id", "name", "time_zone", "language", "topics")}
    channels = {"email": f"reader.{number:06d}@example.org"}
    return {**kept, "channels": channels, "newsletters": [population.NEWSLETTER_ID], "alerts": True}


def prepare(stack: StackClient, people: int, *, email: bool) -> None:
    """Register publications, the newsletter and the subscribers, once."""
    folder = stack.home / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    hooks = stack.env["NEWSWIRE_INBOX_URL"].rstrip("/") + "/hooks/{name}"
    files = {
        "publications": population.publications(),
        "newsletter": [population.newsletter()],
        "subscribers": population.subscribers(hooks, people),
    }
    if email:
        files["subscribers"] = [by_mail(document, number) for number, document in enumerate(files["subscribers"])]
    for name, documents in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    stack.command("publish", str(folder / "publications.jsonl"))
    decided = "select count(*) from api.publications where state in ('approved', 'rejected')"
    stack.wait("publications scored", len(files["publications"]), lambda: int(stack.query(decided)[0][0]))
    stack.command("newsletter", "define", str(folder / "newsletter.jsonl"))
    began, before_s = time.monotonic(), {name: cpu_s(pids) for name, pids in processes(stack.home).items()}
    stack.command("subscribe", "--file", str(folder / "subscribers.jsonl"))
    stack.wait("subscribers registered", people, lambda: int(stack.query("select count(*) from api.subscribers")[0][0]))
    stack.wait("stages at rest", 1, lambda: int(stack.lag("approval", "audience", "newsletters", "alerts") == 0))
    spent_s = {name: cpu_s(pids) - before_s.get(name, 0.0) for name, pids in processes(stack.home).items()}
    most = ", ".join(f"{name} {seconds:.0f}" for name, seconds in sorted(spent_s.items(), key=lambda item: -item[1])[:4])
    stack.console.print(
        f"Registering took {time.monotonic() - began:.0f} s; CPU s of the stack: {most}", soft_wrap=True, highlight=False
    )


@dataclass
class Arrivals:
    """How the providers' count grew during a run; times are seconds since `began`, with the resolution of the looks."""

    messages: int = 0
    first_s: float = 0.0
    last_s: float = 0.0


def watch(stack: StackClient, before: int, began: float, done: Callable[[], bool], look_s: float = LOOK_S) -> Arrivals:
    """Look at the providers' count until done(), which is asked once it rests; StepFailed when nothing comes at all."""
    found = Arrivals()
    while True:
        count, now_s = accepted(stack) - before, time.monotonic() - began
        if count > found.messages:
            found = Arrivals(count, found.first_s or now_s, now_s)
        elif now_s - found.last_s > 0.5 and done():
            return found
        elif now_s - found.last_s > STALLED_S:
            raise StepFailed(f"{found.messages} messages were accepted, then none for {STALLED_S:.0f} s")
        time.sleep(look_s)


def fresh_source(stack: StackClient) -> str:
    """Return a slot of the newsletter that was never ticked: the same one again would send nothing."""
    taken = {row[0] for row in stack.query("select source_id from api.sources")}
    slots = (datetime.now(UTC) - timedelta(minutes=back) for back in range(1, 600))
    names = (f"{population.NEWSLETTER_ID}@{slot:%Y-%m-%dT%H:%MZ}" for slot in slots)
    return next(name for name in names if name not in taken)


def newsletter_run(stack: StackClient, number: int) -> None:
    """Tick once, wait until every message was accepted, print throughput, CPU and memory by process."""
    source = fresh_source(stack)
    slot = source.partition("@")[2]
    before = accepted(stack)
    before_cpu = {name: cpu_s(pids) for name, pids in processes(stack.home).items()}
    stack.command("tick", population.NEWSLETTER_ID, "--slot", slot)
    found = watch(stack, before, time.monotonic(), lambda: settled(stack, source))
    now = processes(stack.home)
    spent = {name: cpu_s(pids) - before_cpu.get(name, 0.0) for name, pids in now.items()}
    memory = {name: resident_mb(pids) for name, pids in now.items()}
    messages, wall_s = max(found.messages, 1), max(found.last_s, LOOK_S)
    stack.console.print(
        f"\nNewsletter {number}: {found.messages} messages in {wall_s:.1f} s after the tick = {messages / wall_s:.0f} a second, "
        f"{messages / wall_s * 60:.0f} a minute (the first after {found.first_s:.1f} s)",
        soft_wrap=True,
        highlight=False,
    )
    table = Table(box=SIMPLE_HEAD)
    for heading in ("process", "CPU s", "µs a message", "budget", "memory MB (PSS)"):
        table.add_column(heading, justify="left" if heading == "process" else "right")
    for name, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{seconds:.2f}", f"{seconds / messages * 1e6:.0f}", _budget(name), f"{memory[name]:.0f}")
    total = sum(spent.values())
    table.add_section()
    table.add_row("all", f"{total:.2f}", f"{total / messages * 1e6:.0f}", _budget("all"), f"{sum(memory.values()):.0f}")
    stack.console.print(table)
    check(stack, source)


def check(stack: StackClient, source: str) -> None:
    """Compare what was decided with what the providers have; StepFailed when a message is missing, or there twice."""
    sql = "select sum(chosen), sum(sent + confirmed), sum(abs(balance)) from api.accounting where source_id = %s"
    chosen, sent, balance = stack.query(sql, source)[0]
    wanted, received = set(stack.messages([source]).values()), stack.received()
    lost = len(wanted - received.keys())
    doubled = sum(received[one] > 1 for one in wanted & received.keys())
    told = f"{chosen} decided, {sent} reported as sent, {lost} lost, {doubled} doubled, balance {balance}"
    if not chosen == sent == len(wanted) or lost or doubled or balance:
        raise StepFailed(f"{source}: {told}")
    stack.console.print(f"Accounting: {told}", highlight=False)


def _budget(name: str) -> str:
    return str(BUDGET_US.get(name, ""))


def alert_run(stack: StackClient, count: int) -> None:
    """Raise single alerts to one topic, print the time from Kafka's acknowledgement to the first acceptance."""
    waits_ms = []
    with Log(stack.settings) as log:
        for _ in range(count):
            alert = {**population.alerts(datetime.now(UTC))[0], "alert_id": str(uuid.uuid4()), "priority": "critical"}
            documents = [Document(alert, "the benchmark's alert")]
            events = read_events("AlertRaised", "alert_id", log.topics.alerts, documents, {})
            before = accepted(stack)
            for _ in log.write(events):
                pass
            found = watch(stack, before, time.monotonic(), partial(settled, stack, str(alert["alert_id"])), ALERT_LOOK_S)
            waits_ms.append(found.first_s * 1e3)
    waits_ms.sort()
    p99 = waits_ms[min(len(waits_ms) - 1, int(len(waits_ms) * 0.99))]
    stack.console.print(
        f"Alert, from Kafka's acknowledgement to the first acceptance: p50 {statistics.median(waits_ms):.0f} ms, "
        f"p99 {p99:.0f} ms, of {count} alerts one after the other.",
        soft_wrap=True,
    )


def main() -> int:
    """Run the benchmark on a stack of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, default=Path(".newswire/bench"), help="Folder of the stack.")
    parser.add_argument("--subscribers", type=int, default=10_000)
    parser.add_argument("--email", action="store_true", help="Everybody reads by mail.")
    parser.add_argument("--runs", type=int, default=5, help="Issues of the newsletter.")
    parser.add_argument("--alerts", type=int, default=20)
    arguments = parser.parse_args()
    patience_s = max(STEP_TIMEOUT_S, PATIENCE_S * arguments.subscribers)
    stack = StackClient(arguments.home, Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH), patience_s=patience_s)
    try:
        stack.up()
        prepare(stack, arguments.subscribers, email=arguments.email)
        for number in range(1, arguments.runs + 1):
            newsletter_run(stack, number)
        if arguments.alerts:
            alert_run(stack, arguments.alerts)
    except StepFailed as failure:
        stack.console.print(f"The benchmark stopped: {failure}", markup=False, soft_wrap=True)
        return 1
    stack.console.print("The sandbox's rates are off by default, so no message waited for a provider.", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
