"""Publish an article as an upstream module does: Kafka's client and the schema registry; no Newswire code.

    python deploy/samples/produce_publication.py [--title TITLE]

KAFKA_BOOTSTRAP_SERVERS and SCHEMA_REGISTRY_URL say where the servers are (`. .newswire/stack.env`, exported). Prints
the publication_id once Kafka has acknowledged.
"""

import argparse
import os
import sys
import uuid
from datetime import UTC, datetime

from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.common.serde import SubjectNameStrategyType
from confluent_kafka.serialization import MessageField, SerializationContext

TOPIC = "newswire.publications"


def main() -> int:
    """Produce one PublicationSubmitted and wait for the acknowledgement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--title", default="A result worth reading")
    arguments = parser.parse_args()
    registry = SchemaRegistryClient({"url": os.environ["SCHEMA_REGISTRY_URL"], "timeout": 10, "max.retries": 0})
    schema = registry.get_latest_version(f"{TOPIC}-newswire.PublicationSubmitted").schema
    serialize = AvroSerializer(
        registry,
        schema.schema_str,
        conf={"auto.register.schemas": False, "subject.name.strategy.type": SubjectNameStrategyType.TOPIC_RECORD},
    )
    publication_id = str(uuid.uuid4())
    value = {
        "publication_id": publication_id,
        "revision": 1,
        "content_type": "article",
        "title": arguments.title,
        "summary": "What it says, in a few sentences.",
        "body": None,
        "url": f"https://example.org/{publication_id}",
        "authors": ["A. Author"],
        "topics": [{"topic": "hep-ph", "weight": 1.0}],
        "language": "en",
        "published_at": datetime.now(UTC),
        "attributes": {},
    }
    # The partitioner matters: librdkafka's default puts keys in other partitions than Java's, and Newswire refuses those.
    producer = Producer(
        {
            "bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"],
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
            "log_level": 2,  # librdkafka tries again by itself; what fails for good is reported below
        }
    )
    producer.list_topics(TOPIC, timeout=5)
    failures: list[KafkaError] = []

    def reported(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failures.append(error)

    data = serialize(value, SerializationContext(TOPIC, MessageField.VALUE))
    producer.produce(
        TOPIC, key=publication_id, value=data, headers={"ce_type": "newswire.PublicationSubmitted"}, on_delivery=reported
    )
    producer.flush(30)
    if failures or len(producer):
        print(f"not published: {failures[0] if failures else 'no acknowledgement after 30 s'}", file=sys.stderr)
        return 1
    print(publication_id)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyError as missing:
        sys.exit(f"error: {missing} is not set; load the stack's addresses: set -a; . .newswire/stack.env; set +a")
    except Exception as error:  # noqa: BLE001 - whichever client it comes from, a person reads it, and the program ends
        sys.exit(f"error: Kafka or the registry does not answer as it should ({error}). Is the stack up? `make status` shows it.")
