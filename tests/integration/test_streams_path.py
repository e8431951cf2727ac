"""The stages on real Kafka: from a submission, an alert or a tick to deliveries, with each stage killed in between."""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from core.ids import newsletter_source_id
from core.subscribers import subscriber_key
from streams.ticker import tick_record
from tests.fix_stack import Stack
from tests.integration.streams_world import SHARDS, STAGES, World, open_world, people, shard_of
from tests.unit.deciding_samples import preferred, reader, topics, unsubscribed

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def world(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with open_world(stack, tmp_path_factory.mktemp("streams")) as opened:
        opened.start(*STAGES)
        yield opened


@pytest.fixture(autouse=True)
def _all_running(world: World) -> None:
    world.ensure(*STAGES)


def slot_now() -> datetime:
    """A minute that is no quarter hour, so that the clock has no slot there."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    return now - timedelta(minutes=1) if now.minute % 15 == 0 else now


def newsletter_of(world: World, count: int, **more) -> tuple[str, list[str]]:
    """A new newsletter with its own subscribers and three approved publications on a topic of their own."""
    name = f"n-{uuid.uuid4().hex[:8]}"
    ids = people(count)
    world.define(name, content_types=[name])
    world.register(*(reader(who, newsletters=[name], alerts=False, topics=topics(name), **more) for who in ids))
    for _ in range(3):
        world.publish(content_type=name, topics=topics(name))
    world.settled("approval", "audience", "newsletters")
    return name, ids


def tick(world: World, name: str, slot: datetime | None = None) -> str:
    slot = slot or slot_now()
    done = world.command("tick", name, "--slot", f"{slot:%Y-%m-%dT%H:%MZ}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["taken_before"] is False
    return newsletter_source_id(name, slot)


def accounted(world: World, source_id: str) -> tuple[int, int, int, int]:
    first = {}
    for event in world.decisions(source_id):
        first.setdefault((event.partition, event.value["chunk"]), event.value)
    values = list(first.values())
    return (
        sum(value["population"] for value in values),
        sum(len(value["chosen"]) for value in values),
        sum(len(value["gated"]) for value in values),
        sum(value["not_concerned"] for value in values),
    )


def test_a_publication_becomes_a_newsletter(world):
    """Submitted, scored, approved, copied, decided, expanded; the same tick again changes nothing."""
    name, ids = newsletter_of(world, 12)
    source_id = tick(world, name)
    world.wait(lambda: world.expanded(source_id), "deliveries")
    found = world.deliveries(source_id)
    assert sorted(event.value["subscriber_id"] for event in found) == sorted(ids)
    assert all(len(event.value["items"]) == 3 for event in found)
    population, chosen, gated, rest = accounted(world, source_id)
    assert (chosen, population) == (12, chosen + gated + rest)
    again = world.command("tick", name, "--slot", source_id.split("@")[1])
    assert json.loads(again.stdout)["taken_before"] is True
    world.settled("audience", "newsletters", "fanout-bulk")
    assert len(world.deliveries(source_id)) == 12
    assert len(world.decisions(source_id)) == 4


def test_an_alert_reaches_the_matching_subscribers(world):
    """Raised, admitted, decided, expanded."""
    topic, ids = f"t-{uuid.uuid4().hex[:8]}", people(6)
    world.register(*(reader(who, newsletters=[], topics=topics(topic)) for who in ids))
    world.settled("alerts")
    alert_id = world.raise_alert(topics=topics(topic))
    world.wait(lambda: world.expanded(alert_id), "deliveries")
    assert sorted(event.value["subscriber_id"] for event in world.deliveries(alert_id)) == sorted(ids)
    mine = lambda: [raw for raw in raws_of(world, world.topics.dead_letters(world.topics.alerts)) if raw.key == alert_id.encode()]  # noqa: E731
    world.raise_alert(alert_id, topics=topics(topic), raised_at=datetime(2026, 1, 1, tzinfo=UTC))
    world.settled("audience")
    assert not mine(), "the same alert, said again later"
    world.raise_alert(alert_id, topics=topics(topic), title="Another")
    world.settled("audience")
    assert [dict(raw.headers)["dlq.detail"].startswith(b"AlertRaised.title") for raw in mine()] == [True]
    assert len(world.decisions(alert_id)) == 2


def raws_of(world: World, topic: str) -> list:
    from runtime.kafka import end_offsets, read_range, start_offsets

    places = [(topic, partition) for partition in range(world.topics.spec(topic).partitions)]
    return list(read_range(world.settings, start_offsets(world.admin, places), end_offsets(world.admin, places)))


def test_quality_decides_what_is_approved_and_raised(world):
    """Above 0.8 approved, above 0.9 with alert=true also raised; else rejected. A duplicate is scored once."""
    low = world.publish(attributes={"quality": "0.8"})
    middle = world.publish(attributes={"quality": "0.85", "alert": "true"})
    high = world.publish(attributes={"quality": "0.91", "alert": "true"})
    world.publish(high, attributes={"quality": "0.91", "alert": "true"})
    world.publish(high, title="Other", attributes={"quality": "0.91", "alert": "true"})
    world.settled("approval", "audience")
    names: dict[str, list[str]] = {}
    for event in world.events(world.topics.publications):
        names.setdefault(event.key, []).append(event.name.removeprefix("Publication"))
    assert names[low] == ["Submitted", "Scored", "Rejected"]
    assert names[middle] == ["Submitted", "Scored", "Approved"]
    assert sorted(names[high]) == ["Approved", "Scored", "Submitted", "Submitted", "Submitted"]
    assert [event.value["publication_id"] for event in world.events(world.topics.alerts)].count(high) == 1
    assert middle not in [event.value["publication_id"] for event in world.events(world.topics.alerts)]
    assert world.scoring.asked.count(high) == 1
    refused = [dict(raw.headers) for raw in raws_of(world, world.topics.dead_letters(world.topics.publications))]
    assert any(b"title" in headers["dlq.detail"] for headers in refused)


def test_a_revision_says_when_the_first_one_was_approved(world):
    """To every shard, so that none takes an old publication for a new one."""
    one = world.publish()
    world.settled("approval")
    world.publish(one, revision=2, title="Second")
    world.settled("approval", "audience")
    approved = [event.value for event in world.events(world.topics.publications) if event.name == "PublicationApproved"]
    first, second = (value for value in approved if value["publication_id"] == one)
    assert (first["first_approved_at"], second["first_approved_at"]) == (None, first["approved_at"])
    copies = [event.value for event in world.events(world.topics.audience_newsletters) if event.name == "ContentAvailable"]
    told = [value["first_approved_at"] for value in copies if (value["publication_id"], value["revision"]) == (one, 2)]
    assert told == [first["approved_at"]] * SHARDS


def test_nothing_is_approved_while_the_scorer_is_down(world):
    """The partition waits; the score of the same content is used when there is one."""
    known = world.publish(title="Known title")
    world.settled("approval")
    world.scoring.status = 503
    try:
        copy = str(uuid.uuid4())
        world.publish(copy, title="Known title")
        unknown = world.publish(title="Never scored")
        world.wait(lambda: "scoring service" in world.log("approval"), "the scorer to be missed")
        done = {event.key for event in world.events(world.topics.publications) if event.name == "PublicationApproved"}
        assert unknown not in done
    finally:
        world.scoring.status = 200
    world.settled("approval")
    scored = {event.key: event.value for event in world.events(world.topics.publications) if event.name == "PublicationScored"}
    assert unknown in scored
    assert scored[copy]["quality"] == scored[known]["quality"]


@pytest.mark.parametrize("point", ["decide.before_produce=kill@3", "decide.after_produce=kill@2", "decide.after_state=kill@2"])
def test_rule_1_and_2_a_decision_written_before_a_kill_is_the_decision(world, point):
    """The decider dies around its second write, preferences change, and it comes back: nothing lost, the first copy holds."""
    name, ids = newsletter_of(world, 16)
    world.stop("newsletters")
    world.start("newsletters", failpoints=point)
    source_id = tick(world, name)
    assert world.died("newsletters") == -9
    before = {(e.partition, e.value["chunk"]): e.offset for e in reversed(world.decisions(source_id))}
    assert 1 <= len(before) < 4
    world.register(*([preferred(who, newsletters=[])] for who in ids))
    world.start("newsletters")
    world.wait(lambda: world.expanded(source_id), "deliveries")
    decisions = world.decisions(source_id)
    first = {(e.partition, e.value["chunk"]): e for e in reversed(decisions)}
    assert all(first[key].offset == offset for key, offset in before.items())
    assert len(decisions) == 4, "a chunk that was decided is not decided again"
    decided = [entry["subscriber"] for event in first.values() for entry in event.value["chosen"]]
    assert sorted(decided) == sorted(subscriber_key(e.value["subscriber_id"]) for e in world.deliveries(source_id))
    population, chosen, gated, rest = accounted(world, source_id)
    assert population == chosen + gated + rest
    assert chosen == sum(len(first[key].value["chosen"]) for key in before)


def test_rule_2_a_first_copy_that_is_not_ours_ends_the_process(world):
    """A zombie writes a decision: the owner exits, is rebuilt, and the zombie's copy is the one that counts."""
    name, _ids = newsletter_of(world, 4)
    template = world.decisions(tick_and_wait(world, name))[0]
    slot = slot_now() - timedelta(minutes=30)
    source_id = newsletter_source_id(name, slot)
    value = dict(template.value, source_id=source_id, chosen=[], gated=[], not_concerned=template.value["population"])
    world.send(
        world.topics.decisions_bulk, "AudienceDecided", value, key=f"{source_id}/{value['chunk']}", partition=template.partition
    )
    assert world.died("newsletters") == 71
    world.start("newsletters")
    tick(world, name, slot)
    world.wait(lambda: world.expanded(source_id), "the other chunks")
    copies = [e for e in world.decisions(source_id) if (e.partition, e.value["chunk"]) == (template.partition, value["chunk"])]
    assert len(copies) == 1


def tick_and_wait(world: World, name: str) -> str:
    source_id = tick(world, name)
    world.wait(lambda: world.expanded(source_id), "deliveries")
    world.settled("newsletters", "fanout-bulk")
    return source_id


def test_rule_3_fanout_drops_a_later_copy(world):
    """The same chunk again with somebody else in it, or with more time: nothing comes of it, also after a restart."""
    name, _ids = newsletter_of(world, 4)
    source_id = tick_and_wait(world, name)
    before = world.deliveries(source_id)
    world.stop("newsletters")
    event = next(e for e in world.decisions(source_id) if e.value["chosen"])
    world.stop("fanout-bulk")
    other = next(who for who in iter(lambda: people(1)[0], None) if shard_of(who) == event.partition)
    entry = dict(event.value["chosen"][0], subscriber=subscriber_key(other))
    value = dict(event.value, chosen=[entry])
    world.send(world.topics.decisions_bulk, "AudienceDecided", value, key=event.key, partition=event.partition)
    refused = f"{name}@2026-01-01T09:00Z"
    old = dict(event.value, source_id=refused, not_after=datetime.now(UTC) - timedelta(minutes=1))
    for copy in (old, old | {"not_after": datetime.now(UTC) + timedelta(hours=1)}):
        world.send(world.topics.decisions_bulk, "AudienceDecided", copy, key=f"{refused}/0", partition=event.partition)
    world.start("fanout-bulk", "newsletters")
    world.settled("fanout-bulk")
    assert len(world.deliveries(source_id)) == len(before)
    assert world.deliveries(refused) == [], "the first copy was refused, so nothing comes of a later one"


FANOUT_POINTS = [f"fanout.{name}" for name in ("after_first_copy", "before_produce", "after_produce", "after_mark")]


@pytest.mark.parametrize("point", FANOUT_POINTS)
def test_rule_5_fanout_killed_in_the_middle_gives_the_same_bytes(world, point):
    """Nothing is lost, and what is produced again is byte for byte the same."""
    name, ids = newsletter_of(world, 10)
    world.stop("fanout-bulk")
    world.start("fanout-bulk", failpoints=f"{point}=kill")
    source_id = tick(world, name)
    assert world.died("fanout-bulk") == -9
    world.start("fanout-bulk")
    world.wait(lambda: world.expanded(source_id), "deliveries")
    world.settled("fanout-bulk")
    found: dict[str, set] = {}
    for raw in raws_of(world, world.topics.deliveries("email", "bulk")):
        event = world.codec.decode(raw)
        if event.value["source_id"] == source_id:
            found.setdefault(event.value["subscriber_id"], set()).add((raw.value, raw.headers))
    assert sorted(found) == sorted(ids)
    assert all(len(copies) == 1 for copies in found.values())


def test_rule_6_fanout_refuses_what_is_past_not_after(world):
    """An old slot is decided, gated as expired; a decision that has become old is not expanded."""
    name, _ids = newsletter_of(world, 4)
    source_id = tick_and_wait(world, name)
    event = next(e for e in world.decisions(source_id) if e.value["chosen"])
    world.stop("newsletters")
    value = dict(event.value, source_id="old@2026-01-01T09:00Z", not_after=datetime.now(UTC) - timedelta(minutes=1))
    world.send(world.topics.decisions_bulk, "AudienceDecided", value, key="old@2026-01-01T09:00Z/0", partition=event.partition)
    world.start("newsletters")
    world.settled("fanout-bulk")
    assert world.deliveries("old@2026-01-01T09:00Z") == []
    assert "past not_after" in world.log("fanout-bulk")


def test_an_unsubscribe_is_seen_by_the_next_decision(world):
    """State is folded as it comes."""
    name, ids = newsletter_of(world, 3)
    world.register([unsubscribed(ids[0])])
    world.settled("newsletters")
    source_id = tick_and_wait(world, name)
    assert sorted(e.value["subscriber_id"] for e in world.deliveries(source_id)) == sorted(ids[1:])


def test_equal_readers_of_different_shards_get_the_same_issue(world):
    """What others read counts, whichever shard they are in, and is in each shard's log; a restart says the same again."""
    name, _ = newsletter_of(world, 0)
    found = (event for event in world.events(world.topics.publications) if event.value.get("content_type") == name)
    much_read = max(event.key for event in found)  # the last one by name, when all else is equal
    readers, others = ([who for who in people(50) if shard_of(who) == shard] for shard in range(SHARDS))
    ids = [readers[0], others[0]]
    world.register(*(reader(who, newsletters=[name], alerts=False, topics=topics(name)) for who in ids))
    click = {"publication_id": much_read, "delivery_id": None, "channel": "email", "evidence": "click", "link": 0}
    for who in others[1:6]:
        value = click | {"subscriber_id": who, "occurred_at": datetime.now(UTC)}
        world.send(world.topics.engagements, "ContentClicked", value, key=who)

    def counts(topic: str, shard: int) -> list[float]:
        listed = [event.value.get("counts", []) for event in world.events(topic) if event.partition == shard]
        return [count["reads"] for part in listed for count in part if count["publication_id"] == much_read]

    world.wait(lambda: max(counts(world.topics.readership, 1), default=0) > 9, "the readers' shard to count them")
    source_id = tick_and_wait(world, name)
    issues = {event.value["subscriber_id"]: event.value["items"] for event in world.deliveries(source_id)}
    assert issues[ids[0]] == issues[ids[1]]
    assert issues[ids[0]][0]["publication_id"] == much_read
    (said,) = counts(world.topics.audience_newsletters, 0)
    assert [said] == counts(world.topics.audience_newsletters, 1) == counts(world.topics.readership, 1)[-1:]

    def afresh() -> int:
        return sum(event.value.get("replaces", False) for event in world.events(world.topics.audience_newsletters))

    decided = world.decisions(source_id)
    replaced = afresh()
    world.stop("audience", "newsletters")
    world.start("audience", "newsletters")
    again = tick(world, name, slot_now() - timedelta(minutes=30))
    world.wait(lambda: world.expanded(again), "the next slot")
    assert [counts(world.topics.audience_newsletters, shard) for shard in range(SHARDS)] == [[said, said], [said, said]]
    assert afresh() == replaced + SHARDS
    assert world.decisions(source_id) == decided


def test_a_partition_moves_away_and_back_across_an_unsubscribe(world):
    """A second worker takes a shard and goes again: whoever decides, decides with the newest state, once."""
    name, ids = newsletter_of(world, 8)
    world.start("newsletters#2")
    world.wait(lambda: "loaded" in world.log("newsletters#2"), "the second worker to own a shard")
    world.register(*([unsubscribed(who)] for who in ids[:4]))
    world.settled("newsletters")
    world.stop("newsletters#2")
    source_id = tick_and_wait(world, name)
    assert sorted(e.value["subscriber_id"] for e in world.deliveries(source_id)) == sorted(ids[4:])
    assert len(world.decisions(source_id)) == 4


def test_why_explains_from_the_log(world):
    """Chosen, and not concerned with the rule that it was."""
    name, ids = newsletter_of(world, 2)
    stranger = people(1)[0]
    world.register(reader(stranger, newsletters=[]))
    world.settled("newsletters")
    source_id = tick_and_wait(world, name)
    answer = world.command("why", source_id, ids[0])
    assert '"verdict":"chosen"' in answer.stdout, answer.stderr
    assert "not subscribed" in world.command("why", source_id, stranger).stdout
    assert world.command("why", "nothing@2026-11-22T09:00Z", stranger).returncode == 2
    unknown = world.command("why", source_id, people(1)[0])
    assert (unknown.returncode, "nobody was ever registered" in unknown.stderr) == (2, True)


def test_a_broken_subscriber_event_goes_to_the_dead_letters(world):
    """Refused by the stream when it comes by Kafka, with the field named."""
    who = people(1)[0]
    world.register([preferred(who, time_zone="Mars/Olympus")])
    world.settled("approval")
    details = [dict(raw.headers)["dlq.detail"] for raw in raws_of(world, world.topics.dead_letters(world.topics.subscribers))]
    assert any(b"time_zone" in detail for detail in details)


def test_an_alert_is_updated_and_cancelled_only_when_it_was_raised(world):
    """Both are copied to every shard and decide nothing; for an unknown alert they are refused."""
    alert_id, unknown, now = world.raise_alert(), str(uuid.uuid4()), datetime.now(UTC)
    for one in (alert_id, unknown):
        value = {"alert_id": one, "title": "New", "body": "", "url": None, "updated_at": now}
        world.send(world.topics.alerts, "AlertUpdated", value, key=one)
        world.send(world.topics.alerts, "AlertCancelled", {"alert_id": one, "reason": "over", "cancelled_at": now}, key=one)
    world.settled("audience", "alerts")
    batches = world.events(world.topics.audience_alerts)
    actions = [
        (item["action"], event.partition) for event in batches for item in event.value["alerts"] if item["alert_id"] == alert_id
    ]
    assert sorted(actions) == [(action, shard) for action in ("cancelled", "raised", "updated") for shard in (0, 1)]
    assert not [item for event in batches for item in event.value["alerts"] if item["alert_id"] == unknown]
    assert len(world.decisions(alert_id)) == 2
    assert world.decisions(unknown) == []


def test_the_ticker_ticks_each_minute_once(world):
    """Two tickers, the one that ticks is killed, and the log has neither gap nor repeat."""
    topic, last = world.topics.ticks, datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=5)
    world.producer.send_sync([tick_record(world.codec, topic, last, last)])
    world.start("ticker", failpoints="ticker.after_produce=kill@3")
    assert world.died("ticker") == -9
    world.start("ticker", "ticker#2")
    now = datetime.now(UTC).replace(second=0, microsecond=0)

    def ticked() -> list[datetime]:
        return [event.value["minute"] for event in world.events(topic) if event.value["newsletter_id"] is None]

    world.wait(lambda: ticked()[-1] >= now, "the current minute")
    minutes = ticked()
    assert minutes == [last + timedelta(minutes=number) for number in range(len(minutes))]
    world.stop("ticker", "ticker#2")
