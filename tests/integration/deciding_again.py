"""Decides every newsletter of a log once more, as a process of its own: only from what the log holds, whatever day it is.

Prints a JSON list with the place of each decision, the model that it names, and whether the same bytes came out.
"""

import json
from typing import Any

from core.deciding import decide_newsletter
from core.ids import event_id
from core.newsletter_state import NewsletterState
from core.space import Space
from core.verdicts import Place
from runtime.clock import SystemClock
from runtime.kafka import admin_client, end_offsets, read_range, start_offsets
from runtime.models import ModelLog
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.records import Event
from schemas.registry import RegistrySource
from schemas.topics import Topics


def main() -> None:
    settings = Settings.load()
    topics = Topics.of(settings)
    codec = Codec(topics, RegistrySource(settings.schema_registry_url))
    admin, models, spaces = admin_client(settings), ModelLog(settings, codec, topics, SystemClock()), {None: Space()}

    def records(topic: str) -> list[tuple[bytes, Event]]:
        places = [(topic, shard) for shard in range(settings.shards)]
        raws = read_range(settings, start_offsets(admin, places), end_offsets(admin, places))
        return [(raw.value, codec.decode(raw)) for raw in raws]

    state_topics = (topics.subscribers, topics.engagements, topics.audience_newsletters)
    logs = {topic: [event for _, event in records(topic)] for topic in state_topics}
    decisions = records(topics.decisions_bulk)
    logs[topics.decisions_bulk] = [event for _, event in decisions]
    slots = {
        (event.partition, event.value["source_id"]): event
        for event in logs[topics.audience_newsletters]
        if event.name == "SlotDue"
    }
    found: list[dict[str, Any]] = []
    for recorded, decision in decisions:
        value, state = decision.value, NewsletterState()
        applied = {one["topic"]: one["next_offset"] for one in value["applied"]}
        for topic, end in applied.items():
            for event in logs[topic]:
                if event.partition == decision.partition and event.offset < end:
                    state.apply(event)
        version = value["model_version"]
        if version not in spaces:
            spaces[version] = Space(models.load(version))
        slot = slots[decision.partition, value["source_id"]]
        place = Place(decision.partition, settings.shards, value["chunk"], applied)
        due = slot.value | {"chunks": value["chunks"], "model_version": version}
        again = codec.encode(
            topics.decisions_bulk,
            "AudienceDecided",
            decide_newsletter(state, due, place, slot.time, spaces[version]),
            key=decision.key,
            time=slot.time,
            id=event_id("AudienceDecided", value["source_id"], str(decision.partition), str(value["chunk"])),
            partition=decision.partition,
        )
        equal = again.value == recorded and dict(again.headers)["ce_id"].decode() == decision.id
        found.append({"place": [decision.partition, decision.offset], "model": version, "equal": equal})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
