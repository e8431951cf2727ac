"""Bringing the stack up.

In order: free the home of leftovers; choose ports; prepare data folders; run supervisord; start the servers, all at
once; as each answers, do what depends on it (migrations on PostgreSQL, schemas on the registry, topics on Kafka); start
Newswire's processes; wait until each is ready. Every part finds out first what is there already, so a second `up`
changes nothing and a half-started stack is completed.
"""

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from deploy.stack import artifacts, database, environment, orphans, ports, programs, readiness, servers
from deploy.stack.control import STOP_S
from deploy.stack.environment import KAFKA, OWNER, REGISTRY, SERVERS
from deploy.stack.errors import StackError
from deploy.stack.layout import CHECKOUT, Layout, Remembered
from deploy.stack.programs import INFRA, NEWSWIRE, PROCESSES, Program
from deploy.stack.report import Report
from deploy.stack.supervision import Supervisor, configuration
from deploy.stack.waiting import GaveUpError, Waiting

FREE_BYTES = 500_000_000
"""Room that a stack needs to begin with."""


@dataclass(frozen=True)
class Request:
    """What `up` was asked for."""

    environ: Mapping[str, str]
    only: str | None = None
    profile: str | None = None
    fixed_ports: Mapping[str, int] = field(default_factory=dict)
    nodes: int | None = None


class Up:
    """One run of `up`; the home is locked by the caller."""

    def __init__(self, layout: Layout, request: Request, report: Report) -> None:
        self.layout, self.request, self.report = layout, request, report
        self.supervisor = Supervisor(layout)
        self.remembered = Remembered.load(layout)

    def run(self) -> None:
        """Bring everything up; StackError says what is in the way."""
        self._plan()
        own = [program for variable, program in SERVERS.items() if variable in self.own]
        jars = None if {"kafka", "registry"} <= set(own) else self._jars()
        postgres = database.find(self.layout) if "postgres" not in own else None
        self._clear_leftovers()
        self._choose_ports()
        infra = self._prepare(jars, postgres, own)
        processes = programs.newswire(self.layout, self.request.environ)
        wanted = [*infra, *(processes if self.remembered.only == "all" or self._runs_newswire() else [])]
        settings_changed = self._write_settings()
        self.remembered.save(self.layout)
        environ = environment.supervised(self.request.environ)
        with self.report.step("supervisor", f"logs in {_short(self.layout.logs)}"):
            self.supervisor.ensure(configuration(self.layout, wanted), environ)
        self.waiting = Waiting(self.layout, self.supervisor)
        if settings_changed:
            self._stop_newswire_for_new_settings()
        self._start_infra(infra)
        self.remembered.save(self.layout)
        if self.remembered.only == "all":
            self._start_newswire()

    def _plan(self) -> None:
        request, known = self.request, self.remembered
        known.profile = request.profile or known.profile
        known.only = request.only or "all"
        nodes = request.nodes or known.nodes
        if nodes != known.nodes and (self.layout.kafka / "meta.properties").is_file():
            raise StackError(
                f"Kafka in {self.layout.home} has {known.nodes} {'node' if known.nodes == 1 else 'nodes'} and data: "
                f"run `make clean` before giving it {nodes} (that removes the stack's data), or choose another --home."
            )
        known.nodes = nodes
        if known.profile not in servers.PROFILES:
            raise StackError(f"{known.profile} is no profile: use one of {', '.join(servers.PROFILES)}.")
        self.profile = servers.PROFILES[known.profile]
        self.layout.make_folders()
        known.save(self.layout)
        if shutil.disk_usage(self.layout.home).free < FREE_BYTES:
            raise StackError(f"less than 500 MB is free in {self.layout.home}: make room, then run it again.")
        if self.profile.failpoints:
            self.layout.failpoints.touch()
        self.secrets = environment.Secrets.of(self.layout)
        neighbours = [*self.layout.nested(), Layout(self.layout.home.parent), *Layout(self.layout.home.parent).nested()]
        self.own = environment.own_servers(
            request.environ, [known, *(Remembered.load(one) for one in neighbours if one.exists())]
        )

    def _jars(self) -> artifacts.Artifacts:
        found = artifacts.present(self.request.environ)
        if found is not None:
            return found
        with self.report.step("jars", "Kafka and the registry downloaded (once on this machine)"):
            return artifacts.ensure(self.request.environ)

    def _runs_newswire(self) -> bool:
        return any(state.group == NEWSWIRE and state.pid for state in self.supervisor.states().values())

    def _clear_leftovers(self) -> None:
        if not self.supervisor.alive():
            names = orphans.stop(self.layout)
            if names:
                self.report.line("leftovers", f"stopped {', '.join(names)} of a stack that ended badly")

    def _choose_ports(self) -> None:
        states = self.supervisor.states()
        running = {name for name, state in states.items() if state.pid}
        keep = {port for port in (*ports.DEFAULTS, *ports.MORE_NODES) if port.split("-")[0] in running}
        choice = ports.choose(
            self.remembered.ports,
            self.request.fixed_ports,
            keep,
            reservations=artifacts.cache_folder(self.request.environ) / "ports.json",
            owner=str(self.layout.home),
            first_step=self.profile.first_step,
            nodes=self.remembered.nodes,
        )
        self.remembered.ports = choice.ports
        for note in choice.notes:
            self.report.line("ports", note)

    def _prepare(self, jars: artifacts.Artifacts | None, postgres: database.Postgres | None, own: list[str]) -> list[Program]:
        """Write the servers' configuration, make their data folders, and return them."""
        if jars is not None:
            servers.write_argument_files(self.layout, jars, self.profile, self.remembered.ports)
        first = jars is not None and not (self.layout.kafka / "meta.properties").is_file()
        with self.report.step("storage", "prepared") if first else nullcontext(), ThreadPoolExecutor(2) as pool:
            made = pool.submit(database.prepare, self.layout, postgres, self.secrets.superuser_password) if postgres else None
            if jars is not None and "kafka" not in own:
                for name in ports.brokers(self.remembered.ports):  # the first one's id is the cluster's
                    servers.format_kafka(self.layout, jars, self.layout.run / f"{name}.properties", name)
            postgres = made.result() if made else None
        return programs.infra(self.layout, self.remembered.ports, jars, postgres, own)

    def _write_settings(self) -> bool:
        """Write both env files; return whether the processes would read something new."""
        known = self.remembered
        addresses = environment.addresses(known.ports, {}, self.secrets.superuser_password)
        known.addresses = {name: address for name, address in addresses.items() if name not in self.own}
        self.servers = {**addresses, **self.own}
        name = environment.database_name(known.profile)
        clients = environment.stack_env(self.servers, known.ports, self.secrets, name)
        environ = {**self.profile.settings, **self.request.environ}
        processes = environment.process_env(self.layout, self.servers, known.ports, self.secrets, name, environ)
        return environment.write_files(self.layout, clients, processes)

    def _stop_newswire_for_new_settings(self) -> None:
        running = [state for state in self.supervisor.states().values() if state.group == NEWSWIRE and state.pid]
        if running:
            self.report.line("settings", "changed: the processes are started again")
            self.supervisor.stop(running, STOP_S[NEWSWIRE])

    def _start_infra(self, infra: list[Program]) -> None:
        """Start the servers and, as each answers, do what depends on it; the first failure ends the waiting of all."""
        before = self.supervisor.states()
        for program in infra:
            self.supervisor.start(program.name, INFRA)
        own_kafka = KAFKA in self.own  # whose nodes are not ours to count
        nodes = 1 if own_kafka else self.remembered.nodes
        probes = readiness.infra_probes(self.servers, f"http://127.0.0.1:{self.remembered.ports['sandbox']}/", nodes)
        then: dict[str, tuple[str, Callable[[], str]]] = {}
        if self.remembered.only == "all":
            then = {
                "postgres": ("databases", self._migrate),
                "registry": ("schemas", self._sync_schemas),
                "kafka": ("topics", self._ensure_topics),
            }
        names = [*(program.name for program in infra), *(SERVERS[variable] for variable in self.own)]
        started_now = {name for name in names if name not in before or not before[name].pid}

        def bring(name: str) -> None:
            self._wait_for_server(name, probes[name], name in started_now)
            if name in then:
                label, action = then[name]
                began = time.monotonic()
                self.report.line(label, action(), time.monotonic() - began)

        self._in_parallel([partial(bring, name) for name in names])

    def _in_parallel(self, actions: list[Callable[[], None]]) -> None:
        with ThreadPoolExecutor(max(1, len(actions))) as pool:
            futures: list[Future[None]] = [pool.submit(action) for action in actions]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            if any(future.exception() for future in done):
                self.waiting.give_up()
        errors = [error for future in futures if (error := future.exception()) is not None]
        telling = [error for error in errors if not isinstance(error, GaveUpError)]
        if telling:
            raise telling[0]

    def _wait_for_server(self, name: str, probe: readiness.Probe, started_now: bool) -> None:
        variable = next((variable for variable, program in SERVERS.items() if program == name), None)
        if variable in self.own:
            if not probe():
                raise StackError(
                    f"{variable}={self.own[variable]} does not answer: "
                    "correct it, start that server, or unset it to have one started here."
                )
            self.report.line(name, f"own server at {_where(name, self.servers, self.remembered.ports)}")
            return
        where = _where(name, self.servers, self.remembered.ports)
        if not started_now and probe():
            self.report.line(name, f"already running at {where}")
            return
        with self.report.step(name, where):
            self.waiting.until(name, probe)

    def _settings(self) -> Any:
        from runtime.settings import Settings

        return Settings.load({"NEWSWIRE_HOME": str(self.layout.home)})

    def _migrate(self) -> str:
        from runtime.postgres import migrate

        applied = sum(
            len(files) for files in _explained("the databases could not be set up", lambda: migrate(self._settings())).values()
        )
        return f"{applied} migrations applied" if applied else "up to date"

    def _sync_schemas(self) -> str:
        contracts = contracts_digest(CHECKOUT / "schemas", self.servers[REGISTRY], self._settings().topic_prefix)
        known = self.remembered
        if known.contracts == contracts and readiness.subjects_in(self.servers[REGISTRY]) >= known.subjects:
            return f"{known.subjects} subjects, nothing changed since they were registered"
        from schemas.registry import sync

        done = _explained("the schemas could not be registered", lambda: sync(self._settings()))
        known.contracts, known.subjects = contracts, readiness.subjects_in(self.servers[REGISTRY])
        return (
            f"{len(done.registered)} of {done.subjects} registered now"
            if done.registered
            else f"{done.subjects} subjects, up to date"
        )

    def _ensure_topics(self) -> str:
        from schemas.admin import ensure_topics

        done = _explained("the topics could not be created", lambda: ensure_topics(self._settings()))
        return f"{len(done.created)} created" if done.created else f"{done.existing} topics, up to date"

    def _start_newswire(self) -> None:
        """Start every process, the urgent ones first, and wait until each is ready."""
        before = self.supervisor.states()
        running = [process.name for process in PROCESSES if before[process.name].state == "RUNNING"]
        for process in PROCESSES:
            self.supervisor.start(process.name, NEWSWIRE)
        if len(running) == len(PROCESSES):
            self.report.line("processes", f"all {len(running)} already running")
            return
        text = (
            f"{len(PROCESSES)} ready"
            if not running
            else f"{len(PROCESSES) - len(running)} started, {len(running)} already running"
        )
        with self.report.step("processes", text):
            settings = self._settings()
            self.waiting.for_processes({process.name for process in PROCESSES} - set(running), settings)


def contracts_digest(folder: Path, registry_url: str, prefix: str) -> str:
    """Return a digest of the schema files and of where they are registered; asking the registry about each takes a second."""
    digest = hashlib.sha256(f"{registry_url} {prefix}".encode())
    for path in sorted(path for kind in ("avro", "catalogue") for path in (folder / kind).rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _explained(what: str, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except Exception as error:
        raise StackError(f"{what}: {error or type(error).__name__}") from error


def _where(name: str, addresses: Mapping[str, str], chosen: Mapping[str, int]) -> str:
    if name == "kafka":
        return addresses[KAFKA]
    if name in ports.BROKERS:
        return f"127.0.0.1:{chosen[name]}"
    if name == "registry":
        return addresses[REGISTRY]
    return environment.endpoint(addresses[OWNER]) if name == "postgres" else f"127.0.0.1:{chosen[name]}"


def _short(path: Any) -> str:
    return str(path.relative_to(CHECKOUT)) if path.is_relative_to(CHECKOUT) else str(path)
