"""The producer of a run: people, content and sources of its own, and the journal of what was acknowledged.

Everything is produced as other teams do it: Avro through the registry, acks=all, deterministic ids, sent again until it
is acknowledged. What a run expects is worked out here, from its own input alone.
"""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from core.errors import Unavailable
from core.ids import minute_text, newsletter_source_id, tick_id
from core.names import CHANNELS
from runtime.directory import Directory, read_profile
from runtime.kafka import Producer
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.partition import partition_for
from schemas.records import Record
from schemas.registry import RegistrySource
from schemas.topics import Topics
from tests.fault.journal import Act, Expected, Poison
from tests.fault.probe import unsubscribe

NAMESPACE = uuid.UUID("9a0f5d0e-0000-5000-8000-0000000fa017")
PEOPLE_A_CHANNEL = 3
HOOK_SECRET = "whsec_bmV3c3dpcmUtZGVtby1zZWNyZXQtb2YtMzItYnl0ZXM="
PATIENCE_S = 60.0
"""How long something is sent again before the run is given up; Kafka is back within 10 s."""


def now() -> datetime:
    """Return the time as events carry it."""
    return datetime.now(UTC).replace(microsecond=datetime.now(UTC).microsecond // 1000 * 1000)


@dataclass
class Upstream:
    """Writes what a run needs; one for all runs of a process."""

    settings: Settings
    inbox_url: str

    def __post_init__(self) -> None:
        self.topics = Topics.of(self.settings)
        self.codec = Codec(self.topics, RegistrySource(self.settings.schema_registry_url))
        self.producer = Producer(self.settings, "fault-upstream")
        self.directory = Directory(self.settings)

    def close(self) -> None:
        """Let go of the connections."""
        self.producer.close()
        self.directory.close()

    def insist(self, send: Callable[[], Any]) -> Any:
        """Send until it is acknowledged: every event here has an id that makes sending again harmless."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return send()
            except Unavailable:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    def send(self, records: list[Record], copies: int = 1) -> list[int]:
        """Return the offsets of the last copies, acknowledged by all in-sync replicas."""
        for _ in range(copies - 1):
            self.insist(lambda: self.producer.send_sync(records, 10.0))
        return list(self.insist(lambda: self.producer.send_sync(records, 10.0)))

    def encode(self, topic: str, name: str, value: dict[str, Any], key: str, identity: str) -> Record:
        """Return the record of an event."""
        return self.insist(  # type: ignore[no-any-return]
            lambda: self.codec.encode(topic, name, value, key=key, time=now(), id=identity, source="/fault")
        )


@dataclass
class Input:
    """What one run puts in, and what it therefore expects."""

    upstream: Upstream
    name: str
    """Of this run, never used before: everything of it is named after it."""
    copies: int = 1
    expected: list[Expected] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)
    poison: list[Poison] = field(default_factory=list)
    people: dict[str, str] = field(default_factory=dict)
    """By subscriber the channel."""
    channels: tuple[str, ...] = CHANNELS
    people_a_channel: int = PEOPLE_A_CHANNEL
    alerts_a_day: int = -1
    gate: str = ""
    """Why nobody is to get what is asked for from now on."""
    content_used_up: bool = False
    """Everybody may have had all content already, so that an issue may have nothing in it."""
    alerts: list[Record] = field(default_factory=list)
    """All that were raised, to be sent again."""

    def id(self, *parts: str) -> str:
        """Return an id of this run."""
        return str(uuid.uuid5(NAMESPACE, "/".join([self.name, *parts])))

    @property
    def newsletter_id(self) -> str:
        """The newsletter of this run."""
        return f"fault-{self.name}"

    def register(self) -> None:
        """Register some people on every channel, who take this run's newsletter and its alerts."""
        profiles = []
        for channel in self.channels:
            for number in range(self.people_a_channel):
                subscriber = self.id("person", channel, str(number))
                self.people[subscriber] = channel
                profiles.append(read_profile(self._person(subscriber, channel)))
        self.upstream.insist(lambda: self.upstream.directory.register(profiles))

    def _person(self, subscriber: str, channel: str) -> dict[str, Any]:
        digits = str(uuid.UUID(subscriber).int)[:17]
        hook = {"url": f"{self.upstream.inbox_url.rstrip('/')}/hooks/{subscriber}", "secret": HOOK_SECRET}
        address = {"email": f"{subscriber}@example.org", "slack": f"C{digits[:10]}", "discord": f"1{digits}", "webhook": hook}
        return {
            "subscriber_id": subscriber,
            "time_zone": "Europe/Berlin",
            "language": "en",
            "topics": {self.newsletter_id: 1.0},
            "newsletters": [self.newsletter_id],
            "alerts": True,
            "alerts_a_day": self.alerts_a_day,
            "channels": {channel: address[channel]},
        }

    def define(self) -> None:
        """Define this run's newsletter; it is due only when it is ticked by hand."""
        value = {
            "newsletter_id": self.newsletter_id,
            "revision": 1,
            "name": "Faults",
            "subject": "{title}",
            "days": [(datetime.now(UTC) + timedelta(days=3)).isoweekday()],
            "local_minute": 540,
            "audience_topics": [],
            "audience_languages": [],
            "audience_tags": [],
            "audience_channels": [],
            "content_types": [],
            "max_age_h": 72,
            "min_quality": 0.8,
            "max_items": 5,
            "half_life_h": 24.0,
            "template": "newsletter",
            "from_name": "Faults",
            "from_address": "news@newswire.example",
            "postal_address": "1 Example Street",
            "defined_at": now(),
        }
        topics = self.upstream.topics
        record = self.upstream.encode(topics.newsletters, "NewsletterDefined", value, self.newsletter_id, self.id("newsletter"))
        self.upstream.send([record], self.copies)

    def publish(self, count: int = 2) -> list[str]:
        """Publish articles of high quality and return their ids."""
        ids = [self.id("publication", str(number)) for number in range(count)]
        topic = self.upstream.topics.publications
        records = [
            self.upstream.encode(
                topic,
                "PublicationSubmitted",
                {
                    "publication_id": one,
                    "revision": 1,
                    "content_type": "article",
                    "title": f"Result {one}",
                    "summary": "A summary.",
                    "body": None,
                    "url": f"https://example.org/{one}",
                    "authors": ["A. Author"],
                    "topics": [{"topic": self.newsletter_id, "weight": 1.0}],
                    "language": "en",
                    "published_at": now(),
                    "attributes": {"quality": "0.95"},
                },
                one,
                self.id("submitted", one),
            )
            for one in ids
        ]
        self.upstream.send(records, self.copies)
        return ids

    def tick(self, minutes_ago: int) -> str:
        """Make the newsletter due for a slot and return the source."""
        minute = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=minutes_ago)
        identity = tick_id(minute, self.newsletter_id)
        value = {"tick_id": identity, "minute": minute, "newsletter_id": self.newsletter_id, "requested_by": "fault"}
        topics = self.upstream.topics
        self.upstream.send([self.upstream.encode(topics.ticks, "Tick", value, minute_text(minute), identity)], self.copies)
        return self._source(newsletter_source_id(self.newsletter_id, minute))

    def alert(self, number: int) -> str:
        """Raise an alert to this run's people and return the source."""
        alert_id = self.id("alert", str(number))
        value = {
            "alert_id": alert_id,
            "title": f"Alert {number} of {self.name}",
            "body": "Beam lost.",
            "topics": [{"topic": self.newsletter_id, "weight": 1.0}],
            "priority": "high",
            "quality": 0.95,
            "raised_at": now(),
        }
        self.alerts.append(self.alert_record(value, self.id("raised", str(number))))
        self.upstream.send(self.alerts[-1:], self.copies)
        return self._source(alert_id)

    def alert_record(self, value: dict[str, Any], identity: str) -> Record:
        """Return the record of an alert."""
        return self.upstream.encode(self.upstream.topics.alerts, "AlertRaised", value, value["alert_id"], identity)

    def _source(self, source_id: str) -> str:
        out = set(self.people) if self.content_used_up else {act.subscriber_id for act in self.acts}
        self.expected += [Expected(source_id, one, channel, one in out, self.gate) for one, channel in self.people.items()]
        return source_id

    def unsubscribe(self) -> None:
        """Let one person leave by the edge, who asks until it says that it is recorded.

        What was asked for before may still be decided for them, but is not sent 2 s later.
        """
        subscriber = next(iter(self.people))
        until = time.monotonic() + PATIENCE_S
        while (status := unsubscribe(self.upstream.settings, subscriber)) != 200:
            if time.monotonic() > until:
                raise Unavailable(f"the edge answers {status} for {PATIENCE_S:.0f} s")
            time.sleep(0.3)
        self.acts.append(Act(datetime.now(UTC), "their unsubscribe", subscriber))
        self.expected = [
            Expected(one.source_id, one.subscriber_id, one.channel, one.may_be_left_out or one.subscriber_id == subscriber)
            for one in self.expected
        ]

    def spoil(self) -> None:
        """Produce records that are no events: garbage, truncated, with trailing bytes, of an unknown schema."""
        topics, key = self.upstream.topics, self.id("poison")
        good = self.upstream.encode(
            topics.publications,
            "PublicationRetracted",
            {"publication_id": key, "reason": "poison", "retracted_at": now()},
            key,
            key,
        )
        spoiled = {
            "garbage": b"\xffno event",
            "truncated Avro": good.value[:-3],
            "trailing bytes": good.value + b"\x00",
            "an unknown schema id": b"\x00\x7f\xff\xff\xff" + good.value[5:],
        }
        for what, data in spoiled.items():
            value = data + b"" if what != "garbage" else data
            topic = topics.deliveries("email", "bulk") if what == "garbage" else topics.publications
            partition = partition_for(key.encode(), topics.spec(topic).partitions)
            record = Record(topic, key.encode(), value, good.headers, partition)
            self.poison.append(Poison(topic, partition, self.upstream.send([record])[0], value, what))
