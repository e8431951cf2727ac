"""Shards on a real broker: what is loaded equals the fold, and decisions are made once."""

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition

from runtime.kafka import admin_client
from tests.fix_stack import Stack
from tests.integration.runtime_events import SHARDS, World, stop, until, world_of

pytestmark = pytest.mark.stack
TOPICS = ["engagements", "audience.newsletters", "decisions.bulk", "snapshots.newsletters"]
WORKER = "runtime_shard_worker"


@pytest.fixture
def world(stack: Stack, tmp_path: Path) -> Iterator[World]:
    with world_of(stack.kafka, tmp_path, TOPICS) as made:
        yield made


def fold(world: World, shard: int) -> list[dict[str, object]]:
    """The state as a fold of the logs from scratch, written independently of the runtime."""
    engagements = {
        str(raw.offset): dict(raw.headers)["ce_id"].decode()
        for raw in world.read(world.topics.engagements)
        if raw.partition == shard
    }
    decisions: dict[str, int] = {}
    for raw in world.read(world.topics.decisions_bulk):
        if raw.partition == shard:
            decisions.setdefault((raw.key or b"").decode(), raw.offset)
    return [engagements, decisions]


def equals_fold(world: World, process: object, names: str = "j") -> bool:
    return all(world.shown(names, process, shard).get("state") == fold(world, shard) for shard in range(SHARDS))


def test_state_equals_a_fold_with_a_snapshot_and_without(world: World) -> None:
    """Live state, state from snapshot and rest, and state with the snapshots deleted are the fold of the logs."""
    journal = str(world.folder / "j")
    world.send(*(world.opened(n) for n in range(100)))
    world.send(*(world.slot_due(shard, "daily@1") for shard in range(SHARDS)))
    first = world.start(WORKER, journal, NEWSWIRE_INSTANCE_ID="w")
    until(lambda: len(world.journal("j")) == 2 * SHARDS, what="all decisions")
    until(lambda: equals_fold(world, first), what="the fold")
    until(lambda: all(world.shown("j", first, s)["slot"] for s in range(SHARDS)), what="snapshots")
    stop(first, signal.SIGKILL)
    world.send(*(world.opened(n) for n in range(60)))
    second = world.start(WORKER, journal, NEWSWIRE_INSTANCE_ID="w")
    until(lambda: equals_fold(world, second), what="the fold after a restart")
    assert all(world.shown("j", second, s)["slot"] for s in range(SHARDS)), "it was loaded from its snapshot"
    stop(second)
    tops = {(raw.topic, raw.partition): raw.offset + 1 for raw in world.read(world.topics.snapshots_newsletters)}
    admin = admin_client(world.settings)
    gone = admin.delete_records([TopicPartition(t, p, offset) for (t, p), offset in tops.items()])
    for future in gone.values():
        future.result()
    third = world.start(WORKER, journal, NEWSWIRE_INSTANCE_ID="w", NEWSWIRE_SNAPSHOT_INTERVAL_S="600")
    until(lambda: equals_fold(world, third), what="the fold without snapshots")
    assert not any(world.shown("j", third, s)["slot"] for s in range(SHARDS))
    assert stop(third) == 0


def test_a_kill_between_produce_and_state_does_not_decide_again(world: World) -> None:
    """The first decision holds although the state had moved on before the process came back."""
    journal = str(world.folder / "j")
    world.send(*(world.slot_due(shard, "daily@1") for shard in range(SHARDS)))
    killed = world.start(WORKER, journal, NEWSWIRE_INSTANCE_ID="w", NEWSWIRE_FAILPOINTS="decide.after_produce=kill@3")
    assert killed.wait(90) == -signal.SIGKILL
    before = world.read(world.topics.decisions_bulk)
    assert len(before) == 3
    world.send(*(world.opened(n) for n in range(50)))
    again = world.start(WORKER, journal, NEWSWIRE_INSTANCE_ID="w")
    until(lambda: len(world.read(world.topics.decisions_bulk)) >= 2 * SHARDS, what="the rest of the decisions")
    until(lambda: equals_fold(world, again), what="the fold")
    assert stop(again) == 0
    copies = Counter((raw.partition, raw.key) for raw in world.read(world.topics.decisions_bulk))
    assert set(copies.values()) == {1}
    assert len(copies) == 2 * SHARDS
    after = {(raw.partition, raw.offset): raw.value for raw in world.read(world.topics.decisions_bulk)}
    assert all(after[raw.partition, raw.offset] == raw.value for raw in before)


def test_a_foreign_first_copy_ends_the_process_and_the_rebuilt_one_obeys_it(world: World) -> None:
    """A zombie's decision that came first is kept: the decider exits with 71 and does not decide that chunk again."""
    journal = str(world.folder / "j")
    process = world.start(WORKER, journal, NEWSWIRE_INSTANCE_ID="w")
    until(lambda: all(world.shown("j", process, s) for s in range(SHARDS)), what="the shards")
    world.send(world.decision(2, "daily@1", 0, population=777))
    assert process.wait(90) == 71
    assert b"holds a first copy that this process did not write" in (world.folder / f"{WORKER}.log").read_bytes()
    world.send(world.slot_due(2, "daily@1"))
    again = world.start(WORKER, journal, NEWSWIRE_INSTANCE_ID="w")
    until(lambda: len(world.journal("j")) == 2, what="both chunks")
    assert sorted((kind, chunk) for kind, _, _, _, chunk, *_ in world.journal("j")) == [("decided", "1"), ("known", "0")]
    assert stop(again) == 0


def test_a_later_foreign_copy_changes_nothing(world: World) -> None:
    """The first copy wins: what a zombie writes later neither ends the process nor reaches the state."""
    journal = str(world.folder / "j")
    world.send(world.slot_due(1, "daily@1"))
    process = world.start(WORKER, journal)
    until(lambda: len(world.journal("j")) == 2, what="both chunks")
    (late,) = world.send(world.decision(1, "daily@1", 0, population=777))
    world.send(world.slot_due(1, "daily@2"))
    until(lambda: len(world.journal("j")) == 4, what="the next source")

    def applied() -> int | None:
        return world.shown("j", process, 1).get("applied", {}).get(world.topics.decisions_bulk)

    until(lambda: applied() == late + 3, what="the state")
    assert world.shown("j", process, 1)["state"] == fold(world, 1)
    assert stop(process) == 0


def test_a_shard_moves_away_and_back_without_deciding_twice(world: World) -> None:
    """While a second worker comes and goes, each source is decided once and every state stays the fold."""
    journal = str(world.folder / "j")
    one = world.start(WORKER, journal)
    until(lambda: all(world.shown("j", one, s) for s in range(SHARDS)), what="the shards")
    two = world.start(WORKER, journal)
    rounds = 0

    def another_round() -> None:
        nonlocal rounds
        rounds += 1
        world.send(*(world.slot_due(shard, f"daily@{rounds}") for shard in range(SHARDS)), *(world.opened(n) for n in range(20)))
        until(
            lambda: sum(line[0] == "decided" for line in world.journal("j")) >= 2 * SHARDS * (rounds - 5), what="most decisions"
        )

    while not any(world.shown("j", two, s) for s in range(SHARDS)):
        another_round()
    for _ in range(10):
        another_round()
    assert stop(two) == 0
    for _ in range(10):
        another_round()
    until(lambda: sum(line[0] == "decided" for line in world.journal("j")) >= 2 * SHARDS * rounds, what="all decisions")
    until(lambda: equals_fold(world, one), what="the fold")
    assert one.poll() is None
    copies = Counter((raw.partition, raw.key) for raw in world.read(world.topics.decisions_bulk))
    assert len(copies) == 2 * SHARDS * rounds
    assert set(copies.values()) == {1}
