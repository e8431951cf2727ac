"""The command line of the fault runs: `make fault SEEDS=n`; see `python -m tests.fault --help`."""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import cast

import click
from rich.console import Console

from tests.fault import privileged
from tests.fault.backlog import Backlog
from tests.fault.plan import Plan, Timed, plan_of
from tests.fault.probe import EdgeProbe
from tests.fault.run import Closing, Result, Run
from tests.fault.scenes import SCENES, Behind, Scene
from tests.fault.stack import Stack
from tests.fault.upstream import Upstream


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--home", type=click.Path(path_type=Path), default=Path(".newswire/fault"), help="The stack's folder.")
@click.pass_context
def main(ctx: click.Context, home: Path) -> None:
    """Run Newswire with faults on a stack that is up, and check every message."""
    logging.getLogger("runtime").setLevel(logging.CRITICAL)  # servers that are away are the point of it
    ctx.obj = home


@main.command()
@click.option("--seeds", type=int, default=10, show_default=True, help="How many runs.")
@click.option(
    "--first", type=int, default=1, show_default=True, help="The first seed; alone with --seeds 1 it replays a failure."
)
@click.option("--again", is_flag=True, help="Run seeds again that held before.")
@click.option("--all-messages", is_flag=True, help="Print every verdict, those that hold too.")
@click.pass_obj
def seeds(home: Path, seeds: int, first: int, again: bool, all_messages: bool) -> None:
    """Run SEEDS plans of faults; what held is remembered in the home and not run again."""
    results = home / "fault-results.jsonl"
    done = (
        {} if again or not results.exists() else {one["seed"]: one for one in map(json.loads, results.read_text().splitlines())}
    )
    stack = Stack(home, Console(quiet=True))
    upstream = Upstream(stack.settings, stack.env["NEWSWIRE_INBOX_URL"])
    closing = Closing(stack)
    began, failed, ran, messages = time.monotonic(), 0, 0, 0
    for seed in range(first, first + seeds):
        if done.get(seed, {}).get("holds"):
            continue
        result = Run(stack, upstream, plan_of(seed))()
        ran, messages = ran + 1, messages + len(result.requests)
        closing.add(result)
        _show(result, all_messages)
        line = {
            "seed": seed,
            "holds": result.holds,
            "took_s": round(result.took_s, 1),
            "messages": len(result.requests),
            "at": time.time(),
        }
        with results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if not result.holds:
            failed += 1
            click.echo(f"seed {seed} FAILED; replay it: make fault SEEDS=1 FIRST={seed}")
    broken = closing.report().broken
    for verdict in broken:
        click.echo(f"in the end: {verdict}")
    upstream.close()
    click.echo(
        f"{seeds - failed} of {seeds} seeds hold ({ran} run now, {seeds - ran} before), {messages} deliveries, "
        f"{time.monotonic() - began:.0f} s"
    )
    sys.exit(1 if failed or broken else 0)


def _row(*timed: Timed, rounds: int) -> Plan:
    return Plan(0, (), timed, (), 1, 0, 1.0, rounds)


ROWS: Mapping[str, tuple[str, int, Plan]] = {
    "storm": (
        "a second worker of three stages joins and leaves all the time for 60 s",
        1,
        _row(
            *(Timed(1.0 + number, "storm", name, 60.0) for number, name in enumerate(("alerts", "fanout-urgent", "ses-urgent"))),
            rounds=30,
        ),
    ),
    "broker": ("kill -9 of the only broker", 1, _row(Timed(2.0, "kafka", ""), rounds=5)),
    "frozen": (
        "the only broker is frozen for 15 s, so that its controller puts it out for a moment",
        1,
        _row(Timed(2.0, "freeze", "kafka", 15.0), rounds=8),
    ),
    "leader": ("kill -9 of one broker of three", 3, _row(Timed(2.0, "down", "kafka", 10.0), rounds=8)),
    "majority": ("kill -9 of two brokers of three", 3, _row(Timed(2.0, "down", "kafka-2 kafka-3", 10.0), rounds=8)),
    "database": (
        "PostgreSQL's immediate shutdown, three times",
        1,
        _row(*(Timed(at, "postgres", "") for at in (1.0, 5.0, 9.0)), rounds=5),
    ),
    "registry": ("the registry stopped for 10 s", 1, _row(Timed(0.5, "registry", "", 10.0), rounds=5)),
}
"""Rows of the matrix with a plan of their own: what it is, how many nodes Kafka must have, and the plan."""


@main.command()
@click.argument("names", nargs=-1)
@click.option("--waiting", type=int, default=100_000, show_default=True, help="How many deliveries wait in the row backlog.")
@click.pass_obj
def rows(home: Path, names: tuple[str, ...], waiting: int) -> None:
    """Run the rows NAMES of the matrix (all that this stack can run when none is named)."""
    stack = Stack(home, Console(quiet=True))
    upstream = Upstream(stack.settings, stack.env["NEWSWIRE_INBOX_URL"])
    scenes: dict[str, Callable[[], Scene]] = {name: partial(scene, stack, upstream) for name, scene in SCENES.items()}
    scenes["backlog"] = partial(Backlog, stack, upstream, waiting)
    nodes, failed = len(stack.settings.kafka_bootstrap_servers.split(",")), 0
    for name in names or [*(name for name, (_, needed, _) in ROWS.items() if needed <= nodes), *scenes]:
        if name in scenes:
            scene = scenes[name]()
            what, run = scene.what, cast(Run, scene)
        elif name in ROWS:
            what, needed, plan = ROWS[name]
            if needed > nodes:
                raise click.UsageError(f"{name} needs {needed} nodes of Kafka: start the stack with --nodes {needed}")
            run = Run(stack, upstream, plan)
            run.probe = EdgeProbe(stack) if needed > 1 else None
        else:
            raise click.UsageError(f"{name} is no row; known are {', '.join([*ROWS, *scenes])}")
        failed += not _told(name, what, run())
    upstream.close()
    sys.exit(1 if failed else 0)


def _clock(stack: Stack, upstream: Upstream) -> Iterator[tuple[str, Result]]:
    for process, offset_s in (("alerts", 600), ("fanout-urgent", -600), ("ses-urgent", 600), ("slack-urgent", -600)):
        with privileged.clock(stack, process, offset_s):
            yield f"the clock of {process} is off by {offset_s:+d} s", Run(stack, upstream, _row(rounds=3))()
    yield Behind.what, Behind(stack, upstream)()


def _memory(stack: Stack, upstream: Upstream) -> Iterator[tuple[str, Result]]:
    def starve() -> None:
        for process in ("ses-urgent", "alerts", "projections"):
            before, until = stack.pid(process), time.monotonic() + 10
            with privileged.memory(stack, process):
                while stack.pid(process) == before and time.monotonic() < until:
                    time.sleep(0.1)

    run = Run(stack, upstream, _row(rounds=8))
    run.more = starve
    yield "ses-urgent, alerts and projections have no memory left, one after the other", run()


def _disk(stack: Stack, upstream: Upstream) -> Iterator[tuple[str, Result]]:
    with privileged.disk(stack) as folder:
        run = Run(stack, upstream, _row(rounds=2))
        run.probe = EdgeProbe(stack)
        run.probe.start()
        filler, until = privileged.fill(folder), time.monotonic() + 60
        while 503 not in {status for _, _, status in run.probe.answers} and time.monotonic() < until:
            privileged.fill(folder)
            time.sleep(0.5)
        filler.unlink()
        yield "Kafka's disk is full until the edge says so, then there is room again", run()


def _network(stack: Stack, upstream: Upstream) -> Iterator[tuple[str, Result]]:
    with privileged.network(stack, "ses-urgent") as link:

        def cut() -> None:
            time.sleep(4.0)
            link.cut()
            stack.join("ses-urgent", 20.0)  # another host has the partitions meanwhile
            link.mend()

        run = Run(stack, upstream, _row(rounds=10))
        run.more = cut
        yield "the host of ses-urgent is cut off for 20 s, and another one takes over", run()


LONG = {"clock": _clock, "memory": _memory, "disk": _disk, "network": _network}
"""Rows that need root."""


@main.command()
@click.argument("names", nargs=-1, type=click.Choice(list(LONG)))
@click.pass_obj
def long(home: Path, names: tuple[str, ...]) -> None:
    """Run the rows that need root on Linux: NAMES, or all."""
    stack = Stack(home, Console(quiet=True))
    upstream = Upstream(stack.settings, stack.env["NEWSWIRE_INBOX_URL"])
    failed = 0
    for name in names or LONG:
        lacking = privileged.missing(name)
        if lacking:
            raise click.UsageError(f"the row {name} needs {lacking}")
        for what, result in LONG[name](stack, upstream):
            failed += not _told(name, what, result)
    upstream.close()
    sys.exit(1 if failed else 0)


def _told(name: str, what: str, result: Result) -> bool:
    """Print a row's result; return whether it holds."""
    click.echo(f"{name}: {what}")
    _show(result, False)
    for verdict in result.said:
        if not verdict.problems:
            click.echo(f"    {verdict}")
    return result.holds


def _show(result: Result, all_messages: bool) -> None:
    verdict = "holds" if result.holds else "BROKEN"
    click.echo(f"seed {result.plan.seed:>4} {verdict} {result.took_s:5.1f} s {len(result.requests):>3} deliveries: {result.plan}")
    if result.missed:
        click.echo(f"          nobody came by {', '.join(result.missed)}")
    for one in result.report.verdicts if all_messages else result.report.broken:
        click.echo(f"    {one}")


if __name__ == "__main__":
    main(prog_name="python -m tests.fault")
