"""Stages on a real broker: nothing is lost, nothing is repeated without a crash, poison moves out of the way."""

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from runtime.reading import admin_client, end_offsets
from runtime.stalls import holds_events
from schemas.records import Record
from tests.fix_stack import Stack
from tests.integration.runtime_events import SHARDS, World, stop, until, world_of

pytestmark = pytest.mark.stack
WORKER = "runtime_worker"


@pytest.fixture
def world(stack: Stack, tmp_path: Path) -> Iterator[World]:
    with world_of(stack.kafka, tmp_path, ["engagements", "subscribers"]) as made:
        yield made


def handled(world: World, kind: str = "handled") -> Counter[str]:
    """How often each event was handled, by its id."""
    return Counter(line[4] for line in world.journal("j") if line[0] == kind and len(line) == 5)


def id_of(record: Record) -> str:
    return dict(record.headers)["ce_id"].decode()


def test_a_worker_that_joins_and_leaves_neither_loses_nor_repeats(world: World) -> None:
    """Over two rebalances each of the events is handled exactly once."""
    journal, sent = str(world.folder / "j"), []

    def send(count: int) -> None:
        records = [world.opened(n) for n in range(count)]
        world.send(*records)
        sent.extend(map(id_of, records))

    send(100)
    world.start(WORKER, "plain", journal)
    until(lambda: len(handled(world)) > 50, what="the first events")
    two = world.start(WORKER, "plain", journal)
    pid = str(two.pid)
    while not any(line[0] == "handled" and line[1] == pid for line in world.journal("j")):
        send(20)
        until(lambda: len(handled(world)) > len(sent) - 150, what="most events")
    send(200)
    assert stop(two) == 0
    send(100)
    until(lambda: len(handled(world)) == len(sent), what="every event")
    assert set(handled(world).values()) == {1}
    assert set(handled(world)) == set(sent)


@pytest.mark.parametrize("mode", ["plain", "batches"])
def test_kill_9_loses_nothing(world: World, mode: str) -> None:
    """A worker killed in the middle and started again handles every event at least once."""
    journal = str(world.folder / "j")
    records = [world.opened(n) for n in range(400)]
    world.send(*records)
    worker = world.start(WORKER, mode, journal, NEWSWIRE_INSTANCE_ID="w")
    until(lambda: len(handled(world)) >= 150, what="150 events")
    stop(worker, signal.SIGKILL)
    worker = world.start(WORKER, mode, journal, NEWSWIRE_INSTANCE_ID="w")
    until(lambda: len(handled(world)) == len(records), what="every event")
    assert stop(worker) == 0
    before = sum(handled(world).values())
    worker = world.start(WORKER, mode, journal, NEWSWIRE_INSTANCE_ID="w")
    (last,) = [world.opened(1)]
    world.send(last)
    until(lambda: id_of(last) in handled(world), what="the last event")
    assert sum(handled(world).values()) == before + 1, "after a clean stop nothing is repeated"
    if mode == "batches":
        assert max(int(line[2]) for line in world.journal("j") if line[0] == "batch") == 20


def test_poison_becomes_dead_letters_and_the_partition_moves_on(world: World) -> None:
    """Bytes that are no event, events of another key and refused ones are kept with cause and original bytes."""
    good = world.opened(1)
    assert good.partition is not None
    spoilt = {
        "truncated": good._replace(value=good.value[:-3]),
        "trailing_bytes": good._replace(value=good.value + b"x"),
        "unknown_schema": good._replace(value=b"\0\0\0\0\1" + good.value[5:]),
        "wrong_partition": good._replace(partition=(good.partition + 1) % SHARDS),
        "wrong_topic": good._replace(value=world.slot_due(1, "daily@1").value),
        "refused": world.opened(1, "refuse"),
    }
    world.send(good, *spoilt.values(), good._replace(value=b""), world.opened(1))
    worker = world.start(WORKER, "plain", str(world.folder / "j"))
    until(lambda: sum(handled(world).values()) == 2, what="the good events")
    letters = world.read(world.topics.dead_letters(world.topics.engagements))
    assert len(letters) == len(spoilt) + 1
    by_reason = {dict(raw.headers)["dlq.reason"].decode(): raw for raw in letters}
    for reason, record in spoilt.items():
        raw = by_reason[reason]
        headers = dict(raw.headers)
        if reason != "truncated":  # there are two of them
            assert (raw.key, raw.value) == (record.key, record.value)
            assert raw.headers[: len(record.headers)] == record.headers
        assert headers["dlq.topic"].decode() == world.topics.engagements
        assert headers["dlq.partition"] == str(record.partition).encode()
        assert headers["dlq.attempts"] == b"1"
    assert b"murmur2_random" in dict(by_reason["wrong_partition"].headers)["dlq.detail"]
    assert stop(worker) == 0


def test_an_unavailable_dependency_holds_the_event_back(world: World) -> None:
    """The event is tried again until the dependency answers; a stop meanwhile is clean and the event comes again."""
    event = world.opened(1, "unavailable")
    world.send(event)
    worker = world.start(WORKER, "plain", str(world.folder / "j"), NEWSWIRE_STALLED_S="0.4")
    until(lambda: sum(line[0] == "tried" for line in world.journal("j")) >= 3, what="three attempts")
    assert stop(worker) == 0
    assert not handled(world)
    again = world.start(WORKER, "plain", str(world.folder / "j"))
    until(lambda: any(line == ["tried", str(again.pid)] for line in world.journal("j")), what="another attempt")
    (world.folder / "j.up").touch()
    until(lambda: handled(world)[id_of(event)] == 1, what="the event")
    assert world.read(world.topics.dead_letters(world.topics.engagements)) == []


def test_a_stream_that_takes_nothing_more_ends_and_starts_anew(world: World) -> None:
    """A client that hangs, while its heartbeats go on, is not waited for: what waits behind it is handled by the next process."""
    journal = str(world.folder / "j")
    first, second = world.opened(1), world.opened(2)
    world.send(first)
    hanging = world.start(WORKER, "plain", journal, NEWSWIRE_FAILPOINTS="stage.before_commit=sleep:3600", NEWSWIRE_STALLED_S="4")
    until(lambda: handled(world)[id_of(first)] == 1, what="the first event")
    world.send(second)
    assert hanging.wait(timeout=120) == 70
    said = (world.folder / f"{WORKER}.log").read_text()
    assert "has waited at offset 0 of" in said
    assert "in hit_async" in said, "what everything waited for is in the log"
    world.start(WORKER, "plain", journal)
    until(lambda: handled(world)[id_of(second)] >= 1, what="the second event")


def test_offsets_without_a_record_are_no_stall(world: World) -> None:
    """The marker that ends a producer's transaction has an offset, and no event that could be handled."""
    record = world.opened(1)
    assert record.partition is not None
    place = (record.topic, record.partition)
    producer = Producer({"bootstrap.servers": world.settings.kafka_bootstrap_servers, "transactional.id": f"t-{record.topic}"})
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(record.topic, value=record.value, key=record.key, headers=list(record.headers), partition=record.partition)
    producer.commit_transaction()
    admin = admin_client(world.settings)
    until(lambda: end_offsets(admin, [place])[place] == 2, what="the marker")
    assert holds_events(world.settings, place, 0, 2)
    assert not holds_events(world.settings, place, 1, 2)


def test_a_bug_ends_the_process_before_the_acknowledgement(world: World) -> None:
    """An exception that nobody expects exits with 70; the event is not lost."""
    event = world.opened(1, "crash")
    world.send(event)
    worker = world.start(WORKER, "plain", str(world.folder / "j"), NEWSWIRE_INSTANCE_ID="w")
    assert worker.wait(90) == 70
    assert b"ZeroDivisionError" in (world.folder / f"{WORKER}.log").read_bytes()
    (world.folder / "j.fixed").touch()
    world.start(WORKER, "plain", str(world.folder / "j"), NEWSWIRE_INSTANCE_ID="w")
    until(lambda: handled(world)[id_of(event)] == 1, what="the event")


def test_a_client_that_has_given_up_its_group_ends_the_process(world: World) -> None:
    """Its task for the group ended on an error of its own: without that it would stay up, and out of the group, for ever."""
    worker = world.start(WORKER, "nowhere", str(world.folder / "j"))
    assert worker.wait(120) == 70
    assert b"Did we not perform bootstrap?" in (world.folder / f"{WORKER}.log").read_bytes()
