"""What the codec must know of an event's schema beyond what fastavro does with it.

fastavro writes a float into an int field by cutting it, an int of 40 bits into an int field, and takes a naive datetime
for local time. The guard refuses all three in the fields of the record itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from operator import index
from typing import Any, Final

from fastavro.validation import ValidationError, validate

from schemas import files

_LIMITS: Final = {"int": 1 << 31, "long": 1 << 63}


@dataclass(frozen=True, slots=True)
class EventPlan:
    """One event's newest schema, prepared for writing and reading."""

    name: str
    schema: files.Schema
    encrypted: Mapping[str, str]
    """Encrypted fields of the record itself, with their purpose."""
    encrypted_nested: tuple[tuple[str, str], ...]
    """(array, field) of encrypted fields in the records of an array: passed through, never encrypted here."""
    guard: Callable[[Mapping[str, Any]], None]
    """Raises TypeError, ValueError, KeyError or OverflowError when a whole number or an instant is none."""


@cache
def plan_of(name: str) -> EventPlan:
    """Return the plan of an event's newest version; KeyError when there is no such event."""
    schema = files.schema(name)
    encrypted: dict[str, str] = {}
    nested: list[tuple[str, str]] = []
    integers: list[tuple[str, int, bool]] = []
    instants: list[tuple[str, bool]] = []
    for field in schema["fields"]:
        inner, nullable = unwrap(field["type"])
        if "encrypted" in field:
            encrypted[field["name"]] = field["encrypted"]
        if isinstance(inner, dict) and inner.get("type") == "array":
            for below in inner["items"].get("fields", ()) if isinstance(inner["items"], dict) else ():
                if "encrypted" in below:
                    nested.append((field["name"], below["name"]))
        if isinstance(inner, dict) and inner.get("logicalType") == "timestamp-millis":
            instants.append((field["name"], nullable))
        elif inner in ("int", "long"):
            integers.append((field["name"], _LIMITS[inner], nullable))
    return EventPlan(name, files.parsed(name), encrypted, tuple(nested), _guard(tuple(integers), tuple(instants)))


def unwrap(avro_type: Any) -> tuple[Any, bool]:
    """Return (type without null, whether null is allowed)."""
    if isinstance(avro_type, list) and len(avro_type) == 2 and avro_type[0] == "null":
        return avro_type[1], True
    return avro_type, False


Guard = Callable[[Mapping[str, Any]], None]


def _guard(integers: tuple[tuple[str, int, bool], ...], instants: tuple[tuple[str, bool], ...]) -> Guard:
    def guard(value: Mapping[str, Any]) -> None:
        for name, limit, nullable in integers:
            number = value.get(name)
            if number.__class__ is not int:
                if number is None and (nullable or name not in value):
                    continue
                if isinstance(number, bool):
                    raise TypeError(name)
                number = index(number)  # type: ignore[arg-type]  # a TypeError is what is wanted
            if not -limit <= number < limit:
                raise OverflowError(name)
        for name, nullable in instants:
            instant = value.get(name)
            if instant is None and (nullable or name not in value):
                continue
            if not isinstance(instant, datetime) or instant.tzinfo is None:
                raise TypeError(name)

    return guard


def explain(name: str, value: Mapping[str, Any]) -> str:
    """Return which field of an event cannot be written and what is expected; never a value, which may be personal."""
    plan = plan_of(name)
    fields = {field["name"]: field for field in files.schema(name)["fields"]}
    strange = sorted(set(value) - set(fields))
    if strange:
        return f"{name}.{strange[0]}: there is no such field; known are {', '.join(fields)}"
    for field_name, field in fields.items():
        if field_name not in value:
            if "default" not in field:
                return f"{name}.{field_name}: is missing; {field['doc']}"
            continue
        try:
            plan.guard({field_name: value[field_name]})
        except (TypeError, ValueError, OverflowError):
            return _blame(f"{name}.{field_name}", value[field_name], field["type"])
    try:
        validate(value, plan.schema, raise_errors=True)
    except ValidationError as error:
        path = str(error.errors[0].field or name).removeprefix(f"{files.NAMESPACE}.")
        own = fields.get(path.removeprefix(f"{name}."))
        if own is not None:
            return _blame(path, error.errors[0].datum, own["type"])
        return f"{name}: " + _blame(path, error.errors[0].datum, error.errors[0].schema)
    return f"{name}: a value does not fit its schema"


def _blame(path: str, datum: Any, avro_type: Any) -> str:
    return (
        f"{path}: is {'missing or null' if datum is None else f'of type {type(datum).__name__}'}, expected {describe(avro_type)}"
    )


def describe(avro_type: Any) -> str:
    """Return an Avro type in words, such as `null or an instant with a time zone`."""
    if isinstance(avro_type, list):
        return " or ".join(describe(one) for one in avro_type)
    if isinstance(avro_type, str):
        return {"int": "a whole number of 32 bits", "long": "a whole number of 64 bits"}.get(avro_type, avro_type)
    if avro_type.get("logicalType") == "timestamp-millis":
        return "an instant with a time zone, such as 2026-11-22T18:00:00Z"
    if avro_type["type"] == "array":
        return f"a list of {describe(avro_type['items'])}"
    if avro_type["type"] == "map":
        return f"a mapping of names to {describe(avro_type['values'])}"
    if avro_type["type"] == "record":
        return f"{avro_type['name']} with {', '.join(f['name'] for f in avro_type['fields'])}"
    if avro_type["type"] == "fixed":
        return f"{avro_type['size']} bytes"
    return describe(avro_type["type"])
