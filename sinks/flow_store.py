"""The tables of sinks/sql/002_flow.sql: tokens in blocks from the channel's bucket, and the breakers' announced
states to read; and that of 009_paces.sql: turns at destinations, in batches.

Every method is one short transaction, made again by the caller after Unavailable. Guarantee: of all processes together no
more tokens are given than the bucket has; a lost answer wastes tokens and never gives them twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString

import psycopg
from psycopg_pool import PoolTimeout

from core.errors import SetupError, Unavailable
from core.flow.bucket import Bucket, Rate, Speed
from sinks.ledger import NOT_MIGRATED, Pool

_READ: Final[LiteralString] = """
SELECT extract(epoch FROM clock_timestamp())::float8, per_s, burst, common, bulk, slowed_to,
       extract(epoch FROM slowed_at)::float8, extract(epoch FROM held_until)::float8, extract(epoch FROM filled_at)::float8
FROM ledger.buckets WHERE channel = %(channel)s
"""
_NEW: Final[LiteralString] = """
INSERT INTO ledger.buckets (channel, per_s, burst, common, bulk, slowed_at, held_until, filled_at)
VALUES (%(channel)s, %(per_s)s, %(burst)s, %(burst)s, 0, to_timestamp(0), to_timestamp(0), clock_timestamp())
ON CONFLICT DO NOTHING
"""
_WRITE: Final[LiteralString] = """
UPDATE ledger.buckets SET
    per_s = %(per_s)s, burst = %(burst)s, common = %(common)s, bulk = %(bulk)s, slowed_to = %(slowed_to)s,
    slowed_at = to_timestamp(%(slowed_at)s), held_until = to_timestamp(%(held_until)s), filled_at = to_timestamp(%(filled_at)s)
WHERE channel = %(channel)s
"""
# In the order of the destinations, so that two processes never wait for each other.
_SHARE: Final[LiteralString] = """
INSERT INTO ledger.paces AS p (channel, destination, free_at, urgent_at, held_until, took)
SELECT %(channel)s, t.destination, n.now + t.used, n.now + CASE WHEN %(urgent)s THEN t.used ELSE interval '0' END,
       n.now + t.held, t.used
FROM (SELECT clock_timestamp() AS now) n, unnest(%(destinations)s::text[], %(used)s::interval[], %(held)s::interval[])
    AS t(destination, used, held)
ORDER BY t.destination
ON CONFLICT (channel, destination) DO UPDATE SET
    free_at = greatest(p.free_at, clock_timestamp()) + excluded.took,
    urgent_at = CASE WHEN %(urgent)s THEN greatest(p.urgent_at, clock_timestamp()) + excluded.took ELSE p.urgent_at END,
    held_until = greatest(p.held_until, excluded.held_until), took = excluded.took
RETURNING p.destination,
    extract(epoch FROM CASE WHEN %(urgent)s THEN p.urgent_at ELSE p.free_at END - clock_timestamp())::float8,
    extract(epoch FROM p.held_until - clock_timestamp())::float8
"""
_FORGET: Final[LiteralString] = """
DELETE FROM ledger.paces WHERE (channel, destination) IN (
    SELECT channel, destination FROM ledger.paces
    WHERE channel = %(channel)s AND greatest(free_at, held_until) < clock_timestamp() - interval '1 minute'
    FOR UPDATE SKIP LOCKED
)
"""


@dataclass(frozen=True, slots=True)
class Noted:
    """A breaker's state as it was last announced."""

    channel: str
    destination: str
    state: str
    reason: str
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class Taken:
    """What a process took of a destination since it said so last."""

    destination: str
    """Its keyed hash as hex."""
    used_s: float
    """Time that the turns take."""
    held_s: float
    """Nothing is to go there for so long."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Tokens that a process was given, and how the bucket stands."""

    tokens: int
    per_s: float
    """Present speed."""
    held_s: float
    """Nothing is given for so long."""


class FlowStore:
    """The shared state of one channel's flow."""

    def __init__(self, pool: Pool, channel: str) -> None:
        self._pool, self._channel = pool, channel

    async def take(self, lane: str, wanted: int, rate: Rate, slow_s: float | None) -> Grant:
        """Take tokens from the channel's bucket, made when there is none, after setting its ceiling to `rate`.

        slow_s: a throttled answer asked to wait so long, so the bucket is slowed down first.
        """
        try:
            async with self._pool.connection() as connection, connection.transaction():
                now_s, bucket = await self._locked(connection, rate)
                bucket = bucket.with_rate(rate)
                if slow_s is not None:
                    bucket = bucket.slowed(now_s, slow_s)
                bucket, tokens = bucket.grant(lane, wanted, now_s)
                await connection.execute(_WRITE, {"channel": self._channel, **_columns(bucket)})
                return Grant(tokens, bucket.speed.at(now_s), max(0.0, bucket.held_until_s - now_s))
        except NOT_MIGRATED as error:
            raise SetupError(f"the ledger has no schema ({str(error).splitlines()[0]}): run `newswire migrate`.") from error
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
            raise Unavailable("the ledger's database does not answer") from error

    async def _locked(self, connection: psycopg.AsyncConnection, rate: Rate) -> tuple[float, Bucket]:
        while True:
            cursor = await connection.execute(_READ + "FOR UPDATE", {"channel": self._channel})
            row = await cursor.fetchone()
            if row is not None:
                return row[0], _bucket(row)
            await connection.execute(_NEW, {"channel": self._channel, "per_s": rate.per_s, "burst": rate.burst})

    async def share(self, lane: str, taken: Sequence[Taken]) -> list[tuple[str, float, float]]:
        """Add what a process took of destinations; return of each how far off the end of all turns is (for urgent, of urgent's
        turns), and of a pause; either may have passed."""
        values = {
            "channel": self._channel, "urgent": lane == "urgent", "destinations": [one.destination for one in taken],
            "used": [timedelta(seconds=one.used_s) for one in taken],
            "held": [timedelta(seconds=one.held_s) for one in taken],
        }  # fmt: skip
        return await self._rows(_SHARE, values)

    async def forget(self) -> None:
        """Drop destinations that are not in use any more."""
        await self._rows(_FORGET, {"channel": self._channel})

    async def _rows(self, statement: LiteralString, values: Mapping[str, Any] | Sequence[Any]) -> list[Any]:
        try:
            async with self._pool.connection() as connection:
                cursor = await connection.execute(statement, values)
                return await cursor.fetchall() if cursor.description else []
        except NOT_MIGRATED as error:
            raise SetupError(f"the ledger has no schema ({str(error).splitlines()[0]}): run `newswire migrate`.") from error
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
            raise Unavailable("the ledger's database does not answer") from error

    async def noted(self) -> list[Noted]:
        """Return the channel's breakers as they were last announced."""
        return [Noted(*row) for row in await self._rows(NOTED, [[self._channel]])]


NOTED: Final[LiteralString] = (
    "SELECT channel, destination, state, reason, changed_at FROM ledger.breakers WHERE channel = ANY(%s::text[]) ORDER BY 1, 2"
)


def read_bucket(connection: psycopg.Connection, channel: str) -> tuple[Bucket, float] | None:
    """Return a channel's bucket and the database's time, for people to look at; None when no process has used it yet."""
    row = connection.execute(_READ, {"channel": channel}).fetchone()
    return None if row is None else (_bucket(row), row[0])


def _bucket(row: tuple[float, ...]) -> Bucket:
    _, per_s, burst, common, bulk, slowed_to, slowed_at, held_until, filled_at = row
    return Bucket(Speed(per_s, slowed_to, slowed_at), burst, common, bulk, filled_at, held_until)


def _columns(bucket: Bucket) -> dict[str, float | None]:
    return {
        "per_s": bucket.speed.ceiling,
        "burst": bucket.burst,
        "common": bucket.common,
        "bulk": bucket.bulk,
        "slowed_to": bucket.speed.slowed_to,
        "slowed_at": bucket.speed.slowed_at_s,
        "held_until": bucket.held_until_s,
        "filled_at": bucket.at_s,
    }
