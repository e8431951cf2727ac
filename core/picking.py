"""Which items each reader of a slot gets, in which order, and why: the newsletter score, then diversity and exploration.

Pure. A reader's issue depends on the shard's state, the slot and the fitted model that it names, and on no other reader.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core.choosing import Chosen, choose, draws, most_general, pool_of, shares
from core.content import Candidates, ContentTable, Rows
from core.folding import to_ms
from core.newsletter_state import NewsletterState
from core.profiles import Reading, TopicLists, read_by
from core.ranking import BATCH_ROWS, N0, Ranked, best, freshness, interest, liveliness
from core.reasons import Batch, Texts, general, much_read, reasons
from core.relevance import Readers, relevance
from core.space import Candidacy, Space, keys_of
from core.vectors import Floats, unit_rows

POLICY_IDS: Final[Mapping[str, str]] = {"blend": "blend-3", "topics": "topics-3", "recent": "recent-2"}
"""By the policy of a newsletter (core.names.RANKINGS), its name and version as decisions record it."""

READERS: Final = 4_096
"""Readers whose issues are put together at once."""

POOL_READERS: Final = 512
"""Readers for whom it is asked at once what in their whole pool concerns them."""

KNOWN: Final = N0
"""Views of history from which on it is known what concerns a reader who declared nothing: as many as declared topics weigh. Only
topics that the newsletter covers tell it, declared or read: who reads about others subscribed for another reason."""


@dataclass(frozen=True, slots=True)
class Picked:
    """The items of readers, best first, the one that was drawn last; all (readers, k)."""

    candidate: Rows
    """-1 where fewer were left."""
    score: Rows
    """In units of 1e-4."""
    propensity: npt.NDArray[np.float64]
    reason: Rows
    """Place in texts."""
    texts: list[str]


class Picker:
    """Picks for the readers of one chunk under one policy."""

    def __init__(
        self, state: NewsletterState, slot: Mapping[str, Any], candidates: Candidates, policy: str, space: Space
    ) -> None:
        self._state, self._slot, self._policy, self._space = state, slot, policy, space
        self._candidates, self._now_ms = candidates, to_ms(slot["slot_at"])
        engagement = state.readership.of(candidates.index, self._now_ms)
        self._popular = much_read(engagement)
        counts = engagement if policy != "recent" else np.zeros(len(engagement))
        idle_h = np.minimum(state.readership.idle_h(candidates.index, self._now_ms), candidates.age_h)
        self._fresh = freshness(counts, candidates.age_h, slot["rules"]["half_life_h"]) * liveliness(counts, idle_h)
        self._candidacy: Candidacy = space.candidacy(state.content, candidates, policy)
        self._pool = pool_of(self._candidacy.twins)
        names = sorted({*state.content.facts().topic_names, *state.table.topics.names})
        self._column = {name: position for position, name in enumerate(names)}
        self._mine = np.array([self._column[name] for name in state.table.topics.names], dtype=np.int64)
        self._wanted = np.array([self._column[name] for name in candidates.topic_names], dtype=np.int64)
        self._covered = np.array([self._column[name] for name in sorted(candidates.covered)], dtype=np.int64)

    def pick(self, rows: Rows, *, full: bool = False) -> Picked:
        """Return the items of these rows of the subscriber table; full: whether or not they concern the reader."""
        state, content = self._state, self._state.content
        keys = [state.table.ids[row] for row in rows.tolist()]
        reading = read_by(state.histories, content, keys, self._now_ms)
        topics = TopicLists.of(content, reading.rows, self._column)
        read = reading.rows.tolist()
        texts = Texts(self._candidates.topic_names, lambda place: content.items[read[place]].title)
        shelf = self._shared(content, reading, topics)
        k = min(self._slot["rules"]["max_items"], len(self._candidates.index))
        none = np.zeros((0, k), dtype=np.int64)
        chosen, codes = [Chosen(none, none, none.astype(np.float64))], [none]
        for start in range(0, len(rows), READERS):
            stop = min(start + READERS, len(rows))
            picked, why = self._issues(rows[start:stop], keys[start:stop], reading.part(start, stop), shelf, texts, full)
            chosen.append(picked)
            codes.append(why)
        code = np.concatenate(codes)
        occurs = np.zeros(int(code.max(initial=-1)) + 1, dtype=np.bool_)
        occurs[code] = True
        return Picked(
            np.concatenate([part.candidate for part in chosen]),
            np.concatenate([part.score for part in chosen]),
            np.concatenate([part.propensity for part in chosen]),
            (np.cumsum(occurs) - 1)[code],
            texts.of(np.flatnonzero(occurs).tolist()),
        )

    def _shared(self, content: ContentTable, reading: Reading, topics: TopicLists) -> "_Read":
        """Return what is known of the publications that the chunk's readers read."""
        count, keys, model = len(reading.rows), keys_of(content, reading.rows), self._space.model
        if self._candidacy.meaning:
            vectors, lines = self._space.read(content, reading.rows, self._candidates, self._candidacy)
        else:
            vectors = np.zeros((count, 0), dtype=np.float32)
            lines = self._candidacy.liken(keys, topics.dense(len(self._column))[:, self._wanted].__getitem__)
        fitted, place_of = np.full(count, -1, dtype=np.int64), np.zeros(0, dtype=np.int64)
        if model is not None and self._policy == "blend":
            fitted = np.array([model.index.get(publication_id, -1) for publication_id, _ in keys], dtype=np.int64)
            place_of = np.full(len(model.items), -1, dtype=np.int64)
            place_of[fitted[fitted >= 0]] = np.flatnonzero(fitted >= 0)
        telling = topics.telling(self._covered) | (~topics.weights.any(axis=1) & vectors.any(axis=1))
        candidate_of = np.full(len(content.items), -1, dtype=np.int64)
        candidate_of[self._candidates.index] = np.arange(len(self._candidates.index))
        return _Read(topics, vectors, lines, fitted, place_of, candidate_of[reading.rows], telling)

    def _issues(
        self, rows: Rows, keys: list[bytes], reading: Reading, read: "_Read", texts: Texts, full: bool
    ) -> tuple[Chosen, Rows]:
        """Return the items of some readers and their reasons."""
        rules, candidates, candidacy = self._slot["rules"], self._candidates, self._candidacy
        declared = np.zeros((len(rows), len(self._column)), dtype=np.float32)
        declared[:, self._mine] = self._state.table.column("topics")[rows, : len(self._mine)]
        meant = reading.sums(read.vectors)
        readers = self._readers(declared, meant, reading, read)
        excluded = np.zeros((len(rows), len(candidates.index)), dtype=np.bool_)
        if self._slot["test_subscriber"] is None:
            excluded = self._state.given(rows, candidates.index)
        known = read.candidate[reading.place] >= 0
        excluded[reading.owner[known], read.candidate[reading.place[known]]] = True
        drawn = draws(self._slot["source_id"], keys)
        ranked = self._ranked(readers, excluded)
        share = shares(readers.interests, rules["topic_share"])

        def choice(some: Rows | slice, beside: npt.NDArray[np.bool_] | None = None) -> Chosen:
            mine, k = Ranked(ranked.candidate[some], ranked.score[some]), rules["max_items"]
            return choose(
                mine, candidates.strongest, k, share[some], rules["exploration"], drawn[some], candidacy.twins, general=beside
            )

        chosen = choice(slice(None))
        batch = Batch(
            candidates=candidates,
            readers=readers,
            reading=reading,
            postings=candidacy.shelf.postings,
            part=candidacy.shelf.part,
            sigmas=candidacy.shelf.sigmas,
            declared=declared[:, self._wanted] > 0,
            lengths=np.sqrt(np.einsum("ij,ij->i", meant, meant)),
            likeness=candidacy.likeness.data,
            line_of=read.lines,
            place_of=read.place_of,
        )
        codes = reasons(batch, chosen.candidate, chosen.propensity < 1, self._popular, texts)
        if not full and self._policy != "recent":
            weight = np.bincount(reading.owner, reading.share * read.telling[reading.place], minlength=len(rows))
            known = (declared[:, self._covered] > 0).any(axis=1) | (weight >= KNOWN)
            over = np.flatnonzero(known & self._too_general(batch, chosen, codes, texts))
            for start in range(0, len(over), POOL_READERS):
                some = over[start : start + POOL_READERS]
                mine, pool = batch.some(some), ranked.candidate[some].astype(np.int64)
                undrawn = np.zeros(pool.shape, dtype=np.bool_)
                again = choice(some, general(mine, pool, reasons(mine, pool, undrawn, self._popular, texts), texts))
                if self._slot["test_subscriber"] is not None and (again.candidate < 0).all():
                    break  # a test reaches whom it is sent to
                chosen.candidate[some], chosen.score[some] = again.candidate, again.score
                chosen.propensity[some] = again.propensity
                codes[some] = reasons(mine, again.candidate, again.propensity < 1, self._popular, texts)
        return chosen, codes

    def _too_general(self, batch: Batch, chosen: Chosen, codes: Rows, texts: Texts) -> npt.NDArray[np.bool_]:
        """Return which readers' issues hold too much that does not concern them."""
        there, beside = (chosen.candidate >= 0) & (chosen.propensity == 1), general(batch, chosen.candidate, codes, texts)
        count = np.count_nonzero(there & beside, axis=1)
        others = np.count_nonzero(there & ~beside, axis=1)
        return np.asarray(count > most_general(others, self._slot["rules"]["max_items"]))

    def _ranked(self, readers: Readers, excluded: npt.NDArray[np.bool_]) -> Ranked:
        """Return the best candidates of readers."""
        parts = []
        for start in range(0, len(excluded), BATCH_ROWS):
            stop = start + BATCH_ROWS
            scores = relevance(readers.part(start, stop), self._candidacy.shelf)
            parts.append(best(scores, self._fresh, excluded[start:stop], self._pool))
        return Ranked(np.concatenate([part.candidate for part in parts]), np.concatenate([part.score for part in parts]))

    def _readers(self, declared: Floats, meant: Floats, reading: Reading, read: "_Read") -> Readers:
        engaged, weights = read.topics.sums(reading, len(self._column))
        interests = np.ascontiguousarray(interest(declared, engaged, weights)[:, self._wanted])
        if self._policy == "recent":
            interests = np.zeros_like(interests)
        item = read.fitted[reading.place]
        known = np.flatnonzero(item >= 0)
        owner, item, share = reading.owner[known], item[known], reading.share[known]
        factors = np.zeros((len(declared), 0), dtype=np.float32)
        if self._space.model is not None and self._policy == "blend":
            factors = self._space.model.reader_factors(owner, item, share, len(declared))
        return Readers(interests, unit_rows(meant), factors, owner, item, share)


@dataclass(frozen=True, slots=True)
class _Read:
    """What is known of the publications that a chunk's readers read; a line, or an entry, for each of Reading.rows."""

    topics: TopicLists
    vectors: Floats
    lines: Rows
    """Of Candidacy.likeness."""
    fitted: Rows
    """Place among the model's items, -1 for none."""
    place_of: Rows
    """The other way round."""
    candidate: Rows
    """Place among the candidates, -1 for none: who read it has no need of it."""
    telling: npt.NDArray[np.bool_]
    """Whether to have read it tells what of the newsletter concerns a reader: it has a covered topic, or only a vector."""
