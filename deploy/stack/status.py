"""What `status` says: each program's state, pid, uptime, memory and how often it was started again, and the ports."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy.stack.environment import SERVERS
from deploy.stack.layout import Layout, Remembered, read_env
from deploy.stack.orphans import memory_bytes
from deploy.stack.ports import BROKERS, brokers
from deploy.stack.programs import INFRA_NAMES, PROCESSES
from deploy.stack.supervision import Endings, State, Supervisor


@dataclass(frozen=True)
class Row:
    """One program."""

    name: str
    group: str
    state: str
    pid: int
    uptime_s: int
    memory_mb: int
    restarts: int
    port: int | None

    @property
    def ok(self) -> bool:
        """Whether it runs as it should."""
        return self.state in ("running", "starting", "restarting")


def rows(layout: Layout) -> list[Row]:
    """Return a row for each program that this stack should run, those that do not run included."""
    remembered = Remembered.load(layout)
    states = Supervisor(layout).states()
    endings = Endings(layout.supervisor_log, from_start=True)
    endings.read()
    found = []
    for name, group in _expected(layout, remembered):
        state = states.get(name)
        pid = state.pid if state else 0
        uptime_s = max(0, int(time.time()) - state.started_at) if state and pid else 0
        found.append(
            Row(
                name,
                group,
                state_text(state, endings),
                pid,
                uptime_s,
                memory_bytes(pid) // 1_000_000 if pid else 0,
                endings.counts[name],
                remembered.ports.get(name),
            )
        )
    return found


def state_text(state: State | None, endings: Endings) -> str:
    """Return supervisord's state in words: failing is what ends again and again before it counts as started."""
    if state is None:
        return "stopped"
    if state.state == "BACKOFF" or (state.state == "STARTING" and state.name in endings.failing):
        return "failing"
    ended = endings.counts[state.name]
    return "restarting" if ended and state.state in ("STARTING", "EXITED") else state.state.lower()


def _expected(layout: Layout, remembered: Remembered) -> list[tuple[str, str]]:
    own = {program for variable, program in SERVERS.items() if variable not in remembered.addresses}
    nodes = brokers(remembered.ports) if "kafka" not in own else []
    names = [(name, "infra") for name in INFRA_NAMES if name not in own and (name not in BROKERS or name in nodes)]
    if remembered.only == "all":
        names += [(process.name, "newswire") for process in PROCESSES]
    return names if layout.exists() else []


def as_json(layout: Layout) -> dict[str, Any]:
    """Return what `status --json` prints."""
    found = rows(layout)
    return {
        "home": str(layout.home),
        "ok": bool(found) and all(row.ok for row in found),
        "processes": [{**asdict(row), "ok": row.ok} for row in found],
        "addresses": read_env(layout.stack_env),
    }


def show(layout: Layout, console: Console) -> bool:
    """Print the table; return whether everything runs."""
    found = rows(layout)
    if not found:
        console.print(f"There is no stack in {layout.home}: start one with `make up`.", highlight=False, soft_wrap=True)
        return False
    table = Table(title=f"{layout.home}", title_justify="left")
    for heading in ("process", "state", "pid", "uptime", "memory MB", "restarts", "port"):
        table.add_column(heading, justify="left" if heading in ("process", "state") else "right")
    for row in found:
        colour = "green" if row.state == "running" else "yellow" if row.ok else "red"
        cells = (
            str(row.pid or ""),
            _duration(row.uptime_s) if row.pid else "",
            str(row.memory_mb or ""),
            str(row.restarts or ""),
            str(row.port or ""),
        )
        table.add_row(row.name, f"[{colour}]{row.state}[/{colour}]", *cells)
    table.add_section()
    table.add_row("all", "", "", "", str(sum(row.memory_mb for row in found)), "", "")
    console.print(table)
    stopped = [row.name for row in found if not row.ok]
    if stopped:
        why = "" if all(row.state == "stopped" for row in found) else f" `make logs P={stopped[0]}` shows why,"
        console.print(
            f"Not running: {', '.join(stopped) if why else 'everything is stopped'}.{why} `make up` starts what is missing.",
            highlight=False,
            soft_wrap=True,
        )
    return not stopped


def _duration(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h"
