"""The guard's decisions: when a canary's others follow, who is held, what a recall needs to do."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from core.outcomes import Outcome, Retry, Skipped
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.records import Event
from schemas.topics import Topics
from sinks.holds import canary_ends_at
from sinks.knowledge import HOLD_ENDS_S, Knowledge
from sinks.recall import GIVE_UP, Edit, settle_unsent
from tests.sinks_samples import delivery

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
SLOT = "daily@2026-11-22T09:00Z"
DEFINITION = {
    "newsletter_id": "daily",
    "revision": 1,
    "days": [1, 2, 3, 4, 5, 6, 7],
    "local_minute": 540,
    "canary_share": 0.1,
    "canary_hold_min": 30,
    "defined_at": datetime(2026, 11, 22, tzinfo=UTC),
}


class Still:
    """A clock that stands."""

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0


def event(name: str, key: str = "", **value: Any) -> Event:
    """An event with these fields."""
    return Event(name, value, key, "", "", NOW, "t", 0, 0, None, None, None)


def control(control_id: str, action: str) -> Event:
    """A stop or a resume."""
    return event("ControlChanged", control_id, control_id=control_id, action=action)


def knowing(*events: Event) -> Knowledge:
    """What a process knows after these events."""
    topics = Topics("newswire", 2)
    known = Knowledge(Settings(), topics, Codec(topics, None), name="test", clock=Still())  # type: ignore[arg-type]
    for one in events:
        known.apply(one)
    return known


def held(known: Knowledge, count: int = 1000, left: timedelta = timedelta(hours=12), **fields: Any) -> list[Outcome | None]:
    """What becomes of so many deliveries."""
    return [known.hold(delivery(not_after=NOW + left, source_id=SLOT, **fields)) for _ in range(count)]


def test_a_canary_is_about_its_share_and_the_others_wait() -> None:
    """Who goes first is a property of the delivery, so that every process and every attempt says the same."""
    known = knowing(event("NewsletterDefined", "daily", **DEFINITION))
    first = held(known, 2000).count(None)
    assert 120 < first < 290
    one = delivery(not_after=NOW + timedelta(hours=12), source_id=SLOT)
    assert known.hold(one) == known.hold(one)
    wait_s = timedelta(hours=12).total_seconds() - HOLD_ENDS_S
    assert set(held(known)) == {None, Retry(wait_s, "canary")}
    assert held(known, newsletter_id="weekly").count(None) == 1000
    assert set(held(known, left=timedelta(seconds=3))) == {None, Skipped("expired")}
    known.apply(control(f"canary/{SLOT}", "resume"))
    assert set(held(known)) == {None}
    assert known.canary_passed(SLOT)
    assert not known.canary_passed("daily@2026-11-23T09:00Z")


def test_a_stop_holds_canaries_too_and_says_so_at_the_end() -> None:
    """What nobody resumes ends as stopped."""
    known = knowing(event("NewsletterDefined", "daily", **DEFINITION), control("source/daily", "stop"))
    assert {outcome.reason for outcome in held(known) if outcome} == {"stopped"}
    assert len(held(known)) == 1000
    assert set(held(known, left=timedelta(seconds=3))) == {Skipped("stopped")}
    known.apply(control("source/daily", "resume"))
    assert {outcome.reason for outcome in held(known) if outcome} == {"canary"}
    assert known.resumed_at("source/daily") == NOW


def test_a_bar_is_stronger_than_a_hold() -> None:
    """Who unsubscribed while it was held is not parked once more."""
    one = delivery(not_after=NOW + timedelta(hours=12))
    left = event("SubscriberUnsubscribed", subscriber_id=one.subscriber_id, kind="newsletter", newsletter_id="daily")
    assert knowing(control("all", "stop"), left).objection(one) == Skipped("unsubscribed")
    assert isinstance(knowing(control("all", "stop")).objection(one), Retry)
    assert knowing().objection(one) is None


HALF_HOUR = timedelta(minutes=30)


@pytest.mark.parametrize(
    ("share", "first_sent_at", "waiting", "ends_at"),
    [
        (0.1, NOW, 900, NOW + HALF_HOUR),
        (0.1, None, 900, None),  # a hundred canaries are expected, and none is sent: something is wrong
        (0.1, None, 9, NOW + HALF_HOUR),  # so few that there may be no canary among them
        (0.0, None, 900, NOW),  # the share was taken out meanwhile
    ],
)
def test_the_others_follow_so_long_after_the_first_send(
    share: float, first_sent_at: datetime | None, waiting: int, ends_at: datetime | None
) -> None:
    """Not after the slot: an outage at its beginning would leave nothing to judge by."""
    assert canary_ends_at({**DEFINITION, "canary_share": share}, first_sent_at, waiting, NOW) == ends_at


EDIT = Edit(
    subject="pub:p", day=date(2026, 11, 23), uuid="u", subscriber_id="s", attempts=0, request=b"r", retracted_at=NOW,
    noticed_at=NOW, sent_state="sent", sent_reason=None, receipt=b"x", source_kind="newsletter", claimed_at=NOW,
    now=NOW + timedelta(minutes=1),
)  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "needed", "state"),
    [
        ({}, True, "pending"),
        ({"sent_state": "confirmed"}, True, "pending"),
        ({"claimed_at": NOW + timedelta(seconds=2)}, True, "pending"),
        ({"claimed_at": NOW + timedelta(seconds=4)}, False, "left_out"),
        ({"sent_state": "suppressed", "sent_reason": "retracted"}, False, "not_sent"),
        ({"sent_state": "failed", "sent_reason": "bounced"}, False, "not_sent"),
        ({"sent_state": "claimed"}, False, "pending"),
        ({"sent_state": "retry"}, False, "pending"),
        ({"sent_state": "unknown"}, False, "pending"),
        ({"sent_state": None}, False, "pending"),
        ({"sent_state": None, "now": NOW + GIVE_UP * 2}, False, "not_sent"),
        ({"sent_state": "unknown", "now": NOW + GIVE_UP * 2}, False, "unknown"),
    ],
)
def test_a_recall_edits_only_what_was_sent_with_it(fields: dict[str, Any], needed: bool, state: str) -> None:
    """By the state of the ledger: what needs an edit, what needs none, and what is not known yet."""
    edit = replace(EDIT, **fields)
    assert settle_unsent(edit, 3.0) == needed
    assert edit.state == state
