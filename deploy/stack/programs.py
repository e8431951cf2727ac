"""The programs of the stack, as data: what runs, in which group, how urgently, and how one sees that it is ready."""

import shutil
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.stack import database
from deploy.stack.artifacts import Artifacts
from deploy.stack.layout import CHECKOUT, Layout
from deploy.stack.ports import BROKERS, brokers

INFRA, NEWSWIRE = "infra", "newswire"
"""The two groups: servers, and Newswire's own processes."""

URGENT, MIDDLE, BULK, AFTERWARDS = 0, 5, 10, 15
"""Nice levels: what alerts and unsubscribing wait for comes first, bulk yields, and what only reads the outcome comes last."""


@dataclass(frozen=True)
class Process:
    """One Newswire process, started as `newswire run NAME`."""

    name: str
    nice: int
    does: str
    consumer_group: str | None = None
    """Its consumer group without the prefix: the process is ready when that is stable with a member."""
    statement: tuple[str, str] | None = None
    """Setting with a database, and a statement that gives true there when the process is ready."""


def _sink(channel: str, lane: str) -> Process:
    group = f"sink.{'email' if channel == 'ses' else channel}.{lane}"
    return Process(f"{channel}-{lane}", URGENT if lane == "urgent" else BULK, f"delivers {lane} messages by {channel}", group)


_CONSENT_READY = (
    "ledger_database_url",
    "SELECT min(caught_up_at) > clock_timestamp() - interval '2 seconds' FROM ledger.consent_progress",
)
"""It follows its topics without a group; sinks send nothing while this is not so."""
_PROJECTIONS_READY = (
    "projections_database_url",
    "SELECT EXISTS (SELECT FROM projections.generations WHERE state = 'live') AND "
    "(SELECT count(*) FROM pg_stat_activity WHERE usename = current_user AND datname = current_database()) > 1",
)
"""Its engines are connected (this question is the other connection) and a read model can be queried."""

PROCESSES = (
    Process("consent", URGENT, "keeps the table of whom and what not to send to", statement=_CONSENT_READY),
    Process("audience", URGENT, "copies alerts, approved publications and ticks to every shard", "audience"),
    Process("alerts", URGENT, "decides who gets an alert", "alerts"),
    Process("fanout-urgent", URGENT, "makes deliveries of decided alerts", "fanout-urgent"),
    *(_sink(channel, "urgent") for channel in ("ses", "slack", "discord", "webhook")),
    Process("edge", URGENT, "serves unsubscribing and what providers call back"),
    Process("feedback", MIDDLE, "turns what providers report into states and suppressed addresses", "sink.feedback"),
    Process("guard", MIDDLE, "brakes sources that come back, lets go what was held, edits what was retracted"),
    Process("approval", MIDDLE, "scores publications, approves or rejects them", "approval"),
    Process("ticker", MIDDLE, "writes one tick a minute", "ticker"),
    Process("newsletters", BULK, "decides who gets an issue, and with what in it", "newsletters"),
    Process("fanout-bulk", BULK, "makes deliveries of decided issues", "fanout-bulk"),
    *(_sink(channel, "bulk") for channel in ("ses", "slack", "discord", "webhook")),
    Process("training", AFTERWARDS, "fits the ranking's model once a day, and puts it to use when it is good enough"),
    Process("projections", AFTERWARDS, "fills the read models that SQL users see as api.*", statement=_PROJECTIONS_READY),
)
"""Every Newswire process, in the order in which they are started."""

PROCESS_STOP_S = 11
"""Longest time that a process may take to end its calls and commit; with the servers' the stack is down within 20 s."""

INFRA_NAMES = ("postgres", *BROKERS, "registry", "sandbox")
"""Every server; a stack of one node has the first of Kafka's only."""


@dataclass(frozen=True)
class Program:
    """What supervisord runs."""

    name: str
    group: str
    command: tuple[str, ...]
    directory: Path
    user: str | None = None
    stop_signal: str = "TERM"
    stop_wait_s: int = 6
    """Longest wait between the signal and SIGKILL; servers need 1 s."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables beside those of supervisord."""
    steady_s: int = 5
    """Seconds after which it counts as started; one that ends sooner is started again ever more slowly."""


def infra(
    layout: Layout,
    ports: Mapping[str, int],
    artifacts: Artifacts | None,
    postgres: database.Postgres | None,
    own: Collection[str],
) -> list[Program]:
    """Return the servers that this stack runs itself; `own` names those that it does not."""
    programs: list[Program] = []
    if postgres is not None and "postgres" not in own:
        command = tuple(database.command(layout, postgres, ports["postgres"]))
        # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for every client to leave.
        programs.append(Program("postgres", INFRA, command, Path("/"), postgres.user, stop_signal="INT"))
    if artifacts is not None:
        for name in (*brokers(ports), "registry"):
            if name not in own and not ("kafka" in own and name in BROKERS):
                programs.append(Program(name, INFRA, (str(artifacts.java), f"@{layout.run / name}.args"), layout.home))
    command = (sys.executable, "-m", "deploy.sandbox", "--port", str(ports["sandbox"]), "--journal", str(layout.sandbox))
    programs.append(Program("sandbox", INFRA, command, CHECKOUT))
    return programs


POSTAL_ADDRESS = "Newswire demo, 1 Example Street, 10115 Berlin, Germany"
"""Under alerts by mail. It is not in process.env, whose values stand there without quotes, so that they have no spaces."""


def newswire(layout: Layout, environ: Mapping[str, str]) -> list[Program]:
    """Return Newswire's own processes; a measurement of coverage that is asked for in the environment includes them."""
    measured = {name: value for name, value in environ.items() if name.startswith("COVERAGE_")}
    program = str(Path(sys.executable).with_name("newswire"))
    return [
        Program(
            process.name,
            NEWSWIRE,
            (*_niced(process.nice), program, "run", process.name),
            layout.home,
            stop_wait_s=PROCESS_STOP_S,
            environment={"NEWSWIRE_ALERT_POSTAL_ADDRESS": POSTAL_ADDRESS, **measured},
        )
        for process in PROCESSES
    ]


def _niced(level: int) -> tuple[str, ...]:
    nice = shutil.which("nice")
    return (nice, "-n", str(level)) if nice and level else ()
