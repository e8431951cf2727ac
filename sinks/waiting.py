"""What a delivery that has not ended waits for, in words: a call, a resume, a canary, an endpoint, its next attempt, a person.

Consumes a row of ledger.deliveries, and the stops and breakers that concern it as the ledger has them; writes nothing. The
sentences are a pure function of these.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString

from core.outcomes import RETRY_STATE
from runtime.settings import Settings
from sinks.consent import STOP, stops_of
from sinks.flow import DESTINATION_FAILING, DESTINATION_OPEN, RATE
from sinks.history import HELD, clock_time, ledger_connection
from sinks.knowledge import CANARY, STOPPED
from sinks.unknown import WINDOW_S

_AROUND: Final[LiteralString] = """
SELECT clock_timestamp(),
       ARRAY(SELECT subject FROM ledger.barred WHERE subject = ANY(%(stops)s::text[]) ORDER BY subject),
       (SELECT state || ': ' || reason FROM ledger.breakers
        WHERE channel = %(channel)s AND destination = '' AND state <> 'closed')
"""
_WHY: Final[Mapping[str, str]] = {
    DESTINATION_OPEN: "its destination answered hardly any call of late and is left alone",
    DESTINATION_FAILING: "its destination failed of late, and enough calls to such ones are under way",
    RATE: "its destination takes no more for the moment",
    "released": "it was let go",
    "redriven": "it was given back by hand",
    "not_arrived": "its answer was lost, and its provider does not have it",
    "unresolved": "its outcome stayed unknown, so it is sent again",
}
"""Reasons of a parked delivery that are not a provider's refusal."""
_SIGNS: Final[Mapping[str, str]] = {
    "email": "SES has told that it took it",
    "slack": "it is in the channel's history",
    "discord": "it is among the bot's messages",
}
"""By what a provider's having it is known."""


@dataclass(frozen=True, slots=True)
class Around:
    """What there is beside the row itself."""

    now: datetime
    stops: Sequence[str] = ()
    """Subjects of the stops that hold it now, as in ledger.barred."""
    breaker: str | None = None
    """State and reason of its provider's breaker, None when it is closed."""
    window_s: float = 0.0
    """How long after it became unknown its sink looks for it."""
    alerts: str = "resend"
    """What becomes of an alert that is not known by then: NEWSWIRE_ALERT_ON_UNKNOWN."""


def around(settings: Settings, row: Mapping[str, Any]) -> Around:
    """Return what concerns a delivery at this moment."""
    with ledger_connection(settings) as connection:
        values = {"stops": list(stops_of(row["channel"], row["source_id"])), "channel": row["channel"]}
        found = connection.execute(_AROUND, values).fetchone()
    assert found is not None
    now, stops, breaker = found
    return Around(now, stops, breaker, settings.unknown_window_s or WINDOW_S[row["channel"]], settings.alert_on_unknown)


def waits_for(row: Mapping[str, Any], beside: Around) -> list[str]:
    """Return the sentences that say what a delivery waits for; none for one that has ended. Pure."""
    return [*_waits(row, beside), *_in_doubt(row)]


def _waits(row: Mapping[str, Any], beside: Around) -> Iterator[str]:
    state, reason = row["state"], row["reason"]
    if state == "claimed":
        yield f"It is in hand; without an outcome by {clock_time(row['lease_until'])} it becomes unknown."
    elif state == "unknown":
        yield _unknown(row, beside)
    elif state == RETRY_STATE and reason in HELD and row["next_attempt_at"] > beside.now:
        yield _held(row, beside)
    elif state == RETRY_STATE:
        why = _WHY.get(reason, f"its provider did not take it: {reason}")
        due = row["next_attempt_at"]
        when = f"at {clock_time(due)}" if due > beside.now else f"since {clock_time(due)}, as soon as its sink takes it up"
        yield f"It waits for its next attempt {when} ({why})."
        if beside.stops:
            yield f"Then it will be held by {_named(beside.stops)}."
    if state in (RETRY_STATE, "claimed") and beside.breaker is not None:
        yield f"The breaker of {row['channel']} is {beside.breaker}. Single calls look whether that is over; no others are made."


def _held(row: Mapping[str, Any], beside: Around) -> str:
    """Say what holds it, how it is let go, and what becomes of it otherwise."""
    until = f"until {clock_time(row['next_attempt_at'])}"
    if row["reason"] == STOPPED:
        if not beside.stops:
            return "It was held by a stop that is over; the guard lets it go within seconds (`newswire run guard` must run)."
        commands = " and ".join(f'`newswire resume {_scope(subject)} --reason "..."`' for subject in beside.stops)
        return f"It is held by {_named(beside.stops)}, {until} at most; then it is not sent (stopped). {commands} lets it go."
    assert row["reason"] == CANARY
    return (
        f"It is held {until} at most, while the canary of {row['source_id']} is out; then it is not sent (expired). The guard "
        "lets it go canary_hold_min minutes after the canary was sent, unless the brake stops the source; defining the "
        "newsletter with canary_share 0 lets it go now."
    )


def _scope(subject: str) -> str:
    """Return a stop's subject as the words of `newswire stop` and `newswire resume`."""
    kind, _, name = subject.removeprefix(STOP).partition(":")
    return {"all": "all", "ch": f"channel {name}", "src": f"source {name}"}[kind]


def _named(stops: Sequence[str]) -> str:
    return " and ".join(f"the stop of {_scope(subject)}" for subject in stops) + " (`newswire stops` says why)"


def _unknown(row: Mapping[str, Any], beside: Around) -> str:
    """Say what is done to know it, until when, and what becomes of it then."""
    if row["held"]:
        again = f'`newswire delivery retry --unknown --reason "..." {row["delivery_id"]}`'
        last = " (it was sent again meanwhile, and that attempt did not arrive)" if row["reason"] == "may_have_arrived" else ""
        return f"Whether it arrived is not known{last}, and it is held until a person decides: {again} sends it again."
    look = f"at {clock_time(row['check_at'])}" if row["check_at"] else "now"
    if row["channel"] == "webhook":
        return f"Whether it arrived is not known; its sink sends it again {look}, under the same id, which a receiver recognises."
    by = clock_time(row["outcome_at"] + timedelta(seconds=beside.window_s))
    then = "sent again" if row["source_kind"] == "alert" and beside.alerts == "resend" else "held until a person decides"
    return (
        f"Whether it arrived is not known; its sink looks {look} whether {_SIGNS[row['channel']]}, and goes on until {by}. "
        f"What is not known by then is {then}, unless its on_unknown says otherwise."
    )


def _in_doubt(row: Mapping[str, Any]) -> Iterator[str]:
    """Say so when an earlier attempt may have arrived: delivery-status says unknown until it is known better."""
    if row["state"] not in (RETRY_STATE, "claimed"):
        return
    doubtful = [one for one in row["history"] or () if one["state"] == "unknown" and one.get("reported_at")]
    if doubtful:
        yield (
            f"Attempt {doubtful[-1]['attempt']} may have arrived, so delivery-status and the read models say unknown until this "
            "one has ended: to be sent again does not undo that."
        )
