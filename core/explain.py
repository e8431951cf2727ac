"""Why one person got something, or did not: the decision made again, purely, for that person alone.

Takes the shard's state at the offsets that the decision recorded. The verdict comes from the very functions that decided; the
sentences say which rule it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from core.alert_state import AlertState, alert_verdicts
from core.deciding import work_out_issues
from core.names import CHANNELS, GATE_REASONS, NO_CHANNEL
from core.newsletter_state import NewsletterState
from core.schedule import local_slots
from core.subscribers import SubscriberTable, subscriber_key
from core.verdicts import CHOSEN, GATES, NOT_CONCERNED, Rows, Verdicts
from core.zones import SLOT_MIN


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one person's decision comes to."""

    verdict: str
    """chosen, gated or not_concerned."""
    reason: str | None
    """The gate, when it was one."""
    channels: tuple[str, ...]
    """On which channels; `none` for a gate without one."""
    because: tuple[str, ...]
    """Sentences for people."""


def explain_alert(state: AlertState, alert: Mapping[str, Any], subscriber_id: str, now: datetime) -> Explanation:
    """Return why somebody gets an admitted alert (an item of AlertBatch), or does not; now is when it was decided."""
    table = state.table
    rows = _row(table, subscriber_id)
    if rows is None:
        return _unknown()
    verdicts = alert_verdicts(state, alert, rows, now)
    because = []
    if not table.column("alerts")[rows[0]]:
        because.append("Does not take alerts.")
    names = [item["topic"] for item in alert["topics"]]
    if names and not table.declares_any(rows, names)[0]:
        because.append(f"Declared none of the alert's topics ({', '.join(sorted(names))}).")
    return _explanation(verdicts, because or ["Takes alerts, and the alert's topics match."])


def explain_newsletter(state: NewsletterState, slot: Mapping[str, Any], subscriber_id: str, now: datetime) -> Explanation:
    """Return why somebody gets the issue of a slot (a SlotDue), or does not; now is when it was decided."""
    table = state.table
    rows = _row(table, subscriber_id)
    if rows is None:
        return _unknown()
    issues = work_out_issues(state, slot, rows, now)
    because = _outside_audience(table, rows, slot)
    if not because and issues.group[0] < 0:
        because.append(_not_due(state, rows, slot))
    if not because:
        because.append("Subscribed, in the newsletter's audience, and due.")
    if (issues.verdicts[0] == CHOSEN).any():
        kept = issues.ranked.candidate[0] >= 0
        reasons = dict.fromkeys(issues.reason_texts[code] for code in issues.reasons[0][kept])
        because.append(f"{int(kept.sum())} items, chosen for: {', '.join(reasons)}.")
    return _explanation(issues.verdicts, because)


def _row(table: SubscriberTable, subscriber_id: str) -> Rows | None:
    row = table.row_of.get(subscriber_key(subscriber_id))
    if row is None or not table.column("registered")[row] or table.column("erased")[row]:
        return None
    return np.array([row], dtype=np.int64)


def _unknown() -> Explanation:
    return Explanation("not_concerned", None, (), ("Was not a registered subscriber when this was decided.",))


def _explanation(verdicts: Verdicts, because: list[str]) -> Explanation:
    columns = np.flatnonzero(verdicts[0] != NOT_CONCERNED)
    if not len(columns):
        return Explanation("not_concerned", None, (), tuple(because))
    channels = tuple((*CHANNELS, NO_CHANNEL)[column] for column in columns)
    code = int(verdicts[0, columns[0]])
    if code == CHOSEN:
        return Explanation("chosen", None, channels, tuple(because))
    reason = GATES[code - 2]
    return Explanation("gated", reason, channels, (*because, f"Stopped: {GATE_REASONS[reason]}."))


def _outside_audience(table: SubscriberTable, rows: Rows, slot: Mapping[str, Any]) -> list[str]:
    rules, because = slot["rules"], []
    if not table.takes(rows, slot["newsletter_id"])[0]:
        because.append(f"Is not subscribed to {slot['newsletter_id']}.")
    if rules["audience_topics"] and not table.declares_any(rows, rules["audience_topics"])[0]:
        because.append(f"Declared none of the newsletter's topics ({', '.join(rules['audience_topics'])}).")
    if rules["audience_tags"] and not table.tagged_any(rows, rules["audience_tags"])[0]:
        because.append(f"Has none of the newsletter's tags ({', '.join(rules['audience_tags'])}).")
    language = table.languages.names[int(table.column("language")[rows[0]])]
    if rules["audience_languages"] and language not in rules["audience_languages"]:
        because.append(f"Reads {language}; the newsletter is for {', '.join(rules['audience_languages'])}.")
    return because


def _not_due(state: NewsletterState, rows: Rows, slot: Mapping[str, Any]) -> str:
    table, rules = state.table, slot["rules"]
    zone = table.zones.names[int(table.column("zone")[rows[0]])]
    own = int(table.column("local_minute")[rows[0]])
    minute = rules["local_minute"] if own < 0 else own
    slot_at: datetime = slot["slot_at"] - timedelta(minutes=slot["slot_at"].minute % SLOT_MIN)
    nominal = local_slots(zone, slot_at)
    wanted = f"{minute // 60:02d}:{minute % 60:02d}"
    if slot["forced"] or any(item.minute == minute and item.day.isoweekday() in rules["days"] for item in nominal):
        return "Already had this newsletter's issue for the same local slot."
    here = ", ".join(str(item) for item in nominal) or "a local time that was already served"
    return f"Was not due: it was {here} in {zone}, and the newsletter comes at {wanted} on weekdays {rules['days']}."
