"""The ledger's rules for one delivery as a pure function, to be held against the SQL and to be played with by a machine.

Times are seconds of a virtual clock. `step` returns the row after something happened to it; what the rules do not allow
leaves the row as it is.
"""

from dataclasses import dataclass, replace

from core.outcomes import RETRY_STATE

LEASE_S = 45.0


@dataclass(frozen=True)
class Row:
    """A delivery in the ledger."""

    state: str
    owner: int
    attempt: int
    lease_until_s: float = 0.0
    next_attempt_s: float = 0.0


@dataclass(frozen=True)
class Claim:
    """A process has read the record and asks for it."""

    owner: int
    at_s: float


@dataclass(frozen=True)
class Wrote:
    """A process writes what an attempt came to."""

    owner: int
    attempt: int
    state: str
    at_s: float
    after_s: float = 0.0
    called: bool = True


@dataclass(frozen=True)
class Again:
    """A process renews its lease, with more=1 for one more attempt."""

    owner: int
    attempt: int
    more: int
    at_s: float


@dataclass(frozen=True)
class Swept:
    """A sweeper looks for ended leases."""

    at_s: float


@dataclass(frozen=True)
class Due:
    """A sweeper takes up what is parked and due."""

    owner: int
    at_s: float


Event = Claim | Wrote | Again | Swept | Due


def step(row: Row | None, event: Event) -> Row | None:
    """Return the row after an event."""
    if row is None:
        return Row("claimed", event.owner, 1, event.at_s + LEASE_S) if isinstance(event, Claim) else None
    if isinstance(event, Wrote):
        open_ = row.state == "claimed" or (row.state == "unknown" and event.state != "unknown")
        if not (open_ and row.owner == event.owner and row.attempt == event.attempt):
            return row
        attempt = row.attempt - (row.state == "claimed" and not event.called)
        due = event.at_s + event.after_s if event.state == RETRY_STATE else 0.0
        return replace(row, state=event.state, attempt=attempt, next_attempt_s=due)
    if isinstance(event, Again):
        mine = row.state == "claimed" and row.owner == event.owner and row.attempt in (event.attempt, event.attempt + event.more)
        return replace(row, attempt=event.attempt + event.more, lease_until_s=event.at_s + LEASE_S) if mine else row
    if isinstance(event, Swept):
        return replace(row, state="unknown") if row.state == "claimed" and row.lease_until_s < event.at_s else row
    if isinstance(event, Due) and row.state == RETRY_STATE and row.next_attempt_s <= event.at_s:
        return Row("claimed", event.owner, row.attempt + 1, event.at_s + LEASE_S)
    return row
