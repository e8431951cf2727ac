"""The ledger's SQL against its rules as a pure function: the same things happen to both, in any order, and they agree."""

import asyncio
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from core.outcomes import RETRY_STATE
from runtime.settings import Settings
from sinks.ledger import Ledger, Result, open_pool
from tests.fix_stack import Stack
from tests.ledger_model import Again, Claim, Due, Row, Swept, Wrote, step
from tests.sinks_kit import ledger_database
from tests.sinks_samples import delivery

pytestmark = pytest.mark.stack

STATES = {"sent": None, "failed": "rejected", "unknown": "answer_lost", RETRY_STATE: "provider_error"}
EVENTS = st.one_of(
    st.builds(Claim, owner=st.integers(0, 1), at_s=st.just(0.0)),
    st.builds(
        Wrote,
        owner=st.integers(0, 1),
        attempt=st.integers(1, 3),
        state=st.sampled_from(sorted(STATES)),
        at_s=st.just(0.0),
        called=st.booleans(),
    ),
    st.builds(Again, owner=st.integers(0, 1), attempt=st.integers(1, 3), more=st.integers(0, 1), at_s=st.just(0.0)),
    st.builds(Swept, at_s=st.just(2_000.0)),  # after every lease, those of Due too: in the database all are moved into the past
    st.builds(Due, owner=st.integers(0, 1), at_s=st.just(1_000.0)),
)


@pytest.fixture(scope="module")
def database(stack: Stack) -> Iterator[Settings]:
    """A database whose consent is current."""
    with ledger_database(stack) as made:
        with psycopg.connect(made.ledger_database_url, autocommit=True) as connection:
            connection.execute("INSERT INTO ledger.consent_progress VALUES ('t', 0, 0, clock_timestamp() + interval '1 day')")
        yield made


async def replayed(url: str, events: list[Any]) -> tuple[list[tuple[Any, ...] | None], list[tuple[Any, ...] | None]]:
    """Return (state, attempt, owner) after each event, by the database and by the rules."""
    owners = [uuid.uuid4(), uuid.uuid4()]
    one, row = delivery(), None
    found, expected = list[tuple[Any, ...] | None](), list[tuple[Any, ...] | None]()
    async with open_pool(url, 1) as pool, await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        ledgers = [Ledger(pool, channel="email", lane="bulk", lease_s=45, consent_lag_s=2, owner=o) for o in owners]
        await ledgers[0].ensure_days(datetime.now(UTC).date())
        run: Callable[[str], Any] = lambda sql: connection.execute(sql.encode(), [one.uuid])  # noqa: E731
        for event in events:
            await _happen(ledgers, one, event, run)
            row = step(row, event)
            cursor = await run("SELECT state, attempt, owner FROM ledger.deliveries WHERE delivery_id = %s")
            stored = await cursor.fetchone()
            found.append(stored and (stored[0], stored[1], owners.index(stored[2])))
            expected.append(row and (row.state, row.attempt, row.owner))
        await run("DELETE FROM ledger.deliveries WHERE delivery_id = %s")
    return found, expected


async def _happen(ledgers: list[Ledger], one: Any, event: Any, run: Callable[[str], Any]) -> None:
    """Let an event happen to the delivery in the database; instead of waiting, the row's times are moved."""
    if isinstance(event, Claim):
        await ledgers[event.owner].claim([one], 0.0)
    elif isinstance(event, Wrote):
        one.attempt = event.attempt
        result = Result(one, event.state, STATES[event.state], uncalled=not event.called)
        await ledgers[event.owner].write_outcomes([result])
    elif isinstance(event, Again):
        one.attempt = event.attempt
        await ledgers[event.owner].begin_attempt([one], 0.0, again=bool(event.more))
    elif isinstance(event, Swept):
        await run("UPDATE ledger.deliveries SET lease_until = lease_until - interval '1 hour' WHERE delivery_id = %s")
        await ledgers[0].expire_leases(10)
    else:
        await run("UPDATE ledger.deliveries SET next_attempt_at = next_attempt_at - interval '1 hour' WHERE delivery_id = %s")
        await ledgers[event.owner].claim_due(10)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(events=st.lists(EVENTS, min_size=2, max_size=12).map(lambda rest: [Claim(0, 0.0), *rest]))
@example(events=[Claim(0, 0.0), Wrote(0, 1, "retry", 0.0, called=False), Due(0, 1_000.0), Swept(2_000.0)])
def test_the_ledger_keeps_its_rules(database: Settings, events: list[Any]) -> None:
    """Claims, outcomes, renewed leases, ended leases and due retries of two processes, in any order."""
    found, expected = asyncio.run(replayed(database.ledger_database_url, events))
    assert found == expected


def test_the_rules_tell_a_late_outcome_from_a_lost_one() -> None:
    """What the rules say, once by hand: unknown is replaced by the owner's own late answer, and by nobody else's."""
    unknown = Row("unknown", 0, 1)
    assert step(unknown, Wrote(0, 1, "sent", 0.0)) == Row("sent", 0, 1)
    assert step(unknown, Wrote(1, 1, "sent", 0.0)) == unknown
    assert step(unknown, Wrote(0, 2, "sent", 0.0)) == unknown
    assert step(Row("sent", 0, 1), Wrote(0, 1, "failed", 0.0)) == Row("sent", 0, 1)
