"""The ledger on a real PostgreSQL, for tests: a database of the module's own, and what is asked and changed beside the ledger."""

import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from runtime.settings import Settings
from sinks.delivery import Delivery
from sinks.ledger import SESSION, Ledger, Pool, open_pool
from tests.fix_stack import Stack
from tests.sinks_kit import ledger_database


@pytest.fixture(scope="module")
def settings(stack: Stack) -> Iterator[Settings]:
    """A database of this module's own."""
    with ledger_database(stack) as made:
        yield made


class Database:
    """What tests ask and change beside the ledger."""

    def __init__(self, url: str) -> None:
        self._url, self._connection = url, psycopg.connect(url, autocommit=True)

    def run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement."""
        cursor = self._connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []

    def current(self, behind_s: float = 0.0) -> None:
        """Say that consent is applied up to so many seconds ago."""
        self.run("DELETE FROM ledger.consent_progress")
        self.run(
            "INSERT INTO ledger.consent_progress VALUES ('t', 0, 0, clock_timestamp() + make_interval(secs => %s))", 60 - behind_s
        )

    def bar(self, subject: str, reason: str = "unsubscribed", except_for: list[str] | None = None) -> None:
        """Bar a subject."""
        self.run("INSERT INTO ledger.barred VALUES (%s, %s, now(), 't', 0, 0, %s)", subject, reason, except_for)

    def row(self, one: Delivery) -> dict[str, Any]:
        """Return a delivery's row."""
        cursor = self._connection.execute("SELECT * FROM ledger.deliveries WHERE delivery_id = %s", [one.uuid])
        names = [column.name for column in cursor.description or ()]
        (values,) = cursor.fetchall()
        return dict(zip(names, values, strict=True))

    def plan(self, statement: str, values: dict[str, Any]) -> list[str]:
        """Return how a sink runs a statement: prepared once, whatever the values are."""
        names = list(values)
        numbered = re.sub(r"%\((\w+)\)s", lambda match: f"${names.index(match[1]) + 1}", statement)
        marks = ", ".join(["%s"] * len(names))
        with psycopg.connect(self._url, cursor_factory=psycopg.ClientCursor, options=SESSION) as connection:
            connection.execute(f"PREPARE one AS {numbered}".encode())
            explained = connection.execute(f"EXPLAIN (COSTS OFF) EXECUTE one ({marks})".encode(), list(values.values()))
            return [line for (line,) in explained]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """An empty ledger whose consent is current."""
    one = Database(settings.ledger_database_url)
    one.run("TRUNCATE ledger.deliveries, ledger.barred, ledger.consent_progress")
    one.current()
    yield one
    one.close()


@pytest.fixture
async def pool(settings: Settings) -> AsyncIterator[Pool]:
    """Connections for ledgers."""
    made = open_pool(settings.ledger_database_url, 3)
    await made.open()
    yield made
    await made.close()


def make(pool: Pool, lease_s: float = 30.0) -> Ledger:
    """A process's view of the ledger, with an owner of its own."""
    return Ledger(pool, channel="email", lane="bulk", lease_s=lease_s, consent_lag_s=2.0)


@pytest.fixture
async def ledger(pool: Pool, database: Database) -> Ledger:
    """A ledger with the days' partitions."""
    one = make(pool)
    await one.ensure_days(datetime.now(UTC).date())
    return one


async def claimed(ledger: Ledger, *deliveries: Delivery) -> list[Delivery]:
    """Claim and return what was got."""
    claims = await ledger.claim(deliveries, 0.0)
    assert claims is not None
    return claims.claimed
