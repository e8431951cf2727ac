"""From notices to Kafka: what a provider says is in the log before the provider is answered.

Produces provider-events and engagements. Guarantee: `record` returns only after all events are acknowledged; addresses are
encrypted with the subscriber's key, and left out when that is destroyed.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from core.errors import KeyDestroyed
from edge.callbacks.notice import Notice
from runtime.keys import KeyStore
from runtime.producer import Producer
from schemas.codec import Codec
from schemas.records import Record
from schemas.topics import Topics

SOURCE: Final = "/newswire/edge"
_ENGAGEMENTS: Final = ("ReactionAdded", "ReactionRemoved")


class Recorder:
    """Writes notices."""

    def __init__(self, producer: Producer, codec: Codec, topics: Topics, keys: KeyStore) -> None:
        """The codec must have the keys as its cipher."""
        self._producer, self._codec, self._topics, self._keys = producer, codec, topics, keys

    async def record(self, notices: Sequence[Notice]) -> None:
        """Write the events and wait for their acknowledgement; Unavailable when Kafka, the registry or the keys are away."""
        if notices:
            await self._producer.send(await asyncio.to_thread(self._records, notices))

    def _records(self, notices: Sequence[Notice]) -> list[Record]:
        personal = [n.value["subscriber_id"] for n in notices if n.value.get("address") is not None]
        self._keys.prefetch(personal)
        return [self._encoded(notice) for notice in notices]

    def _encoded(self, notice: Notice) -> Record:
        try:
            return self._record(notice, notice.value)
        except KeyDestroyed:
            return self._record(notice, {**notice.value, "address": None})

    def _record(self, notice: Notice, value: dict[str, Any]) -> Record:
        topic = self._topics.engagements if notice.name in _ENGAGEMENTS else self._topics.provider_events
        return self._codec.encode(
            topic,
            notice.name,
            value,
            key=value["subscriber_id"],
            time=value["occurred_at"],
            id=notice.id,
            source=SOURCE,
            causation_id=value["delivery_id"],
        )
