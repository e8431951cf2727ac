"""The contracts: topics, Avro schemas, examples, and the codec that turns events into bytes and back."""
