"""`newswire schemas check`: everything about the contracts that can be checked without a server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import EventRefused, InputError
from core.rules import FIELDS, validate
from schemas import catalogue_page, files, lock
from schemas.catalogue_page import EXAMPLES
from schemas.documents import to_value
from schemas.topics import Topics


def problems() -> list[str]:
    """Return a sentence for each thing that is wrong; empty when all is well."""
    found = [*_schemas(), *_topics(), *_examples(), *lock.problems()]
    if not found and catalogue_page.stale():
        found.append("schemas/CATALOGUE.md is stale; run `newswire schemas catalogue` and commit it.")
    return found


def check() -> None:
    """Raise InputError with one line a problem when something is wrong."""
    found = problems()
    if found:
        raise InputError("\n".join(found))


def examples(kind: str) -> list[Path]:
    """Return the golden examples of a kind, pass or fail."""
    return sorted(EXAMPLES.glob(f"*.{kind}.json"))


def event_of(path: Path) -> str:
    """Return the event that a golden example is one of."""
    return path.name.partition(".")[0]


def _schemas() -> Iterator[str]:
    for event, paths in files.versions().items():
        for number, path in enumerate(paths, 1):
            schema = files.schema(event, number)
            if schema.get("name") != event or schema.get("namespace") != files.NAMESPACE:
                yield f"{path.name}: is {schema.get('namespace')}.{schema.get('name')}; expected {files.NAMESPACE}.{event}."
            yield from (f"{path.name}: {where} has no doc; say what it means." for where in undocumented(schema, event))


def undocumented(node: Any, path: str) -> Iterator[str]:
    """Return the records and fields without a doc."""
    if isinstance(node, list):
        for branch in node:
            yield from undocumented(branch, path)
    elif isinstance(node, dict) and node.get("type") == "record":
        if not node.get("doc"):
            yield f"record {path}"
        for field in node["fields"]:
            below = f"{path}.{field['name']}"
            if not field.get("doc"):
                yield f"field {below}"
            yield from undocumented(field["type"], below)
    elif isinstance(node, dict):
        for inner in ("items", "values"):
            yield from undocumented(node.get(inner), path)


def _topics() -> Iterator[str]:
    topics = Topics()
    known = set(files.event_names())
    for spec in topics.specs():
        for event in spec.events:
            if event not in known:
                yield f"{spec.base}: there is no schema of {event}; add schemas/avro/{event}.avsc or take it out of the YAML."
                continue
            if spec.check not in ("key", "shard", "none"):
                yield f"{spec.base}: check is {spec.check}; expected key, shard or none."
            wanted = {spec.key_field, "shard" if spec.check == "shard" else None} - {None}
            for field in wanted - {one["name"] for one in files.schema(event)["fields"]}:
                yield f"{spec.base}: {event} has no field {field}, which the YAML names."
        if spec.check == "shard" and not spec.sharded:
            yield f"{spec.base}: check is shard, so partitions must be shards."
    for event in known:
        if not topics.topics_of(event):
            yield f"{event} belongs to no topic; name it in the YAML of its topic."
    yield from (f"core/rules.py has rules of {event}, which does not exist." for event in set(FIELDS) - known)


def _examples() -> Iterator[str]:
    passing, failing = {event_of(path) for path in examples("pass")}, {event_of(path) for path in examples("fail")}
    for event in files.event_names():
        if event not in passing:
            yield f"{event} has no example; add schemas/examples/{event}.pass.json."
        if event in FIELDS and event not in failing:
            yield f"{event} has rules and no example that breaks one; add schemas/examples/{event}.<rule>.fail.json."
    for path in (*examples("pass"), *examples("fail")):
        if event_of(path) not in files.versions():
            yield f"schemas/examples/{path.name}: there is no event {event_of(path)}."
            continue
        problem = _example(path)
        if problem is not None:
            yield f"schemas/examples/{path.name}: {problem}"


def _example(path: Path) -> str | None:
    document = json.loads(path.read_text(encoding="utf-8"))
    failing = path.name.endswith(".fail.json")
    try:
        event = event_of(path)
        validate(event, to_value(event, document["event"] if failing else document))
    except EventRefused as refusal:
        if not failing:
            return f"is refused: {refusal}."
        fine = refusal.field == document["refused"] and document["because"] in refusal.reason
        return None if fine else f"is refused for {refusal.field} ({refusal.reason}), expected {document['refused']}."
    return "is accepted and should be refused." if failing else None
