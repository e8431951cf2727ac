"""Values of events, topics of a prefix of their own, and processes, for the runtime's tests."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from confluent_kafka.admin import NewTopic

from runtime.kafka import Producer, admin_client, end_offsets, partitions_of, read_range
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.records import Raw, Record
from schemas.sources import FileSource
from schemas.topics import Topics
from tests.fault.patience import insist, now_or_later

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
SHARDS = 5
"""No multiple of two workers, so that the assignor has to keep a shard's topics together."""


def subscriber(number: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"subscriber-{number}"))


def decision_value(shard: int, shards: int, source_id: str, chunk: int, population: int) -> dict[str, Any]:
    """An AudienceDecided that chose nobody; the population tells two decisions apart."""
    return {
        "shard": shard, "shards": shards, "source_id": source_id, "source_kind": "newsletter", "newsletter_id": "daily",
        "newsletter_revision": 1, "slot_at": NOW, "lane": "bulk", "priority": "normal", "chunk": chunk, "chunks": 2,
        "not_after": NOW, "alert_partition": None, "alert_offset": None, "channels": [], "languages": [], "issue_groups": [],
        "reasons": [], "variants": [], "publications": [], "chosen": [], "gated": [], "population": population,
        "not_concerned": population, "channel_counts": [], "applied": [], "model_version": None, "tzdata_version": "2026a",
        "code_version": "test", "decided_at": NOW,
    }  # fmt: skip


RULES = {
    "revision": 1, "name": "Daily", "subject": "{title}", "days": [1], "local_minute": 540, "audience_topics": [],
    "audience_languages": [], "audience_tags": [], "audience_channels": [], "content_types": [], "max_age_h": 24,
    "min_quality": 0.8, "max_items": 5, "half_life_h": 24.0, "template": "daily",
}  # fmt: skip


@dataclass
class World:
    """Topics of one test, and what acts on them."""

    settings: Settings
    topics: Topics
    codec: Codec
    producer: Producer
    environ: dict[str, str]
    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def opened(self, number: int, evidence: str = "x") -> Record:
        value = {
            "subscriber_id": subscriber(number), "publication_id": "p", "delivery_id": None, "channel": None,
            "occurred_at": NOW, "evidence": evidence,
        }  # fmt: skip
        return self.codec.encode(self.topics.engagements, "ContentOpened", value, key=subscriber(number), time=NOW)

    def slot_due(self, shard: int, source_id: str, chunks: int = 2) -> Record:
        value = {
            "shard": shard, "shards": SHARDS, "source_id": source_id, "chunks": chunks, "newsletter_id": "daily",
            "slot_at": NOW, "forced": True, "rules": RULES,
        }  # fmt: skip
        return self.codec.encode(self.topics.audience_newsletters, "SlotDue", value, key=str(shard), time=NOW, partition=shard)

    def decision(self, shard: int, source_id: str, chunk: int, population: int) -> Record:
        value = decision_value(shard, SHARDS, source_id, chunk, population)
        topic, key = self.topics.decisions_bulk, f"{source_id}/{chunk}"
        return self.codec.encode(topic, "AudienceDecided", value, key=key, time=NOW, partition=shard)

    def send(self, *records: Record) -> list[int]:
        return self.producer.send_sync(records)

    def read(self, topic: str) -> list[Raw]:
        admin = admin_client(self.settings)
        places = insist(lambda: partitions_of(admin, [topic]))
        return list(insist(lambda: list(read_range(self.settings, dict.fromkeys(places, 0), end_offsets(admin, places)))))

    def start(self, module: str, *args: str, **environ: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", f"tests.integration.{module}", *args]
        log = (self.folder / f"{module}.log").open("ab")
        process = subprocess.Popen(command, env={**self.environ, **environ}, stderr=log)
        self.processes.append(process)
        return process

    def journal(self, name: str) -> list[list[str]]:
        path = self.folder / name
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def shown(self, journal: str, process: "subprocess.Popen[bytes]", shard: int) -> dict[str, Any]:
        """What the shard worker shows of a shard; empty before it is loaded."""
        path = self.folder / f"{journal}.{process.pid}.{shard}"
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return {**found, "state": json.loads(found["state"])}


def until(condition: Callable[[], bool], timeout_s: float = 120.0, what: str = "the condition") -> None:
    """Wait until the condition holds; AssertionError after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not now_or_later(condition):
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain for {what}"
        time.sleep(0.01)


def stop(process: "subprocess.Popen[bytes]", number: int = signal.SIGTERM) -> int:
    """Signal a process and return its exit code."""
    process.send_signal(number)
    return process.wait(90)


@contextmanager
def world_of(kafka: str, folder: Path, bases: list[str]) -> Iterator[World]:
    """Topics (and their dead letters) under a new prefix; processes are killed by pid and topics deleted afterwards."""
    prefix = f"rt{uuid.uuid4().hex[:10]}"
    environ = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": kafka,
        "NEWSWIRE_TOPIC_PREFIX": prefix,
        "NEWSWIRE_SHARDS": str(SHARDS),
        "NEWSWIRE_STATE_DIR": str(folder / "state"),
        "NEWSWIRE_SESSION_TIMEOUT_S": "6",
        "NEWSWIRE_SNAPSHOT_INTERVAL_S": "0.2",
    }
    settings = Settings.load(environ)
    topics = Topics(prefix, SHARDS)
    names = [f"{prefix}.{base}" for base in bases]
    names += [name for base in names if (name := topics.spec(base).dead_letters)]
    admin = admin_client(settings)
    for made in admin.create_topics([NewTopic(name, topics.spec(name).partitions, 1) for name in names]).values():
        made.result()
    producer = Producer(settings, f"{prefix}.test")
    world = World(settings, topics, Codec(topics, FileSource(topics)), producer, environ, folder)
    try:
        yield world
    finally:
        for process in world.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        producer.close()
        for gone in admin.delete_topics(names).values():
            gone.result()
        groups = [g.group_id for g in admin.list_consumer_groups().result().valid if g.group_id.startswith(f"{prefix}.")]
        for left in admin.delete_consumer_groups(groups).values() if groups else ():
            left.exception()  # a killed static member still holds its group; it expires by itself
