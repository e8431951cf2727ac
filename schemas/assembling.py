"""Writing many records of one event that differ in a few fields: what they share is encoded once.

An Avro record is the encodings of its fields one after the other, so these can be encoded apart and joined. The bytes are
those of Codec.encode; whoever uses this compares one record in a while.
"""

import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from io import BytesIO
from typing import Any, Final

from fastavro import parse_schema, schemaless_writer

from core.errors import PlaintextRefused, WrongPartition, WrongType
from schemas import files
from schemas.envelope import is_encrypted
from schemas.partition import check_partition
from schemas.plans import explain
from schemas.records import Headers, Record
from schemas.topics import TopicSpec

_PLAIN: Final = ("string", "bytes")
"""Types that are written here; values of any other type are encoded once and remembered."""


@lru_cache(maxsize=65_536)
def whole(number: int) -> bytes:
    """Return an int or a long as Avro writes it: zigzag, seven bits a byte, the lowest first."""
    rest, data = (number << 1) ^ (number >> 63), bytearray()
    while rest > 0x7F:
        data.append(rest & 0x7F | 0x80)
        rest >>= 7
    data.append(rest)
    return bytes(data)


@lru_cache(maxsize=1_024)
def real(number: float) -> bytes:
    """Return a float as Avro writes it: 32 bits, little-endian."""
    return struct.pack("<f", number)


class Fields:
    """The fields of one record's schema, each to be encoded alone."""

    def __init__(self, record: files.Schema) -> None:
        self._types = {field["name"]: parse_schema(field["type"]) for field in record["fields"]}

    def encode(self, name: str, value: Any) -> bytes:
        """Return a field as it stands in the record; TypeError or ValueError when the value does not fit."""
        buffer = BytesIO()
        schemaless_writer(buffer, self._types[name], value, strict_allow_default=True)
        return buffer.getvalue()


class Assembler:
    """Makes the records of one event, topic, time, source and partition; Codec.assembler makes it."""

    def __init__(
        self,
        name: str,
        shared: Mapping[str, Any],
        *,
        spec: TopicSpec,
        partition: int,
        prefix: bytes,
        headers: Headers,
        time: datetime,
        source: str,
        correlation_id: str,
    ) -> None:
        schema = files.schema(name)
        self._name, self._shared, self._fields = name, shared, Fields(schema)
        self._layout: list[tuple[bytes, str, str, bool]] = []
        constant = prefix
        for field in schema["fields"]:
            if field["name"] in shared:
                constant += self._fields.encode(field["name"], shared[field["name"]])
            else:
                kind = field["type"] if field["type"] in _PLAIN else ""
                self._layout.append((constant, field["name"], kind, "encrypted" in field))
                constant = b""
        self._end = constant
        self._topic, self._partition = spec.name, partition
        self._key_field, self._partitions = spec.key_field, spec.partitions
        assert spec.check == "key", f"{name}: made for topics whose key decides the partition"
        self._before = headers
        self._between = (("ce_source", source.encode()), ("ce_time", time.astimezone(UTC).isoformat().encode()))
        self._after = ("correlationid", correlation_id.encode())
        self._known: dict[tuple[str, Any], bytes] = {}

    def record(self, own: Mapping[str, Any], encoded: Mapping[str, bytes], *, key: str, id: str) -> Record:
        """Return a record; `own` has the fields that are not shared, but for those that `encoded` has as bytes of Avro.

        Raises WrongType, PlaintextRefused and WrongPartition.
        """
        parts = []
        try:
            for constant, name, kind, is_sealed in self._layout:
                parts.append(constant)
                parts.append(encoded[name] if name in encoded else self._field(name, kind, is_sealed, own[name]))
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
            raise WrongType(explain(self._name, {**self._shared, **own})) from None
        parts.append(self._end)
        key_bytes = key.encode()
        if self._key_field is not None and key != own[self._key_field]:
            raise WrongPartition(f"{self._name}: the key is not the text of {self._key_field}")
        check_partition(self._name, key_bytes, self._partition, self._partitions)
        headers = (*self._before, ("ce_id", id.encode()), *self._between, ("ce_subject", key_bytes), self._after)
        return Record(self._topic, key_bytes, b"".join(parts), headers, self._partition)

    def _field(self, name: str, kind: str, is_sealed: bool, value: Any) -> bytes:
        if kind == "string" and value.__class__ is str:
            data: bytes = value.encode()
        elif kind == "bytes" and value.__class__ is bytes:
            if is_sealed and not is_encrypted(value):
                raise PlaintextRefused(f"{self._name}.{name}: expected bytes that are already encrypted")
            data = value
        elif kind:
            raise TypeError(name)
        else:
            known = self._known.get((name, value))
            if known is None:
                known = self._known[name, value] = self._fields.encode(name, value)
            return known
        return whole(len(data)) + data
