"""Claims and outcomes a second in the ledger as it fills: `make bench-ledger`.

Fills the ledger's newest day with settled deliveries, then claims and settles new ones in batches as a sink does, from
one process over two connections. Prints deliveries a second at each size, and their ratio to the smallest.
"""

import argparse
import asyncio
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from core.outcomes import Sent, state_of
from deploy.client import StackClient, StepFailed
from sinks.delivery import Delivery
from sinks.ledger import Ledger, Result, open_pool
from tests.benchmarks.pipeline import PLAIN_WIDTH

BATCH, BATCHES = 500, 60
NOT_AFTER = timedelta(days=3)

FILL = """
INSERT INTO ledger.deliveries (
    day, delivery_id, channel, lane, source_id, source_kind, subscriber_id, newsletter_id, not_after, claimed_at, state, owner,
    attempt, outcome_at, reported_at, receipt_hash
)
SELECT %s::date, gen_random_uuid(), 'email', 'bulk', 'fill@2026-01-01T00:00Z', 'newsletter', gen_random_uuid(), 'fill', %s,
       now(), 'sent', gen_random_uuid(), 1, now(), now(), '\\x00'
FROM generate_series(1, %s)
"""


def deliveries(count: int, not_after: datetime) -> list[Delivery]:
    """Return new deliveries that nobody has claimed."""
    made = []
    for _ in range(count):
        uid = str(uuid.uuid4())
        made.append(
            Delivery(
                f"{not_after:%Y%m%d}-{uid}", not_after.date(), uid, str(uuid.uuid4()), "email", "bulk", "bench@2026-01-01T00:00Z",
                "newsletter", "bench", not_after, {"items": []}, b"", None,
            )
        )  # fmt: skip
    return made


async def measure(stack: StackClient, not_after: datetime) -> float:
    """Return deliveries a second through claim, outcome and reported."""
    settings = stack.settings
    pool = open_pool(settings.ledger_database_url, 3)
    await pool.open()
    try:
        ledger = Ledger(pool, channel="email", lane="bulk", lease_s=60.0, consent_lag_s=3600.0)
        await ledger.ensure_days(datetime.now(UTC).date())
        batches = [deliveries(BATCH, not_after) for _ in range(BATCHES)]
        began = time.monotonic()

        async def settle(batch: list[Delivery]) -> None:
            claims = await ledger.claim(batch, time.monotonic())
            if claims is None or len(claims.claimed) != len(batch):
                raise StepFailed("the ledger refused claims: is the consent process running?")
            state = state_of(Sent("x"))
            settled = await ledger.write_outcomes([Result(d, state, None, b"h" * 32, b"r" * 60) for d in claims.claimed])
            await ledger.mark_reported(settled)

        for first, second in zip(batches[::2], batches[1::2], strict=True):
            await asyncio.gather(settle(first), settle(second))
        return BATCH * BATCHES / (time.monotonic() - began)
    finally:
        await pool.close()


def main() -> int:
    """Run the benchmark on a stack of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, default=Path(".newswire/bench"), help="Folder of the stack.")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    arguments = parser.parse_args()
    stack = StackClient(arguments.home, Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH))
    not_after = datetime.now(UTC) + NOT_AFTER
    table = Table(box=SIMPLE_HEAD)
    for heading in ("rows in the day", "deliveries a second", "of the smallest"):
        table.add_column(heading, justify="right")
    try:
        stack.up()
        settings = stack.settings
        database = conninfo_to_dict(settings.ledger_database_url)["dbname"]
        owner = make_conninfo(settings.owner_database_url, dbname=database)
        rows, first = 0, 0.0
        for size in arguments.rows:
            with psycopg.connect(owner, autocommit=True) as connection:
                connection.execute(FILL, [not_after.date(), not_after, size - rows])
                connection.execute("VACUUM ANALYZE ledger.deliveries")
            rows = size
            rate = max(asyncio.run(measure(stack, not_after)) for _ in range(2))
            first = first or rate
            table.add_row(f"{size:,}", f"{rate:,.0f}", f"{rate / first:.0%}")
    except StepFailed as failure:
        stack.console.print(f"The benchmark stopped: {failure}", markup=False, soft_wrap=True)
        return 1
    stack.console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
