"""From JSON that a person or a program wrote to the value of an event, and from files of such JSON.

Everything that is wrong is said with the name of the field and what is expected there, in the words of the schema.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TextIO

import orjson

from core import rules
from core.errors import EventRefused, InputError
from schemas import files
from schemas.documents import read_fields

MOST_FAULTS: Final = 20
"""Faults of a file that are named at once."""


@dataclass(frozen=True, slots=True)
class Document:
    """One JSON object of a file and where it stood, such as `people.jsonl, line 7`."""

    fields: Mapping[str, Any]
    place: str

    def refuse(self, error: InputError) -> InputError:
        """Return the error with the place before it."""
        return InputError(f"{self.place}: {error}")


def read_documents(name: str, stdin: TextIO) -> list[Document]:
    """Return the objects of a JSON or JSONL file, `-` for standard input; InputError names the line that is none.

    A file that is one JSON value holds one object or an array of them; any other file holds one object a line.
    """
    try:
        data = stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"there is no file {name}; give the path of a JSON or JSONL file, or - for standard input") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name} cannot be read as UTF-8 text: {error}") from None
    label = "standard input" if name == "-" else name
    found = list(_objects(data, label))
    if not found:
        raise InputError(f"{label} is empty; expected one JSON object a line")
    return found


def _objects(data: str, label: str) -> Iterator[Document]:
    try:
        whole = orjson.loads(data)
    except orjson.JSONDecodeError:
        whole = None
    if isinstance(whole, list):
        yield from (_document(value, f"{label}, entry {number}") for number, value in enumerate(whole, start=1))
    elif whole is not None:
        yield _document(whole, label)
    else:
        for number, line in enumerate(data.split("\n"), start=1):
            if line.strip():
                try:
                    yield _document(orjson.loads(line), f"{label}, line {number}")
                except orjson.JSONDecodeError as error:
                    raise InputError(f"{label}, line {number}: no JSON ({error.msg} at column {error.colno})") from None


def _document(value: Any, place: str) -> Document:
    if not isinstance(value, dict):
        raise InputError(f"{place}: expected a JSON object with named fields")
    return Document(value, place)


def event_value(event: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of an event from JSON fields, checked by its schema and by the rules; EventRefused names the field."""
    value, faults = read_value(event, fields)
    if faults:
        raise faults[0]
    return value


def read_value(event: str, fields: Mapping[str, Any]) -> tuple[dict[str, Any], list[EventRefused]]:
    """Return the value of an event from JSON fields as far as it can be read, and all that is wrong with it.

    Beyond the form of `schemas.documents`, topics may be names, or an object of weights by name.
    """
    known = {field["name"] for field in files.schema(event)["fields"]}
    near = {name: get_close_matches(name, known, 1) for name in fields if name not in known}
    meant = [EventRefused(event, name, f"there is no such field; did you mean {one[0]}?") for name, one in near.items() if one]
    given = {name: _weights(value) if name == "topics" else value for name, value in fields.items() if not near.get(name)}
    value, faults = read_fields(event, given)
    named = {one[0] for one in near.values() if one}
    faults = [one for one in faults if not (one.field in named and one.reason.startswith("is missing"))]
    faults = [*meant, *faults, *rules.faults_of_fields(event, value)]
    if not faults:
        try:
            rules.validate(event, value)
        except EventRefused as across:
            faults = [across]
    return value, [EventRefused(event, one.field, f"{one.reason}{_given(value.get(one.field))}") for one in faults]


def refuse_all(faults: Sequence[InputError]) -> None:
    """Raise an InputError that says all of these, as far as somebody can read them; return when there are none."""
    if len(faults) < 2:
        for fault in faults:
            raise fault
        return
    more = [f"and {len(faults) - MOST_FAULTS:,} more"] if len(faults) > MOST_FAULTS else []
    said = "\n  ".join([*map(str, faults[:MOST_FAULTS]), *more])
    raise InputError(f"{len(faults):,} things are wrong, and nothing was written:\n  {said}")


def _given(value: Any) -> str:
    """Return what somebody wrote, for them to see; text that is encrypted later is not repeated, nor what is long."""
    return f" (given: {value!r})" if type(value) is str and 0 < len(value) <= 60 else ""


def _weights(given: Any) -> Any:
    if isinstance(given, dict):
        return [{"topic": topic, "weight": weight} for topic, weight in given.items()]
    if isinstance(given, list):
        return [{"topic": item, "weight": 1.0} if isinstance(item, str) else item for item in given]
    return given
