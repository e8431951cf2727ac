"""Deciding: what one source comes to in one chunk, as the value of AudienceDecided.

Pure functions of a shard's state and the source's event; `streams/alerts.py` and `streams/newsletters.py` do the reading and
writing. The same state and event give the same value, byte for byte, so a decision can be made again from the log.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np

from core.alert_state import AlertState, alert_verdicts
from core.content import Candidates, Content
from core.folding import to_ms
from core.ids import minute_text
from core.names import CHANNELS
from core.newsletter_state import NewsletterState, due_groups, newsletter_audience, newsletter_not_after
from core.ranking import BATCH_ROWS, Floats, Ranked, freshness, interest, rank, strongest_topic
from core.verdicts import (
    CHOSEN,
    NO_CHANNEL_COLUMN,
    Place,
    Rows,
    Table,
    Verdicts,
    check_decision,
    envelope,
    gate_verdicts,
    gated_entries,
    registered_rows,
)

HISTORY: Final = "history"
"""Reason of an item that is close to what the subscriber read, in a topic that was not declared."""

RECENT: Final = "recent"
"""Reason of an item that shares no topic with the subscriber."""


@dataclass(frozen=True, slots=True)
class Issues:
    """What was worked out for the subscribers of a chunk; arrays have one entry a row of the chunk."""

    rows: Rows
    group: Rows
    """Index into groups, -1 for who is not due."""
    groups: list[str]
    verdicts: Verdicts
    ranked: Ranked
    """Of the rows in `readers`."""
    readers: Rows
    """Positions in rows of those who were ranked."""
    reasons: Rows
    """Reason of each ranked item: index into reason_texts; same shape as ranked."""
    reason_texts: list[str]
    candidates: Candidates


def work_out_issues(state: NewsletterState, slot: Mapping[str, Any], rows: Rows, now: datetime) -> Issues:
    """Return the verdicts and items of a slot for these rows."""
    table, rules = state.table, slot["rules"]
    slot_ms = to_ms(slot["slot_at"])
    group, groups = due_groups(state, rows, slot, minute_text(slot["slot_at"]))
    concerned = newsletter_audience(table, rows, slot["newsletter_id"], rules) & (group >= 0)
    allowed = np.array([not rules["audience_channels"] or channel in rules["audience_channels"] for channel in CHANNELS])
    channels = table.first_channel(rows, allowed)[:, None] == np.arange(len(CHANNELS))
    expired = np.full(len(rows), now > newsletter_not_after(slot["slot_at"]))
    paused = np.asarray(table.column("paused_until_ms")[rows] > slot_ms)
    readers = np.flatnonzero(concerned & channels.any(axis=1) & ~paused & ~expired)
    candidates = state.content.candidates(
        slot_ms=slot_ms,
        max_age_h=rules["max_age_h"] if len(readers) else 0,
        min_quality=rules["min_quality"],
        content_types=rules["content_types"],
    )
    fresh = freshness(candidates.engagement, candidates.age_h, rules["half_life_h"])
    found, reasons = [], []
    texts = [*(f"topic:{name}" for name in candidates.topic_names), HISTORY, RECENT]
    for part, interests in _interests(state, rows[readers], candidates, slot_ms):
        excluded = state.given(part, candidates.index)
        best = rank(interests, candidates.topics, fresh, excluded, rules["max_items"])
        found.append(best)
        reasons.append(_reasons(state, part, interests, best, candidates))
    none = np.zeros((0, min(rules["max_items"], len(candidates.index))), dtype=np.int64)
    ranked = Ranked(
        np.concatenate([none, *(item.candidate for item in found)]), np.concatenate([none, *(item.score for item in found)])
    )
    empty = np.zeros(len(rows), dtype=np.bool_)
    empty[readers] = ~(ranked.candidate >= 0).any(axis=1)
    why = np.concatenate([none, *reasons])
    gates = [("expired", expired), ("paused", paused), ("no_channel", ~channels.any(axis=1)), ("empty_issue", empty)]
    return Issues(rows, group, groups, gate_verdicts(concerned, channels, gates), ranked, readers, why, texts, candidates)


def _interests(state: NewsletterState, rows: Rows, candidates: Candidates, now_ms: int) -> Iterator[tuple[Rows, Floats]]:
    """Yield batches of rows and their interests, a column for each topic of the candidates.

    The columns are in the order of the topics' names, so that sums do not depend on which topic the shard saw first.
    """
    table, content = state.table, state.content
    engaged_with = {place for key in (table.ids[row] for row in rows) for place, _ in state.engagements.of.get(key, ())}
    names = sorted(
        {*table.topics.names, *candidates.topic_names, *(t for row in engaged_with for t, _ in content.items[row].topics)}
    )
    column = {name: position for position, name in enumerate(names)}
    mine = np.array([column[name] for name in table.topics.names], dtype=np.int64)
    wanted = np.array([column[name] for name in candidates.topic_names], dtype=np.int64)
    for start in range(0, len(rows), BATCH_ROWS):
        part = rows[start : start + BATCH_ROWS]
        declared = np.zeros((len(part), len(names)), dtype=np.float32)
        declared[:, mine] = table.column("topics")[part, : len(mine)]
        engaged, weights = state.engagements.profiles((table.ids[row] for row in part), content, column, now_ms)
        yield part, np.ascontiguousarray(interest(declared, engaged, weights)[:, wanted])


def _reasons(state: NewsletterState, rows: Rows, interests: Floats, best: Ranked, candidates: Candidates) -> Rows:
    """Return why each item was chosen: the topic that contributes most to the cosine, when the subscriber declared it.

    The result is an index into the topics' names followed by HISTORY and RECENT, in the shape of best.
    """
    count = len(candidates.topic_names)
    if not best.candidate.size or not count:
        return np.full(best.candidate.shape, count + 1, dtype=np.int64)
    strongest = strongest_topic(interests, best.candidate, candidates.topic_columns, candidates.topic_weights)
    known = [state.table.topics.index.get(name, -1) for name in candidates.topic_names]
    lookup = np.array([*known, -1], dtype=np.int64)[strongest]
    declared = (lookup >= 0) & (state.table.column("topics")[rows[:, None], np.maximum(lookup, 0)] > 0)
    return np.where(strongest < 0, count + 1, np.where(declared, strongest, count))


def decide_newsletter(state: NewsletterState, slot: Mapping[str, Any], place: Place, now: datetime) -> dict[str, Any]:
    """Return AudienceDecided for one chunk of a newsletter's slot (a SlotDue). now is the time of that event."""
    table, chunks, rules = state.table, slot["chunks"], slot["rules"]
    population = table.population(place.chunk, chunks)
    issues = work_out_issues(state, slot, registered_rows(table, place.chunk, chunks), now)
    channels, languages, groups, reasons = Table(), Table(), Table(), Table()
    publications, chosen = _chosen(state, issues, channels, languages, groups, reasons)
    gated = gated_entries(table, issues.rows, issues.verdicts, channels, reasons)
    value = envelope(place, chunks=chunks, population=population, verdicts=issues.verdicts, decided_at=now) | {
        "source_id": slot["source_id"],
        "source_kind": "newsletter",
        "newsletter_id": slot["newsletter_id"],
        "newsletter_revision": rules["revision"],
        "slot_at": slot["slot_at"],
        "lane": "bulk",
        "priority": "normal",
        "not_after": newsletter_not_after(slot["slot_at"]),
        "alert_partition": None,
        "alert_offset": None,
        "dedup_key": None,
        "channels": channels.names,
        "languages": languages.names,
        "issue_groups": groups.names,
        "reasons": reasons.names,
        "publications": publications,
        "chosen": chosen,
        "gated": gated,
    }
    check_decision(value)
    return value


def _chosen(
    state: NewsletterState, issues: Issues, channels: Table, languages: Table, groups: Table, reasons: Table
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the publications that occur, in the order of their ids, and the chosen deliveries."""
    table, rows = state.table, issues.rows
    verdicts = issues.verdicts[issues.readers, :NO_CHANNEL_COLUMN] == CHOSEN
    column_of = np.where(verdicts.any(axis=1), verdicts.argmax(axis=1), -1)
    language_of = table.column("language")[rows[issues.readers]].tolist()
    used, publication_of = _indexes(issues.ranked.candidate, issues.ranked.candidate)
    used_reasons, reason_of = _indexes(issues.reasons, issues.ranked.candidate)
    names = [reasons.of(issues.reason_texts[code]) for code in used_reasons]
    assert names == list(range(len(names))), "reasons have a table of their own until the gates are added"
    items = issues.ranked.candidate.shape[1] - (issues.ranked.candidate < 0).sum(axis=1)
    lists = zip(publication_of.tolist(), issues.ranked.score.tolist(), reason_of.tolist(), items.tolist(), strict=True)
    chosen = []
    for reader, (of_publication, of_score, of_reason, count) in enumerate(lists):
        column, position = int(column_of[reader]), int(issues.readers[reader])
        if column < 0:
            continue
        row = int(rows[position])
        chosen.append(
            {
                "subscriber": table.ids[row],
                "channel": channels.of(CHANNELS[column]),
                "address": table.addresses[row][column],
                "language": languages.of(table.languages.names[language_of[reader]]),
                "issue_group": groups.of(issues.groups[int(issues.group[position])]),
                "items": [
                    {"publication": publication, "score": score, "reason": reason, "propensity": 1.0}
                    for publication, score, reason in zip(
                        of_publication[:count], of_score[:count], of_reason[:count], strict=True
                    )
                ],
                "variant": -1,
            }
        )
    return [_publication(state.content.items[issues.candidates.index[candidate]]) for candidate in used], chosen


def _indexes(values: Rows, candidate: Rows) -> tuple[list[int], Rows]:
    """Return the values that occur where there is a candidate, sorted, and each value's place among them."""
    used = np.unique(values[candidate >= 0])
    return used.tolist(), np.searchsorted(used, values)


def _publication(item: Content) -> dict[str, Any]:
    return {
        "publication_id": item.publication_id,
        "revision": item.revision,
        "content_partition": item.partition,
        "content_offset": item.offset,
    }


def decide_alert(state: AlertState, alert: Mapping[str, Any], place: Place, now: datetime) -> dict[str, Any]:
    """Return AudienceDecided for one chunk of an admitted alert (an item of AlertBatch). now is the admitting event's time."""
    table, chunks = state.table, alert["chunks"]
    rows = registered_rows(table, place.chunk, chunks)
    verdicts = alert_verdicts(state, alert, rows, now)
    population = table.population(place.chunk, chunks)
    channels, languages, reasons = Table(), Table(), Table()
    language_of = table.column("language")[rows].tolist()
    chosen = [
        {
            "subscriber": table.ids[rows[row]],
            "channel": channels.of(CHANNELS[column]),
            "address": table.addresses[rows[row]][column],
            "language": languages.of(table.languages.names[language_of[row]]),
            "issue_group": -1,
            "items": [],
            "variant": -1,
        }
        for row, column in np.argwhere(verdicts[:, :NO_CHANNEL_COLUMN] == CHOSEN).tolist()
    ]
    gated = gated_entries(table, rows, verdicts, channels, reasons)
    value = envelope(place, chunks=chunks, population=population, verdicts=verdicts, decided_at=now) | {
        "source_id": alert["alert_id"],
        "source_kind": "alert",
        "newsletter_id": None,
        "newsletter_revision": None,
        "slot_at": None,
        "lane": "urgent",
        "priority": alert["priority"],
        "not_after": alert["not_after"],
        "alert_partition": alert["content_partition"],
        "alert_offset": alert["content_offset"],
        "dedup_key": alert["dedup_key"],
        "channels": channels.names,
        "languages": languages.names,
        "issue_groups": [],
        "reasons": reasons.names,
        "publications": [],
        "chosen": chosen,
        "gated": gated,
    }
    check_decision(value)
    return value
