"""The Avro files: which events and versions there are, their schemas, and the fingerprints that tell an edit.

`<Event>.avsc` is the first version of an event, `<Event>.v2.avsc` the second: a published file never changes.
"""

import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, Final

from fastavro import parse_schema

from core.errors import SetupError

Schema = dict[str, Any]

NAMESPACE: Final = "newswire"
FOLDER: Final = Path(__file__).parent
AVRO: Final = FOLDER / "avro"
_FILE_NAME: Final = re.compile(r"(?P<event>[A-Z][A-Za-z]+)(?:\.v(?P<version>\d+))?\.avsc")


@cache
def versions() -> dict[str, tuple[Path, ...]]:
    """Return the files of every event, oldest version first; SetupError when a version is missing."""
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(AVRO.glob("*.avsc")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise SetupError(f"{path.name} is no name of a schema: expected <Event>.avsc or <Event>.v2.avsc; rename it.")
        found.setdefault(match["event"], {})[int(match["version"] or 1)] = path
    for event, by_number in found.items():
        if sorted(by_number) != list(range(1, len(by_number) + 1)):
            raise SetupError(f"{event} has versions {sorted(by_number)}: a version is missing; restore its file.")
    return {event: tuple(by_number[n] for n in sorted(by_number)) for event, by_number in sorted(found.items())}


def event_names() -> tuple[str, ...]:
    """Return the names of all events, sorted."""
    return tuple(versions())


@cache
def text(event: str, version: int | None = None) -> str:
    """Return the text of a version's file, the newest by default; KeyError when there is no such event."""
    files = versions()[event]
    return files[len(files) - 1 if version is None else version - 1].read_text(encoding="utf-8")


@cache
def schema(event: str, version: int | None = None) -> Schema:
    """Return a version's schema as it stands in its file, the newest by default."""
    loaded: Schema = json.loads(text(event, version))
    return loaded


@cache
def parsed(event: str) -> Schema:
    """Return the newest version as fastavro wants it."""
    return parse(schema(event))


def parse(avro: Schema) -> Schema:
    """Return a schema as fastavro wants it, so that reading and writing do not parse it again."""
    result: Schema = parse_schema(json.loads(json.dumps(avro)))
    return result


def canonical(avro: Schema) -> str:
    """Return the one text of a schema: JSON with sorted keys, documentation included, free of spaces."""
    return json.dumps(avro, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(avro: Schema) -> str:
    """Return the SHA-256 in hex of the canonical text."""
    return hashlib.sha256(canonical(avro).encode()).hexdigest()
