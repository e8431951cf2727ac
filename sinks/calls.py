"""Before and during the call: compose, render, look at consent a last time, call the provider once.

Consumes claimed deliveries in order; gives an outcome for each to the settlement. Ordering: calls start in the order in
which deliveries come, per subscriber (all are of one lane). Guarantees: no call begins while consent is more than
`consent_lag_s` behind its logs, for somebody whom it bars, after not_after, or on a lease that could end before the call.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from core.flow.retries import SCHEDULES, SHORT_ASK_S, short_wait_s
from core.outcomes import Dead, Outcome, Refusal, Retry, Skipped
from core.redacting import shown
from core.rendering.model import Issue
from runtime import metrics
from runtime.clock import Clock
from runtime.failpoints import hit_async
from runtime.settings import Settings
from sinks.buttons import publications_of
from sinks.compose import Composer
from sinks.delivery import Delivery
from sinks.endpoints import Endpoints
from sinks.flight import Flight
from sinks.flow import Flow
from sinks.knowledge import Knowledge
from sinks.last_look import Look
from sinks.ledger import Ledger
from sinks.provider import Message, Prepared, Provider, allowed
from sinks.settle import RELEASED, Settlement, gather, persist

COMPOSE_BATCH: Final = 200
"""Most deliveries composed at once."""
LEASE_MARGIN_S: Final = 0.5
"""What must be left of a lease beyond the longest call; else it is renewed first."""
LOOK_AGAIN_S: Final = 1.0
"""How often what waits for breaker or rate is looked at: a recall, a stop or its expiry ends the waiting, and is recorded."""
LOOK_HOLDS_S: Final = 0.05
"""A request that is written so soon after the look at consent needs no second one: nearly all of them."""
LEASES_AT_ONCE: Final = 500
"""Most leases of waiting deliveries that one statement renews."""
_WAIT_S: Final = 0.02

log = logging.getLogger(__name__)


class Calls:
    """The calling half of one sink process."""

    def __init__(
        self, settings: Settings, provider: Provider, composer: Composer, knowledge: Knowledge, ledger: Ledger,
        settlement: Settlement, flight: Flight, flow: Flow, clock: Clock, spawn: Callable[[Any], None], *, lane: str,
        endpoints: Endpoints | None = None,
    ) -> None:  # fmt: skip
        self._settings, self._provider, self._composer, self._knowledge = settings, provider, composer, knowledge
        self._ledger, self._settlement, self._flight, self._clock, self._spawn = ledger, settlement, flight, clock, spawn
        self._flow, self._schedule, self._endpoints = flow, SCHEDULES[provider.channel, lane], endpoints
        self._claimed: asyncio.Queue[Delivery] = asyncio.Queue()
        self._groups: asyncio.Queue[list[Prepared]] = asyncio.Queue(maxsize=2 * provider.calls)
        self._passed_over: deque[list[Prepared]] = deque()  # groups that were looked through while another one waited
        self._look_behind_at_s = 0.0
        self._slots = asyncio.Semaphore(provider.calls)
        self._call_seconds = metrics.STEP_SECONDS.labels(provider.channel, "call")

    def name_templates(self, deliveries: Sequence[Delivery]) -> None:
        """Note with which template each will be made, before its claim: a notice may come before the outcome is written."""
        for delivery in deliveries:
            delivery.template = self._composer.template_id(delivery)

    def claimed(self, delivery: Delivery) -> None:
        """Take a claimed delivery."""
        self._flight.take(delivery)
        self._claimed.put_nowait(delivery)

    async def prepare(self) -> None:
        """Compose and render claimed deliveries and put them together for calls, for ever."""
        while True:
            deliveries = self._not_held(await self._when_informed(await gather(self._claimed, COMPOSE_BATCH)))
            messages = await persist("compose", partial(self._composer.compose, deliveries))
            for group in grouped(self._provider, self._deliverable(deliveries, messages)):
                prepared = [p for message in group if (p := self._render(message)) is not None]
                if prepared:
                    await self._groups.put(prepared)
                if len(group) > 1:
                    await asyncio.sleep(0)  # rendering many is work: let answers be read in between

    def informed(self) -> bool:
        """Return whether this process knows newsletters and consent well enough to claim and compose; raises what stopped
        its follower. What that had not read would be taken for missing, and its deliveries for failed."""
        return self._knowledge.current()

    async def _when_informed(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Wait for it, and return those that may still start."""
        while not self.informed() and any(map(self._flight.may_start, deliveries)):  # noqa: ASYNC110 - as in _wait
            await asyncio.sleep(_WAIT_S)
        going = []
        for delivery in deliveries:
            if self._flight.may_start(delivery):
                going.append(delivery)
            else:
                self._settlement.outcome(delivery, Retry(0.0, RELEASED))
        return going

    def _not_held(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Return those that are not held by a stop or a canary; the others are parked before any work is done for them."""
        going = []
        for delivery in deliveries:
            outcome = self._knowledge.hold(delivery)
            if outcome is None:
                going.append(delivery)
            else:
                self._settlement.outcome(delivery, outcome)
        return going

    def _deliverable(self, deliveries: Sequence[Delivery], made: Sequence[Message | Outcome]) -> list[Message]:
        messages = []
        for delivery, one in zip(deliveries, made, strict=True):
            if not isinstance(one, Message):
                self._settlement.outcome(delivery, one)
            elif not allowed(self._settings, self._provider.recipient(one.address)):
                self._settlement.outcome(delivery, Skipped("not_allowed"))
            else:
                messages.append(one)
        return messages

    def _render(self, message: Message) -> Prepared | None:
        if not self._flight.may_start(message.delivery):
            self._settlement.outcome(message.delivery, Retry(0.0, RELEASED))
            return None
        body = self._provider.render(message)
        if isinstance(body, Dead):
            message.delivery.error = shown(body.error, [message.address]) or None
            self._settlement.outcome(message.delivery, body)
            return None
        return Prepared(message, body)

    async def dispatch(self) -> None:
        """Start calls one after the other, for ever. The only place where a first call starts, so that order is kept."""
        while True:
            group = self._passed_over.popleft() if self._passed_over else await self._groups.get()
            await self._start(group)

    async def _start(self, group: list[Prepared], *, judged: bool = False) -> None:
        """Start the calls for a group once breaker and rate let them begin; what has to wait longer is parked."""
        if self._flow.by_destination and not judged:
            group = self._in_turn(group)
        while group:
            admitted = await self._flow.admit(len(group), partial(self._going, self._clock.monotonic() + LOOK_AGAIN_S))
            if admitted is None:
                group = self._staying(group)
                continue
            await self._start_call(group[: admitted.count], admitted.epoch)
            group = group[admitted.count :]

    async def _start_call(self, group: list[Prepared], epoch: int) -> None:
        await self._slots.acquire()
        ready: list[Prepared] = []
        try:
            ready = await self._last_look(group)
        finally:
            if not ready:
                self._slots.release()
        if len(ready) < len(group):
            ids = {p.message.delivery.delivery_id for p in ready}
            self._flow.withdrawn(epoch, [p for p in group if p.message.delivery.delivery_id not in ids], len(ready))
        if ready:
            self._spawn(self._call(ready, epoch))

    def _in_turn(self, group: list[Prepared]) -> list[Prepared]:
        """Return those whose turn at their destination it is; the others wait a little beside the line, or are parked."""
        now, soon, wait_s = list[Prepared](), list[Prepared](), 0.0
        for one in group:
            turn = self._flow.judge(one.message)
            if isinstance(turn, Retry):
                self._settlement.outcome(one.message.delivery, turn)
            elif turn > 0.0:
                wait_s = max(wait_s, turn)
                soon.append(one)
            else:
                now.append(one)
        if soon:
            self._spawn(self._later(wait_s, soon))
        return now

    async def _later(self, wait_s: float, group: list[Prepared]) -> None:
        await self._wait(wait_s, group)
        await self._start(group, judged=True)

    async def _wait(self, wait_s: float, group: Sequence[Prepared]) -> None:
        """Wait so long, or until one of them may not start any more."""
        until = self._clock.monotonic() + wait_s
        while (left_s := until - self._clock.monotonic()) > 0 and all(  # noqa: ASYNC110 - what ends it is in several places
            self._may_start(p) for p in group
        ):
            await asyncio.sleep(min(0.05, left_s))

    def _may_start(self, one: Prepared) -> bool:
        return self._flight.may_start(one.message.delivery)

    def _going(self, look_at_s: float) -> bool:
        """Return whether a group that waits is to go on waiting; False when it must be looked at again.

        That is after a while, and at once when partitions go or the process stops; what stands behind it is looked at too,
        and therefore taken out of the queue, which would keep the rest from being prepared. The window bounds it.
        """
        now_s, hurried = self._clock.monotonic(), self._flight.stopping or bool(self._flight.leaving)
        while not self._groups.empty():
            self._passed_over.append(self._groups.get_nowait())
        if now_s < look_at_s and not hurried:
            return True
        if now_s >= self._look_behind_at_s or hurried:
            self._look_behind_at_s = now_s + LOOK_AGAIN_S
            for _ in range(len(self._passed_over)):
                if staying := self._staying(self._passed_over.popleft()):
                    self._passed_over.append(staying)
        return False

    def _staying(self, group: Sequence[Prepared]) -> list[Prepared]:
        """Return those of a waiting group that may still be called for; the others get their outcome."""
        staying = list[Prepared]()
        for one in group:
            if (looked := self._looked_at(one)) is not None:
                staying.append(looked)
            else:
                self._flow.dropped(one.message.delivery.delivery_id)
        return staying

    async def keep_leases(self) -> None:
        """Renew the leases of what waits for breaker or rate, for ever; nothing to do while calls follow claims closely."""
        while True:
            await asyncio.sleep(self._settings.lease_s / 6)
            now_s = self._clock.monotonic()
            short = [d for d in self._flight.waiting() if d.lease_ends_s < now_s + self._settings.lease_s / 2]
            for begin in range(0, len(short), LEASES_AT_ONCE):
                some = short[begin : begin + LEASES_AT_ONCE]
                await persist("leases", partial(self._ledger.begin_attempt, some, now_s, again=False))

    async def _last_look(self, group: list[Prepared]) -> list[Prepared]:
        """Return those of a group that may be called for now; the others get their outcome. Nothing is awaited after the look."""
        group = await self._leased(group)
        while not self._knowledge.current() and any(self._flight.may_start(p.message.delivery) for p in group):
            await asyncio.sleep(_WAIT_S)
            group = await self._leased(group)
        return [looked for one in group if (looked := self._looked_at(one)) is not None]

    async def _leased(self, group: list[Prepared]) -> list[Prepared]:
        """Renew leases that could end before the call does; what has lost its claim is given back.

        That is after an outage of the ledger, mostly: it stands there as unknown(lease_expired), without its request. As its
        owner's outcome, that no call was made replaces this, with the request; what another process has since is left alone.
        """
        needed_s = self._settings.provider_timeout_s + LEASE_MARGIN_S
        now_s = self._clock.monotonic()
        short = [p.message.delivery for p in group if p.message.delivery.lease_ends_s < now_s + needed_s]
        if not short:
            return group
        held = await persist("leases", lambda: self._ledger.begin_attempt(short, self._clock.monotonic(), again=False))
        lost = {d.delivery_id for d in short} - {d.delivery_id for d in held}
        for delivery in (d for d in short if d.delivery_id in lost):
            log.warning("%s: the claim ended before the call; nothing was sent by this process", delivery.delivery_id)
            self._settlement.outcome(delivery, Retry(0.0, RELEASED))
        return [p for p in group if p.message.delivery.delivery_id not in lost]

    def _looked_at(self, prepared: Prepared) -> Prepared | None:
        message, delivery = prepared.message, prepared.message.delivery
        outcome: Outcome | None = None
        if not self._flight.may_start(delivery):
            outcome = Retry(0.0, RELEASED)
        elif (objection := self._knowledge.objection(delivery)) is not None:
            outcome = objection
        elif delivery.not_after <= self._clock.now():
            outcome = Dead("attempts_exhausted") if delivery.attempt > 1 else Skipped("expired")
        elif isinstance(message.content, Issue):
            return self._without_retracted(prepared, message.content)
        elif self._knowledge.bars.retracted(message.content.publication_id or ""):
            outcome = Skipped("retracted")
        if outcome is None:
            return prepared
        self._settlement.outcome(delivery, outcome)
        return None

    def _without_retracted(self, prepared: Prepared, issue: Issue) -> Prepared | None:
        """Return the issue without what was retracted since it was rendered."""
        items = tuple(item for item in issue.items if not self._knowledge.bars.retracted(item.content.publication_id))
        if len(items) == len(issue.items):
            return prepared
        if not items:
            self._settlement.outcome(prepared.message.delivery, Skipped("empty_issue"))
            return None
        return self._render(replace(prepared.message, content=replace(issue, items=items)))

    async def _call(self, group: list[Prepared], epoch: int) -> None:
        began = self._clock.monotonic()
        try:
            await hit_async("sink.before_call")
            for one in group:
                one.message.delivery.tries += 1
                one.message.delivery.called = True
            look = Look(lambda: self._clock.monotonic() - began < LOOK_HOLDS_S or self._may_go(group))
            with look.during():
                outcomes = await self._provider.call(group)
            await hit_async("sink.after_call")
        finally:
            self._slots.release()
        if look.refused:
            await self._refused(group, epoch)
            return
        now_s = self._clock.monotonic()
        self._call_seconds.observe(now_s - began)
        self._flow.answered(group, outcomes, epoch, now_s)
        if self._endpoints is not None:
            self._endpoints.answered(group, outcomes)
        again: dict[float, list[tuple[Prepared, Retry]]] = {}
        errors = said(group, outcomes)
        for prepared, outcome, error in zip(group, outcomes, errors, strict=True):
            delivery = prepared.message.delivery
            delivery.call_ms, delivery.error = int((now_s - began) * 1000), error
            if isinstance(outcome, Retry) and delivery.tries <= len(self._schedule.short_s) and outcome.after_s <= SHORT_ASK_S:
                delivery.refused = outcome.reason
                again.setdefault(outcome.after_s, []).append((prepared, outcome))
            else:
                self._settlement.outcome(delivery, outcome)
        for asked_s, pairs in again.items():
            tries = max(p.message.delivery.tries for p, _ in pairs)
            self._spawn(self._again(short_wait_s(self._schedule, tries, asked_s, random.uniform), pairs))

    def _may_go(self, group: Sequence[Prepared]) -> bool:
        """Return whether the request of a call may be written as it is, however long the call has waited for its connection."""
        knowledge, now = self._knowledge, self._clock.now()
        return knowledge.current() and all(
            knowledge.objection(one.message.delivery) is None
            and one.message.delivery.not_after > now
            and not any(map(knowledge.bars.retracted, publications_of(one.message.content)))
            for one in group
        )

    async def _refused(self, group: Sequence[Prepared], epoch: int) -> None:
        """Nothing was sent: those that may not go any more get their outcome, for the others the call begins anew."""
        self._flow.withdrawn(epoch, group, 0)
        for delivery in (one.message.delivery for one in group):
            delivery.tries, delivery.called = delivery.tries - 1, False
        await self._start([looked for one in group if (looked := self._looked_at(one)) is not None])

    async def _again(self, wait_s: float, pairs: list[tuple[Prepared, Retry]]) -> None:
        """Wait a little and try once more, as a new attempt in the ledger; when the process stops, park instead."""
        await self._wait(wait_s, [p for p, _ in pairs])
        going = [p for p, _ in pairs if self._may_start(p)]
        held = set[str]()
        if going:
            deliveries = [p.message.delivery for p in going]
            step = await persist("attempts", lambda: self._ledger.begin_attempt(deliveries, self._clock.monotonic(), again=True))
            held = {d.delivery_id for d in step}
        for prepared, outcome in pairs:
            if prepared.message.delivery.delivery_id not in held:
                self._settlement.outcome(prepared.message.delivery, outcome)
        for messages in grouped(self._provider, [p.message for p in going if p.message.delivery.delivery_id in held]):
            bodies = {p.message.delivery.delivery_id: p for p in going}
            await self._start([bodies[m.delivery.delivery_id] for m in messages])


def said(group: Sequence[Prepared], outcomes: Sequence[Outcome]) -> list[str | None]:
    """Return what the provider said of each message of a call, without personal data of any of them; None where it took it."""
    refusals = {outcome.error for outcome in outcomes if isinstance(outcome, Refusal)}
    if not refusals:
        return [None] * len(group)
    addresses = [one.message.address for one in group]
    found = {text: shown(text, addresses) or None for text in refusals}
    return [found[outcome.error] if isinstance(outcome, Refusal) else None for outcome in outcomes]


def grouped(provider: Provider, messages: Sequence[Message]) -> list[list[Message]]:
    """Return messages put together for calls, at most `entries` in each.

    Two messages of one subscriber keep their order: when the second would join or open another group than the first's,
    all open groups go first.
    """
    done: list[list[Message]] = []
    open_: dict[Hashable, list[Message]] = {}
    where: dict[str, Hashable] = {}
    for message in messages:
        key, subscriber = provider.group(message), message.delivery.subscriber_id
        if where.get(subscriber, key) != key:
            done += open_.values()
            open_, where = {}, {}
        group = open_.setdefault(key, [])
        group.append(message)
        where[subscriber] = key
        if len(group) == provider.entries:
            done.append(open_.pop(key))
    return done + list(open_.values())
