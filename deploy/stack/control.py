"""What is done to a stack that is up: stop, start and restart some of it, take it down, remove it."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from deploy.stack import database, orphans, readiness
from deploy.stack.environment import KAFKA, OWNER, REGISTRY, TUNABLE
from deploy.stack.errors import StackError
from deploy.stack.layout import Layout, Remembered, read_env
from deploy.stack.programs import INFRA, NEWSWIRE, PROCESS_STOP_S
from deploy.stack.report import Report
from deploy.stack.supervision import UP, State, Supervisor
from deploy.stack.waiting import Waiting

STOP_S = {NEWSWIRE: PROCESS_STOP_S + 1.0, INFRA: 7.0}
"""Longest wait for a group to end, a second more than supervisord waits before it kills."""
ENDED = frozenset({"STOPPED", "EXITED", "FATAL"})


def named(layout: Layout, name: str) -> list[State]:
    """Return the programs that a name stands for: one, a group (`newswire`, `infra`), or `all`; StackError when none."""
    states = Supervisor(layout).states()
    if not states:
        raise StackError(f"no stack is up in {layout.home}: start it with `make up`.")
    found = [state for state in states.values() if name in (state.name, state.group, "all")]
    if not found:
        raise StackError(f"there is no {name} in this stack: it has {', '.join(states)}, and the groups newswire and infra.")
    return found


def stop(layout: Layout, name: str, report: Report) -> None:
    """Stop programs and keep them stopped until `start` or `up`."""
    chosen = named(layout, name)
    running = [state for state in chosen if state.state not in ENDED]
    if not running:
        report.line(name, "is not running")
        return
    with report.step(name, f"stopped ({len(running)})" if len(running) > 1 else "stopped"):
        late = Supervisor(layout).stop(running, max(STOP_S.values()))
    if late:
        raise StackError(f"{', '.join(late)} did not end: try again, or run `make down`.")


def start(layout: Layout, name: str, report: Report) -> None:
    """Start programs and wait until they are ready; StackError says which one is not and why."""
    chosen = named(layout, name)
    supervisor = Supervisor(layout)
    waiting = Waiting(layout, supervisor)
    missing = [state for state in chosen if state.state not in UP]
    if not missing:
        report.line(name, "already running")
        return
    probes = _probes(layout)
    with report.step(name, f"ready ({len(missing)})" if len(missing) > 1 else "ready"):
        for state in sorted(missing, key=lambda state: state.group != INFRA):
            supervisor.start(state.name, state.group)
        for state in missing:
            if state.group == INFRA:
                waiting.until(state.name, probes[state.name])
        waiting.for_processes({state.name for state in missing if state.group == NEWSWIRE}, _settings(layout))


def say_untaken(layout: Layout, environ: Mapping[str, str], report: Report) -> None:
    """Say which settings of the environment are others than the stack's: its processes share theirs, which `up` takes over."""
    kept = read_env(layout.process_env)
    others = [name for name in TUNABLE if environ.get(name) and environ[name] != kept.get(name)]
    if others:
        report.line("settings", f"{', '.join(others)} of this shell not taken: `make up` gives settings to all processes")


def _settings(layout: Layout) -> Any:
    from runtime.settings import Settings

    return Settings.load({"NEWSWIRE_HOME": str(layout.home)})


def _probes(layout: Layout) -> Mapping[str, readiness.Probe]:
    values = {**read_env(layout.stack_env), **read_env(layout.process_env)}
    return readiness.infra_probes(
        {name: values.get(name, "") for name in (KAFKA, REGISTRY, OWNER)},
        values.get("NEWSWIRE_INBOX_URL", ""),
        Remembered.load(layout).nodes,
    )


def down(layout: Layout, report: Report) -> None:
    """Stop everything of a home within 20 s, Newswire's processes before the servers; what remains is killed."""
    supervisor = Supervisor(layout)
    if not supervisor.alive() and not orphans.find(layout):
        report.line("stack", f"nothing is running in {layout.home}")
        return
    for group in (NEWSWIRE, INFRA):
        running = [state for state in supervisor.states().values() if state.group == group and state.state not in ENDED]
        if running:
            with report.step(group, f"{len(running)} stopped"):
                supervisor.stop(running, STOP_S[group])
    supervisor.shutdown(2.0)
    leftovers = orphans.stop(layout)
    if leftovers:
        report.line("leftovers", f"stopped {', '.join(leftovers)}")


def clean(layout: Layout, report: Report) -> None:
    """Take a stack and those in its folder down, and remove all their data; StackError when the folder is no stack's."""
    if not layout.home.exists():
        report.line("stack", f"there is nothing at {layout.home}")
        return
    nested = layout.nested()
    if not layout.exists() and not nested and any(layout.home.iterdir()):
        raise StackError(
            f"{layout.home} is not the folder of a stack (it has no stack.json), so it is not removed: check --home."
        )
    for one in (*nested, layout):
        with one.locked():
            down(one, report)
            database.remove(one)
    shutil.rmtree(layout.supervisor_socket.parent, ignore_errors=True)
    _remove(layout)
    report.line("stack", f"{layout.home} removed")


def _remove(layout: Layout) -> None:
    try:
        shutil.rmtree(layout.home)
    except OSError as error:
        raise StackError(f"{layout.home} could not be removed completely ({error}): remove it by hand.") from error


def psql(layout: Layout, arguments: Sequence[str]) -> int:
    """Run psql as the read-only role; StackError when there is no stack or no psql."""
    url = read_env(layout.stack_env).get("DATABASE_URL")
    if not url:
        raise StackError(f"there is no stack in {layout.home}: start one with `make up`.")
    program = shutil.which("psql") or shutil.which("psql", path=str(database.find(layout).bindir))
    if program is None:
        raise StackError(f"psql is missing: install it (`apt-get install postgresql-client`), or use another client with {url}")
    return subprocess.run([program, url, *arguments], check=False).returncode  # noqa: S603 - a fixed program, no shell


def follow(layout: Layout, name: str | None) -> int:
    """Show the logs of one program or of all as they grow, until interrupted; StackError when there are none."""
    found = [layout.log(name)] if name else sorted(path for path in layout.logs.glob("*.log") if path != layout.supervisor_log)
    existing = [path for path in found if path.is_file()]
    if not existing:
        known = ", ".join(sorted(path.stem for path in layout.logs.glob("*.log")))
        raise StackError(
            f"there is no log {'of ' + name if name else ''} in {layout.logs}: "
            + (f"there are those of {known}." if known else "start the stack with `make up`.")
        )
    try:
        return subprocess.run(["tail", "-n", "50" if name else "5", "-F", *existing], check=False).returncode  # noqa: S603, S607 - no shell
    except KeyboardInterrupt:
        return 0
