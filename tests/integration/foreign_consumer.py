"""Reads delivery-status with nothing but Confluent's client and the registry: bootstrap servers, registry, topic, how many."""

import sys

from confluent_kafka import Consumer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

bootstrap_servers, registry_url, topic, how_many = sys.argv[1:]
deserialize = AvroDeserializer(SchemaRegistryClient({"url": registry_url, "timeout": 10}))
consumer = Consumer(
    {
        "bootstrap.servers": bootstrap_servers,
        "group.id": "another-team",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }
)
consumer.subscribe([topic])
seen = 0
while seen < int(how_many):
    message = consumer.poll(30)
    if message is None or message.error():
        sys.exit(f"nothing came: {message and message.error()}")
    status = deserialize(message.value(), SerializationContext(topic, MessageField.VALUE))
    kind = dict(message.headers())["ce_type"].decode()
    receipt = status["provider_receipt_hash"].hex()
    print(kind, status["delivery_id"], status["source_id"], status["channel"], status["reason"], status["attempt"], receipt)
    seen += 1
consumer.close()
