"""Telling the owners of disabled endpoints, on another verified channel of theirs, if there is one.

Consumes subscribers, read once from the beginning for the people it is about; produces DeliveryRequested of the kind `notice`,
which goes the ordinary way through a sink. Guarantee: the same event of a disabled endpoint gives the same delivery, so that
doing it again tells nobody twice.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from core.contact import Contact, other_contact
from core.errors import CodecError
from core.ids import delivery_id
from core.names import NOTICE
from runtime.kafka import admin_client, end_offsets, read_range, start_offsets
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.partition import partition_for
from schemas.records import Event, Record
from schemas.topics import Topics

WORTH_FOR: Final = timedelta(hours=24)
"""How long a notice is worth sending, as an alert."""

log = logging.getLogger(__name__)


def notices(settings: Settings, topics: Topics, codec: Codec, disabled: Mapping[str, Event]) -> list[Record]:
    """Return the deliveries that tell these subscribers of their disabled endpoint. Blocks for as long as their partitions of
    `subscribers` take to be read: seconds, for something that happens a few times a week."""
    records = []
    for subscriber_id, events in _histories(settings, topics, codec, list(disabled)).items():
        contact = other_contact(events, disabled[subscriber_id].value["channel"])
        if contact is not None:
            records.append(_request(topics, codec, subscriber_id, disabled[subscriber_id], contact))
    log.info("%s endpoints were disabled, %s owners are told", len(disabled), len(records))
    return records


def _histories(settings: Settings, topics: Topics, codec: Codec, subscribers: Sequence[str]) -> dict[str, list[Event]]:
    """Return all events of these subscribers, in order."""
    shards = topics.spec(topics.subscribers).partitions
    keys = {subscriber_id.encode(): list[Event]() for subscriber_id in subscribers}
    places = sorted({(topics.subscribers, partition_for(key, shards)) for key in keys})
    admin = admin_client(settings)
    for raw in read_range(settings, start_offsets(admin, places), end_offsets(admin, places)):
        if raw.key in keys:
            try:
                keys[raw.key].append(codec.decode(raw))
            except CodecError:
                continue  # dead-lettered by those whose input it is
    return {key.decode(): events for key, events in keys.items()}


def _request(topics: Topics, codec: Codec, subscriber_id: str, event: Event, contact: Contact) -> Record:
    at = event.value["occurred_at"]
    not_after = at + WORTH_FOR
    value: dict[str, Any] = {
        "delivery_id": delivery_id(event.id, NOTICE, subscriber_id, contact.channel, not_after),
        "subscriber_id": subscriber_id,
        "source_id": f"{NOTICE}:{event.id}",
        "source_kind": NOTICE,
        "cause_id": event.id,
        "channel": contact.channel,
        "lane": "urgent",
        "priority": "high",
        "newsletter_id": None,
        "newsletter_revision": None,
        "issue_group": None,
        "address": contact.address,
        "language": contact.language,
        "items": [],
        "alert_partition": None,
        "alert_offset": None,
        "variant": None,
        "not_after": not_after,
        "decision_partition": event.partition,
        "decision_offset": event.offset,
        "decided_at": at,
    }
    topic = topics.deliveries(contact.channel, "urgent")
    return codec.encode(
        topic, "DeliveryRequested", value, key=subscriber_id, time=at, id=value["delivery_id"], causation_id=event.id
    )
