"""Tests of newsletters' definitions: which one counts, whatever else is in the log."""

import json
from datetime import timedelta
from typing import Any

import pytest

from core.errors import EventRefused
from core.names import MAX_AGE_H
from core.newsletters import Definitions
from schemas.checking import examples
from schemas.documents import to_value
from tests.unit.deciding_samples import NOW, Sample

(EXAMPLE,) = (path for path in examples("pass") if path.name.startswith("NewsletterDefined"))
DAILY = to_value("NewsletterDefined", json.loads(EXAMPLE.read_text()))


def defined(*changes: dict[str, Any]) -> tuple[Definitions, list[dict[str, Any]]]:
    """Fold definitions in this order; return the fold and their values."""
    known, values = Definitions(), [DAILY | change for change in changes]
    for offset, value in enumerate(values):
        known.apply(Sample("NewsletterDefined", value), offset)
    return known, values


def test_the_highest_revision_counts() -> None:
    """A later one replaces it, whether numbers are left out or not."""
    known, _ = defined({"revision": 1, "name": "One"}, {"revision": 4, "name": "Four"})
    newest = known.newest(DAILY["newsletter_id"])
    assert newest is not None
    assert newest["name"] == "Four"
    assert [value["revision"] for value in known.all()] == [4]
    assert known.newest("other") is None


def test_a_copy_changes_nothing_and_is_no_error() -> None:
    """Written twice, or defined again at another time."""
    known, values = defined({"revision": 1}, {"revision": 1, "defined_at": NOW + timedelta(hours=1)})
    for offset, value in enumerate(values):
        known.admit(value, offset)


@pytest.mark.parametrize(
    ("second", "field"),
    [
        ({"revision": 2, "from_name": "Somebody else"}, "from_name"),
        ({"revision": 1}, "revision"),
        ({"revision": 3, "from_address": "nobody"}, "from_address"),
        ({"revision": 3, "days": [9]}, "days"),
        ({"revision": 3, "max_age_h": MAX_AGE_H + 1}, "max_age_h"),
    ],
)
def test_what_does_not_count_is_refused_by_field_and_taken_by_no_fold(second: dict[str, Any], field: str) -> None:
    """Other content under a known revision, a lower revision, a broken rule."""
    known, (first, wrong) = defined({"revision": 2}, second)
    assert known.all() == [first]
    with pytest.raises(EventRefused) as refused:
        known.admit(wrong, 1)
    assert refused.value.field == field
    known.admit(first, 0)


def test_a_verdict_does_not_depend_on_how_much_was_read_already() -> None:
    """A definition that a later revision replaced is admitted when its event is handled again."""
    known, values = defined({"revision": 1}, {"revision": 2, "name": "Two"})
    known.admit(values[0], 0)
    known.admit(values[1], 1)
