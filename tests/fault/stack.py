"""The running stack under test: where it is, what is in its log and ledger, and what is done to it from outside.

Processes are killed by their own pid. Reading goes on while servers are away: it is tried again.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import psycopg

from core.errors import CodecError
from deploy.client import StackClient
from deploy.stack.errors import StackError
from deploy.stack.layout import CHECKOUT, Layout, read_env
from deploy.stack.programs import INFRA, INFRA_NAMES, NEWSWIRE
from deploy.stack.supervision import Supervisor
from runtime.deadletters import unseal
from runtime.kafka import admin_client, end_offsets, partitions_of, read_range
from runtime.keys import KeyStore
from schemas.codec import Codec
from schemas.records import Event, Raw
from schemas.registry import RegistrySource
from schemas.topics import Topics
from tests.fault.commits import read_commits
from tests.fault.journal import Commit, Letter, Rebalance, Row, key_at_provider
from tests.fault.patience import Places, insist, wait_until
from tests.fault.plan import Timed
from tests.fault.watch import Groups, ledger_rows, sink_groups


@dataclass
class Stack(StackClient):
    """A running stack with the profile `fault`."""

    topics: Topics = field(init=False)

    def __post_init__(self) -> None:
        self.home = self.home.resolve()
        self.layout = Layout.at(self.home)
        self.env = read_env(self.layout.stack_env)
        self.topics = Topics.of(self.settings)
        self.supervisor = Supervisor(self.layout)
        self.guests: list[subprocess.Popen[bytes]] = []

    @cached_property
    def admin(self) -> Any:
        """An administrative client."""
        return admin_client(self.settings)

    @cached_property
    def groups_of(self) -> Groups:
        """What the consumer groups have committed."""
        return Groups(self.settings)

    def everywhere(self) -> Places:
        """Return where every topic ends now; Unavailable while Kafka does not say."""
        return end_offsets(self.admin, partitions_of(self.admin, [spec.name for spec in self.topics.specs()]))

    def behind(self, ends: Places, *groups: str) -> int:
        """Return how many records before these ends the groups have not processed; KafkaException while Kafka does not say."""
        places = list(ends)
        committed = {group: self.groups_of.committed(f"{self.topics.prefix}.{group}", places) for group in groups}
        return sum(max(0, ends[place] - offset) for offsets in committed.values() for place, offset in offsets.items())

    @cached_property
    def codec(self) -> Codec:
        """A codec that decodes."""
        return Codec(self.topics, RegistrySource(self.settings.schema_registry_url))

    # -- reading ---------------------------------------------------------------------------------------------------------

    def ends(self, *topics: str) -> Places:
        """Return where these topics end now."""
        return dict(insist(lambda: end_offsets(self.admin, partitions_of(self.admin, topics))))

    def raws(self, since: Places) -> list[Raw]:
        """Return the records of these partitions since these offsets."""

        def read() -> list[Raw]:
            return list(read_range(self.settings, since, end_offsets(self.admin, list(since)), stall_s=10.0))

        return list(insist(read))

    def events(self, since: Places) -> list[tuple[Event, Raw]]:
        """Return what of it is events; poison is left out."""
        return list(self._decoded(self.raws(since)))

    def _decoded(self, raws: list[Raw]) -> Iterator[tuple[Event, Raw]]:
        for raw in raws:
            with contextlib.suppress(CodecError):
                yield insist(partial(self.codec.decode, raw)), raw

    def letters(self, since: Places) -> list[Letter]:
        """Return the dead letters since these offsets, decrypted; marks of what became of them later are left out."""
        found = []
        for raw in self.raws(since):
            headers = dict(raw.headers)
            if "dlq.mark" not in headers:
                subject = headers.get("dlq.sealed")
                original = insist(partial(unseal, self.keys, subject.decode(), raw)) if subject else raw
                found.append(Letter.of(headers, original.value or b""))
        return found

    @cached_property
    def keys(self) -> KeyStore:
        """The subjects' data keys."""
        return KeyStore(self.settings)

    def commits(self, since: Places) -> tuple[list[Commit], list[Rebalance]]:
        """Return what Kafka wrote down of the sinks' groups since these offsets of its topic of offsets."""
        return read_commits(self.raws(since), sink_groups(self.topics))

    def rows(self, delivery_ids: list[str]) -> list[Row]:
        """Return the ledger's rows of these deliveries."""
        return list(insist(lambda: ledger_rows(self.settings, delivery_ids)))

    def others(self, delivery_ids: list[str]) -> set[tuple[str, str]]:
        """Return how providers name all deliveries in the ledger but these."""
        statement = "SELECT to_char(day, 'YYYYMMDD') || '-' || delivery_id::text, channel FROM ledger.deliveries"

        def read() -> set[tuple[str, str]]:
            with psycopg.connect(self.settings.ledger_database_url, connect_timeout=2) as connection:
                rows = connection.execute(statement).fetchall()
            return {key_at_provider(one, channel) for one, channel in rows if one not in mine}

        mine = set(delivery_ids)
        return set(insist(read))

    def accounting(self, sources: list[str]) -> list[dict[str, Any]]:
        """Return the rows of api.accounting of these sources."""

        def read() -> list[dict[str, Any]]:
            with psycopg.connect(self.env["DATABASE_URL"], connect_timeout=2) as connection:
                cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
                return cursor.execute("select * from api.accounting where source_id = any(%s)", [sources]).fetchall()

        return list(insist(read))

    # -- doing -----------------------------------------------------------------------------------------------------------

    def arm(self, points: tuple[str, ...]) -> None:
        """Arm these failpoints in the running processes and no others."""
        draft = self.layout.failpoints.with_name("failpoints.draft")
        draft.write_text("\n".join(points))
        draft.replace(self.layout.failpoints)

    def armed(self) -> list[str]:
        """Return the failpoints that nobody has met."""
        return [line for line in self.layout.failpoints.read_text().splitlines() if line]

    def pid(self, name: str) -> int:
        """Return a program's pid, 0 while it does not run."""
        state = self.supervisor.states().get(name)
        return state.pid if state else 0

    def kill(self, name: str, number: int = signal.SIGKILL) -> bool:
        """Send a signal to one program of the stack; False when it does not run just now."""
        pid = self.pid(name)
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return bool(pid)

    def start(self, name: str) -> None:
        """Start a program again that was stopped."""
        with contextlib.suppress(StackError):
            self.supervisor.start(name, INFRA if name in INFRA_NAMES else NEWSWIRE)

    def control(self, path: str, document: Any = None, method: str | None = None) -> Any:
        """Ask the sandbox's control API."""
        data = None if document is None else json.dumps(document).encode()
        url = self.env["NEWSWIRE_INBOX_URL"].rstrip("/") + path

        def ask() -> Any:
            with urllib.request.urlopen(urllib.request.Request(url, data=data, method=method), timeout=5) as answer:
                return json.load(answer)

        return insist(ask)

    def happen(self, one: Timed) -> None:
        """Let a fault happen, to its end."""
        if one.kind == "kill":
            self.kill(one.target)
        elif one.kind == "freeze":
            if self.kill(one.target, signal.SIGSTOP):
                pid = self.pid(one.target)
                time.sleep(one.for_s)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        elif one.kind == "postgres":
            self.kill("postgres", signal.SIGQUIT)  # its immediate shutdown: no checkpoint, sessions are cut off
        elif one.kind in ("kafka", "sandbox"):
            self.kill(one.kind)
        elif one.kind == "registry":
            self.supervisor.stop([self.supervisor.states()["registry"]], 7.0)
            time.sleep(one.for_s)
            self.start("registry")
        elif one.kind == "join":
            self.join(one.target, one.for_s)
        elif one.kind == "storm":
            until = time.monotonic() + one.for_s
            while time.monotonic() < until:
                self.join(one.target, 4.0)  # half of which it needs to start
        elif one.kind == "down":
            names = one.target.split()
            for name in names:
                self.kill(name)
            states = self.supervisor.states()
            self.supervisor.stop([states[name] for name in names], 7.0)  # or it would be back at once
            time.sleep(one.for_s)
            for name in names:
                self.start(name)
        else:
            raise ValueError(one.kind)

    def join(self, process: str, for_s: float) -> None:
        """Let a second worker of a process join its group and leave in good order."""
        guest = self.guest(process)
        time.sleep(for_s)
        guest.terminate()
        try:
            guest.wait(15)
        except subprocess.TimeoutExpired:
            guest.kill()
            guest.wait()

    @contextlib.contextmanager
    def replaced(self, process: str, *program: str, prefix: tuple[str, ...] = ()) -> Iterator[None]:
        """Replace one process of the stack by a worker that this program runs, and wait until that has its partitions."""
        self.supervisor.stop([self.supervisor.states()[process]], 12.0)
        log = self.layout.logs / f"guest-{process}.log"
        before = log.stat().st_size if log.exists() else 0
        guest = self.guest(process, *program, prefix=prefix)
        try:
            wait_until(lambda: b" partitions" in log.read_bytes()[before:], f"the other worker of {process} to have partitions")
            yield
        finally:
            guest.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                guest.wait(20)
            guest.kill()
            self.start(process)

    def guest(self, process: str, *program: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """Start a second worker of a process, as a dynamic member of its group.

        `program` is a module of these tests with its arguments, which runs it in its own way; `prefix` a command around it.
        """
        own_way = [sys.executable, "-m", *program, process]
        command = [*prefix, *(own_way if program else [str(Path(sys.executable).with_name("newswire")), "run", process])]
        own = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "NEWSWIRE_HOME": str(self.home),
            "NEWSWIRE_INSTANCE_ID": "",
            "NEWSWIRE_FAILPOINTS": "",
        }
        state = self.home / "state" / f"guest-{process}"
        with (self.layout.logs / f"guest-{process}.log").open("ab") as log:
            guest = subprocess.Popen(
                command,
                env={**own, "NEWSWIRE_STATE_DIR": str(state), "PYTHONPATH": str(CHECKOUT)},
                cwd=self.home,
                stdout=log,
                stderr=log,
            )
        self.guests.append(guest)
        return guest

    def heal(self) -> None:
        """Take every fault back: failpoints, the providers' faults, stopped programs, guests."""
        self.arm(())
        for guest in self.guests:
            if guest.poll() is None:
                guest.kill()
                guest.wait()
        self.guests.clear()
        for name, state in self.supervisor.states().items():
            if state.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(state.pid, signal.SIGCONT)
            else:
                self.start(name)
        self.control("/control/faults", method="DELETE")
