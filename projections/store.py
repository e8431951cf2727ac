"""PostgreSQL's side of the engine: generations, stored offsets, and the transaction that joins rows and offsets.

Schema `projections` holds the bookkeeping; the tables of a read model live in `rm_<name>_g<N>`, a schema a generation;
the views in `api` point at the live one. Every advance of the stored offsets names the offsets that it expects, so that a
process that lost its place can never write: its transaction fails as a whole.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from core.errors import SetupError
from projections.model import Projection, Statement
from runtime import failpoints
from runtime.postgres import connect

Position = tuple[str, int]
"""(topic, partition)."""
Offsets = dict[Position, int]
"""(topic, partition) -> next offset."""

LOCK_TIMEOUT_MS = 200
"""Longest wait for readers of a view before a switch is given up and tried again: new readers queue behind it meanwhile."""
_BOOTSTRAP_LOCK = 0x70726F6A
"""Advisory lock of creating the bookkeeping ('proj')."""

_BOOKKEEPING = """
create schema if not exists projections;
create table if not exists projections.generations (
    name text not null,
    generation integer not null,
    fingerprint text not null,
    state text not null check (state in ('building', 'live', 'retired', 'dropped')),
    reason text not null,
    started_at timestamptz not null default clock_timestamp(),
    live_at timestamptz,
    primary key (name, generation)
);
create unique index if not exists one_live on projections.generations (name) where state = 'live';
create unique index if not exists one_building on projections.generations (name) where state = 'building';
create table if not exists projections.projection_offsets (
    name text not null,
    generation integer not null,
    topic text not null,
    partition integer not null,
    next_offset bigint not null,
    group_offset bigint,
    primary key (name, generation, topic, partition)
) with (fillfactor = 50);
create table if not exists projections.rebuild_requests (
    name text primary key,
    requested_by text not null,
    requested_at timestamptz not null default clock_timestamp()
);
"""

_ADVANCE = """
update projections.projection_offsets o
   set next_offset = n.next_offset, group_offset = coalesce(n.group_offset, o.group_offset)
  from unnest(%(topics)s::text[], %(partitions)s::int[], %(expected)s::bigint[], %(next)s::bigint[], %(grouped)s::bigint[])
    as n(topic, partition, expected, next_offset, group_offset)
 where o.name = %(name)s and o.generation = %(generation)s
   and o.topic = n.topic and o.partition = n.partition and o.next_offset = n.expected
"""


class Displaced(RuntimeError):
    """Another process advanced the offsets of this projection; nothing was written."""


@dataclass(slots=True)
class Generation:
    """One generation of a read model's tables, with what its rows contain."""

    name: str
    number: int
    fingerprint: str
    state: str
    reason: str
    offsets: Offsets = field(default_factory=dict)
    """Next offset of each partition: the truth, written in the rows' transaction."""
    grouped: Offsets = field(default_factory=dict)
    """What the consumer group was last known to have committed."""

    @property
    def schema(self) -> str:
        """Return the schema of its tables."""
        return f"rm_{self.name}_g{self.number}"


class Writer:
    """A connection whose search path is one generation: applies statements and offsets in one transaction."""

    def __init__(self, url: str, generation: Generation) -> None:
        self.generation = generation
        self._connection = connect(url, autocommit=True, application_name=f"newswire projection {generation.name}")
        self._connection.execute(sql.SQL("set search_path to {}").format(sql.Identifier(generation.schema)))

    def write(
        self,
        statements: Iterable[Statement],
        offsets: Mapping[Position, int],
        grouped: Mapping[Position, int] | None = None,
        last: Callable[[], None] | None = None,
    ) -> None:
        """Commit the rows together with the new offsets; Displaced, or a psycopg error, and then nothing is written.

        `last` is called when only the commit is left to do: for effects elsewhere that must come before it.
        """
        generation = self.generation
        with self._connection.transaction():
            for statement in statements:
                self._connection.execute(statement.sql, statement.params)
            self._advance(offsets, grouped or {})
            if last is not None:
                last()
            failpoints.hit("projection.before_commit")
        failpoints.hit("projection.after_commit")
        generation.offsets.update(offsets)
        generation.grouped.update(grouped or {})

    def writable(self, statements: Iterable[Statement]) -> psycopg.DataError | psycopg.IntegrityError | None:
        """Return why the values of these statements cannot be stored, or None; nothing is written."""
        try:
            with self._connection.transaction(force_rollback=True):
                for statement in statements:
                    self._connection.execute(statement.sql, statement.params)
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            return error
        return None

    def _advance(self, offsets: Mapping[Position, int], grouped: Mapping[Position, int]) -> None:
        known = self.generation.offsets
        moved = sorted({*offsets, *grouped})
        if not moved:
            return
        params = {
            "name": self.generation.name,
            "generation": self.generation.number,
            "topics": [topic for topic, _ in moved],
            "partitions": [partition for _, partition in moved],
            "expected": [known[p] for p in moved],
            "next": [offsets.get(p, known[p]) for p in moved],
            "grouped": [grouped.get(p) for p in moved],
        }
        if self._connection.execute(_ADVANCE, params).rowcount != len(moved):
            raise Displaced(f"another process moved the offsets of {self.generation.schema}; is `run projections` started twice?")

    def close(self) -> None:
        """Close the connection; a transaction that is open is rolled back."""
        self._connection.close()


class Store:
    """The bookkeeping of one projection. One process at a time owns it, by an advisory lock of this connection."""

    def __init__(self, url: str, projection: Projection, fingerprint: str, reader_url: str = "") -> None:
        self.url, self.projection, self.fingerprint = url, projection, fingerprint
        self._reader = str(conninfo_to_dict(reader_url).get("user") or "") if reader_url else ""
        self.connection = connect(url, autocommit=True, application_name=f"newswire projections {projection.name}")

    def bootstrap(self) -> None:
        """Create the bookkeeping and schema api when they are missing; SetupError when the reader's role is."""
        with self.connection.transaction():
            self.connection.execute("select pg_advisory_xact_lock(%s)", [_BOOTSTRAP_LOCK])
            self.connection.execute(_BOOKKEEPING)
            self.connection.execute("create schema if not exists api")
            self._let_reader_in()

    def _let_reader_in(self) -> None:
        """Grant the use of schema api once, under the lock: two grants at a time on one schema fail."""
        if not self._reader:
            return
        query = "select has_schema_privilege(rolname, 'api', 'usage') from pg_roles where rolname = %s"
        row = self.connection.execute(query, [self._reader]).fetchone()
        if row is None:
            raise SetupError(f"role {self._reader} of DATABASE_URL does not exist; run `newswire migrate`.")
        if not row[0]:
            self.connection.execute(sql.SQL("grant usage on schema api to {}").format(sql.Identifier(self._reader)))

    def own(self) -> bool:
        """Try to become the one process that writes this projection; the lock ends with the connection."""
        key = f"newswire projection {self.projection.name}"
        row = self.connection.execute("select pg_try_advisory_lock(hashtextextended(%s, 0))", [key]).fetchone()
        return row is not None and bool(row[0])

    def generation(self, state: str) -> Generation | None:
        """Return the live or the building generation with its offsets."""
        return read_generation(self.connection, self.projection.name, state)

    def begin(self, reason: str, starts: Mapping[Position, int]) -> Generation:
        """Create the next generation; one that was building is given up. The first of all is live at once."""
        name = self.projection.name
        with self.connection.transaction():
            self.connection.execute("delete from projections.rebuild_requests where name = %s", [name])
            self.connection.execute(
                "update projections.generations set state = 'retired' where name = %s and state = 'building'", [name]
            )
            row = self.connection.execute(
                "select coalesce(max(generation), 0) + 1, coalesce(bool_or(state = 'live'), false) from projections.generations"
                " where name = %s",
                [name],
            ).fetchone()
            assert row is not None
            generation = Generation(name, row[0], self.fingerprint, "building" if row[1] else "live", reason, dict(starts))
            self.connection.execute(
                "insert into projections.generations (name, generation, fingerprint, state, reason, live_at)"
                " values (%s, %s, %s, %s, %s, case when %s then null else clock_timestamp() end)",
                [name, generation.number, self.fingerprint, generation.state, reason, row[1]],
            )
            self.connection.execute(
                "insert into projections.projection_offsets (name, generation, topic, partition, next_offset)"
                " select %s, %s, * from unnest(%s::text[], %s::int[], %s::bigint[])",
                [name, generation.number, [t for t, _ in starts], [p for _, p in starts], list(starts.values())],
            )
            create_tables(self.connection, self.projection, generation.schema)
            if generation.state == "live":
                self._point_views(generation)
        return generation

    def switch(self, building: Generation) -> bool:
        """Point the views at the building generation in one transaction; False when readers did not let go in time."""
        name = self.projection.name
        try:
            with self.connection.transaction():
                self._point_views(building)
                self.connection.execute(
                    "update projections.generations set state = 'retired' where name = %s and state = 'live'", [name]
                )
                self.connection.execute(
                    "update projections.generations set state = 'live', live_at = clock_timestamp()"
                    " where name = %s and generation = %s and state = 'building'",
                    [name, building.number],
                )
        except psycopg.errors.LockNotAvailable:
            return False
        building.state = "live"
        return True

    def drop_retired(self) -> int:
        """Drop the schemas of retired generations that no reader holds any more, and return how many."""
        name = self.projection.name
        rows = self.connection.execute(
            "select generation from projections.generations where name = %s and state = 'retired' order by generation", [name]
        ).fetchall()
        dropped = 0
        for (number,) in rows:
            try:
                with self.connection.transaction():
                    self._limit_waiting()
                    schema = sql.Identifier(f"rm_{name}_g{number}")
                    self.connection.execute(sql.SQL("drop schema if exists {} cascade").format(schema))
                    which = [name, number]
                    self.connection.execute(
                        "delete from projections.projection_offsets where name = %s and generation = %s", which
                    )
                    self.connection.execute(
                        "update projections.generations set state = 'dropped' where name = %s and generation = %s", which
                    )
            except psycopg.errors.LockNotAvailable:
                continue
            dropped += 1
        return dropped

    def rebuild_requested(self) -> bool:
        """Return whether a rebuild was asked for since the last generation began."""
        query = "select 1 from projections.rebuild_requests where name = %s"
        return self.connection.execute(query, [self.projection.name]).fetchone() is not None

    def _limit_waiting(self) -> None:
        self.connection.execute(sql.SQL("set local lock_timeout to {}").format(sql.Literal(LOCK_TIMEOUT_MS)))

    def _point_views(self, generation: Generation) -> None:
        """Inside a transaction: create or replace the views over this generation's tables, and let the reader in."""
        self._limit_waiting()
        self.connection.execute(sql.SQL("set local search_path to {}").format(sql.Identifier(generation.schema)))
        try:
            with self.connection.transaction():
                self.connection.execute(self.projection.views_sql.encode())
        except psycopg.errors.InvalidTableDefinition:  # other columns: the old views have to go first, in the same transaction
            for view in reversed(self.projection.views):
                self.connection.execute(sql.SQL("drop view if exists {}").format(sql.Identifier("api", view)))
            self.connection.execute(self.projection.views_sql.encode())
        if self._reader and self._reader != self.connection.info.user:
            for view in self.projection.views:
                grant = sql.SQL("grant select on {} to {}").format(sql.Identifier("api", view), sql.Identifier(self._reader))
                self.connection.execute(grant)

    def close(self) -> None:
        """Close the connection, which gives up ownership."""
        self.connection.close()


def read_generation(connection: psycopg.Connection, name: str, state: str) -> Generation | None:
    """Return the generation of a projection in a state, with its offsets, as of this connection's snapshot."""
    row = connection.execute(
        "select generation, fingerprint, reason from projections.generations where name = %s and state = %s", [name, state]
    ).fetchone()
    if row is None:
        return None
    found = Generation(name, row[0], row[1], state, row[2])
    for topic, partition, next_offset, group_offset in connection.execute(
        "select topic, partition, next_offset, group_offset from projections.projection_offsets"
        " where name = %s and generation = %s",
        [name, found.number],
    ):
        found.offsets[topic, partition] = next_offset
        if group_offset is not None:
            found.grouped[topic, partition] = group_offset
    return found


def create_tables(connection: psycopg.Connection, projection: Projection, schema: str) -> None:
    """Inside a transaction: create a schema with a projection's empty tables."""
    connection.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
    connection.execute(sql.SQL("set local search_path to {}").format(sql.Identifier(schema)))
    connection.execute(projection.tables_sql.encode())


def table_hashes(connection: psycopg.Connection, schema: str, tables: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Return (rows, hash) of each table; the hash is 128 bits and does not depend on the order of the rows."""
    found = {}
    for table in tables:
        query = sql.SQL(
            "select count(*), coalesce(sum(hashtextextended(t::text, 0)), 0) || ':' ||"
            " coalesce(sum(hashtextextended(t::text, 1)), 0) from {} t"
        ).format(sql.Identifier(schema, table))
        row = connection.execute(query).fetchone()
        assert row is not None
        found[table] = (int(row[0]), str(row[1]))
    return found
