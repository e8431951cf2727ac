"""The process and the commands as a person uses them: real registry, real roles, all read models at once."""

import json
import os
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from psycopg import sql
from psycopg.conninfo import make_conninfo

from core.errors import Unavailable
from core.ids import newsletter_source_id
from projections.catalogue import PROJECTIONS
from projections.operations import statuses
from runtime.kafka import Producer
from runtime.postgres import migrate
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.registry import RegistrySource, sync
from schemas.topics import Topics
from tests.projections_kit import ALERT, AT, SOURCE, decided, event, requested, status, subscriber
from tests.projections_lab import wait_for

pytestmark = pytest.mark.stack

ROOT = Path(__file__).parent.parent.parent
EARLIER = AT - timedelta(minutes=1)


class Installation:
    """Topics, schemas, database, roles and the running process of this module's tests."""

    def __init__(self, settings, environ):
        self.settings, self.environ = settings, environ
        self.topics = Topics(settings.topic_prefix, settings.shards)
        self.codec = Codec(self.topics, RegistrySource(settings.schema_registry_url))
        self.producer = Producer(settings, "test")

    def newswire(self, *arguments):
        """Return exit code, the JSON lines that a command printed, and its errors."""
        command = [sys.executable, "-c", "from runtime.commands import main; main()", "--json", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environ, capture_output=True, text=True, timeout=180, check=False)
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr

    def said(self, *arguments):
        """Return what a command prints for people, in a pipe."""
        command = [sys.executable, "-c", "from runtime.commands import main; main()", *arguments]
        environ = {name: value for name, value in self.environ.items() if name != "COLUMNS"}
        return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=180, check=False).stdout

    def produce(self, events):
        """Write events to their topics."""
        self.producer.send_sync([self.codec.encode(e.topic, e.name, e.value, key=e.key, time=AT) for e in events])

    def read(self, query):
        """Return the rows of a query by the analytics role."""
        with psycopg.connect(self.settings.database_url, autocommit=True) as connection:
            return connection.execute(query).fetchall()

    def caught_up(self):
        """Wait until nothing lags."""
        wait_for(lambda: not any(s.lag for s in statuses(self.settings)), "lag 0")


@pytest.fixture(scope="module")
def installation(stack):
    name = f"projections_{uuid.uuid4().hex[:8]}"
    roles = [f"{name}_owner", f"{name}_reader"]
    urls = [make_conninfo(stack.postgres_url, dbname=name, user=role) for role in roles]
    environ = {
        **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")},
        "PATH": os.environ["PATH"], "NEWSWIRE_HOME": "/nowhere", "KAFKA_BOOTSTRAP_SERVERS": stack.kafka,
        "SCHEMA_REGISTRY_URL": stack.registry_url, "NEWSWIRE_OWNER_DATABASE_URL": stack.postgres_url,
        "NEWSWIRE_PROJECTIONS_DATABASE_URL": urls[0], "DATABASE_URL": urls[1], "NEWSWIRE_TOPIC_PREFIX": name,
        "NEWSWIRE_SHARDS": "2",
    }  # fmt: skip
    settings = Settings.load(environ)
    migrate(settings)
    sync(settings)
    topics = Topics(name, 2)
    admin = AdminClient({"bootstrap.servers": stack.kafka})
    names = [*(n for item in PROJECTIONS for n in item.topics(topics)), topics.audience_newsletters]
    for future in admin.create_topics([NewTopic(n, topics.spec(n).partitions, 1) for n in names]).values():
        future.result()
    made = Installation(settings, environ)
    process = subprocess.Popen(
        [sys.executable, "-c", "from runtime.commands import main; main()", "run", "projections"], cwd=ROOT, env=environ
    )
    try:
        wait_for(lambda: len(_generations(settings)) == len(PROJECTIONS), "a generation of each")
        yield made
    finally:
        process.terminate()
        code = process.wait(90)
        made.producer.close()
        for future in admin.delete_topics(names).values():
            future.result()
        with psycopg.connect(stack.postgres_url, autocommit=True) as owner:
            owner.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
            for role in roles:
                owner.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))
    assert code == 0


@pytest.fixture(scope="module")
def filled(installation):
    """One newsletter slot and one alert, decided, and partly sent; one subscriber; one publication."""
    topics = installation.topics
    registered = {"subscriber_id": subscriber(1), "time_zone": "Asia/Tokyo", "language": "ja", "tags": [], "name": None}
    submitted = {
        "publication_id": subscriber(7), "revision": 1, "content_type": "article", "title": "T", "summary": "", "body": None,
        "url": "https://example.org", "authors": [], "topics": [], "language": "en", "published_at": AT, "attributes": {},
    }  # fmt: skip
    installation.produce(
        [
            decided([(1, "email"), (2, "slack")], [(3, "none", "no_channel")], shard=0, shards=2, population=6, topics=topics),
            decided([], shard=1, shards=2, population=4, topics=topics),
            decided([(1, "email")], [(2, "email", "quiet_hours")], source_id=ALERT, population=5, at=EARLIER, topics=topics),
            requested(1, "email", topics=topics),
            requested(2, "slack", topics=topics),
            status("DeliverySent", 1, "email", topics=topics),
            status("DeliveryFailed", 2, "slack", reason="invalid_address", topics=topics),
            event("SubscriberRegistered", registered | {"registered_at": AT}, topics.subscribers, key=subscriber(1)),
            event("PublicationSubmitted", submitted, topics.publications, key=subscriber(7)),
        ]
    )
    installation.caught_up()
    return installation


def test_accounting_is_printed_and_balances(filled):
    """A row a channel, complete, balance 0, exit code 0."""
    code, rows, _ = filled.newswire("accounting", SOURCE)
    assert code == 0
    found = {
        r["channel"]: (r["complete"], r["population"], r["chosen"], r["gated"], r["sent"], r["failed"], r["balance"])
        for r in rows
    }
    assert found == {"email": (True, 10, 1, 0, 1, 0, 0), "slack": (True, 10, 1, 0, 0, 1, 0), "none": (True, 10, 0, 1, 0, 0, 0)}
    code, rows, _ = filled.newswire("accounting")
    assert code == 0
    assert list(dict.fromkeys(r["source_id"] for r in rows)) == [SOURCE, ALERT]  # the newest first
    assert next(r for r in rows if r["source_id"] == ALERT)["not_fanned_out"] == 1


def test_what_is_open_is_said(filled):
    """A slot in the log that nothing was decided of, and what is under way; a newsletter's name shows its own slots."""
    slot_at = datetime.now(UTC).replace(second=0, microsecond=0)
    given = json.loads((ROOT / "schemas/examples/SlotDue.pass.json").read_text())
    slot = given | {"source_id": f"weekly@{slot_at:%Y-%m-%dT%H:%MZ}", "newsletter_id": "weekly", "slot_at": slot_at, "shard": 0}
    filled.produce([event("SlotDue", slot | {"shards": 2}, filled.topics.audience_newsletters, key="0")])
    code, rows, _ = filled.newswire("accounting", "weekly")
    assert (code, [(row["source_id"], row["complete"]) for row in rows]) == (0, [(slot["source_id"], False)])
    open_ = "Still open: 1 source is not decided, or not in the read model yet"
    assert open_ in filled.said("accounting", slot["source_id"])
    assert open_ in filled.said("accounting")
    assert "Every decided row balances. Nothing is open.\n" in filled.said("accounting", "daily")
    assert max(map(len, filled.said("accounting").splitlines())) <= 120
    _, rows, _ = filled.newswire("accounting", "daily")
    assert {row["source_id"] for row in rows} == {SOURCE}
    begun = str(uuid.uuid4())
    half = decided([], source_id=begun, shard=0, shards=2, population=5, topics=filled.topics)
    half.value["not_after"] = slot_at + timedelta(days=1)
    filled.produce([half, requested(9, "email", source_id=begun, topics=filled.topics)])
    filled.caught_up()
    code, rows, _ = filled.newswire("accounting", begun)
    assert (code, {row["channel"]: row["balance"] for row in rows}["email"]) == (0, -1)
    assert f"{open_}; 1 delivery is under way." in filled.said("accounting", begun)


def test_a_test_send_is_found_in_whichever_shard_it_is(filled):
    """It has one copy, here in the second shard."""
    slot_at = datetime.now(UTC).replace(second=0, microsecond=0)
    given = json.loads((ROOT / "schemas/examples/SlotDue.pass.json").read_text())
    source = newsletter_source_id("weekly", slot_at, subscriber(1))
    fields = {"source_id": source, "newsletter_id": "weekly", "slot_at": slot_at, "test_subscriber": subscriber(1), "chunks": 1}
    filled.produce([event("SlotDue", given | fields | {"shard": 1, "shards": 2}, filled.topics.audience_newsletters, key="1")])
    code, rows, _ = filled.newswire("accounting", source)
    assert (code, [(row["source_id"], row["complete"]) for row in rows]) == (0, [(source, False)])


def test_what_is_too_late_and_not_decided_is_exit_code_1(filled):
    """A chunk that never comes is no balance to wait for."""
    overdue = str(uuid.uuid4())
    half = decided([], source_id=overdue, shard=0, shards=2, population=5, topics=filled.topics)
    half.value["not_after"] = AT - timedelta(days=1)
    filled.produce([half])
    filled.caught_up()
    assert filled.newswire("accounting", overdue)[0] == 1
    assert f"Overdue: {overdue}: too late to be sent, but not decided" in filled.said("accounting", overdue)
    rest = decided([], source_id=overdue, shard=1, shards=2, population=5, topics=filled.topics)
    rest.value["not_after"] = AT - timedelta(days=1)
    filled.produce([rest])
    filled.caught_up()
    assert filled.newswire("accounting", overdue)[0] == 0


def test_an_unknown_source_is_one_sentence(filled):
    """Exit code 2 and what is wrong."""
    code, rows, errors = filled.newswire("accounting", "nothing@2026-01-01T00:00Z")
    assert (code, rows[0]["kind"]) == (2, "InputError")
    assert errors == "error: source 'nothing@2026-01-01T00:00Z' is not known: it is not decided, or not in the read model yet.\n"


def test_a_balance_that_is_not_0_is_exit_code_1(filled):
    """Then a delivery was lost, and programs can tell."""
    schema = f"rm_deliveries_g{_generation(filled, 'deliveries')}"
    with psycopg.connect(filled.settings.projections_database_url, autocommit=True) as connection:
        connection.execute(f"create table {schema}.kept as select * from {schema}.deliveries where channel = 'slack'".encode())
        connection.execute(f"delete from {schema}.deliveries where channel = 'slack'".encode())
        code, rows, _ = filled.newswire("accounting", SOURCE)
        connection.execute(f"insert into {schema}.deliveries select * from {schema}.kept".encode())
        connection.execute(f"drop table {schema}.kept".encode())
    assert code == 1
    assert {r["channel"]: r["balance"] for r in rows} == {"email": 0, "slack": 1, "none": 0}


def _generations(settings):
    """Return the statuses; none while the broker still hands out the new topics."""
    try:
        return statuses(settings)
    except Unavailable:
        return []


def _generation(installation, name):
    return next(s.generation for s in statuses(installation.settings) if s.name == name and s.state == "live")


def test_the_analytics_role_reads_the_views_and_nothing_else(filled):
    """USAGE on api and SELECT on its views; no table of a read model, no bookkeeping, nothing written."""
    for item in PROJECTIONS:
        for view in item.views:
            assert filled.read(f"select * from api.{view}".encode()) is not None
    assert filled.read(b"select state, title from api.publications") == [("submitted", "T")]
    assert filled.read(b"select time_zone, erased, unsubscribed from api.subscribers") == [("Asia/Tokyo", False, False)]
    assert len(filled.read(b"select * from api.gated")) == 2
    for refused in (
        f"select * from rm_publications_g{_generation(filled, 'publications')}.revisions".encode(),
        b"select * from projections.generations",
        b"delete from api.gated",
        b"create table api.mine (a int)",
        b"create schema mine",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            filled.read(refused)


def test_the_read_models_equal_a_replay_before_and_after_a_rebuild(filled):
    """`verify all` compares; `rebuild all` makes new generations that say the same."""
    code, rows, errors = filled.newswire("projections", "verify", "all")
    assert (code, errors) == (0, "")
    assert {r["projection"] for r in rows if r["equal"]} == {item.name for item in PROJECTIONS}
    before = filled.read(b"select * from api.accounting order by 1, 3")
    old = _generation(filled, "deliveries")
    assert filled.newswire("projections", "rebuild", "all")[0] == 0
    wait_for(
        lambda: all(s.generation > old and s.state == "live" for s in statuses(filled.settings)),
        "new ones",
    )
    assert filled.read(b"select * from api.accounting order by 1, 3") == before
    code, rows, _ = filled.newswire("projections", "status")
    assert [(r["projection"], r["state"], r["because"], r["lag"]) for r in rows] == [
        (p.name, "live", "asked for", 0) for p in PROJECTIONS
    ]
    assert len(filled.read(b"select * from api.sources")) == len({row[0] for row in before}) >= 2


def test_an_unknown_projection_is_one_sentence(filled):
    """The names that exist are listed."""
    for command in ("verify", "rebuild"):
        code, _, errors = filled.newswire("projections", command, "nothing")
        assert code == 2
        assert "publications, subscribers, deliveries" in errors
