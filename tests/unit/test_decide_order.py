"""Rule 1 of "Deciding": write the decision, see its report, change the state, and only then let the event be acknowledged."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from core.alert_state import AlertState
from core.deciding import decide_alert
from core.errors import Unavailable
from runtime.clock import SystemClock
from runtime.shards import Shard
from schemas.codec import Codec
from schemas.partition import partition_for
from schemas.records import Event, Record
from schemas.sources import FileSource
from schemas.topics import Topics
from streams.deciders import Decider
from tests.unit.deciding_samples import NOW, alert, fold, linked, person, reader, verified

TOPICS = Topics()
SEALED = b"\x01" + bytes(60)
ALERT = alert(chunks=2)


@dataclass
class FakeProducer:
    """Kafka that acknowledges when it is told to."""

    sent: list[Record] = field(default_factory=list)
    acknowledged: asyncio.Event = field(default_factory=asyncio.Event)
    fails: bool = False

    async def send(self, records: Sequence[Record]) -> list[int]:
        self.sent += records
        await self.acknowledged.wait()
        if self.fails:
            raise Unavailable("not acknowledged")
        return [len(self.sent) - 1]


class FakeStage:
    """What a shard and a decider use of a stage."""

    def __init__(self) -> None:
        self.name, self.topics, self.clock = "alerts", TOPICS, SystemClock()
        self.codec, self.producer = Codec(TOPICS, FileSource(TOPICS)), FakeProducer()


class OneShard:
    """The shards of a process that owns shard 0."""

    def __init__(self, shard: Shard[Any]) -> None:
        self.shard = shard

    async def get(self, partition: int) -> Shard[Any]:
        return self.shard


def prepared() -> tuple[FakeStage, Shard[Any], Any]:
    stage: Any = FakeStage()
    here = [number for number in range(100) if partition_for(person(number).encode(), TOPICS.shards) == 0]
    people = [[*reader(person(n)), linked(person(n), "email", SEALED), verified(person(n))] for n in here]
    shard: Shard[Any] = Shard(stage, TOPICS.decisions_urgent, 0, fold(AlertState(), people))
    decider = Decider(stage, OneShard(shard), TOPICS.decisions_urgent)  # type: ignore[arg-type]
    event = Event("AlertBatch", {"alerts": [ALERT]}, "0", "id", "s", NOW, TOPICS.audience_alerts, 0, 3, None, None, None)

    async def work(owned: Shard[Any], batch: Event) -> None:
        def decide(place: Any, chunks: int) -> dict[str, Any]:
            return decide_alert(owned.state, ALERT | {"chunks": chunks}, place, batch.time)

        await decider.decide_source(owned, batch, ALERT["alert_id"], ALERT["chunks"], decide)

    return stage, shard, decider.by_shard([event], work)


async def test_rule_1_the_state_changes_only_after_the_report():
    """Until Kafka has the decision nothing is changed, the next chunk is not decided, and the handler has not returned."""
    stage, shard, handling = prepared()
    before = shard.state.dump()
    task = asyncio.ensure_future(handling)
    while not stage.producer.sent:
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert shard.state.dump() == before
    assert not shard.is_decided(ALERT["alert_id"], 0)
    assert len(stage.producer.sent) == 1
    assert not task.done()
    stage.producer.acknowledged.set()
    await task
    assert len(stage.producer.sent) == 2
    assert (ALERT["alert_id"], 0) in shard.state.decided
    assert shard.state.sent[ALERT["alert_id"]].rows.any()


async def test_rule_1_without_a_report_nothing_changes_and_the_event_comes_again():
    """The handler raises, so that the event is not acknowledged."""
    stage, shard, handling = prepared()
    before = shard.state.dump()
    stage.producer.fails = True
    stage.producer.acknowledged.set()
    with pytest.raises(Unavailable):
        await handling
    assert shard.state.dump() == before
    assert not shard.is_decided(ALERT["alert_id"], 0)


async def test_rule_2_what_is_decided_is_not_decided_again():
    """Chunks that the log holds are left out, whatever the offsets of the event."""
    stage, shard, handling = prepared()
    shard.decided[ALERT["alert_id"], 0] = 0
    stage.producer.acknowledged.set()
    await handling
    assert [record.key for record in stage.producer.sent] == [f"{ALERT['alert_id']}/1".encode()]
