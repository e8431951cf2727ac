"""Recording an unsubscribe, and the newsletters' names.

Consumes: newsletters (names only). Produces: subscribers (SubscriberUnsubscribed). State: names by newsletter_id.
Guarantee: `record` returns only after Kafka has acknowledged the event with acks=all; the event's id follows from the
link and the choice, so using a link again is the same event again.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from core.ids import event_id
from core.newsletters import Definitions
from runtime.clock import Clock
from runtime.failpoints import hit_async
from runtime.producer import Producer
from runtime.tokens import TokenClaims
from schemas.codec import Codec
from schemas.records import Event
from schemas.topics import Topics

SOURCE = "/newswire/edge"


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """What a person asked for: kind is newsletter, alerts or all; via is one_click or page."""

    claims: TokenClaims
    kind: str
    via: str


class Recorder:
    """Writes unsubscribes to the subscribers topic."""

    def __init__(self, producer: Producer, codec: Codec, topics: Topics, clock: Clock) -> None:
        self._producer, self._codec, self._topics, self._clock = producer, codec, topics, clock

    async def record(self, asked: Unsubscribe) -> None:
        """Write SubscriberUnsubscribed and wait for its acknowledgement; Unavailable when Kafka or the registry is away."""
        claims, now = asked.claims, self._clock.now()
        newsletter_id = claims.newsletter_id if asked.kind == "newsletter" else None
        value = {
            "subscriber_id": claims.subscriber_id,
            "newsletter_id": newsletter_id,
            "kind": asked.kind,
            "via": asked.via,
            "delivery_id": claims.delivery_id,
            "unsubscribed_at": now,
        }
        identity = event_id("unsubscribe", claims.subscriber_id, claims.delivery_id or "", asked.kind, newsletter_id or "")

        record = await asyncio.to_thread(  # the first one asks the registry for the schema's id
            self._codec.encode,
            self._topics.subscribers,
            "SubscriberUnsubscribed",
            value,
            key=claims.subscriber_id,
            time=now,
            id=identity,
            source=SOURCE,
            causation_id=claims.delivery_id,
        )
        await hit_async("edge.before_produce")
        await self._producer.send([record])
        await hit_async("edge.after_produce")


class NewsletterNames:
    """Names of newsletters as they are defined now; `apply` runs in a follower's thread."""

    def __init__(self) -> None:
        self._definitions = Definitions()

    def apply(self, event: Event) -> None:
        """Fold one event."""
        self._definitions.apply(event, event.offset)

    def name_of(self, newsletter_id: str) -> str:
        """Return the name, or the id of a newsletter that is not known."""
        known = self._definitions.newest(newsletter_id)
        return newsletter_id if known is None else str(known["name"])


NameOf = Callable[[str], str]
