"""Read the delivery-status topic with nothing but Kafka's client and the schema registry; no Newswire code.

    python deploy/samples/consume_status.py [--source SOURCE_ID] [--count N]

KAFKA_BOOTSTRAP_SERVERS and SCHEMA_REGISTRY_URL say where the servers are (`. .newswire/stack.env`, exported). Prints
one JSON line a status, from the beginning of the topic.
"""

import argparse
import json
import os
import sys

from confluent_kafka import Consumer, KafkaException
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

TOPIC = "newswire.delivery-status"


def main() -> int:
    """Print statuses until `count` of them were seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", help="Only this alert_id, or newsletter_id@minute.")
    parser.add_argument("--count", type=int, default=0, help="Stop after so many; 0 goes on for ever.")
    arguments = parser.parse_args()
    registry = SchemaRegistryClient({"url": os.environ["SCHEMA_REGISTRY_URL"], "timeout": 10})
    deserialize = AvroDeserializer(registry)
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"],
            "group.id": "another-team.delivery-status",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "log_level": 2,  # librdkafka tries again by itself; what fails for good is raised below
        }
    )
    consumer.list_topics(TOPIC, timeout=5)
    consumer.subscribe([TOPIC])
    seen = 0
    while not arguments.count or seen < arguments.count:
        message = consumer.poll(1.0)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        value = deserialize(message.value(), SerializationContext(TOPIC, MessageField.VALUE))
        event = dict(message.headers())["ce_type"].decode().removeprefix("newswire.")
        if arguments.source in (None, value["source_id"]):
            seen += 1
            print(
                json.dumps({"event": event, **value}, default=lambda v: v.hex() if isinstance(v, bytes) else str(v)), flush=True
            )
    consumer.close()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyError as missing:
        sys.exit(f"error: {missing} is not set; load the stack's addresses: set -a; . .newswire/stack.env; set +a")
    except Exception as error:  # noqa: BLE001 - whichever client it comes from, a person reads it, and the program ends
        sys.exit(f"error: Kafka or the registry does not answer as it should ({error}). Is the stack up? `make status` shows it.")
    except KeyboardInterrupt:
        sys.exit(130)
