"""Old days of the ledger: a day whose deliveries are settled is detached 9 days later, and dropped after 90.

Consumes and changes the partitions of ledger.deliveries. Settled means: nothing is claimed, parked or unknown, and every
outcome is reported. A day that is not stays where it is and is named in the log. Every sink process looks once an hour; an
advisory lock lets one of them at it. A detached day can still be read by `newswire delivery show` until it is dropped.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from core.errors import SetupError, Unavailable
from runtime.settings import Settings
from sinks.history import ledger_connection
from sinks.ledger import DAYS_KEPT

DAYS_DETACHED: Final = 90
"""A detached day is dropped after so many days: as long as provider-events can still name its deliveries."""
EVERY_S: Final = 3600.0
"""How often a sink process looks for days to retire."""
_LOCK: Final = 0x6C656467
"""Advisory lock of whoever retires days ('ledg')."""
_TIMEOUT_MS: Final = 120_000
"""Longest wait for transactions that still use a day; a detach that was cut short is finished by the next one."""

log = logging.getLogger(__name__)

_PARTITIONS: Final[LiteralString] = """
SELECT to_date(right(c.relname, 8), 'YYYYMMDD'), i.inhrelid IS NOT NULL, coalesce(i.inhdetachpending, false)
FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^deliveries_[0-9]{8}$'
ORDER BY 1
"""
_STANDING: Final[LiteralString] = """
SELECT count(*), count(*) FILTER (WHERE state = 'claimed'), count(*) FILTER (WHERE state = 'retry'),
       count(*) FILTER (WHERE state = 'unknown'), count(*) FILTER (WHERE outcome_at IS NOT NULL AND reported_at IS NULL)
FROM ledger.{}
"""


@dataclass(frozen=True, slots=True)
class Day:
    """One day's partition and how its deliveries stand."""

    day: date
    attached: bool
    rows: int
    claimed: int
    parked: int
    unknown: int
    unreported: int

    @property
    def unsettled(self) -> int:
        """Deliveries that hold the day back, the unknown among them."""
        return self.claimed + self.parked + self.unknown + self.unreported

    def settled(self, *, with_unknown: bool = False) -> bool:
        """Return whether the day may go; with_unknown takes what is unknown, and was reported so, for its end."""
        return self.unsettled - (self.unknown if with_unknown else 0) == 0


@dataclass(frozen=True, slots=True)
class Retired:
    """What was done with an old day, or why nothing was."""

    day: Day
    done: str
    """detached, dropped, or kept."""


def days(settings: Settings) -> list[Day]:
    """Return every day that the ledger has, detached ones too, the oldest first; counts all rows."""
    with ledger_connection(settings) as connection:
        return [_standing(connection, day, attached) for day, attached, _ in connection.execute(_PARTITIONS).fetchall()]


def retire(settings: Settings, *, with_unknown: bool = False, dry_run: bool = False) -> list[Retired]:
    """Detach settled days older than 9 days, drop detached ones older than 90; return what was done with each old day.

    Nothing is done while another process is at it.
    """
    with ledger_connection(settings) as connection, _alone(connection) as alone:
        return [*_retired(connection, with_unknown=with_unknown, dry_run=dry_run)] if alone else []


@contextmanager
def _alone(connection: psycopg.Connection) -> Iterator[bool]:
    connection.execute(sql.SQL("SET statement_timeout = {}").format(_TIMEOUT_MS))
    yield connection.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK]).fetchone() == (True,)
    # the lock ends with the connection


def _retired(connection: psycopg.Connection, *, with_unknown: bool, dry_run: bool) -> Iterator[Retired]:
    # an hour's grace, so that no sink whose clock is behind still claims for a day that goes
    row = connection.execute("SELECT (clock_timestamp() AT TIME ZONE 'UTC' - interval '1 hour')::date").fetchone()
    assert row is not None
    today: date = row[0]
    for day, attached, pending in connection.execute(_PARTITIONS).fetchall():
        age_days = (today - day).days
        if age_days <= DAYS_KEPT:
            continue
        standing = _standing(connection, day, attached)
        if attached and standing.settled(with_unknown=with_unknown):
            done = dry_run or _detach(connection, day, pending, with_unknown=with_unknown)
            yield Retired(standing, "detached" if done else "kept")
        elif not attached and age_days > DAYS_DETACHED:
            if not dry_run:
                connection.execute(sql.SQL("DROP TABLE ledger.{}").format(_name(day)))
            yield Retired(standing, "dropped")
        elif attached:
            yield Retired(standing, "kept")


def _name(day: date) -> sql.Identifier:
    return sql.Identifier(f"deliveries_{day:%Y%m%d}")


def _standing(connection: psycopg.Connection, day: date, attached: bool) -> Day:
    row = connection.execute(sql.SQL(_STANDING).format(_name(day))).fetchone()
    assert row is not None
    return Day(day, attached, *row)


def _detach(connection: psycopg.Connection, day: date, pending: bool, *, with_unknown: bool) -> bool:
    """Detach a day; False when something came to it at the last moment: then it is attached again."""
    how = sql.SQL("FINALIZE" if pending else "CONCURRENTLY")
    connection.execute(sql.SQL("ALTER TABLE ledger.deliveries DETACH PARTITION ledger.{} {}").format(_name(day), how))
    if _standing(connection, day, False).settled(with_unknown=with_unknown):
        return True
    bounds = sql.SQL("ALTER TABLE ledger.deliveries ATTACH PARTITION ledger.{} FOR VALUES FROM ({}) TO ({})")
    connection.execute(bounds.format(_name(day), day, date.fromordinal(day.toordinal() + 1)))
    return False


async def keep_retiring(settings: Settings) -> None:
    """Retire days once an hour, for ever; what keeps an old day is said in the log."""
    while True:
        await asyncio.sleep(EVERY_S)
        try:
            for one in await asyncio.to_thread(retire, settings):
                if one.done == "kept":
                    log.warning("%s; `newswire ledger days` shows it", kept_because(one.day))
                else:
                    log.info("the ledger's day %s was %s", one.day.day, one.done)
        except (Unavailable, SetupError, psycopg.OperationalError) as error:
            log.warning("no days were retired: %s", error)


def kept_because(day: Day) -> str:
    """Return the sentence that says what an old day waits for."""
    parts = {"claimed": day.claimed, "parked": day.parked, "unknown": day.unknown, "not reported": day.unreported}
    what = ", ".join(f"{count} {name}" for name, count in parts.items() if count)
    return f"the ledger's day {day.day} is not retired: {what or 'it changed at the last moment'}"
