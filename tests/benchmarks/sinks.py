"""Each sink alone against its sandbox provider, beside its bare client library: `make bench-sinks`.

For each channel the same deliveries of a newsletter wait in Kafka. The bare figure makes one call for each with the
provider's real client library and nothing else: no Kafka, no ledger, bodies rendered before. The sink's figure is one
process with all that it does. Both are of the same run on the same machine, so their ratio is what counts. Last, single
alerts are timed on a channel whose bulk lane is working through a backlog.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from core.names import CHANNELS
from deploy import population
from deploy.client import PROVIDERS as SANDBOX_PROVIDERS
from deploy.client import StackClient, StepFailed
from edge.publishing import read_events
from edge.writing import Log
from runtime.clock import SystemClock
from runtime.content import ContentReader
from runtime.documents import Document
from runtime.kafka import admin_client, end_offsets, partitions_of, read_range, start_offsets
from runtime.keys import KeyStore
from schemas.codec import Codec
from schemas.registry import RegistrySource
from schemas.topics import Topics
from sinks.commands import PROCESS_OF_CHANNEL
from sinks.compose import Composer
from sinks.delivery import Delivery
from sinks.knowledge import Knowledge
from sinks.provider import Message, Prepared, Provider
from sinks.registry import PROVIDERS
from tests.benchmarks.pipeline import PLAIN_WIDTH, cpu_s, prepare, processes

READY_S = 120.0
"""Longest wait until consent is known to the benchmark itself."""
LOOK_S = 0.05


@dataclass(frozen=True)
class Figures:
    """What one way of sending came to."""

    messages: int
    wall_s: float
    cpu_s: float

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / max(self.wall_s, 1e-9)

    @property
    def cpu_us(self) -> float:
        """CPU of the sending process for each message, in microseconds."""
        return self.cpu_s / max(self.messages, 1) * 1e6


def process_of(channel: str, lane: str) -> str:
    """Return the name of a sink's process in the stack."""
    return f"{PROCESS_OF_CHANNEL.get(channel, channel)}-{lane}"


def runner(stack: StackClient, *words: str) -> None:
    """Run a command of the stack's runner; StepFailed when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "deploy.stack", *words, "--home", str(stack.home)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise StepFailed(f"{' '.join(words)}: {(done.stderr or done.stdout).strip()}")


def accepted(stack: StackClient, channel: str) -> int:
    """Return how many messages a channel's sandbox provider accepted."""
    return int(stack.sandbox("/control/counts?by=provider").get(SANDBOX_PROVIDERS[channel], 0))


async def compose(stack: StackClient, channel: str, provider: Provider) -> list[Prepared]:
    """Return what waits for a channel's bulk lane, rendered."""
    settings, clock = stack.settings, SystemClock()
    topics = Topics(settings.topic_prefix, settings.shards)
    codec = Codec(topics, RegistrySource(settings.schema_registry_url))
    admin, topic = admin_client(settings), topics.deliveries(channel, "bulk")
    places = partitions_of(admin, [topic])
    raws = list(read_range(settings, start_offsets(admin, places), end_offsets(admin, places)))
    deliveries = [Delivery.of(codec.decode(raw).value, raw.value or b"", None) for raw in raws]
    keys, reader = KeyStore(settings), ContentReader(settings, codec, clock=clock)
    knowledge = Knowledge(settings, topics, codec, name=f"bench-{channel}", clock=clock)
    try:
        knowledge.start([], {})
        await knowledge.ready(READY_S)
        made = await Composer(settings, topics, keys, reader, knowledge).compose(deliveries)
        return [Prepared(one, provider.render(one)) for one in made if isinstance(one, Message)]
    finally:
        knowledge.stop()
        reader.close()
        keys.close()


async def bare(stack: StackClient, channel: str) -> Figures:
    """Send everything with the client library alone."""
    provider = PROVIDERS[channel](stack.settings)
    await provider.open()
    try:
        prepared = await compose(stack, channel, provider)
        groups = [prepared[start : start + provider.entries] for start in range(0, len(prepared), provider.entries)]
        slots = asyncio.Semaphore(provider.calls)

        async def call(group: Sequence[Prepared]) -> None:
            async with slots:
                await provider.call(group)

        await asyncio.gather(*(call(group) for group in groups[: provider.calls]))  # connections are open now
        began, cpu = time.monotonic(), time.process_time()
        await asyncio.gather(*(call(group) for group in groups))
        return Figures(len(prepared), time.monotonic() - began, time.process_time() - cpu)
    finally:
        await provider.close()


def sink(stack: StackClient, channel: str, waiting: int) -> Figures:
    """Start a channel's bulk sink and measure it from its first acceptance to its last."""
    name, before = process_of(channel, "bulk"), accepted(stack, channel)
    runner(stack, "start", name)
    while (count := accepted(stack, channel) - before) == 0:
        time.sleep(LOOK_S)
    pids = processes(stack.home)[name]
    first, began, cpu = count, time.monotonic(), cpu_s(pids)
    deadline = began + READY_S
    while count < waiting:
        if time.monotonic() > deadline:
            raise StepFailed(f"{name} sent {count} of {waiting} within {READY_S:.0f} s")
        time.sleep(LOOK_S)
        count = accepted(stack, channel) - before
    return Figures(count - first, time.monotonic() - began, cpu_s(pids) - cpu)


def backlog(stack: StackClient, ticks: int, first: int) -> dict[str, int]:
    """Stop the bulk sinks, make issues, and return how many deliveries wait for each channel."""
    for channel in CHANNELS:
        runner(stack, "stop", process_of(channel, "bulk"))
    for number in range(first, first + ticks):
        slot = (datetime.now(UTC) - timedelta(minutes=number)).strftime("%Y-%m-%dT%H:%MZ")
        stack.command("tick", population.NEWSLETTER_ID, "--slot", slot)
        stack.wait(f"issue {number} expanded", 1, partial(expanded, stack, f"{population.NEWSLETTER_ID}@{slot}"))
    sql = "select channel, count(*) from api.deliveries where lane = 'bulk' and state = 'pending' group by channel"
    return dict(stack.query(sql))


def expanded(stack: StackClient, source: str) -> int:
    """Return 1 when every delivery of a source is in Kafka, else 0."""
    sql = "select coalesce(bool_and(complete) and sum(not_fanned_out) = 0, false) from api.accounting where source_id = %s"
    return int(stack.query(sql, source)[0][0])


def urgent(stack: StackClient, alerts: int) -> list[float]:
    """Return the milliseconds from an alert's acknowledgement by Kafka to its first acceptance by mail."""
    waits = []
    with Log(stack.settings) as log:
        for _ in range(alerts):
            alert_id = str(uuid.uuid4())
            alert = {**population.alerts(datetime.now(UTC))[0], "alert_id": alert_id, "priority": "critical"}
            events = read_events("AlertRaised", "alert_id", log.topics.alerts, [Document(alert, "the benchmark's alert")], {})
            for _ in log.write(events):
                pass
            began = time.monotonic()
            sql = "select min(sent_at) is not null from api.deliveries where source_id = %s"
            while not stack.query(sql, alert_id)[0][0]:
                time.sleep(0.02)
                if time.monotonic() - began > READY_S:
                    raise StepFailed(f"nothing of the alert {alert_id} was sent within {READY_S:.0f} s")
            sql = "select extract(epoch from min(sent_at) - min(decided_at)) from api.deliveries where source_id = %s"
            waits.append(float(stack.query(sql, alert_id)[0][0]) * 1e3)
    return sorted(waits)


def main() -> int:
    """Run the benchmark on a stack of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, default=Path(".newswire/bench"), help="Folder of the stack.")
    parser.add_argument("--subscribers", type=int, default=10_000)
    parser.add_argument("--alerts", type=int, default=20)
    parser.add_argument("--backlog", type=int, default=6, help="Issues that wait while alerts are timed.")
    arguments = parser.parse_args()
    stack = StackClient(arguments.home, Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH))
    try:
        stack.up()
        prepare(stack, arguments.subscribers)
        waiting = backlog(stack, 1, 1)
        table = Table(box=SIMPLE_HEAD)
        for heading in ("channel", "messages", "bare a second", "sink a second", "share", "bare CPU µs", "sink CPU µs"):
            table.add_column(heading, justify="left" if heading == "channel" else "right")
        for channel in CHANNELS:
            alone = asyncio.run(bare(stack, channel))
            whole = sink(stack, channel, waiting[channel])
            table.add_row(
                channel, str(whole.messages), f"{alone.rate:.0f}", f"{whole.rate:.0f}", f"{whole.rate / alone.rate:.0%}",
                f"{alone.cpu_us:.0f}", f"{whole.cpu_us:.0f}",
            )  # fmt: skip
        stack.console.print(table)
        waiting = backlog(stack, arguments.backlog, 2)
        for channel in CHANNELS:
            runner(stack, "start", process_of(channel, "bulk"))
        waits = urgent(stack, arguments.alerts)
        left = stack.query("select count(*) from api.deliveries where lane = 'bulk' and state = 'pending'")[0][0]
        stack.console.print(
            f"Alert, from decision to acceptance, while {sum(waiting.values())} bulk deliveries were worked through "
            f"({left} still waited at the end): p50 {statistics.median(waits):.0f} ms, "
            f"p99 {waits[min(len(waits) - 1, int(len(waits) * 0.99))]:.0f} ms of {len(waits)}.",
            soft_wrap=True,
        )
    except StepFailed as failure:
        stack.console.print(f"The benchmark stopped: {failure}", markup=False, soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
