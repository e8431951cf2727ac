"""Audience: copies what the deciders need to every shard.

Consumes `publications`, `alerts`, `ticks`, `newsletters`, `models` and `readership`; produces `audience.newsletters`
(ContentAvailable, ContentWithdrawn, ContentRead, SlotDue) and `audience.alerts` (AlertBatch), one record a shard in that shard's
partition. State: newest definition of each newsletter, quality of each publication, each alert as raised, which model is in use,
how much each shard's subscribers read; followed from the beginning of their topics, kept nowhere else. A model that cannot be
used (a part is missing, another hash, numbers that are none) is refused where it is activated, so that no SlotDue names it: the
one before stays in use. How much publications are read over all shards goes before the slots of a minute: what changed since
this process said it last, and all of it after an assignment, because others may have said something else meanwhile.
Ordering key: that of the source topic; alerts of one batch are ordered by priority. Guarantee: at least once with deterministic
ids; a copy that comes twice is decided once.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from core.alert_state import alert_not_after
from core.cadence import Schedule
from core.errors import EventRefused, InputError
from core.folding import first_difference
from core.ids import event_id, newsletter_source_id
from core.names import PRIORITIES
from core.newsletters import Definitions
from core.readership import MOST, Count, as_items, changed, of_items, summed
from core.rules import obeys, validate
from core.schedule import falls_somewhere, is_slot
from runtime import failpoints
from runtime.kafka import LogFollower
from runtime.models import ModelLog
from runtime.settings import Settings
from runtime.stage import URGENT_FETCH_WAIT_MS, Stage
from schemas.partition import partition_for
from schemas.records import Event, Record

MAX_ALERTS = 256
"""Alerts of one AlertBatch."""

ADMISSION_S = 0.02
"""How long an alert waits for others, so that the most urgent goes first."""

CONTENT_BATCH = 64
"""Publication events whose copies are written in one go."""

FOLLOW_TIMEOUT_S = 30.0
"""Longest wait for the definitions to be current; after it the topic waits with a backoff."""

WATCH_S = 1.0
"""How often it is looked whether the follower still runs."""

RULE_FIELDS = (
    "revision",
    "name",
    "subject",
    "days",
    "local_minute",
    "cadence",
    "month_day",
    "every_hours",
    "skip_dates",
    "late_h",
    "audience_topics",
    "audience_languages",
    "audience_tags",
    "audience_channels",
    "content_types",
    "max_age_h",
    "min_quality",
    "max_items",
    "half_life_h",
    "topic_share",
    "exploration",
    "ranking",
    "variants",
    "seed",
    "template",
)
"""What SlotDue carries of a definition."""


@dataclass
class Known:
    """What the audience stage must know; written by the follower's thread, entry by entry."""

    newsletters: Definitions = field(default_factory=Definitions)
    quality: dict[str, float] = field(default_factory=dict)
    alerts: dict[str, Event] = field(default_factory=dict)
    activated: list[str | None] = field(default_factory=list)
    """Versions of the model in the order in which they were put to use, also those that cannot be used; None for no model."""
    read: dict[int, dict[str, Count]] = field(default_factory=dict)
    """How much the subscribers of each shard read."""

    def apply(self, event: Event) -> None:
        """Fold one event; definitions and alerts that break a rule of their contract are ignored."""
        value = event.value
        if event.name == "PublicationScored":
            self.quality[value["publication_id"]] = value["quality"]
        elif event.name == "AlertRaised":
            self.first_alert(event)
        elif event.name == "ModelActivated":
            before = [] if self.activated or value["previous_version"] is None else [value["previous_version"]]
            self.activated += [*before, value["model_version"]]  # compaction may have left this activation only
        elif event.name == "NewsletterDefined":
            self.newsletters.apply(event, event.offset)
        elif event.name == "ReadershipCounted":
            self.read[value["shard"]] = of_items(value["counts"])

    def first_alert(self, event: Event) -> Event:
        """Return the first AlertRaised of this alert that is known, this one included."""
        known = self.alerts.get(event.key)
        if known is not None and known.offset <= event.offset:
            return known
        if obeys(event.name, event.value):
            self.alerts[event.key] = event
        return event


class Audience:
    """The handlers of the stage."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._topics = stage, stage.topics
        self._known = Known()
        self._models = ModelLog(stage.settings, stage.codec, stage.topics, stage.clock)
        self._usable: dict[str, bool] = {}
        self._said: tuple[int, dict[str, Count]] | None = None
        """How much publications are read, as this process said it last, and the assignment under which it did."""
        topics = stage.topics
        followed = [topics.newsletters, topics.publications, topics.alerts, topics.models, topics.readership]
        self._follower = LogFollower(stage.settings, followed, self._known.apply, stage.codec, name="audience", clock=stage.clock)
        self._follower.start()
        stage.spawn(self._watch)
        stage.consume_batches(stage.topics.publications, self.publications, CONTENT_BATCH, ADMISSION_S)
        stage.consume_batches(stage.topics.alerts, self.alerts, MAX_ALERTS, ADMISSION_S)
        stage.consume(stage.topics.newsletters, self.newsletter)
        stage.consume(stage.topics.models, self.model)
        stage.consume(stage.topics.ticks, self.tick)

    async def _watch(self) -> None:
        while (error := self._follower.failed()) is None:  # noqa: ASYNC110
            await asyncio.sleep(WATCH_S)  # a thread sets it: there is no event to wait for
        raise error

    async def newsletter(self, event: Event) -> None:
        """Refuse a definition that does not count; the follower takes note of the others."""
        await self._follower.wait_caught_up(FOLLOW_TIMEOUT_S)
        self._known.newsletters.admit(event.value, event.offset)

    async def model(self, event: Event) -> None:
        """Refuse the activation of a model that cannot be used; the follower takes note of the others."""
        if event.name == "ModelActivated" and event.value["model_version"] is not None:
            problem = await self._check(event.value["model_version"])
            if problem:
                raise EventRefused(event.name, "model_version", problem)

    async def _check(self, version: str) -> str:
        """Return why a model cannot be used, empty when it can."""
        try:
            await asyncio.to_thread(self._models.load, version)
        except InputError as error:
            self._usable[version] = False
            return str(error)
        self._usable[version] = True
        return ""

    async def _model_version(self) -> str | None:
        """Return the version that was put to use last and can be used; None when there is none, or none is to be used."""
        for version in reversed(self._known.activated.copy()):
            if version is None:
                return None
            if version not in self._usable:
                await self._check(version)
            if self._usable[version]:
                return version
        return None

    # ---- content ----

    async def publications(self, events: list[Event]) -> None:
        """Copy approvals, retractions, and revisions that were rejected while an earlier one may be out."""
        records: list[Record] = []
        for event in events:
            value = event.value
            if event.name == "PublicationApproved" and value["newsletters"]:
                names = ("publication_id", "revision", "quality", "content_type", "title", "topics", "language", "approved_at")
                positions = ("content_partition", "content_offset", "vector", "vector_model", "first_approved_at")
                copied = {name: value[name] for name in (*names, *positions)}
                records += self._copies(event, "ContentAvailable", copied, value["publication_id"], str(value["revision"]))
            elif event.name == "PublicationRetracted":
                records += self._withdrawn(event, "retracted", value["retracted_at"])
            elif event.name == "PublicationRejected" and value["revision"] > 1:
                records += self._withdrawn(event, "replaced", value["rejected_at"])
        await self._stage.producer.send(records)

    def _withdrawn(self, event: Event, reason: str, at: Any) -> list[Record]:
        publication_id = event.value["publication_id"]
        fields = {"publication_id": publication_id, "reason": reason, "withdrawn_at": at}
        return self._copies(event, "ContentWithdrawn", fields, publication_id, event.id)

    # ---- alerts ----

    async def alerts(self, events: list[Event]) -> None:
        """Admit alerts, the most urgent first, and copy them as one batch."""
        if not self._follower.caught_up_at():
            await self._follower.wait_caught_up(FOLLOW_TIMEOUT_S)
        admitted = [item for event in events for item in self._admitted(event)]
        admitted.sort(key=lambda item: PRIORITIES.index(item["priority"]))
        if admitted:
            last = events[-1]
            records = self._copies(last, "AlertBatch", {"alerts": admitted}, last.topic, str(last.partition), str(last.offset))
            await failpoints.hit_async("audience.before_produce")
            await self._stage.producer.send(records)
            await failpoints.hit_async("audience.after_produce")

    def _admitted(self, event: Event) -> list[dict[str, Any]]:
        if event.name == "AlertRaised":
            return self._raised(event)
        raised = self._known.alerts.get(event.key)
        if raised is None:
            raise EventRefused(event.name, "alert_id", f"no alert {event.key} was raised before")
        action = {"AlertUpdated": "updated", "AlertCancelled": "cancelled"}[event.name]
        return [self._item(raised, action, event.partition, event.offset)]

    def _raised(self, event: Event) -> list[dict[str, Any]]:
        """Return the admitted alert; a copy with the same content, whenever raised, changes nothing; another one is refused."""
        validate(event.name, event.value)
        first = self._known.first_alert(event)
        if first.offset == event.offset:
            return [self._item(event, "raised", event.partition, event.offset)]
        different = first_difference(event.value, first.value, ("raised_at",))
        if different is not None:
            raise EventRefused("AlertRaised", different, "differs from what this alert was raised with; update or cancel it")
        return []

    def _item(self, raised: Event, action: str, partition: int, offset: int) -> dict[str, Any]:
        value = raised.value
        quality = value["quality"]
        if quality is None and value["publication_id"] is not None:
            quality = self._known.quality.get(value["publication_id"])
        names = ("alert_id", "publication_id", "priority", "topics", "language", "dedup_key", "raised_at")
        return {name: value[name] for name in names} | {
            "action": action,
            "chunks": self._stage.settings.alert_chunks,
            "quality": quality,
            "not_after": alert_not_after(raised),
            "content_partition": partition,
            "content_offset": offset,
        }

    # ---- slots ----

    async def tick(self, event: Event) -> None:
        """Copy a slot for each newsletter whose schedule falls in this minute somewhere, or for the one that is asked for.

        A test send goes to the shard of its one subscriber.
        """
        minute, wanted, test = (event.value[name] for name in ("minute", "newsletter_id", "test_subscriber"))
        if wanted is None and not is_slot(minute):
            return
        await self._follower.wait_caught_up(FOLLOW_TIMEOUT_S)
        validate(event.name, event.value)
        if wanted is not None and self._known.newsletters.newest(wanted) is None:
            raise EventRefused("Tick", "newsletter_id", f"there is no newsletter {wanted!r}: define it first")
        records: list[Record] = []
        model_version = await self._model_version()
        for definition in self._known.newsletters.all():
            newsletter_id = definition["newsletter_id"]
            if newsletter_id == wanted if wanted is not None else falls_somewhere(Schedule.of(definition), minute):
                fields = {
                    "source_id": newsletter_source_id(newsletter_id, minute, test),
                    "chunks": self._stage.settings.newsletter_chunks if test is None else 1,
                    "newsletter_id": newsletter_id,
                    "slot_at": minute,
                    "forced": wanted is not None,
                    "rules": {name: definition[name] for name in RULE_FIELDS},
                    "model_version": model_version,
                    "test_subscriber": test,
                }
                copies = self._copies(event, "SlotDue", fields, fields["source_id"], str(wanted is not None))
                records += copies if test is None else [copies[partition_for(test.encode(), self._topics.shards)]]
        if records:
            now = (self._stage.generation, summed(list(self._known.read.values())))
            records = [*self._readership(event, now), *records]
            self._said = None  # until it is known that they are in the log
            await self._stage.producer.send(records)
            self._said = now

    def _readership(self, event: Event, now: tuple[int, dict[str, Count]]) -> list[Record]:
        """Return copies of how much publications are read, as far as that was not said yet."""
        afresh = self._said is None or self._said[0] != now[0]
        items = as_items(changed(now[1], {} if self._said is None or afresh else self._said[1]))
        records: list[Record] = []
        for start in range(0, max(len(items), afresh), MOST):
            part = items[start : start + MOST]
            identity = (f"{item['publication_id']}/{item['as_of']}/{item['reads']}" for item in part)
            fields = {"replaces": afresh and not start, "counts": part}
            records += self._copies(event, "ContentRead", fields, event.id, str(start), *identity)
        return records

    def _copies(self, event: Event, name: str, fields: dict[str, Any], *identity: str) -> list[Record]:
        """Return one record a shard; its time is now, for which the deciders decide."""
        topic = self._topics.audience_alerts if name == "AlertBatch" else self._topics.audience_newsletters
        now, shards = self._stage.clock.now(), self._topics.shards
        return [
            self._stage.codec.encode(
                topic,
                name,
                {"shard": shard, "shards": shards, **fields},
                key=str(shard),
                time=now,
                id=event_id(name, *identity, str(shard)),
                source="/newswire/streams/audience",
                correlation_id=event.correlation_id or event.id,
                causation_id=event.id,
                partition=shard,
            )
            for shard in range(shards)
        ]


def run(settings: Settings) -> int:
    """Run the process and return its exit code."""
    stage = Stage("audience", settings, fetch_wait_ms=URGENT_FETCH_WAIT_MS)
    Audience(stage)
    return stage.run()
