"""What one provider's outage costs the other channels: `make bench-outage`, on a stack of its own.

Raises alerts to people on all four channels, first with every provider well, then with the webhooks' endpoints silent, then
with SES silent (connections are taken, nothing is ever answered: the worst kind, because each call holds its place until it
times out). Prints for the channels that are well the time from Kafka's acknowledgement of an alert to the ledger's note of
the provider's acceptance, p50 and p99, and the p99 as a multiple of the normal one of the same run: below twice is wanted.
"""

import argparse
import json
import math
import sys
import time
import urllib.request
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from core.names import CHANNELS
from deploy import population
from deploy.client import PROVIDERS, StackClient, StepFailed
from edge.publishing import read_events
from edge.writing import Log
from runtime.documents import Document
from tests.benchmarks.pipeline import PLAIN_WIDTH

EACH: Final = 10
"""People on each channel; every alert goes to all of them."""
PACE_S: Final = 0.5
"""Between two alerts: 80 deliveries a second, so that the machine is not what is measured."""
WARM_UP: Final = 10
"""Alerts of each phase that are not counted; an outage's breakers open meanwhile."""
FIRST: Final = 60
"""Alerts before the first phase: processes that have just started are slower, and would make the normal time look long."""
SECRET: Final = "whsec_bmV3c3dpcmUtZGVtby1zZWNyZXQtb2YtMzItYnl0ZXM="
"""Of every endpoint of the sandbox."""
LIMIT: Final = 2.0
"""Below so many times the normal p99 an outage is not felt."""
SOUND_MS: Final = 2_000.0
"""With a normal p99 above this the machine cannot keep up even without an outage, and nothing can be concluded."""

ARRIVED: Final = """
SELECT source_id, channel, extract(epoch FROM sent_at)::float8 FROM api.deliveries
WHERE source_id = ANY(%s) AND sent_at IS NOT NULL
"""
OPEN: Final = """
SELECT count(*) FROM api.deliveries WHERE source_id = ANY(%s) AND channel = %s AND state IN ('pending', 'unknown')
"""


@dataclass
class Phase:
    """One part of the run."""

    title: str
    down: str | None
    """The channel whose provider is silent."""
    raised: dict[str, float] = field(default_factory=dict)
    """Alert and when Kafka had it, as a Unix time."""
    waits_ms: dict[str, list[float]] = field(default_factory=dict)
    """Channel and the time of each delivery, sorted."""


def quantile(values: list[float], share: float) -> float:
    """Return the value below or at which that share of the sorted values lies."""
    return values[max(0, math.ceil(share * len(values)) - 1)]


def control(stack: StackClient, method: str, document: dict[str, Any] | None = None) -> None:
    """Switch faults of the sandbox on or off."""
    url = stack.env["NEWSWIRE_INBOX_URL"].rstrip("/") + "/control/faults"
    data = None if document is None else json.dumps(document).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=30):
        pass


def people(hooks: str) -> list[dict[str, Any]]:
    """Return EACH people on every channel, with nothing that keeps an alert from them."""

    def address(channel: str, number: int) -> str | dict[str, str]:
        if channel == "webhook":
            return {"url": hooks.format(name=f"urgent-{number:03d}"), "secret": SECRET}
        return {"email": f"urgent.{number:03d}@example.org", "slack": f"C{number:09d}", "discord": f"9{number:017d}"}[channel]

    return [
        {
            "subscriber_id": str(uuid.uuid5(population.NAMESPACE, f"outage {channel} {number}")), "name": f"{channel} {number}",
            "time_zone": "Europe/Berlin", "language": "en", "topics": {"outage": 1.0}, "newsletters": [], "alerts": True,
            "channels": {channel: address(channel, number)},
        }
        for channel in CHANNELS for number in range(EACH)
    ]  # fmt: skip


def prepare(stack: StackClient) -> None:
    """Register the people, once."""
    path = stack.home / "outage.jsonl"
    documents = people(stack.env["NEWSWIRE_INBOX_URL"].rstrip("/") + "/hooks/{name}")
    path.write_text("".join(json.dumps(one) + "\n" for one in documents))
    stack.command("subscribe", "--file", str(path))
    known = "select count(*) from api.subscribers"
    stack.wait("subscribers registered", len(documents), lambda: int(stack.query(known)[0][0]))
    stack.wait("stages at rest", 1, lambda: int(stack.lag("audience", "alerts") == 0))


def raise_alerts(stack: StackClient, phase: Phase, count: int) -> None:
    """Raise alerts at an even pace."""
    with Log(stack.settings) as log:
        next_at = time.monotonic()
        for _ in range(count):
            time.sleep(max(0.0, next_at - time.monotonic()))
            next_at += PACE_S
            alert = {**population.alerts(datetime.now(UTC))[1], "alert_id": str(uuid.uuid4())}
            events = read_events("AlertRaised", "alert_id", log.topics.alerts, [Document(alert, "the benchmark's alert")], {})
            for _ in log.write(events):
                pass
            phase.raised[str(alert["alert_id"])] = time.time()


def run(stack: StackClient, phase: Phase, count: int) -> None:
    """Do one phase, and wait until the channels that are well have everything."""
    if phase.down is not None:
        control(stack, "POST", {"provider": PROVIDERS[phase.down], "kind": "timeout"})
    raise_alerts(stack, phase, WARM_UP + count)
    ids, well = list(phase.raised), [channel for channel in CHANNELS if channel != phase.down]

    def sent() -> list[tuple[Any, ...]]:
        return [row for row in stack.query(ARRIVED, ids) if row[1] in well]

    stack.wait(phase.title, len(ids) * EACH * len(well), lambda: len(sent()))
    counted, waits_ms = set(ids[WARM_UP:]), defaultdict[str, list[float]](list)
    for source, channel, at in sent():
        if source in counted:
            waits_ms[channel].append((at - phase.raised[source]) * 1e3)
    phase.waits_ms = {channel: sorted(values) for channel, values in waits_ms.items()}


def recover(stack: StackClient, phase: Phase) -> None:
    """End the outage, and wait until nothing of it is left: the next phase is not to carry it."""
    assert phase.down is not None
    control(stack, "DELETE")
    ids, count = list(phase.raised), len(phase.raised) * EACH
    stack.wait(f"{phase.down} has caught up", count, lambda: count - int(stack.query(OPEN, ids, phase.down)[0][0]))


def show(stack: StackClient, normal: Phase, outages: list[Phase]) -> float:
    """Print the table; return the greatest multiple of a normal p99."""
    table = Table(box=SIMPLE_HEAD)
    for heading in (
        "channel",
        "normal p50 ms",
        "p99 ms",
        *(h for one in outages for h in (f"{one.title} p50 ms", "p99 ms", "of normal")),
    ):
        table.add_column(heading, justify="left" if heading == "channel" else "right")
    worst = 0.0
    for channel in CHANNELS:
        usual = normal.waits_ms[channel]
        cells = [f"{quantile(usual, 0.5):.0f}", f"{quantile(usual, 0.99):.0f}"]
        for one in outages:
            found = one.waits_ms.get(channel)
            if found is None:
                cells += ["", "", "down"]
                continue
            times = quantile(found, 0.99) / quantile(usual, 0.99)
            worst = max(worst, times)
            cells += [f"{quantile(found, 0.5):.0f}", f"{quantile(found, 0.99):.0f}", f"{times:.2f} times"]
        table.add_row(channel, *cells)
    stack.console.print(table)
    return worst


def main() -> int:
    """Run the benchmark on a stack of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, default=Path(".newswire/bench-outage"), help="Folder of the stack.")
    parser.add_argument("--alerts", type=int, default=60, help="Counted alerts of each phase, two a second.")
    arguments = parser.parse_args()
    stack = StackClient(arguments.home, Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH))
    normal = Phase("normal", None)
    outages = [Phase("webhooks down", "webhook"), Phase("SES down", "email")]
    try:
        stack.up()
        control(stack, "DELETE")
        prepare(stack)
        run(stack, Phase("warm", None), FIRST)
        run(stack, normal, arguments.alerts)
        for one in outages:
            run(stack, one, arguments.alerts)
            if one is not outages[-1]:
                recover(stack, one)
        control(stack, "DELETE")
    except StepFailed as failure:
        stack.console.print(f"The benchmark stopped: {failure}", markup=False, soft_wrap=True)
        return 1
    worst = show(stack, normal, outages)
    usual = max(quantile(values, 0.99) for values in normal.waits_ms.values())
    verdict = "below" if worst < LIMIT else "NOT below"
    if usual > SOUND_MS:
        verdict = f"but the normal one is {usual:,.0f} ms, so this machine is too busy to tell whether that is below"
    stack.console.print(
        f"{arguments.alerts * EACH} deliveries a channel and phase. The worst p99 of a channel that is well is {worst:.2f} times "
        f"its normal one: {verdict} {LIMIT:g} times.",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
