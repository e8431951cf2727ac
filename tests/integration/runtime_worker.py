"""A small stage that the runtime's tests run as a process: it writes what it handled to a journal, one line an event."""

import asyncio
import os
import sys
from pathlib import Path

from aiokafka.client import AIOKafkaClient

from core.errors import EventRefused, Unavailable
from runtime.settings import Settings
from runtime.stage import Stage
from schemas.records import Event
from schemas.sources import FileSource
from schemas.topics import Topics


class Journal:
    """An append-only file; a line is in the file when `write` returns."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, *fields: object) -> None:
        os.write(self._fd, (" ".join(map(str, fields)) + "\n").encode())


def main() -> int:
    mode, journal_path = sys.argv[1], sys.argv[2]
    settings = Settings.load()
    topics = Topics(settings.topic_prefix, settings.shards)
    stage = Stage("worker", settings, source=FileSource(topics))
    journal = Journal(journal_path)
    pid = os.getpid()

    async def handle(event: Event) -> None:
        await asyncio.sleep(0.003)
        if event.value["evidence"] == "refuse":
            raise EventRefused(event.name, "evidence", "says so")
        if event.value["evidence"] == "unavailable" and not Path(journal_path + ".up").exists():
            journal.write("tried", pid)
            raise Unavailable("the test says so")
        if event.value["evidence"] == "crash" and not Path(journal_path + ".fixed").exists():
            raise ZeroDivisionError("a bug")
        journal.write("handled", pid, event.partition, event.offset, event.id)

    async def handle_batch(events: list[Event]) -> None:
        for event in events:
            await handle(event)
        journal.write("batch", pid, len(events))

    async def on_assigned(partitions: set[tuple[str, int]]) -> None:
        journal.write("assigned", pid, len(partitions), int(stage.continuous))

    stage.on_assigned = on_assigned
    if mode == "nowhere":  # as with the metadata of a cluster that starts: no broker is in it
        AIOKafkaClient.get_random_node = lambda self: None
    if mode == "batches":
        stage.consume_batches(topics.engagements, handle_batch, max_events=20, within_s=0.05)
    else:
        stage.consume(topics.engagements, handle)
    if mode == "two":

        async def handle_other(event: Event) -> None:
            journal.write("other", pid, event.partition, event.offset, event.id)

        stage.consume(topics.subscribers, handle_other)
    return stage.run()


if __name__ == "__main__":
    sys.exit(main())
