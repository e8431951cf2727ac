"""What is given back and what is not, and timelines; pure."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sinks.history import Step, timeline
from sinks.redrive import refusal
from sinks.retiring import Day, kept_because

AT = datetime(2026, 11, 22, 9, tzinfo=UTC)


def row(state: str, reason: str | None = None, **fields: Any) -> dict[str, Any]:
    """A row of the ledger as `read_rows` returns it."""
    return {
        "state": state, "reason": reason, "attempt": 1, "claimed_at": AT, "outcome_at": AT + timedelta(seconds=1),
        "reported_at": AT + timedelta(seconds=2), "next_attempt_at": AT, "not_after": AT + timedelta(hours=1), "call_ms": 12,
        "receipt_hash": None, "history": None, **fields,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (row("sent"), "it was sent at 2026-11-22 09:00:01.000Z, and is not sent again"),
        (row("confirmed"), "it was confirmed at"),
        (row("failed", "bounced"), "it was sent, and failed afterwards (bounced)"),
        (row("failed", "complained"), "it was sent, and failed afterwards (complained)"),
        (row("failed", "rejected", receipt_hash="ab"), "it was sent, and failed afterwards"),
        (row("suppressed", "unsubscribed"), "it was left unsent on purpose (unsubscribed)"),
        (row("claimed"), "a sink has it in hand right now"),
        (row("retry"), "it waits for its next attempt at 2026-11-22 09:00:00.000Z"),
        (row("unknown", "answer_lost"), "it may have arrived (answer_lost); with --unknown"),
        (row("failed", "rejected", not_after=AT), "it stopped being worth sending at 2026-11-22 09:00:00.000Z"),
    ],
)
def test_does_not_give_back_what_was_sent_or_is_under_way(given: dict[str, Any], says: str) -> None:
    """Each with a sentence that says why."""
    answer = refusal(given, AT, unknown_too=False)
    assert answer is not None
    assert answer.startswith(says)


@pytest.mark.parametrize("reason", ["rejected", "unauthorized", "too_large", "content_missing", "attempts_exhausted"])
def test_gives_back_what_no_provider_has_accepted(reason: str) -> None:
    """Also what is unknown, when that is asked for."""
    assert refusal(row("failed", reason), AT, unknown_too=False) is None
    assert refusal(row("unknown", "lease_expired"), AT, unknown_too=True) is None


def test_gives_back_what_no_message_could_be_made_of() -> None:
    """Also when its provider took it first and said so later: nothing was sent."""
    assert refusal(row("failed", "rendering"), AT, unknown_too=False) is None
    assert refusal(row("failed", "rendering", receipt_hash="ab"), AT, unknown_too=False) is None


def test_a_step_says_template_and_error() -> None:
    """Of the present attempt from the row, of the earlier ones from the history."""
    earlier = {
        "state": "retry", "reason": "account", "attempt": 1, "at": AT.isoformat(), "template": "digest@1",
        "error": "is not verified",
    }  # fmt: skip
    now = {"attempt": 2, "outcome_at": AT + timedelta(seconds=5), "template": "digest@2", "error": "too long"}
    first, last = (step for step in timeline(row("failed", "rejected", history=[earlier], **now)) if step.error)
    assert first.detail == 'account, "is not verified", template digest@1'
    assert last.detail == 'rejected, "too long", template digest@2, answered in 12 ms'


def test_a_timeline_is_in_order_and_names_a_claim_once() -> None:
    """An unknown that a late answer of the same attempt replaced: one claim, two outcomes, both reported."""
    unknown = {
        "state": "unknown", "reason": "lease_expired", "attempt": 1, "claimed_at": AT.isoformat(),
        "at": (AT + timedelta(milliseconds=200)).isoformat(), "reported_at": (AT + timedelta(milliseconds=300)).isoformat(),
    }  # fmt: skip
    steps = timeline(row("sent", receipt_hash="ab" * 32, history=[unknown]), AT - timedelta(seconds=5))
    assert [(step.what, step.event) for step in steps] == [
        ("decided", None), ("claimed", None), ("unknown", None), ("reported", "DeliveryUnknown"), ("sent", None),
        ("reported", "DeliverySent"),
    ]  # fmt: skip
    assert steps[4].detail == "answered in 12 ms, receipt abababababababab"
    known = {"at": AT + timedelta(milliseconds=200), "what": "unknown", "attempt": 1, "reason": "lease_expired"}
    assert steps[2].known() == known


def test_a_parked_delivery_ends_with_its_last_refusal() -> None:
    """Its row says nothing that its history does not."""
    refused = {"state": "retry", "reason": "throttled", "attempt": 1, "claimed_at": AT.isoformat(), "at": AT.isoformat(),
               "call_ms": 3, "due_at": (AT + timedelta(minutes=1)).isoformat()}  # fmt: skip
    steps = timeline(row("retry", "throttled", outcome_at=None, reported_at=None, history=[refused]))
    assert [step.what for step in steps] == ["claimed", "retry"]
    assert steps[1].detail == "throttled, answered in 3 ms, next attempt 2026-11-22 09:01:00.000Z"


def test_a_delivery_suppressed_before_any_attempt_has_no_claim() -> None:
    """Nobody had it in hand."""
    assert timeline(row("suppressed", "unsubscribed", attempt=0, outcome_at=AT, call_ms=None, reported_at=None)) == [
        Step(AT, "suppressed", 0, "unsubscribed")
    ]


def test_says_what_keeps_a_day() -> None:
    """Only what there is."""
    day = Day(AT.date(), True, rows=9, claimed=0, parked=2, unknown=1, unreported=0)
    assert kept_because(day) == "the ledger's day 2026-11-22 is not retired: 2 parked, 1 unknown"
