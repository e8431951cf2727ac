"""Commands about deliveries and their ledger: `newswire delivery show|list|retry` and `newswire ledger days|retire`."""

import sys
from collections import Counter

import click

from core.errors import InputError
from core.names import CHANNELS
from runtime.options import DRY_RUN, REASON, reason_for
from runtime.output import Output
from runtime.settings import Settings

STATES = ("failed", "unknown", "retry", "claimed", "suppressed", "sent", "confirmed")
"""States of the ledger, those that people look for first."""

BRIEF = ("delivery_id", "channel", "source_id", "reason", "at")
"""Columns of a list for people: both ids stay whole, and so there is no room for what `delivery show` says."""


@click.group()
def delivery() -> None:
    """Look at single deliveries, and give those that failed back to their sink."""


@delivery.command("show", epilog="Example: newswire delivery show 20261123-0b5f8a3e-6f3e-5b64-9a39-0c8a3a6b0001")
@click.argument("delivery_id")
@click.pass_obj
def show(output: Output, delivery_id: str) -> None:
    """Show everything that happened to a delivery, as a timeline: decided, claimed, every attempt, reported.

    Then what it waits for, when it has not ended, and which command lets it go. An id begins with the UTC day of not_after,
    the end of the time in which it is worth sending: usually the day after it was decided.
    """
    from sinks.history import clock_time, decided_at, edits_of, read_rows, timeline
    from sinks.waiting import around, waits_for

    settings = Settings.load()
    (row,) = read_rows(settings, [delivery_id])
    steps = [*timeline(row, decided_at(settings, row["delivery_id"])), *edits_of(settings, row)]
    shown = (
        "delivery_id", "state", "reason", "channel", "lane", "source_id", "subscriber_id", "attempt", "template", "not_after"
    )  # fmt: skip
    fields = {name: row[name] for name in shown if row[name] is not None}
    waits = waits_for(row, around(settings, row))
    if output.json_mode:
        output.item({**fields, "timeline": [step.known() for step in steps], "waits_for": waits})
        return
    output.item(fields)
    rows = [(clock_time(step.at), step.what, step.attempt or None, step.detail) for step in steps]
    output.say("")
    output.table("Timeline (UTC)", ["at", "what", "attempt", "detail"], rows)
    for sentence in waits:
        output.say(sentence)


@delivery.command("list", epilog="Example: newswire delivery list --state failed --reason attempts_exhausted --channel slack")
@click.option("--state", type=click.Choice(STATES), default="failed", show_default=True, help="State in the ledger.")
@click.option("--channel", type=click.Choice(CHANNELS), help="Only this channel.")
@click.option("--source", help="Only this alert_id, or newsletter_id@minute.")
@click.option("--reason", help="Only this reason, such as attempts_exhausted.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Most deliveries shown.")
@click.pass_obj
def list_(output: Output, state: str, channel: str | None, source: str | None, reason: str | None, limit: int) -> None:
    """List deliveries in a state, the newest first; it reads the whole ledger."""
    from sinks.history import LISTED, find

    rows = find(Settings.load(), state, channel=channel, source=source, reason=reason, limit=limit + 1)
    shown = LISTED if output.json_mode else BRIEF
    output.table(f"Deliveries in state {state}", shown, [[row[LISTED.index(name)] for name in shown] for row in rows[:limit]])
    if len(rows) > limit:
        output.say(f"These are the newest {limit}; --limit shows more, `newswire accounting` counts them.")


@delivery.command(
    "retry", epilog='Example: newswire delivery retry 20261123-0b5f8a3e-6f3e-5b64-9a39-0c8a3a6b0001 --reason "A new token"'
)
@click.argument("delivery_ids", nargs=-1, metavar="[DELIVERY_ID]...")
@REASON
@click.option("--source", help="Instead of ids: all that failed of this alert_id, or newsletter_id@minute.")
@click.option("--failed", "failed_for", help="With --source: only those that failed for this reason, such as rendering.")
@click.option("--unknown", "unknown_too", is_flag=True, help="Also what may have arrived: the recipient may get it twice.")
@DRY_RUN
@click.pass_obj
def retry(
    output: Output, delivery_ids: tuple[str, ...], reason: str | None, source: str | None, failed_for: str | None,
    unknown_too: bool, dry_run: bool,
) -> None:  # fmt: skip
    """Give failed deliveries back to their sink, under the same id: single ones, or all of a source after a mend.

    The sink looks at consent, suppression, recall, stops and expiry again before it sends. What was sent is refused here.
    The exit code is 1 when a delivery was refused.
    """
    from sinks.history import failed_of
    from sinks.redrive import BATCH, give_back

    settings, why = Settings.load(), reason_for(reason, dry_run)
    if bool(delivery_ids) == bool(source) or (failed_for and not source):
        raise InputError("delivery: name deliveries by their ids, or all that failed of a source with --source (and --failed)")
    ids = list(delivery_ids) or failed_of(settings, source or "", failed_for, unknown_too=unknown_too)
    word = "would be given back" if dry_run else "given back"
    rows = [
        (answer.delivery_id, word if answer.given_back else "refused", answer.detail)
        for begin in range(0, len(ids), BATCH)
        for answer in give_back(
            settings, ids[begin : begin + BATCH], by=settings.actor, why=why, unknown_too=unknown_too, dry_run=dry_run
        )
    ]
    if source:
        counts = Counter((answer, detail.partition(";")[0]) for _, answer, detail in rows)
        title = f"{'Failed and unknown' if unknown_too else 'Failed'} deliveries of {source}"
        output.table(title, ["answer", "detail", "deliveries"], [(*row, n) for row, n in counts.items()])
        if not rows:
            output.say(f"Nothing of {source} {'failed or is unknown' if unknown_too else 'failed'}.")
    else:
        output.table("", ["delivery_id", "answer", "detail"], rows)
    if any(answer != word for _, answer, _ in rows):
        sys.exit(1)


@click.group()
def ledger() -> None:
    """The ledger's days: how they stand, and retiring the old ones."""


@ledger.command("days", epilog="Example: newswire ledger days")
@click.pass_obj
def days(output: Output) -> None:
    """List the days that the ledger has, with what is not settled in each; it counts every row."""
    from sinks.retiring import days as all_days

    columns = ["day", "attached", "deliveries", "claimed", "parked", "unknown", "unreported"]
    rows = [(d.day, d.attached, d.rows, d.claimed, d.parked, d.unknown, d.unreported) for d in all_days(Settings.load())]
    output.table("Days of the ledger (UTC day of not_after)", columns, rows)


@ledger.command("retire", epilog="Example: newswire ledger retire --dry-run")
@click.option("--with-unknown", is_flag=True, help="Take what is still unknown for settled: it will never be known.")
@DRY_RUN
@click.pass_obj
def retire(output: Output, with_unknown: bool, dry_run: bool) -> None:
    """Detach settled days older than 9 days, and drop detached ones older than 90; the sinks do so every hour.

    A day with deliveries that are claimed, parked, unknown or not reported stays.
    """
    from sinks.retiring import kept_because
    from sinks.retiring import retire as retire_days

    found = retire_days(Settings.load(), with_unknown=with_unknown, dry_run=dry_run)
    words = {"detached": "would be detached", "dropped": "would be dropped"} if dry_run else {}
    rows = [(r.day.day, words.get(r.done, r.done), r.day.rows, r.day.unsettled) for r in found]
    output.table("Old days", ["day", "answer", "deliveries", "unsettled"], rows)
    for one in (r for r in found if r.done == "kept"):
        output.say(f"{kept_because(one.day)[0].upper()}{kept_because(one.day)[1:]}.")


commands: list[click.Command] = [delivery, ledger]
