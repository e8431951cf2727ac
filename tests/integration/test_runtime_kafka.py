"""Reading and writing Kafka without Faust, on a real broker."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from core.errors import SetupError, Unavailable
from runtime.clock import SystemClock
from runtime.content import ContentReader
from runtime.kafka import (
    LogFollower,
    ProduceFailed,
    Producer,
    RecordRefused,
    admin_client,
    end_offsets,
    ensure_first_offsets,
    make_consumer,
    partitions_of,
    read_at,
    take,
)
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.records import Event, Raw, Record
from schemas.sources import FileSource
from tests.fix_stack import Stack
from tests.integration.runtime_events import World, subscriber, until, world_of

pytestmark = pytest.mark.stack


@pytest.fixture
def world(stack: Stack, tmp_path: Path) -> Iterator[World]:
    with world_of(stack.kafka, tmp_path, ["engagements"]) as made:
        yield made


async def test_send_returns_the_offsets_of_acknowledged_records(world: World) -> None:
    """Every record has an offset, in the order of the call, and stands there."""
    records = [world.opened(n) for n in range(200)]
    offsets = await world.producer.send(records)
    found = {(raw.partition, raw.offset): raw.value for raw in world.read(world.topics.engagements)}
    assert len(found) == 200
    assert all(found[record.partition, offset] == record.value for record, offset in zip(records, offsets, strict=True))
    assert await world.producer.send([]) == []


async def test_an_oversized_record_is_refused_and_the_producer_lives(world: World) -> None:
    """A record above 2 MB is a programming error, not an outage; the next one goes through."""
    good = world.opened(1)
    with pytest.raises(RecordRefused):
        await world.producer.send([Record(good.topic, good.key, b"x" * 2_200_000, (), 0)])
    assert await world.producer.send([good]) == [0]


def test_a_callback_that_raises_does_not_end_the_producers_thread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waited for that report waits in vain; every later one is handed over."""
    raised = threading.Event()

    def fails(*_: Any) -> None:
        raised.set()
        raise RuntimeError("the event loop is closed")

    async def send_and_go() -> None:
        waiting = asyncio.ensure_future(world.producer.send([world.opened(1)]))
        assert await asyncio.to_thread(raised.wait, 60)
        waiting.cancel()

    with monkeypatch.context() as patched:
        patched.setattr("runtime.producer._resolve", fails)
        asyncio.run(send_and_go())
    assert world.producer.send_sync([world.opened(1)], timeout_s=60) == [1]


def test_an_absent_broker_fails_within_the_timeout() -> None:
    """Nothing listens there: ProduceFailed, which is Unavailable, and Unavailable for a request."""
    nowhere = Settings(kafka_bootstrap_servers="127.0.0.1:9")
    producer = Producer(nowhere, "test")
    try:
        with pytest.raises(ProduceFailed, match="did not acknowledge"):
            producer.send_sync([Record("t", b"k", b"v", (), 0)], timeout_s=0.5)
    finally:
        producer._client.purge()  # or it goes on trying, and logging, beside the tests that follow
        producer.close()
    with pytest.raises(Unavailable, match="Kafka does not answer"):
        partitions_of(admin_client(nowhere), ["t"], timeout_s=0.5)


def test_read_at_gives_one_record_and_none_for_a_lost_one(world: World) -> None:
    """A record at its offset; None before it is written and after it is deleted."""
    record = world.opened(1)
    offsets = world.send(record, record, record)
    tp = (world.topics.engagements, record.partition or 0)
    raw = read_at(world.settings, *tp, offsets[1])
    assert raw is not None
    assert (raw.offset, raw.value) == (offsets[1], record.value)
    assert read_at(world.settings, *tp, 3) is None
    admin = admin_client(world.settings)
    admin.delete_records([TopicPartition(*tp, 2)])[TopicPartition(*tp)].result()
    assert read_at(world.settings, *tp, offsets[1]) is None


def test_first_offsets_are_set_once_and_only_without_members(world: World) -> None:
    """A new group starts at the beginning; a group with members is not touched; a missing topic is named."""
    topic, group = world.topics.engagements, f"{world.settings.topic_prefix}.first"
    world.send(*(world.opened(n) for n in range(20)))
    assert ensure_first_offsets(world.settings, group, [topic]) == len(partitions_of(admin_client(world.settings), [topic]))
    assert ensure_first_offsets(world.settings, group, [topic]) == 0
    consumer = make_consumer(world.settings, group)
    consumer.subscribe([topic])
    seen = 0
    while seen < 20:
        messages = take(consumer, 90)
        assert messages
        assert all(message.error() is None for message in messages)
        seen += len(messages)
    other = world.topics.dead_letters(topic)
    with pytest.raises(SetupError, match="stop every process of the group"):
        ensure_first_offsets(world.settings, group, [topic, other])
    consumer.close()
    with pytest.raises(SetupError, match="make schemas"):
        ensure_first_offsets(world.settings, group, ["nothing.of.that.name"])


class _Applied:
    """What a follower applied; `block` holds it up."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, event: Event) -> None:
        assert self.go.wait(90)
        if event.value["evidence"] == "crash":
            raise ZeroDivisionError
        self.events.append(event)


async def test_caught_up_means_that_everything_of_that_instant_is_applied(world: World) -> None:
    """The instant goes on while the log rests, stands still while a record waits, and never runs ahead of one."""
    clock, applied = SystemClock(), _Applied()
    world.send(*(world.opened(n) for n in range(50)))
    follower = LogFollower(world.settings, [world.topics.engagements], applied, world.codec, name="test")
    assert follower.caught_up_at() == 0.0
    follower.start()
    await follower.wait_caught_up(90)
    assert len(applied.events) == 50
    first = follower.caught_up_at()
    await follower.wait_caught_up(90)
    assert follower.caught_up_at() > first
    applied.go.clear()
    await world.producer.send([world.opened(1)])
    produced_at = clock.monotonic()
    with pytest.raises(Unavailable):
        await follower.wait_caught_up(1.2)
    assert follower.caught_up_at() < produced_at
    applied.go.set()
    await follower.wait_caught_up(90)
    assert len(applied.events) == 51
    follower.stop()
    assert follower.failed() is None


async def test_a_follower_skips_what_is_no_event_and_stops_at_a_bug(world: World) -> None:
    """Poison is passed over; an exception of the callback surfaces in `failed` and in the wait."""
    applied = _Applied()
    good = world.opened(1)
    world.send(Record(good.topic, good.key, b"poison", (), good.partition), good)
    follower = LogFollower(world.settings, [world.topics.engagements], applied, world.codec, name="test")
    follower.start()
    await follower.wait_caught_up(90)
    assert len(applied.events) == 1
    world.send(world.opened(1, "crash"))
    with pytest.raises(ZeroDivisionError):
        await follower.wait_caught_up(90)
    assert isinstance(follower.failed(), ZeroDivisionError)
    follower.stop()


class _Away(FileSource):
    """A registry that does not answer for a while."""

    asked = 0
    back = False

    def schema_of(self, schema_id: int) -> dict[str, Any]:
        """Return the schema once it is back."""
        self.asked += 1
        if not self.back:
            raise Unavailable("the registry does not answer")
        return super().schema_of(schema_id)


async def test_a_follower_waits_for_the_registry(world: World) -> None:
    """It neither ends nor passes the record over, and does not count as current meanwhile."""
    applied, registry = _Applied(), _Away(world.topics)
    world.send(world.opened(1))
    codec = Codec(world.topics, registry)
    follower = LogFollower(world.settings, [world.topics.engagements], applied, codec, name="test")
    follower.start()
    until(lambda: registry.asked >= 2, 60.0, what="a second question")
    assert follower.failed() is None
    assert follower.caught_up_at() == 0.0
    registry.back = True
    await follower.wait_caught_up(60)
    assert len(applied.events) == 1
    follower.stop()


async def test_contents_are_read_once_and_none_when_gone(world: World) -> None:
    """Contents of several partitions come back by position; what is absent is None and asked for again later."""
    topic = world.topics.engagements
    records = [world.opened(n) for n in range(100)]
    offsets = world.send(*records)
    positions = [(topic, record.partition or 0, offset) for record, offset in zip(records, offsets, strict=True)]
    reader = ContentReader(world.settings, world.codec, entries=50)
    wanted = positions[::7]
    first, second = await asyncio.gather(reader.get_many(wanted), reader.get_many(positions[:3]))
    assert {position: event.key for position, event in first.items() if event} == {
        position: subscriber(n) for n, position in list(enumerate(positions))[::7]
    }
    assert all(second.values())
    assert await reader.get(topic, 0, 5000) is None
    assert len(await reader.get_many(positions)) == 100
    again = await reader.get(*positions[99])
    assert again is not None
    reader.close()


async def test_an_unexpected_error_while_reading_content_reaches_who_waits(world: World) -> None:
    """A defect in the thread must not leave a sink waiting for ever."""

    class Broken:
        def decode(self, raw: Raw) -> Event:
            raise ZeroDivisionError

    record = world.opened(1)
    (offset,) = world.send(record)
    reader = ContentReader(world.settings, Broken(), entries=5)
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(90):
            await reader.get(world.topics.engagements, record.partition or 0, offset)
    reader.close()


def test_end_offsets_are_those_of_every_partition(world: World) -> None:
    """One request answers for all; an empty partition ends at 0."""
    record = world.opened(1)
    world.send(record, record)
    admin = admin_client(world.settings)
    ends = end_offsets(admin, partitions_of(admin, [world.topics.engagements]))
    assert ends.pop((world.topics.engagements, record.partition or 0)) == 2
    assert set(ends.values()) == {0}
    until(lambda: True)
