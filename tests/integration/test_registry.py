"""The real registry and broker: registering, refusing, reading ids and schemas, creating and checking topics."""

import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from core.errors import InputError, SetupError, Unavailable, UnknownSchema
from runtime.settings import Settings
from schemas import files
from schemas.admin import ensure_topics
from schemas.codec import Codec
from schemas.partition import partition_for
from schemas.registry import RegistrySource, file_versions, sync
from schemas.sources import subject_of
from schemas.topics import Topics
from tests.fix_stack import Stack
from tests.unit.codec_samples import NOW, SUBSCRIBER, FixedCipher, consumed, sent

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def settings(stack: Stack) -> Iterator[Settings]:
    """Settings under a prefix of this module's own, three shards; topics are deleted afterwards."""
    own = Settings(
        kafka_bootstrap_servers=stack.kafka,
        schema_registry_url=stack.registry_url,
        topic_prefix=f"schemas-{uuid.uuid4().hex[:8]}",
        shards=3,
    )
    yield own
    admin = AdminClient({"bootstrap.servers": stack.kafka})
    for future in admin.delete_topics([spec.name for spec in Topics.of(own).specs()]).values():
        future.exception(30)


@pytest.fixture(scope="module")
def synced(settings: Settings) -> Settings:
    """The same after a first sync."""
    sync(settings)
    ensure_topics(settings)
    return settings


def changed(event: str, **fields: Any) -> Any:
    """Return versions of all events in which this event's first version has other fields; None takes one out."""

    def versions(name: str) -> list[files.Schema]:
        if name != event:
            return file_versions(name)
        schema = files.schema(name)
        kept = [
            {**field, **fields.get(field["name"], {})} for field in schema["fields"] if fields.get(field["name"], {}) is not None
        ]
        return [{**schema, "fields": kept}]

    return versions


def grown(event: str, field: dict[str, Any]) -> Any:
    """Return versions of all events, with a second one of this event that has one more field."""

    def versions(name: str) -> list[files.Schema]:
        schema = files.schema(name)
        return file_versions(name) if name != event else [schema, {**schema, "fields": [*schema["fields"], field]}]

    return versions


def test_second_sync_finds_everything(synced: Settings) -> None:
    """A warm start registers nothing."""
    result = sync(synced)
    assert result.registered == ()
    assert result.subjects == sum(len(spec.events) for spec in Topics.of(synced).specs())


def test_subjects_and_compatibility_are_as_the_architecture_says(synced: Settings) -> None:
    """TopicRecordNameStrategy and FULL_TRANSITIVE, seen with the registry's own client."""
    client = SchemaRegistryClient({"url": synced.schema_registry_url, "timeout": 10})
    assert client.get_compatibility() == "FULL_TRANSITIVE"
    for subject in ("alerts-newswire.AlertRaised", "deliveries.webhook.bulk-newswire.DeliveryRequested"):
        assert client.get_versions(f"{synced.topic_prefix}.{subject}") == [1]


def test_another_sync_sets_the_compatibility_at_the_same_moment(synced: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apicurio refuses the second; what counts is that it is set, and a refusal that leaves it unset is told."""
    was, seen = SchemaRegistryClient.get_compatibility, list[str]()

    def unset_at_first(client: SchemaRegistryClient) -> str:
        seen.append(was(client))
        return seen[-1] if len(seen) > 1 else "NONE"

    def refuse(client: SchemaRegistryClient, level: str) -> None:
        raise SchemaRegistryError(409, 409, "A rule named 'COMPATIBILITY' already exists.")

    monkeypatch.setattr(SchemaRegistryClient, "get_compatibility", unset_at_first)
    monkeypatch.setattr(SchemaRegistryClient, "set_compatibility", refuse)
    assert not sync(synced).registered
    assert len(seen) == 2
    monkeypatch.setattr(SchemaRegistryClient, "get_compatibility", lambda client: "NONE")
    with pytest.raises(InputError, match="409"):
        sync(synced)


@pytest.mark.parametrize(
    ("versions", "says"),
    [
        (changed("DeliverySent", reason={"type": "string"}), "reason: the type changed from [null, string] to string"),
        (changed("DeliverySent", attempt=None), "attempt: was removed although it has no default"),
        (changed("DeliverySent", attempt={"doc": "Other words."}), "attempt: the documentation changed"),
    ],
)
def test_edited_published_schema_is_refused(synced: Settings, versions: Any, says: str) -> None:
    """Even a harmless edit: the message names the field, and the file to put the new version in."""
    with pytest.raises(InputError) as refusal:
        sync(synced, schemas=versions)
    assert says in str(refusal.value)
    assert "DeliverySent.v2.avsc" in str(refusal.value)


def test_incompatible_new_version_is_refused_and_nothing_is_registered(synced: Settings) -> None:
    """The field, what changed and what to do; the registry stays as it was."""
    with pytest.raises(
        InputError, match=r"DeliverySent\.cost: was added without a default .*: add a new field with a default instead"
    ):
        sync(synced, schemas=grown("DeliverySent", {"name": "cost", "type": "int", "doc": "Cost."}))
    client = SchemaRegistryClient({"url": synced.schema_registry_url, "timeout": 10})
    assert client.get_versions(subject_of(Topics.of(synced).delivery_status, "DeliverySent")) == [1]


def test_registry_itself_refuses_what_is_incompatible(synced: Settings) -> None:
    """Our own comparison is not the last word: FULL_TRANSITIVE is on for other teams' tools too."""
    client = SchemaRegistryClient({"url": synced.schema_registry_url, "timeout": 10})
    from schemas.registry import _avro

    bad = grown("DeliverySent", {"name": "cost", "type": "int", "doc": "Cost."})("DeliverySent")[1]
    assert client.test_compatibility(subject_of(Topics.of(synced).delivery_status, "DeliverySent"), _avro(bad)) is False


def test_compatible_new_version_is_registered_and_old_readers_go_on(synced: Settings) -> None:
    """The version that this checkout knows reads what a newer one writes, and the older files still count as synced."""
    topics = Topics.of(synced)
    newer = grown("ReactionAdded", {"name": "device", "type": ["null", "string"], "default": None, "doc": "Where."})
    result = sync(synced, schemas=newer)
    assert result.registered == (f"{subject_of(topics.engagements, 'ReactionAdded')} v2",)
    assert sync(synced).registered == ()
    client = SchemaRegistryClient({"url": synced.schema_registry_url, "timeout": 10})
    newer_id = client.get_latest_version(subject_of(topics.engagements, "ReactionAdded")).schema_id
    codec = Codec(topics, RegistrySource(synced.schema_registry_url))
    value = {"subscriber_id": SUBSCRIBER, "publication_id": SUBSCRIBER, "occurred_at": NOW, "reaction": "like"}
    record = codec.encode(topics.engagements, "ReactionAdded", value, key=SUBSCRIBER, time=NOW)
    written_by_newer = b"\0" + newer_id.to_bytes(4, "big") + record.value[5:] + b"\2\x0aphone"
    decoded = codec.decode(consumed(record, value=written_by_newer)).value
    assert decoded == {**value, "delivery_id": None, "channel": None}


def test_registry_source_encodes_and_decodes(synced: Settings) -> None:
    """Ids and schemas come from the registry once; afterwards it may be away."""
    topics = Topics.of(synced)
    source = RegistrySource(synced.schema_registry_url)
    codec = Codec(topics, source, FixedCipher())
    record = codec.encode(topics.delivery_status, "DeliverySent", sent(), key=SUBSCRIBER, time=NOW)
    assert codec.decode(consumed(record)).value == sent()
    with pytest.raises(UnknownSchema):
        source.schema_of(2_000_000_000)


def test_event_that_is_not_registered_says_what_to_run(stack: Stack) -> None:
    """A process must not register schemas by itself."""
    with pytest.raises(SetupError, match="make schemas"):
        RegistrySource(stack.registry_url).id_of("never-there.alerts", "AlertRaised")


@pytest.mark.parametrize("path", ["", "/apis/ccompat/v7"])
def test_registry_that_is_down_is_unavailable(path: str) -> None:
    """The codec's caller pauses and asks again."""
    source = RegistrySource(f"http://127.0.0.1:9{path}", timeout_s=1)
    with pytest.raises(Unavailable, match="make up"):
        source.schema_of(1)


def test_something_else_in_the_registrys_place_is_said(stack: Stack) -> None:
    """A wrong path or no URL at all."""
    with pytest.raises(SetupError, match="SCHEMA_REGISTRY_URL"):
        RegistrySource(stack.registry_url.removesuffix("/apis/ccompat/v7") + "/nowhere").schema_of(1)
    with pytest.raises(SetupError, match="SCHEMA_REGISTRY_URL"):
        RegistrySource("nonsense")


def test_topics_are_created_once_as_the_yaml_says(synced: Settings) -> None:
    """Partitions and configuration as the broker sees them."""
    topics = Topics.of(synced)
    report = ensure_topics(synced)
    assert report.created == ()
    assert report.existing == len(topics.specs())
    admin = AdminClient({"bootstrap.servers": synced.kafka_bootstrap_servers})
    present = admin.list_topics(timeout=60).topics
    assert len(present[topics.delivery_status].partitions) == 3
    assert len(present[topics.dead_letters(topics.delivery_status)].partitions) == 1
    resource = ConfigResource(ResourceType.TOPIC, topics.snapshots_alerts)
    config = admin.describe_configs([resource])[resource].result(60)
    assert config["cleanup.policy"].value == "compact"
    assert config["max.message.bytes"].value == "2097152"


def test_another_number_of_shards_is_refused_with_what_to_do(synced: Settings) -> None:
    """One sentence for all topics that are affected."""
    with pytest.raises(InputError, match="there are 3 partitions and 5 shards: set NEWSWIRE_SHARDS=3") as refusal:
        ensure_topics(replace(synced, shards=5))
    assert len(str(refusal.value).splitlines()) == 1


def test_topic_with_another_retention_is_refused(synced: Settings) -> None:
    """Somebody shortened it on the broker."""
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry

    topics = Topics.of(synced)
    admin = AdminClient({"bootstrap.servers": synced.kafka_bootstrap_servers})

    def retain(value: str) -> None:
        entry = ConfigEntry("retention.ms", value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topics.controls, incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result(60)
        asked = ConfigResource(ResourceType.TOPIC, topics.controls)
        deadline = time.monotonic() + 90  # the controller has it; the broker that is asked learns of it a moment later
        while admin.describe_configs([asked])[asked].result(60)["retention.ms"].value != value:
            assert time.monotonic() < deadline, "the broker did not take over the retention"

    retain("1000")
    try:
        with pytest.raises(InputError, match=r"controls has retention\.ms=1000 instead of -1"):
            ensure_topics(synced)
    finally:
        retain("-1")


def test_missing_topic_is_found_by_a_check_and_broker_that_is_down_is_unavailable(synced: Settings) -> None:
    """A check creates nothing."""
    with pytest.raises(InputError, match="alerts does not exist; run `make schemas`"):
        ensure_topics(replace(synced, topic_prefix="never-there"), check_only=True)
    with pytest.raises(Unavailable, match="make up"):
        ensure_topics(replace(synced, kafka_bootstrap_servers="127.0.0.1:9"))


def test_librdkafka_with_murmur2_random_chooses_our_partitions(synced: Settings) -> None:
    """Where an upstream's producer puts a key, seen in its delivery reports."""
    topics = Topics.of(synced)
    producer = Producer({"bootstrap.servers": synced.kafka_bootstrap_servers, "partitioner": "murmur2_random"})
    chosen: dict[bytes, int] = {}
    keys = [str(uuid.UUID(int=number * 7919)).encode() for number in range(200)] + [b"x" * length for length in range(1, 40)]
    for key in keys:
        producer.produce(
            topics.engagements, key=key, value=b"x", on_delivery=lambda error, m: chosen.update({m.key(): m.partition()})
        )
    assert producer.flush(90) == 0
    assert chosen == {key: partition_for(key, 3) for key in keys}


def test_sync_command_does_both_and_says_so(synced: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `make schemas` runs."""
    from click.testing import CliRunner

    from runtime.output import Output
    from schemas.commands import schemas_group

    monkeypatch.setenv("NEWSWIRE_TOPIC_PREFIX", synced.topic_prefix)
    monkeypatch.setenv("NEWSWIRE_SHARDS", "3")
    result = CliRunner().invoke(schemas_group, ["sync"], obj=Output(json_mode=True), catch_exceptions=False)
    assert result.exit_code == 0
    assert '"created":0' in result.output
