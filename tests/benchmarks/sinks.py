"""Each sink alone against its sandbox provider, beside its bare client library: `make bench-sinks`.

For each channel a backlog of bulk deliveries waits in Kafka. The bare figure makes one call after the other with the
provider's client, as the sink sets it up and with as many calls at a time, and does nothing else: bodies are rendered
before. The sink's figure is one process with all that it does, consent and ledger included. Both are measured twice: with
a provider that answers at once, where all depends on CPU, and with one that takes SLOW_S to answer, as real ones do. Last,
single alerts are timed while what is left of the backlog is worked through on the same channel.

All share one machine, sandbox and servers too, so a share is what counts, not a rate; CPU a message is shown beside it.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from core.names import CHANNELS
from core.outcomes import Outcome, Sent
from core.rendering.model import Issue, IssueItem, ItemContent
from deploy import population
from deploy.client import PROVIDERS as SANDBOX_PROVIDERS
from deploy.client import StackClient, StepFailed
from deploy.sandbox.hooks import DEFAULT_SECRET
from deploy.stack.layout import Layout, read_env
from runtime.documents import event_value
from runtime.keys import KeyStore
from runtime.producer import Producer
from schemas.codec import Codec
from schemas.registry import RegistrySource
from schemas.topics import Topics
from sinks.commands import PROCESS_OF_CHANNEL
from sinks.delivery import Delivery
from sinks.provider import Message, Prepared, Provider, Sender
from sinks.registry import PROVIDERS
from tests.benchmarks.pipeline import PLAIN_WIDTH, cpu_s, processes
from tests.sinks_kit import Process, World
from tests.sinks_samples import request

TARGETS: Final = {"email": 0.5, "slack": 0.8, "discord": 0.8, "webhook": 0.8}  # shares of the bare client's rate
ALERT_TARGET_MS: Final = 1_000.0
SLOW_S: Final = 0.1  # what a slow provider takes to answer; the sandbox looks every tenth of a second
SLOW_MESSAGES: Final = {"email": 3_000, "slack": 300, "discord": 300, "webhook": 2_000}
"""Measured with a slow provider: with the calls that each channel makes at a time, some 3 s."""
PEOPLE: Final = 1_000  # subscribers of each channel; the backlog goes to them in turn
ITEMS: Final = 10  # of an issue
ALERT_EVERY_S: Final = 0.05
PATIENCE_S: Final = 120.0  # longest wait for something that must happen
LOOK_S: Final = 0.02
SLICE: Final = 5_000  # records produced at a time


@dataclass(frozen=True)
class Figures:
    """What one way of sending came to."""

    messages: int
    wall_s: float
    cpu_s: float
    beside: dict[str, float]  # CPU seconds of the servers meanwhile

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / self.wall_s

    def micros(self, seconds: float) -> str:
        """Return CPU for each message, in microseconds."""
        return f"{seconds / max(self.messages, 1) * 1e6:.0f}"


@dataclass(frozen=True)
class Person:
    """A subscriber of one channel."""

    subscriber_id: str
    address: str
    sealed: bytes


class Bench:
    """One run: the stack's servers, what was published, and the subscribers of each channel."""

    def __init__(self, client: StackClient, world: World) -> None:
        self._client, self._world, self._random = client, world, random.Random(1)
        self._items, self._contents = self._publish()
        self._people = {channel: self._register(channel) for channel in CHANNELS}

    def _publish(self) -> tuple[list[dict[str, Any]], list[ItemContent]]:
        """Define the newsletter and publish the sample; return it as items of deliveries and as it is rendered."""
        world, now = self._world, datetime.now(UTC)
        world.define_newsletter()
        values = [event_value("PublicationSubmitted", document) for document in population.publications()]
        topic = world.topics.publications
        records = [
            world.codec.encode(topic, "PublicationSubmitted", value, key=value["publication_id"], time=now) for value in values
        ]
        items, contents = [], []
        for value, record, offset in zip(values, records, world.produce_all(records), strict=True):
            topics = [one["topic"] for one in value["topics"]]
            items.append(
                {
                    "publication_id": value["publication_id"], "revision": 1, "content_partition": record.partition,
                    "content_offset": offset, "score": 10_000, "reason": f"topic:{topics[0]}", "propensity": 1.0,
                }
            )  # fmt: skip
            contents.append(
                ItemContent(
                    value["publication_id"], 1, value["title"], value["summary"], value["url"], tuple(value["authors"]), "en",
                    value["published_at"], tuple(topics),
                )
            )  # fmt: skip
        return items, contents

    def _register(self, channel: str) -> list[Person]:
        """Make the subscribers of a channel, with keys and encrypted addresses."""
        hooks = self._client.env["NEWSWIRE_INBOX_URL"].rstrip("/") + "/hooks"
        ids = [str(uuid.uuid4()) for _ in range(PEOPLE)]
        self._world.keys.create(ids)
        found = []
        for number, subscriber in enumerate(ids):
            address = {
                "email": f"reader.{number:05d}@example.org",
                "slack": f"C{number:09d}",
                "discord": str(900_000_000_000_000_000 + number),
                "webhook": json.dumps({"url": f"{hooks}/reader-{number:05d}", "secret": DEFAULT_SECRET}),
            }[channel]
            found.append(
                Person(subscriber, address, self._world.keys.encrypt(subscriber, f"address.{channel}", address.encode()))
            )
        return found

    def _requests(self, channel: str, count: int) -> Iterator[tuple[Person, list[int], dict[str, Any]]]:
        """Yield persons, the numbers of their items, and their deliveries."""
        people, numbers = self._people[channel], range(len(self._items))
        for turn in range(count):
            person, chosen = people[turn % PEOPLE], self._random.sample(numbers, ITEMS)
            items = [self._items[number] for number in chosen]
            yield person, chosen, request(person.subscriber_id, channel=channel, address=person.sealed, items=items)

    def backlog(self, channel: str, count: int) -> None:
        """Let so many bulk deliveries wait for a channel."""
        for left in range(count, 0, -SLICE):
            self._world.deliver([value for _, _, value in self._requests(channel, min(SLICE, left))])

    def accepted(self, channel: str) -> int:
        """Return how many messages a channel's sandbox provider accepted."""
        return int(self._client.sandbox("/control/counts?by=provider").get(SANDBOX_PROVIDERS[channel], 0))

    @contextmanager
    def slow(self, channel: str) -> Iterator[None]:
        """Let a provider take SLOW_S for every answer."""
        provider = SANDBOX_PROVIDERS[channel]
        self._control("POST", "/control/faults", {"provider": provider, "kind": "slow_body", "delay_s": SLOW_S})
        try:
            yield
        finally:
            self._control("DELETE", f"/control/faults?provider={provider}")

    def _control(self, method: str, path: str, document: Any = None) -> None:
        url, body = self._client.env["NEWSWIRE_INBOX_URL"].rstrip("/") + path, json.dumps(document).encode()
        urllib.request.urlopen(urllib.request.Request(url, body, method=method), timeout=30).close()

    def _beside(self) -> dict[str, float]:
        found = processes(self._client.home)
        return {name: cpu_s(found[name]) for name in ("sandbox", "postgres", "kafka")}

    def _prepared(self, provider: Provider, count: int) -> list[Prepared]:
        """Return messages as the sink would send them, rendered."""
        made = []
        for person, chosen, value in self._requests(provider.channel, count):
            issue = Issue(
                newsletter_id="daily", newsletter_name="Daily", subject="{title}", language="en",
                items=tuple(IssueItem(self._contents[number], self._items[number]["reason"]) for number in chosen),
                issue_group=value["issue_group"], from_name="Newswire", postal_address="1 Example Street",
                unsubscribe_url=f"{self._world.settings.edge_url}/u/{uuid.uuid4().hex * 5}",
            )  # fmt: skip
            message = Message(Delivery.of(value, b"", None), person.address, issue, Sender("Newswire", "news@newswire.example"))
            made.append(Prepared(message, provider.render(message)))
        return made

    async def bare(self, channel: str, count: int) -> Figures:
        """Send with the client library alone."""
        provider = PROVIDERS[channel](self._world.settings)
        await provider.open()
        try:
            prepared = self._prepared(provider, count + provider.calls * provider.entries)
            groups = [prepared[at : at + provider.entries] for at in range(0, len(prepared), provider.entries)]
            await asyncio.gather(*(provider.call(group) for group in groups[: provider.calls]))  # connections are open now
            waiting, outcomes = iter(groups[provider.calls :]), list[Outcome]()

            async def caller() -> None:
                for group in waiting:
                    outcomes.extend(await provider.call(group))

            began, cpu = time.monotonic(), time.process_time()
            await asyncio.gather(*(caller() for _ in range(provider.calls)))
            found = Figures(len(outcomes), time.monotonic() - began, time.process_time() - cpu, {})
        finally:
            await provider.close()
        if refused := [outcome for outcome in outcomes if not isinstance(outcome, Sent)]:
            raise StepFailed(f"{channel}: {len(refused)} of {count} calls of the bare client came to {refused[0]}")
        return found

    def watched(self, channel: str, pid: int, count: int) -> Figures:
        """Measure a sink that is running until so many messages more are accepted."""
        before, beside = self.accepted(channel), self._beside()
        began, cpu = time.monotonic(), cpu_s([pid])
        self.wait(lambda: self.accepted(channel) - before >= count, f"{count} messages of {channel}")
        wall_s, sent = time.monotonic() - began, self.accepted(channel) - before
        return Figures(sent, wall_s, cpu_s([pid]) - cpu, {name: now - beside[name] for name, now in self._beside().items()})

    def start(self, name: str) -> Process:
        """Start a process and wait until it runs; StepFailed when it ends instead."""
        process = self._world.start(name)

        def runs() -> bool:
            if process.ended() is not None:
                raise StepFailed(f"{name} ended at its start: {process.log} says why")
            return " runs" in process.log.read_text()

        self.wait(runs, f"{name} to run")
        return process

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition; StepFailed after PATIENCE_S."""
        until = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > until:
                raise StepFailed(f"waited {PATIENCE_S:.0f} s in vain for {what}; the logs are in {self._world.folder}")
            time.sleep(LOOK_S)

    def alerts_ms(self, channel: str, count: int) -> list[float]:
        """Send single alerts; return the times from decision to outcome in the ledger, a little after the answer, sorted."""
        fields, asked = self._world.raise_alert(), dict[str, datetime]()
        for person in self._people[channel][:count]:
            now = datetime.now(UTC)
            value = request(
                person.subscriber_id, channel=channel, lane="urgent", priority="critical", address=person.sealed,
                decided_at=now, not_after=now.replace(microsecond=0) + timedelta(hours=12), **fields,
            )  # fmt: skip
            asked[value["delivery_id"].partition("-")[2]] = now
            self._world.deliver([value])
            time.sleep(ALERT_EVERY_S)
        statement = """SELECT delivery_id::text, outcome_at FROM ledger.deliveries
                       WHERE delivery_id = ANY(%s::uuid[]) AND state IN ('sent', 'confirmed')"""
        rows: dict[str, datetime] = {}

        def all_sent() -> bool:
            rows.update(self._world.ledger(statement, list(asked)))
            return len(rows) == len(asked)

        self.wait(all_sent, f"{len(asked)} alerts of {channel}")
        return sorted((rows[one] - at).total_seconds() * 1e3 for one, at in asked.items())


@dataclass(frozen=True)
class Measured:
    """All figures of one channel."""

    channel: str
    bare: Figures
    sink: Figures
    bare_slow: Figures
    sink_slow: Figures
    alerts_ms: list[float]
    left: int  # bulk deliveries that still waited when the last alert had been sent

    @property
    def p99_ms(self) -> float:
        """The alerts' 99th percentile."""
        return self.alerts_ms[int((len(self.alerts_ms) - 1) * 0.99 + 0.5)]


def measure(bench: Bench, channel: str, *, messages: int, waiting: int, alerts: int) -> Measured:
    """Measure one channel, with the processes of its two lanes."""
    import uvloop

    name, slow_messages = PROCESS_OF_CHANNEL.get(channel, channel), SLOW_MESSAGES[channel]
    alone = uvloop.run(bench.bare(channel, messages))
    with bench.slow(channel):
        alone_slow = uvloop.run(bench.bare(channel, slow_messages))
    bench.backlog(channel, waiting)
    urgent = bench.start(f"{name}-urgent")
    before = bench.accepted(channel)
    bulk = bench.start(f"{name}-bulk")
    bench.wait(lambda: bench.accepted(channel) - before > messages // 10, f"the first messages of {name}-bulk")
    whole = bench.watched(channel, bulk.pid, messages)
    with bench.slow(channel):
        bench.watched(channel, bulk.pid, slow_messages // 4)  # what was under way before
        whole_slow = bench.watched(channel, bulk.pid, slow_messages)
    waits = bench.alerts_ms(channel, alerts)
    left = waiting - (bench.accepted(channel) - before - len(waits))
    for process in (bulk, urgent):
        process.kill()
    return Measured(channel, alone, whole, alone_slow, whole_slow, waits, left)


def show(console: Console, found: list[Measured]) -> None:
    """Print the figures and what they mean for each target."""
    table = Table(box=SIMPLE_HEAD, title="Messages a second, and CPU a message in µs", title_justify="left")
    for heading in (
        "channel",
        "answers",
        "bare/s",
        "sink/s",
        "share",
        "bare µs",
        "sink µs",
        "sandbox µs",
        "postgres µs",
        "kafka µs",
    ):
        table.add_column(heading, justify="left" if heading in ("channel", "answers") else "right")
    verdicts = []
    for one in found:
        for answers, bare, sink in (("at once", one.bare, one.sink), (f"after {SLOW_S:g} s", one.bare_slow, one.sink_slow)):
            share, target = sink.rate / bare.rate, TARGETS[one.channel]
            table.add_row(
                one.channel, answers, f"{bare.rate:.0f}", f"{sink.rate:.0f}", f"{share:.0%}",
                bare.micros(bare.cpu_s), sink.micros(sink.cpu_s), *(sink.micros(seconds) for seconds in sink.beside.values()),
            )  # fmt: skip
            verdict = "met" if share >= target else "missed"
            verdicts.append(f"{one.channel}, answered {answers}: {share:.0%} of the bare client, target {target:.0%}: {verdict}.")
    for one in found:
        p50, verdict = statistics.median(one.alerts_ms), "met" if one.p99_ms < ALERT_TARGET_MS else "missed"
        verdicts.append(
            f"{one.channel}, alerts while at least {one.left} bulk deliveries waited: p50 {p50:.0f} ms, "
            f"p99 {one.p99_ms:.0f} ms of {len(one.alerts_ms)}, target {ALERT_TARGET_MS:.0f} ms: {verdict}."
        )
    console.print(table)
    console.print("\n".join(verdicts), soft_wrap=True, highlight=False)


@contextmanager
def world_of(client: StackClient) -> Iterator[World]:
    """Give what the tests of the sinks work with, on a stack whose servers are up; its processes are ended afterwards."""
    client.env = read_env(Layout.at(client.home).stack_env)
    client.command("migrate")
    client.command("schemas", "sync")
    settings = client.settings
    topics, folder = Topics.of(settings), client.home / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    producer, keys = Producer(settings, "bench-sinks"), KeyStore(settings)
    world = World(settings, topics, Codec(topics, RegistrySource(settings.schema_registry_url), keys), keys, producer, folder)
    try:
        yield world
    finally:
        world.stop_all()
        producer.close()
        keys.close()


def main() -> int:
    """Run the benchmark on a stack whose servers are up."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, required=True, help="Folder of the stack.")
    parser.add_argument("--channels", nargs="+", default=CHANNELS, choices=CHANNELS)
    parser.add_argument(
        "--messages", type=int, default=3_000, help="Measured on each channel with a provider that answers at once."
    )
    parser.add_argument("--waiting", type=int, default=50_000, help="Bulk deliveries that wait on each channel.")
    parser.add_argument("--alerts", type=int, default=100, help="Single alerts timed on each channel.")
    arguments = parser.parse_args()
    if arguments.waiting < (least := 2 * (arguments.messages + max(SLOW_MESSAGES.values()))):
        parser.error(f"--waiting must be {least} or more, or the backlog ends before the measurement does")
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    client, found = StackClient(arguments.home, console), []
    try:
        with world_of(client) as world:
            bench = Bench(client, world)
            bench.start("consent")
            for channel in arguments.channels:
                began = time.monotonic()
                alerts = min(arguments.alerts, PEOPLE)
                found.append(measure(bench, channel, messages=arguments.messages, waiting=arguments.waiting, alerts=alerts))
                console.print(f"  {channel:<31} {time.monotonic() - began:>6.1f} s", highlight=False)
    except StepFailed as failure:
        console.print(f"The benchmark stopped: {failure}", markup=False, soft_wrap=True)
        return 1
    show(console, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
