"""Proof that a read model equals a replay: fold the log again into a shadow, up to the stored offsets, and compare.

The live tables are hashed and their offsets read in one snapshot, so the projection may go on meanwhile. The shadow is
dropped afterwards. What the log no longer keeps cannot be replayed: then the tables may differ, and `from_the_start` says so.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from core.errors import CodecError, InputError
from projections.decoding import Decoder
from projections.log import MAX_BATCH_BYTES, MAX_EVENTS, Log
from projections.model import Projection
from projections.store import Generation, create_tables, read_generation, table_hashes
from runtime.kafka import read_range
from runtime.postgres import connect
from runtime.settings import Settings
from schemas.codec import SchemaSource
from schemas.records import Event, Raw
from schemas.registry import RegistrySource
from schemas.topics import Topics


@dataclass(frozen=True, slots=True)
class TableCheck:
    """Comparison of one table."""

    table: str
    rows: int
    replayed_rows: int
    equal: bool


@dataclass(frozen=True, slots=True)
class Verification:
    """Comparison of one read model with its replay."""

    generation: int
    records: int
    from_the_start: bool
    tables: tuple[TableCheck, ...]

    @property
    def equal(self) -> bool:
        """Return whether every table has the same rows."""
        return all(check.equal for check in self.tables)


def verify(
    settings: Settings,
    projection: Projection,
    *,
    source: SchemaSource | None = None,
    progress: Callable[[int], None] | None = None,
) -> Verification:
    """Replay into a shadow generation and compare table by table; `progress` is told of records read.

    InputError when there is nothing to compare: the projection never ran, or is being rebuilt for new code.
    """
    settings.require("projections_database_url")
    topics = Topics(settings.topic_prefix, settings.shards)
    decoder = Decoder(topics, source or RegistrySource(settings.schema_registry_url), projection.prefixes)
    log = Log(settings, "", projection.topics(topics))
    url = settings.projections_database_url
    with connect(url, autocommit=True, application_name=f"newswire verify {projection.name}") as connection:
        live, expected = _snapshot(connection, projection, projection.fingerprint(topics))
        shadow = f"rm_{projection.name}_verify_{connection.info.backend_pid}"
        with connection.transaction():
            create_tables(connection, projection, shadow)
        try:
            connection.execute(sql.SQL("set search_path to {}").format(sql.Identifier(shadow)))
            starts = log.starts()
            records = 0
            for raws in _batches(read_range(settings, starts, live.offsets)):
                _apply(connection, projection, _decoded(decoder, raws))
                records += len(raws)
                if progress is not None:
                    progress(len(raws))
            found = table_hashes(connection, shadow, projection.tables)
        finally:
            connection.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(shadow)))
    checks = tuple(TableCheck(t, expected[t][0], found[t][0], expected[t] == found[t]) for t in projection.tables)
    return Verification(live.number, records, not any(starts.values()), checks)


def _snapshot(
    connection: psycopg.Connection, projection: Projection, fingerprint: str
) -> tuple[Generation, dict[str, tuple[int, str]]]:
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        try:
            live = read_generation(connection, projection.name, "live")
        except psycopg.errors.UndefinedTable:
            live = None
        if live is None:
            raise InputError(f"{projection.name} has never run here: start it with `newswire run projections`.")
        if live.fingerprint != fingerprint:
            raise InputError(
                f"{projection.name} is being rebuilt for a new version: verify it when `newswire projections status` says live."
            )
        return live, table_hashes(connection, live.schema, projection.tables)


def _apply(connection: psycopg.Connection, projection: Projection, events: Sequence[Event]) -> None:
    """Apply a batch; where a value cannot be stored, all events but those, which are dead letters."""
    try:
        with connection.transaction():
            for statement in projection.apply(events):
                connection.execute(statement.sql, statement.params)
    except (psycopg.DataError, psycopg.IntegrityError):
        if len(events) > 1:
            for event in events:
                _apply(connection, projection, [event])


def _batches(records: Iterable[Raw]) -> Iterator[list[Raw]]:
    batch: list[Raw] = []
    size_bytes = 0
    for raw in records:
        batch.append(raw)
        size_bytes += len(raw.value or b"")
        if len(batch) >= MAX_EVENTS or size_bytes >= MAX_BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch


def _decoded(decoder: Decoder, raws: Iterable[Raw]) -> list[Event]:
    events = []
    for raw in raws:
        try:
            events.append(decoder.decode(raw))
        except CodecError:
            continue  # the projection wrote its dead letter
    return events
