"""What the commands that produce events share: a codec, a producer, and reading a topic to its end."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Self

from core.errors import CodecError
from runtime.clock import SystemClock
from runtime.kafka import Producer, admin_client, committed_offsets, end_offsets, partitions_of, read_range, start_offsets
from runtime.reach import require_kafka
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.partition import partition_for
from schemas.records import Event, Raw, Record
from schemas.registry import RegistrySource
from schemas.topics import Topics

SOURCE = "/newswire/cli"

BATCH = 2_000
"""Records a send: enough to fill requests, few enough for a progress bar to move."""

_GAP = 500
"""Records between two positions that are cheaper to read over than to ask for anew."""


class NewEvent(NamedTuple):
    """An event to be written; id is None for what is a new act each time."""

    topic: str
    name: str
    value: dict[str, Any]
    key: str
    id: str | None = None


class Log:
    """The log as commands see it; synchronous. Unavailable when Kafka cannot be reached. Close it."""

    def __init__(self, settings: Settings) -> None:
        require_kafka(settings.kafka_bootstrap_servers)
        self.settings = settings
        self.topics = Topics(settings.topic_prefix, settings.shards)
        self.codec = Codec(self.topics, RegistrySource(settings.schema_registry_url))
        self.clock = SystemClock()
        self._producer: Producer | None = None
        self._admin = admin_client(settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._producer is not None:
            self._producer.close()

    def encode(self, event: NewEvent, at: datetime) -> Record:
        """Return the record of an event; WrongType names what is wrong with it."""
        return self.codec.encode(event.topic, event.name, event.value, key=event.key, time=at, id=event.id, source=SOURCE)

    def write(self, events: Sequence[NewEvent]) -> Iterator[int]:
        """Write events in order, in batches whose delivery reports are awaited; yield the size of each batch."""
        if self._producer is None:
            self._producer = Producer(self.settings, f"{self.settings.topic_prefix}.cli")
        at = self.clock.now()
        for start in range(0, len(events), BATCH):
            batch = [self.encode(event, at) for event in events[start : start + BATCH]]
            self._producer.send_sync(batch)
            yield len(batch)

    def write_one(self, event: NewEvent) -> None:
        """Write one event and await its report."""
        for _ in self.write([event]):
            pass

    def partitions(self, topic: str) -> list[tuple[str, int]]:
        """Return the partitions of a topic; SetupError when it does not exist."""
        return partitions_of(self._admin, [topic])

    def size(self, places: Sequence[tuple[str, int]]) -> int:
        """Return how many records these partitions hold at most."""
        return sum(end_offsets(self._admin, places).values()) - sum(start_offsets(self._admin, places).values())

    def read_all(self, places: Sequence[tuple[str, int]]) -> Iterator[Event]:
        """Yield every event that is in these partitions now, in order within each; what is no event is left out."""
        raws = read_range(self.settings, start_offsets(self._admin, places), end_offsets(self._admin, places))
        yield from self._decoded(raws)

    def read_newest(self, places: Sequence[tuple[str, int]], most: int) -> Iterator[Event]:
        """Yield the newest events of these partitions, in order within each: about `most` over all of them."""
        starts, ends = start_offsets(self._admin, places), end_offsets(self._admin, places)
        each = most // len(places)
        yield from self._decoded(read_range(self.settings, {tp: max(starts[tp], ends[tp] - each) for tp in places}, ends))

    def events_of(self, topic: str, keys: Collection[str]) -> Iterator[Event]:
        """Yield every event of these keys, in order for each: reads the partitions that the keys belong in."""
        return (event for event in self.read_all(self._places(topic, keys)) if event.key in keys)

    def events_after(self, group: str, topic: str, keys: Collection[str]) -> Iterator[Event]:
        """Yield those events of these keys that a consumer group has not committed yet, in order for each."""
        places, done = self._places(topic, keys), committed_offsets(self._admin, f"{self.settings.topic_prefix}.{group}")
        starts, ends = start_offsets(self._admin, places), end_offsets(self._admin, places)
        raws = read_range(self.settings, {place: max(starts[place], done.get(place, 0)) for place in places}, ends)
        return (event for event in self._decoded(raws) if event.key in keys)

    def _places(self, topic: str, keys: Collection[str]) -> list[tuple[str, int]]:
        """Return the partitions that these keys belong in."""
        count = self.topics.spec(topic).partitions
        return sorted({(topic, partition_for(key.encode(), count)) for key in keys})

    def read_positions(self, topic: str, positions: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Event]:
        """Return the events at (partition, offset) of a topic; positions that are gone are left out.

        Positions close to each other are read as one run, and all partitions at a time.
        """
        runs: dict[int, list[list[int]]] = {}
        for partition, offset in sorted(set(positions)):
            mine = runs.setdefault(partition, [])
            if mine and offset - mine[-1][1] <= _GAP:
                mine[-1][1] = offset
            else:
                mine.append([offset, offset])
        wanted, found = set(positions), {}
        for number in range(max(map(len, runs.values()), default=0)):
            round_ = {partition: mine[number] for partition, mine in runs.items() if number < len(mine)}
            starts = {(topic, partition): run[0] for partition, run in round_.items()}
            ends = {(topic, partition): run[1] + 1 for partition, run in round_.items()}
            raws = (raw for raw in read_range(self.settings, starts, ends) if (raw.partition, raw.offset) in wanted)
            found.update({(event.partition, event.offset): event for event in self._decoded(raws)})
        return found

    def _decoded(self, raws: Iterator[Raw]) -> Iterator[Event]:
        for raw in raws:
            try:
                yield self.codec.decode(raw)
            except CodecError:
                continue  # dead-lettered by those whose input it is
