"""Why an issue comes when it does, in sentences: the part of `core/explain.py` that is about the clock. Pure."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from core.cadence import EVERY_DAY, Schedule, days_text, minute_text, nominal_text
from core.due import timing, usual_hours
from core.names import USUAL_HOUR
from core.newsletter_state import NewsletterState
from core.reading_hours import MIN_SEEN
from core.schedule import local_slots
from core.verdicts import Rows
from core.zones import FALLBACK_ZONE, TZDATA_VERSION, zone_names


def why_not_due(state: NewsletterState, rows: Rows, slot: Mapping[str, Any], *, had: bool) -> str:
    """Return why the one subscriber of rows is not due at a slot; had: because of an issue of this period."""
    schedule, when = Schedule.of(slot["rules"]), timing(state, rows, slot)
    zone, minute, days = state.table.zones.names[int(when.zone[0])], int(when.minute[0]), int(when.days[0])
    here = ", ".join(nominal_text(item) for item in local_slots(zone, slot["slot_at"])) or "a local time that was already served"
    own = "" if days == EVERY_DAY else f", who takes newsletters on {days_text(days)}"
    what = "Already had the issue of this period" if had else "Was not due"
    return (
        f"{what}: it was {here} in {zone}, and the newsletter comes {schedule.in_words()}; "
        f"for this subscriber{own}, at {minute_text(minute)}."
    )


def about_the_hour(state: NewsletterState, rows: Rows, slot: Mapping[str, Any]) -> list[str]:
    """Return what there is to say of the hour and the zone of the one subscriber of rows."""
    found, zone = [], state.table.column("zone")[rows].astype(np.int64)
    name = state.table.zones.names[int(zone[0])]
    if name not in zone_names():
        found.append(f"The time-zone data {TZDATA_VERSION} does not know {name}: {FALLBACK_ZONE} counts.")
    if state.table.column("local_minute")[rows[0]] != USUAL_HOUR or slot["forced"]:
        return found
    (minute,), (seen,) = (values.tolist() for values in usual_hours(state, rows, zone, slot))
    if not Schedule.of(slot["rules"]).has_an_hour:
        found.append("Wants issues when they usually read; this newsletter comes at several hours of the day, so it cannot.")
    elif seen < MIN_SEEN:
        found.append(
            f"Wants issues when they usually read: {seen} times of reading are too few to tell ({MIN_SEEN} are needed), so the "
            f"newsletter's own hour counts, {minute_text(minute)}."
        )
    else:
        found.append(f"Usually reads at {minute_text(minute)} (seen {seen} times), so the issue comes at {minute_text(minute)}.")
    return found
