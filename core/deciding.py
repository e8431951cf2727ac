"""Deciding: what one source comes to in one chunk, as the value of AudienceDecided.

Pure functions of a shard's state and the source's event; `streams/alerts.py` and `streams/newsletters.py` do the reading and
writing. The same state and event give the same value, byte for byte, so a decision can be made again from the log.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from core.alert_state import AlertState, alert_verdicts
from core.content import Candidates, Content
from core.due import due_groups, newsletter_not_after, overtaken
from core.experiments import rules_of, variants_of
from core.folding import to_ms
from core.names import CHANNELS
from core.newsletter_state import NewsletterState, newsletter_audience
from core.picking import POLICY_IDS, Picked, Picker
from core.schedule import Bools
from core.space import Space
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
    registered_row,
    registered_rows,
)


@dataclass(frozen=True, slots=True)
class Issues:
    """What was worked out for the subscribers of a chunk; arrays have one entry a row of the chunk."""

    rows: Rows
    group: Rows
    """Index into groups, -1 for who is not due."""
    groups: list[str]
    had: Bools
    """Who would be due, but had the issue of this period."""
    variant: Rows
    """Index into the variants of the rules, -1 while no experiment runs."""
    verdicts: Verdicts
    readers: Rows
    """Positions in rows of those for whom items were picked."""
    picked: Picked
    """Their items."""
    candidates: Candidates


def candidates_of(state: NewsletterState, slot: Mapping[str, Any], *, anybody: bool = True) -> Candidates:
    """Return what a slot's issues are chosen from; next to nothing when there is nobody to choose for."""
    rules = slot["rules"]
    return state.content.candidates(
        slot_ms=to_ms(slot["slot_at"]),
        max_age_h=rules["max_age_h"] if anybody else 0,
        min_quality=rules["min_quality"],
        content_types=rules["content_types"],
    )


def work_out_issues(
    state: NewsletterState, slot: Mapping[str, Any], rows: Rows, now: datetime, space: Space | None = None
) -> Issues:
    """Return the verdicts and items of a slot for these rows; space holds the fitted model that the slot names."""
    table, rules = state.table, slot["rules"]
    slot_ms = to_ms(slot["slot_at"])
    due = due_groups(state, rows, slot, slot["source_id"].partition("@")[2])
    concerned = newsletter_audience(table, rows, slot) & (due.group >= 0)
    allowed = np.array([not rules["audience_channels"] or channel in rules["audience_channels"] for channel in CHANNELS])
    channels = table.first_channel(rows, allowed)[:, None] == np.arange(len(CHANNELS))
    expired = overtaken(state, rows, slot, due, now) | (now > newsletter_not_after(slot["slot_at"], rules["late_h"]))
    paused = np.asarray(table.column("paused_until_ms")[rows] > slot_ms)
    readers = np.flatnonzero(concerned & channels.any(axis=1) & ~paused & ~expired & ~due.holiday)
    candidates = candidates_of(state, slot, anybody=len(readers) > 0)
    variant = variants_of(slot["newsletter_id"], rules, [table.ids[row] for row in rows.tolist()])
    picked = _picked(state, slot, candidates, space or Space(), rows[readers], variant[readers])
    empty = np.zeros(len(rows), dtype=np.bool_)
    empty[readers] = ~(picked.candidate >= 0).any(axis=1)
    gates = [("expired", expired), ("holiday", due.holiday), ("paused", paused)]
    gates += [("no_channel", ~channels.any(axis=1)), ("empty_issue", empty)]
    verdicts = gate_verdicts(concerned, channels, gates)
    return Issues(rows, due.group, due.groups, due.had, variant, verdicts, readers, picked, candidates)


def _picked(
    state: NewsletterState, slot: Mapping[str, Any], candidates: Candidates, space: Space, rows: Rows, variant: Rows
) -> Picked:
    """Return the items of rows, each by the ranking policy of its variant."""
    rules = slot["rules"]
    policies = {number: rules_of(rules, number)["ranking"] for number in range(-1, len(rules["variants"]))}
    parts = [
        (places, Picker(state, slot, candidates, policy, space).pick(rows[places]))
        for policy in dict.fromkeys(policies.values())
        if len(places := np.flatnonzero([policies[number] == policy for number in variant.tolist()]))
    ]
    if len(parts) < 2:
        return parts[0][1] if parts else Picker(state, slot, candidates, rules["ranking"], space).pick(rows)
    order = np.argsort(np.concatenate([places for places, _ in parts]))
    shifts = np.cumsum([0, *(len(part.texts) for _, part in parts)])
    return Picked(
        np.concatenate([part.candidate for _, part in parts])[order],
        np.concatenate([part.score for _, part in parts])[order],
        np.concatenate([part.propensity for _, part in parts])[order],
        np.concatenate([part.reason + shift for (_, part), shift in zip(parts, shifts.tolist(), strict=False)])[order],
        [text for _, part in parts for text in part.texts],
    )


def decide_newsletter(
    state: NewsletterState, slot: Mapping[str, Any], place: Place, now: datetime, space: Space | None = None
) -> dict[str, Any]:
    """Return AudienceDecided for one chunk of a newsletter's slot (a SlotDue). now is the time of that event.

    space holds the fitted model that the slot names, and what other chunks and shards of this process worked out with it.
    """
    table, chunks, rules = state.table, slot["chunks"], slot["rules"]
    rows, population = registered_rows(table, place.chunk, chunks), table.population(place.chunk, chunks)
    if slot["test_subscriber"] is not None:  # a source of one person, in one shard
        place, rows = replace(place, shards=1), registered_row(table, slot["test_subscriber"])
        population = len(rows)
    each = [rules_of(rules, variant) for variant in range(len(rules["variants"]))] or [rules]
    rankings = [one["ranking"] for one in each]
    issues = work_out_issues(state, slot, rows, now, space)
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
        "not_after": newsletter_not_after(slot["slot_at"], rules["late_h"]),
        "alert_partition": None,
        "alert_offset": None,
        "dedup_key": None,
        "model_version": slot["model_version"] if "blend" in rankings else None,
        "policy": ",".join(POLICY_IDS[ranking] for ranking in rankings),
        "candidate_set": issues.candidates.set_id,
        "channels": channels.names,
        "languages": languages.names,
        "issue_groups": groups.names,
        "reasons": reasons.names,
        "publications": publications,
        "chosen": chosen,
        "gated": gated,
        "variants": [variant["name"] for variant in rules["variants"]],
        "looks": [{"subject": one["subject"], "template": one["template"]} for one in each],
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
    picked, items = issues.picked, (issues.picked.candidate >= 0).sum(axis=1)
    used, publication_of = _indexes(picked.candidate, picked.candidate, len(issues.candidates.index))
    used_reasons, place_of = _indexes(picked.reason, picked.candidate, len(picked.texts))
    reason_of = np.array([reasons.of(picked.texts[code]) for code in used_reasons] or [0])[place_of]
    columns = (publication_of, picked.score, reason_of, picked.propensity)
    every = [
        {"publication": publication, "score": score, "reason": reason, "propensity": propensity}
        for publication, score, reason, propensity in zip(*(column.ravel().tolist() for column in columns), strict=True)
    ]
    starts = range(0, len(every) + 1, max(picked.candidate.shape[1], 1))
    chosen = []
    facts = (rows, issues.group, issues.variant)
    each = zip(*(fact[issues.readers].tolist() for fact in facts), strict=True)
    for column, language, (row, group, variant), start, count in zip(
        column_of.tolist(), language_of, each, starts, items.tolist(), strict=False
    ):
        if column < 0:
            continue
        chosen.append(
            {
                "subscriber": table.ids[row],
                "channel": channels.of(CHANNELS[column]),
                "address": table.addresses[row][column],
                "language": languages.of(table.languages.names[language]),
                "issue_group": groups.of(issues.groups[group]),
                "items": every[start : start + count],
                "variant": variant,
            }
        )
    return [_publication(state.content.items[issues.candidates.index[candidate]]) for candidate in used], chosen


def _indexes(values: Rows, candidate: Rows, size: int) -> tuple[list[int], Rows]:
    """Return the values, below size, that occur where there is a candidate, sorted, and each value's place among them."""
    occurs = np.zeros(size + 1, dtype=np.bool_)
    occurs[values[candidate >= 0]] = True
    place = np.cumsum(occurs) - 1
    return np.flatnonzero(occurs).tolist(), place[values]


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
