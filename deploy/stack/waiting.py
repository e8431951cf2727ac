"""Waiting for programs to become ready, without waiting for one that keeps dying."""

import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from deploy.stack import readiness
from deploy.stack.layout import Layout
from deploy.stack.programs import PROCESSES, Process
from deploy.stack.report import died
from deploy.stack.supervision import Endings, State, Supervisor

READY_TIMEOUT_S = 180
"""Longest wait for one program; an idle machine with two cores needs 2 s for a server and 10 s for all processes."""
MANY_ENDINGS = 3
"""A program that ended this often while it was waited for will not become ready by itself."""
POLL_S = 0.05


class GaveUpError(Exception):
    """Another part failed, so this one stopped waiting."""


class Waiting:
    """Waits for programs; counts from when it is made how often each of them ends. Threads may share it."""

    def __init__(self, layout: Layout, supervisor: Supervisor) -> None:
        self.layout, self.supervisor = layout, supervisor
        self._endings = Endings(layout.supervisor_log)
        self._lock = threading.Lock()
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """Let every wait end with GaveUpError."""
        self._given_up.set()

    def until(self, name: str, ready: Callable[[], bool]) -> None:
        """Wait until a program is ready; StackError when it keeps dying or takes too long, GaveUpError when told to."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not ready():
            self._check(name, deadline)
            time.sleep(POLL_S)

    def for_processes(self, names: Collection[str], settings: Any) -> None:
        """Wait until these Newswire processes are ready; raises as `until` does."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        waiting = [process for process in PROCESSES if process.name in names]
        groups = readiness.Groups(settings.kafka_bootstrap_servers) if waiting else None
        while waiting and groups is not None:
            states, stable = self.supervisor.states(), groups.stable()
            waiting = [process for process in waiting if not _is_ready(process, states.get(process.name), stable, settings)]
            for process in waiting:
                self._check(process.name, deadline)
            if waiting:
                time.sleep(4 * POLL_S)

    def _check(self, name: str, deadline: float) -> None:
        if self._given_up.is_set():
            raise GaveUpError
        with self._lock:
            self._endings.read()
            endings, last = self._endings.counts[name], self._endings.last.get(name)
        if endings >= MANY_ENDINGS:
            raise died(self.layout, name, f"keeps ending ({last})")
        if time.monotonic() > deadline:
            raise died(self.layout, name, f"is not ready after {READY_TIMEOUT_S} s")


def _is_ready(process: Process, state: State | None, stable: set[str], settings: Any) -> bool:
    """Whether a process runs and does what its description says that it does once it is ready."""
    if state is None or not state.pid:
        return False
    if process.name == "edge":
        return readiness.http_answers(f"http://127.0.0.1:{settings.edge_port}/health", object)
    if process.consumer_group is not None:
        return f"{settings.topic_prefix}.{process.consumer_group}" in stable
    if process.statement is None:
        return True  # nobody can see more of it than that it runs
    setting, statement = process.statement
    return readiness.database_says(getattr(settings, setting), statement)
