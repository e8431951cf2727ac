"""Events as people write them in JSON: what is missing, unknown or mistyped is named with its place."""

from typing import Any

import pytest

from core.errors import EventRefused
from schemas.codec import Clear
from schemas.documents import to_document, to_value
from tests.unit.codec_samples import NOW, SUBSCRIBER

LINKED = {"subscriber_id": SUBSCRIBER, "channel": "email", "address": {"clear": "a@example.org"}, "linked_at": NOW.isoformat()}


def test_clear_value_becomes_clear_and_defaults_are_filled_in() -> None:
    """What the codec takes comes out, whatever JSON could not hold."""
    value = to_value("ChannelLinked", LINKED)
    assert isinstance(value["address"], Clear)
    assert value["linked_at"] == NOW
    preferences = to_value("PreferencesChanged", {"subscriber_id": SUBSCRIBER, "changed_at": NOW})
    assert preferences["topics"] is None


@pytest.mark.parametrize(
    ("event", "changes", "field", "says"),
    [
        ("ChannelLinked", {"address": "not base64!"}, "address", "expected bytes"),
        ("ChannelLinked", {"channel": {"clear": "email"}}, "channel", "is an object; expected string"),
        ("ChannelLinked", {"linked_at": "tomorrow"}, "linked_at", "expected an instant with a time zone"),
        ("ChannelLinked", {"linked_at": None}, "linked_at", "is null"),
        ("ChannelLinked", {"adress": "x"}, "adress", "there is no such field; known are subscriber_id"),
        ("PreferencesChanged", {"quiet_hours": [{"start_minute": 0}]}, "quiet_hours[0].end_minute", "is missing"),
        ("PreferencesChanged", {"quiet_hours": [5]}, "quiet_hours[0]", "is a number; expected QuietHours with start_minute"),
        ("PreferencesChanged", {"alerts": 1}, "alerts", "is a number; expected boolean"),
        ("PreferencesChanged", {"local_minute": True}, "local_minute", "is true or false; expected a whole number"),
        ("PreferencesChanged", {"local_minute": 2**40}, "local_minute", "expected a whole number of 32 bits"),
        ("PreferencesChanged", {"tags": "beta"}, "tags", "expected a list of string"),
        ("PreferencesChanged", {"topics": [{"topic": "x", "weight": float("nan")}]}, "topics[0].weight", "expected double"),
    ],
)
def test_mistake_is_named_with_its_place(event: str, changes: dict[str, Any], field: str, says: str) -> None:
    """The path leads into lists and records."""
    base = LINKED if event == "ChannelLinked" else {"subscriber_id": SUBSCRIBER, "changed_at": NOW.isoformat()}
    with pytest.raises(EventRefused) as refusal:
        to_value(event, {**base, **changes})
    assert refusal.value.field == field
    assert says in refusal.value.reason


def test_what_is_no_object_is_refused() -> None:
    """A line of JSONL may be anything."""
    with pytest.raises(EventRefused, match="expected a JSON object"):
        to_value("ChannelLinked", ["subscriber_id"])


def test_document_holds_what_json_can() -> None:
    """Instants with their zone, bytes in base64, inside lists and maps too."""
    assert to_document("X", {"at": NOW, "data": b"\xff", "rows": [{"h": b"a"}]}) == {
        "at": "2026-11-22T09:30:15.123000Z",
        "data": "/w==",
        "rows": [{"h": "YQ=="}],
    }
