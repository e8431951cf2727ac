"""The guard: what watches over sending, beside the sinks. One process at a time; a second one waits.

Consumes delivery-status, what was retracted, and held deliveries; produces ControlChanged. Its parts: the brake
(sinks/brake.py), letting go what was held (sinks/holds.py), and recall (sinks/recall.py). Guarantee: none of them is needed
for a stop, a recall or an unsubscribe to hold: the sinks see to that by themselves. While this process is away nothing is
braked, nothing held is let go, and what was sent stays as it is; it goes on from where it was.
"""

import asyncio
import contextlib
import logging
import signal
from typing import Final

import psycopg

from core.errors import SetupError, Unavailable
from runtime import metrics
from runtime.clock import Clock, SystemClock
from runtime.content import ContentReader
from runtime.keys import KeyStore
from runtime.producer import Producer
from runtime.retry import backoff
from runtime.settings import Settings
from runtime.templates import load_templates
from runtime.topic_names import load_topic_names
from schemas.codec import Codec
from schemas.registry import RegistrySource
from schemas.topics import Topics
from sinks.brake import Brake
from sinks.compose import Composer
from sinks.holds import Holds
from sinks.knowledge import Knowledge
from sinks.ledger import Ledger, open_pool
from sinks.provider import Provider
from sinks.recall import Recall
from sinks.registry import PROVIDERS
from sinks.settle import persist
from sinks.suppression import REFRESH_S, Suppressed

CONNECTIONS: Final = 3
EVERY_S: Final = 1.0
"""Pause between two rounds of a part that had nothing more to do."""
START_TIMEOUT_S: Final = 60.0
_LOCK: Final = 0x67756172
"""Advisory lock of the guard ('guar')."""
_MIGRATED: Final = "SELECT 1 FROM ledger.recalls LIMIT 1"

log = logging.getLogger(__name__)


class Guard:
    """The guard process, put together."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        """SetupError when a setting is missing."""
        settings.require("ledger_database_url", "keys_database_url", "receipt_key", "token_keys")
        self._settings = settings
        self._clock: Clock = clock or SystemClock()
        self._topics = Topics.of(settings)
        self._codec = Codec(self._topics, RegistrySource(settings.schema_registry_url))
        self._producer: Producer | None = None

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT; return the exit code."""
        stop, settings = asyncio.Event(), self._settings
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with contextlib.AsyncExitStack() as stack:
            pool = open_pool(settings.ledger_database_url, CONNECTIONS)
            await pool.open()
            stack.push_async_callback(pool.close)
            self._producer = Producer(settings, f"{settings.topic_prefix}.guard")
            stack.push_async_callback(asyncio.to_thread, self._producer.close)
            keys = KeyStore(settings)
            stack.callback(keys.close)
            reader = ContentReader(settings, self._codec, clock=self._clock)
            stack.callback(reader.close)
            knowledge = Knowledge(settings, self._topics, self._codec, name="guard", clock=self._clock)
            stack.callback(knowledge.stop)
            providers = await self._open_providers(stack)

            ledger = Ledger(pool, channel="", lane="", lease_s=settings.lease_s, consent_lag_s=settings.consent_lag_s)
            await persist("schema", lambda: ledger.rows(_MIGRATED, {}))  # SetupError when it is not there
            rows, offsets = await persist("consent", ledger.consent)
            knowledge.start(rows, offsets)
            await knowledge.ready(START_TIMEOUT_S)
            suppressed = Suppressed(settings, ledger)
            templates, names = load_templates(settings), load_topic_names(settings)
            composer = Composer(settings, self._topics, keys, reader, knowledge, suppressed, templates, names)
            brake = Brake(settings, self._topics, self._codec, pool, knowledge, self._control, self._clock)
            holds = Holds(ledger, knowledge, self._control, self._clock)
            recall = Recall(settings, self._topics, self._codec, ledger, keys, composer, knowledge, providers, self._clock)
            metrics.serve(settings.metrics_port)
            work = asyncio.create_task(self._work(knowledge, suppressed, brake, holds, recall))
            log.info("the guard runs")
            await asyncio.wait([work, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
        log.info("the guard has stopped")
        return 0

    async def _open_providers(self, stack: contextlib.AsyncExitStack) -> dict[str, Provider]:
        """Open the providers that can edit and are set up here."""
        found: dict[str, Provider] = {}
        for channel, make in PROVIDERS.items():
            try:
                provider = make(self._settings)
            except SetupError as error:
                log.info("nothing can be edited on %s: %s", channel, error)
                continue
            if channel == "email":
                continue  # mail cannot be changed
            await provider.open()
            stack.push_async_callback(provider.close)
            found[channel] = provider
        return found

    async def _control(self, control_id: str, action: str, reason: str, who: str) -> None:
        """Write a ControlChanged and see its delivery report."""
        assert self._producer is not None
        now = self._clock.now()
        value = {"control_id": control_id, "action": action, "reason": reason, "changed_by": who, "changed_at": now}
        record = self._codec.encode(
            self._topics.controls, "ControlChanged", value, key=control_id, time=now, source="/newswire/sinks/guard"
        )
        await self._producer.send([record])

    async def _work(self, knowledge: Knowledge, suppressed: Suppressed, brake: Brake, holds: Holds, recall: Recall) -> None:
        """Do all parts while this process has the lock; a silent database or broker is waited for."""
        attempt = 0
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    self._settings.ledger_database_url, autocommit=True, connect_timeout=5
                )
                async with connection:
                    await self._locked(connection)
                    attempt = 0
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._keep(connection, knowledge, suppressed))
                        group.create_task(self._watch(brake, holds))
                        group.create_task(self._follow_up(recall))
            except* (Unavailable, psycopg.OperationalError) as error:
                attempt += 1
                log.warning("guard: %s", error.exceptions[0])
                await asyncio.sleep(backoff(attempt))

    async def _locked(self, connection: psycopg.AsyncConnection) -> None:
        while True:
            cursor = await connection.execute(
                "SELECT pg_try_advisory_lock(%s, hashtext(%s))", [_LOCK, self._settings.topic_prefix]
            )
            row = await cursor.fetchone()
            if row is not None and row[0]:
                return
            await asyncio.sleep(EVERY_S)

    async def _keep(self, connection: psycopg.AsyncConnection, knowledge: Knowledge, suppressed: Suppressed) -> None:
        """Keep the list of suppressed addresses current; notice that the lock is lost, or that the follower has stopped."""
        while True:
            await connection.execute("SELECT 1")
            knowledge.current()
            await suppressed.refresh()
            await asyncio.sleep(REFRESH_S)

    async def _watch(self, brake: Brake, holds: Holds) -> None:
        await brake.open()
        try:
            while True:
                await brake.round()
                await holds.round(counted=brake.current())
                await asyncio.sleep(EVERY_S)
        finally:
            await brake.close()

    async def _follow_up(self, recall: Recall) -> None:
        while True:
            if not await recall.round():
                await asyncio.sleep(EVERY_S)


def run(settings: Settings) -> int:
    """Run the guard until SIGTERM; for the command."""
    return asyncio.run(Guard(settings).run())
