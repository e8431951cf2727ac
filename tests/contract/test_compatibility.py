"""What counts as a breaking change, and that the message says which field and what changed."""

from typing import Any

import pytest

from schemas import files
from schemas.compat import changes, same

BASE: dict[str, Any] = {
    "type": "record",
    "name": "E",
    "doc": "d",
    "fields": [
        {"name": "id", "type": "string", "doc": "d"},
        {"name": "count", "type": "int", "doc": "d", "default": 0},
        {"name": "note", "type": ["null", "string"], "doc": "d", "default": None},
        {
            "name": "rows",
            "doc": "d",
            "type": {
                "type": "array",
                "items": {"type": "record", "name": "Row", "doc": "d", "fields": [{"name": "x", "type": "int", "doc": "d"}]},
            },
        },
        {"name": "hash", "type": {"type": "fixed", "name": "Hash", "size": 16}, "doc": "d"},
        {"name": "again", "type": "Hash", "doc": "d"},
        {"name": "secret", "type": "bytes", "doc": "d", "encrypted": "p"},
    ],
}


def edit(name: str, **attributes: Any) -> dict[str, Any]:
    return {**BASE, "fields": [{**field, **attributes} if field["name"] == name else field for field in BASE["fields"]]}


def drop(name: str) -> dict[str, Any]:
    return {**BASE, "fields": [field for field in BASE["fields"] if field["name"] != name]}


def add(**field: Any) -> dict[str, Any]:
    return {**BASE, "fields": [*BASE["fields"], field]}


ROWS = {
    "type": "array",
    "items": {"type": "record", "name": "Row", "doc": "d", "fields": [{"name": "x", "type": "long", "doc": "d"}]},
}


@pytest.mark.parametrize(
    ("new", "field", "what"),
    [
        (edit("id", type="bytes"), "id", "from string to bytes"),
        (edit("count", type="long"), "count", "from int to long"),
        (edit("note", type="string"), "note", "from [null, string] to string"),
        (edit("note", type=["null", "int"]), "note", "from [null, string] to [null, int]"),
        (edit("rows", type=ROWS), "rows.x", "from int to long"),
        (edit("hash", type={"type": "fixed", "name": "Hash", "size": 20}), "hash", "size changed from 16 to 20"),
        (edit("secret", encrypted=None), "secret", "encryption changed"),
        (edit("count", type={"type": "int", "logicalType": "date"}), "count", "from int to int (date)"),
        (drop("id"), "id", "was removed although it has no default"),
        (add(name="extra", type="int", doc="d"), "extra", "was added without a default"),
        ({**BASE, "name": "F"}, "", "renamed from E to F"),
    ],
)
def test_breaking_change_names_field_and_change(new: dict[str, Any], field: str, what: str) -> None:
    """Full compatibility: readers of either version read both."""
    broken = [change for change in changes(BASE, new) if change.breaking]
    assert broken
    assert broken[0].field == field
    assert what in broken[0].what
    assert [change for change in changes(new, BASE) if change.breaking]


@pytest.mark.parametrize(
    "new",
    [
        add(name="extra", type=["null", "int"], doc="d", default=None),
        drop("count"),
        edit("id", doc="other"),
        edit("count", default=3),
    ],
)
def test_compatible_change_is_a_change_all_the_same(new: dict[str, Any]) -> None:
    """A published file may not be edited even so; a new version may differ like this."""
    assert changes(BASE, new)
    assert not [change for change in changes(BASE, new) if change.breaking]
    assert not same(BASE, new)


@pytest.mark.parametrize("event", files.event_names())
def test_schema_does_not_differ_from_itself(event: str) -> None:
    """References to named types are followed, not compared by name."""
    assert changes(files.schema(event), files.schema(event)) == []
