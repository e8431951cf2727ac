"""Held deliveries: letting go what a stop or a canary has held, when nothing holds it any more.

Consumes rows of the ledger that are parked as `stopped` or `canary`, of all channels; produces ControlChanged
canary/<source_id> when a canary has gone well. Guarantee: what is let go is due at once, and its sink looks at consent and
stops again; a sink that has not heard of the resume yet parks it once more, and it is let go in the next round.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString

from runtime import metrics
from runtime.clock import Clock
from sinks.consent import source_of
from sinks.knowledge import STOPPED, Knowledge
from sinks.ledger import Ledger

BATCH: Final = 1_000
"""Most rows let go in one statement."""
SMALL: Final = 20
"""With fewer canaries than this to be expected there may be none at all; then the others wait for the time only."""

# One look-up an existing (reason, source_id, channel), however many rows are held.
GROUPS: Final[LiteralString] = """
WITH RECURSIVE held AS (
    (SELECT reason, source_id, channel FROM ledger.deliveries
     WHERE state = 'retry' AND reason IN ('stopped', 'canary') ORDER BY reason, source_id, channel LIMIT 1)
    UNION ALL
    SELECT n.reason, n.source_id, n.channel FROM held h CROSS JOIN LATERAL (
        SELECT d.reason, d.source_id, d.channel FROM ledger.deliveries d
        WHERE d.state = 'retry' AND d.reason IN ('stopped', 'canary')
          AND (d.reason, d.source_id, d.channel) > (h.reason, h.source_id, h.channel)
        ORDER BY d.reason, d.source_id, d.channel LIMIT 1
    ) n
)
SELECT reason, source_id, channel FROM held
"""
RELEASE: Final[LiteralString] = """
UPDATE ledger.deliveries d SET next_attempt_at = clock_timestamp(), reason = 'released'
FROM (
    SELECT day, delivery_id FROM ledger.deliveries
    WHERE state = 'retry' AND reason IN ('stopped', 'canary')
      AND reason = %(reason)s AND source_id = %(source_id)s AND channel = %(channel)s
    LIMIT %(limit)s FOR UPDATE SKIP LOCKED
) held
WHERE d.day = held.day AND d.delivery_id = held.delivery_id
RETURNING 1
"""
FIRST_SENT: Final[LiteralString] = """
SELECT min(first_at) FROM ledger.sends WHERE source = %(source)s AND source_id = %(source_id)s
"""
WAITING: Final[LiteralString] = """
SELECT count(*), min(claimed_at) FROM (
    SELECT claimed_at FROM ledger.deliveries
    WHERE state = 'retry' AND reason IN ('stopped', 'canary') AND reason = 'canary' AND source_id = %(source_id)s LIMIT 1000
) held
"""


def canary_ends_at(
    definition: Mapping[str, Any] | None, first_sent_at: datetime | None, waiting: int, waiting_since: datetime | None
) -> datetime | None:
    """Return when the others may follow, None while that is not known; pure.

    That is so long after the canary's first send as the newsletter says, or after the others came when there is no canary.
    """
    if definition is None or definition["canary_share"] <= 0:
        return waiting_since
    share, hold = definition["canary_share"], timedelta(minutes=definition["canary_hold_min"])
    if first_sent_at is not None:
        return first_sent_at + hold
    expected = waiting * share / (1 - share)
    return waiting_since + hold if waiting_since is not None and expected < SMALL else None


class Holds:
    """The part of the guard that lets deliveries go."""

    def __init__(
        self, ledger: Ledger, knowledge: Knowledge, control: Callable[[str, str, str, str], Awaitable[None]], clock: Clock
    ) -> None:
        """`control` writes a ControlChanged: control_id, action, reason, who."""
        self._ledger, self._knowledge, self._control, self._clock = ledger, knowledge, control, clock
        self._announced: set[str] = set()

    async def round(self, *, counted: bool) -> None:
        """Let go everything that nothing holds now; canaries end only when the brake has counted all that came back."""
        for reason, source_id, channel in await self._ledger.rows(GROUPS, {}):
            if self._knowledge.bars.stopped(channel, source_id):
                continue
            if reason == STOPPED or self._knowledge.canary_passed(source_id):
                await self._release(reason, source_id, channel)
            elif counted and source_id not in self._announced:
                await self._end_canary(source_id)

    async def _end_canary(self, source_id: str) -> None:
        """Say that the others may follow, when it is time; they are let go once this process has read that as well."""
        source = source_of(source_id)
        definition = self._knowledge.newsletter(source)
        ((first_sent_at,),) = await self._ledger.rows(FIRST_SENT, {"source": source, "source_id": source_id})
        ((waiting, since),) = await self._ledger.rows(WAITING, {"source_id": source_id})
        ends_at = canary_ends_at(definition, first_sent_at, waiting, since)
        if ends_at is not None and ends_at <= self._clock.now():
            why = f"nothing stopped it until {ends_at:%Y-%m-%d %H:%M} UTC"
            await self._control(f"canary/{source_id}", "resume", why, "canary")
            self._announced.add(source_id)

    async def _release(self, reason: str, source_id: str, channel: str) -> None:
        while True:
            values = {"reason": reason, "source_id": source_id, "channel": channel, "limit": BATCH}
            count = len(await self._ledger.rows(RELEASE, values))
            metrics.RELEASED.labels(reason).inc(count)
            if count < BATCH:
                return
