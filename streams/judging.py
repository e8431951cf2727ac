"""How good a fitted model is offline: the pipeline's own ranking on what readers engaged with after a cut.

Pure. The readers are those who read something before the cut and something else after it. For each of them everything that was
available by the end, but for what was read before, is ranked by core.picking, as a newsletter would without ageing, diversity and
chance; relevant is what was read after the cut. NDCG@10, binary, averaged over readers.
"""

from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from core.content import Candidates
from core.folding import to_ms
from core.model import Model
from core.newsletter_state import NewsletterState
from core.picking import Picker
from core.space import Space

TAIL_SHARE: Final = 0.1
"""Share of the engagement that is kept back: the newest."""

JUDGED_READERS: Final = 2_000
"""Readers that are judged by, the first in the order of their keys, which are random: the mean is good to some 0.01 then."""

ITEMS: Final = 10

LONG_H: Final = 1e6
"""Half-life, and age, in hours, that make age play no part."""


class Judge:
    """Judges models by one state, which holds everything that is in the log."""

    def __init__(self, state: NewsletterState, seen_until: datetime | None = None) -> None:
        """Keep back the newest part of the engagement; the state's histories are those before it from here on.

        What came before `seen_until`, which the model in use was fitted with, is not judged by.
        """
        owners, entries = state.histories.of_all(state.histories.keys())
        keys, times = state.histories.keys(), entries["at_ms"]
        self.cut_ms = int(np.quantile(times, 1 - TAIL_SHARE)) if len(times) else 0
        if seen_until is not None:
            self.cut_ms = max(self.cut_ms, to_ms(seen_until))
        self._state = state
        known = np.array([item.available for item in state.content.items], dtype=np.bool_)
        before, after = np.flatnonzero(times < self.cut_ms), np.flatnonzero(times >= self.cut_ms)
        read, later = _pairs(owners[before], entries["publication"][before]), _pairs(owners[after], entries["publication"][after])
        later -= read
        later = {(owner, item) for owner, item in later if known[item]}
        judged = sorted({owner for owner, _ in later} & {owner for owner, _ in read})[:JUDGED_READERS]
        self.readers = len(judged)
        self._rows = np.array([state.table.row(keys[owner]) for owner in judged], dtype=np.int64)
        place = {owner: number for number, owner in enumerate(judged)}
        self._later = {(place[owner], item) for owner, item in later if owner in place}
        given = [(int(self._rows[place[owner]]), item) for owner, item in read if owner in place]
        state.give(np.array([row for row, _ in given], dtype=np.int64), np.array([item for _, item in given], dtype=np.int64))
        state.histories = state.histories.before(self.cut_ms)
        state.readership.put(*state.histories.counts(self.cut_ms))  # the state holds every reader

    def ndcg(self, model: Model | None) -> float:
        """Return NDCG@10 of a model, or of ranking without one; 0 when there is no reader to judge by."""
        if not self.readers:
            return 0.0
        picker = Picker(self._state, self._slot(), self._candidates(), "blend", Space(model))
        found, wanted = picker.pick(self._rows, full=True).candidate, np.zeros(self.readers, dtype=np.int64)
        np.add.at(wanted, np.array([reader for reader, _ in self._later], dtype=np.int64), 1)
        index, gain = self._candidates().index, 1 / np.log2(np.arange(2, ITEMS + 2))
        total = 0.0
        for reader, line in enumerate(found.tolist()):
            hits = [candidate >= 0 and (reader, int(index[candidate])) in self._later for candidate in line]
            total += float(gain[: len(hits)] @ np.array(hits)) / float(gain[: min(ITEMS, int(wanted[reader]))].sum())
        return total / self.readers

    def _slot(self) -> dict[str, Any]:
        rules = {"max_items": ITEMS, "topic_share": 1.0, "exploration": 0.0, "half_life_h": LONG_H}
        slot_at = datetime.fromtimestamp(self.cut_ms / 1000, UTC)
        return {"source_id": "judging", "slot_at": slot_at, "test_subscriber": None, "rules": rules}

    def _candidates(self) -> Candidates:
        return self._state.content.candidates(slot_ms=self.cut_ms, max_age_h=LONG_H, min_quality=0.0, content_types=())


def _pairs(owner: Any, publication: Any) -> set[tuple[int, int]]:
    return set(zip(owner.tolist(), publication.tolist(), strict=True))
