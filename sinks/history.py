"""What happened to a delivery: its row of the ledger as a timeline, and the rows that people look for.

Consumes ledger.deliveries, one look-up by its key, in a detached partition as well; writes nothing. The present attempt
is in the columns of the row, the earlier ones in `history` (see sql/004_history.sql, 010_templates.sql).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from core.errors import InputError, SetupError, Unavailable
from core.ids import ledger_key
from core.outcomes import EVENT_OF_STATE, RETRY_STATE
from runtime.postgres import connect
from runtime.settings import Settings
from sinks.knowledge import CANARY, STOPPED

HELD: Final = (STOPPED, CANARY)
"""Reasons of a parked delivery that waits for somebody's word, and not for a time."""
_COLUMNS: Final[LiteralString] = """
    to_char(day, 'YYYYMMDD') || '-' || delivery_id AS delivery_id, day, delivery_id::text AS uuid, channel, lane, source_id,
    source_kind, subscriber_id::text AS subscriber_id, newsletter_id, state, reason, attempt, claimed_at, lease_until,
    next_attempt_at, outcome_at, reported_at, not_after, call_ms, encode(receipt_hash, 'hex') AS receipt_hash, request, history,
    template, error, coalesce(check_at = 'infinity', false) AS held, nullif(check_at, 'infinity') AS check_at
"""
_LIST: Final[LiteralString] = """
SELECT to_char(day, 'YYYYMMDD') || '-' || delivery_id AS delivery_id, channel, lane, source_id, state, reason, attempt,
       coalesce(outcome_at, claimed_at) AS at
FROM ledger.deliveries
WHERE state = %(state)s AND coalesce(channel = %(channel)s, true) AND coalesce(source_id = %(source)s, true)
  AND coalesce(reason = %(reason)s, true)
ORDER BY coalesce(outcome_at, claimed_at) DESC LIMIT %(limit)s
"""
_FAILED: Final[LiteralString] = """
SELECT to_char(day, 'YYYYMMDD') || '-' || delivery_id FROM ledger.deliveries
WHERE source_id = %(source)s AND (state = 'failed' AND coalesce(reason = %(reason)s, true) OR state = 'unknown' AND %(unknown)s)
ORDER BY day, delivery_id
"""
EDITS: Final[LiteralString] = """
SELECT settled_at, state, subject, reason FROM ledger.edits
WHERE day = %(day)s AND delivery_id = %(uuid)s AND settled_at IS NOT NULL ORDER BY settled_at
"""
LISTED: Final = ("delivery_id", "channel", "lane", "source_id", "state", "reason", "attempt", "at")
"""Columns of a list of deliveries."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened to a delivery."""

    at: datetime
    what: str
    """decided, claimed, redriven, reported, or a state of the ledger."""
    attempt: int | None = None
    reason: str | None = None
    call_ms: int | None = None
    """How long the provider took to answer, in milliseconds; None when no call was answered."""
    receipt_hash: str | None = None
    due_at: datetime | None = None
    """When a parked delivery was to be tried again, or held until at most."""
    event: str | None = None
    """Event of delivery-status that reported it."""
    by: str | None = None
    why: str | None = None
    template: str | None = None
    """Name and version of the template that its message was made with."""
    error: str | None = None
    """What the provider said, or why no message could be made."""

    def known(self) -> dict[str, Any]:
        """Return the fields that are known."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def detail(self) -> str:
        """What there is to say about it beside time, kind and attempt."""
        parts = [
            self.reason or "",
            f'"{self.error}"' if self.error else "",
            f"template {self.template}" if self.template else "",
            f"answered in {self.call_ms} ms" if self.call_ms is not None else "",
            f"receipt {self.receipt_hash[:16]}" if self.receipt_hash else "",
            f"{'held until at most' if self.reason in HELD else 'next attempt'} {clock_time(self.due_at)}" if self.due_at else "",
            self.event or "",
            f"by {self.by}: {self.why}" if self.by else "",
        ]
        return ", ".join(part for part in parts if part)


def clock_time(at: datetime) -> str:
    """Return an instant to the millisecond, as the timeline shows it."""
    return at.astimezone(UTC).isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z")


def timeline(row: Mapping[str, Any], decided_at: datetime | None = None) -> list[Step]:
    """Return what happened to the delivery of a row, in order of time; a pure function of the row."""
    steps = [Step(decided_at, "decided")] if decided_at else []
    attempts = [*(row["history"] or ())]
    if row["state"] != RETRY_STATE:  # of a parked delivery, the attempt that ended so is in the history already
        attempts.append({**row, "at": row["outcome_at"]})
    claims = set[tuple[int, datetime]]()
    for one in attempts:
        claimed_at, attempt = _instant(one.get("claimed_at")), one.get("attempt") or 0
        if claimed_at is not None and attempt and (attempt, claimed_at) not in claims:
            claims.add((attempt, claimed_at))
            steps.append(Step(claimed_at, "claimed", attempt))
        steps += _ends(one, attempt)
    return sorted(steps, key=lambda step: step.at)


def _ends(one: Mapping[str, Any], attempt: int) -> Iterator[Step]:
    """Yield how an attempt ended, and that it was reported; nothing for one under way."""
    at, state, reported_at = _instant(one["at"]), one["state"], _instant(one.get("reported_at"))
    if at is not None:
        yield Step(
            at, state, attempt, one.get("reason"), one.get("call_ms"), one.get("receipt_hash"), _instant(one.get("due_at")),
            by=one.get("by"), why=one.get("why"), template=one.get("template"), error=one.get("error"),
        )  # fmt: skip
    if reported_at is not None:
        yield Step(reported_at, "reported", attempt, event=EVENT_OF_STATE[state])


def _instant(value: Any) -> datetime | None:
    """Return a time of a column, or of the history, where it is text."""
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def edits_of(settings: Settings, row: Mapping[str, Any]) -> list[Step]:
    """Return what was done about a delivery with something retracted in it, after it was sent."""
    with ledger_connection(settings) as connection:
        found = connection.execute(EDITS, {"day": row["day"], "uuid": row["uuid"]}).fetchall()
    return [
        Step(at, f"recall {state}", reason=f"{subject}, {reason}" if reason else subject) for at, state, subject, reason in found
    ]


def parse_id(delivery_id: str) -> tuple[date, str]:
    """Return the ledger's key of a printed id; InputError when it is none."""
    try:
        return ledger_key(delivery_id.strip())
    except ValueError as error:
        raise InputError(f"delivery: {error}") from None


def read_rows(settings: Settings, delivery_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of these deliveries in that order; InputError names one that the ledger does not know."""
    keys = [parse_id(one) for one in delivery_ids]
    with ledger_connection(settings) as connection:
        rows = [read_row(connection, day, uuid) for day, uuid in keys]
    for given, row in zip(delivery_ids, rows, strict=True):
        if row is None:
            raise InputError(
                f"delivery: the ledger has no {given}: it was not decided, or not claimed by a sink yet, or its day's "
                "partition was dropped. `newswire why` says what was decided for a subscriber."
            )
    return [row for row in rows if row is not None]


def read_row(connection: psycopg.Connection, day: date, uuid: str) -> dict[str, Any] | None:
    """Return a delivery's row, also one of a detached day; None when the ledger does not have it."""
    if connection.execute("SELECT to_regclass(%s)", [f"ledger.{partition_of(day)}"]).fetchone() == (None,):
        return None
    return connection.cursor(row_factory=dict_row).execute(look_up(day), {"day": day, "uuid": uuid}).fetchone()


def partition_of(day: date) -> str:
    """Return the name of a day's table, attached or not."""
    return f"deliveries_{day:%Y%m%d}"


def look_up(day: date) -> sql.Composed:
    """Return the statement that reads one delivery of a day, given `day` and `uuid`."""
    return sql.SQL("SELECT {} FROM ledger.{} WHERE day = %(day)s AND delivery_id = %(uuid)s").format(
        sql.SQL(_COLUMNS), sql.Identifier(partition_of(day))
    )


def find(
    settings: Settings, state: str, *, channel: str | None, source: str | None, reason: str | None, limit: int
) -> list[tuple[Any, ...]]:
    """Return the deliveries in a state, the newest first, as rows of LISTED; reads every attached partition."""
    values = {"state": state, "channel": channel, "source": source, "reason": reason, "limit": limit}
    with ledger_connection(settings) as connection:
        return connection.execute(_LIST, values).fetchall()


def failed_of(settings: Settings, source_id: str, reason: str | None, *, unknown_too: bool = False) -> list[str]:
    """Return the deliveries of a source that failed (for a reason), of all attached days, in the order of their ids.

    unknown_too: also those of which it is not known whether they arrived.
    """
    with ledger_connection(settings) as connection:
        rows = connection.execute(_FAILED, {"source": source_id, "reason": reason, "unknown": unknown_too}).fetchall()
    return [delivery_id for (delivery_id,) in rows]


def decided_at(settings: Settings, delivery_id: str) -> datetime | None:
    """Return when a delivery was decided, from api.deliveries; None when the read models cannot be asked."""
    if not settings.database_url:
        return None
    try:
        with connect(settings.database_url, autocommit=True) as connection:
            row = connection.execute("SELECT decided_at FROM api.deliveries WHERE delivery_id = %s", [delivery_id]).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, SetupError, Unavailable):
        return None  # the ledger's own answer does not depend on them
    return row[0] if row else None


def ledger_connection(settings: Settings) -> psycopg.Connection:
    """Return an autocommit connection to the ledger; SetupError when it was not migrated."""
    settings.require("ledger_database_url")
    connection = connect(settings.ledger_database_url, autocommit=True)
    if connection.execute("SELECT to_regproc('ledger.remembered')").fetchone() == (None,):
        connection.close()
        raise SetupError("the ledger's migrations are missing: run `newswire migrate`.")
    return connection
