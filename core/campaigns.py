"""What a newsletter would come to, counted instead of decided: the dry run before anything is sent. Pure.

The same functions that decide work it out, so the counts are those of the decision at that moment. A subscriber counts once:
chosen on a channel, stopped by a gate, or not concerned, by the first filter of the audience that leaves them out.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np

from core.deciding import Issues, work_out_issues
from core.folding import to_ms
from core.names import CHANNELS
from core.newsletter_state import NewsletterState, audience_filters
from core.space import Space
from core.subscribers import SubscriberTable
from core.verdicts import CHOSEN, GATES, NO_CHANNEL_COLUMN, NOT_CONCERNED, registered_row, registered_rows

FILTERS: Final = {
    "subscription": "not subscribed to it",
    "topics": "declared none of its topics",
    "tags": "has none of its tags",
    "languages": "reads none of its languages",
    "had": "had the issue of this period",
    "due": "not due at this time",
}
"""Filters of an audience in their order, and what it means not to pass."""


@dataclass
class DryRun:
    """Counts of a slot over any number of shards."""

    population: int = 0
    chosen: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By channel, language and variant (empty without an experiment)."""
    items: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Items of these issues together."""
    gated: Counter[str] = field(default_factory=Counter)
    not_concerned: Counter[str] = field(default_factory=Counter)
    """By the name of the filter."""
    publications: Counter[str] = field(default_factory=Counter)
    """Issues that a publication is in."""
    titles: dict[str, str] = field(default_factory=dict)

    def add(self, state: NewsletterState, slot: Mapping[str, Any], chunk: int, now: datetime, space: Space | None = None) -> None:
        """Add one chunk of a shard, as if it were decided now."""
        rows = registered_rows(state.table, chunk, slot["chunks"])
        self.population += state.table.population(chunk, slot["chunks"])
        if len(rows):
            issues = work_out_issues(state, slot, rows, now, space)
            self._count(state, slot, issues)

    def balance(self) -> int:
        """Return what the population has more than its parts, which are counted apart; 0 unless something is wrong."""
        return self.population - self.chosen.total() - self.gated.total() - self.not_concerned.total()

    def _count(self, state: NewsletterState, slot: Mapping[str, Any], issues: Issues) -> None:
        verdicts = issues.verdicts
        outside = (verdicts == NOT_CONCERNED).all(axis=1)
        left = outside.copy()
        for name, passing in audience_filters(state.table, issues.rows, slot):
            self.not_concerned[name] += int(np.count_nonzero(left & ~passing))
            left &= passing
        self.not_concerned["had"] += int(np.count_nonzero(left & issues.had))
        self.not_concerned["due"] += int(np.count_nonzero(left & ~issues.had))
        stopped = verdicts.max(axis=1)
        for code, count in enumerate(np.bincount(stopped[stopped > CHOSEN], minlength=1).tolist()):
            if count:
                self.gated[GATES[code - 2]] += count
        self._count_chosen(state, slot, issues)

    def _count_chosen(self, state: NewsletterState, slot: Mapping[str, Any], issues: Issues) -> None:
        going = (issues.verdicts[issues.readers, :NO_CHANNEL_COLUMN] == CHOSEN).any(axis=1)
        readers, ranked = issues.readers[going], issues.picked.candidate[going]
        channel = (issues.verdicts[readers, :NO_CHANNEL_COLUMN] == CHOSEN).argmax(axis=1)
        language = state.table.column("language")[issues.rows[readers]]
        variant = issues.variant[readers]
        kinds, kind = np.unique(np.stack([channel, language, variant], axis=1), axis=0, return_inverse=True)
        counts = np.bincount(kind.reshape(-1), minlength=len(kinds)).tolist()
        items = np.bincount(kind.reshape(-1), weights=(ranked >= 0).sum(axis=1), minlength=len(kinds)).tolist()
        names = [one["name"] for one in slot["rules"]["variants"]]
        for (on, reads, has), count, lines in zip(kinds.tolist(), counts, items, strict=True):
            key = CHANNELS[on], state.table.languages.names[reads], names[has] if has >= 0 else ""
            self.chosen[key] += count
            self.items[key] += int(lines)
        places, times = np.unique(ranked[ranked >= 0], return_counts=True)
        for place, count in zip(places.tolist(), times.tolist(), strict=True):
            item = state.content.items[issues.candidates.index[place]]
            self.publications[item.publication_id] += count
            self.titles[item.publication_id] = item.title


def obstacle_to_test(table: SubscriberTable, definition: Mapping[str, Any], subscriber_id: str, now: datetime) -> str | None:
    """Return why somebody would be sent no test of a newsletter, and what can be done; None when nothing is in the way."""
    newsletter_id, channels = definition["newsletter_id"], definition["audience_channels"] or CHANNELS
    row = registered_row(table, subscriber_id)
    if not len(row):
        return "is no registered subscriber; `newswire subscribe` registers them"
    if not table.takes(row, newsletter_id)[0]:
        return f"did not subscribe to {newsletter_id}, or unsubscribed; if they want it, `newswire prefer --newsletters` says so"
    if table.first_channel(row, np.array([channel in channels for channel in CHANNELS]))[0] < 0:
        return f"has no verified channel among {', '.join(channels)}; `newswire link` adds one"
    if table.column("paused_until_ms")[row[0]] > to_ms(now):
        return "paused newsletters; `newswire prefer --paused-until` with a past time ends that"
    return None
