"""`make demo`: a newsletter and two alerts over the local stack, and a check of what came of every message.

The check compares three independent counts: what the input files say must happen (deploy/population.py, no Newswire
code), what Newswire's accounting says did happen, and what the sandbox providers received. It exits 1 when any
differs. A second run repeats the same publications, people, slot and alerts, so it sends nothing and says the same.
Only the demo's own publications, people and sources are counted, so that it may share a stack with others.
"""

import argparse
import json
import sys
import time
import urllib.error
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from core.names import PREVIEW_RECIPIENTS
from deploy import population
from deploy.client import POLL_S, PROVIDERS, StackClient, StepFailed
from deploy.readers import Shown, side_by_side, two_readers, write_reading
from deploy.sandbox.recorder import hash_text
from deploy.sandbox.scoring import quality_of

MOST_PREVIEWS = 10_000
CHANNELS = ("email", "slack", "discord", "webhook", "none")
PLAIN_WIDTH, WIDE = 140, 110
"""Columns of the output when it goes to no terminal, and those that the table with every count needs."""


@dataclass
class Demo(StackClient):
    """One run, and how long its steps took."""

    took_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step."""
        began = time.monotonic()
        yield
        self.took_s[name] = time.monotonic() - began


@dataclass(frozen=True)
class Given:
    """The demo's input, the same in every run on a stack."""

    publications: list[dict[str, Any]]
    subscribers: list[dict[str, Any]]
    alerts: list[dict[str, Any]]
    slot: str
    reading: list[dict[str, Any]]
    """What some of the subscribers read before, as ContentClicked."""
    others: int
    """Subscribers that the stack had before the demo's first run; they are in every population."""
    folder: Path

    @property
    def newsletter(self) -> str:
        """The newsletter's source id."""
        return f"{population.NEWSLETTER_ID}@{self.slot}"

    @cached_property
    def expected(self) -> dict[str, population.Expectation]:
        """By source id, in the order of the run, what must come of it."""
        alerts = {alert["alert_id"]: population.expected_alert(self.subscribers, alert) for alert in self.alerts}
        return {self.newsletter: population.expected_newsletter(self.subscribers), **alerts}

    @property
    def titles(self) -> dict[str, str]:
        """By source id, what a person reads."""
        return {source: f"alert {number}" if number else "newsletter" for number, source in enumerate(self.expected)}

    @property
    def publication_ids(self) -> list[str]:
        """Ids of the publications."""
        return [document["publication_id"] for document in self.publications]

    @property
    def subscriber_ids(self) -> list[str]:
        """Ids of the subscribers."""
        return [document["subscriber_id"] for document in self.subscribers]


def write_input(demo: Demo) -> Given:
    """Write the input files of this stack's demo; what depends on the moment is kept from the first run."""
    folder = demo.home / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    hooks = demo.env["NEWSWIRE_INBOX_URL"].rstrip("/") + "/hooks/{name}"
    people = population.subscribers(hooks)
    file = folder / "first-run.json"
    if not file.exists():
        now = datetime.now(UTC).replace(second=0, microsecond=0)
        sql = "select count(*) from api.subscribers where not erased and subscriber_id <> all(%s::uuid[])"
        others = int(demo.query(sql, [person["subscriber_id"] for person in people])[0][0])
        first = {"slot": now.strftime("%Y-%m-%dT%H:%MZ"), "raised_at": now.isoformat(), "others": others}
        file.write_text(json.dumps(first))
    first = json.loads(file.read_text())
    began = datetime.fromisoformat(first["raised_at"])
    alerts, reading = population.alerts(began), population.reading(people, began)
    given = Given(population.publications(), people, alerts, first["slot"], reading, first["others"], folder)
    documents = {"publications": given.publications, "subscribers": people, "newsletter": [population.newsletter()]}
    documents |= {f"alert-{number}": [alert] for number, alert in enumerate(alerts, start=1)}
    for name, lines in documents.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return given


def run(demo: Demo) -> bool:
    """Run every step; return whether everything agrees."""
    with demo.step("start the stack"):
        demo.up()
    began = time.monotonic()
    given = write_input(demo)
    before = sum(accepted(demo, given).values())
    with demo.step("publish"):
        demo.command("publish", str(given.folder / "publications.jsonl"))
    register(demo, given)
    wait_scored(demo, given)
    with demo.step("newsletter"):
        demo.command("tick", population.NEWSLETTER_ID, "--slot", given.slot, "--at-any-time")
        wait_settled(demo, given, given.newsletter)
    for number, alert in enumerate(given.alerts, start=1):
        with demo.step(f"alert {number} ({alert['priority']})"):
            demo.command("alert", "--file", str(given.folder / f"alert-{number}.jsonl"))
            wait_settled(demo, given, alert["alert_id"])
    demo.took_s["all after the start"] = time.monotonic() - began
    problems = check(demo, given)
    report(demo, given, before, problems)
    return not problems


def wait_scored(demo: Demo, given: Given) -> None:
    """Wait until each article is approved or rejected, and known where newsletters are decided."""
    sql = """select count(*) filter (where state in ('approved', 'rejected')),
                    min(publication_id::text) filter (where state = 'retracted')
             from api.publications where publication_id = any(%s::uuid[])"""

    def scored() -> int:
        count, retracted = demo.query(sql, given.publication_ids)[0]
        if retracted is not None:
            raise StepFailed(
                f"publication {retracted} was retracted, and the demo counts on all of its articles; "
                f"`{demo.runner('clean')}` removes this stack with its data, then the demo begins anew."
            )
        return int(count)

    with demo.step("score"):
        demo.wait("publications scored", len(given.publications), scored)
        wait_applied(demo)


def register(demo: Demo, given: Given) -> None:
    """Define the newsletter, register the subscribers, and wait until every stage knows them."""
    sql = "select count(*) from api.subscribers where subscriber_id = any(%s::uuid[])"
    with demo.step("register subscribers"):
        demo.command("newsletter", "define", str(given.folder / "newsletter.jsonl"))
        demo.command("subscribe", "--file", str(given.folder / "subscribers.jsonl"))
        count = len(given.subscribers)
        demo.wait("subscribers registered", count, lambda: int(demo.query(sql, given.subscriber_ids)[0][0]))
        write_reading(demo, given.reading)
        wait_applied(demo)


def wait_applied(demo: Demo) -> None:
    """Wait until the stages that decide have applied what is in the log."""
    groups = ("audience", "newsletters", "alerts")
    if behind := demo.lag(*groups):
        demo.wait("records applied by the stages", behind, lambda: max(0, behind - demo.lag(*groups)))


def wait_settled(demo: Demo, given: Given, source: str) -> None:
    """Wait until a source is finished: complete and nothing pending."""
    total = sum(given.expected[source].chosen(channel) for channel in CHANNELS)
    sql = """select coalesce(sum(sent + confirmed + failed + suppressed + unknown), 0),
                    coalesce(bool_and(complete) and sum(pending + not_fanned_out) = 0, false)
             from api.accounting where source_id = %s"""

    def done() -> int:
        settled, finished = demo.query(sql, source)[0]
        return total if finished else min(int(settled), total - 1)

    demo.wait(f"{given.titles[source]}: deliveries settled", total, done)


def accepted(demo: Demo, given: Given) -> Counter[str]:
    """Return by provider how many messages of the demo's sources the sandbox accepted."""
    ours = set(demo.messages(list(given.expected)).values())
    counts: Counter[str] = Counter(dict.fromkeys(PROVIDERS.values(), 0))
    for message, count in demo.received().items():
        if message in ours:
            counts[message[0]] += count
    return counts


def check(demo: Demo, given: Given) -> list[str]:
    """Return every disagreement between the input, the accounting and the sandbox, as sentences."""
    sql = "select state, count(*) from api.publications where publication_id = any(%s::uuid[]) group by state"
    found = dict(demo.query(sql, given.publication_ids))
    wanted = Counter("approved" if quality_of(p["title"], p["attributes"]) > 0.8 else "rejected" for p in given.publications)
    problems = [f"publications {s}: {found.get(s, 0)}, expected {n}" for s, n in wanted.items() if found.get(s, 0) != n]
    for source, expectation in given.expected.items():
        problems += check_source(demo, source, expectation, len(given.subscribers) + given.others)
    counts = accepted(demo, given)
    for channel, provider in PROVIDERS.items():
        total = sum(expectation.chosen(channel) for expectation in given.expected.values())
        if counts[provider] != total:
            problems.append(f"the sandbox's {provider} accepted {counts[provider]} messages, expected {total}")
    if twice := demo.sandbox("/control/duplicates"):
        problems.append(f"{len(twice)} deliveries reached a provider more than once, such as {next(iter(twice))}")
    if strays := unknown_messages(demo):
        problems.append(f"the sandbox accepted {strays} messages that are no delivery in the accounting")
    if problems and given.others:
        problems.append(
            f"the stack had {given.others} subscribers before the demo: if alerts or {population.NEWSLETTER_ID} concern them, "
            "run the demo on a stack of its own with --home"
        )
    return problems


def unknown_messages(demo: Demo) -> int:
    """Return how many messages the sandbox accepted that are no known delivery, also after a moment to catch up."""
    for _ in range(10):
        total = sum(demo.sandbox("/control/counts?by=provider").values())
        received, known = demo.received(), set(demo.messages().values())
        strays = int(total - sum(count for key, count in received.items() if key in known))
        if strays <= 0 or strays == previews(demo):  # below 0: more arrived between the two questions
            return 0
        time.sleep(POLL_S)
    return strays - previews(demo)


def previews(demo: Demo) -> int:
    """Return how many previews (`newswire preview --inbox`) the sandbox accepted: they are no deliveries."""
    recipients = {hash_text(recipient) for recipient in PREVIEW_RECIPIENTS.values()}
    lines = demo.sandbox(f"/control/requests?outcome=accepted&delivery_id=&limit={MOST_PREVIEWS}")["requests"]
    unnamed = sum(line["destination_hash"] in recipients for line in lines)
    return unnamed + sum(count for (_, one), count in demo.received().items() if one.startswith("preview-"))


def check_source(demo: Demo, source: str, expectation: population.Expectation, people: int) -> list[str]:
    """Return the disagreements of one source's accounting with what was expected of a population of so many people."""
    sql = """select channel, complete, population, chosen, gated, not_concerned, sent + confirmed, balance
             from api.accounting where source_id = %s"""
    found = {row[0]: row[1:] for row in demo.query(sql, source)}
    if not found:
        return [f"{source}: it is not in the accounting"]
    problems = []
    for channel in CHANNELS:
        chosen, gated = expectation.chosen(channel), expectation.gated(channel)
        complete, counted, has_chosen, has_gated, unconcerned, arrived, balance = found.get(
            channel, (True, people, 0, 0, people, 0, 0)
        )
        name = f"{source} {channel}"
        if (has_chosen, has_gated, arrived) != (chosen, gated, chosen):
            problems.append(
                f"{name}: chosen {has_chosen}, gated {has_gated}, sent {arrived}; expected {chosen}, {gated}, {chosen}"
            )
        if counted != people or has_chosen + has_gated + unconcerned != people:
            problems.append(f"{name}: the population of {counted} is not {people}, or not the sum of its parts")
        if balance != 0 or not complete:
            problems.append(f"{name}: the accounting does not close (complete {complete}, balance {balance})")
    sql = "select channel, reason, count from api.skips where source_id = %s and stage = 'decision'"
    reasons = {(channel, reason): count for channel, reason, count in demo.query(sql, source)}
    wanted = {outcome: count for outcome, count in expectation.outcomes.items() if outcome[1] != "chosen"}
    if reasons != wanted:
        problems.append(f"{source}: gated for {reasons}, expected {wanted}")
    return problems


def report(demo: Demo, given: Given, before: int, problems: list[str]) -> None:
    """Print what was delivered, what was not and why, the times, and where to look; `before` counts earlier messages."""
    counts = accepted(demo, given)
    say(demo, "")
    show(demo, outcome_table(demo, given))
    show(demo, skip_table(demo, given))
    accepted_text = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in demo.took_s.items())
    say(demo, f"Sandbox providers accepted in all: {accepted_text}; in this run: {counts.total() - before}.")
    say(demo, f"Time: {times}.")
    if problems:
        say(demo, "The counts do not agree:", "bold red")
        for problem in problems:
            say(demo, f"  - {problem}")
    else:
        say(demo, "Accounting closes: input, accounting and sandbox providers agree on every count.", "bold green")
    readers = two_readers(demo, given.newsletter, given.subscribers)
    say(demo, "")
    show(demo, side_by_side(readers, demo.settings))
    where_to_look(demo, given, readers)


def say(demo: Demo, text: str, style: str = "") -> None:
    """Print text as it is; a terminal wraps it where it ends."""
    demo.console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)


def show(demo: Demo, table: Table) -> None:
    """Print a table; what is no terminal gets it without the blanks that fill its lines up."""
    if demo.console.is_terminal:
        demo.console.print(table)
        return
    with demo.console.capture() as captured:
        demo.console.print(table)
    say(demo, "\n".join(line.rstrip() for line in captured.get().split("\n")).strip("\n") + "\n")


def where_to_look(demo: Demo, given: Given, readers: Sequence[Shown]) -> None:
    """Print commands that show more of it, for this stack."""
    option = "" if demo.is_default else f"--home {demo.home} "
    inbox = demo.env["NEWSWIRE_INBOX_URL"]
    first, second = (
        f"{inbox}?{urlencode({'q': one.person['channels']['email'], 'source': population.NEWSLETTER_ID})}" for one in readers
    )
    lines = {
        "the messages": inbox,
        "these two issues": first,
        "": second,
        "the accounting": f"""make psql ARGS='{option}-c "select * from api.accounting"'""",  # noqa: S608 - a command to read
        "one person": demo.prefixed(f"bin/newswire why {population.NEWSLETTER_ID} {readers[0].person['subscriber_id']}"),
        "the log": demo.prefixed("bin/kafka groups --describe --all-groups"),
        "stop it": demo.runner("down"),
    }
    say(demo, "Where to look:")
    for name, text in lines.items():
        say(demo, f"  {name:<16} {text}")


def outcome_table(demo: Demo, given: Given) -> Table:
    """Return the accounting by source and channel; a narrow terminal gets fewer columns with the same content."""
    wide = demo.console.width >= WIDE
    lost = ("failed", "suppressed", "unknown")
    counts = (*(("population",) if wide else ()), "chosen", "sent", *(lost if wide else ("undelivered",)), "gated")
    counts = (*counts, "not concerned", "balance")
    columns = {"sent": "sent + confirmed", "undelivered": " + ".join(lost), "not concerned": "not_concerned"}
    table = _table("What became of every subscriber, by channel", "source", "channel", *counts)
    sql = f"""select population, channel, {", ".join(columns.get(name, name) for name in counts)}
              from api.accounting where source_id = %s
              order by array_position(array['email', 'slack', 'discord', 'webhook', 'none'], channel)"""  # noqa: S608 - fixed names
    for source, title in given.titles.items():
        for number, (people, *row) in enumerate(demo.query(sql, source)):
            first = {0: title, 1: "" if wide else f"  of {people}"}.get(number, "")
            table.add_row(first, *(str(value) for value in row))
        table.add_section()
    return table


def skip_table(demo: Demo, given: Given) -> Table:
    """Return what was not sent and why, by source, the most frequent reason first."""
    table = _table("Not sent, and why", "source", "channel", "stage", "reason", "count")
    sql = "select channel, stage, reason, count from api.skips where source_id = %s order by count desc, channel, reason"
    for source, title in given.titles.items():
        for number, row in enumerate(demo.query(sql, source)):
            table.add_row("" if number else title, *(str(value) for value in row))
        table.add_section()
    sql = """select 'all', 'approval', reason, count(*) from api.publications
             where publication_id = any(%s::uuid[]) and state = 'rejected' group by reason order by 4 desc, reason"""
    for number, row in enumerate(demo.query(sql, given.publication_ids)):
        table.add_row("" if number else "publications", *(str(value) for value in row))
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        text = heading in ("source", "channel", "stage", "reason")
        table.add_column(heading, justify="left" if text else "right", no_wrap=text)
    return table


def main() -> int:
    """Run the demo; 0 when everything agrees, 1 otherwise, 130 when interrupted."""
    parser = argparse.ArgumentParser(description="Run Newswire's demo on the local stack.")
    parser.add_argument("--home", type=Path, default=Path(".newswire"), help="Folder of the stack.")
    demo = Demo(parser.parse_args().home, Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH))
    try:
        return 0 if run(demo) else 1
    except (StepFailed, psycopg.OperationalError, urllib.error.URLError) as failure:
        say(demo, f"The demo stopped: {failure}", "bold red")
        return 1
    except KeyboardInterrupt:
        say(demo, f"Interrupted. Run it again to complete it; `{demo.runner('down')}` stops the stack.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
