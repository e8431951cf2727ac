"""What differs between two versions of a schema, and whether it breaks FULL compatibility.

The registry says yes or no; this says which field, what changed, and is the first to be asked. Stricter than Avro in one
thing: bytes and string are never exchanged, and a field's encryption never changes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from schemas.files import Schema, canonical

ADVICE: Final = "add a new field with a default instead and keep the old one"

DOC_CHANGED: Final = "the documentation changed"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference; `field` is a path such as chosen.items.score, empty for the record itself."""

    field: str
    what: str
    breaking: bool

    def __str__(self) -> str:
        return f"{self.field or 'the record'}: {self.what}"


def changes(old: Schema, new: Schema) -> list[Change]:
    """Return every difference between two versions, those that break full compatibility marked."""
    return list(_type(old, new, "", _named(old), _named(new)))


def _type(old: Any, new: Any, path: str, olds: Mapping[str, Any], news: Mapping[str, Any]) -> Iterator[Change]:
    old, new = _resolve(old, olds), _resolve(new, news)
    kind_old, kind_new = _kind(old), _kind(new)
    if kind_old != kind_new:
        yield Change(path, f"the type changed from {_words(old)} to {_words(new)}", True)
    elif kind_old == "record":
        yield from _record(old, new, path, olds, news)
    elif kind_old == "union":
        yield from _union(old, new, path, olds, news)
    elif kind_old in ("array", "map"):
        inner = "items" if kind_old == "array" else "values"
        yield from _type(old[inner], new[inner], path, olds, news)
    elif kind_old in ("fixed", "enum"):
        for attribute in ("name", "size", "symbols"):
            if old.get(attribute) != new.get(attribute):
                yield Change(path, f"its {attribute} changed from {old.get(attribute)} to {new.get(attribute)}", True)


def _record(old: Any, new: Any, path: str, olds: Mapping[str, Any], news: Mapping[str, Any]) -> Iterator[Change]:
    if old["name"] != new["name"]:
        yield Change(path, f"the record was renamed from {old['name']} to {new['name']}", True)
    if old.get("doc") != new.get("doc"):
        yield Change(path, DOC_CHANGED, False)
    before = {field["name"]: field for field in old["fields"]}
    after = {field["name"]: field for field in new["fields"]}
    for name, field in before.items():
        if name not in after:
            lost = "default" not in field
            yield Change(_join(path, name), "was removed" + (" although it has no default" if lost else ""), lost)
    for name, field in after.items():
        below = _join(path, name)
        if name not in before:
            bare = "default" not in field
            yield Change(below, "was added" + (" without a default" if bare else " with a default"), bare)
            continue
        earlier = before[name]
        yield from _type(earlier["type"], field["type"], below, olds, news)
        if ("default" in earlier) != ("default" in field) or earlier.get("default") != field.get("default"):
            yield Change(below, "the default changed", "default" in earlier and "default" not in field)
        if earlier.get("encrypted") != field.get("encrypted"):
            yield Change(below, "its encryption changed", True)
        if earlier.get("doc") != field.get("doc"):
            yield Change(below, DOC_CHANGED, False)


def _union(old: Any, new: Any, path: str, olds: Mapping[str, Any], news: Mapping[str, Any]) -> Iterator[Change]:
    before = {_kind(_resolve(branch, olds)): branch for branch in old}
    after = {_kind(_resolve(branch, news)): branch for branch in new}
    if set(before) != set(after):
        yield Change(path, f"the type changed from {_words(old)} to {_words(new)}", True)
        return
    for kind, branch in before.items():
        yield from _type(branch, after[kind], path, olds, news)


def _kind(node: Any) -> str:
    if isinstance(node, list):
        return "union"
    if isinstance(node, str):
        return node
    return str(node["type"]) + (f" ({node['logicalType']})" if "logicalType" in node else "")


def _words(node: Any) -> str:
    if isinstance(node, list):
        return "[" + ", ".join(_words(branch) for branch in node) + "]"
    if isinstance(node, dict) and node["type"] in ("array", "map"):
        return f"{node['type']} of {_words(node.get('items', node.get('values')))}"
    if isinstance(node, dict) and "name" in node:
        return str(node["name"])
    return _kind(node)


def _named(node: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if isinstance(node, dict):
        if "name" in node and node.get("type") in ("record", "fixed", "enum"):
            found[node["name"]] = node
        for below in node.values():
            found |= _named(below)
    elif isinstance(node, list):
        for below in node:
            found |= _named(below)
    return found


def _resolve(node: Any, named: Mapping[str, Any]) -> Any:
    return named.get(node.rpartition(".")[2], node) if isinstance(node, str) else node


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def same(one: Schema, other: Schema) -> bool:
    """Return whether two schemas are the same to the letter, order of attributes aside."""
    return canonical(one) == canonical(other)
