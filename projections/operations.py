"""What people ask about read models: status, rebuilds, and the accounting."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from core.errors import InputError
from projections.catalogue import PROJECTIONS, projection
from projections.engine import group_of
from projections.log import Log
from projections.model import Projection
from projections.store import Offsets, read_generation
from runtime.postgres import connect
from runtime.settings import Settings
from schemas.topics import Topics

ACCOUNTING_COLUMNS = ("source_id", "source_kind", "channel", "complete", "population", "chosen", "gated", "not_concerned",
                      "not_fanned_out", "pending", "unknown", "sent", "confirmed", "failed", "suppressed", "balance")  # fmt: skip


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
    """Ask for a rebuild of one projection or all, and return their names; the running process takes it up within a second.

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


def accounting_rows(settings: Settings, source_id: str | None, limit: int) -> Sequence[tuple[Any, ...]]:
    """Return the accounting of one source, or of the sources decided last, as rows of ACCOUNTING_COLUMNS.

    Uses the read-only role. InputError when the source is not known (yet).
    """
    settings.require("database_url")
    columns = ", ".join(ACCOUNTING_COLUMNS)
    with connect(settings.database_url, autocommit=True) as connection:
        try:
            if source_id is not None:
                query = f"select {columns} from api.accounting where source_id = %s order by channel"  # noqa: S608
                rows = connection.execute(query.encode(), [source_id]).fetchall()
            else:
                query = (
                    f"select {columns} from api.accounting where source_id = any (array("  # noqa: S608
                    "select source_id from api.sources order by decided_at desc nulls last, source_id limit %s))"
                    " order by source_id, channel"
                )
                rows = connection.execute(query.encode(), [limit]).fetchall()
        except psycopg.errors.UndefinedTable:
            raise InputError("there is no api.accounting yet: start the projections with `newswire run projections`.") from None
    if source_id is not None and not rows:
        raise InputError(f"source {source_id!r} is not known: nothing was decided for it yet.")
    return rows
