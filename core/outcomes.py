"""Outcomes of one delivery: what a sink made of it, as values. An expected failure is never an exception.

Each outcome stands for a state of the ledger and, but for Retry, for one event of delivery-status. `error` is what the provider
said, as it said it: it may hold personal data, so it is compared and shown nowhere before core/redacting.py has seen it.
"""

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from core.names import FAILURE_REASONS, SKIP_REASONS, STATE_RANK, STATUS_EVENTS, UNKNOWN_REASONS


@dataclass(frozen=True, slots=True)
class Sent:
    """The provider accepted the message; receipt is its id for it, as text."""

    receipt: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """Not sent on purpose; no call was made in this attempt."""

    reason: str

    def __post_init__(self) -> None:
        assert self.reason in SKIP_REASONS, self.reason


@dataclass(frozen=True, slots=True)
class Retry:
    """The provider did not take it for a passing reason; after_s is the shortest wait, in seconds."""

    after_s: float
    reason: str
    error: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        assert self.after_s >= 0, self.after_s


@dataclass(frozen=True, slots=True)
class Dead:
    """The provider refused it for good."""

    reason: str
    error: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        assert self.reason in FAILURE_REASONS, self.reason


@dataclass(frozen=True, slots=True)
class Unknown:
    """A call began and its answer is not known: the message may or may not have arrived."""

    reason: str
    error: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        assert self.reason in UNKNOWN_REASONS, self.reason


Refusal = Retry | Dead | Unknown
"""What a call that did not succeed comes to."""
Outcome = Sent | Skipped | Refusal


def told(outcome: Refusal, error: str) -> Refusal:
    """Return an outcome with what the provider said about it."""
    return replace(outcome, error=error)


RETRY_STATE: Final = "retry"
"""State of the ledger for a parked delivery; to readers of delivery-status it is still pending."""

STATE_OF: Final = MappingProxyType({Sent: "sent", Skipped: "suppressed", Retry: RETRY_STATE, Dead: "failed", Unknown: "unknown"})
"""Outcome and the ledger's state."""

EVENT_OF_STATE: Final = MappingProxyType({state: event for event, state in STATUS_EVENTS.items()})
"""State and its event of delivery-status; a parked delivery has none yet."""


def state_of(outcome: Outcome) -> str:
    """Return the ledger's state for an outcome."""
    return STATE_OF[type(outcome)]


def reason_of(outcome: Outcome) -> str | None:
    """Return the typed reason of an outcome; None for Sent."""
    return None if isinstance(outcome, Sent) else outcome.reason


def replaces(new: str, old: str) -> bool:
    """Return whether a state may replace another by rank: what arrives late never lowers it.

    A parked or claimed delivery is pending; both may become anything.
    """
    return STATE_RANK.get(new, STATE_RANK["pending"]) > STATE_RANK.get(old, STATE_RANK["pending"])
