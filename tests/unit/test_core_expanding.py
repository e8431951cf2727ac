"""Tests of fan-out's pure part."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from core.alert_state import AlertState
from core.deciding import decide_alert, decide_newsletter
from core.expanding import expand
from core.ids import delivery_id, issue_id
from core.newsletter_state import NewsletterState
from core.verdicts import Place
from schemas.codec import Codec
from schemas.partition import partition_for
from schemas.records import Event
from schemas.sources import FileSource
from schemas.topics import Topics
from streams.fanout import delivery_records
from tests.unit.deciding_samples import NOW, alert, available, fold, linked, person, reader, slot, verified

TOPICS = Topics()
CODEC = Codec(TOPICS, FileSource(TOPICS))
SEALED = b"\x01" + bytes(60)


def newsletter_decision(numbers: Iterable[int] = range(9), **rules: Any) -> dict:
    people = [[*reader(person(n)), linked(person(n), "email", SEALED), verified(person(n))] for n in numbers]
    state = fold(NewsletterState(), people, available(1), available(2))
    return decide_newsletter(state, slot(**rules), Place(0, 12, 0, {}), NOW)


def test_ids_are_those_of_core_ids():
    """The fast path gives exactly the documented ids."""
    value = newsletter_decision()
    for number, one in enumerate(expand(value, 0, 5)):
        cause = issue_id(person(number), "daily", "2026-11-22T09:00")
        assert one["subscriber_id"] == person(number)
        assert one["cause_id"] == cause
        assert one["delivery_id"] == delivery_id(cause, "newsletter", person(number), "email", value["not_after"])


def test_an_alerts_cause_is_the_alert():
    """Its deliveries have no items and name the text's position."""
    value = decide_alert(fold(AlertState(), reader(person(1))), alert(), Place(0, 12, 0, {}), NOW)
    (one,) = expand(value, 3, 8)
    assert one["cause_id"] == alert()["alert_id"]
    assert (one["alert_partition"], one["alert_offset"], one["items"], one["issue_group"]) == (1, 7, [], None)
    assert (one["decision_partition"], one["decision_offset"]) == (3, 8)
    assert one["delivery_id"] == delivery_id(alert()["alert_id"], "alert", person(1), "email", value["not_after"])


def test_items_are_resolved_from_the_tables():
    """Each item names its publication, revision, position and reason."""
    one = next(expand(newsletter_decision(), 0, 5))
    assert [(item["publication_id"], item["reason"], item["content_offset"]) for item in one["items"]] == [
        ("00000001-0000-0000-0000-000000000001", "topic:physics", 1),
        ("00000001-0000-0000-0000-000000000002", "topic:physics", 2),
    ]


def test_subject_and_template_are_the_decisions():
    """Each variant has its own, what it leaves out is the newsletter's; an alert has none."""
    plain = {"weight": 0.5, "subject": None, "template": None, "ranking": None, "local_minute": None}
    variants = [{**plain, "name": "control"}, {**plain, "name": "short", "subject": "In short", "template": "digest"}]
    value = newsletter_decision(range(40), variants=variants)
    looks = {(one["variant"], one["subject"], one["template"]) for one in expand(value, 0, 5)}
    assert looks == {("control", "{title}", "standard"), ("short", "In short", "digest")}
    assert {(one["subject"], one["template"]) for one in expand(newsletter_decision(), 0, 5)} == {("{title}", "standard")}
    urgent = decide_alert(fold(AlertState(), reader(person(1))), alert(), Place(0, 12, 0, {}), NOW)
    assert [(one["subject"], one["template"]) for one in expand(urgent, 0, 5)] == [("", "")]


def test_rule_5_the_same_decision_gives_the_same_bytes():
    """Expanding decides nothing: any number of times, in any process, the records are equal."""
    value = newsletter_decision([number for number in range(200) if partition_for(person(number).encode(), TOPICS.shards) == 0])
    event = Event("AudienceDecided", value, "k", "i", "s", NOW, TOPICS.decisions_bulk, 0, 5, None, None, None)
    later = Event("AudienceDecided", value, "k", "i", "s", datetime.now(UTC), TOPICS.decisions_bulk, 0, 5, None, None, None)
    records = delivery_records(CODEC, TOPICS, event)
    assert len(records) == len(value["chosen"]) > 0
    assert records == delivery_records(Codec(TOPICS, FileSource(TOPICS)), TOPICS, later)
