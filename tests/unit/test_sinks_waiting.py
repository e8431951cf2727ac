"""What a delivery that has not ended waits for, in words; pure."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sinks.history import Step
from sinks.waiting import Around, waits_for

AT = datetime(2026, 11, 22, 9, tzinfo=UTC)
LATER, BEFORE = AT + timedelta(hours=1), AT - timedelta(seconds=5)


def row(state: str, reason: str | None = None, **fields: Any) -> dict[str, Any]:
    """A row of the ledger as `read_rows` returns it."""
    return {
        "delivery_id": "20261122-x", "state": state, "reason": reason, "channel": "slack", "source_id": "daily@2026-11-22T09:00Z",
        "source_kind": "newsletter", "lease_until": LATER, "next_attempt_at": LATER, "outcome_at": AT, "check_at": None,
        "held": False, "history": None, **fields,
    }  # fmt: skip


@pytest.mark.parametrize("state", ["sent", "confirmed", "failed", "suppressed"])
def test_what_has_ended_waits_for_nothing(state: str) -> None:
    """Whatever is stopped or open around it, and whatever was unknown before."""
    doubt = [{"state": "unknown", "attempt": 1, "reported_at": AT.isoformat()}]
    assert waits_for(row(state, history=doubt), Around(AT, ["stop:all"], "open: 5 of 5 calls failed")) == []


def test_what_is_stopped_names_every_stop_and_the_commands_that_end_them() -> None:
    """All of them must be resumed; the time is when it is given up, not a next attempt."""
    (said,) = waits_for(row("retry", "stopped"), Around(AT, ["stop:ch:slack", "stop:src:daily"]))
    assert said.startswith("It is held by the stop of channel slack and the stop of source daily (`newswire stops` says why)")
    assert "until 2026-11-22 10:00:00.000Z at most; then it is not sent (stopped)" in said
    assert '`newswire resume channel slack --reason "..."` and `newswire resume source daily --reason "..."`' in said
    assert "next attempt" not in said
    (said,) = waits_for(row("retry", "stopped"), Around(AT, ["stop:all"]))
    assert '`newswire resume all --reason "..."`' in said


def test_what_was_stopped_and_is_resumed_waits_for_the_guard() -> None:
    """Nobody has to do anything."""
    (said,) = waits_for(row("retry", "stopped"), Around(AT))
    assert said.startswith("It was held by a stop that is over; the guard lets it go")


def test_what_a_canary_holds_says_so() -> None:
    """And how it is let go."""
    (said,) = waits_for(row("retry", "canary"), Around(AT))
    assert "while the canary of daily@2026-11-22T09:00Z is out" in said
    assert "canary_share 0" in said


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("throttled", "at 2026-11-22 10:00:00.000Z (its provider did not take it: throttled)"),
        ("destination_open", "(its destination answered hardly any call of late and is left alone)"),
        ("destination_failing", "(its destination failed of late, and enough calls to such ones are under way)"),
        ("rate", "(its destination takes no more for the moment)"),
        ("unresolved", "(its outcome stayed unknown, so it is sent again)"),
    ],
)
def test_what_is_parked_says_when_and_why(reason: str, says: str) -> None:
    """Also that a stop would hold it then, and that its provider's breaker is open."""
    said = waits_for(row("retry", reason), Around(AT, ["stop:all"], "open: 5 of 5 calls failed"))
    assert says in said[0]
    assert said[1].startswith("Then it will be held by the stop of all")
    assert said[2].startswith("The breaker of slack is open: 5 of 5 calls failed.")


def test_what_is_due_waits_for_its_sink() -> None:
    """Its time is over; also for what was held until now."""
    for reason in ("released", "stopped"):
        (said,) = waits_for(row("retry", reason, next_attempt_at=BEFORE), Around(AT))
        assert "since 2026-11-22 08:59:55.000Z, as soon as its sink takes it up" in said


def test_what_is_unknown_is_looked_into_or_held() -> None:
    """By its sink, or until a person decides."""
    (said,) = waits_for(row("unknown", channel="email"), Around(AT, window_s=900.0))
    assert "its sink looks now whether SES has told that it took it, and goes on until 2026-11-22 09:15:00.000Z." in said
    assert "What is not known by then is held until a person decides, unless its on_unknown says otherwise." in said
    (said,) = waits_for(row("unknown", check_at=LATER, source_kind="alert"), Around(AT, window_s=600.0))
    assert "looks at 2026-11-22 10:00:00.000Z whether it is in the channel's history" in said
    assert "is sent again, unless" in said
    (said,) = waits_for(row("unknown", channel="webhook"), Around(AT))
    assert said.endswith("its sink sends it again now, under the same id, which a receiver recognises.")
    assert "`newswire delivery retry --unknown --reason" in waits_for(row("unknown", held=True), Around(AT))[0]


def test_says_that_an_earlier_attempt_may_have_arrived() -> None:
    """The ledger says parked, delivery-status says unknown: and it is said why. Not when it was never reported."""
    doubt = {"state": "unknown", "reason": "answer_lost", "attempt": 2, "at": AT.isoformat(), "reported_at": AT.isoformat()}
    parked = {"state": "retry", "reason": "destination_open", "attempt": 2, "at": AT.isoformat()}
    for state in ("retry", "claimed"):
        said = waits_for(row(state, "destination_open", history=[doubt, parked]), Around(AT))
        assert said[-1].startswith("Attempt 2 may have arrived, so delivery-status and the read models say unknown")
        assert len(waits_for(row(state, "destination_open", history=[{**doubt, "reported_at": None}]), Around(AT))) == 1


def test_a_held_step_of_the_timeline_is_no_next_attempt() -> None:
    """Its time is the last moment."""
    assert Step(AT, "retry", 1, "stopped", due_at=LATER).detail == "stopped, held until at most 2026-11-22 10:00:00.000Z"
    assert Step(AT, "retry", 1, "rate", due_at=LATER).detail == "rate, next attempt 2026-11-22 10:00:00.000Z"
