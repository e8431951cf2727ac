"""A stage: a Faust app that hands decoded events to handlers and acknowledges them only when that is safe.

Consumes the topics that `consume` and `consume_batches` name, in one consumer group; produces through `producer`.
Order: that of each partition. Guarantee: at least once. What becomes of an event:

1. Its bytes are decoded here, not by Faust. What is no event goes to the dead letters (confirmed), then is acknowledged.
2. The handler returns: acknowledged, unless the partition was lost meanwhile (its new owner reads it again).
3. `EventRefused`: dead letter, then acknowledged. `Unavailable`: again after a backoff, for ever; the topic waits here.
4. Anything else: the traceback is logged and the process ends (70) before any acknowledgement; the supervisor restarts it.

SIGTERM stops fetching, waits for the events being handled, commits and ends with 0, within `STOP_TIMEOUT_S`.
"""

import asyncio
import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from core.errors import CodecError, EventRefused, Unavailable
from runtime import collector, failpoints, logs, metrics, stacks, stalls
from runtime.batches import Batcher
from runtime.clock import Clock, SystemClock
from runtime.deadletters import dead_letter
from runtime.kafka import Producer, ensure_first_offsets
from runtime.producer import EXIT_CODE
from runtime.retry import backoff
from runtime.settings import Settings
from schemas.codec import Cipher, Codec, SchemaSource
from schemas.records import Event, Raw
from schemas.topics import Topics

STOP_TIMEOUT_S = 10.0
"""Longest clean stop; a supervisor's grace is longer."""
FETCH_WAIT_MS = 400
"""How long the broker may hold a fetch that finds nothing and does not name every partition. A partition whose events were
being handled is asked for again when that fetch returns, so this is also a delay between its events."""
URGENT_FETCH_WAIT_MS = 100
"""The same for the stages that an alert passes."""
BUFFER_EVENTS = 256
"""Events of a topic that wait in memory; a decider's are fat, and what waits is read again after a crash."""

Handler = Callable[[Event], Awaitable[None]]
BatchHandler = Callable[[list[Event]], Awaitable[None]]


class PartitionLost(Exception):
    """The event's partition is not this process's any more: it is neither handled nor acknowledged here."""


_current: ContextVar[tuple[Any, ...]] = ContextVar("messages being handled", default=())


class Stage:
    """One process of a stage: makes the app, the producer and the codec, and runs them."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        *,
        clock: Clock | None = None,
        cipher: Cipher | None = None,
        source: SchemaSource | None = None,
        fetch_wait_ms: int = FETCH_WAIT_MS,
    ) -> None:
        """Prepare; nothing is connected before `run`. The consumer group is `<prefix>.<name>`.

        `cipher` is for stages that read or write personal data; `source` of schemas is the registry by default.
        """
        from schemas.registry import RegistrySource

        self.fetch_wait_ms = fetch_wait_ms
        self.name, self.settings, self.clock = name, settings, clock or SystemClock()
        logs.configure(settings, name)
        failpoints.configure(settings.failpoints, name)
        self.log = logging.getLogger(f"stage.{name}")
        self.metrics = metrics
        self.topics = Topics(settings.topic_prefix, settings.shards)
        self.codec = Codec(self.topics, source or RegistrySource(settings.schema_registry_url), cipher)
        self.group = f"{settings.topic_prefix}.{name}"
        self.producer = Producer(settings, self.group)
        self.on_assigned: Callable[[set[tuple[str, int]]], Awaitable[None]] | None = None
        self.on_started: Callable[[], Awaitable[None]] | None = None
        self.generation = -1
        self.continuous = False
        """Whether the assignment followed directly on the one before: then nobody else owned our partitions between."""
        self.handling = 0
        """How many events or batches are being handled at this moment, or wait for what they need."""
        self._consumed: list[str] = []
        self._spawned: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.app = _make_app(self)
        self.spawn(partial(stalls.watch, self))

    def consume(self, topic: str, handler: Handler) -> None:
        """Handle the events of a topic one by one, in order per partition."""

        async def agent(stream: Any) -> None:
            stream.enable_acks = False
            async for event in stream.events():
                message = event.message
                with self._in_hand():
                    decoded = await self._decoded(message)
                    if decoded is not None:
                        await self._settle([(message, decoded)], lambda events: handler(events[0]))

        self._add_agent(topic, agent)

    def consume_batches(self, topic: str, handler: BatchHandler, max_events: int, within_s: float) -> None:
        """Handle the events of a topic in lists of at most `max_events`, each at most `within_s` after its first came.

        A batch that is refused (EventRefused) is handled again one event at a time, so that only the culprit is refused.
        """

        async def agent(stream: Any) -> None:
            stream.enable_acks = False

            async def handle(batch: list[tuple[Any, Event]]) -> None:
                with self._in_hand():
                    await self._settle(batch, handler)

            batcher = Batcher(handle, max_events, within_s, self.die)
            async for event in stream.events():
                with self._in_hand():
                    decoded = await self._decoded(event.message)
                if decoded is not None:
                    await batcher.add((event.message, decoded))

        self._add_agent(topic, agent)

    def spawn(self, coroutine_function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a task beside the agents from the start on; when it raises, the process ends (70)."""
        self._spawned.append(coroutine_function)

    def _add_agent(self, topic: str, agent: Callable[[Any], Awaitable[None]]) -> None:
        assert topic not in self._consumed, f"{topic} has a handler already"
        self._consumed.append(topic)
        channel = self.app.topic(topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
        self.app.agent(channel, concurrency=1, name=f"{self.name}.{topic}")(self._guarded(agent))

    def _guarded(self, agent: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
        async def run(stream: Any) -> None:
            try:
                await agent(stream)
            except Exception as error:  # noqa: BLE001 - ends the process
                self.die(error)

        return run

    def assert_stale(self, what: str) -> None:
        """Fail unless the event being handled is of a lost assignment: acknowledging it would lose it."""
        messages = _current.get()
        assert not messages or any(self._stale(message) for message in messages), what

    def die(self, error: BaseException) -> NoReturn:
        """End the process at once: nothing is acknowledged or committed any more."""
        self.log.critical("%s ends: %s", self.name, error, exc_info=error)
        logging.shutdown()
        os._exit(EXIT_CODE)

    # -- one event --------------------------------------------------------------------------------------------------

    def _stale(self, message: Any) -> bool:
        """Return whether the message was fetched under an assignment that is not the present one."""
        return bool(message.generation_id != self.app.consumer_generation_id)

    @contextmanager
    def _in_hand(self) -> Iterator[None]:
        self.handling += 1
        try:
            yield
        finally:
            self.handling -= 1

    def committed(self) -> dict[tuple[str, int], int]:
        """Return the committed offset of each partition of the present assignment."""
        consumer = self.app.consumer
        return {(tp.topic, tp.partition): consumer._committed_offset[tp] or 0 for tp in consumer.assignment()}

    def leaving(self) -> bool:
        """Return whether a rebalance or the stop waits for the events that are being handled."""
        return bool(self.app.should_stop or not self.app.flow_control.is_active())

    async def _decoded(self, message: Any) -> Event | None:
        """Return the event; None when it was dead-lettered and acknowledged, or abandoned, or is a tombstone."""
        raw, first_at, attempt = _raw(message), self.clock.now(), 0
        if self.codec.is_tombstone(raw):
            self._acknowledge(message)
            return None
        while True:
            attempt += 1
            try:
                return self.codec.decode(raw)
            except CodecError as error:
                await self._refuse(message, raw, error, attempt, first_at)
                return None
            except Unavailable as error:
                if not await self._wait(raw.topic, attempt, error):
                    self._abandon([message])
                    return None

    async def _settle(self, batch: list[tuple[Any, Event]], handler: BatchHandler) -> None:
        """Handle a batch until it is settled one way or another."""
        topic, first_at, attempt = batch[0][0].topic, self.clock.now(), 0
        began = self.clock.monotonic()
        while True:
            fresh = [(message, event) for message, event in batch if not self._stale(message)]
            self._abandon([message for message, _ in batch if self._stale(message)])
            if not fresh:
                return
            batch = fresh
            attempt += 1
            _current.set(tuple(message for message, _ in batch))
            try:
                await handler([event for _, event in batch])
                break
            except PartitionLost:
                self._abandon([message for message, _ in batch])
                return
            except EventRefused as error:
                if len(batch) > 1:
                    for item in batch:
                        await self._settle([item], handler)
                    return
                await self._refuse(batch[0][0], _raw(batch[0][0]), error, attempt, first_at)
                return
            except Unavailable as error:
                if not await self._wait(topic, attempt, error):
                    self._abandon([message for message, _ in batch])
                    return
        if attempt > 1:
            metrics.STALLED.labels(topic).set(0)
        metrics.HANDLE_SECONDS.labels(topic).observe(self.clock.monotonic() - began)
        for name, count in Counter(event.name for _, event in batch).items():
            metrics.EVENTS.labels(topic, name).inc(count)
        for message, _ in batch:
            self._acknowledge(message)

    async def _refuse(self, message: Any, raw: Raw, error: Exception, attempts: int, first_at: datetime) -> None:
        last_at = self.clock.now()
        await dead_letter(self.producer, self.topics, raw, error, attempts=attempts, first_at=first_at, last_at=last_at)
        self._acknowledge(message)

    async def _wait(self, topic: str, attempt: int, error: Unavailable) -> bool:
        """Wait before the next attempt; False when the partitions are about to go, so that there should be none."""
        if attempt == 1 or attempt % 20 == 0:
            self.log.warning("%s waits: %s (attempt %s)", topic, error, attempt)
        metrics.RETRIES.labels(topic).inc()
        metrics.STALLED.labels(topic).set(1)
        if self.leaving():
            return False
        await asyncio.sleep(backoff(attempt))
        return not self.leaving()

    def _acknowledge(self, message: Any) -> None:
        if self._stale(message):
            self._abandon([message])
        else:
            message.ack(self.app.consumer)

    def _abandon(self, messages: list[Any]) -> None:
        for message in messages:
            metrics.STALE_EVENTS.labels(message.topic).inc()
            self.app.consumer.abandon(message)

    # -- the process ------------------------------------------------------------------------------------------------

    async def assigned(self, partitions: set[tuple[str, int]], generation: int) -> None:
        """Take note of an assignment; called by the consumer before the first event of it."""
        metrics.REBALANCES.inc()
        self.continuous = generation == self.generation + 1
        self.generation = generation
        gap = "" if self.continuous else ", not continuous"
        self.log.info("generation %s: %s partitions%s", generation, len(partitions), gap)
        if self.on_assigned is not None:
            await self.on_assigned(partitions)

    def run(self) -> int:
        """Run until SIGTERM or SIGINT and return the exit code: 0 after a clean stop, 70 after a crash."""
        import uvloop

        metrics.serve(self.settings.metrics_port)
        collector.settle()
        if self._consumed:
            ensure_first_offsets(self.settings, self.group, self._consumed)
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # also for the thread in which Faust's consumer runs
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        code = loop.run_until_complete(self._main(loop))
        self.log.info("stopped")
        logging.shutdown()
        os._exit(code)  # threads of clients may still hold on; everything is committed

    async def _main(self, loop: asyncio.AbstractEventLoop) -> int:
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        loop.set_exception_handler(self._on_loop_error)
        await self.app.start()
        self.app.sensors.remove(self.app.monitor)  # a twelfth of the time of an event, for figures that nobody reads
        stacks.on_signal(loop, self.app.consumer._thread.thread_loop)
        if self.on_started is not None:
            await self.on_started()
        for function in self._spawned:
            task = loop.create_task(function())
            self._tasks.add(task)
            task.add_done_callback(self._on_task_done)
        crashed = loop.create_task(self.app.wait_until_stopped())
        await asyncio.wait([crashed, loop.create_task(stopping.wait())], return_when=asyncio.FIRST_COMPLETED)
        if not stopping.is_set():
            self.die(self.app.crash_reason or RuntimeError("the Faust app stopped by itself"))
        self.log.info("stopping")
        _deadline(STOP_TIMEOUT_S)
        await self.app.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.to_thread(self.producer.close)
        return 0

    def _on_task_done(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception() is not None:
            self.die(task.exception() or RuntimeError("unknown"))

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.log.error("event loop: %s", context.get("message"), exc_info=context.get("exception"))


def _deadline(seconds: float) -> None:
    """End the process with 70 when it has not stopped by then; what is not committed is read again."""

    def end() -> None:
        logging.getLogger(__name__).error("no clean stop within %g s", seconds)
        os._exit(EXIT_CODE)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def _raw(message: Any) -> Raw:
    return Raw(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        key=message.key,
        value=message.value,
        headers=tuple(message.headers.items()) if isinstance(message.headers, dict) else tuple(message.headers or ()),
        timestamp_ms=int((message.timestamp or 0) * 1000),
    )


def _make_app(stage: Stage) -> Any:
    import faust
    from faust.app.base import BootStrategy

    from runtime.faust_transport import Transport

    settings = stage.settings
    folder = Path(settings.state_dir) / stage.group.replace("/", "-")
    folder.mkdir(parents=True, exist_ok=True)
    servers = settings.kafka_bootstrap_servers.split(",")
    app = faust.App(
        stage.group,
        broker=[f"aiokafka://{server.strip()}" for server in servers],
        broker_client_id=stage.group,
        broker_commit_interval=1.0,
        broker_session_timeout=settings.session_timeout_s,
        broker_heartbeat_interval=settings.session_timeout_s / 5,
        broker_request_timeout=40.0,
        consumer_group_instance_id=settings.instance_id or None,
        consumer_max_fetch_size=2_097_152,
        datadir=str(folder),
        stream_wait_empty=True,
        stream_buffer_maxsize=BUFFER_EVENTS,
        stream_recovery_delay=0.0,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        web_tables_enabled=False,
        web_router_enabled=False,
        worker_redirect_stdouts=False,
        autodiscover=False,
    )
    app.boot_strategy = BootStrategy(app, enable_web=False)
    app.transport = Transport(app.conf.broker_consumer, app)
    app.stage = stage
    return app
