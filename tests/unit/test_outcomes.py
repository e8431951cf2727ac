"""Outcomes: each stands for one state and, but for Retry, for one event."""

import pytest

from core.names import STATE_RANK, STATUS_EVENTS
from core.outcomes import EVENT_OF_STATE, STATE_OF, Dead, Outcome, Retry, Sent, Skipped, Unknown, reason_of, replaces, state_of

TABLE: list[tuple[Outcome, str, str | None, str | None]] = [
    (Sent("id"), "sent", "DeliverySent", None),
    (Skipped("unsubscribed"), "suppressed", "DeliverySuppressed", "unsubscribed"),
    (Retry(1.0, "throttled"), "retry", None, "throttled"),
    (Dead("rejected"), "failed", "DeliveryFailed", "rejected"),
    (Unknown("answer_lost"), "unknown", "DeliveryUnknown", "answer_lost"),
]


@pytest.mark.parametrize(("outcome", "state", "event", "reason"), TABLE)
def test_every_outcome_has_its_state_event_and_reason(
    outcome: Outcome, state: str, event: str | None, reason: str | None
) -> None:
    """The table above is the whole table."""
    assert (state_of(outcome), EVENT_OF_STATE.get(state_of(outcome)), reason_of(outcome)) == (state, event, reason)


def test_covers_every_status_event_that_a_sink_may_report_after_a_call() -> None:
    """DeliveryConfirmed comes from a provider event, every other state from an outcome."""
    assert {type(row[0]) for row in TABLE} == set(STATE_OF)
    assert {row[2] for row in TABLE} - {None} == set(STATUS_EVENTS) - {"DeliveryConfirmed"}


@pytest.mark.parametrize(
    "make", [lambda: Skipped("rejected"), lambda: Dead("unsubscribed"), lambda: Unknown("x"), lambda: Retry(-1, "x")]
)
def test_refuses_a_reason_of_another_kind(make: object) -> None:
    """A reason that no reader knows is a programming error."""
    with pytest.raises(AssertionError):
        make()  # type: ignore[operator]


def test_a_lower_rank_never_replaces_a_higher_one() -> None:
    """unknown < sent < suppressed < confirmed < failed; parked and claimed are pending."""
    order = ["claimed", "unknown", "sent", "suppressed", "confirmed", "failed"]
    for low, old in enumerate(order):
        for high, new in enumerate(order):
            assert replaces(new, old) == (high > low)
    assert not replaces("retry", "unknown")
    assert replaces("sent", "retry")
    assert set(order[1:]) < set(STATE_RANK)
