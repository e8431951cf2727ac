"""`newswire why`: what one source came to for one subscriber, from the log, and where the delivery is now.

Reads the decision of the subscriber's chunk (its first copy), and for the sentences folds the subscriber's shard again up to the
offsets that the decision recorded, with plain consumers; changes nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from core.alert_state import AlertState
from core.checks import uuid
from core.errors import CodecError, InputError
from core.explain import Explanation, answer, explain_alert, explain_newsletter
from core.ids import chunk_of, is_test
from core.newsletter_state import NewsletterState
from core.space import Space
from core.subscribers import subscriber_key
from runtime.clock import SystemClock
from runtime.kafka import admin_client, end_offsets, read_range, start_offsets
from runtime.models import ModelLog
from runtime.postgres import connect
from runtime.reach import require_kafka
from runtime.settings import Settings
from runtime.topic_names import load_topic_names
from schemas.codec import Codec
from schemas.partition import partition_for
from schemas.records import Event
from schemas.registry import RegistrySource
from schemas.topics import Topics


@dataclass
class Why:
    """The answer."""

    answer: str
    """The answer in one sentence."""
    verdict: str
    reason: str | None
    channels: list[str]
    because: list[str]
    decided: dict[str, Any]
    deliveries: list[dict[str, Any]] = field(default_factory=list)


class Asker:
    """Looks things up in the log."""

    def __init__(self, settings: Settings) -> None:
        require_kafka(settings.kafka_bootstrap_servers)
        self._topic_names = load_topic_names(settings)["en"]
        self._settings, self._topics = settings, Topics(settings.topic_prefix, settings.shards)
        self._codec = Codec(self._topics, RegistrySource(settings.schema_registry_url))
        self._admin = admin_client(settings)

    def refuse_unknown(self, subscriber_id: str) -> None:
        """Raise InputError when nobody was ever registered under this id."""
        shard = partition_for(subscriber_id.encode(), self._topics.shards)
        if self._first(self._topics.subscribers, shard, lambda event: event.key == subscriber_id) is None:
            raise InputError(
                f"subscriber: nobody was ever registered with the id {subscriber_id}; correct it, to the one that `newswire "
                "subscribe` printed when they were registered."
            )

    def source_of(self, source: str, subscriber_id: str) -> str:
        """Return the source id of what was asked for: of a newsletter, its newest slot that concerned the subscriber.

        The newest of all when none did; InputError when none was decided. Tests are named by their own id.
        """
        if "@" in source or uuid(source) is None:
            return source
        key, shard, found = subscriber_key(subscriber_id), partition_for(subscriber_id.encode(), self._topics.shards), []
        for event in self._read(self._topics.decisions("bulk"), shard):
            value = event.value
            mine = value["newsletter_id"] == source and value["chunk"] == chunk_of(subscriber_id, value["chunks"])
            if mine and not is_test(value["source_id"]):
                found.append((_recorded(value, key)[0] != "not_concerned", value["slot_at"], value["source_id"]))
        if not found:
            raise InputError(
                f"no slot of {source!r} was decided for shard {shard}, which {subscriber_id} is in: no such newsletter (see "
                "`newswire newsletter list`), or not yet."
            )
        newest: str = max(found)[2]
        return newest

    def why(self, source_id: str, subscriber_id: str) -> Why:
        """Return what a source came to for a subscriber (a UUID); InputError when it was not decided (yet)."""
        key = subscriber_key(subscriber_id)
        shard = partition_for(subscriber_id.encode(), self._topics.shards)
        newsletter = "@" in source_id
        decision = self._decision(source_id, subscriber_id, shard, "bulk" if newsletter else "urgent")
        explained = (self._newsletter if newsletter else self._alert)(decision, source_id, subscriber_id)
        recorded, deliveries = _recorded(decision.value, key), self._deliveries(source_id, subscriber_id)
        because = list(explained.because)
        if recorded != (explained.verdict, explained.reason, sorted(explained.channels)):
            because.append(f"(Decided again with this code, it would be {explained.verdict}; the first decision holds.)")
        return Why(
            answer=answer(*recorded, deliveries),
            verdict=recorded[0],
            reason=recorded[1],
            channels=recorded[2],
            because=because,
            decided={
                "decided_at": decision.value["decided_at"],
                "shard": shard,
                "chunk": decision.value["chunk"],
                "topic": decision.topic,
                "offset": decision.offset,
                "tzdata": decision.value["tzdata_version"],
                "code": decision.value["code_version"],
                "policy": decision.value["policy"] or None,
                "model": decision.value["model_version"],
                "candidates": decision.value["candidate_set"],
            },
            deliveries=deliveries,
        )

    def _decision(self, source_id: str, subscriber_id: str, shard: int, lane: str) -> Event:
        def wanted(event: Event) -> bool:
            value = event.value
            return bool(value["source_id"] == source_id and value["chunk"] == chunk_of(subscriber_id, value["chunks"]))

        found = self._first(self._topics.decisions(lane), shard, wanted)
        if found is None:
            raise InputError(
                f"{source_id} was not decided for shard {shard}, which {subscriber_id} is in: no such source, or not yet."
            )
        return found

    def _newsletter(self, decision: Event, source_id: str, subscriber_id: str) -> Explanation:
        slot = self._first(
            self._topics.audience_newsletters,
            decision.partition,
            lambda event: event.name == "SlotDue" and event.value["source_id"] == source_id,
        )
        assert slot is not None, "a decision without its slot"
        state = NewsletterState()
        self._fold(state.apply, decision)
        version, gone, space = decision.value["model_version"], [], Space()
        if version is not None:
            try:
                space = Space(ModelLog(self._settings, self._codec, self._topics, SystemClock()).load(version))
            except InputError as error:
                gone = [f"({error} Items and sentences are worked out without it.)"]
        elif slot.value["model_version"] is not None and "blend" in decision.value["policy"]:
            gone = [f"(Decided without model {slot.value['model_version']}: it could not be used when this was decided.)"]
        found = explain_newsletter(state, slot.value, subscriber_id, decision.value["decided_at"], space, self._topic_names)
        return replace(found, because=(*found.because, *gone))

    def _alert(self, decision: Event, source_id: str, subscriber_id: str) -> Explanation:
        def item(event: Event) -> dict[str, Any] | None:
            alerts = event.value["alerts"]
            return next((one for one in alerts if one["alert_id"] == source_id and one["action"] == "raised"), None)

        batch = self._first(self._topics.audience_alerts, decision.partition, lambda event: item(event) is not None)
        assert batch is not None, "a decision without its alert"
        alert = item(batch)
        assert alert is not None
        state = AlertState()
        self._fold(state.apply, decision)
        return explain_alert(state, alert, subscriber_id, decision.value["decided_at"])

    def _fold(self, apply: Callable[[Event], None], decision: Event) -> None:
        """Fold the shard as it was: every log up to the offsets that the decision recorded."""
        for applied in decision.value["applied"]:
            for event in self._read(applied["topic"], decision.partition, applied["next_offset"]):
                apply(event)

    def _first(self, topic: str, partition: int, wanted: Callable[[Event], bool]) -> Event | None:
        return next((event for event in self._read(topic, partition) if wanted(event)), None)

    def _read(self, topic: str, partition: int, end: int | None = None) -> Any:
        place = (topic, partition)
        starts, ends = start_offsets(self._admin, [place]), end_offsets(self._admin, [place])
        if end is not None:
            ends[place] = min(ends[place], end)
        for raw in read_range(self._settings, starts, ends):
            try:
                yield self._codec.decode(raw)
            except CodecError:
                continue

    def _deliveries(self, source_id: str, subscriber_id: str) -> list[dict[str, Any]]:
        if not self._settings.database_url:
            return []
        columns = ("delivery_id", "channel", "state", "reason", "decided_at", "sent_at", "confirmed_at")
        with connect(self._settings.database_url) as connection:
            rows = connection.execute(
                f"SELECT {', '.join(columns)} FROM api.deliveries WHERE source_id = %s AND subscriber_id = %s",  # noqa: S608
                [source_id, subscriber_id],
            ).fetchall()
        return [dict(zip(columns, row, strict=True)) for row in rows]


def _recorded(value: dict[str, Any], key: bytes) -> tuple[str, str | None, list[str]]:
    """Return verdict, reason and channels of a subscriber as the decision recorded them."""
    names = [*value["channels"], "none"]
    chosen = [names[entry["channel"]] for entry in value["chosen"] if entry["subscriber"] == key]
    if chosen:
        return "chosen", None, sorted(chosen)
    gated = [entry for entry in value["gated"] if entry["subscriber"] == key]
    if gated:
        return "gated", value["reasons"][gated[0]["reason"]], sorted(names[entry["channel"]] for entry in gated)
    return "not_concerned", None, []
