"""Fan-out: one decision becomes one DeliveryRequested a delivery. One process a lane.

Consumes `decisions.<lane>`; produces `deliveries.<channel>.<lane>`. State: PostgreSQL table `fanout_chunks`, the position of the
first copy of each chunk and whether it was expanded. Ordering key: subscriber_id. Guarantee: the first copy of a chunk in the log
is expanded at least once and with the same bytes each time, later copies never; what is past not_after is not expanded.

Order of a step, and what a crash after it leaves:
1. the position of the first copy is recorded          -> later copies are dropped whatever happens next;
2. the deliveries are produced, and all reports seen   -> produced again with the same bytes; sinks drop repeated ids;
3. expanded_at is set                                   -> nothing is produced again;
4. the event is acknowledged.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from core.errors import Unavailable
from core.expanding import expand, own_fields, shared_fields
from runtime import failpoints, metrics
from runtime.postgres import async_pool
from runtime.settings import Settings
from runtime.stage import FETCH_WAIT_MS, URGENT_FETCH_WAIT_MS, Stage
from schemas import files
from schemas.assembling import Fields, real, whole
from schemas.codec import Codec
from schemas.records import Event, Record
from schemas.topics import Topics

_FIRST_COPY = """
INSERT INTO streams.fanout_chunks (source_id, shard, chunk, partition, "offset", not_after, expanded_at)
VALUES (%(source_id)s, %(shard)s, %(chunk)s, %(partition)s, %(offset)s, %(not_after)s, %(expanded_at)s)
ON CONFLICT (source_id, shard, chunk) DO UPDATE SET source_id = excluded.source_id
RETURNING partition, "offset", expanded_at IS NOT NULL
"""

_EXPANDED = "UPDATE streams.fanout_chunks SET expanded_at = %s WHERE source_id = %s AND shard = %s AND chunk = %s"

POOL_TIMEOUT_S = 5.0
"""Longest wait for a connection before the partition waits with a backoff."""


SOURCE = "/newswire/streams/fanout"
_EVENT = "DeliveryRequested"


def delivery_records(codec: Codec, topics: Topics, event: Event) -> list[Record]:
    """Return the records of a decision's deliveries; the same decision always gives the same bytes.

    The first is written in the ordinary way too: a mistake in the short cut ends the process before anything is produced.
    """
    value = event.value
    same = {"time": value["decided_at"], "source": SOURCE, "correlation_id": value["source_id"], "partition": value["shard"]}
    names = {channel: topics.deliveries(channel, value["lane"]) for channel in value["channels"]}
    shared = shared_fields(value, event.partition, event.offset)
    makers = {channel: codec.assembler(name, _EVENT, shared, **same) for channel, name in names.items()}
    items = _Items(value)
    records = []
    for own, entry in own_fields(value):
        encoded = {"items": items.encode(entry["items"])}
        records.append(makers[own["channel"]].record(own, encoded, key=own["subscriber_id"], id=own["delivery_id"]))
    for record, whole_value in zip(records[:1], expand(value, event.partition, event.offset), strict=False):
        ids = {"key": whole_value["subscriber_id"], "id": whole_value["delivery_id"]}
        assert record == codec.encode(record.topic, _EVENT, whole_value, **ids, **same), "a record was put together wrongly"
    return records


class _Items:
    """The items of a decision's deliveries as bytes: the tables that they refer to are encoded once."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        item = next(field for field in files.schema(_EVENT)["fields"] if field["name"] == "items")["type"]["items"]
        fields, names = Fields(item), [field["name"] for field in item["fields"]]
        assert names[-3:] == ["score", "reason", "propensity"], "the fields of an item have changed"
        self._publications = [b"".join(fields.encode(name, one[name]) for name in names[:-3]) for one in value["publications"]]
        self._reasons = [fields.encode("reason", reason) for reason in value["reasons"]]

    def encode(self, entries: Sequence[Mapping[str, Any]]) -> bytes:
        """Return an array: a block with the number of items, and the end."""
        if not entries:
            return b"\0"
        publications, reasons = self._publications, self._reasons
        parts = [whole(len(entries))]
        for entry in entries:
            parts += (
                publications[entry["publication"]],
                whole(entry["score"]),
                reasons[entry["reason"]],
                real(entry["propensity"]),
            )
        parts.append(b"\0")
        return b"".join(parts)


class Fanout:
    """The handler of one lane."""

    def __init__(self, stage: Stage, lane: str) -> None:
        stage.settings.require("streams_database_url")
        self._stage, self._process = stage, f"fanout-{lane}"
        self._pool: AsyncConnectionPool[Any] = async_pool(stage.settings.streams_database_url, 1, 2)
        self._open = False
        stage.consume(stage.topics.decisions(lane), self.handle)

    async def handle(self, event: Event) -> None:
        """Expand one decision unless it is a later copy, was expanded, or is past not_after."""
        value, now = event.value, self._stage.clock.now()
        chosen = len(value["chosen"])
        first, expanded = await self._first_copy(event, None if chosen else now)
        await failpoints.hit_async("fanout.after_first_copy")
        if not first:
            metrics.LATER_COPIES.labels(event.topic).inc()
            self._stage.log.warning("dropped a later copy of %s/%s at %s", value["source_id"], value["chunk"], event.offset)
        elif not expanded and now > value["not_after"]:
            for entry in value["chosen"]:
                metrics.OUTCOMES.labels(self._process, value["channels"][entry["channel"]], "refused", "expired").inc()
            self._stage.log.warning("%s is past not_after: %s deliveries refused", value["source_id"], chosen)
        elif not expanded:
            await self._expand(event)

    async def _expand(self, event: Event) -> None:
        records = delivery_records(self._stage.codec, self._stage.topics, event)
        await failpoints.hit_async("fanout.before_produce")
        await self._stage.producer.send(records)
        await failpoints.hit_async("fanout.after_produce")
        key = [event.value["source_id"], event.value["shard"], event.value["chunk"]]
        await self._execute(_EXPANDED, [self._stage.clock.now(), *key])
        await failpoints.hit_async("fanout.after_mark")

    async def _first_copy(self, event: Event, expanded_at: Any) -> tuple[bool, bool]:
        """Record the position of the first copy; return whether it is this one, and whether it was expanded."""
        value = event.value
        row = await self._execute(
            _FIRST_COPY,
            {
                "source_id": value["source_id"],
                "shard": value["shard"],
                "chunk": value["chunk"],
                "partition": event.partition,
                "offset": event.offset,
                "not_after": value["not_after"],
                "expanded_at": expanded_at,
            },
        )
        assert row is not None
        return (row[0], row[1]) == (event.partition, event.offset), row[2]

    async def _execute(self, statement: str, parameters: Any) -> tuple[Any, ...] | None:
        try:
            if not self._open:
                await self._pool.open()
                self._open = True
            async with self._pool.connection(timeout=POOL_TIMEOUT_S) as connection:
                cursor = await connection.execute(statement, parameters)
                row: tuple[Any, ...] | None = await cursor.fetchone() if cursor.description else None
                return row
        except (psycopg.OperationalError, PoolTimeout) as error:
            raise Unavailable(f"PostgreSQL of the streams does not answer: {type(error).__name__}") from error


def run(settings: Settings, lane: str) -> int:
    """Run the process of a lane and return its exit code."""
    fetch_wait_ms = URGENT_FETCH_WAIT_MS if lane == "urgent" else FETCH_WAIT_MS
    stage = Stage(f"fanout-{lane}", settings, fetch_wait_ms=fetch_wait_ms)
    Fanout(stage, lane)
    return stage.run()
