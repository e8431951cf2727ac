"""Events as JSON documents: how people and golden examples write them, and how the CLI reads and shows them.

Instants are ISO 8601 text with a zone, bytes are base64, a personal value in the clear is {"clear": "..."} where its field
is encrypted, and what has a default may be left out.
"""

import base64
import binascii
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from core.errors import EventRefused
from schemas import files
from schemas.codec import Clear
from schemas.plans import describe

_LIMITS = {"int": 1 << 31, "long": 1 << 63}


def to_value(name: str, document: Any) -> dict[str, Any]:
    """Return the value that the codec takes; EventRefused names the first field that is missing, unknown or mistyped.

    What already has the codec's type (an aware datetime, bytes, Clear) is taken as it is.
    """
    if not isinstance(document, Mapping):
        raise EventRefused(name, "*", "expected a JSON object")
    value, faults = read_fields(name, document)
    if faults:
        raise faults[0]
    return value


def read_fields(name: str, document: Mapping[str, Any]) -> tuple[dict[str, Any], list[EventRefused]]:
    """Return the fields that can be taken, and what is wrong with each of the others."""
    return _fields(name, files.schema(name), document, "", _types(name))


def to_document(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a value as JSON can hold it; bytes in base64."""
    return {field: _plain(inner) for field, inner in value.items()}


def _fields(
    event: str, schema: Mapping[str, Any], document: Mapping[str, Any], path: str, named: Mapping[str, Any]
) -> tuple[dict[str, Any], list[EventRefused]]:
    fields = {field["name"]: field for field in schema["fields"]}
    known = f"there is no such field; known are {', '.join(fields)}"
    value, faults = {}, [EventRefused(event, f"{path}{key}", known) for key in document if key not in fields]
    for field_name, field in fields.items():
        try:
            value[field_name] = _field(event, field, document, f"{path}{field_name}", named)
        except EventRefused as fault:
            faults.append(fault)
    return value, faults


def _field(event: str, field: Mapping[str, Any], document: Mapping[str, Any], path: str, named: Mapping[str, Any]) -> Any:
    if field["name"] in document:
        given = document[field["name"]]
        clear = isinstance(given, Mapping) and "encrypted" in field and set(given) == {"clear"}
        return Clear(given["clear"]) if clear else _convert(event, field["type"], given, path, named)
    if "default" in field:
        return _convert(event, field["type"], field["default"], path, named)
    raise EventRefused(event, path, f"is missing; expected {describe(field['type'])}")


def _convert(event: str, avro: Any, given: Any, path: str, named: Mapping[str, Any]) -> Any:
    if isinstance(avro, str) and avro in named:
        avro = named[avro]
    if isinstance(avro, list):
        if given is None and "null" in avro:
            return None
        return _convert(event, next(branch for branch in avro if branch != "null"), given, path, named)
    kind = avro if isinstance(avro, str) else avro.get("logicalType", avro["type"])
    if kind == "array" and isinstance(given, (list, tuple)):
        return [_convert(event, avro["items"], one, f"{path}[{number}]", named) for number, one in enumerate(given)]
    if kind == "map" and isinstance(given, Mapping):
        return {str(key): _convert(event, avro["values"], one, f"{path}.{key}", named) for key, one in given.items()}
    if kind == "record" and isinstance(given, Mapping):
        value, faults = _fields(event, avro, given, f"{path}.", named)
        if faults:
            raise faults[0]
        return value
    right = _scalar(kind, avro, given)
    if right is None:
        raise EventRefused(event, path, f"is {_kind_of(given)}; expected {describe(avro)}")
    return right


def _scalar(kind: str, avro: Any, given: Any) -> Any:
    """Return the value of a scalar, or None when it is no such thing."""
    if kind == "string":
        return given if isinstance(given, str) else None
    if kind == "boolean":
        return given if isinstance(given, bool) else None
    if kind in _LIMITS:
        fine = isinstance(given, int) and not isinstance(given, bool) and -_LIMITS[kind] <= given < _LIMITS[kind]
        return given if fine else None
    if kind in ("float", "double"):
        fine = isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given)
        return float(given) if fine else None
    if kind == "timestamp-millis":
        return _instant(given)
    if kind in ("bytes", "fixed"):
        data = _bytes(given)
        return None if data is None or (kind == "fixed" and isinstance(data, bytes) and len(data) != avro["size"]) else data
    return None


def _instant(given: Any) -> datetime | None:
    if isinstance(given, str):
        try:
            given = datetime.fromisoformat(given)
        except ValueError:
            return None
    return given if isinstance(given, datetime) and given.tzinfo is not None else None


def _bytes(given: Any) -> Any:
    if isinstance(given, (bytes, Clear)):
        return given
    try:
        return base64.b64decode(given, validate=True) if isinstance(given, str) else None
    except binascii.Error:
        return None


def _kind_of(given: Any) -> str:
    kinds = {str: "text of another form", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
    return kinds.get(type(given), "a list" if isinstance(given, (list, tuple)) else "an object")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


@cache
def _types(name: str) -> dict[str, Any]:
    return _named(files.schema(name))


def _named(node: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if isinstance(node, Mapping):
        if node.get("type") in ("record", "fixed") and "name" in node:
            found[node["name"]] = found[f"{files.NAMESPACE}.{node['name']}"] = node
        for below in node.values():
            found |= _named(below)
    elif isinstance(node, list):
        for below in node:
            found |= _named(below)
    return found
