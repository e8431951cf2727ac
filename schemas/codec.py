"""Events to bytes and back: Avro in Confluent wire format, CloudEvents in the headers (binary mode).

A value is a zero byte, the schema's id in four bytes (big-endian) and one Avro record, with nothing after it. The writer
of an event is the newest version of its file; the reader resolves older or newer writers to that version and only then.
Errors are subclasses of CodecError with a `code` for the dead letter; no message contains a field's value, because a
field may be personal. `Unavailable` passes through: the record is fine, the registry is not.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any, Final, Protocol
from uuid import uuid4

from fastavro import schemaless_reader, schemaless_writer
from fastavro.read import SchemaResolutionError
from fastavro.schema import SchemaParseException, UnknownType

from core.errors import (
    BadHeaders,
    PlaintextRefused,
    TrailingBytes,
    Truncated,
    UnknownSchema,
    WrongPartition,
    WrongTopic,
    WrongType,
)
from core.ids import minute_text
from schemas import files
from schemas.assembling import Assembler
from schemas.envelope import is_encrypted
from schemas.partition import check_partition, partition_for
from schemas.plans import EventPlan, explain, plan_of
from schemas.records import Event, Headers, Raw, Record
from schemas.sources import FileSource, SchemaSource
from schemas.topics import Topics, TopicSpec

__all__ = ["Cipher", "Clear", "Codec", "FileSource", "SchemaSource"]

SOURCE: Final = "/newswire"
TYPE_PREFIX: Final = f"{files.NAMESPACE}."
CONTENT_TYPE: Final = b"application/avro"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HEADER_BYTES: Final = 5


class Cipher(Protocol):
    """Encrypts a subject's personal values with the subject's own key."""

    def encrypt(self, subject: str, purpose: str, plaintext: bytes) -> bytes:
        """Return the envelope; KeyDestroyed when the subject has no key."""

    def decrypt(self, subject: str, purpose: str, ciphertext: bytes) -> bytes:
        """Return the plaintext; KeyDestroyed when the subject has no key any more."""


class Clear(str):
    """A personal value that the codec must encrypt."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Clear(...)"


class _Writer:
    __slots__ = ("headers", "plan", "prefix", "spec")

    def __init__(self, spec: TopicSpec, name: str, schema_id: int) -> None:
        self.spec = spec
        self.plan = plan_of(name)
        self.prefix = b"\0" + schema_id.to_bytes(4, "big")
        self.headers: Headers = (
            ("content-type", CONTENT_TYPE),
            ("ce_specversion", b"1.0"),
            ("ce_type", f"{TYPE_PREFIX}{name}".encode()),
        )


class _Reader:
    __slots__ = ("ce_type", "plan", "resolve_to", "spec", "writer_schema")

    def __init__(self, spec: TopicSpec, name: str, writer_schema: files.Schema) -> None:
        self.spec = spec
        self.plan = plan_of(name)
        self.ce_type = f"{TYPE_PREFIX}{name}".encode()
        same = files.canonical(writer_schema) == files.canonical(files.schema(name))
        self.writer_schema = self.plan.schema if same else files.parse(writer_schema)
        self.resolve_to = None if same else self.plan.schema


class Codec:
    """Encodes and decodes the events of all topics; one per process, usable from several threads."""

    def __init__(self, topics: Topics, source: SchemaSource, cipher: Cipher | None = None) -> None:
        self._topics = topics
        self._source = source
        self._cipher = cipher
        self._writers: dict[tuple[str, str], _Writer] = {}
        self._readers: dict[tuple[str, bytes], _Reader] = {}

    def encode(
        self,
        topic: str,
        name: str,
        value: Mapping[str, Any],
        *,
        key: str,
        time: datetime,
        id: str | None = None,
        source: str = SOURCE,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        traceparent: str | None = None,
        partition: int | None = None,
    ) -> Record:
        """Return the record of an event, with its partition.

        time is aware; id defaults to a random UUID. Fields with the schema attribute `encrypted` take Clear, which is
        encrypted for the subject value["subscriber_id"], or bytes that carry the envelope's header.
        Raises WrongTopic, WrongType, WrongPartition, PlaintextRefused, KeyDestroyed, and what the schema source raises.
        """
        writer = self._writers.get((topic, name)) or self._make_writer(topic, name)
        plan = writer.plan
        buffer = BytesIO()
        buffer.write(writer.prefix)
        try:
            if plan.encrypted or plan.encrypted_nested:
                value = self._seal(plan, value)
            for given in value.values():
                if given.__class__ is Clear:
                    raise PlaintextRefused(f"{name}: a personal value stands in a field that is not encrypted")
            plan.guard(value)
            schemaless_writer(buffer, plan.schema, value, strict_allow_default=True)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError, IndexError):
            raise WrongType(explain(name, value)) from None
        if time.tzinfo is None:
            raise WrongType(f"{name}: the event's time has no time zone")
        key_bytes = key.encode()
        headers = [
            *writer.headers,
            ("ce_id", (id or str(uuid4())).encode()),
            ("ce_source", source.encode()),
            ("ce_time", time.astimezone(UTC).isoformat().encode()),
            ("ce_subject", key_bytes),
        ]
        if correlation_id is not None:
            headers.append(("correlationid", correlation_id.encode()))
        if causation_id is not None:
            headers.append(("causationid", causation_id.encode()))
        if traceparent is not None:
            headers.append(("traceparent", traceparent.encode()))
        spec = writer.spec
        partition = _partition(spec, value, key_bytes) if partition is None else partition
        _check_place(spec, name, value, key, key_bytes, partition)
        return Record(topic, key_bytes, buffer.getvalue(), tuple(headers), partition)

    def assembler(
        self,
        topic: str,
        name: str,
        shared: Mapping[str, Any],
        *,
        time: datetime,
        source: str,
        correlation_id: str,
        partition: int,
    ) -> Assembler:
        """Return what writes the same records as `encode` for values that share these fields, several times as fast.

        Raises WrongTopic, WrongType, and what the schema source raises.
        """
        writer = self._writers.get((topic, name)) or self._make_writer(topic, name)
        try:
            writer.plan.guard(shared)
            return Assembler(
                name, shared, spec=writer.spec, partition=partition, prefix=writer.prefix, headers=writer.headers,
                time=time, source=source, correlation_id=correlation_id,
            )  # fmt: skip
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError, IndexError):
            raise WrongType(f"{name}: one of {', '.join(shared)} does not fit its schema") from None

    def decode(self, raw: Raw) -> Event:
        """Return the event of a consumed record; headers that an upstream left out are filled in from the record.

        Raises a subclass of CodecError when the bytes are no event of this topic or stand in the wrong place,
        Unavailable when the registry does not answer.
        """
        reader, value = self._read(raw.topic, raw.value)
        name = reader.plan.name
        for field in reader.plan.encrypted:
            if value[field] is not None and not is_encrypted(value[field]):
                raise WrongType(f"{name}.{field}: is not encrypted with the subject's key")
        if raw.key is None:
            raise WrongPartition(f"{name} has no key: expected {reader.spec.key}")
        try:
            key = raw.key.decode()
        except UnicodeDecodeError:
            raise WrongPartition(f"{name}: the key is no UTF-8 text: expected {reader.spec.key}") from None
        _check_place(reader.spec, name, value, key, raw.key, raw.partition)
        try:
            return _event(reader, value, key, raw)
        except (UnicodeDecodeError, ValueError):
            raise BadHeaders(f"{name}: a CloudEvents header is no UTF-8 text, or ce_time no RFC 3339 time with a zone") from None

    def is_tombstone(self, raw: Raw) -> bool:
        """Return whether a record only takes its key out of a compacted topic; it is no event, and nothing is wrong with it."""
        return raw.value is None and self._spec(raw.topic).compacted

    def decode_value(self, topic: str, value: bytes) -> tuple[str, dict[str, Any]]:
        """Return name and value alone, without looking at key, headers and partition."""
        reader, decoded = self._read(topic, value)
        return reader.plan.name, decoded

    def _read(self, topic: str, data: bytes | None) -> tuple[_Reader, dict[str, Any]]:
        if data is None or len(data) < _HEADER_BYTES or data[0] != 0:
            raise Truncated("the value is no Confluent wire format: expected a zero byte, four bytes of schema id and a record")
        reader = self._readers.get((topic, data[1:5])) or self._make_reader(topic, data[1:5])
        buffer = BytesIO(data)
        buffer.seek(_HEADER_BYTES)
        try:
            value: dict[str, Any] = schemaless_reader(buffer, reader.writer_schema, reader.resolve_to)
        except (EOFError, IndexError):
            raise Truncated(f"{reader.plan.name}: the value ends before the record does, or is corrupt") from None
        except (UnicodeDecodeError, OverflowError, ValueError, TypeError, KeyError, MemoryError, AttributeError):
            raise WrongType(f"{reader.plan.name}: the bytes are no record of its schema") from None
        except SchemaResolutionError:
            raise UnknownSchema(
                f"{reader.plan.name}: the writer's schema cannot be read as the newest version known here"
            ) from None
        left = len(data) - buffer.tell()
        if left:
            raise TrailingBytes(f"{reader.plan.name}: {left} bytes are left after the record")
        return reader, value

    def _make_writer(self, topic: str, name: str) -> _Writer:
        spec = self._spec(topic)
        if name not in spec.events:
            raise WrongTopic(f"{name} does not belong to {topic}, which holds {', '.join(spec.events) or 'no events'}")
        writer = _Writer(spec, name, self._source.id_of(topic, name))
        self._writers[topic, name] = writer
        return writer

    def _make_reader(self, topic: str, id_bytes: bytes) -> _Reader:
        spec = self._spec(topic)
        writer_schema = self._source.schema_of(int.from_bytes(id_bytes, "big"))
        name = _event_name(writer_schema)
        if name not in spec.events:
            raise WrongTopic(f"{name} does not belong to {topic}, which holds {', '.join(spec.events) or 'no events'}")
        try:
            reader = _Reader(spec, name, writer_schema)
        except (SchemaParseException, UnknownType, AttributeError, KeyError, TypeError, ValueError) as error:
            raise UnknownSchema(f"the registered schema of {name} cannot be used: {type(error).__name__}") from None
        self._readers[topic, id_bytes] = reader
        return reader

    def _spec(self, topic: str) -> TopicSpec:
        try:
            return self._topics.spec(topic)
        except KeyError:
            raise WrongTopic(f"there is no topic {topic}") from None

    def _seal(self, plan: EventPlan, value: Mapping[str, Any]) -> Mapping[str, Any]:
        for array, field in plan.encrypted_nested:
            if not all(type(item[field]) is bytes and is_encrypted(item[field]) for item in value[array]):
                raise PlaintextRefused(f"{plan.name}.{array}.{field}: must be bytes that are already encrypted")
        if not plan.encrypted:
            return value
        sealed = dict(value)
        for field, purpose in plan.encrypted.items():
            given = sealed.get(field)
            if given.__class__ is Clear:
                if self._cipher is None:
                    raise PlaintextRefused(f"{plan.name}.{field}: there is no cipher to encrypt it with")
                sealed[field] = self._cipher.encrypt(sealed["subscriber_id"], purpose.format_map(sealed), given.encode())
            elif given is not None and not (isinstance(given, bytes) and is_encrypted(given)):
                raise PlaintextRefused(f"{plan.name}.{field}: expected Clear, or bytes that are already encrypted")
        return sealed


def _event_name(writer_schema: files.Schema) -> str:
    full = str(writer_schema.get("name", "")) if isinstance(writer_schema, dict) else ""
    namespace = str(writer_schema.get("namespace", "")) if full and "." not in full else full.rpartition(".")[0]
    if namespace != files.NAMESPACE:
        return f"{namespace}.{full}".strip(".") or "an unnamed schema"
    return full.rpartition(".")[2]


def _partition(spec: TopicSpec, value: Mapping[str, Any], key: bytes) -> int:
    return int(value["shard"]) if spec.check == "shard" else partition_for(key, spec.partitions)


def _check_place(spec: TopicSpec, name: str, value: Mapping[str, Any], key: str, key_bytes: bytes, partition: int) -> None:
    """Raise WrongPartition unless key, value and partition agree; asserted on both sides of the boundary."""
    field = spec.key_field
    if field is not None:
        expected = value[field]
        if type(expected) is not str:
            expected = minute_text(expected) if isinstance(expected, datetime) else str(expected)
        if key != expected:
            raise WrongPartition(f"{name}: the key is not the text of {field}")
    if spec.check == "key":
        check_partition(name, key_bytes, partition, spec.partitions)
    elif spec.check == "shard" and value["shard"] != partition:
        raise WrongPartition(f"{name}: the record's shard is {value['shard']}, but it is in partition {partition}")


def _event(reader: _Reader, value: dict[str, Any], key: str, raw: Raw) -> Event:
    event_id = source = correlation = causation = trace = None
    time: datetime | None = None
    for header, data in raw.headers:
        if data is None:
            continue  # Kafka allows a header without a value
        if header == "ce_id":
            event_id = data.decode()
        elif header == "ce_source":
            source = data.decode()
        elif header == "ce_time":
            time = datetime.fromisoformat(data.decode())
            if time.tzinfo is None:
                raise ValueError("no zone")
        elif header == "ce_type":
            if data != reader.ce_type:
                raise BadHeaders(f"{reader.plan.name}: ce_type says another type")
        elif header == "ce_subject":
            if data != raw.key:
                raise BadHeaders(f"{reader.plan.name}: ce_subject is not the key")
        elif header == "correlationid":
            correlation = data.decode()
        elif header == "causationid":
            causation = data.decode()
        elif header == "traceparent":
            trace = data.decode()
    return Event(
        reader.plan.name,
        value,
        key,
        event_id or f"{raw.topic}/{raw.partition}/{raw.offset}",
        source or f"/{raw.topic}",
        time or _EPOCH + timedelta(milliseconds=raw.timestamp_ms),
        raw.topic,
        raw.partition,
        raw.offset,
        correlation,
        causation,
        trace,
        raw.timestamp_ms,
    )
