"""A Newswire of its own for the tests of the edge and the command line: topics, schemas and databases under a prefix."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from click.testing import CliRunner
from confluent_kafka.admin import AdminClient

from core.errors import SetupError, Unavailable
from runtime.clock import SystemClock
from runtime.commands import main
from runtime.directory import Directory
from runtime.kafka import admin_client, end_offsets, partitions_of, read_range, start_offsets
from runtime.keys import KeyStore, create_master_key
from runtime.postgres import migrate
from runtime.settings import Settings
from runtime.tokens import TokenKeys, make_unsubscribe_token
from schemas.admin import ensure_topics
from schemas.codec import Codec
from schemas.records import Event
from schemas.registry import RegistrySource, sync
from schemas.topics import Topics
from tests.fault.patience import insist
from tests.fix_stack import Stack

SUBSCRIBER = "0b5f8a3e-6f3e-4b64-9a39-0c8a3a6b0001"


@dataclass
class Answer:
    """What a command answered."""

    code: int
    rows: list[Any]
    text: str
    error: str


@dataclass
class World:
    """Where this Newswire is, and what tests do with it."""

    environ: dict[str, str]
    settings: Settings = field(init=False)
    topics: Topics = field(init=False)
    codec: Codec = field(init=False)

    def __post_init__(self) -> None:
        self.settings = Settings.load(self.environ)
        self.topics = Topics(self.settings.topic_prefix, self.settings.shards)
        self.codec = Codec(self.topics, RegistrySource(self.settings.schema_registry_url))

    def run(self, *words: str, given: str | None = None, human: bool = False) -> Answer:
        """Run the command line in this process; rows are its JSON lines."""
        result = CliRunner().invoke(main, [*([] if human else ["--json"]), *words], input=given, env=self.environ)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        lines = [] if human else [json.loads(line) for line in result.stdout.splitlines() if line.strip()]
        return Answer(result.exit_code, lines, result.stdout, result.stderr)

    def events(self, topic: str, key: str | None = None) -> list[Event]:
        """Return what is in a topic now, ordered by partition and offset."""
        admin = admin_client(self.settings)
        places = insist(lambda: partitions_of(admin, [topic]))
        raws = insist(lambda: list(read_range(self.settings, start_offsets(admin, places), end_offsets(admin, places))))
        events = [self.codec.decode(raw) for raw in sorted(raws, key=lambda raw: (raw.partition, raw.offset))]
        return [event for event in events if key in (None, event.key)]

    def keys(self) -> KeyStore:
        """Return the keys; close it."""
        return KeyStore(self.settings)

    def directory(self) -> Directory:
        """Return a directory; close it."""
        return Directory(self.settings)

    def token(self, subscriber_id: str = SUBSCRIBER, **fields: Any) -> str:
        """Return the token of an unsubscribe link."""
        values = {
            "delivery_id": f"20261123-{uuid.uuid4()}",
            "kind": "newsletter",
            "newsletter_id": "daily",
            "expires_at": self.now() + timedelta(days=90),
        }
        return make_unsubscribe_token(TokenKeys.load(self.settings), subscriber_id=subscriber_id, **{**values, **fields})

    def now(self) -> datetime:
        """Return the time."""
        return SystemClock().now()

    def define_newsletter(self, **fields: Any) -> None:
        """Define the newsletter `daily`."""
        document = {
            "newsletter_id": "daily",
            "name": "Daily Brief",
            "from_address": "d@example.org",
            "postal_address": "1 Street",
            **fields,
        }
        answer = self.run("newsletter", "define", "-", given=json.dumps(document))
        assert answer.code == 0, answer.error


def _wait_for_topics(world: World) -> None:
    """Wait until the broker answers for every new partition: creating a topic is answered before that."""
    clock, admin = SystemClock(), admin_client(world.settings)
    began = clock.monotonic()
    while True:
        try:
            end_offsets(admin, partitions_of(admin, [spec.name for spec in world.topics.specs()]))
        except (SetupError, Unavailable):
            if clock.monotonic() - began > 120:
                raise
        else:
            return


@contextmanager
def world_of(stack: Stack, folder: Path) -> Iterator[World]:
    """Make topics, schemas and databases, and take topics and databases away at the end."""
    name = f"edge{uuid.uuid4().hex[:8]}"
    server = urlsplit(stack.postgres_url)
    place = f"{server.hostname}:{server.port or 5432}"
    master_key = folder / "master.key"
    create_master_key(master_key)
    environ = {
        "NEWSWIRE_HOME": str(folder),
        "KAFKA_BOOTSTRAP_SERVERS": stack.kafka,
        "SCHEMA_REGISTRY_URL": stack.registry_url,
        "NEWSWIRE_OWNER_DATABASE_URL": stack.postgres_url,
        "NEWSWIRE_KEYS_DATABASE_URL": f"postgresql://{name}_keys:x@{place}/{name}_keys",
        "DATABASE_URL": f"postgresql://{name}_read:x@{place}/{name}",
        "NEWSWIRE_LEDGER_DATABASE_URL": f"postgresql://{name}_ledger:x@{place}/{name}",
        "NEWSWIRE_PROJECTIONS_DATABASE_URL": f"postgresql://{name}_projections:x@{place}/{name}",
        "NEWSWIRE_MASTER_KEY_FILE": str(master_key),
        "NEWSWIRE_RECEIPT_KEY": "ab" * 32,
        "NEWSWIRE_TOKEN_KEYS": f"k1:{'cd' * 32}",
        "NEWSWIRE_TOPIC_PREFIX": name,
        "NEWSWIRE_SHARDS": "2",
    }
    world = World(environ)
    migrate(world.settings)
    sync(world.settings)
    ensure_topics(world.settings)
    _wait_for_topics(world)
    try:
        yield world
    finally:
        client = AdminClient({"bootstrap.servers": stack.kafka})
        for future in client.delete_topics([spec.name for spec in world.topics.specs()]).values():
            future.result(30)
        with psycopg.connect(stack.postgres_url, autocommit=True) as owner:
            for database in (name, f"{name}_keys"):
                owner.execute(f'drop database if exists "{database}" with (force)')
            for role in ("keys", "read", "ledger", "projections"):
                owner.execute(f'drop role if exists "{name}_{role}"')
