"""Kafka and PostgreSQL of one test of the projection engine, and the engine in a thread or in a process of its own.

`python -m tests.projections_lab NAME` is that process: `run projections --only NAME` with schemas from the files.
"""

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from projections.engine import Engine, group_of
from projections.model import Projection
from projections.process import run
from runtime.kafka import Producer, committed_offsets, from_coordinator
from runtime.settings import Settings
from schemas.codec import Codec, FileSource
from schemas.records import Event, Record
from schemas.topics import Topics
from tests.fault.patience import now_or_later
from tests.projections_kit import AT, database

ROOT = Path(__file__).parent.parent
PATIENCE_S = 120.0


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true value of a condition; fails after PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = now_or_later(condition)
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {PATIENCE_S:g} s in vain for {what}")


@dataclass
class Lab:
    """One test's topics, database and settings."""

    settings: Settings
    topics: Topics
    codec: Codec
    projection: Projection
    producer: Producer
    admin: AdminClient
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Return the database of the read models."""
        return self.settings.projections_database_url

    @property
    def group(self) -> str:
        """Return the consumer group."""
        return group_of(self.settings, self.projection)

    def produce(self, events: Sequence[Event]) -> None:
        """Write events to their topics."""
        records = [self.codec.encode(e.topic, e.name, e.value, key=e.key, time=AT, partition=None) for e in events]
        self.producer.send_sync(records)

    def produce_raw(self, topic: str, key: bytes, value: bytes, partition: int) -> None:
        """Write bytes."""
        self.producer.send_sync([Record(topic, key, value, (("ce_id", b"poison"),), partition)])

    def execute(self, statement: str, *params: Any) -> None:
        """Run a statement on a connection of its own."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode(), params)

    def query(self, statement: str, *params: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query on a connection of its own; none while the relation does not exist."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            try:
                return connection.execute(statement.encode(), params).fetchall()
            except psycopg.errors.UndefinedTable:
                return []

    def offsets(self) -> dict[tuple[str, int], int]:
        """Return the stored offsets of the live generation."""
        rows = self.query(
            "select topic, partition, next_offset from projections.projection_offsets join projections.generations"
            " using (name, generation) where name = %s and state = 'live'",
            self.projection.name,
        )
        return {(topic, partition): offset for topic, partition, offset in rows}

    def records_applied(self) -> int:
        """Return how many records the live generation contains."""
        return sum(self.offsets().values())

    def generations(self) -> list[tuple[int, str, str]]:
        """Return number, state and reason of each generation, oldest first."""
        return self.query(
            "select generation, state, reason from projections.generations where name = %s order by 1", self.projection.name
        )  # type: ignore[return-value]

    def live(self) -> int:
        """Return the number of the live generation, 0 when there is none."""
        return next((number for number, state, _ in self.generations() if state == "live"), 0)

    def committed(self) -> dict[tuple[str, int], int]:
        """Return what the group has committed."""
        return committed_offsets(self.admin, self.group)

    def reset_group(self) -> None:
        """Set the group to the beginning, as Kafka's tool does."""
        wanted = [TopicPartition(topic, partition, 0) for topic, partition in self.committed()]
        request = partial(self.admin.alter_consumer_group_offsets, [ConsumerGroupTopicPartitions(self.group, wanted)])
        from_coordinator(request, self.group, 60)

    @contextmanager
    def running(self, projection: Projection | None = None) -> Iterator[threading.Thread]:
        """Run the engine in a thread while the block runs; its error, if it had one, is raised at the end."""
        stop, failures = threading.Event(), []

        def follow() -> None:
            try:
                Engine(projection or self.projection, self.settings, source=FileSource(self.topics)).run(stop)
            except BaseException as error:  # noqa: BLE001  (raised again in the test's own thread)
                failures.append(error)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield thread
        finally:
            stop.set()
            thread.join(PATIENCE_S)
        if failures:
            raise failures[0]

    def start(self, failpoints: str = "") -> "subprocess.Popen[bytes]":
        """Start the engine as a process."""
        environ = os.environ | {
            "KAFKA_BOOTSTRAP_SERVERS": self.settings.kafka_bootstrap_servers,
            "NEWSWIRE_HOME": "/nowhere",
            "DATABASE_URL": self.url,
            "NEWSWIRE_PROJECTIONS_DATABASE_URL": self.url,
            "NEWSWIRE_TOPIC_PREFIX": self.settings.topic_prefix,
            "NEWSWIRE_SHARDS": str(self.settings.shards),
            "NEWSWIRE_FAILPOINTS": failpoints,
        }
        process = subprocess.Popen([sys.executable, "-m", "tests.projections_lab", self.projection.name], cwd=ROOT, env=environ)
        self.processes.append(process)
        return process


@contextmanager
def lab(stack: Any, projection: Projection, **changes: Any) -> Iterator[Lab]:
    """Create topics and a database for one test, and remove them afterwards."""
    prefix = f"projections-{uuid.uuid4().hex[:10]}"
    topics = Topics(prefix, 2)
    names = [name for topic in projection.topics(topics) for name in (topic, topics.dead_letters(topic))]
    admin = AdminClient({"bootstrap.servers": stack.kafka})
    for future in admin.create_topics([NewTopic(n, topics.spec(n).partitions, 1) for n in names]).values():
        future.result()
    with database(stack.postgres_url) as url:
        settings = Settings(
            kafka_bootstrap_servers=stack.kafka,
            topic_prefix=prefix,
            shards=2,
            projections_database_url=url,
            database_url=url,
            **changes,
        )
        made = Lab(settings, topics, Codec(topics, FileSource(topics)), projection, Producer(settings, "lab"), admin)
        try:
            yield made
        finally:
            for process in made.processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
            made.producer.close()
            for future in admin.delete_topics(names).values():
                future.result()


if __name__ == "__main__":
    mine = Settings.load()
    sys.exit(run(mine, [sys.argv[1]], source=FileSource(Topics(mine.topic_prefix, mine.shards))))
