"""Commands about what the guard does: `newswire recalls` and `newswire held`."""

from typing import Any

import click

from core.errors import InputError
from runtime.output import Output
from runtime.settings import Settings

_RECALLS = """
SELECT r.subject, r.retracted_at, r.found_at IS NOT NULL AS found, e.channel, e.state, e.reason, count(e.delivery_id) AS count
FROM ledger.recalls r LEFT JOIN ledger.edits e ON e.subject = r.subject
WHERE %(id)s::text IS NULL OR r.subject IN ('pub:' || %(id)s::text, 'alert:' || %(id)s::text)
GROUP BY r.subject, r.retracted_at, 3, e.channel, e.state, e.reason
ORDER BY r.retracted_at DESC, r.subject, e.channel, e.state, e.reason LIMIT 1000
"""
_HELD = """
SELECT reason, source_id, channel, count(*) AS count, min(not_after) AS first_ends
FROM ledger.deliveries WHERE state = 'retry' AND reason IN ('stopped', 'canary')
GROUP BY reason, source_id, channel ORDER BY reason, source_id, channel
"""
_WHAT = {
    "pending": "not settled yet",
    "not_sent": "not sent, or it did not arrive",
    "left_out": "sent without it",
    "not_editable": "sent; this channel cannot change it",
    "edited": "sent; changed since, or the endpoint was told",
    "failed": "sent; changing it failed",
    "unknown": "may have been sent",
}


def _rows(sql: str, **values: Any) -> list[tuple[Any, ...]]:
    from runtime.postgres import connect

    settings = Settings.load()
    settings.require("ledger_database_url")
    with connect(settings.ledger_database_url) as connection:
        return connection.execute(sql.encode(), values).fetchall()


@click.command(epilog="Example: newswire recalls 6f1d4f0e-4c0b-4a53-9f0f-6f9e2a6f3a11")
@click.argument("retracted", required=False)
@click.pass_obj
def recalls(output: Output, retracted: str | None) -> None:
    """Show what became of each recipient of what was retracted: all of it, or one publication or alert."""
    rows = _rows(_RECALLS, id=retracted.strip().lower() if retracted else None)
    if retracted and not rows:
        raise InputError(
            f"retracted: nothing is known of a retraction of {retracted}; `newswire run guard` must run to follow it"
        )
    columns = ["retracted", "at", "channel", "state", "reason", "count", "what it means"]
    shown = [
        (subject, at, channel, state or ("none" if found else "searching"), reason, count, _WHAT.get(state, ""))
        for subject, at, found, channel, state, reason, count in rows
    ]
    output.table("Recalls", columns, shown)


@click.command(epilog="Example: newswire held")
@click.pass_obj
def held(output: Output) -> None:
    """Show the deliveries that wait for a resume or for the end of a canary, by source and channel."""
    output.table("Held deliveries", ["held by", "source", "channel", "count", "first ends"], _rows(_HELD))


commands: list[click.Command] = [recalls, held]
