"""Why an item was chosen for a reader, item by item, as a code that core/rendering/phrases.py puts into words.

`read:<title>` because of something they read, `topic:<topic>` because they declared it, `often:<topic>` because they read such;
`popular`, `new:<topic>` and `recent` when nothing of theirs speaks for it, `explore` when it was drawn besides; `history` is
`read` of something without a title, or of several that speak for it together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from core.content import Candidates
from core.model import Sigmas
from core.profiles import Reading
from core.relevance import Readers
from core.space import LIKENESS_SCALE
from core.sparse import Ints, Postings, side_by_side
from core.vectors import Floats

Bools = npt.NDArray[np.bool_]

HISTORY, RECENT, POPULAR, EXPLORE = "history", "recent", "popular", "explore"
FIXED: Final = (HISTORY, RECENT, POPULAR, EXPLORE)
KINDS: Final = ("topic", "new", "often")
"""Of reasons by a topic, as `reasons` counts them."""

ALIKE: Final = 0.4
"""Cosine from which two publications are so much alike that one explains the other: of arXiv articles without a common category,
one pair in 175 is; of those with one, one in seven. At 0.3 it was one in 26: likenesses that
nobody sees."""

POPULAR_VIEWS: Final = 10.0
"""Engagement, in views, below which nothing is much read, however little the others are."""

POPULAR_SHARE: Final = 0.1
"""Share of the candidates that can be much read."""

CLOSE: Final = 2.0
"""A and Z together, in standard deviations, from which an item is close to what was read, though to no single one of it."""

TITLE_CHARACTERS: Final = 60
"""Of a title in a reason; a decision names each reason once, and has room for a thousand."""


@dataclass(frozen=True, slots=True)
class Texts:
    """The reasons of a chunk by their codes: few occur, and only those are put into words."""

    topic_names: Sequence[str]
    """Of the candidates."""
    title: Callable[[int], str]
    """Returns the title of a place in Reading.rows."""

    @property
    def titles(self) -> int:
        """Where the reasons by something read begin, in the order of Reading.rows."""
        return self.fixed(FIXED[0]) + len(FIXED)

    @property
    def topics(self) -> int:
        """How many topics there are."""
        return len(self.topic_names)

    def fixed(self, name: str) -> int:
        """Return the code of a reason that names nothing."""
        return len(KINDS) * self.topics + FIXED.index(name)

    def of(self, codes: Sequence[int]) -> list[str]:
        """Return reasons as decisions have them."""
        topics, fixed, first = self.topics, len(KINDS) * self.topics, self.titles
        found = []
        for code in codes:
            if code >= first:
                title = self.title(code - first)
                found.append(f"read:{_short(title)}" if title else HISTORY)
            elif code >= fixed:
                found.append(FIXED[code - fixed])
            else:
                found.append(f"{KINDS[code // topics]}:{self.topic_names[code % topics]}")
        return found


def _short(title: str) -> str:
    if len(title) <= TITLE_CHARACTERS:
        return title
    return title[: TITLE_CHARACTERS - 1].rsplit(" ", 1)[0].rstrip(" ,;:–-") + "…"


def much_read(engagement: npt.NDArray[np.float64]) -> Bools:
    """Return which candidates are much read."""
    if not len(engagement):
        return np.zeros(0, dtype=np.bool_)
    return np.asarray(engagement >= max(POPULAR_VIEWS, float(np.quantile(engagement, 1 - POPULAR_SHARE))))


@dataclass(frozen=True, slots=True)
class Batch:
    """What the reasons of a batch of readers are told by."""

    candidates: Candidates
    readers: Readers
    reading: Reading
    postings: Postings | None
    """Of the candidates' shelf."""
    part: Floats
    """(candidates): what the postings are multiplied by (Shelf.part)."""
    sigmas: Sigmas
    declared: Bools
    """(rows, topics of the candidates)."""
    lengths: Floats
    """(rows): length of Σ share·vector of what each read; zeros when meaning plays no part."""
    likeness: npt.NDArray[np.int16]
    """(lines, candidates): cosine of what was read with the candidates, in units of 1 / LIKENESS_SCALE, by meaning, or by topics
    when meaning plays no part."""
    line_of: Ints
    """Line of each of reading.rows in likeness."""
    place_of: Ints
    """Place in reading.rows of each fitted item, -1 for none."""

    def some(self, rows: Ints) -> "Batch":
        """Return these readers (sorted) in their order."""
        readers, reading = self.readers.some(rows), self.reading.some(rows)
        return replace(self, readers=readers, reading=reading, declared=self.declared[rows], lengths=self.lengths[rows])


def reasons(batch: Batch, chosen: Ints, drawn: Bools, popular: Bools, texts: Texts) -> Ints:
    """Return the reason of each item (rows, k); chosen are the candidates, -1 for none, drawn those that were drawn."""
    if not chosen.size or not len(batch.candidates.index):
        return np.full(chosen.shape, texts.fixed(RECENT), dtype=np.int64)
    strongest, by_topics = _topics(batch, chosen)
    rows = np.arange(len(chosen))[:, None]
    declared = (strongest >= 0) & (batch.declared[rows, strongest] if batch.declared.shape[1] else False)
    read, by_reading, named = _closest(batch, chosen)
    own = batch.candidates.strongest[chosen]
    code = np.where(own >= 0, texts.topics + own, texts.fixed(RECENT))
    code = np.where(popular[chosen], texts.fixed(POPULAR), code)
    code = np.where(by_reading >= CLOSE, texts.fixed(HISTORY), code)
    code = np.where(strongest >= 0, 2 * texts.topics + strongest, code)
    code = np.where(declared, strongest, code)
    code = np.where(named & (~declared | (by_reading > by_topics)), texts.titles + read, code)
    return np.where(drawn & ~named & (strongest < 0), texts.fixed(EXPLORE), code)


def general(batch: Batch, chosen: Ints, codes: Ints, texts: Texts) -> Bools:
    """Return which items (rows, k) have topics and, by the code of their reason (`reasons`), nothing to do with the reader."""
    new = (codes >= texts.topics) & (codes < 2 * texts.topics)
    popular = (codes == texts.fixed(POPULAR)) & (batch.candidates.strongest[chosen] >= 0)
    return np.asarray((chosen >= 0) & (new | popular))


def _topics(batch: Batch, chosen: Ints) -> tuple[Ints, Floats]:
    """Return the topic that contributes most to each item's B, or -1, and B/σB."""
    interests, columns = batch.readers.interests, batch.candidates.topic_columns[chosen]
    if not interests.shape[1]:
        return np.full(chosen.shape, -1, dtype=np.int64), np.zeros(chosen.shape, dtype=np.float32)
    share = interests[np.arange(len(chosen))[:, None, None], columns] * batch.candidates.topic_weights[chosen]
    most = share.argmax(axis=2)[:, :, None]
    strongest = np.where(np.take_along_axis(share, most, axis=2) > 0, np.take_along_axis(columns, most, axis=2), -1)
    return strongest[:, :, 0], share.sum(axis=2) / np.float32(batch.sigmas.topics)


def _closest(batch: Batch, chosen: Ints) -> tuple[Ints, Floats, Bools]:
    """Return what speaks most for each item among what the reader read, in the shape of chosen.

    The place in reading.rows of the publication; what all that was read contributes to r by meaning and reading (A and Z); and
    whether that publication is enough to be named: it is much like the item, or the fitted model knows that who reads one reads
    the other.
    """
    reading, readers, width = batch.reading, batch.readers, batch.likeness.shape[1]
    if not len(reading.owner):
        nothing = np.zeros(chosen.shape, dtype=np.float32)
        return chosen, nothing, nothing > 0
    likeness, share = batch.likeness.reshape(-1), reading.share.astype(np.float32) / LIKENESS_SCALE
    line, weight = batch.line_of[reading.place] * width, readers.reading_weights()

    def alike(entry: Ints, mine: Ints) -> Floats:
        term: Floats = likeness.take(line[entry] + mine, mode="clip").astype(np.float32)
        term *= share[entry]
        return term

    def read(entry: Ints, mine: Ints) -> Floats:
        assert batch.postings is not None, "histories of fitted items come with a model"
        return batch.postings.of(readers.item[entry], mine) / batch.part[mine] * weight[entry]

    unit = batch.lengths[:, None] * np.float32(batch.sigmas.meaning)
    like, *found = _strongest(reading.owner, chosen, alike)
    largest, total = (np.divide(one, unit, out=np.zeros_like(one), where=unit > 0) for one in found)
    known, by_reading, reads = _strongest(readers.owner, chosen, read)
    named = (like >= 0) & (likeness[np.append(line, 0)[like] + chosen] >= ALIKE * LIKENESS_SCALE)
    by_item = (known >= 0) & (by_reading > largest)
    of_items = batch.place_of[np.append(readers.item, -1)[known]] if len(batch.place_of) else known
    return np.where(by_item, of_items, np.append(reading.place, -1)[like]), total + reads, named | by_item


def _strongest(owner: Ints, chosen: Ints, terms: Callable[[Ints, Ints], Floats]) -> tuple[Ints, Floats, Floats]:
    """Return for each item the entry of the reader's history with the largest term above 0, that term, and the sum of all.

    terms(entries, items (k, entries)) returns a term for each. -1 stands for no entry; of equals the first counts.
    """
    owners, steps = side_by_side(owner)
    mine = np.maximum(np.ascontiguousarray(chosen[owners].T), 0)  # where there is none, whatever comes out is not looked at
    entry = np.full(mine.shape, -1, dtype=np.int32)
    largest, total = np.zeros(mine.shape, dtype=np.float32), np.zeros(mine.shape, dtype=np.float32)
    for step in steps:
        count = len(step)
        term = terms(step, mine[:, :count])
        np.copyto(entry[:, :count], step, where=term > largest[:, :count])
        np.maximum(largest[:, :count], term, out=largest[:, :count])
        total[:, :count] += term
    none = np.zeros(chosen.shape, dtype=np.float32)
    found = np.full(chosen.shape, -1, dtype=np.int64), none, none.copy()
    found[0][owners], found[1][owners], found[2][owners] = entry.T, largest.T, total.T
    return found
