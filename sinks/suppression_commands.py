"""`newswire suppression`: look an address up in the suppression list, and lift what a person says is mended."""

from typing import Any

import click

from core.errors import InputError
from core.names import CHANNELS
from runtime.settings import Settings

_SHOW = """
SELECT reason, since, lifted_at, notice_id, subscriber_id::text FROM ledger.suppressions WHERE address_hash = %s
"""
_LIFT = """
WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtext('ledger.suppressions')) AS taken)
UPDATE ledger.suppressions SET lifted_at = clock_timestamp(), address = NULL, number = nextval('ledger.suppression_number')
FROM turn WHERE address_hash = %s AND lifted_at IS NULL RETURNING subscriber_id::text
"""

_CHANNEL = click.option(
    "--channel", type=click.Choice(CHANNELS), default="email", show_default=True, help="Channel of the address."
)


@click.group("suppression")
def suppression_group() -> None:
    """Addresses that nothing is sent to any more: permanent bounces, complaints, endpoints that are gone.

    The list holds keyed hashes, so an address can be looked up but the list cannot be read.
    """


@suppression_group.command(epilog="Example: newswire suppression show ada@example.org")
@click.argument("address")
@_CHANNEL
@click.pass_obj
def show(output: Any, address: str, channel: str) -> None:
    """Say whether ADDRESS is suppressed, and why. For a webhook ADDRESS is its URL."""
    rows = _run(_SHOW, channel, address)
    columns = ["reason", "since", "lifted_at", "notice", "subscriber_id"]
    output.table("Suppression", columns, rows)
    if not rows:
        output.say(f"This address is not on the list of the channel {channel}.")


@suppression_group.command(epilog="Example: newswire suppression lift https://example.org/hook --channel webhook")
@click.argument("address")
@_CHANNEL
@click.pass_obj
def lift(output: Any, address: str, channel: str) -> None:
    """Take ADDRESS off the list; sinks know it within two seconds.

    Its subscriber's channel stays unlinked until `newswire link` links it again, and Amazon's own list is not changed.
    """
    rows = _run(_LIFT, channel, address)
    if not rows:
        raise InputError(f"address: it is not suppressed on the channel {channel}; `newswire suppression show` looks it up")
    output.item({"lifted": 1, "subscriber_id": rows[0][0]})


def _run(statement: str, channel: str, address: str) -> list[tuple[Any, ...]]:
    from runtime.keys import address_hash
    from runtime.postgres import connect

    settings = Settings.load()
    settings.require("ledger_database_url", "receipt_key")
    with connect(settings.ledger_database_url) as connection:
        return connection.execute(statement.encode(), [address_hash(settings, channel, address)]).fetchall()
