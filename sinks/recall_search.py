"""Finding the deliveries of what was retracted: by reading the deliveries topics, which keep 7 days.

Consumes alerts and deliveries.* without a group. Nothing is indexed when messages are sent, so that sending costs nothing
more; a reading costs a look for the id in the bytes of every record. All calls block; they are for threads.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka.admin import AdminClient

from core.errors import CodecError, EventRefused
from core.names import CHANNELS, LANES
from runtime.kafka import admin_client, end_offsets, partitions_of, read_range, start_offsets
from runtime.reading import TopicOffsets
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.topics import Topics
from sinks.delivery import Delivery


class Search:
    """Reads what a recall needs."""

    def __init__(self, settings: Settings, topics: Topics, codec: Codec) -> None:
        self._settings, self._topics, self._codec = settings, topics, codec
        self._admin: AdminClient | None = None

    def _offsets(self, topics: Sequence[str]) -> tuple[TopicOffsets, TopicOffsets]:
        self._admin = self._admin or admin_client(self._settings)
        partitions = partitions_of(self._admin, topics)
        return start_offsets(self._admin, partitions), end_offsets(self._admin, partitions)

    def deliveries(self) -> tuple[TopicOffsets, TopicOffsets]:
        """Return where the deliveries topics begin and end now."""
        return self._offsets([self._topics.deliveries(channel, lane) for channel in CHANNELS for lane in LANES])

    def found(self, subjects: Sequence[str], starts: TopicOffsets, ends: TopicOffsets) -> Iterator[tuple[str, Delivery]]:
        """Yield (subject, delivery) of all deliveries of these subjects between the offsets."""
        alerts = {subject.removeprefix("alert:"): subject for subject in subjects if subject.startswith("alert:")}
        publications = {subject.removeprefix("pub:"): subject for subject in subjects if subject.startswith("pub:")}
        alerts |= self._alerts_about(publications)
        for value, raw in self._values(starts, ends, [*alerts, *publications], "DeliveryRequested"):
            try:
                delivery = Delivery.of(value, raw, None)
            except EventRefused:
                continue  # the sink has dead-lettered it
            if delivery.source_id in alerts:
                yield alerts[delivery.source_id], delivery
            yield from ((publications[one], delivery) for one in delivery.publication_ids if one in publications)

    def _alerts_about(self, publications: Mapping[str, str]) -> dict[str, str]:
        """Return the alerts about these publications, with the publication's subject."""
        if not publications:
            return {}
        values = self._values(*self._offsets([self._topics.alerts]), list(publications), "AlertRaised")
        return {v["alert_id"]: publications[v["publication_id"]] for v, _ in values if v["publication_id"] in publications}

    def _values(
        self, starts: TopicOffsets, ends: TopicOffsets, wanted: Sequence[str], name: str
    ) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Yield value and bytes of the events in which one of these texts occurs; Avro holds texts as they are."""
        texts = [text.encode() for text in wanted]
        for raw in read_range(self._settings, starts, ends):
            if raw.value is None or not any(text in raw.value for text in texts):
                continue
            try:
                event = self._codec.decode(raw)
            except CodecError:
                continue
            if event.name == name:
                yield event.value, raw.value
