"""Campaigns on the real stages: what a dry run counts is what is then decided, and a test send takes the whole way to fan-out."""

import json
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from core.ids import is_test, newsletter_source_id
from core.subscribers import subscriber_key
from tests.fix_stack import Stack
from tests.integration.streams_world import STAGES, World, open_world, people, shard_of
from tests.integration.test_streams_path import slot_now
from tests.unit.deciding_samples import preferred, reader, topics, unsubscribed

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def world(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with open_world(stack, tmp_path_factory.mktemp("campaigns")) as opened:
        opened.start(*STAGES)
        yield opened


def asked(world: World, *words: str) -> dict:
    """The answer of a command."""
    done = world.command(*words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def newsletters_of(world: World) -> tuple[str, str, list[str]]:
    """Two newsletters over the same eight subscribers and two kinds of publications, with different filters."""
    first, second = (f"n-{uuid.uuid4().hex[:8]}" for _ in range(2))
    ids = people(8)
    world.define(first, content_types=[first], audience_topics=[first], template="newsletter")
    world.define(second, content_types=[first, second], audience_languages=["de"])
    both = {"newsletters": [first, second], "alerts": False}
    world.register(*(reader(who, topics=topics(first), **both) for who in ids[:5]))
    world.register(*(reader(who, topics=topics(second), language="de", **both) for who in ids[5:]))
    for kind in (first, first, second):
        world.publish(content_type=kind, topics=topics(kind))
    world.settled("approval", "audience", "newsletters")
    return first, second, ids


def test_a_dry_run_says_what_is_then_decided(world: World) -> None:
    """Two newsletters with filters of their own: counts by channel and language, reasons, the most chosen; nothing is written."""
    first, second, ids = newsletters_of(world)
    world.register([preferred(ids[0], paused_until=slot_now().replace(year=2099))])
    world.settled("newsletters")
    ends = {topic: len(world.events(topic)) for topic in (world.topics.decisions_bulk, world.topics.audience_newsletters)}
    run = asked(world, "newsletter", "dry-run", first)
    other = asked(world, "newsletter", "dry-run", second)
    assert {topic: len(world.events(topic)) for topic in ends} == ends
    assert [(one["channel"], one["language"], one["issues"], one["items"]) for one in run["issues"]] == [("email", "en", 4, 8)]
    assert {one["reason"]: one["subscribers"] for one in run["others"]}["paused"] == 1
    assert {one["reason"]: one["subscribers"] for one in run["others"]}["topics"] == 3
    assert [one["issues"] for one in run["publications"]] == [4, 4]
    assert all(one["title"].startswith("Title") for one in run["publications"])
    assert [(one["language"], one["issues"], one["items"]) for one in other["issues"]] == [("de", 3, 6)]
    for newsletter_id, found in ((first, run), (second, other)):
        slot = slot_now()
        source_id = newsletter_source_id(newsletter_id, slot)
        asked(world, "tick", newsletter_id, "--slot", f"{slot:%Y-%m-%dT%H:%MZ}")
        world.wait(lambda source_id=source_id: world.expanded(source_id), "deliveries")
        values = [event.value for event in world.decisions(source_id)]
        assert sum(value["population"] for value in values) == found["subscribers"]
        assert sum(len(value["chosen"]) for value in values) == found["would_get_it"]
        assert sum(len(value["gated"]) for value in values) == found["would_be_stopped"]
    tomorrow = f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%d}"
    by_the_clock = asked(world, "newsletter", "dry-run", first, "--slot", f"{tomorrow}T03:00Z")
    assert by_the_clock["would_get_it"] == 0
    between = world.command("newsletter", "dry-run", first, "--slot", f"{tomorrow}T03:07Z")
    assert (between.returncode, "whole quarter hours" in between.stderr) == (2, True)


def test_a_test_send_reaches_one_person_and_leaves_the_real_issue_to_come(world: World) -> None:
    """Decided in one chunk of one shard, complete by itself; the slot afterwards has the same items for the same person."""
    first, _, ids = newsletters_of(world)
    foreseen = asked(world, "preview", first, "--subscriber", ids[1])
    assert (foreseen["shows"], foreseen["channel"]) == ("what the ranking would give them now", "email")
    sent = asked(world, "newsletter", "test-send", first, "--to", ids[6])
    source_id = sent["source_id"]
    assert is_test(source_id)
    (delivery,) = world.wait(lambda: world.deliveries(source_id), "the test")
    (decision,) = world.decisions(source_id)
    assert (delivery.value["subscriber_id"], decision.partition) == (ids[6], shard_of(ids[6]))
    assert (decision.value["shards"], decision.value["chunks"], decision.value["population"]) == (1, 1, 1)
    why = asked(world, "why", source_id, ids[6])
    assert (why["verdict"], why["channels"]) == ("chosen", ["email"])
    test = asked(world, "newsletter", "test-send", first, "--to", ids[1])["source_id"]
    (tested,) = world.wait(lambda: world.deliveries(test), "the other test")
    slot = slot_now()
    asked(world, "tick", first, "--slot", f"{slot:%Y-%m-%dT%H:%MZ}")
    real = newsletter_source_id(first, slot)
    world.wait(lambda: world.expanded(real), "the real issue")
    mine = [event.value for event in world.deliveries(real) if event.value["subscriber_id"] == ids[1]]
    assert [item["publication_id"] for item in mine[0]["items"]] == [
        item["publication_id"] for item in tested.value["items"]
    ]  # fmt: skip
    assert mine[0]["delivery_id"] != tested.value["delivery_id"]
    given = asked(world, "preview", first, "--subscriber", ids[1])
    assert given["shows"].startswith("the issue of ")
    assert given["shows"].endswith(" that they were given")
    assert [line for line in given["text"].splitlines() if line.startswith("Title")] == [
        line for line in foreseen["text"].splitlines() if line.startswith("Title")
    ]
    why = asked(world, "why", first, ids[1])
    assert (why["source_id"], why["verdict"]) == (real, "chosen")
    unknown = world.command("why", "nothing", ids[1])
    assert (unknown.returncode, "no slot of 'nothing'" in unknown.stderr) == (2, True)


def test_no_test_is_sent_to_whom_nothing_may_be_sent(world: World) -> None:
    """Unknown, never subscribed, or unsubscribed: refused with what to do, and nothing is written."""
    first, _, ids = newsletters_of(world)
    world.register([unsubscribed(ids[0], kind="newsletter", newsletter_id=first)])
    before = Counter(event.name for event in world.events(world.topics.ticks))
    for who, why in ((ids[0], "unsubscribed"), (people(1)[0], "no registered subscriber"), ("ada", "no subscriber_id")):
        refused = world.command("newsletter", "test-send", first, "--to", who)
        assert (refused.returncode, why in refused.stderr) == (2, True), refused.stderr
    unknown = world.command("newsletter", "dry-run", "nothing")
    assert (unknown.returncode, "no newsletter 'nothing'" in unknown.stderr) == (2, True)
    assert Counter(event.name for event in world.events(world.topics.ticks)) == before
    decided = [event.value for event in world.events(world.topics.decisions_bulk) if event.value["newsletter_id"] == first]
    assert subscriber_key(ids[0]) not in {entry["subscriber"] for value in decided for entry in value["chosen"]}
