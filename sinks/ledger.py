"""The ledger: what was claimed, what came of it, and what has been reported. It is also the outbox of delivery-status.

State: ledger.deliveries in PostgreSQL; each method is one statement over arrays and one transaction. Guarantees:
- of two processes that claim a delivery one gets it; nobody gets it while consent is behind or bars it;
- an outcome is written only by the owner of that attempt, and never lowers the state's rank;
- a claim whose lease has ended without an outcome is unknown, and a late outcome of its owner replaces that.
Every method may be called again after a lost connection: what was done is recognised. Raises Unavailable when PostgreSQL
does not answer, SetupError when it was not migrated; any other error of the database is a programming error and passes.
"""

import logging
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final, LiteralString

import psycopg
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from core.errors import SetupError, Unavailable
from core.ids import day_text
from core.outcomes import RETRY_STATE
from runtime import metrics
from sinks.consent import Barred, subjects_of
from sinks.delivery import Delivery
from sinks.statements import BEGIN, CLAIM, DUE, EXPIRE, KEEP, REPORTED, UNREPORTED, WRITE, bytes_literal, literal, text_literal

DAYS_KEPT: Final = 9
"""A delivery of an earlier day has no row any more; its record in Kafka should be gone as well (7 days)."""
DAYS_AHEAD: Final = 7
"""Partitions made ahead; a delivery's day is at most 5 days ahead."""

log = logging.getLogger(__name__)
Pool = AsyncConnectionPool[psycopg.AsyncConnection[tuple[Any, ...]]]

NOT_MIGRATED: Final = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName)
"""Errors that say that the migrations have not been applied."""

SESSION: Final = (
    "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_mergejoin=off -c enable_hashjoin=off "
    "-c random_page_cost=1.1 -c jit=off"
)
"""Every statement here is a batch of look-ups by key; planned once, it must not depend on how full a partition was then. A
merge join would read a whole partition for 500 keys."""


def open_pool(url: str, connections: int) -> Pool:
    """Return a pool of autocommit connections, not opened yet."""
    return AsyncConnectionPool(
        url,
        min_size=1,
        max_size=connections,
        open=False,
        timeout=10,
        kwargs={"autocommit": True, "options": SESSION, "connect_timeout": 5},
    )


@dataclass(frozen=True, slots=True)
class Settled:
    """A delivery's present state and all that its status event needs."""

    day: date
    uuid: str
    subscriber_id: str
    source_id: str
    source_kind: str
    state: str
    reason: str | None
    attempt: int
    receipt_hash: bytes | None
    outcome_at: datetime
    template: str | None = None
    """Name and version of the template that its message was made with."""

    @property
    def delivery_id(self) -> str:
        """The printed id."""
        return f"{day_text(self.day)}-{self.uuid}"


@dataclass(frozen=True, slots=True)
class Claims:
    """What became of a batch of claims."""

    claimed: list[Delivery]
    settled: list[Settled]
    """Suppressed just now, or settled before: to be reported (again)."""
    left: list[Delivery]
    """Claimed by another process, parked, or unknown: the sweeper sees to them."""


@dataclass(frozen=True, slots=True)
class Result:
    """An outcome of one delivery as the ledger stores it."""

    delivery: Delivery
    state: str
    reason: str | None
    receipt_hash: bytes | None = None
    receipt: bytes | None = None
    after_s: float = 0.0
    """For a parked delivery: how long it waits at least."""
    uncalled: bool = False
    """No call was made in this attempt, so it does not count."""
    refused: str | None = None
    """For an unknown that stays so: state and reason of its last attempt, which did not arrive, such as failed/rejected."""


@dataclass(frozen=True, slots=True)
class Parked:
    """A parked delivery that is due and claimed again."""

    raw: bytes
    attempt: int
    rounds: int
    in_doubt: bool
    """An earlier attempt may have arrived."""


class Ledger:
    """The ledger as one sink process of one channel and lane sees it."""

    def __init__(
        self, pool: Pool, *, channel: str, lane: str, lease_s: float, consent_lag_s: float, owner: uuid.UUID | None = None
    ) -> None:
        """`owner` names this process in its claims; a new one for every process."""
        self._pool, self._channel, self._lane = pool, channel, lane
        self._lease_s, self._consent_lag_s = lease_s, consent_lag_s
        self.owner = owner or uuid.uuid4()
        self._days: set[date] = set()

    async def _rows(self, statement: LiteralString, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        try:
            async with self._pool.connection() as connection, connection.cursor(row_factory=tuple_row) as cursor:
                await cursor.execute(statement, values)
                return await cursor.fetchall()
        except NOT_MIGRATED as error:
            raise SetupError(f"the ledger has no schema ({str(error).splitlines()[0]}): run `newswire migrate`.") from error
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
            raise Unavailable(
                f"the ledger's database does not answer: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            ) from error

    async def rows(self, statement: LiteralString, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Return the rows of a statement of another module's; Unavailable when the database does not answer."""
        return await self._rows(statement, values)

    async def keep_requests(self, deliveries: Sequence[Delivery]) -> None:
        """Keep the requests of deliveries that another process claimed: should it have died, their resolution needs them."""
        values = {
            "days": literal(d.day.isoformat() for d in deliveries),
            "ids": literal(d.uuid for d in deliveries),
            "requests": bytes_literal(d.raw for d in deliveries),
        }
        await self._rows(KEEP, values)

    async def ensure_days(self, today: date) -> None:
        """Create the partitions from yesterday to DAYS_AHEAD days ahead."""
        await self._ensure(today - timedelta(days=1), today + timedelta(days=DAYS_AHEAD))

    async def _ensure(self, first: date, last: date) -> None:
        await self._rows("SELECT ledger.ensure_days(%(first)s, %(last)s)", {"first": first, "last": last})
        self._days |= {first + timedelta(days=n) for n in range((last - first).days + 1)}

    async def claim(self, deliveries: Sequence[Delivery], now_s: float) -> Claims | None:
        """Claim deliveries, each at most once in the batch; None when consent is behind and nothing was claimed.

        now_s is the monotonic time before the call: the lease is counted from there.
        """
        for missing in sorted({d.day for d in deliveries} - self._days):
            await self._ensure(missing, missing)
        known = {d.uuid: d for d in deliveries}
        assert len(known) == len(deliveries), "a delivery twice in one batch of claims"
        subjects = [(str(number), *subject) for number, d in enumerate(deliveries, 1) for subject in subjects_of(d)]
        rows = await self._rows(
            CLAIM,
            {
                "channel": self._channel,
                "lane": self._lane,
                "owner": self.owner,
                "lease_s": self._lease_s,
                "lag_s": self._consent_lag_s,
                "days": literal(d.day.isoformat() for d in deliveries),
                "ids": literal(known),
                "sources": text_literal(d.source_id for d in deliveries),
                "kinds": text_literal(d.source_kind for d in deliveries),
                "subscribers": literal(d.subscriber_id for d in deliveries),
                "newsletters": text_literal(d.newsletter_id for d in deliveries),
                "not_afters": literal(f'"{d.not_after.isoformat()}"' for d in deliveries),
                "templates": text_literal(d.template for d in deliveries),
                "bar_numbers": literal(number for number, _, _ in subjects),
                "bar_subjects": text_literal(subject for _, subject, _ in subjects),
                "bar_exceptions": text_literal(exception for _, _, exception in subjects),
            },
        )
        return self._claims(known, rows, now_s)

    def _claims(self, deliveries: dict[str, Delivery], rows: list[tuple[Any, ...]], now_s: float) -> Claims | None:
        claims = Claims([], [], [])
        for uid, state, reason, attempt, receipt_hash, outcome_at, template, holder in rows:
            if state == "lagging":
                return None
            delivery = deliveries.pop(uid)
            if holder is not None and state == "claimed":
                # "mine" is a claim whose answer was lost: how old it is is not known, so its lease is renewed before the call
                delivery.attempt, delivery.tries = attempt, 0
                delivery.lease_ends_s = now_s + self._lease_s if holder == "fresh" else now_s
                claims.claimed.append(delivery)
            elif state in ("claimed", RETRY_STATE, "unknown"):
                claims.left.append(delivery)
            else:
                claims.settled.append(_settled(delivery, state, reason, attempt, receipt_hash, outcome_at, template))
                if attempt:
                    metrics.SETTLED_AGAIN.labels(self._channel).inc()
        claims.left.extend(deliveries.values())
        return claims

    async def write_outcomes(self, results: Sequence[Result]) -> list[Settled]:
        """Write outcomes; return those to be reported. Of what another owner or attempt has overtaken nothing is written."""
        waiting = {r.delivery.uuid: r for r in results}
        assert len(waiting) == len(results), "two outcomes of one delivery in one batch"
        rows = await self._rows(
            WRITE,
            {
                "owner": self.owner,
                "days": literal(r.delivery.day.isoformat() for r in results),
                "ids": literal(waiting),
                "attempts": literal(str(r.delivery.attempt) for r in results),
                "states": text_literal(r.state for r in results),
                "reasons": text_literal(r.reason for r in results),
                "hashes": bytes_literal(r.receipt_hash for r in results),
                "receipts": bytes_literal(r.receipt for r in results),
                "after": literal(f"{r.after_s:.3f}" for r in results),
                "requests": bytes_literal(r.delivery.raw if r.state in (RETRY_STATE, "unknown") else None for r in results),
                "uncalled": literal("1" if r.uncalled else "0" for r in results),
                "call_ms": _numbers(None if r.uncalled else r.delivery.call_ms for r in results),
                "refused": text_literal(r.refused for r in results),
                "templates": text_literal(r.delivery.template for r in results),
                "errors": text_literal(r.delivery.error for r in results),
            },
        )
        settled = []
        for uid, state, reason, attempt, receipt_hash, outcome_at, template, mine in rows:
            result = waiting.pop(uid, None)
            if result is None:
                continue  # written now, and seen as it was before as well
            if not mine or state != result.state:
                log.warning("%s: outcome %s came too late: the ledger says %s", result.delivery.delivery_id, result.state, state)
            elif state != RETRY_STATE:
                settled.append(_settled(result.delivery, state, reason, attempt, receipt_hash, outcome_at, template))
        return settled

    async def begin_attempt(self, deliveries: Sequence[Delivery], now_s: float, *, again: bool) -> list[Delivery]:
        """Renew the leases, with again=True for one more attempt; return those whose claim still held."""
        rows = await self._rows(
            BEGIN,
            {
                "owner": self.owner,
                "lease_s": self._lease_s,
                "more": int(again),
                "days": literal(d.day.isoformat() for d in deliveries),
                "ids": literal(d.uuid for d in deliveries),
                "attempts": literal(str(d.attempt) for d in deliveries),
                "reasons": text_literal(d.refused for d in deliveries),
                "call_ms": _numbers(d.call_ms for d in deliveries),
                "templates": text_literal(d.template for d in deliveries),
                "errors": text_literal(d.error for d in deliveries),
            },
        )
        attempts = dict(rows)
        held = [d for d in deliveries if d.uuid in attempts]
        for delivery in held:
            delivery.attempt, delivery.lease_ends_s = attempts[delivery.uuid], now_s + self._lease_s
            if again:
                delivery.called, delivery.error = False, None
        return held

    async def mark_reported(self, settled: Sequence[Settled]) -> None:
        """Note that delivery-status has acknowledged these states."""
        values = {
            "days": literal(s.day.isoformat() for s in settled),
            "ids": literal(s.uuid for s in settled),
            "states": text_literal(s.state for s in settled),
            "attempts": literal(str(s.attempt) for s in settled),
        }
        await self._rows(REPORTED, values)

    async def expire_leases(self, limit: int) -> list[Settled]:
        """Turn claims whose lease has ended without an outcome into unknown(lease_expired) and return them."""
        rows = await self._rows(EXPIRE, {"channel": self._channel, "lane": self._lane, "limit": limit})
        return [Settled(*row) for row in rows]

    async def unreported(self, older_than_s: float, limit: int) -> list[Settled]:
        """Return outcomes that nobody has reported although they are older than that."""
        values = {"channel": self._channel, "lane": self._lane, "older_than_s": older_than_s, "limit": limit}
        return [Settled(*row) for row in await self._rows(UNREPORTED, values)]

    async def claim_due(self, limit: int) -> list[Parked]:
        """Claim parked deliveries whose time has come, the longest waiting first; none while consent is behind."""
        values = {
            "channel": self._channel,
            "lane": self._lane,
            "owner": self.owner,
            "lease_s": self._lease_s,
            "lag_s": self._consent_lag_s,
            "limit": limit,
        }
        return [Parked(*row) for row in await self._rows(DUE, values)]

    async def consent(self) -> tuple[list[tuple[str, Barred]], dict[tuple[str, int], int]]:
        """Return all barred subjects and the offsets up to which they hold, read in one snapshot."""
        try:
            async with self._pool.connection() as connection, connection.transaction():
                await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                cursor = await connection.execute("SELECT subject, reason, since, except_for FROM ledger.barred")
                rows = [
                    (subject, Barred(reason, since, None if except_for is None else tuple(except_for)))
                    async for subject, reason, since, except_for in cursor
                ]
                cursor = await connection.execute("SELECT topic, partition, next_offset FROM ledger.consent_progress")
                return rows, {(topic, partition): offset async for topic, partition, offset in cursor}
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
            raise Unavailable("the ledger's database does not answer") from error


def _settled(
    d: Delivery, state: str, reason: str | None, attempt: int, receipt_hash: bytes | None, outcome_at: datetime,
    template: str | None,
) -> Settled:  # fmt: skip
    return Settled(
        d.day, d.uuid, d.subscriber_id, d.source_id, d.source_kind, state, reason, attempt, receipt_hash, outcome_at, template
    )


def _numbers(values: Iterable[int | None]) -> str:
    return literal("NULL" if v is None else str(v) for v in values)
