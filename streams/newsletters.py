"""Newsletters: decides who gets which issue when a slot is due.

Consumes `audience.newsletters` (ContentAvailable, ContentWithdrawn and ContentRead as state, SlotDue to decide) and, as state,
`subscribers` and `engagements`; reads the fitted model that a slot names from `models`; produces `decisions.bulk`, and
`readership` (streams/readership.py). State: core.newsletter_state. Ordering key: the shard. Guarantee: the rules of "Deciding";
the first decision of a slot in a chunk is the only one. A slot is decided with the model that it names and never with another
one; when that was dropped from the log since, or cannot be used, it is decided without a model, and the decision names none.
"""

import asyncio
from collections import OrderedDict
from typing import Any

from core.deciding import candidates_of, decide_newsletter
from core.errors import InputError
from core.newsletter_state import SNAPSHOT_FORMAT, NewsletterState
from core.space import Space, axes_of
from core.verdicts import Place
from runtime.models import ModelLog
from runtime.settings import Settings
from runtime.shards import Shard, Shards
from runtime.stage import Stage
from schemas.records import Event
from streams.deciders import Decider
from streams.readership import Counting

BATCH_EVENTS = 64
"""Events of the audience taken at once, so that the shards of one worker write side by side."""

BATCH_S = 0.005
"""Longest wait for them."""

MODELS = 2
"""Fitted models kept in memory: the one in use, and the one before, which slots of a catch-up may still name."""


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
            format=SNAPSHOT_FORMAT,
        )
        self._stage, self._models = stage, ModelLog(stage.settings, stage.codec, topics, stage.clock)
        self._spaces: OrderedDict[str | None, Space] = OrderedDict({None: Space()})
        self._loading, self._reducing = asyncio.Lock(), asyncio.Lock()
        self._decider = Decider(stage, shards, topics.decisions_bulk)
        self._decider.follow(topics.subscribers)
        self._decider.follow(topics.engagements)
        stage.consume_batches(topics.audience_newsletters, self.handle, BATCH_EVENTS, BATCH_S)
        Counting(stage, shards)

    async def handle(self, events: list[Event]) -> None:
        """Fold content and decide slots, in the order of each shard's log."""
        await self._decider.by_shard(events, self._event)

    async def _event(self, shard: Shard[NewsletterState], event: Event) -> None:
        shard.absorb(event)
        if event.name == "SlotDue":
            slot = event.value
            if not self._decider.undecided(shard, slot["source_id"], slot["chunks"]):
                return  # read again after a restart: its model may be gone, and is not needed
            space = await self._space(slot["model_version"])
            slot = slot | {"model_version": space.model.version if space.model is not None else None}
            await self._find_axes(shard.state, slot, space)

            def decide(place: Place, chunks: int) -> dict[str, Any]:
                return decide_newsletter(shard.state, slot | {"chunks": chunks}, place, event.time, space)

            await self._decider.decide_source(shard, event, slot["source_id"], slot["chunks"], decide)

    async def _find_axes(self, state: NewsletterState, slot: dict[str, Any], space: Space) -> None:
        """Let a thread find the axes of long vectors: seconds in the event loop are seconds without heartbeats.

        No content comes to this shard meanwhile, because its events are handled in order.
        """
        rules = slot["rules"]
        rankings = {rules["ranking"], *(variant["ranking"] for variant in rules["variants"])}
        if "blend" not in rankings or not space.may_take_long(state.content):
            return
        async with self._reducing:
            candidates = candidates_of(state, slot)
            vectors = space.long_vectors(state.content, candidates)
            if vectors is not None:
                space.take_axes(candidates, await asyncio.to_thread(axes_of, vectors))

    async def _space(self, version: str | None) -> Space:
        """Return the space of a fitted model, which is loaded when it is not in memory; that without a model when it is gone.

        All parts of a model are in the log before a slot names it, so one that is not there was dropped.
        """
        async with self._loading:
            if version not in self._spaces:
                assert version is not None
                try:
                    model = await asyncio.to_thread(self._models.load, version)
                except InputError as error:
                    self._stage.log.error("%s Slots that name it are decided without a model.", error)
                    self._spaces[version] = Space()
                else:
                    self._stage.log.info("model %s: %s items, vectors of %s", version, len(model.items), model.vector_model)
                    self._spaces[version] = Space(model)
                while len(self._spaces) > MODELS + 1:
                    del self._spaces[next(old for old in self._spaces if old is not None)]
            self._spaces.move_to_end(version)
            return self._spaces[version]


def run(settings: Settings) -> int:
    """Run the process and return its exit code."""
    stage = Stage("newsletters", settings)
    Newsletters(stage)
    return stage.run()
