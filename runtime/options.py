"""Options that commands in several folders share."""

import click

from core.errors import InputError

DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
REASON = click.option("--reason", help="Why, for people; it stays on record. Only with --dry-run it can be left out.")


def reason_for(reason: str | None, dry_run: bool) -> str:
    """Return the reason of an act; InputError when there is none and the act is not only tried."""
    if reason is None and not dry_run:
        raise InputError('reason: is missing; say why with --reason "...", or see with --dry-run what would be done')
    return reason or ""
