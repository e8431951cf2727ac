"""Another team's consumer: Confluent's own client and deserializer, the registry's address, and nothing of Newswire."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from runtime.settings import Settings
from schemas.admin import ensure_topics
from schemas.codec import Codec
from schemas.registry import RegistrySource, sync
from schemas.topics import Topics
from tests.fix_stack import Stack
from tests.unit.codec_samples import NOW, SUBSCRIBER, sent

pytestmark = pytest.mark.stack
CONSUMER = Path(__file__).parent / "foreign_consumer.py"


@pytest.fixture
def settings(stack: Stack) -> Iterator[Settings]:
    """A prefix of this test's own, two shards."""
    own = Settings(
        kafka_bootstrap_servers=stack.kafka,
        schema_registry_url=stack.registry_url,
        topic_prefix=f"foreign-{uuid.uuid4().hex[:8]}",
        shards=2,
    )
    sync(own)
    ensure_topics(own)
    yield own
    for future in (
        AdminClient({"bootstrap.servers": stack.kafka}).delete_topics([s.name for s in Topics.of(own).specs()]).values()
    ):
        future.exception(30)


def test_delivery_status_is_read_without_newswire(settings: Settings, tmp_path: Path) -> None:
    """The program runs in a folder of its own with the path isolated, so that it cannot import anything of ours."""
    from confluent_kafka import Producer

    topics = Topics.of(settings)
    codec = Codec(topics, RegistrySource(settings.schema_registry_url))
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers, "acks": "all"})
    for name, value in (("DeliverySent", sent()), ("DeliveryFailed", sent(reason="bounced"))):
        record = codec.encode(topics.delivery_status, name, value, key=SUBSCRIBER, time=NOW)
        producer.produce(record.topic, record.value, record.key, record.partition, headers=list(record.headers))
    assert producer.flush(30) == 0
    text = CONSUMER.read_text()
    assert not any(f"import {package}" in text or f"from {package}" in text for package in ("schemas", "core", "runtime"))
    program = tmp_path / "consumer.py"
    program.write_text(text)
    arguments = [settings.kafka_bootstrap_servers, settings.schema_registry_url, topics.delivery_status, "2"]
    done = subprocess.run(
        [sys.executable, "-I", str(program), *arguments], capture_output=True, text=True, timeout=180, check=True
    )
    assert done.stdout.splitlines() == [
        f"newswire.DeliverySent {sent()['delivery_id']} daily@2026-11-22T09:00Z email None 1 {b'h'.hex() * 32}",
        f"newswire.DeliveryFailed {sent()['delivery_id']} daily@2026-11-22T09:00Z email bounced 1 {b'h'.hex() * 32}",
    ]
