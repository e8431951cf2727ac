"""Alerts: decides at once who gets an alert.

Consumes `audience.alerts` (AlertBatch) and, as state, `subscribers`; produces `decisions.urgent`. State: a shard's
subscribers and which alerts each was chosen for (core.alert_state). Ordering key: the shard. Guarantee: the rules of "Deciding";
the first decision of an alert in a chunk is the only one.
"""

from typing import Any

from core import alert_state, subscribers
from core.alert_state import AlertState
from core.deciding import decide_alert
from core.verdicts import Place
from runtime.settings import Settings
from runtime.shards import Shard, Shards
from runtime.stage import URGENT_FETCH_WAIT_MS, Stage
from schemas.records import Event
from streams.deciders import Decider

FORMAT = alert_state.FORMAT * 100 + subscribers.FORMAT
"""Version of a snapshot's packing."""

BATCH_EVENTS = 64
"""Batches of alerts taken at once, so that the shards of one worker decide side by side."""

BATCH_S = 0.002
"""Longest wait for them: the copies of one admission arrive within this time, and an alert's first send must not wait."""


class Alerts:
    """The handlers of the stage."""

    def __init__(self, stage: Stage) -> None:
        topics = stage.topics
        shards: Shards[AlertState] = Shards(
            stage,
            make=lambda _: AlertState(),
            state_topics=[topics.subscribers],
            decisions_topic=topics.decisions_urgent,
            snapshot_topic=topics.snapshots_alerts,
            format=FORMAT,
        )
        self._decider = Decider(stage, shards, topics.decisions_urgent)
        self._decider.follow(topics.subscribers)
        stage.consume_batches(topics.audience_alerts, self.handle, BATCH_EVENTS, BATCH_S)

    async def handle(self, events: list[Event]) -> None:
        """Decide the alerts of these batches."""
        await self._decider.by_shard(events, self._batch)

    async def _batch(self, shard: Shard[AlertState], event: Event) -> None:
        """Decide the alerts of one batch, most urgent first; updates and cancellations are the sinks' business."""
        for alert in event.value["alerts"]:
            if alert["action"] == "raised":

                def decide(place: Place, chunks: int, alert: dict[str, Any] = alert) -> dict[str, Any]:
                    return decide_alert(shard.state, alert | {"chunks": chunks}, place, event.time)

                await self._decider.decide_source(shard, event, alert["alert_id"], alert["chunks"], decide)


def run(settings: Settings) -> int:
    """Run the process and return its exit code."""
    stage = Stage("alerts", settings, fetch_wait_ms=URGENT_FETCH_WAIT_MS)
    Alerts(stage)
    return stage.run()
