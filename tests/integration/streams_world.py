"""The stages as processes on the test stack, under a prefix of their own, with a scoring service that the tests control."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest

from core.errors import Unavailable
from runtime.commands import EXIT_CODES
from runtime.kafka import Producer, admin_client, committed_offsets, end_offsets, read_range, start_offsets
from runtime.keys import create_master_key
from runtime.postgres import migrate
from runtime.settings import Settings
from schemas.admin import ensure_topics
from schemas.codec import Codec
from schemas.partition import partition_for
from schemas.records import Event, Raw
from schemas.registry import RegistrySource, sync
from schemas.topics import Topics
from tests.fault.patience import insist, now_or_later
from tests.fix_stack import Stack
from tests.unit import deciding_samples as samples

WAIT_S = 150.0
STAGES = ("approval", "audience", "alerts", "newsletters", "fanout-urgent", "fanout-bulk")
SHARDS = 2
ADDRESS = b"\x01" + bytes(range(60))


class Scoring(ThreadingHTTPServer):
    """Answers with the quality in the attributes; counts what it was asked, and can be down."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(body["publication_id"])
                answer = json.dumps({"quality": float(body["attributes"].get("quality", "0.95")), "scorer": "test-1"}).encode()
                self.send_response(outer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/score"


@dataclass
class World:
    """The running stages."""

    settings: Settings
    env: dict[str, str]
    scoring: Scoring
    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.topics = Topics.of(self.settings)
        self.codec = Codec(self.topics, RegistrySource(self.settings.schema_registry_url))
        self.producer = Producer(self.settings, "streams-test")
        self.admin = admin_client(self.settings)

    # ---- processes ----

    def start(self, *names: str, failpoints: str = "", **env: str) -> None:
        for name in names:
            stage, second, _ = name.partition("#")
            more = {"NEWSWIRE_FAILPOINTS": failpoints, "NEWSWIRE_STATE_DIR": str(self.folder / name)}
            more["NEWSWIRE_INSTANCE_ID"] = "" if second else "only"  # who was killed and comes back waits for no session
            log = (self.folder / f"{name}.log").open("ab")
            self.running[name] = subprocess.Popen(
                [sys.executable, "-c", "from runtime.commands import main; main()", "run", stage],
                env=self.env | more | env,
                stdout=log,
                stderr=log,
            )

    def stop(self, *names: str, how: int = signal.SIGTERM) -> None:
        for name in names:
            process = self.running.pop(name)
            process.send_signal(how)
            process.wait(90)

    def ensure(self, *names: str) -> None:
        """Start what is not running, such as after a test that failed in the middle."""
        for name in [name for name, process in self.running.items() if process.poll() is not None or name not in names]:
            self.running.pop(name).kill()
        self.start(*(name for name in names if name not in self.running))

    def died(self, name: str) -> int:
        """Wait until a process has ended by itself and return its exit code."""
        code = self.running[name].wait(WAIT_S)
        del self.running[name]
        return code

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    # ---- Kafka ----

    def send(self, topic: str, name: str, value: dict[str, Any], *, key: str, partition: int | None = None, **more: Any) -> int:
        time_ = more.pop("time", datetime.now(UTC))
        record = self.codec.encode(topic, name, value, key=key, time=time_, partition=partition, **more)
        return self.producer.send_sync([record])[0]

    def register(self, *people: list[samples.Sample]) -> None:
        records = []
        for event in (event for person in people for event in person):
            value = dict(event.value)
            if event.name == "ChannelLinked":
                value["address"] = ADDRESS
            now = datetime.now(UTC)
            records.append(self.codec.encode(self.topics.subscribers, event.name, value, key=value["subscriber_id"], time=now))
        self.producer.send_sync(records)

    def define(self, newsletter_id: str, **rules: Any) -> None:
        more = {
            "newsletter_id": newsletter_id,
            "from_name": "Test",
            "from_address": "test@example.org",
            "reply_to": None,
            "postal_address": "1 Example Street",
            "defined_at": datetime.now(UTC),
        }
        elsewhen = (datetime.now(UTC) + timedelta(days=3)).isoweekday()  # no clock's tick falls on it while the tests run
        value = samples.RULES | {"days": [elsewhen]} | rules | more
        self.send(self.topics.newsletters, "NewsletterDefined", value, key=newsletter_id)

    def publish(self, publication_id: str | None = None, **changes: Any) -> str:
        publication_id = publication_id or str(uuid.uuid4())
        value = {
            "publication_id": publication_id,
            "revision": 1,
            "content_type": "article",
            "title": f"Title {publication_id}",
            "summary": "Summary",
            "body": None,
            "url": "https://example.org/1",
            "authors": [],
            "topics": samples.topics("physics"),
            "language": "en",
            "published_at": datetime.now(UTC) - timedelta(hours=1),
            "attributes": {},
        }
        self.send(self.topics.publications, "PublicationSubmitted", value | changes, key=publication_id)
        return publication_id

    def raise_alert(self, alert_id: str | None = None, **changes: Any) -> str:
        alert_id = alert_id or str(uuid.uuid4())
        value = {
            "alert_id": alert_id,
            "publication_id": None,
            "title": "Alert",
            "body": "Body",
            "url": None,
            "topics": samples.topics("physics"),
            "language": "en",
            "priority": "high",
            "dedup_key": None,
            "quality": 0.95,
            "raised_at": datetime.now(UTC),
            "expires_at": None,
        }
        self.send(self.topics.alerts, "AlertRaised", value | changes, key=alert_id)
        return alert_id

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """What a command says; given again for a while when a server has not answered it."""
        line = [sys.executable, "-c", "from runtime.commands import main; main()", "--json", *words]
        until = time.monotonic() + WAIT_S
        while True:
            done = subprocess.run(line, env=self.env, capture_output=True, text=True, timeout=180)
            if done.returncode != EXIT_CODES[Unavailable] or time.monotonic() > until:
                return done

    def events(self, topic: str) -> list[Event]:
        """Everything that is in a topic now."""
        places = [(topic, partition) for partition in range(self.topics.spec(topic).partitions)]

        def read() -> list[Raw]:
            return list(read_range(self.settings, start_offsets(self.admin, places), end_offsets(self.admin, places)))

        return [self.codec.decode(raw) for raw in insist(read)]

    def of(self, topic: str, source_id: str) -> list[Event]:
        return [event for event in self.events(topic) if event.value.get("source_id") == source_id]

    def deliveries(self, source_id: str) -> list[Event]:
        return self.of(self.topics.deliveries("email", "urgent" if "@" not in source_id else "bulk"), source_id)

    def decisions(self, source_id: str) -> list[Event]:
        return self.of(self.topics.decisions("urgent" if "@" not in source_id else "bulk"), source_id)

    def wait(self, condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if value := now_or_later(condition):
                return value
            for name, process in self.running.items():
                if process.poll() not in (None, 0, -9):
                    pytest.fail(f"{name} ended with {process.returncode}:\n{self.log(name)[-3000:]}")
            time.sleep(0.1)
        tails = "\n".join(f"--- {name}\n{self.log(name)[-1500:]}" for name in self.running)
        return pytest.fail(f"waited {timeout_s} s in vain for {what}\n{tails}")

    def lag(self, group: str) -> int:
        """How many records a stage has not acknowledged yet."""
        committed = committed_offsets(self.admin, f"{self.settings.topic_prefix}.{group}", timeout_s=60)
        if not committed:
            return 1_000_000  # it has not started yet
        ends = end_offsets(self.admin, list(committed))
        return sum(max(0, end - committed[place]) for place, end in ends.items())

    def settled(self, *groups: str) -> None:
        self.wait(lambda: all(self.lag(group) == 0 for group in groups), f"{groups} to catch up")

    def expanded(self, source_id: str) -> bool:
        """Whether fan-out has expanded every chunk of a source."""
        with psycopg.connect(self.settings.streams_database_url) as connection:
            row = connection.execute(
                "SELECT count(*) FROM streams.fanout_chunks WHERE source_id = %s AND expanded_at IS NOT NULL", [source_id]
            ).fetchone()
        chunks = self.settings.alert_chunks if "@" not in source_id else self.settings.newsletter_chunks
        return row is not None and row[0] == SHARDS * chunks


def shard_of(subscriber_id: str) -> int:
    return partition_for(subscriber_id.encode(), SHARDS)


def people(count: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(count)]


@contextmanager
def open_world(stack: Stack, folder: Path, **env: str) -> Iterator[World]:
    """A prefix with topics, schemas and a database of its own; all processes are stopped at the end."""
    prefix = f"streams-{uuid.uuid4().hex[:8]}"
    database = psycopg.conninfo.make_conninfo(stack.postgres_url, dbname=prefix.replace("-", "_"))
    scoring = Scoring()
    create_master_key(folder / "master.key")
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("NEWSWIRE_")},
        "KAFKA_BOOTSTRAP_SERVERS": stack.kafka,
        "SCHEMA_REGISTRY_URL": stack.registry_url,
        "NEWSWIRE_OWNER_DATABASE_URL": stack.postgres_url,
        "NEWSWIRE_STREAMS_DATABASE_URL": database,
        "NEWSWIRE_KEYS_DATABASE_URL": database,
        "NEWSWIRE_MASTER_KEY_FILE": str(folder / "master.key"),
        "NEWSWIRE_TOPIC_PREFIX": prefix,
        "NEWSWIRE_SHARDS": str(SHARDS),
        "NEWSWIRE_NEWSLETTER_CHUNKS": "2",
        "NEWSWIRE_SCORING_URL": scoring.url,
        "NEWSWIRE_SNAPSHOT_INTERVAL_S": "2",
        "NEWSWIRE_READERSHIP_INTERVAL_S": "0.5",
        "NEWSWIRE_HOME": str(folder),
        **env,
    }
    env.pop("DATABASE_URL", None)
    settings = Settings.load(env)
    sync(settings)
    ensure_topics(settings)
    migrate(settings)
    world = World(settings, env, scoring, folder)
    try:
        yield world
    finally:
        for process in world.running.values():
            process.kill()
        for process in world.running.values():
            process.wait(60)
        world.producer.close()
        scoring.shutdown()
        for made in world.admin.delete_topics([spec.name for spec in world.topics.specs()]).values():
            made.result(60)
        with psycopg.connect(stack.postgres_url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{settings.streams_database_url.split("dbname=")[1].split()[0]}" WITH (FORCE)')
