"""The running stack under test: where it is, what is in its log and ledger, and what is done to it from outside.

Processes are killed by their own pid. Reading goes on while servers are away: it is tried again.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import KafkaException, TopicPartition

from core.errors import Unavailable
from core.names import CHANNELS, LANES
from deploy.client import StackClient
from deploy.stack.errors import StackError
from deploy.stack.layout import CHECKOUT, Layout, read_env
from deploy.stack.programs import INFRA, INFRA_NAMES, NEWSWIRE
from deploy.stack.supervision import Supervisor
from runtime.deadletters import unseal
from runtime.kafka import admin_client, end_offsets, make_consumer, partitions_of, read_range
from runtime.keys import KeyStore
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.records import Event, Raw
from schemas.registry import RegistrySource
from schemas.topics import Topics
from tests.fault.journal import Early, Letter, Requested, Row, key_at_provider
from tests.fault.plan import Timed

Places = dict[tuple[str, int], int]
PASSING = (Unavailable, KafkaException, psycopg.OperationalError, psycopg.InterfaceError, OSError, TimeoutError)
"""What reading raises while a server is away."""


def insist(action: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """Return what the action returns, tried again while a server is away; at last its error passes."""
    until = time.monotonic() + timeout_s
    while True:
        try:
            return action()
        except PASSING:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


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
    def groups_of(self) -> "Groups":
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
        from core.errors import CodecError

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

    def guest(self, process: str, prefix: tuple[str, ...] = (), clock_off_s: int = 0) -> subprocess.Popen[bytes]:
        """Start a second worker of a process, as a dynamic member of its group; `prefix` is a command that runs it."""
        program = [str(Path(sys.executable).with_name("newswire")), "run", process]
        if clock_off_s:
            program = [sys.executable, "-m", "tests.fault.off_clock", str(clock_off_s), process]
        command = [*prefix, *program]
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


def ledger_rows(settings: Settings, delivery_ids: list[str]) -> list[Row]:
    """Return the rows of these deliveries in the ledger of these settings."""
    statement = """
        SELECT to_char(day, 'YYYYMMDD') || '-' || delivery_id::text, state, reason, attempt, reported_at IS NOT NULL
        FROM ledger.deliveries WHERE delivery_id = ANY(%s::uuid[])
    """
    uuids = [one.partition("-")[2] for one in delivery_ids]
    with psycopg.connect(settings.ledger_database_url, connect_timeout=2) as connection:
        return [Row(*row) for row in connection.execute(statement, [uuids]).fetchall()]


class Groups:
    """What consumer groups have committed, asked as a member would ask: admin requests do not survive a broker's crash."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._consumers = settings, dict[str, Any]()

    def committed(self, group: str, places: Iterable[tuple[str, int]]) -> Places:
        """Return the committed offsets; places without one are left out. KafkaException while Kafka does not say."""
        if group not in self._consumers:
            self._consumers[group] = make_consumer(self._settings, group)
        found = self._consumers[group].committed([TopicPartition(*place) for place in places], timeout=3.0)
        return {(tp.topic, tp.partition): tp.offset for tp in found if tp.offset >= 0}


class Watch(threading.Thread):
    """Looks on while a run goes on: what was requested, and whether offsets are committed before the ledger knows of it.

    Committed offsets are read before the ledger, so that what is below them must be in it already.
    """

    def __init__(self, settings: Settings, topics: dict[str, str], since: Places, codec: Codec, every_s: float = 0.7) -> None:
        """`topics` maps the topics of deliveries to the consumer groups of their sinks."""
        super().__init__(daemon=True, name="watch")
        self._settings, self._topics, self._places, self._codec, self._every_s = settings, topics, dict(since), codec, every_s
        self._admin, self._groups, self._ended = admin_client(settings), Groups(settings), threading.Event()
        self._open: dict[tuple[str, int], list[Requested]] = {}
        self.requests: list[Requested] = []
        self.early: list[Early] = []
        self.looks = 0

    def run(self) -> None:
        """Look until it is ended."""
        while not self._ended.wait(self._every_s):
            with contextlib.suppress(*PASSING):
                self.look()

    def end(self) -> None:
        """Look a last time and end."""
        self._ended.set()
        self.join()
        insist(self.look)

    def look(self) -> None:
        """Read what is new, then the committed offsets, then the ledger."""
        from core.errors import CodecError

        ends = end_offsets(self._admin, list(self._places), 5.0)
        for raw in list(read_range(self._settings, self._places, ends, stall_s=5.0)):
            with contextlib.suppress(CodecError):
                request = Requested.of(self._codec.decode(raw), raw)
                self.requests.append(request)
                self._open.setdefault((raw.topic, raw.partition), []).append(request)
            self._places[raw.topic, raw.partition] = raw.offset + 1
        committed: Places = {}
        for topic, group in self._topics.items():
            committed |= self._groups.committed(group, [place for place in self._places if place[0] == topic])
        done = {
            request.delivery_id: committed[place]
            for place, open_ in self._open.items()
            for request in open_
            if request.offset < committed.get(place, 0)
        }
        if done:
            known = {row.delivery_id for row in ledger_rows(self._settings, list(done))}
            self.early += [Early(one, offset) for one, offset in done.items() if one not in known]
            for place, open_ in self._open.items():
                self._open[place] = [request for request in open_ if request.offset >= committed.get(place, 0)]
        self.looks += 1


def sink_groups(topics: Topics) -> dict[str, str]:
    """Return the consumer group of the sink of every topic of deliveries."""
    return {topics.deliveries(channel, lane): f"{topics.prefix}.sink.{channel}.{lane}" for channel in CHANNELS for lane in LANES}
