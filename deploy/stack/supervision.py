"""supervisord: its configuration, its start, and the questions asked of it over its Unix socket.

Programs are never started by supervisord itself but by the runner, in the order in which they depend on each other;
from then on supervisord keeps them running, ever more slowly when one keeps dying.
"""

import os
import re
import resource
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Error as XmlRpcError
from xmlrpc.client import Fault, ServerProxy

from deploy.stack.errors import StackError
from deploy.stack.layout import Layout, write_file
from deploy.stack.programs import Program

OPEN_FILES = 16_384
"""Kafka keeps some files of every partition open."""
RETRIES = 1_000_000
"""supervisord waits one second longer after each failed start; it is never to give up."""
START_TIMEOUT_S = 10
UP = frozenset({"RUNNING", "STARTING"})


@dataclass(frozen=True)
class State:
    """What supervisord knows of one program."""

    name: str
    group: str
    state: str
    pid: int
    started_at: int
    exit_status: int
    spawn_error: str


def configuration(layout: Layout, programs: Iterable[Program]) -> str:
    """Return supervisord.conf."""
    programs = list(programs)
    lines = [
        "[supervisord]",
        f"logfile={_text(layout.supervisor_log)}",
        "logfile_maxbytes=5MB",
        "logfile_backups=1",
        f"pidfile={_text(layout.supervisor_pid)}",
        f"directory={_text(layout.home)}",
        f"childlogdir={_text(layout.logs)}",
        f"minfds={_open_files()}",
        *(["user=root"] if os.getuid() == 0 else []),
        "",
        "[unix_http_server]",
        f"file={_text(layout.supervisor_socket)}",
        "chmod=0700",
        "",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
    ]
    for program in programs:
        lines += ["", *_program(layout, program)]
    for group in dict.fromkeys(program.group for program in programs):
        names = ",".join(program.name for program in programs if program.group == group)
        lines += ["", f"[group:{group}]", f"programs={names}"]
    return "\n".join(lines) + "\n"


def _program(layout: Layout, program: Program) -> list[str]:
    values = {**program.environment, "NEWSWIRE_HOME": str(layout.home)}
    return [
        f"[program:{program.name}]",
        f"command={_text(shlex.join(program.command))}",
        f"directory={_text(program.directory)}",
        "environment=" + ",".join(f'{name}="{_text(value)}"' for name, value in sorted(values.items())),
        *([f"user={program.user}"] if program.user else []),
        "autostart=false",
        "autorestart=true",
        f"startsecs={program.steady_s}",
        f"startretries={RETRIES}",
        f"stopsignal={program.stop_signal}",
        f"stopwaitsecs={program.stop_wait_s}",
        "redirect_stderr=true",
        f"stdout_logfile={_text(layout.log(program.name))}",
        "stdout_logfile_maxbytes=10MB",
        "stdout_logfile_backups=2",
    ]


def _text(value: object) -> str:
    """Escape what supervisor would expand."""
    return str(value).replace("%", "%%")


def _open_files() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)


class Supervisor:
    """supervisord of one home."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def call(self, method: str, *arguments: Any) -> Any:
        """Return the answer of a method of supervisor's; Fault as supervisor raises it, OSError when it is not there."""
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self.layout.supervisor_socket}")
        with ServerProxy("http://127.0.0.1", transport=transport) as proxy:
            return getattr(proxy, f"supervisor.{method}")(*arguments)

    def alive(self) -> bool:
        """Whether supervisord answers."""
        if not self.layout.supervisor_socket.exists():
            return False
        try:
            return bool(self.call("getState")["statename"] == "RUNNING")
        except (OSError, XmlRpcError):
            return False

    def states(self) -> dict[str, State]:
        """Return what supervisord knows of each program, by name; empty when it does not run."""
        if not self.alive():
            return {}
        return {
            one["name"]: State(
                one["name"], one["group"], one["statename"], one["pid"], one["start"], one["exitstatus"], one["spawnerr"]
            )
            for one in self.call("getAllProcessInfo")
        }

    def ensure(self, text: str, environ: Mapping[str, str]) -> None:
        """Run supervisord with this configuration; a running one takes it over, programs that changed are stopped.

        StackError when supervisord does not start.
        """
        changed = write_file(self.layout.supervisor_conf, text, 0o600)
        if self.alive():
            if changed:
                self._take_over()
            return
        self.layout.supervisor_socket.unlink(missing_ok=True)
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.layout.supervisor_conf)]
        done = subprocess.run(command, env=dict(environ), cwd="/", capture_output=True, text=True, check=False)  # noqa: S603 - no shell
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.alive():
            if done.returncode != 0 or time.monotonic() > deadline:
                said = (done.stderr + done.stdout).strip().splitlines()
                raise StackError(
                    f"supervisord did not start ({said[-1] if said else 'no message'}): {self.layout.supervisor_log} says more."
                )
            time.sleep(0.02)

    def _take_over(self) -> None:
        added, changed, removed = self.call("reloadConfig")[0]
        for group in (*changed, *removed):
            self.call("stopProcessGroup", group)
            self.call("removeProcessGroup", group)
        for group in (*added, *changed):
            self.call("addProcessGroup", group)

    def start(self, name: str, group: str) -> None:
        """Start a program unless it runs; StackError when it cannot be executed."""
        try:
            self.call("startProcess", f"{group}:{name}", False)
        except Fault as fault:
            if "ALREADY_STARTED" not in fault.faultString:
                raise StackError(
                    f"{name} cannot be started ({fault.faultString}): run `make install`, then `make up`."
                ) from fault

    def stop(self, states: Iterable[State], timeout_s: float) -> list[str]:
        """Stop programs, all at once, and return those that still run after the time."""
        waiting = {state.name: state for state in states if state.state in UP or state.state in ("BACKOFF", "STOPPING")}
        for state in waiting.values():
            try:
                self.call("stopProcess", f"{state.group}:{state.name}", False)
            except Fault as fault:
                if "NOT_RUNNING" not in fault.faultString:
                    raise
        deadline = time.monotonic() + timeout_s
        while waiting and time.monotonic() < deadline:
            now = self.states()
            waiting = {name: state for name, state in waiting.items() if name in now and now[name].pid}
            if waiting:
                time.sleep(0.05)
        return sorted(waiting)

    def shutdown(self, timeout_s: float) -> None:
        """End supervisord itself, which stops what still runs."""
        try:
            self.call("shutdown")
        except (OSError, XmlRpcError):
            return
        deadline = time.monotonic() + timeout_s
        while self.layout.supervisor_pid.exists() and time.monotonic() < deadline:
            time.sleep(0.02)


class Endings:
    """How often each program ended by itself, from supervisord's log; counting begins where the log is when this is made."""

    def __init__(self, path: Path, from_start: bool = False) -> None:
        self.path = path
        self.position = 0 if from_start or not path.exists() else path.stat().st_size
        self.counts: Counter[str] = Counter()
        self.last: dict[str, str] = {}
        self.failing: set[str] = set()
        """Programs that ended before they counted as started, and have not counted as that since."""
        self._steady: set[str] = set()

    def read(self) -> None:
        """Take in what was logged since the last call."""
        if not self.path.exists():
            return
        if self.path.stat().st_size < self.position:
            self.position = 0
        with self.path.open("rb") as file:
            file.seek(self.position)
            data = file.read()
        self.position += len(data)
        for line in data.decode(errors="replace").splitlines():
            if "supervisord started with pid" in line:
                self.counts.clear()
                self.failing, self._steady = set(), set()
            found = re.search(r"(exited|success|stopped): (\S+) (?:\((.*?)(?:; .*)?\))?", line)
            if found is None:
                continue
            what, name, how = found.groups()
            if what == "exited":
                self.counts[name] += 1
                self.last[name] = how
            if what == "exited" and name not in self._steady:
                self.failing.add(name)
            else:
                self.failing.discard(name)
            if what == "success":
                self._steady.add(name)
            else:
                self._steady.discard(name)
