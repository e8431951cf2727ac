"""The ledger as the feedback process uses it: states of any channel by rank, the suppression list, all in arrays.

No statement waits for a row that a sink is writing: it comes back as busy and is tried again, so that the two never deadlock.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, LiteralString

from core.feedback import Effect
from core.ids import day_text
from core.names import STATE_RANK
from core.redacting import shown
from sinks.ledger import Ledger, Pool, Settled
from sinks.statements import bytes_literal, literal, text_literal

Key = tuple[date, str]
"""The ledger's key of a delivery: day and UUID."""

RANKED: Final = [state for state, _ in sorted(STATE_RANK.items(), key=lambda item: item[1])]
"""States by rank; one that is not among them (claimed, retry) is pending."""

# A row that has the state already, or a higher one, is left as it is. A call under way is overtaken: what it came to is not
# written any more (WRITE in statements.py looks for a claimed row), and the notice says as much or more.
_APPLY: Final[LiteralString] = """
WITH input AS MATERIALIZED (
    SELECT * FROM unnest(%(days)s::date[], %(ids)s::uuid[], %(states)s::text[], %(reasons)s::text[], %(hashes)s::bytea[],
        %(errors)s::text[])
        AS i(day, delivery_id, state, reason, receipt_hash, error)
),
held AS MATERIALIZED (
    SELECT i.*, e.state AS before FROM input i LEFT JOIN LATERAL (
        SELECT d.state FROM ledger.deliveries d WHERE d.day = i.day AND d.delivery_id = i.delivery_id FOR UPDATE SKIP LOCKED
    ) e ON true
),
written AS (
    UPDATE ledger.deliveries d SET
        state = h.state, reason = h.reason, receipt_hash = coalesce(d.receipt_hash, h.receipt_hash), request = NULL,
        next_attempt_at = NULL, check_at = NULL, outcome_at = clock_timestamp(), reported_at = NULL,
        error = h.error, history = ledger.remembered(d)
    FROM held h
    WHERE d.day = h.day AND d.delivery_id = h.delivery_id AND h.before IS NOT NULL
      AND array_position(%(ranked)s::text[], h.state) > coalesce(array_position(%(ranked)s::text[], h.before), %(pending)s)
    RETURNING
        d.day, d.delivery_id::text, d.subscriber_id::text, d.source_id, d.source_kind, d.state, d.reason, d.attempt,
        d.receipt_hash, d.outcome_at, d.template, d.channel, d.lane
)
SELECT * FROM written
UNION ALL
SELECT h.day, h.delivery_id::text, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM held h CROSS JOIN LATERAL (
    SELECT 1 FROM ledger.deliveries d WHERE d.day = h.day AND d.delivery_id = h.delivery_id LIMIT 1
) there
WHERE h.before IS NULL
"""

# The numbers are given out under a lock that lasts to the commit, so that whoever has read number n misses none below it.
_SUPPRESS: Final[LiteralString] = """
WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtext('ledger.suppressions')) AS taken)
INSERT INTO ledger.suppressions AS s (address_hash, channel, subscriber_id, reason, since, notice_id, address, number)
SELECT i.*, nextval('ledger.suppression_number') FROM turn CROSS JOIN unnest(
    %(hashes)s::bytea[], %(channels)s::text[], %(subscribers)s::uuid[], %(reasons)s::text[], %(since)s::timestamptz[],
    %(notices)s::text[], %(addresses)s::bytea[]
) AS i(address_hash, channel, subscriber_id, reason, since, notice_id, address)
ON CONFLICT (address_hash) DO UPDATE SET
    channel = excluded.channel, subscriber_id = excluded.subscriber_id, reason = excluded.reason, since = excluded.since,
    notice_id = excluded.notice_id, address = excluded.address, lifted_at = NULL, announced_at = NULL, number = excluded.number
WHERE s.lifted_at < excluded.since
RETURNING 1
"""
_UNANNOUNCED: Final[LiteralString] = """
SELECT address_hash FROM ledger.suppressions WHERE address_hash = ANY (%(hashes)s::bytea[]) AND announced_at IS NULL
"""
_ANNOUNCED: Final[LiteralString] = """
UPDATE ledger.suppressions SET announced_at = clock_timestamp()
WHERE address_hash = ANY (%(hashes)s::bytea[]) AND announced_at IS NULL RETURNING 1
"""
_TO_MIRROR: Final[LiteralString] = """
SELECT number, subscriber_id::text, channel, reason, address FROM ledger.suppressions
WHERE address IS NOT NULL AND number > %(after)s ORDER BY number LIMIT 100
"""
_MIRRORED: Final[LiteralString] = "UPDATE ledger.suppressions SET address = NULL WHERE number = %(number)s RETURNING 1"


@dataclass(frozen=True, slots=True)
class Moved:
    """A delivery that a notice moved to another state, to be reported."""

    settled: Settled
    channel: str
    lane: str


@dataclass(frozen=True, slots=True)
class Suppression:
    """An address that must not be used again."""

    address_hash: bytes
    channel: str
    subscriber_id: str
    reason: str
    since: datetime
    notice_id: str
    address: bytes
    """Encrypted with the subscriber's key; kept until the provider's own list has the address."""


@dataclass(frozen=True, slots=True)
class ToMirror:
    """A suppressed address that the provider's own list may not have yet."""

    number: int
    subscriber_id: str
    channel: str
    reason: str
    address: bytes


class FeedbackBook(Ledger):
    """The ledger, without a channel and lane of its own."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool, channel="", lane="", lease_s=0.0, consent_lag_s=0.0)

    async def apply(self, effects: Mapping[Key, tuple[Effect, bytes | None]]) -> tuple[list[Moved], set[Key]]:
        """Raise deliveries to a state of a higher rank; return those moved, and the keys of those that are busy."""
        rows = await self.rows(
            _APPLY,
            {
                "days": literal(day_text(day) for day, _ in effects),
                "ids": literal(uid for _, uid in effects),
                "states": text_literal(effect.state for effect, _ in effects.values()),
                "reasons": text_literal(effect.reason for effect, _ in effects.values()),
                "hashes": bytes_literal(receipt_hash for _, receipt_hash in effects.values()),
                "errors": text_literal(shown(effect.error) or None for effect, _ in effects.values()),
                "ranked": RANKED,
                "pending": RANKED.index("pending") + 1,
            },
        )
        moved, busy = list[Moved](), set[Key]()
        for row in rows:
            if row[5] is None:
                busy.add((row[0], row[1]))
            else:
                moved.append(Moved(Settled(*row[:11]), row[11], row[12]))
        return moved, busy

    async def suppress(self, found: Sequence[Suppression]) -> None:
        """Put addresses on the list; those that are on it stay as they are."""
        values = {
            "hashes": [s.address_hash for s in found],
            "channels": [s.channel for s in found],
            "subscribers": [s.subscriber_id for s in found],
            "reasons": [s.reason for s in found],
            "since": [s.since for s in found],
            "notices": [s.notice_id for s in found],
            "addresses": [s.address for s in found],
        }
        await self.rows(_SUPPRESS, values)

    async def unannounced(self, hashes: Iterable[bytes]) -> set[bytes]:
        """Return those addresses of the list whose ChannelUnlinked has not been acknowledged yet."""
        return {bytes(row[0]) for row in await self.rows(_UNANNOUNCED, {"hashes": list(hashes)})}

    async def announced(self, hashes: Iterable[bytes]) -> None:
        """Note that ChannelUnlinked has been acknowledged."""
        await self.rows(_ANNOUNCED, {"hashes": list(hashes)})

    async def to_mirror(self, after: int) -> list[ToMirror]:
        """Return addresses that the provider's own list may not have yet, at most 100 from a number on."""
        return [ToMirror(n, s, c, r, bytes(address)) for n, s, c, r, address in await self.rows(_TO_MIRROR, {"after": after})]

    async def mirrored(self, number: int) -> None:
        """Forget the encrypted address: the provider's list has it, or keeps none."""
        await self.rows(_MIRRORED, {"number": number})
