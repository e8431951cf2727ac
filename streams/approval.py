"""Approval: admits publications by their quality.

Consumes `publications` (PublicationSubmitted; its own events are folded, so that it knows what it did) and `subscribers` (only to
write what breaks a rule of its contract to the dead letters; the deciders ignore such an event). Produces `publications`
(PublicationRevised, PublicationScored, PublicationApproved or PublicationRejected) and `alerts` (AlertRaised, by rule). What is
good enough for a newsletter gets its content vector with the score, when there is an embedding model.
State: what is known of each publication of a partition (core.approval), read from the log when the partition's first event comes.
Ordering key: publication_id. Guarantee: at least once with deterministic ids; the last event of a revision is Approved or
Rejected, so whatever a crash left undone before it is done again.
"""

import asyncio
from datetime import datetime
from typing import Any

from core.approval import Publications, Revision, gate
from core.errors import CodecError
from core.ids import deterministic_id, event_id
from core.rules import validate
from runtime import failpoints
from runtime.kafka import admin_client, end_offsets, read_range, start_offsets
from runtime.settings import Settings
from runtime.stage import Stage
from schemas.records import Event, Record
from streams.scoring import Scorer
from streams.vectors import ContentVectors

SOURCE = "/newswire/streams/approval"

CHECKED_AT_ONCE = 500
"""Events of the subscribers topic that are checked at once; each is microseconds of work."""

CHECK_S = 0.05
"""Longest wait for them; nobody waits for a check."""


class Approval:
    """The handlers of the stage."""

    def __init__(self, stage: Stage) -> None:
        settings = stage.settings
        settings.require("scoring_url")
        self._stage = stage
        self._scorer = Scorer(settings.scoring_url, settings.scoring_timeout_s, stage.clock)
        self._vectors = ContentVectors.of_setting(settings.embedding_model, stage.log)
        self._known: dict[int, Publications] = {}
        self._applied: dict[int, int] = {}
        self._mine: set[int] = set()
        stage.on_assigned = self._on_assigned
        stage.consume(stage.topics.publications, self.handle)
        stage.consume_batches(stage.topics.subscribers, self.check_subscribers, CHECKED_AT_ONCE, CHECK_S)

    async def _on_assigned(self, assigned: set[tuple[str, int]]) -> None:
        """Forget partitions that somebody else may have worked on; they are read again when needed."""
        self._mine = {partition for topic, partition in assigned if topic == self._stage.topics.publications}
        for partition in list(self._known):
            if partition not in self._mine or not self._stage.continuous:
                del self._known[partition]

    async def check_subscribers(self, events: list[Event]) -> None:
        """Refuse events that break a rule of the subscribers topic; of several in one go, each by itself."""
        for event in events:
            validate(event.name, event.value)

    async def handle(self, event: Event) -> None:
        """Bring a submission to its end; other events are only folded."""
        known = await self._partition(event.partition)
        if event.offset >= self._applied[event.partition]:
            known.apply(event, event.offset)
            self._applied[event.partition] = event.offset + 1
        if event.name != "PublicationSubmitted":
            return
        revision = known.accepted(event.value, event.offset)
        if revision is not None and not revision.settled:
            await self._settle(event, known, revision)

    async def _settle(self, event: Event, known: Publications, revision: Revision) -> None:
        value = event.value
        publication_id, number = value["publication_id"], value["revision"]
        if known.known[publication_id].retracted:
            await self._reject(event, revision, "retracted", "It was retracted before it was approved.")
            return
        if revision.previous:
            changed = {"previous_revision": revision.previous, "changed_fields": known.changed_fields(publication_id, number)}
            await self._send(self._record(event, "PublicationRevised", changed | {"revised_at": event.time}))
        if revision.quality is None:
            await self._score(event, revision)
        assert revision.quality is not None
        passed = gate(revision.quality)
        if not passed.newsletters:
            await self._reject(event, revision, "low_quality", f"Its quality is {revision.quality:g}, not above 0.8.")
            return
        if passed.alerts and value["attributes"].get("alert") == "true":
            await self._send(self._alert(event, revision))
            await failpoints.hit_async("approval.after_alert")
        item = known.known[publication_id]
        await self._send(self._approved(event, revision, item.first_approved_at, passed.alerts))
        await failpoints.hit_async("approval.after_approved")
        item.first_approved_at = item.first_approved_at or revision.scored_at
        revision.settle()

    async def _score(self, event: Event, revision: Revision) -> None:
        score = await self._scorer.score(event.value, revision.content_sha256)
        vector, vector_model = None, None
        if gate(score.quality).newsletters:
            vector, vector_model = await self._vectors.of(event.value, revision.content_sha256)
        scored_at = self._stage.clock.now()
        fields = {
            "quality": score.quality,
            "scorer": score.scorer,
            "cached": score.cached,
            "content_sha256": revision.content_sha256,
            "vector": vector,
            "vector_model": vector_model,
            "scored_at": scored_at,
        }
        await self._send(self._record(event, "PublicationScored", fields))
        await failpoints.hit_async("approval.after_scored")
        revision.quality, revision.scorer, revision.scored_at = score.quality, score.scorer, scored_at
        revision.vector, revision.vector_model = vector, vector_model

    async def _reject(self, event: Event, revision: Revision, reason: str, detail: str) -> None:
        at = revision.scored_at or self._stage.clock.now()
        fields = {"reason": reason, "quality": revision.quality, "detail": detail, "rejected_at": at}
        await self._send(self._record(event, "PublicationRejected", fields))
        revision.settle()

    def _approved(self, event: Event, revision: Revision, first_approved_at: datetime | None, alerts: bool) -> Record:
        """The content stays in the submission; approved_at is the time of the score, so that doing it again changes nothing."""
        value = event.value
        fields = {name: value[name] for name in ("content_type", "title", "topics", "language")} | {
            "quality": revision.quality,
            "newsletters": True,
            "alerts": alerts,
            "content_partition": event.partition,
            "content_offset": event.offset,
            "vector": revision.vector,
            "vector_model": revision.vector_model,
            "approved_at": _scored_at(revision),
            "first_approved_at": first_approved_at,
        }
        return self._record(event, "PublicationApproved", fields)

    def _alert(self, event: Event, revision: Revision) -> Record:
        """One alert a publication, whatever its revisions: its id comes from the publication alone."""
        value = event.value
        alert_id = str(deterministic_id("alert", value["publication_id"]))
        fields = {name: value[name] for name in ("publication_id", "url", "topics", "language")} | {
            "alert_id": alert_id,
            "title": value["title"][:500],
            "body": value["summary"],
            "priority": "normal",
            "dedup_key": None,
            "quality": revision.quality,
            "raised_at": _scored_at(revision),
            "expires_at": None,
        }
        return self._record(event, "AlertRaised", fields, topic=self._stage.topics.alerts, key=alert_id)

    def _record(
        self, event: Event, name: str, fields: dict[str, Any], topic: str | None = None, key: str | None = None
    ) -> Record:
        identity = {"publication_id": event.value["publication_id"], "revision": event.value["revision"]}
        return self._stage.codec.encode(
            topic or self._stage.topics.publications,
            name,
            (identity if topic is None else {}) | fields,
            key=key or event.key,
            time=self._stage.clock.now(),
            id=event_id(name, *map(str, identity.values())),
            source=SOURCE,
            correlation_id=event.correlation_id or event.id,
            causation_id=event.id,
        )

    async def _send(self, record: Record) -> None:
        await self._stage.producer.send([record])

    async def _partition(self, partition: int) -> Publications:
        """Return what is known of a partition; the first time, the log of all that are not known is read to its end then."""
        if partition not in self._known:
            generation = self._stage.generation
            read, applied = await asyncio.to_thread(self._read, {partition} | (self._mine - self._known.keys()))
            if generation != self._stage.generation:
                read = {partition: read[partition]}  # enough for the event in hand; the others may have another owner
            self._applied |= {one: applied[one] for one in read}
            self._known |= read
            if generation != self._stage.generation:
                return self._known.pop(partition)
        return self._known[partition]

    def _read(self, partitions: set[int]) -> tuple[dict[int, Publications], dict[int, int]]:
        stage, topic = self._stage, self._stage.topics.publications
        places = [(topic, partition) for partition in sorted(partitions)]
        admin, known = admin_client(stage.settings), {partition: Publications() for partition in partitions}
        starts, ends = start_offsets(admin, places), end_offsets(admin, places)
        for raw in read_range(stage.settings, starts, ends, clock=stage.clock):
            try:
                event = stage.codec.decode(raw)
            except CodecError:
                continue  # its dead letter is written when the agent comes to it
            known[raw.partition].apply(event, event.offset)
            if event.name == "PublicationScored":
                self._scorer.remember(event.value["content_sha256"], event.value["quality"], event.value["scorer"])
                self._vectors.remember(event.value["content_sha256"], event.value["vector"], event.value["vector_model"])
        return known, {partition: end for (_, partition), end in ends.items()}


def _scored_at(revision: Revision) -> datetime:
    assert revision.scored_at is not None
    return revision.scored_at


def run(settings: Settings) -> int:
    """Run the process and return its exit code."""
    stage = Stage("approval", settings)
    Approval(stage)
    return stage.run()
