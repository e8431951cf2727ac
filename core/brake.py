"""The brake: whether what a source sends comes back so often that it must pause. Pure.

A source is weighed over what it sent within the last day, or over its last 500 when these are fewer; below 500 nothing is
said, because one complaint would decide. The limits are those at which Amazon SES puts an account under review (5 % bounces,
0.1 % complaints), applied to each source, so that one of them pauses before all of them must.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

MIN_SENT: Final = 500
"""Fewer sends than these are not weighed."""
WINDOW: Final = timedelta(hours=24)
"""How far back is weighed when that is enough."""
MAX_BOUNCED: Final = 0.05
MAX_COMPLAINED: Final = 0.001
"""Largest shares of what was sent that may come back."""


@dataclass(frozen=True, slots=True)
class Sends:
    """How many were sent from an instant on, until the next such instant."""

    since: datetime
    sent: int


@dataclass(frozen=True, slots=True)
class Weight:
    """What was sent since an instant, and what came back since then."""

    since: datetime
    sent: int
    bounced: int
    complained: int

    @property
    def reason(self) -> str | None:
        """Which limit is passed: complained, bounced, or None."""
        if self.complained > MAX_COMPLAINED * self.sent:
            return "complained"
        return "bounced" if self.bounced > MAX_BOUNCED * self.sent else None

    def words(self) -> str:
        """Return the figures for people."""
        return (
            f"{self.bounced} bounced ({self.bounced / self.sent:.1%}) and {self.complained} complained "
            f"({self.complained / self.sent:.2%}) of {self.sent} sent since {self.since:%Y-%m-%d %H:%M} UTC"
        )


def window(sends: Iterable[Sends], now: datetime) -> tuple[datetime, int] | None:
    """Return since when a source is weighed and how many it sent since then; None when that is too little. In any order."""
    since, sent = now, 0
    for one in sorted(sends, key=lambda one: one.since, reverse=True):
        if one.since < min(since, now - WINDOW) and sent >= MIN_SENT:
            break  # not between sends of one instant, which would make their order count
        since, sent = one.since, sent + one.sent
    return (since, sent) if sent >= MIN_SENT else None
