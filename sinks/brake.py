"""The brake's part of the guard: counts what was sent and what came back, and stops a source that passes a limit.

Consumes delivery-status without a group; produces ControlChanged source/<newsletter_id or alert_id>, stop, by `brake`. State:
ledger.sends and ledger.returns with the offsets, in one transaction, so that a restart counts nothing twice (what is reported
twice after a crash adds to the sends, never to the returns). A source that was resumed begins anew; test sends count nothing.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString

import psycopg
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message
from psycopg_pool import PoolTimeout

from core.brake import MIN_SENT, WINDOW, Sends, Weight, window
from core.errors import CodecError, Unavailable
from core.ids import is_test
from runtime import metrics
from runtime.clock import Clock
from runtime.kafka import admin_client, assign, is_passing, make_consumer, partitions_of, take, to_raw
from runtime.settings import Settings
from schemas.codec import TYPE_PREFIX, Codec
from schemas.topics import Topics
from sinks.consent import source_of
from sinks.knowledge import Knowledge
from sinks.ledger import Pool

BATCH: Final = 5_000
"""Most records of delivery-status in one transaction."""
POLL_S: Final = 0.2
KEPT: Final = timedelta(days=35)
"""Counts are kept for as long as a monthly newsletter needs."""
FORGET_EVERY_S: Final = 3600.0
CAME_BACK: Final = ("bounced", "complained")

_NEW: Final[LiteralString] = """
INSERT INTO ledger.sends_progress (topic, partition, next_offset)
SELECT topic, partition, 0 FROM unnest(%s::text[], %s::int[]) AS given (topic, partition) ON CONFLICT DO NOTHING
"""
_SENDS: Final[LiteralString] = """
INSERT INTO ledger.sends AS s (source, channel, since, source_id, sent, first_at)
SELECT * FROM unnest(%s::text[], %s::text[], %s::timestamptz[], %s::text[], %s::bigint[], %s::timestamptz[])
ON CONFLICT (source, channel, since, source_id) DO UPDATE SET
    sent = s.sent + excluded.sent, first_at = least(s.first_at, excluded.first_at)
"""
_RETURNS: Final[LiteralString] = """
INSERT INTO ledger.returns (delivery_id, source, channel, source_id, reason, at)
SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::timestamptz[]) ON CONFLICT DO NOTHING
"""
_PROGRESS: Final[LiteralString] = """
UPDATE ledger.sends_progress p SET next_offset = given.next_offset
FROM unnest(%s::text[], %s::int[], %s::bigint[]) AS given (topic, partition, next_offset)
WHERE p.topic = given.topic AND p.partition = given.partition
"""
_RETURNED_OF: Final[LiteralString] = """
SELECT reason, count(*) FROM ledger.returns
WHERE source = %(source)s AND channel = %(channel)s AND at >= %(since)s
  AND (%(slot)s::text IS NULL OR source_id = %(slot)s::text) GROUP BY reason
"""
_SENT_OF: Final[LiteralString] = """
SELECT since, sent, source_id FROM ledger.sends WHERE source = %s AND channel = %s AND since >= %s
"""
_LATELY: Final[LiteralString] = "SELECT DISTINCT source, channel FROM ledger.returns WHERE at >= %s"

_SENT, _FAILED = (f"{TYPE_PREFIX}{name}".encode() for name in ("DeliverySent", "DeliveryFailed"))

log = logging.getLogger(__name__)
_Key = tuple[str, str]
"""Source and channel."""


class Brake:
    """Counts and weighs. Used from one task."""

    def __init__(
        self, settings: Settings, topics: Topics, codec: Codec, pool: Pool, knowledge: Knowledge,
        control: Callable[[str, str, str, str], Awaitable[None]], clock: Clock,
    ) -> None:  # fmt: skip
        self._settings, self._topic, self._pool, self._knowledge = settings, topics.delivery_status, pool, knowledge
        self._codec, self._control, self._clock = codec, control, clock
        self._consumer: Consumer | None = None
        self._behind: set[int] = set()
        self._touched: set[_Key] = set()
        self._braked: dict[str, datetime | None] = {}
        self._forgot_at = float("-inf")

    async def open(self) -> None:
        """Begin where the counts end."""
        partitions = await asyncio.to_thread(partitions_of, admin_client(self._settings), [self._topic])
        async with self._connection() as connection:
            await connection.execute(_NEW, [[t for t, _ in partitions], [p for _, p in partitions]])
            cursor = await connection.execute(
                "SELECT topic, partition, next_offset FROM ledger.sends_progress WHERE topic = %s", [self._topic]
            )
            positions = {(topic, partition): offset async for topic, partition, offset in cursor}
            cursor = await connection.execute(_LATELY, [self._clock.now() - timedelta(days=1)])
            self._touched = {(source, channel) async for source, channel in cursor}
        self._behind = {partition for _, partition in positions}
        self._consumer = make_consumer(self._settings, None, auto_offset_reset="earliest", enable_partition_eof=True)
        assign(self._consumer, {tp: offset or OFFSET_BEGINNING for tp, offset in positions.items()})

    async def close(self) -> None:
        """Stop reading."""
        if self._consumer is not None:
            await asyncio.to_thread(self._consumer.close)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Give a connection; Unavailable when the database does not answer."""
        try:
            async with self._pool.connection() as connection:
                yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
            raise Unavailable(f"the ledger's database does not answer ({type(error).__name__})") from error

    def current(self) -> bool:
        """Return whether everything that was reported has been counted, as of the last reading."""
        return not self._behind

    async def round(self) -> None:
        """Count what was reported since the last round, and stop what passes a limit."""
        assert self._consumer is not None
        await self._count(await asyncio.to_thread(take, self._consumer, POLL_S, BATCH))
        if self.current():
            for source, channel in sorted(self._touched):
                await self._weigh(source, channel)
            self._touched.clear()
        await self._forget()

    async def _count(self, messages: Sequence[Message]) -> None:
        moved: dict[tuple[str, int], int] = {}
        sends: dict[tuple[str, str, datetime, str], tuple[int, datetime]] = {}
        returns: dict[str, tuple[str, str, str, str, str, datetime]] = {}
        for message in messages:
            error, partition = message.error(), message.partition() or 0
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    self._behind.discard(partition)
                elif not is_passing(error):
                    raise KafkaException(error)
                continue
            self._behind.add(partition)
            moved[self._topic, partition] = (message.offset() or 0) + 1
            headers = dict(message.headers() or ())
            kind = headers.get("ce_type")
            if kind == _SENT and (sent := _sent(headers)) is not None and not is_test(sent[0]):
                source_id, channel, at = sent
                source = source_of(source_id)
                key = (source, channel, self._bucket(source, at), source_id)
                count, first_at = sends.get(key, (0, at))
                sends[key] = count + 1, min(first_at, at)
                self._touched.add((source, channel))
            elif kind == _FAILED and (value := self._decoded(message)) is not None and _counts(value):
                source, channel, delivery_id = source_of(value["source_id"]), value["channel"], value["delivery_id"]
                returns[delivery_id] = (
                    delivery_id, source, channel, value["source_id"], value["reason"], value["occurred_at"],
                )  # fmt: skip
                self._touched.add((source, channel))
        if moved:
            await self._write(moved, sends, returns)

    def _decoded(self, message: Message) -> dict[str, Any] | None:
        try:
            return self._codec.decode(to_raw(message)).value
        except CodecError as error:
            metrics.FOLLOWER_SKIPPED.labels("brake", error.code).inc()
            return None

    def _bucket(self, source: str, at: datetime) -> datetime:
        """Return the instant from which a send is counted: its minute, or when its source was resumed within that."""
        minute, resumed_at = at.replace(second=0, microsecond=0), self._knowledge.resumed_at(f"source/{source}")
        return resumed_at if resumed_at is not None and minute < resumed_at <= at else minute

    async def _write(self, moved: dict[Any, int], sends: dict[Any, tuple[int, datetime]], returns: dict[str, Any]) -> None:
        async with self._connection() as connection, connection.transaction():
            if sends:
                rows = [(*key, count, first_at) for key, (count, first_at) in sends.items()]
                await connection.execute(_SENDS, [list(column) for column in zip(*rows, strict=True)])
            if returns:
                await connection.execute(_RETURNS, [list(column) for column in zip(*returns.values(), strict=True)])
            await connection.execute(_PROGRESS, [[t for t, _ in moved], [p for _, p in moved], list(moved.values())])

    async def _weigh(self, source: str, channel: str) -> None:
        now, resumed_at = self._clock.now(), self._knowledge.resumed_at(f"source/{source}")
        if self._knowledge.bars.has_stop(source) or (source in self._braked and self._braked[source] == resumed_at):
            return
        kept = max(now - KEPT, resumed_at or now - KEPT)
        async with self._connection() as connection:
            sent: list[Any] = []
            for since in sorted({max(now - WINDOW, kept), kept}, reverse=True):
                if sum(count for _, count, _ in sent) < MIN_SENT:
                    sent = await (await connection.execute(_SENT_OF, [source, channel, since])).fetchall()
            for slot in (None, *sorted({source_id for _, _, source_id in sent})):  # all of the source, then each slot
                found = window([Sends(at, count) for at, count, source_id in sent if slot in (None, source_id)], now)
                if found is None:
                    continue
                values = {"source": source, "channel": channel, "since": found[0], "slot": slot}
                counts = dict(await (await connection.execute(_RETURNED_OF, values)).fetchall())
                weight = Weight(*found, bounced=counts.get("bounced", 0), complained=counts.get("complained", 0))
                if weight.reason is not None:
                    await self._stop(source, channel, weight)
                    self._braked[source] = resumed_at
                    return

    async def _stop(self, source: str, channel: str, weight: Weight) -> None:
        assert weight.reason is not None
        log.error("the brake stops %s: by %s %s; look, then `newswire resume source %s`", source, channel, weight.words(), source)
        metrics.BRAKES.labels(weight.reason).inc()
        await self._control(f"source/{source}", "stop", f"by {channel}, {weight.words()}", "brake")

    async def _forget(self) -> None:
        if self._clock.monotonic() - self._forgot_at > FORGET_EVERY_S:
            self._forgot_at = self._clock.monotonic()
            limit = [self._clock.now() - KEPT]
            async with self._connection() as connection:
                await connection.execute("DELETE FROM ledger.sends WHERE since < %s", limit)
                await connection.execute("DELETE FROM ledger.returns WHERE at < %s", limit)


def _counts(value: Mapping[str, Any]) -> bool:
    """Return whether a failure came back from a reader; a test send is somebody trying something out."""
    return value["reason"] in CAME_BACK and not is_test(value["source_id"])


def _sent(headers: dict[str, bytes]) -> tuple[str, str, datetime] | None:
    """Return source_id, channel and time of a DeliverySent by its headers alone: there is one a send.

    They are those of settle.status_record; None for what somebody else wrote.
    """
    try:
        channel = headers["ce_source"].decode().rpartition("/")[2]
        return headers["correlationid"].decode(), channel, datetime.fromisoformat(headers["ce_time"].decode())
    except (KeyError, ValueError):
        metrics.FOLLOWER_SKIPPED.labels("brake", "bad_headers").inc()
        return None
