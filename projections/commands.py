"""Commands of the read models: run them, look at them, prove them, and print the accounting."""

import sys
from itertools import groupby
from typing import Any, Final

import click

from core.errors import InputError, SetupError, Unavailable
from runtime.commands import run_group
from runtime.output import Output, plain
from runtime.settings import Settings

UNDECIDED: Final = "not decided, or not in the read model yet"


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
@click.option("--limit", default=20, show_default=True, help="Sources to show when no single one is named, newest first.")
@click.pass_obj
def accounting(output: Output, source: str | None, limit: int) -> None:
    """Print what was decided for a SOURCE and what became of it, by channel, and what is still open; the newest first.

    SOURCE is an alert_id, a newsletter's slot such as daily@2026-11-22T09:00Z, or a newsletter: then its newest slots. The exit
    code is 1 when a balance is not 0 although all is decided: then deliveries were lost, or counted that nobody decided. It is
    also 1 when something is not decided although it is too late to send it.
    """
    from projections.operations import ACCOUNTING_COLUMNS, accounting_rows, overdue

    settings = Settings.load()
    rows = [dict(zip(ACCOUNTING_COLUMNS, row, strict=True)) for row in accounting_rows(settings, source, limit)]
    waiting = _undecided(settings, source)
    if source is not None and not rows and not waiting:
        raise InputError(f"source {source!r} is not known: it is not decided, or not in the read model yet.")
    nothing = dict.fromkeys(ACCOUNTING_COLUMNS, 0) | {"source_kind": "newsletter", "channel": "none", "complete": False}
    rows = [*({**nothing, "source_id": one} for one in waiting), *rows]
    if output.json_mode:
        output.table("", ACCOUNTING_COLUMNS, [list(row.values()) for row in rows])
    else:
        _show_accounting(output, rows)
    # What was requested may be known before the decision that it comes from: until all are, a difference says nothing.
    wrong = sum(row["balance"] != 0 for row in rows if row["complete"])
    late = sorted(overdue(settings, {row["source_id"] for row in rows if not row["complete"]}))
    if wrong:
        output.say(f"{wrong} of {len(rows)} rows do not balance.")
    if late:
        more = f" and {plain(len(late) - 1)} more" if late[1:] else ""
        output.say(f"Overdue: {late[0]}{more}: too late to be sent, but {UNDECIDED}.")
    if wrong or late:
        sys.exit(1)
    output.say(f"Every decided row balances. {_open(settings, rows)}")


def _undecided(settings: Settings, source: str | None) -> list[str]:
    from projections.operations import undecided

    try:
        return undecided(settings, source)
    except (Unavailable, SetupError) as error:
        click.echo(f"Warning: slots of which nothing is decided yet are not shown: {error}.", err=True)
        return []


def _show_accounting(output: Output, rows: list[dict[str, Any]]) -> None:
    """Print a table for each source."""
    for source, group in groupby(rows, key=lambda row: row["source_id"]):
        each = list(group)
        columns = [name for name in each[0] if name not in ("source_id", "source_kind", "complete", "population")]
        decided = "" if each[0]["complete"] else f", {UNDECIDED}" if not each[0]["population"] else f", in part {UNDECIDED}"
        people = each[0]["population"]
        title = f"{source}: {plain(people)} {'subscriber' if people == 1 else 'subscribers'}{decided}"
        output.table(title, columns, [[row[name] for name in columns] for row in each])


def _open(settings: Settings, rows: list[dict[str, Any]]) -> str:
    """Return in words what may still change."""
    from projections.operations import finished

    left = {row["source_id"] for row in rows} - finished(settings, {row["source_id"] for row in rows})
    undecided = len({row["source_id"] for row in rows if not row["complete"]})
    under_way = sum(row["pending"] + row["not_fanned_out"] for row in rows if row["source_id"] in left)
    unknown = sum(row["unknown"] for row in rows)
    parts = [
        f"{plain(undecided)} {'source is' if undecided == 1 else 'sources are'} {UNDECIDED}",
        f"{plain(under_way)} {'delivery is' if under_way == 1 else 'deliveries are'} under way",
        f"of {plain(unknown)} it is unknown whether they arrived",
    ]
    said = [part for part, count in zip(parts, (undecided, under_way, unknown), strict=True) if count]
    where = (
        " `newswire delivery list --state unknown` names them, `newswire delivery show ID` says until when." if unknown else ""
    )
    return f"Still open: {'; '.join(said)}.{where}" if said else "Nothing is open."


commands: list[click.Command] = [group, accounting]
