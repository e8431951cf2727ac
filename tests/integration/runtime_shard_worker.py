"""A small decider that the runtime's tests run as a process; its state is the list of what it has folded, as JSON."""

import asyncio
import json
import os
import sys
from pathlib import Path

from runtime.settings import Settings
from runtime.shards import Shards
from runtime.stage import Stage
from schemas.records import Event
from schemas.sources import FileSource
from schemas.topics import Topics
from tests.integration.runtime_events import NOW, decision_value
from tests.integration.runtime_worker import Journal


class Folded:
    """What a shard has seen: ids of engagements by offset, sources of decisions with their first offset."""

    def __init__(self) -> None:
        self.engagements: dict[str, str] = {}
        self.decisions: dict[str, int] = {}

    def apply(self, event: Event) -> None:
        if event.name == "AudienceDecided":
            self.decisions.setdefault(f"{event.value['source_id']}/{event.value['chunk']}", event.offset)
        else:
            self.engagements[str(event.offset)] = event.id

    def dump(self) -> bytes:
        return json.dumps([self.engagements, self.decisions], sort_keys=True).encode()

    def load(self, data: bytes) -> None:
        self.engagements, self.decisions = json.loads(data)


def main() -> int:
    journal_path = sys.argv[1]
    settings = Settings.load()
    topics = Topics(settings.topic_prefix, settings.shards)
    stage = Stage("decider", settings, source=FileSource(topics))
    journal, pid = Journal(journal_path), os.getpid()
    shards: Shards[Folded] = Shards(
        stage,
        make=lambda partition: Folded(),
        state_topics=[topics.engagements],
        decisions_topic=topics.decisions_bulk,
        snapshot_topic=topics.snapshots_newsletters,
        format=1,
    )

    async def engaged(event: Event) -> None:
        shard = await shards.get(event.partition)
        if shard is not None:
            shard.absorb(event)

    async def due(event: Event) -> None:
        for chunk in range(event.value["chunks"]):
            shard = await shards.get(event.partition)
            if shard is None:
                return
            source_id = event.value["source_id"]
            if shard.is_decided(source_id, chunk):
                journal.write("known", pid, event.partition, source_id, chunk)
                continue
            seen = len(shard.state.engagements)
            value = decision_value(event.partition, settings.shards, source_id, chunk, seen)
            record = stage.codec.encode(
                topics.decisions_bulk, "AudienceDecided", value, key=f"{source_id}/{chunk}", time=NOW, partition=event.partition
            )
            await shard.decide(record, source_id, chunk, value)
            journal.write("decided", pid, event.partition, source_id, chunk, seen)

    async def show() -> None:
        while True:
            for shard in shards.owned():
                shown = {"state": shard.state.dump().decode(), "applied": shard.applied, "slot": shard.slot}
                draft = Path(f"{journal_path}.{pid}.draft")
                draft.write_text(json.dumps(shown))
                draft.replace(f"{journal_path}.{pid}.{shard.partition}")
            await asyncio.sleep(0.05)

    stage.consume(topics.engagements, engaged)
    stage.consume(topics.audience_newsletters, due)
    stage.spawn(show)
    return stage.run()


if __name__ == "__main__":
    sys.exit(main())
