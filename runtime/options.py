"""Options that commands in several folders share."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import click

from core.errors import InputError
from core.names import MAX_LATE_H

MAX_SLOT_AHEAD: Final = timedelta(hours=24)
"""A slot further ahead is more likely a slip of the pen; one more than MAX_LATE_H back is past not_after."""

_SLOT: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2})")

DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
REASON = click.option("--reason", help="Why, for people; it stays on record. Only with --dry-run it can be left out.")


def reason_for(reason: str | None, dry_run: bool) -> str:
    """Return the reason of an act; InputError when there is none and the act is not only tried."""
    if reason is None and not dry_run:
        raise InputError('reason: is missing; say why with --reason "...", or see with --dry-run what would be done')
    return reason or ""


def parse_slot(text: str | None, now: datetime, at_any_time: bool) -> datetime:
    """Return the UTC minute of a slot, the current one when none is given; InputError says what is wrong with it."""
    if text is None:
        return now.astimezone(UTC).replace(second=0, microsecond=0)
    if not _SLOT.fullmatch(text):
        raise InputError(f"--slot {text!r} is no time with a zone: write it as 2026-11-22T09:00Z.")
    try:
        slot = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InputError(f"--slot {text!r} is no time that exists: write it as 2026-11-22T09:00Z.") from None
    if slot.second or slot.microsecond:
        raise InputError(f"--slot {text!r} is not a whole minute.")
    if not at_any_time and now - slot > timedelta(hours=MAX_LATE_H):
        raise InputError(
            f"--slot {text!r} is more than {MAX_LATE_H} hours ago: its issues would be past not_after. For a replay use "
            "--at-any-time."
        )
    if not at_any_time and slot - now > MAX_SLOT_AHEAD:
        raise InputError(f"--slot {text!r} is more than 24 hours ahead. For a replay use --at-any-time.")
    return slot
