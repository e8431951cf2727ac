"""Decoding for read models: whole events by the codec, and of the hottest ones only the fields that are needed.

A DeliveryRequested carries its items, which no read model looks at and which cost four fifths of its decoding. Avro
records are read front to back, so reading stops behind the last field that is needed. Whether the rest is sound is judged
by the sink that sends it, which also writes the dead letter if it is not.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_reader

from schemas.codec import Codec, SchemaSource
from schemas.records import Event, Raw
from schemas.topics import Topics

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HEADER_BYTES = 5
_NAMESPACE = "newswire"


class Decoder:
    """Decodes the records of one projection; `prefixes` names, for an event, the last field that is read of it."""

    def __init__(self, topics: Topics, source: SchemaSource, prefixes: Mapping[str, str]) -> None:
        self._codec = Codec(topics, source)
        self._topics, self._source, self._prefixes = topics, source, prefixes
        self._readers: dict[tuple[str, bytes], tuple[str, Any] | None] = {}

    def decode(self, raw: Raw) -> Event:
        """Return the event; raises what Codec.decode raises."""
        value = raw.value
        if not self._prefixes or value is None or raw.key is None or len(value) < _HEADER_BYTES or value[0] != 0:
            return self._codec.decode(raw)
        place = (raw.topic, value[1:_HEADER_BYTES])
        if place not in self._readers:
            self._readers[place] = self._reader(*place)
        reader = self._readers[place]
        if reader is None:
            return self._codec.decode(raw)
        name, schema = reader
        buffer = BytesIO(value)
        buffer.seek(_HEADER_BYTES)
        try:
            fields: dict[str, Any] = schemaless_reader(buffer, schema, None)
            key = raw.key.decode()
        except (EOFError, IndexError, ValueError, OverflowError, MemoryError):
            return self._codec.decode(raw)  # which says what is wrong with it
        if fields["subscriber_id"] != key:
            return self._codec.decode(raw)
        time = _EPOCH + timedelta(milliseconds=raw.timestamp_ms)
        return Event(name, fields, key, "", "", time, raw.topic, raw.partition, raw.offset, None, None, None)

    def _reader(self, topic: str, id_bytes: bytes) -> tuple[str, Any] | None:
        """Return name and truncated schema of the events to shorten, None for those to read whole."""
        schema = self._source.schema_of(int.from_bytes(id_bytes, "big"))
        name = str(schema.get("name", "")).removeprefix(f"{_NAMESPACE}.") if isinstance(schema, dict) else ""
        if name not in self._prefixes or name not in self._topics.spec(topic).events:
            return None
        fields = schema["fields"]
        last = next((place for place, field in enumerate(fields) if field["name"] == self._prefixes[name]), None)
        if last is None:
            return None
        return name, parse_schema({"type": "record", "name": f"{name}Prefix", "fields": fields[: last + 1]})
