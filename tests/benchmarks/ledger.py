"""The ledger as it fills: `make bench-ledger`, on the stack's own PostgreSQL and in a database of its own.

Fills the ledger to 100 thousand, 1 million and 10 million deliveries, and at each size measures what a sink does with a batch
(claim, outcome, reported), a sweep that finds nothing, and the look-up of `newswire delivery show`. Half of all
deliveries are of the newest day, in which the new ones are claimed; that is more than a day's share. At the end the oldest
day is retired while claims go on. Every figure is also given as a share of the first size's in the same run: that is what
to compare, the rest is of one machine. Exits non-zero when something reads a whole table, or the day is not retired.
"""

import argparse
import asyncio
import hashlib
import statistics
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from core.outcomes import Sent, state_of
from runtime.postgres import migrate
from runtime.settings import Settings
from sinks.delivery import Delivery
from sinks.history import EDITS, ledger_connection, look_up, parse_id, partition_of, read_row, read_rows
from sinks.ledger import Claims, Ledger, Pool, Result, Settled, open_pool
from sinks.retiring import Retired, retire
from tests.benchmarks.pipeline import PLAIN_WIDTH, cpu_s
from tests.sinks_samples import request

DATABASE: Final = "ledger_bench"
BATCH: Final = 500
"""Deliveries in a statement, as in a bulk sink (sinks/loop.py)."""
BATCHES, WARM_UP = 40, 4
"""Batches measured at each size, and those before them that are not."""
LOOK_UPS, SWEEPS = 500, 50
BARRED: Final = 100_000
"""Subjects that consent bars: none of them is met, all of them have to be looked up in."""
OLD, YOUNG, AHEAD = -10, range(-7, 1), 1
"""Days from today: one that is due to be retired, those in between, and the newest one, in which is claimed."""
SHARES: Final = {OLD: 0.1} | dict.fromkeys(YOUNG, 0.05) | {AHEAD: 0.5}
HOLDS: Final = 0.8
"""A share of the first figure from which on it counts as held."""

# An older day is settled; of the newest one 10 in 1,000 are parked, 2 held as unknown and 1 in hand. Rows are as wide as real
# ones: a receipt of 60 bytes, a request of 700 while parked, a history after a second attempt.
FILL: Final = """
INSERT INTO ledger.{} (
    day, delivery_id, channel, lane, source_id, source_kind, subscriber_id, newsletter_id, state, owner, attempt, lease_until,
    next_attempt_at, request, reason, receipt_hash, receipt, claimed_at, outcome_at, reported_at, not_after, check_at, call_ms,
    history
)
SELECT
    %(day)s::date, md5(%(day)s || ' ' || n)::uuid, (ARRAY['email', 'slack', 'discord', 'webhook'])[1 + n %% 4],
    CASE WHEN n %% 10 = 0 THEN 'urgent' ELSE 'bulk' END, 'daily@' || %(day)s || 'T0' || n %% 8 || ':00Z', 'newsletter',
    md5('s' || n %% 2000003)::uuid, 'daily', state, %(owner)s::uuid, CASE state WHEN 'suppressed' THEN 0 ELSE 1 END,
    CASE state WHEN 'claimed' THEN now() + interval '1 day' END, CASE state WHEN 'retry' THEN now() + interval '1 day' END,
    CASE WHEN state IN ('retry', 'unknown') THEN %(request)s::bytea END,
    CASE state WHEN 'failed' THEN 'bounced' WHEN 'suppressed' THEN 'unsubscribed' WHEN 'retry' THEN 'throttled' END,
    CASE WHEN sent THEN %(hash)s::bytea END, CASE WHEN sent THEN %(receipt)s::bytea END,
    now(), CASE WHEN state NOT IN ('claimed', 'retry') THEN now() END, CASE WHEN state NOT IN ('claimed', 'retry') THEN now() END,
    %(day)s::timestamptz + interval '12 hours', CASE state WHEN 'unknown' THEN 'infinity'::timestamptz END, 12,
    CASE WHEN n %% 25 = 0 THEN jsonb_build_array(jsonb_build_object(
        'state', 'retry', 'reason', 'throttled', 'attempt', 1, 'claimed_at', now(), 'at', now(), 'call_ms', 12)) END
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
CROSS JOIN LATERAL (SELECT CASE -- OFFSET 0: each row's is worked out once
    WHEN n %% 1000 < %(open)s THEN CASE WHEN n %% 1000 < 10 THEN 'retry' WHEN n %% 1000 < 12 THEN 'unknown' ELSE 'claimed' END
    WHEN n %% 100 < 5 THEN 'suppressed' WHEN n %% 100 < 7 THEN 'failed' WHEN n %% 100 < 60 THEN 'confirmed' ELSE 'sent'
END AS state OFFSET 0) s
CROSS JOIN LATERAL (SELECT state IN ('sent', 'confirmed', 'failed') AS sent OFFSET 0) t
"""
# A recall has dealt with a tenth of all deliveries.
FILL_EDITS: Final = """
INSERT INTO ledger.edits (subject, day, delivery_id, channel, subscriber_id, state, settled_at)
SELECT 'pub:' || n %% 100, %(day)s::date, md5(%(day)s || ' ' || n)::uuid, 'slack', md5('s' || n)::uuid, 'edited', now()
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n WHERE n %% 10 = 0
"""
FILL_BARRED: Final = """
INSERT INTO ledger.barred (subject, reason, since, topic, partition, "offset")
SELECT 'sub:' || gen_random_uuid() || '/alerts', 'unsubscribed', now(), 't', 0, n FROM generate_series(1, %s) AS n
"""
SEQUENTIAL: Final = """
SELECT coalesce(sum(seq_scan), 0)::bigint FROM pg_stat_user_tables
WHERE schemaname = 'ledger' AND (relname LIKE 'deliveries_%%' OR relname = 'edits')
"""
WIDTH: Final = """
SELECT pg_size_pretty(sum(pg_total_relation_size(relid))) FROM pg_stat_user_tables WHERE schemaname = 'ledger'
"""


@dataclass
class Figures:
    """What was measured at one size; times are of one batch, or one look-up, in seconds."""

    rows: int
    claims: list[float] = field(default_factory=list)
    outcomes: list[float] = field(default_factory=list)
    reports: list[float] = field(default_factory=list)
    sweeps: list[float] = field(default_factory=list)
    look_ups: list[float] = field(default_factory=list)
    cpu_us: float = 0.0
    """Of PostgreSQL, a delivery through claim, outcome and reported."""
    sequential: int = 0
    """Scans of a whole table meanwhile."""


def per_s(batches: list[float]) -> float:
    """Return deliveries a second."""
    return BATCH * len(batches) / sum(batches)


class Bench:
    """The benchmark's database."""

    def __init__(self, settings: Settings, console: Console) -> None:
        settings.require("owner_database_url", "ledger_database_url")
        self._owner_url = settings.owner_database_url
        self.settings = Settings(
            owner_database_url=settings.owner_database_url,
            ledger_database_url=make_conninfo(settings.ledger_database_url, dbname=DATABASE),
        )
        self._console, self._today = console, datetime.now(UTC).date()
        self._filled = dict.fromkeys(SHARES, 0)

    def day(self, ahead: int) -> date:
        """Return a day so many days from today."""
        return self._today + timedelta(days=ahead)

    @contextmanager
    def database(self) -> Iterator[None]:
        """Make the database anew, and drop it afterwards: at 10 million rows it takes some gigabytes."""
        drop = f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"
        with psycopg.connect(self._owner_url, autocommit=True) as connection:
            connection.execute(drop)
        migrate(self.settings)
        with self.owner() as connection:
            connection.execute("SELECT ledger.ensure_days(%s, %s)", [self.day(OLD), self.day(AHEAD)])
            connection.execute("INSERT INTO ledger.consent_progress VALUES ('t', 0, 0, now() + interval '1 day')")
            connection.execute(FILL_BARRED, [BARRED])
        try:
            yield
        finally:
            with psycopg.connect(self._owner_url, autocommit=True) as connection:
                connection.execute(drop)

    def owner(self) -> psycopg.Connection:
        """Return a connection that may do everything in the benchmark's database."""
        return psycopg.connect(make_conninfo(self._owner_url, dbname=DATABASE), autocommit=True)

    def fill(self, rows: int) -> None:
        """Bring the ledger to so many deliveries, and leave it as it is a while later: vacuumed and written to disk."""
        began = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self._fill_day, SHARES, [rows] * len(SHARES)))
        with self.owner() as connection:
            connection.execute("VACUUM (ANALYZE)")
            connection.execute("CHECKPOINT")
            ((size,),) = connection.execute(WIDTH).fetchall()
        self._console.print(f"  filled to {rows:>10,} deliveries, {size} ({time.monotonic() - began:.0f} s)", highlight=False)

    def _fill_day(self, ahead: int, rows: int) -> None:
        first, last = self._filled[ahead] + 1, int(rows * SHARES[ahead])
        unsettled = 13 if ahead == AHEAD else 0
        values = {
            "day": str(self.day(ahead)), "first": first, "last": last, "owner": uuid.uuid4(), "open": unsettled,
            "request": b"r" * 700, "hash": b"h" * 32, "receipt": b"r" * 60,
        }  # fmt: skip
        with self.owner() as connection:
            connection.execute("SET synchronous_commit = off")
            connection.execute(sql.SQL(FILL).format(sql.Identifier(partition_of(self.day(ahead)))), values)
            connection.execute(FILL_EDITS, values)
        self._filled[ahead] = last

    def known(self, count: int, ahead: int | None = None) -> list[str]:
        """Return ids of deliveries that are there, of one day or of all in turn, spread over each day."""
        days, found = [ahead] if ahead is not None else list(SHARES), []
        for number in range(count):
            one = days[number % len(days)]
            digest = hashlib.md5(f"{self.day(one)} {1 + number * 7919 % self._filled[one]}".encode(), usedforsecurity=False)
            found.append(f"{self.day(one):%Y%m%d}-{uuid.UUID(digest.hexdigest())}")
        return found

    def new(self, count: int) -> list[list[Delivery]]:
        """Return batches of new deliveries of the newest day."""
        not_after = datetime.combine(self.day(AHEAD), datetime.min.time(), UTC) + timedelta(hours=12)

        def one() -> Delivery:
            return Delivery.of(request(not_after=not_after, address=b"a" * 60), b"r" * 700, None)

        return [[one() for _ in range(BATCH)] for _ in range(count)]

    def sequential(self) -> int:
        """Return how many scans of whole tables there were; those of connections that are still open may be missing."""
        with self.owner() as connection:
            ((count,),) = connection.execute(SEQUENTIAL).fetchall()
        return int(count)

    def backends(self) -> list[int]:
        """Return the pids of the servers behind the sinks' connections."""
        with self.owner() as connection:
            query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            return [pid for (pid,) in connection.execute(query)]

    def plans(self) -> list[str]:
        """Return how PostgreSQL finds a delivery and what a recall did about it, without being talked out of anything."""
        (one,) = self.known(1, AHEAD)
        values = {"day": self.day(AHEAD), "uuid": one[9:]}
        with self.owner() as connection:
            found = []
            for statement in (look_up(self.day(AHEAD)), sql.SQL(EDITS)):
                rows = connection.execute(sql.SQL("EXPLAIN (COSTS OFF) ") + statement, values).fetchall()
                found.append(next(line.strip(" ->") for (line,) in rows if "Scan" in line))
        return found


async def timed(times: list[float], step: Callable[[], Awaitable[Any]]) -> Any:
    """Do a step and note how long it took."""
    began = time.monotonic()
    result = await step()
    times.append(time.monotonic() - began)
    return result


async def settle(ledger: Ledger, batch: list[Delivery], found: Figures) -> None:
    """Take a batch from its claim to the note that it was reported."""
    claims: Claims | None = await timed(found.claims, lambda: ledger.claim(batch, time.monotonic()))
    assert claims is not None, "consent is behind"
    assert len(claims.claimed) == len(batch), "the ledger refused new deliveries"
    for one in claims.claimed:
        one.call_ms = 12
    results = [Result(d, state_of(Sent("x")), None, b"h" * 32, b"r" * 60) for d in claims.claimed]
    settled: list[Settled] = await timed(found.outcomes, lambda: ledger.write_outcomes(results))
    assert len(settled) == len(batch), "outcomes were not written"
    await timed(found.reports, lambda: ledger.mark_reported(settled))


async def sweep(ledger: Ledger) -> None:
    """Look for what others have left, as each sink does every two seconds; the parked are not due, so there is nothing."""
    await ledger.expire_leases(BATCH)
    await ledger.unreported(6.0, BATCH)
    await ledger.claim_due(BATCH)


async def with_ledger(bench: Bench, step: Callable[[Ledger], Awaitable[None]]) -> None:
    """Run a step with a ledger as a sink of bulk mail has it."""
    pool: Pool = open_pool(bench.settings.ledger_database_url, 1)
    await pool.open()
    try:
        await step(Ledger(pool, channel="email", lane="bulk", lease_s=600.0, consent_lag_s=60.0))
    finally:
        await pool.close()


def measure(bench: Bench, rows: int) -> Figures:
    """Measure one size."""
    found, batches = Figures(rows), bench.new(WARM_UP + BATCHES)
    before = bench.sequential()

    async def steps(ledger: Ledger) -> None:
        for batch in batches[:WARM_UP]:
            await settle(ledger, batch, Figures(0))
        pids = bench.backends()
        spent = cpu_s(pids)
        for batch in batches[WARM_UP:]:
            await settle(ledger, batch, found)
        found.cpu_us = (cpu_s(pids) - spent) / (BATCH * BATCHES) * 1e6
        for _ in range(SWEEPS):
            await timed(found.sweeps, lambda: sweep(ledger))

    asyncio.run(with_ledger(bench, steps))
    with ledger_connection(bench.settings) as connection:
        for one in bench.known(LOOK_UPS):
            began = time.monotonic()
            assert read_row(connection, *parse_id(one)) is not None
            found.look_ups.append(time.monotonic() - began)
    found.sequential = bench.sequential() - before
    return found


def retire_oldest(bench: Bench) -> tuple[list[Retired], float, list[float]]:
    """Retire what is due while claims go on; return what was done, how long it took, and the claims' times meanwhile."""
    batches, found, done = bench.new(200), Figures(0), list[Retired]()
    took_s = 0.0

    async def steps(ledger: Ledger) -> None:
        nonlocal took_s
        began = time.monotonic()
        retiring = asyncio.create_task(asyncio.to_thread(retire, bench.settings))
        for batch in batches:
            if retiring.done():
                break
            await settle(ledger, batch, found)
        done.extend(await retiring)
        took_s = time.monotonic() - began

    asyncio.run(with_ledger(bench, steps))
    return done, took_s, found.claims


def show(console: Console, all_found: list[Figures]) -> None:
    """Print the table."""
    table = Table(box=SIMPLE_HEAD)
    headings = (
        "deliveries", "claims a second", "of the first", "outcomes a second", "of the first", "slowest batch ms",
        "CPU µs a delivery", "sweep ms", "look-up ms",
    )  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="right")
    first = all_found[0]
    for one in all_found:
        table.add_row(
            f"{one.rows:,}", f"{per_s(one.claims):,.0f}", f"{per_s(one.claims) / per_s(first.claims):.0%}",
            f"{per_s(one.outcomes):,.0f}", f"{per_s(one.outcomes) / per_s(first.outcomes):.0%}",
            f"{max(one.claims + one.outcomes) * 1e3:.0f}", f"{one.cpu_us:.0f}", f"{statistics.median(one.sweeps) * 1e3:.2f}",
            f"{statistics.median(one.look_ups) * 1e3:.2f}",
        )  # fmt: skip
    console.print(table)


def verdict(all_found: list[Figures]) -> str:
    """Return the sentence that says whether the ledger holds."""
    first, last = all_found[0], all_found[-1]
    claims, outcomes = per_s(last.claims) / per_s(first.claims), per_s(last.outcomes) / per_s(first.outcomes)
    says = "hold" if min(claims, outcomes) >= HOLDS else "do not hold"
    kept = f"the claims keep {claims:.0%} and the outcomes {outcomes:.0%} of their rate: they {says}"
    cpu = f"PostgreSQL's CPU a delivery is {last.cpu_us / first.cpu_us:.0%} of the first"
    return f"From {first.rows:,} to {last.rows:,} deliveries {kept}. {cpu}."


def main() -> int:
    """Run the benchmark on the stack that the settings name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000], help="Sizes, growing.")
    sizes = sorted(parser.parse_args().rows)
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    bench = Bench(Settings.load(), console)
    with bench.database():
        all_found = []
        for rows in sizes:
            bench.fill(rows)
            all_found.append(measure(bench, rows))
        show(console, all_found)
        plans = bench.plans()
        retired, took_s, claims = retire_oldest(bench)
        (oldest,) = bench.known(1, OLD)
        read_rows(bench.settings, [oldest])  # a detached day can still be read
    sequential = sum(one.sequential for one in all_found)
    detached = [one.day for one in retired if one.done == "detached"]
    say = [
        verdict(all_found),
        f"`newswire delivery show`: {'; '.join(plans)}. Scans of a whole table in all of this: {sequential}.",
        f"Retired meanwhile: {', '.join(f'{d.day} with {d.rows:,}' for d in detached) or 'nothing'} in {took_s:.1f} s, "
        f"while {len(claims)} batches were claimed, the slowest in {max(claims, default=0.0) * 1e3:.0f} ms.",
    ]
    for line in say:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return 0 if not sequential and [d.day for d in detached] == [bench.day(OLD)] and all("Index" in p for p in plans) else 1


if __name__ == "__main__":
    sys.exit(main())
