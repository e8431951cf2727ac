"""Recall: what was sent of a retracted publication or a cancelled alert is changed where the channel can, and recorded for all.

Consumes ledger.barred (what was retracted), and what sinks/recall_search.py finds in Kafka. State: ledger.recalls, and
ledger.edits with one row a recipient. Guarantee: every recipient whose delivery was asked for from 7 days before the
retraction to 10 minutes after it ends in a row that says what became of it; an edit may be asked for more than once and
changes nothing the second time. Nobody is called whom consent bars from that, and nobody while it is stopped.
"""

import asyncio
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Final, LiteralString

from core.errors import KeyDestroyed, WrongType
from core.names import CHANNELS, LANES
from core.outcomes import Dead, Retry, Sent, Skipped, Unknown
from runtime import metrics
from runtime.clock import Clock
from runtime.keys import KeyStore
from runtime.reading import TopicOffsets
from runtime.retry import backoff
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.topics import Topics
from sinks.compose import Composer
from sinks.consent import subjects_of
from sinks.delivery import Delivery
from sinks.knowledge import Knowledge
from sinks.ledger import Ledger
from sinks.provider import THROTTLED, Provider, allowed
from sinks.recall_search import Search

RECALLS: Final = 50
"""Most retractions looked for in one reading, those first that nobody has looked for yet."""
LOOK_EVERY_S: Final = 10.0
LATE_S: Final = 600.0
"""Deliveries that were decided before a retraction and are asked for after it are looked for so often, for so long."""
FOUND: Final = 500
"""Most recipients written in one statement."""
EDITS: Final = 200
"""Most edits of one channel in one round."""
CALLS: Final = 8
"""Most edits of one channel under way at a time: a correction is not worth pushing other messages out of the rates."""
GIVE_UP: Final = timedelta(days=7)
"""An edit that is still refused so long after the retraction has failed."""
MARGIN_S: Final = 1.0
"""Beyond the lag that sinks allow: what is claimed later is composed without what was retracted."""
_BASE_S, _CAP_S = 2.0, 300.0
_WAIT_S: Final = {None: 2.0, "claimed": 1.0, "retry": 10.0, "unknown": 30.0}
"""How soon a delivery that is not settled yet is looked at again, by its state; None is not claimed yet."""

_NOTICE: Final[LiteralString] = """
INSERT INTO ledger.recalls (subject, retracted_at, noticed_at)
SELECT b.subject, b.since, clock_timestamp() FROM ledger.barred b
WHERE b.reason = 'retracted' AND NOT EXISTS (SELECT FROM ledger.recalls r WHERE r.subject = b.subject)
ON CONFLICT DO NOTHING RETURNING subject
"""
_TO_FIND: Final[LiteralString] = """
SELECT subject, noticed_at < clock_timestamp() - make_interval(secs => %(late_s)s::float8) FROM ledger.recalls
WHERE closed_at IS NULL AND noticed_at < clock_timestamp() - make_interval(secs => %(lag_s)s::float8)
ORDER BY found_at NULLS FIRST, noticed_at LIMIT %(limit)s
"""
_ADD: Final[LiteralString] = """
INSERT INTO ledger.edits (subject, day, delivery_id, channel, subscriber_id, state, request, next_attempt_at)
SELECT subject, day, delivery_id, channel, subscriber_id, 'pending', request, clock_timestamp()
FROM unnest(%(subjects)s::text[], %(days)s::date[], %(ids)s::uuid[], %(channels)s::text[], %(subscribers)s::uuid[],
            %(requests)s::bytea[]) AS given (subject, day, delivery_id, channel, subscriber_id, request)
ON CONFLICT DO NOTHING RETURNING 1
"""
# What is parked and has nothing left to send is settled now, not when its next attempt would be due.
# CASE: see sinks/statements.py.
HURRY: Final[LiteralString] = """
UPDATE ledger.deliveries d SET next_attempt_at = clock_timestamp()
FROM unnest(%(days)s::date[], %(ids)s::uuid[]) AS i(day, delivery_id)
WHERE d.day = i.day AND d.delivery_id = i.delivery_id AND CASE d.state WHEN 'retry' THEN d.next_attempt_at > clock_timestamp() END
RETURNING 1
"""
_ALL_FOUND: Final[LiteralString] = """
UPDATE ledger.recalls SET found_at = clock_timestamp()
WHERE subject = ANY(%(subjects)s::text[]) AND found_at IS NULL RETURNING 1
"""
_CLOSE: Final[LiteralString] = """
UPDATE ledger.recalls SET closed_at = clock_timestamp() WHERE subject = ANY(%(subjects)s::text[]) RETURNING 1
"""
_PENDING: Final[LiteralString] = """
SELECT
    e.subject, e.day, e.delivery_id::text, e.subscriber_id::text, e.attempts, e.request, r.retracted_at, r.noticed_at,
    d.state, d.reason, d.receipt, d.source_kind, d.claimed_at, clock_timestamp()
FROM ledger.edits e JOIN ledger.recalls r ON r.subject = e.subject
LEFT JOIN LATERAL (
    SELECT * FROM ledger.deliveries l WHERE l.day = e.day AND l.delivery_id = e.delivery_id LIMIT 1
) d ON true
WHERE e.state = 'pending' AND e.channel = %(channel)s AND e.next_attempt_at <= (SELECT clock_timestamp())
ORDER BY e.next_attempt_at LIMIT %(limit)s
"""
_SETTLE: Final[LiteralString] = """
UPDATE ledger.edits e SET
    state = i.state, reason = i.reason, attempts = i.attempts,
    request = CASE WHEN i.state = 'pending' THEN e.request END,
    next_attempt_at = CASE WHEN i.state = 'pending' THEN clock_timestamp() + make_interval(secs => i.after_s) END,
    settled_at = CASE WHEN i.state <> 'pending' THEN clock_timestamp() END
FROM unnest(%(subjects)s::text[], %(days)s::date[], %(ids)s::uuid[], %(states)s::text[], %(reasons)s::text[], %(attempts)s::int[],
            %(after)s::float8[]) AS i(subject, day, delivery_id, state, reason, attempts, after_s)
WHERE e.subject = i.subject AND e.day = i.day AND e.delivery_id = i.delivery_id
RETURNING 1
"""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Edit:
    """A recipient of what was retracted, and how the delivery stands in the ledger."""

    subject: str
    day: date
    uuid: str
    subscriber_id: str
    attempts: int
    request: bytes | None
    retracted_at: datetime
    noticed_at: datetime
    sent_state: str | None
    sent_reason: str | None
    receipt: bytes | None
    source_kind: str | None
    claimed_at: datetime | None
    now: datetime
    state: str = field(default="pending", kw_only=True)
    reason: str | None = field(default=None, kw_only=True)
    after_s: float = field(default=0.0, kw_only=True)
    """What it comes to; while it stays pending, when to look again."""

    def becomes(self, state: str, reason: str | None = None) -> None:
        """Settle it."""
        self.state, self.reason = state, reason

    def waits(self, after_s: float, reason: str | None = None) -> None:
        """Look at it again, or give up when that has been done for long enough."""
        if self.now - self.noticed_at > GIVE_UP:
            self.becomes({None: "not_sent", "unknown": "unknown"}.get(self.sent_state, "failed"), reason or self.sent_reason)
        else:
            self.after_s = after_s


def _columns(batch: Sequence[tuple[str, Delivery]]) -> dict[str, list[Any]]:
    """Return the values of _ADD; a request is kept where it can be needed for an edit."""
    return {
        "subjects": [subject for subject, _ in batch],
        "days": [d.day for _, d in batch],
        "ids": [d.uuid for _, d in batch],
        "channels": [d.channel for _, d in batch],
        "subscribers": [d.subscriber_id for _, d in batch],
        "requests": [None if d.channel == "email" else d.raw for _, d in batch],
    }


def settle_unsent(edit: Edit, lag_s: float) -> bool:
    """Settle, or let wait, what needs no edit, by its state in the ledger; return whether one is needed. Pure."""
    if edit.sent_state in ("suppressed", "failed"):
        edit.becomes("not_sent", edit.sent_reason)
    elif edit.sent_state not in ("sent", "confirmed"):
        edit.waits(_WAIT_S[edit.sent_state])
    elif edit.claimed_at is not None and edit.claimed_at > edit.noticed_at + timedelta(seconds=lag_s):
        edit.becomes("left_out")  # by then every sink knew, and composed it without
    else:
        return True
    return False


class Recall:
    """The part of the guard that follows up retractions."""

    def __init__(
        self, settings: Settings, topics: Topics, codec: Codec, ledger: Ledger, keys: KeyStore, composer: Composer,
        knowledge: Knowledge, providers: Mapping[str, Provider], clock: Clock,
    ) -> None:  # fmt: skip
        """`providers`: those of the channels that are set up; on the others nothing can be edited."""
        self._settings, self._topics, self._codec, self._ledger, self._keys = settings, topics, codec, ledger, keys
        self._composer, self._knowledge, self._providers, self._clock = composer, knowledge, providers, clock
        self._lag_s = settings.consent_lag_s + MARGIN_S
        self._search = Search(settings, topics, codec)
        self._read_to: dict[str, TopicOffsets] = {}
        self._look_at_s: dict[str, float] = {}
        self._throttled_until_s: dict[str, float] = {}

    async def round(self) -> bool:
        """Notice, find and edit; return whether there was as much as one round takes."""
        await self._ledger.rows(_NOTICE, {})
        values = {"lag_s": self._lag_s, "late_s": LATE_S, "limit": RECALLS}
        subjects = dict(await self._ledger.rows(_TO_FIND, values))
        now_s = self._clock.monotonic()
        due = [s for s, over in subjects.items() if over or self._look_at_s.get(s, 0.0) <= now_s]
        if due:
            await self._find(due)
            self._look_at_s |= dict.fromkeys(due, now_s + LOOK_EVERY_S)
            await self._close([subject for subject in due if subjects[subject]])
        full = [await self._edit(channel) for channel in CHANNELS]
        return any(full)

    # -- finding ----------------------------------------------------------------------------------------------------------

    async def _find(self, subjects: Sequence[str]) -> None:
        """Find deliveries of these subjects: all that are kept, or those that were asked for since the last look."""
        first, ends = await asyncio.to_thread(self._search.deliveries)
        starts = {tp: min(self._read_to.get(s, first).get(tp, first[tp]) for s in subjects) for tp in ends}
        found, count = self._search.found(subjects, starts, ends), 0
        while batch := await asyncio.to_thread(lambda: list(itertools.islice(found, FOUND))):
            count += len(await self._ledger.rows(_ADD, _columns(batch)))
            empty = [d for _, d in batch if self._nothing_left(d)]
            if empty:
                await self._ledger.rows(HURRY, {"days": [d.day for d in empty], "ids": [d.uuid for d in empty]})
        self._read_to |= dict.fromkeys(subjects, ends)
        await self._ledger.rows(_ALL_FOUND, {"subjects": list(subjects)})
        if count:
            log.info("retracted: %s; %s recipients more", ", ".join(subjects), count)

    async def _close(self, subjects: Sequence[str]) -> None:
        """Look for no more: by now everything that was decided before the retraction has been asked for."""
        if subjects:
            await self._ledger.rows(_CLOSE, {"subjects": list(subjects)})
        for subject in subjects:
            del self._read_to[subject], self._look_at_s[subject]

    def _nothing_left(self, delivery: Delivery) -> bool:
        return delivery.source_kind == "alert" or all(map(self._knowledge.bars.retracted, delivery.publication_ids))

    # -- editing ----------------------------------------------------------------------------------------------------------

    async def _edit(self, channel: str) -> bool:
        """Settle what is due on a channel; return whether there was as much as one round takes."""
        if self._clock.monotonic() < self._throttled_until_s.get(channel, 0.0):
            return False
        edits = [Edit(*row) for row in await self._ledger.rows(_PENDING, {"channel": channel, "limit": EDITS})]
        sent = [edit for edit in edits if settle_unsent(edit, self._lag_s)]
        provider = self._providers.get(channel)
        if provider is None:
            for edit in sent:
                edit.becomes("not_editable")
        elif sent:
            await self._call_all(channel, provider, sent)
        if edits:
            await self._write(channel, edits)
        return len(edits) == EDITS

    async def _call_all(self, channel: str, provider: Provider, edits: Sequence[Edit]) -> None:
        deliveries = [self._delivery(channel, edit) for edit in edits]
        made = await self._composer.retractions([(d, e.retracted_at) for d, e in zip(deliveries, edits, strict=True)])
        slots = asyncio.Semaphore(CALLS)

        async def one(edit: Edit, delivery: Delivery, retraction: Any) -> None:
            async with slots:
                if not isinstance(retraction, tuple):
                    edit.becomes("failed", retraction.reason)
                    return
                await self._call(provider, edit, delivery, *retraction)

        async with asyncio.TaskGroup() as group:
            for edit, delivery, retraction in zip(edits, deliveries, made, strict=True):
                group.create_task(one(edit, delivery, retraction))

    def _delivery(self, channel: str, edit: Edit) -> Delivery:
        assert edit.request is not None
        _, value = self._codec.decode_value(self._topics.deliveries(channel, LANES[0]), edit.request)
        return Delivery.of(value, edit.request, None)

    async def _call(self, provider: Provider, edit: Edit, delivery: Delivery, address: str, retraction: Any) -> None:
        """Ask for one edit; consent is looked at right before."""
        try:
            receipt = self._keys.decrypt(edit.subscriber_id, "receipt", edit.receipt or b"").decode()
        except (KeyDestroyed, WrongType):
            edit.becomes("failed", "erased")
            return
        body = provider.render_retraction(retraction, delivery, address)
        reason = self._barred(delivery)
        if body is None:
            edit.becomes("not_editable")
        elif not allowed(self._settings, provider.recipient(address)):
            edit.becomes("failed", "not_allowed")
        elif reason is not None:
            edit.becomes("failed", reason)
        elif self._must_wait(delivery):
            edit.waits(_WAIT_S[None])
        else:
            edit.attempts += 1
            self._take(delivery.channel, edit, await provider.edit(receipt, address, body))

    def _must_wait(self, delivery: Delivery) -> bool:
        throttled = self._clock.monotonic() < self._throttled_until_s.get(delivery.channel, 0.0)
        stopped = self._knowledge.bars.stopped(delivery.channel, delivery.source_id)
        return throttled or stopped or not self._knowledge.current()

    def _take(self, channel: str, edit: Edit, outcome: Sent | Skipped | Retry | Dead | Unknown) -> None:
        if isinstance(outcome, Sent):
            edit.becomes("edited")
        elif isinstance(outcome, Dead):
            edit.becomes("failed", outcome.reason)
        else:
            assert isinstance(outcome, Retry), "an edit is never unknown; see Provider.edit"
            edit.waits(max(outcome.after_s, backoff(edit.attempts, base_s=_BASE_S, cap_s=_CAP_S)), outcome.reason)
            if outcome.reason == THROTTLED:
                self._throttled_until_s[channel] = self._clock.monotonic() + outcome.after_s

    def _barred(self, delivery: Delivery) -> str | None:
        """Return why somebody must not be called even to correct what they have.

        Who unsubscribed gets the correction of a message that is there; a webhook's is a new call, so it counts there.
        """
        subjects = [s for s in subjects_of(delivery) if not s[0].startswith("alert:")]
        return self._knowledge.bars.first_reason(subjects if delivery.channel == "webhook" else (subjects[0], subjects[-1]))

    async def _write(self, channel: str, edits: Sequence[Edit]) -> None:
        values = {
            "subjects": [e.subject for e in edits],
            "days": [e.day for e in edits],
            "ids": [e.uuid for e in edits],
            "states": [e.state for e in edits],
            "reasons": [e.reason for e in edits],
            "attempts": [e.attempts for e in edits],
            "after": [e.after_s for e in edits],
        }
        await self._ledger.rows(_SETTLE, values)
        for edit in edits:
            if edit.state != "pending":
                metrics.EDITS.labels(channel, edit.state).inc()
