"""What people ask about read models: status, rebuilds, and the accounting."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import psycopg

from core.checks import uuid
from core.errors import CodecError, InputError
from core.ids import is_test
from core.names import MAX_LATE_H
from projections.catalogue import PROJECTIONS, projection
from projections.engine import group_of
from projections.log import Log
from projections.model import Projection
from projections.store import Offsets, read_generation
from runtime.clock import SystemClock
from runtime.kafka import admin_client, end_offsets, partitions_of, read_range, start_offsets
from runtime.postgres import connect
from runtime.reach import require_kafka
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.registry import RegistrySource
from schemas.topics import Topics

ACCOUNTING_COLUMNS = ("source_id", "source_kind", "channel", "complete", "population", "chosen", "gated", "not_concerned",
                      "not_fanned_out", "pending", "unknown", "sent", "confirmed", "failed", "suppressed", "balance")  # fmt: skip
READ_NEWEST: Final = 20_000
"""Newest records of a shard's copies that are looked through for slots; it takes a second a shard."""


@dataclass(frozen=True, slots=True)
class Status:
    """One generation and how far it is."""

    name: str
    generation: int
    state: str
    reason: str
    records: int
    """Records between the first one kept of each partition and the stored offsets."""
    lag: int
    """Records that are not applied yet."""
    group_lag: int | None
    """The same by the consumer group's offsets; None when it has none, or for a generation that does not commit."""
    started_at: datetime


def statuses(settings: Settings) -> list[Status]:
    """Return the live and building generations of all projections."""
    settings.require("projections_database_url")
    topics = Topics(settings.topic_prefix, settings.shards)
    found = []
    with connect(settings.projections_database_url, autocommit=True) as connection:
        for item in PROJECTIONS:
            log = Log(settings, group_of(settings, item), item.topics(topics))
            ends = log.ends()
            committed = log.committed()
            newest = True
            for state in ("building", "live"):
                status = _status(connection, item, state, log, ends, committed if newest else {})
                if status is not None:
                    found.append(status)
                    newest = False
    return found


def _status(
    connection: psycopg.Connection, item: Projection, state: str, log: Log, ends: Offsets, committed: Offsets
) -> Status | None:
    try:
        generation = read_generation(connection, item.name, state)
    except psycopg.errors.UndefinedTable:
        return None
    if generation is None:
        return None
    starts = log.starts()
    row = connection.execute(
        "select started_at from projections.generations where name = %s and generation = %s", [item.name, generation.number]
    ).fetchone()
    assert row is not None
    return Status(
        name=item.name,
        generation=generation.number,
        state=state,
        reason=generation.reason,
        records=sum(max(0, offset - starts.get(p, 0)) for p, offset in generation.offsets.items()),
        lag=_lag(ends, generation.offsets),
        group_lag=_lag(ends, committed) if committed else None,
        started_at=row[0],
    )


def _lag(ends: Offsets, offsets: Offsets) -> int:
    return sum(max(0, end - offsets.get(position, 0)) for position, end in ends.items())


def recorded(settings: Settings, item: Projection) -> int:
    """Return how many records the live generation was made of; 0 when there is none."""
    return next((s.records for s in statuses(settings) if s.name == item.name and s.state == "live"), 0)


def request_rebuild(settings: Settings, name: str, requested_by: str) -> list[str]:
    """Ask for a rebuild of one projection or all, and return their names; the running process takes it up within
    seconds.

    InputError when there is no such projection, or when it has never run.
    """
    settings.require("projections_database_url")
    chosen = [item.name for item in PROJECTIONS] if name == "all" else [projection(name).name]
    with connect(settings.projections_database_url, autocommit=True) as connection:
        try:
            connection.execute(
                "insert into projections.rebuild_requests (name, requested_by) select name, %s from unnest(%s::text[]) name"
                " on conflict (name) do update set requested_by = excluded.requested_by, requested_at = clock_timestamp()",
                [requested_by, chosen],
            )
        except psycopg.errors.UndefinedTable:
            raise InputError("the projections have never run here: start them with `newswire run projections`.") from None
    return chosen


def accounting_rows(settings: Settings, source: str | None, limit: int) -> list[tuple[Any, ...]]:
    """Return the accounting of one source, of a newsletter's sources, or of all, the `limit` decided last: ACCOUNTING_COLUMNS.

    The source that was decided last comes first.
    Uses the read-only role. InputError when the source is not known (yet), or nothing of the newsletter.
    """
    settings.require("database_url")
    columns = ", ".join(ACCOUNTING_COLUMNS)
    newest = """select source_id from api.sources where %(source)s::text is null or newsletter_id = %(source)s
                order by decided_at desc nulls last, source_id limit %(limit)s"""
    query = f"""select {columns} from api.accounting where source_id = any (%(chosen)s)
                order by array_position(%(chosen)s::text[], source_id), channel"""  # noqa: S608 - fixed
    with connect(settings.database_url, autocommit=True) as connection:
        try:
            chosen = [source] if source is not None and is_source(source) else None
            if chosen is None:
                chosen = [row[0] for row in connection.execute(newest, {"source": source, "limit": limit}).fetchall()]
            return connection.execute(query.encode(), {"chosen": chosen}).fetchall()
        except psycopg.errors.UndefinedTable:
            raise InputError("there is no api.accounting yet: start the projections with `newswire run projections`.") from None


def is_source(text: str) -> bool:
    """Return whether a text names one source, an alert or a newsletter's slot, and not a newsletter."""
    return "@" in text or uuid(text) is None


def finished(settings: Settings, sources: Collection[str]) -> set[str]:
    """Return which of these sources have nothing under way any more."""
    with connect(settings.database_url, autocommit=True) as connection:
        query = "select source_id from api.sources where finished and source_id = any (%s)"
        return {row[0] for row in connection.execute(query, [list(sources)]).fetchall()}


def overdue(settings: Settings, sources: Collection[str]) -> set[str]:
    """Return which of these sources are not decided in all their chunks although nothing of them is worth sending any more."""
    with connect(settings.database_url, autocommit=True) as connection:
        query = "select source_id from api.sources where not complete and not_after < now() and source_id = any (%s)"
        return {row[0] for row in connection.execute(query, [list(sources)]).fetchall()}


def undecided(settings: Settings, source: str | None) -> list[str]:
    """Return the slots in the log that nothing was decided of yet, of one source or newsletter or of all, the newest first.

    Those that a decision may still come for are looked at. All shards have the same slots, so one is read; a test send is in
    one shard only, so all are read for one, which is looked for by its own name. Unavailable without Kafka, SetupError without
    topics.
    """
    require_kafka(settings.kafka_bootstrap_servers)
    topics, admin = Topics(settings.topic_prefix, settings.shards), admin_client(settings)
    codec = Codec(topics, RegistrySource(settings.schema_registry_url))
    shards = partitions_of(admin, [topics.audience_newsletters])
    places = shards if source is not None and is_test(source) else shards[:1]
    ends, first = end_offsets(admin, places), start_offsets(admin, places)
    starts = {place: max(first[place], end - READ_NEWEST) for place, end in ends.items()}
    oldest, slots = SystemClock().now() - timedelta(hours=MAX_LATE_H), dict[str, datetime]()
    for raw in read_range(settings, starts, ends):
        try:
            value = codec.decode(raw).value
        except CodecError:
            continue  # dead-lettered by those whose input it is
        if "slot_at" in value and value["slot_at"] > oldest and source in (None, value["source_id"], value["newsletter_id"]):
            slots[value["source_id"]] = value["slot_at"]
    with connect(settings.database_url, autocommit=True) as connection:
        query = "select source_id from api.sources where source_id = any (%s)"
        known = {row[0] for row in connection.execute(query, [list(slots)]).fetchall()}
    return sorted(slots.keys() - known, key=lambda one: slots[one], reverse=True)
