"""What is said of a channel's breakers: of all its processes together, the worst.

Consumes the changes of one process's breakers; produces ChannelStateChanged on controls when what holds for all processes of
the channel changes. State: what each process holds, in ledger.breaker_views, and what was announced, in ledger.breakers. One
process at a time decides and produces, so that the events have the order of the decisions. Guarantee: a breaker that one living
process holds open is announced as open, whatever the others find; what a process held that has not been seen for GONE_S counts
no more. A crash in between announces nothing wrong, at most the same again. Nothing here is done for a message.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, LiteralString

import psycopg
from psycopg_pool import PoolTimeout

from core.errors import SetupError, Unavailable
from core.flow.breaker import Change
from runtime.clock import Clock
from runtime.producer import Producer
from schemas.codec import Codec
from schemas.records import Record
from schemas.topics import Topics
from sinks.flow_store import Noted
from sinks.ledger import NOT_MIGRATED, Pool
from sinks.settle import gather, persist

ROUND_S: Final = 5.0
"""How often a process says that it lives, and looks for those that are gone."""
GONE_S: Final = 20.0
"""A process that has not said so for this long is gone: four rounds."""

_LIVES: Final[LiteralString] = """
INSERT INTO ledger.breaker_processes (process, channel, seen_at) VALUES (%(process)s, %(channel)s, clock_timestamp())
ON CONFLICT (process) DO UPDATE SET seen_at = clock_timestamp() RETURNING xmax = 0
"""
_GONE: Final[LiteralString] = """
SELECT process FROM ledger.breaker_processes
WHERE channel = %(channel)s AND process <> %(process)s
  AND seen_at < clock_timestamp() - make_interval(secs => %(gone_s)s::float8)
"""
_TURN: Final[LiteralString] = "SELECT pg_advisory_xact_lock(hashtext('ledger.breakers'), hashtext(%(channel)s))"
_FORGET: Final[LiteralString] = """
WITH gone AS (
    DELETE FROM ledger.breaker_processes WHERE process IN (
        SELECT process FROM ledger.breaker_processes
        WHERE channel = %(channel)s AND process <> %(process)s
          AND seen_at < clock_timestamp() - make_interval(secs => %(gone_s)s::float8)
        FOR UPDATE SKIP LOCKED
    ) RETURNING process
)
DELETE FROM ledger.breaker_views WHERE process IN (SELECT process FROM gone) RETURNING destination
"""
_HOLDS: Final[LiteralString] = """
INSERT INTO ledger.breaker_views (channel, destination, process, state, reason)
VALUES (%(channel)s, %(destination)s, %(process)s, %(state)s, %(reason)s)
ON CONFLICT (channel, destination, process) DO UPDATE SET state = excluded.state, reason = excluded.reason
"""
_CLOSED: Final[LiteralString] = """
DELETE FROM ledger.breaker_views WHERE channel = %(channel)s AND destination = %(destination)s AND process = %(process)s
"""
_WORST: Final[LiteralString] = """
SELECT state, reason FROM ledger.breaker_views WHERE channel = %(channel)s AND destination = %(destination)s
ORDER BY state = 'open' DESC, process = %(process)s DESC LIMIT 1
"""
_BEFORE: Final[LiteralString] = """
SELECT state FROM ledger.breakers WHERE channel = %(channel)s AND destination = %(destination)s
"""
_SAY: Final[LiteralString] = """
INSERT INTO ledger.breakers (channel, destination, state, reason, changed_at)
VALUES (%(channel)s, %(destination)s, %(state)s, %(reason)s, %(at)s)
ON CONFLICT (channel, destination) DO UPDATE SET
    state = excluded.state, reason = excluded.reason, changed_at = excluded.changed_at
"""
_END: Final[LiteralString] = "DELETE FROM ledger.breakers WHERE channel = %(channel)s AND destination = %(destination)s"


@dataclass(frozen=True, slots=True)
class Changed:
    """A change of one of this process's breakers."""

    destination: str
    """Its hash as hex, "" for the provider."""
    change: Change
    at: datetime


class Announcer:
    """The announcing part of one sink process."""

    def __init__(
        self, pool: Pool, codec: Codec, topics: Topics, producer: Producer, changes: "asyncio.Queue[Changed]", clock: Clock, *,
        channel: str,
    ) -> None:  # fmt: skip
        self._pool, self._codec, self._topics, self._producer = pool, codec, topics, producer
        self._changes, self._clock, self._channel = changes, clock, channel
        self._process = uuid.uuid4()
        self._held: dict[str, Changed] = {}
        """What is not closed, by destination."""
        self._seen_s: float | None = None

    async def run(self) -> None:
        """Take what changes to all, and drop what gone processes left, for ever."""
        while True:
            changes: list[Changed] = []
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROUND_S):
                    changes = await gather(self._changes, 500)
            await persist("breakers", partial(self.take, changes))

    async def take(self, changes: Sequence[Changed]) -> None:
        """Take changes of this process, and announce what they and gone processes change for all.

        Unavailable when the ledger or Kafka does not answer: then it is to be done again.
        """
        for one in changes:
            self._held.pop(one.destination, None)
            if one.change.state != "closed":
                self._held[one.destination] = one
        now_s = self._clock.monotonic()
        try:
            async with self._pool.connection() as connection, connection.transaction():
                again = await self._live(connection, changes)
                gone = await self._gone(connection, now_s)
                if changes or again or gone:
                    await connection.execute(_TURN, {"channel": self._channel})
                    left = await self._forget(connection) if gone else []
                    noted = [await self._note(connection, one) for one in (*again, *changes, *left)]
                    await self._producer.send(self._records(one for one in noted if one is not None))
        except NOT_MIGRATED as error:
            raise SetupError(f"the ledger has no schema ({str(error).splitlines()[0]}): run `newswire migrate`.") from error
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
            raise Unavailable("the ledger's database does not answer") from error
        self._seen_s = now_s

    async def _live(self, connection: psycopg.AsyncConnection, changes: Sequence[Changed]) -> list[Changed]:
        """Say that this process lives while it holds anything; return what is to be written once more: it was taken for gone."""
        if not self._held and not changes:
            return []
        cursor = await connection.execute(_LIVES, self._values())
        row = await cursor.fetchone()
        assert row is not None
        fresh = {one.destination for one in changes}
        return [one for one in self._held.values() if one.destination not in fresh] if row[0] else []

    async def _gone(self, connection: psycopg.AsyncConnection, now_s: float) -> bool:
        """Return whether a process is gone; not after a time in which this one could not ask, because then no other could."""
        if self._seen_s is None or now_s - self._seen_s > GONE_S / 2:
            return False
        cursor = await connection.execute(_GONE, self._values(gone_s=GONE_S))
        return await cursor.fetchone() is not None

    async def _forget(self, connection: psycopg.AsyncConnection) -> list[Changed]:
        """Drop what the gone ones held; return what this process holds of the same breakers, mostly that they are closed."""
        cursor = await connection.execute(_FORGET, self._values(gone_s=GONE_S))
        left = {row[0] async for row in cursor}
        ended = Change("closed", "the process for which it was not closed has ended")
        return [self._held.get(each) or Changed(each, ended, self._clock.now()) for each in sorted(left)]

    async def _note(self, connection: psycopg.AsyncConnection, one: Changed) -> Noted | None:
        """Write down what this process holds; return what is to be announced, None when nothing changes for all."""
        state, reason = one.change.state, one.change.reason
        values = self._values(destination=one.destination, state=state, reason=reason, at=one.at)
        await connection.execute(_CLOSED if state == "closed" else _HOLDS, values)
        worst = await (await connection.execute(_WORST, values)).fetchone()
        before = await (await connection.execute(_BEFORE, values)).fetchone()
        if worst is not None:
            state, reason = worst
        if state == (before[0] if before else "closed"):
            return None
        ended = one.destination and state == "closed"
        await connection.execute(_END if ended else _SAY, {**values, "state": state, "reason": reason})
        return Noted(self._channel, one.destination, state, reason, one.at)

    def _values(self, **more: Any) -> dict[str, Any]:
        return {"channel": self._channel, "process": self._process, **more}

    def _records(self, announced: Iterable[Noted]) -> list[Record]:
        records = []
        for one in announced:
            control_id = f"breaker/{self._channel}" + (f"/{one.destination}" if one.destination else "")
            value = {
                "control_id": control_id,
                "channel": self._channel,
                "destination_hash": bytes.fromhex(one.destination) if one.destination else None,
                "state": one.state,
                "reason": one.reason,
                "changed_at": one.changed_at,
            }
            source, topic = f"/newswire/sinks/{self._channel}", self._topics.controls
            records.append(
                self._codec.encode(topic, "ChannelStateChanged", value, key=control_id, time=one.changed_at, source=source)
            )
        return records
