"""What tests of the sinks share: databases and topics of their own, deliveries, processes, and readers of what came out."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from runtime.kafka import Producer, end_offsets, from_coordinator, make_consumer, partitions_of, read_range, start_offsets
from runtime.keys import KeyStore, create_master_key
from runtime.postgres import migrate
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.records import Event, Raw, Record
from schemas.registry import RegistrySource, sync
from schemas.topics import Topics
from tests.fault.patience import insist, now_or_later
from tests.fix_stack import Stack
from tests.sinks_samples import request

ROOT = Path(__file__).parent.parent
SHARDS = 2


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 150.0) -> Any:
    """Return the first true value of condition()."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if value := now_or_later(condition):
            return value
        time.sleep(0.03)
    raise AssertionError(f"waited {timeout_s} s in vain for {what}")


def metric(port: int, name: str) -> float:
    """Return a metric of a process."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name) and not line.startswith("#"))


@contextlib.contextmanager
def ledger_database(stack: Stack) -> Iterator[Settings]:
    """A database with the ledger and the keys, dropped afterwards."""
    name = f"sinks_{uuid.uuid4().hex[:12]}"
    base = stack.postgres_url.rsplit("/", 1)[0]
    settings = Settings(
        kafka_bootstrap_servers=stack.kafka,
        schema_registry_url=stack.registry_url,
        owner_database_url=stack.postgres_url,
        ledger_database_url=f"{base}/{name}",
        keys_database_url=f"{base}/{name}",
    )
    migrate(settings)
    try:
        yield settings
    finally:
        with psycopg.connect(stack.postgres_url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@dataclass
class World:
    """Topics, databases and keys of one module's tests, and the processes that it starts."""

    settings: Settings
    topics: Topics
    codec: Codec
    keys: KeyStore
    producer: Producer
    folder: Path
    processes: list["Process"] = field(default_factory=list)
    _reported: list[Event] = field(default_factory=list)
    _reported_until: dict[tuple[str, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.admin = AdminClient({"bootstrap.servers": self.settings.kafka_bootstrap_servers})

    def produce(self, topic: str, name: str, value: dict[str, Any], key: str, **more: Any) -> int:
        """Produce one event and return its offset."""
        return self.produce_all([self.codec.encode(topic, name, value, key=key, time=datetime.now(UTC), **more)])[0]

    def produce_all(self, records: list[Record]) -> list[int]:
        """Produce records and return their offsets."""
        return self.producer.send_sync(records)

    def define_newsletter(self, newsletter_id: str = "daily", **fields: Any) -> None:
        """Define a newsletter."""
        value = {
            "newsletter_id": newsletter_id, "revision": 1, "name": "Daily", "subject": "{title}", "days": [1],
            "local_minute": 540,
            "audience_topics": [], "audience_languages": [], "audience_tags": [], "audience_channels": [], "content_types": [],
            "max_age_h": 24, "min_quality": 0.8, "max_items": 5, "half_life_h": 24.0, "template": "newsletter",
            "from_name": "Newswire", "from_address": "news@newswire.example", "reply_to": None,
            "postal_address": "1 Example Street", "defined_at": datetime.now(UTC), **fields,
        }  # fmt: skip
        self.produce(self.topics.newsletters, "NewsletterDefined", value, newsletter_id)

    def publish(self, **fields: Any) -> dict[str, Any]:
        """Produce a publication and return it as an item of a delivery."""
        publication_id = str(uuid.uuid4())
        value = {
            "publication_id": publication_id, "revision": 1, "content_type": "article", "title": f"Result {publication_id}",
            "summary": "A r\\'esum\\'e.", "body": None, "url": "https://example.org/x", "authors": ["A. Author"],
            "topics": [{"topic": "hep-ph", "weight": 1.0}], "language": "en", "published_at": datetime.now(UTC), "attributes": {},
            **fields,
        }  # fmt: skip
        record = self.codec.encode(
            self.topics.publications, "PublicationSubmitted", value, key=publication_id, time=datetime.now(UTC)
        )
        (offset,) = self.produce_all([record])
        return {
            "publication_id": publication_id, "revision": 1, "content_partition": record.partition, "content_offset": offset,
            "score": 10_000, "reason": "topic:hep-ph", "propensity": 1.0,
        }  # fmt: skip

    def raise_alert(self, publication_id: str | None = None, **fields: Any) -> dict[str, Any]:
        """Produce an alert and return the fields of a delivery that name it."""
        alert_id = str(uuid.uuid4())
        value = {
            "alert_id": alert_id, "publication_id": publication_id, "title": "Beam lost", "body": "At noon.", "url": None,
            "topics": [], "language": "en", "priority": "high", "dedup_key": None, "quality": 0.95,
            "raised_at": datetime.now(UTC), "expires_at": None, **fields,
        }  # fmt: skip
        record = self.codec.encode(self.topics.alerts, "AlertRaised", value, key=alert_id, time=datetime.now(UTC))
        (offset,) = self.produce_all([record])
        return {
            "source_id": alert_id, "source_kind": "alert", "cause_id": alert_id, "newsletter_id": None,
            "newsletter_revision": None, "issue_group": None, "alert_partition": record.partition, "alert_offset": offset,
        }  # fmt: skip

    def requests(self, count: int, addresses: list[str] | None = None, **fields: Any) -> list[dict[str, Any]]:
        """Make requests to new subscribers who have keys; nothing is produced."""
        subscribers = [str(uuid.uuid4()) for _ in range(count)]
        self.keys.create(subscribers)
        channel = fields.get("channel", "email")
        made = []
        for number, subscriber in enumerate(subscribers):
            plain = addresses[number] if addresses else f"{subscriber}@example.org"
            sealed = self.keys.encrypt(subscriber, f"address.{channel}", plain.encode())
            made.append(request(subscriber, address=sealed, **fields))
        return made

    def deliver(self, requests: list[dict[str, Any]]) -> None:
        """Produce DeliveryRequested."""
        self.produce_all(
            [
                self.codec.encode(
                    self.topics.deliveries(v["channel"], v["lane"]),
                    "DeliveryRequested",
                    v,
                    key=v["subscriber_id"],
                    time=v["decided_at"],
                )
                for v in requests
            ]
        )

    def change(self, name: str, subscriber_id: str, **fields: Any) -> None:
        """Produce an event of a subscriber."""
        nothing = dict.fromkeys(
            ("time_zone", "language", "topics", "channels", "urgent_channels", "newsletters", "alerts", "quiet_hours",
             "paused_until",
             "local_minute", "alerts_a_day", "tags")
        ) if name == "PreferencesChanged" else {}  # fmt: skip
        self.produce(self.topics.subscribers, name, {"subscriber_id": subscriber_id, **nothing, **fields}, subscriber_id)

    def statuses(self) -> list[Event]:
        """Return all of delivery-status; what was read before is not read again."""
        places = [(self.topics.delivery_status, partition) for partition in range(self.topics.shards)]
        ends = insist(lambda: end_offsets(self.admin, places))
        starts = {place: self._reported_until.get(place, 0) for place in ends}
        self._reported += [self.codec.decode(raw) for raw in insist(lambda: list(read_range(self.settings, starts, ends)))]
        self._reported_until = ends
        return self._reported.copy()

    def states(self, requests: list[dict[str, Any]]) -> dict[str, list[tuple[str, str | None, int]]]:
        """Return the distinct (event, reason, attempt) of each delivery, in the order of their first report."""
        wanted: dict[str, list[tuple[str, str | None, int]]] = {r["delivery_id"]: [] for r in requests}
        seen = set()
        for event in self.statuses():
            value = event.value
            if value["delivery_id"] in wanted and event.id not in seen:
                seen.add(event.id)
                wanted[value["delivery_id"]].append((event.name, value["reason"], value["attempt"]))
        return wanted

    def ledger(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return rows of the ledger's database."""
        with psycopg.connect(self.settings.ledger_database_url, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def committed(self, channel: str = "email", lane: str = "bulk") -> dict[int, int]:
        """Return the group's committed offsets."""
        topic = self.topics.deliveries(channel, lane)
        consumer = make_consumer(self.settings, f"{self.settings.topic_prefix}.sink.{channel}.{lane}")
        try:
            found = consumer.committed([TopicPartition(topic, p) for p in range(SHARDS)], timeout=60)
            return {tp.partition: tp.offset for tp in found}
        finally:
            consumer.close()

    def start(self, process: str, settings: Settings | None = None, **environment: str) -> "Process":
        """Start a process of the sinks."""
        one = Process(
            process, environ_of(settings or self.settings) | environment, self.folder / f"{process}-{len(self.processes)}.log"
        )
        self.processes.append(one)
        return one

    def command(self, *words: str) -> list[dict[str, Any]]:
        """Run `newswire --json ...` and return what it printed."""
        code = "import sys; from runtime.commands import main; sys.argv[0] = 'newswire'; main()"
        line = [sys.executable, "-c", code, "--json", *words]
        done = subprocess.run(line, cwd=ROOT, env=environ_of(self.settings), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def stop_all(self) -> None:
        """End every process that was started."""
        for one in self.processes:
            one.kill()
        self.processes.clear()


def records_of(settings: Settings, topic: str) -> list[Raw]:
    """Return all records of a topic."""
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    places = insist(lambda: partitions_of(admin, [topic]))
    return list(insist(lambda: list(read_range(settings, start_offsets(admin, places), end_offsets(admin, places)))))


def reset_group(settings: Settings, group: str, topic: str) -> None:
    """Set a group's offsets to the beginning, as Kafka's own tool does; the group must be empty."""
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    offsets = [TopicPartition(topic, partition, 0) for partition in range(SHARDS)]
    from_coordinator(partial(admin.alter_consumer_group_offsets, [ConsumerGroupTopicPartitions(group, offsets)]), group, 60)


class Process:
    """A process started as `newswire run <name>`."""

    def __init__(self, name: str, environment: dict[str, str], log: Path) -> None:
        self.name, self.log = name, log
        command = [
            sys.executable,
            "-c",
            "import sys; from runtime.commands import main; sys.argv[0] = 'newswire'; main()",
            "run",
            name,
        ]
        with log.open("wb") as file:
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def kill(self) -> None:
        """Send SIGKILL to this process only."""
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=60)

    def wait_running(self) -> None:
        """Wait until it says that it runs: from then on it ends in good order."""
        wait_for(lambda: " runs" in self.log.read_text(), f"{self.name} to run")

    def stop(self, timeout_s: float = 60.0) -> int:
        """Send SIGTERM and return the exit code; TimeoutExpired when it does not drain."""
        self._process.terminate()
        return self._process.wait(timeout=timeout_s)

    def ended(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._process.poll()


def environ_of(settings: Settings) -> dict[str, str]:
    """Return the environment that gives a process these settings."""
    from dataclasses import fields

    measured = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    return (
        {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
        | measured
        | {f.metadata["env"]: str(getattr(settings, f.name)) for f in fields(settings) if getattr(settings, f.name) != f.default}
    )


@contextlib.contextmanager
def world(stack: Stack, folder: Path, **settings: Any) -> Iterator[World]:
    """Topics, databases and keys of their own; everything is removed afterwards."""
    prefix = f"sinks{uuid.uuid4().hex[:8]}"
    with ledger_database(stack) as base:
        master = folder / "master.key"
        create_master_key(master)
        own = replace(
            base, topic_prefix=prefix, shards=SHARDS, master_key_file=str(master), token_keys="k1:" + "ab" * 32,
            receipt_key="cd" * 32, session_timeout_s=6.0,
            **settings,
        )  # fmt: skip
        topics = Topics(prefix, SHARDS)
        names = [
            topics.subscribers, topics.publications, topics.alerts, topics.controls, topics.newsletters, topics.delivery_status,
            topics.provider_events, topics.dead_letters(topics.provider_events),
            *(f"{t}{end}" for c in ("email", "slack", "discord", "webhook") for lane in ("urgent", "bulk")
              for t in [topics.deliveries(c, lane)] for end in ("", ".dlq")),
        ]  # fmt: skip
        admin = AdminClient({"bootstrap.servers": stack.kafka})
        specs = [topics.spec(name) for name in names]
        made = admin.create_topics([NewTopic(s.name, s.partitions, 1, config=dict(s.config)) for s in specs])
        for future in made.values():
            future.result(90)
        sync(own)
        keys = KeyStore(own)
        producer = Producer(own, "sinks-tests")
        one = World(own, topics, Codec(topics, RegistrySource(stack.registry_url), keys), keys, producer, folder)
        try:
            yield one
        finally:
            one.stop_all()
            producer.close()
            keys.close()
            for future in admin.delete_topics(names).values():
                with contextlib.suppress(KafkaException):
                    future.result(90)
