"""Fitted models on real Kafka: from engagement in the log to slots that name a model, refusals, and the way back."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from core.ids import newsletter_source_id
from core.model_parts import cut
from runtime.kafka import end_offsets
from schemas.records import Tombstone
from streams.training import Trainer
from tests.fix_stack import Stack
from tests.integration.streams_world import SHARDS, World, open_world, people
from tests.unit.deciding_samples import reader, topics

pytestmark = pytest.mark.stack

STAGES = ("approval", "audience", "newsletters")
READERS, ITEMS, READ = 80, 48, 8


@pytest.fixture(scope="module")
def world(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with open_world(stack, tmp_path_factory.mktemp("models")) as opened:
        opened.start(*STAGES)
        yield opened


@pytest.fixture(scope="module")
def readers(world: World) -> list[str]:
    """Two crowds of readers, each with publications of its own; the newest that each read are the last tenth."""
    rng, ids = np.random.default_rng(0), people(READERS)
    world.define("daily", max_age_h=1000, exploration=0.1)
    world.register(*(reader(who, topics=topics("physics")) for who in ids))
    found = [world.publish(title=f"Title {number}", topics=topics("physics")) for number in range(ITEMS)]
    world.settled("approval", "audience")
    began, records = datetime.now(UTC) - timedelta(days=2), []
    for number, who in enumerate(ids):
        for hour, place in enumerate(rng.permutation(np.arange(number % 2, ITEMS, 2))[:READ].tolist()):
            records.append(click(world, who, found[place], began + timedelta(hours=hour, seconds=number)))
    world.producer.send_sync(records)
    world.settled("newsletters")
    return ids


def click(world: World, who: str, publication_id: str, at: datetime):
    value = {"subscriber_id": who, "publication_id": publication_id, "delivery_id": None, "channel": None, "occurred_at": at}
    return world.codec.encode(
        world.topics.engagements, "ContentClicked", value | {"link": 0, "evidence": "click"}, key=who, time=datetime.now(UTC)
    )


def decided_with(world: World, minutes_ago: int) -> tuple[str, set[str | None]]:
    """Tick a slot and return the models that its decisions name."""
    now = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=minutes_ago)
    source_id = newsletter_source_id("daily", now)
    done = world.command("tick", "daily", "--slot", f"{now:%Y-%m-%dT%H:%MZ}")
    assert done.returncode == 0, done.stderr
    decisions = world.wait(lambda: found if len(found := world.decisions(source_id)) == 4 else None, "decisions")
    return source_id, {event.value["model_version"] for event in decisions}


def test_a_model_is_fitted_judged_used_refused_and_rolled_back(world: World, readers: list[str]) -> None:
    """The whole life of models, as an operator sees it."""
    assert decided_with(world, 50)[1] == {None}

    done = world.command("--json", "model", "fit")
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout.splitlines()[0])
    assert first["ndcg@10"] > first["before"]
    source_id, models = decided_with(world, 40)
    assert models == {first["model"]}
    decision = world.decisions(source_id)[0].value
    assert (decision["policy"], decision["candidate_set"].split("-")[0]) == ("blend-3", str(ITEMS))
    items = [item for entry in decision["chosen"] for item in entry["items"]]
    assert {item["propensity"] < 1 for item in items} == {True, False}
    assert any(name.startswith("read:Title") for name in decision["reasons"])
    dry = json.loads(world.command("newsletter", "dry-run", "daily").stdout)
    assert (dry["model"], dry["subscribers"]) == (first["model"], READERS)
    why = world.command("why", source_id, readers[0])
    assert "Because you read" in why.stdout, why.stderr

    again = world.command("model", "fit")
    assert again.returncode == 2
    assert "too little new engagement" in again.stderr

    now = datetime.now(UTC)
    for value in cut("99991231-broken", b"no model", {}, now):
        world.send(world.topics.models, "ModelPublished", value, key=f"99991231-broken/{value['part']}")
    refused = world.command("model", "activate", "99991231-broken")
    assert (refused.returncode, "cannot be used" in refused.stderr) == (2, True)
    value = {"model_version": "99991231-broken", "previous_version": first["model"], "activated_by": "x", "activated_at": now}
    world.send(world.topics.models, "ModelActivated", value, key="active")
    assert decided_with(world, 30)[1] == {first["model"]}, "an unusable model never gets into a slot"
    world.settled("audience")
    assert "99991231-broken cannot be used" in dead_letter(world)

    world.stop("audience")
    world.start("audience")
    assert decided_with(world, 20)[1] == {first["model"]}, "nor after a restart"

    listed = world.command("model", "list")
    assert first["model"] in listed.stdout
    assert "no packed state" in world.command("model", "show", "99991231-broken").stdout
    back = world.command("model", "rollback")
    assert back.returncode == 0, back.stderr
    assert json.loads(back.stdout) == {"model": first["model"], "replaces": "99991231-broken"}
    assert decided_with(world, 10)[1] == {first["model"]}


def test_before_the_first_model_there_is_none_and_one_can_be_fitted_again(world: World, readers: list[str]) -> None:
    """Rolling back goes on to ranking without a model; what the dropped one had seen is judged by again then."""
    back = world.command("model", "rollback")
    assert back.returncode == 0, back.stderr
    assert json.loads(back.stdout)["model"] is None
    assert decided_with(world, 9)[1] == {None}
    nothing = world.command("model", "rollback")
    assert (nothing.returncode, "nothing to go back from" in nothing.stderr) == (2, True)
    fitted = world.command("--json", "model", "fit")
    assert fitted.returncode == 0, fitted.stderr
    assert decided_with(world, 8)[1] == {json.loads(fitted.stdout.splitlines()[0])["model"]}


def test_the_log_gives_the_same_issues_byte_for_byte(world: World, readers: list[str]) -> None:
    """Every decision so far, without a model and with two, and of a decider that had started from a snapshot.

    In another process, with another hash seed and another local day.
    """
    bulk = world.topics.decisions_bulk

    def snapshot(event) -> bool:
        applied = {one["topic"]: one["next_offset"] for one in event.value["applied"]}
        ends = end_offsets(world.admin, [(bulk, event.partition)])
        return applied.get(bulk, 0) == ends[bulk, event.partition]

    def covered() -> bool:
        parts = [event for event in world.events(world.topics.snapshots_newsletters) if event.name == "ShardSnapshot"]
        return {event.partition for event in parts if snapshot(event)} == set(range(SHARDS))

    world.wait(covered, "a snapshot of each shard")
    world.stop("newsletters")
    world.start("newsletters")
    decided_with(world, 7)
    elsewhere = world.env | {"TZ": "Pacific/Apia", "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-m", "tests.integration.deciding_again"]
    done = subprocess.run(command, env=elsewhere, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [one["place"] for one in found if not one["equal"]] == []
    assert (len(found), len({one["model"] for one in found})) == (32, 3)


def test_versions_that_nothing_needs_are_dropped_and_a_slot_that_names_one_is_decided_without(
    world: World, readers: list[str]
) -> None:
    """By tombstones, which are no dead letters to anybody; what was decided with it says so."""
    old, now = [f"2020010{day}-000000" for day in range(1, 5)], datetime.now(UTC)
    for version in old:
        for value in cut(version, b"no model", {}, now):
            world.send(world.topics.models, "ModelPublished", value, key=f"{version}/{value['part']}")
    trainer = Trainer(world.settings)
    used = trainer.in_use()
    assert trainer.drop_superseded() == old[:3], "two before the one in use are kept"
    assert {used, old[3]} < set(trainer.models.read()[0])
    assert not set(old[:3]) & set(trainer.models.read()[0])
    world.stop("newsletters")
    world.settled("audience")
    before = dead_letter(world)
    minute = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=6)
    done = world.command("tick", "daily", "--slot", f"{minute:%Y-%m-%dT%H:%MZ}")
    assert done.returncode == 0, done.stderr
    world.settled("audience")
    world.producer.send_sync([Tombstone(world.topics.models, f"{used}/0".encode(), 0)])
    world.start("newsletters")
    source_id = newsletter_source_id("daily", minute)
    decisions = world.wait(lambda: found if len(found := world.decisions(source_id)) == 4 else None, "decisions")
    assert {event.value["model_version"] for event in decisions} == {None}
    assert "could not be used when this was decided" in world.command("why", source_id, readers[0]).stdout
    world.settled("audience")
    assert dead_letter(world) == before


def dead_letter(world: World) -> str:
    from runtime.kafka import end_offsets, read_range, start_offsets

    places = [(world.topics.dead_letters(world.topics.models), 0)]
    raws = read_range(world.settings, start_offsets(world.admin, places), end_offsets(world.admin, places))
    return " ".join(dict(raw.headers)["dlq.detail"].decode() for raw in raws)
