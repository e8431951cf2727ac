"""Newsletters: decides who gets which issue when a slot is due.

Consumes `audience.newsletters` (ContentAvailable and ContentWithdrawn as state, SlotDue to decide) and, as state, `subscribers`
and `engagements`; produces `decisions.bulk`. State: core.newsletter_state. Ordering key: the shard. Guarantee: the rules of
"Deciding"; the first decision of a slot in a chunk is the only one.
"""

from typing import Any

from core import newsletter_state, subscribers
from core.deciding import decide_newsletter
from core.newsletter_state import NewsletterState
from core.verdicts import Place
from runtime.settings import Settings
from runtime.shards import Shard, Shards
from runtime.stage import Stage
from schemas.records import Event
from streams.deciders import Decider

FORMAT = newsletter_state.FORMAT * 100 + subscribers.FORMAT
"""Version of a snapshot's packing."""

BATCH_EVENTS = 64
"""Events of the audience taken at once, so that the shards of one worker write side by side."""

BATCH_S = 0.005
"""Longest wait for them."""


class Newsletters:
    """The handlers of the stage."""

    def __init__(self, stage: Stage) -> None:
        topics = stage.topics
        shards: Shards[NewsletterState] = Shards(
            stage,
            make=lambda _: NewsletterState(),
            state_topics=[topics.subscribers, topics.engagements, topics.audience_newsletters],
            decisions_topic=topics.decisions_bulk,
            snapshot_topic=topics.snapshots_newsletters,
            format=FORMAT,
        )
        self._decider = Decider(stage, shards, topics.decisions_bulk)
        self._decider.follow(topics.subscribers)
        self._decider.follow(topics.engagements)
        stage.consume_batches(topics.audience_newsletters, self.handle, BATCH_EVENTS, BATCH_S)

    async def handle(self, events: list[Event]) -> None:
        """Fold content and decide slots, in the order of each shard's log."""
        await self._decider.by_shard(events, self._event)

    async def _event(self, shard: Shard[NewsletterState], event: Event) -> None:
        shard.absorb(event)
        if event.name == "SlotDue":
            slot = event.value

            def decide(place: Place, chunks: int) -> dict[str, Any]:
                return decide_newsletter(shard.state, slot | {"chunks": chunks}, place, event.time)

            await self._decider.decide_source(shard, event, slot["source_id"], slot["chunks"], decide)


def run(settings: Settings) -> int:
    """Run the process and return its exit code."""
    stage = Stage("newsletters", settings)
    Newsletters(stage)
    return stage.run()
