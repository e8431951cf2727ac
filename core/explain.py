"""Why one person got something, or did not: the decision made again, purely, for that person alone.

Takes the shard's state at the offsets that the decision recorded. The verdict comes from the very functions that decided; the
sentences say which rule it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from core.alert_state import AlertState, alert_verdicts
from core.deciding import Issues, work_out_issues
from core.explain_due import about_the_hour, why_not_due
from core.names import CHANNELS, FAILURE_REASONS, GATE_REASONS, NO_CHANNEL, SKIP_REASONS, UNKNOWN_REASONS
from core.newsletter_state import NewsletterState
from core.rendering.latex import readable
from core.rendering.phrases import named, reason_text
from core.space import Space, alike
from core.subscribers import SubscriberTable
from core.verdicts import CHOSEN, GATES, NOT_CONCERNED, Rows, Verdicts, registered_row


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


_BECAME: Final = {
    "not_fanned_out": "It is decided to go by {channel}, and not on its way yet.",
    "pending": "It is on its way by {channel}.",
    "unknown": "Whether it arrived by {channel} is not known{why}.",
    "sent": "It was sent by {channel}{at}.",
    "confirmed": "It was sent by {channel}{at}, and arrived.",
    "suppressed": "It was decided to go by {channel}, and stopped before it was sent{why}.",
    "failed": "It was decided to go by {channel}, and failed{why}.",
}
"""What a delivery came to, by its state."""


def answer(verdict: str, reason: str | None, channels: Sequence[str], deliveries: Sequence[Mapping[str, Any]]) -> str:
    """Return in words what became of a source for one person; deliveries have channel, state, reason and sent_at."""
    if verdict == "not_concerned":
        return "It was not for them, so nothing was sent."
    if verdict == "gated":
        return f"It was for them, and was stopped: {GATE_REASONS[reason or '']}."
    said, reasons = [], {**SKIP_REASONS, **FAILURE_REASONS, **UNKNOWN_REASONS}
    for one in deliveries:
        why, sent_at = one["reason"], one["sent_at"]
        at = f" at {sent_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z" if sent_at else ""
        words = {"channel": one["channel"], "at": at, "why": f": {reasons.get(why, why)}" if why else ""}
        said.append(_BECAME[one["state"]].format(**words))
    return " ".join(said) or f"It was decided to go by {' and '.join(channels)}; what became of it is not known here yet."


def explain_alert(state: AlertState, alert: Mapping[str, Any], subscriber_id: str, now: datetime) -> Explanation:
    """Return why somebody gets an admitted alert (an item of AlertBatch), or does not; now is when it was decided."""
    table = state.table
    rows = registered_row(table, subscriber_id)
    if not len(rows):
        return _unknown()
    verdicts = alert_verdicts(state, alert, rows, now)
    because = []
    if not table.column("alerts")[rows[0]]:
        because.append("Does not take alerts.")
    names = [item["topic"] for item in alert["topics"]]
    if names and not table.declares_any(rows, names)[0]:
        because.append(f"Declared none of the alert's topics ({', '.join(sorted(names))}).")
    return _explanation(verdicts, because or ["Takes alerts, and the alert's topics match."])


def explain_newsletter(
    state: NewsletterState, slot: Mapping[str, Any], subscriber_id: str, now: datetime, space: Space | None = None,
    topic_names: Mapping[str, str] | None = None,
) -> Explanation:  # fmt: skip
    """Return why somebody gets the issue of a slot (a SlotDue), or does not; now is when it was decided.

    space holds the fitted model that the slot names, topic_names what readers see for a topic.
    """
    table = state.table
    rows = registered_row(table, subscriber_id)
    if not len(rows):
        return _unknown()
    issues = work_out_issues(state, slot, rows, now, space)
    because = _outside_audience(table, rows, slot)
    if not because and issues.group[0] < 0:
        because.append(why_not_due(state, rows, slot, had=bool(issues.had[0])))
    if not because:
        test = slot["test_subscriber"] is not None
        because.append("A test send to this subscriber." if test else "Subscribed, in the newsletter's audience, and due.")
    because += about_the_hour(state, rows, slot)
    if (issues.verdicts[0] == CHOSEN).any():
        because += _shorter(issues, slot["rules"]["max_items"])
        because += _items(state, issues, topic_names or {})
    return _explanation(issues.verdicts, because)


def _shorter(issues: Issues, most: int) -> list[str]:
    """Return why the issue of the only reader has fewer items than there could be, if it has."""
    count, most = int((issues.picked.candidate >= 0).sum()), min(most, len(issues.candidates.index))
    if count == most:
        return []
    rest = "they had or read before, is nearly the same as one of these, or is about what they neither follow nor read"
    return [f"Has {count} item{'' if count == 1 else 's'} and not {most}: what else there is, {rest}."]


def _items(state: NewsletterState, issues: Issues, topic_names: Mapping[str, str]) -> list[str]:
    """Return a sentence for each item of the only reader: its title, and why it was chosen."""
    picked, found = issues.picked, []
    twins = alike(state.content, issues.candidates)
    chosen = set(picked.candidate[0].tolist())
    for number, (candidate, code) in enumerate(zip(picked.candidate[0].tolist(), picked.reason[0].tolist(), strict=True), 1):
        if candidate >= 0:
            item = state.content.items[issues.candidates.index[candidate]]
            title = readable(item.title) or item.publication_id
            found.append(f"{number}. {title}: {reason_text(named(picked.texts[code], topic_names), 'en')}.")
            if twins is not None and twins[candidate] >= 0:
                others = set(np.flatnonzero(twins == twins[candidate]).tolist()) - chosen
                rows = issues.candidates.index[sorted(others)].tolist()
                ids = ", ".join(state.content.items[row].publication_id for row in rows)
                found[-1] += f" Nearly the same, and therefore not beside it: {ids}."
    return found


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
    if slot["test_subscriber"] is not None:
        return because
    if rules["audience_topics"] and not table.declares_any(rows, rules["audience_topics"])[0]:
        because.append(f"Declared none of the newsletter's topics ({', '.join(rules['audience_topics'])}).")
    if rules["audience_tags"] and not table.tagged_any(rows, rules["audience_tags"])[0]:
        because.append(f"Has none of the newsletter's tags ({', '.join(rules['audience_tags'])}).")
    language = table.languages.names[int(table.column("language")[rows[0]])]
    if rules["audience_languages"] and language not in rules["audience_languages"]:
        because.append(f"Reads {language}; the newsletter is for {', '.join(rules['audience_languages'])}.")
    return because
