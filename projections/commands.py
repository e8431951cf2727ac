"""Commands of the read models: run them, look at them, prove them, and print the accounting."""

import sys

import click

from runtime.commands import run_group
from runtime.output import Output
from runtime.settings import Settings


@run_group.command("projections")
@click.option("--only", "names", multiple=True, help="Only these projections; may be given several times.")
def run_projections(names: tuple[str, ...]) -> None:
    """Keep the read models (api.*) equal to the topics, a thread for each."""
    from projections.process import run

    sys.exit(run(Settings.load(), names))


@click.group("projections")
def group() -> None:
    """Look at the read models, rebuild them and verify them."""


@group.command(epilog="Example: newswire projections status")
@click.pass_obj
def status(output: Output) -> None:
    """Show the generations of each projection, their offsets and their lag behind the topics."""
    from projections.operations import statuses

    columns = ["projection", "generation", "state", "because", "records", "lag", "group_lag", "since"]
    rows = [
        (s.name, s.generation, s.state, s.reason, s.records, s.lag, s.group_lag, s.started_at) for s in statuses(Settings.load())
    ]
    output.table("Projections", columns, rows)


@group.command(epilog="Example: newswire projections rebuild deliveries")
@click.argument("name", metavar="NAME|all")
@click.pass_obj
def rebuild(output: Output, name: str) -> None:
    """Ask for a new generation from the beginning of the topics; readers keep the old one until it has caught up.

    The same happens when the group is set back with Kafka's tool: bin/kafka groups --reset-offsets --to-earliest.
    """
    from projections.operations import request_rebuild

    settings = Settings.load()
    for asked in request_rebuild(settings, name, settings.actor):
        output.say(f"{asked}: a rebuild is asked for; `newswire projections status` shows how far it is.")


@group.command(epilog="Example: newswire projections verify all")
@click.argument("name", metavar="NAME|all")
@click.pass_obj
def verify(output: Output, name: str) -> None:
    """Replay the topics into a shadow and compare it with the read model, table by table.

    The exit code is 1 when a table differs.
    """
    from projections.catalogue import PROJECTIONS, projection
    from projections.operations import recorded
    from projections.verify import verify as compare

    settings = Settings.load()
    chosen = PROJECTIONS if name == "all" else (projection(name),)
    equal = True
    rows = []
    for item in chosen:
        with output.progress(recorded(settings, item), f"replaying {item.name}") as progress:
            found = compare(settings, item, progress=progress)
        equal = equal and found.equal
        rows += [
            (item.name, found.generation, c.table, c.rows, c.replayed_rows, c.equal, found.from_the_start) for c in found.tables
        ]
    columns = ["projection", "generation", "table", "rows", "replayed_rows", "equal", "from_the_start"]
    output.table("Read model and replay", columns, rows)
    if not equal:
        output.say(
            "They differ. Where from_the_start is no, the topics no longer keep everything that the read model was made of."
        )
        sys.exit(1)


@click.command(epilog="Example: newswire accounting daily@2026-11-22T09:00Z")
@click.argument("source", required=False)
@click.option("--limit", default=20, show_default=True, help="Sources to show when none is named, newest first.")
@click.pass_obj
def accounting(output: Output, source: str | None, limit: int) -> None:
    """Print what was decided for a SOURCE (an alert_id, or newsletter@minute) and what became of it, by channel.

    The exit code is 1 when a balance is not 0: then deliveries were lost, or counted that nobody decided.
    """
    from projections.operations import ACCOUNTING_COLUMNS, accounting_rows

    rows = accounting_rows(Settings.load(), source, limit)
    if source is None or output.json_mode:
        output.table("Accounting", ACCOUNTING_COLUMNS, rows)
    else:
        output.table(f"Accounting of {source}", ACCOUNTING_COLUMNS[1:], [row[1:] for row in rows])
    balance = ACCOUNTING_COLUMNS.index("balance")
    wrong = [row for row in rows if row[balance] != 0]
    if wrong:
        output.say(f"{len(wrong)} of {len(rows)} rows do not balance.")
        sys.exit(1)
    complete = ACCOUNTING_COLUMNS.index("complete")
    unfinished = len({row[0] for row in rows if not row[complete]})
    if unfinished:
        output.say(f"Incomplete: {unfinished} of the sources; not all their chunks are decided yet. What is decided balances.")
    else:
        output.say("Every row balances.")


commands: list[click.Command] = [group, accounting]
