"""One sink process: a channel and a lane, from deliveries in Kafka to delivery-status in Kafka.

Consumes deliveries.<channel>.<lane> as the group <prefix>.sink.<channel>.<lane>; produces delivery-status. State: the
ledger. Ordering key: subscriber. The steps of a delivery, each a task of its own with what it needs:

    intake.poll -> intake.claim -> calls.prepare -> calls.dispatch -> call -> settlement.write_outcomes
                -> settlement.report_outcomes -> intake.commit;  sweeper, flow and calls.keep_leases beside them

Guarantees: no delivery reaches the provider twice unless it was recorded as unknown first; none is lost; no call begins
later than 2 s after an acknowledged unsubscribe, recall or stop. If a step raises what it does not expect, the process
ends at once: what was claimed becomes unknown when its lease ends, everything else is read again.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final

from core.errors import SetupError
from runtime import collector, metrics
from runtime.clock import Clock, SystemClock
from runtime.content import ContentReader
from runtime.kafka import ensure_first_offsets
from runtime.keys import KeyStore
from runtime.producer import Producer
from runtime.settings import Settings
from runtime.templates import Templates
from runtime.topic_names import topic_names_for
from schemas.codec import Codec
from schemas.registry import RegistrySource
from schemas.topics import Topics
from sinks.announcing import Announcer
from sinks.calls import LEASE_MARGIN_S, Calls
from sinks.compose import Composer
from sinks.endpoints import Endpoints
from sinks.flight import Flight
from sinks.flow import Flow
from sinks.flow_store import FlowStore
from sinks.intake import Intake
from sinks.knowledge import Knowledge
from sinks.ledger import Ledger, Pool, open_pool
from sinks.provider import Provider
from sinks.registry import PROVIDERS
from sinks.retiring import keep_retiring
from sinks.settle import Settlement, persist
from sinks.suppression import Suppressed
from sinks.sweeper import Sweeper
from sinks.unknown import Resolver

CONNECTIONS: Final = 3
"""Connections to the ledger: claims, outcomes and reports go on side by side, the sweeper and the tokens take turns."""
BATCH: Final = {"urgent": 100, "bulk": 500}
"""Most records in one claim: an alert does not wait for a large batch to be put together."""
WINDOW: Final = {"urgent": 1_000, "bulk": 2_000}
"""Deliveries in hand at which reading pauses, some 60 MB when all are rendered mails of 30 kB; at most three batches more,
which were read by then, join them."""
EXIT_CODE: Final = 70
START_TIMEOUT_S: Final = 60.0
"""Longest wait for consent to be known at start; then the process ends and its supervisor starts it again."""

log = logging.getLogger(__name__)


class Sink:
    """One sink process, put together."""

    def __init__(
        self, settings: Settings, channel: str, lane: str, *, provider: Provider | None = None, clock: Clock | None = None
    ) -> None:
        """SetupError when a setting is missing or does not fit."""
        settings.require("ledger_database_url", "keys_database_url", "receipt_key", "token_keys")
        if settings.lease_s <= settings.provider_timeout_s + LEASE_MARGIN_S:
            raise SetupError(
                f"NEWSWIRE_LEASE_S={settings.lease_s:g} must be longer than NEWSWIRE_PROVIDER_TIMEOUT_S="
                f"{settings.provider_timeout_s:g} "
                "by more than half a second: a lease must not end during a call."
            )
        self._settings, self._channel, self._lane = settings, channel, lane
        self._clock: Clock = clock or SystemClock()
        self._topics = Topics(settings.topic_prefix, settings.shards)
        self._codec = Codec(self._topics, RegistrySource(settings.schema_registry_url))
        self._provider = provider or PROVIDERS[channel](settings)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stop: asyncio.Event | None = None

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT; return the exit code."""
        name = f"{self._channel}-{self._lane}"
        self._stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        settings, clock = self._settings, self._clock
        async with contextlib.AsyncExitStack() as stack:
            pool, producer, keys, reader, knowledge = await self._open(stack, name)
            ledger = Ledger(
                pool, channel=self._channel, lane=self._lane, lease_s=settings.lease_s, consent_lag_s=settings.consent_lag_s
            )
            flight = Flight(WINDOW[self._lane])
            endpoints = Endpoints(ledger, self._codec, self._topics, producer) if self._channel == "webhook" else None
            settlement = Settlement(
                settings, ledger, keys, self._codec, self._topics, producer, flight, clock,
                channel=self._channel, lane=self._lane, endpoints=endpoints,
            )  # fmt: skip
            suppressed = Suppressed(settings, ledger)
            templates = Templates(settings, self._lane)
            composer = Composer(
                settings, self._topics, keys, reader, knowledge, suppressed, templates.by_name,
                topic_names_for(settings, self._lane),
            )  # fmt: skip
            flow = Flow(
                settings, FlowStore(pool, self._channel), self._provider, flight, clock, channel=self._channel, lane=self._lane
            )
            announcer = Announcer(pool, self._codec, self._topics, producer, flow.changes, clock, channel=self._channel)
            calls = Calls(
                settings, self._provider, composer, knowledge, ledger, settlement, flight, flow, clock, self._spawn,
                lane=self._lane, endpoints=endpoints,
            )  # fmt: skip
            intake = Intake(
                settings, self._topics, self._codec, producer, ledger, calls, settlement, flight, flow, clock,
                channel=self._channel, lane=self._lane, batch=BATCH[self._lane],
            )  # fmt: skip
            sweeper = Sweeper(settings, ledger, self._codec, intake.topic, calls, settlement, flight, flow, clock)
            resolver = Resolver(
                settings, ledger, keys, self._codec, self._topics, self._provider, reader, knowledge, settlement, flight, clock,
                channel=self._channel, lane=self._lane,
            )  # fmt: skip
            await self._prepare(ledger, knowledge, intake)
            await persist("suppressions", suppressed.refresh)
            await flow.start()
            collector.settle()
            intake.open()
            for step in (
                settlement.write_outcomes, settlement.report_outcomes, calls.prepare, calls.dispatch, intake.claim, intake.poll,
                intake.commit, sweeper.run, calls.keep_leases, announcer.run, flow.fill, flow.paces.run, flow.follow_limits,
                suppressed.run, resolver.run, templates.follow, partial(keep_retiring, settings),
            ):  # fmt: skip
                self._spawn(step())
            if endpoints is not None:
                self._spawn(endpoints.run())
            log.info("the sink %s runs", name)
            await self._stop.wait()
            flight.stopping = True
            await intake.drain()
            await self._cancel()
        log.info("the sink %s has stopped", name)
        return 0

    async def _open(
        self, stack: contextlib.AsyncExitStack, name: str
    ) -> tuple[Pool, Producer, KeyStore, ContentReader, Knowledge]:
        """Open what the steps share, the provider too; the stack closes it."""
        settings = self._settings
        pool = open_pool(settings.ledger_database_url, CONNECTIONS)
        await pool.open()
        stack.push_async_callback(pool.close)
        producer = Producer(settings, f"{settings.topic_prefix}.{name}")
        stack.push_async_callback(asyncio.to_thread, producer.close)
        keys = KeyStore(settings)
        stack.callback(keys.close)
        reader = ContentReader(settings, self._codec, clock=self._clock)
        stack.callback(reader.close)
        knowledge = Knowledge(settings, self._topics, self._codec, name=f"sink-{name}", clock=self._clock)
        stack.callback(knowledge.stop)
        await self._provider.open()
        stack.push_async_callback(self._provider.close)
        return pool, producer, keys, reader, knowledge

    async def _cancel(self) -> None:
        """End every task; what they hold is closed afterwards."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _prepare(self, ledger: Ledger, knowledge: Knowledge, intake: Intake) -> None:
        """Make the days' partitions, learn consent, and give a new group its first offsets."""
        await persist("days", lambda: ledger.ensure_days(self._clock.now().date()))
        rows, offsets = await persist("consent", ledger.consent)
        knowledge.start(rows, offsets)
        await knowledge.ready(START_TIMEOUT_S)
        await asyncio.to_thread(ensure_first_offsets, self._settings, intake.group, [intake.topic])
        metrics.serve(self._settings.metrics_port)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("the sink ends: %s", error, exc_info=error)
            logging.shutdown()
            os._exit(EXIT_CODE)


def run(settings: Settings, channel: str, lane: str) -> int:
    """Run one sink until SIGTERM; for the command."""
    import uvloop

    return uvloop.run(Sink(settings, channel, lane).run())
