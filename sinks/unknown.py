"""Unknown deliveries: a call began and nobody knows what came of it. Each is looked into until it is known, or its time is up.

Consumes the ledger's unknown rows of one channel and lane that are reported as such; every sink process of these runs one, and
SKIP LOCKED keeps them apart. How a provider tells:

- SES: its SEND event, which the feedback process writes into the ledger; here it is only waited for;
- Slack: the metadata of the channel's messages; Discord: the unsubscribe link in the bot's own messages;
- a webhook: it is sent again under the same webhook-id, by which a receiver knows a repetition.

What was found is sent; what certainly is not there is sent again, the ordinary way (parked, due at once), so that consent,
suppression, rates and breaker are looked at anew. What stays unknown after its window follows the policy of its source, which
is `on_unknown` of the alert or the newsletter: an alert that names none is sent again, which its history records; a newsletter's
issue is held and stays unknown until a person decides. What is sent again without knowing, and then refused for good, stays
unknown (may_have_arrived) and is held: only of that attempt it is known that it did not arrive. Guarantees: nothing is sent
again that was not reported as unknown before, nor after its not_after, nor without its request.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any, Final, LiteralString

from core.errors import KeyDestroyed, SetupError, WrongType
from core.names import POLICIES
from core.outcomes import Sent
from runtime import metrics
from runtime.clock import Clock
from runtime.content import ContentReader
from runtime.keys import KeyStore
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.topics import Topics
from sinks.delivery import Delivery
from sinks.flight import Flight
from sinks.knowledge import Knowledge
from sinks.ledger import Ledger
from sinks.provider import Found, NotFound, Provider, Undecidable
from sinks.settle import Settlement, persist

WINDOW_S: Final[Mapping[str, float]] = MappingProxyType({"email": 900.0, "slack": 600.0, "discord": 240.0, "webhook": 0.0})
"""How long after it became unknown a delivery may still be resolved, by channel. SES publishes SEND within seconds; a quarter of
an hour bears a queue that was behind. Slack keeps its history, so this is for an outage of Slack. On Discord a message that
is sent again within a few minutes is safe by its nonce too. A webhook's receiver is simply told again."""
LOOK_EVERY_S: Final = 30.0
"""Wait between two looks when the provider names none."""
LEFT_S: Final = 60.0
"""What must be left until not_after for a delivery to be sent again."""
LIMIT: Final = 20
"""Most rows in one round: Slack shows its history some 50 times a minute."""

# Taking a row is putting off its next look; the owner stays who called, so that a late outcome of theirs still counts.
TAKE: Final[LiteralString] = """
UPDATE ledger.deliveries d SET check_at = clock_timestamp() + make_interval(secs => %(again_s)s::float8)
FROM (
    SELECT day, delivery_id FROM ledger.deliveries
    WHERE channel = %(channel)s AND lane = %(lane)s AND state = 'unknown'
      AND coalesce(check_at, '-infinity'::timestamptz) <= (SELECT clock_timestamp())
      AND outcome_at <= clock_timestamp() - make_interval(secs => %(settled_s)s::float8) AND reported_at IS NOT NULL
    ORDER BY coalesce(check_at, '-infinity'::timestamptz) LIMIT %(limit)s FOR UPDATE SKIP LOCKED
) due
WHERE d.day = due.day AND d.delivery_id = due.delivery_id
RETURNING
    to_char(d.day, 'YYYYMMDD') || '-' || d.delivery_id, d.attempt, d.request, d.claimed_at,
    extract(epoch FROM clock_timestamp() - d.outcome_at)::float8, d.source_kind, d.newsletter_id, d.not_after
"""
# CASE: see sinks/statements.py.
_AT: Final[LiteralString] = """
UPDATE ledger.deliveries d SET check_at = CASE
    WHEN %(after_s)s::float8 IS NULL THEN 'infinity' ELSE clock_timestamp() + make_interval(secs => %(after_s)s::float8) END
WHERE d.day = %(day)s::date AND d.delivery_id = %(id)s::uuid AND CASE d.state WHEN 'unknown' THEN d.attempt = %(attempt)s END
RETURNING 1
"""
_OWN: Final[LiteralString] = """
UPDATE ledger.deliveries d SET owner = %(owner)s::uuid
WHERE d.day = %(day)s::date AND d.delivery_id = %(id)s::uuid AND CASE d.state WHEN 'unknown' THEN d.attempt = %(attempt)s END
RETURNING 1
"""
RESEND: Final[LiteralString] = """
UPDATE ledger.deliveries d SET
    state = 'retry', reason = %(why)s, next_attempt_at = clock_timestamp(), check_at = NULL,
    outcome_at = NULL, reported_at = NULL,
    history = ledger.noted(ledger.remembered(d), jsonb_build_object(
        'state', 'retry', 'reason', %(why)s::text, 'attempt', d.attempt, 'at', clock_timestamp(), 'due_at', clock_timestamp()
    ))
WHERE d.day = %(day)s::date AND d.delivery_id = %(id)s::uuid AND CASE d.state WHEN 'unknown' THEN d.attempt = %(attempt)s END
  AND d.request IS NOT NULL
RETURNING 1
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Doubt:
    """An unknown delivery that is due for a look."""

    delivery_id: str
    attempt: int
    request: bytes | None
    called_at: datetime
    """When the attempt in doubt was claimed; its call began later."""
    age_s: float
    """Since it became unknown."""
    source_kind: str
    newsletter_id: str | None
    not_after: datetime


class Resolver:
    """The resolving part of one sink process."""

    def __init__(
        self, settings: Settings, ledger: Ledger, keys: KeyStore, codec: Codec, topics: Topics, provider: Provider,
        reader: ContentReader, knowledge: Knowledge, settlement: Settlement, flight: Flight, clock: Clock, *,
        channel: str, lane: str,
    ) -> None:  # fmt: skip
        if settings.alert_on_unknown not in POLICIES:
            raise SetupError(f"NEWSWIRE_ALERT_ON_UNKNOWN={settings.alert_on_unknown} is no policy: set resend or hold.")
        self._settings, self._ledger, self._keys, self._codec = settings, ledger, keys, codec
        self._topic, self._alerts = topics.deliveries(channel, lane), topics.alerts
        self._provider, self._reader, self._knowledge = provider, reader, knowledge
        self._settlement, self._flight = settlement, flight
        self._clock, self._channel, self._lane = clock, channel, lane
        self._window_s = settings.unknown_window_s or WINDOW_S[channel]

    async def run(self) -> None:
        """Look into unknown deliveries until the process stops."""
        while not self._flight.stopping:
            if await self.round() < LIMIT:
                await asyncio.sleep(self._settings.sweep_interval_s)

    async def round(self) -> int:
        """Look once into those that are due; return how many there were."""
        again_s = min(LOOK_EVERY_S, self._window_s) or LOOK_EVERY_S
        # a call whose answer was lost may still be on its way for as long as the provider may take
        settled_s = 0.0 if self._channel == "webhook" else self._settings.provider_timeout_s
        values = {"channel": self._channel, "lane": self._lane, "again_s": again_s, "settled_s": settled_s, "limit": LIMIT}
        doubts = [Doubt(*row) for row in await persist("unknown", partial(self._ledger.rows, TAKE, values))]
        for doubt in doubts:
            if self._flight.stopping:
                break  # looked at again when its time has come
            await self._look(doubt)
        return len(doubts)

    async def _look(self, doubt: Doubt) -> None:
        delivery = await self._delivery(doubt)
        if delivery is not None and self._channel != "webhook":
            sighting = await self._sighting(delivery, doubt)
            if isinstance(sighting, Found):
                await self._found(delivery, doubt, sighting)
                return
            if isinstance(sighting, NotFound):
                await self._send_again(doubt, "not_arrived")
                return
            if doubt.age_s < self._window_s:
                if sighting.after_s is not None:
                    await self._at(doubt, max(sighting.after_s, 1.0))
                return  # else it is looked at again after LOOK_EVERY_S
        if doubt.age_s < self._window_s:
            return
        if self._channel == "webhook" or await self._policy(doubt, delivery) == "resend":
            await self._send_again(doubt, "unresolved")
        else:
            await self._hold(doubt)

    async def _delivery(self, doubt: Doubt) -> Delivery | None:
        """Return the delivery; None without its request: nobody has read the record again since its process died."""
        raw = doubt.request
        if raw is None:
            return None

        async def decode() -> Delivery:
            _, value = self._codec.decode_value(self._topic, raw)
            return Delivery.of(value, raw, None)

        delivery = await persist("unknown", decode)
        delivery.attempt, delivery.called = doubt.attempt, True
        return delivery

    async def _sighting(self, delivery: Delivery, doubt: Doubt) -> Found | NotFound | Undecidable:
        async def opened() -> bytes:
            return await asyncio.to_thread(
                self._keys.decrypt, delivery.subscriber_id, f"address.{self._channel}", delivery.request["address"]
            )

        try:
            address = (await persist("keys", opened)).decode("utf-8", "replace")
        except (KeyDestroyed, WrongType):
            return Undecidable("erased")
        return await self._provider.find(delivery, address, doubt.called_at)

    async def _found(self, delivery: Delivery, doubt: Doubt, found: Found) -> None:
        """The receipt is written as if the answer had come: the settlement encrypts, hashes and reports it."""
        if await self._change(_OWN, doubt, owner=self._ledger.owner):
            self._settlement.outcome(delivery, Sent(found.receipt))
            self._count("found")

    async def _send_again(self, doubt: Doubt, why: str) -> None:
        if (doubt.not_after - self._clock.now()).total_seconds() < LEFT_S or not await self._change(RESEND, doubt, why=why):
            await self._hold(doubt)
            return
        self._count(why)
        log.warning("%s: its outcome stayed unknown (%s): it is sent again", doubt.delivery_id, why)

    async def _hold(self, doubt: Doubt) -> None:
        await self._at(doubt, None)
        self._count("held")
        log.warning("%s: its outcome stays unknown: it is held until somebody decides", doubt.delivery_id)

    async def _policy(self, doubt: Doubt, delivery: Delivery | None) -> str:
        if doubt.source_kind == "alert":
            raised = None if delivery is None else await persist("content", partial(self._raised, delivery))
            return str((raised or {}).get("on_unknown") or self._settings.alert_on_unknown)
        definition = self._knowledge.newsletter(doubt.newsletter_id or "") or {}
        return str(definition.get("on_unknown") or "hold")

    async def _raised(self, delivery: Delivery) -> Mapping[str, Any] | None:
        """Return the alert as it was raised; None when its topic does not keep it any more."""
        partition, offset = delivery.request["alert_partition"], delivery.request["alert_offset"]
        event = None if partition is None or offset is None else await self._reader.get(self._alerts, partition, offset)
        return None if event is None or event.key != delivery.source_id else event.value

    def _count(self, result: str) -> None:
        metrics.RESOLVED.labels(self._channel, result).inc()

    async def _at(self, doubt: Doubt, after_s: float | None) -> None:
        """Look again after that; None is never."""
        await self._change(_AT, doubt, after_s=after_s)

    async def _change(self, statement: LiteralString, doubt: Doubt, **values: object) -> bool:
        """Run a statement on the row while it is still in that doubt; False when it is not."""
        day, _, uid = doubt.delivery_id.partition("-")
        key = {"day": day, "id": uid, "attempt": doubt.attempt}
        return bool(await persist("unknown", partial(self._ledger.rows, statement, {**key, **values})))
