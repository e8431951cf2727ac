"""The process `newswire run edge`: the application, its producer and its follower of newsletters, until SIGTERM."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from aiohttp import web

from core.errors import SetupError, Unavailable
from edge.app import Edge, make_app
from edge.callbacks.compose import open_callbacks, wanted
from edge.unsubscribe import NewsletterNames, Recorder
from runtime import metrics
from runtime.clock import SystemClock
from runtime.follower import LogFollower
from runtime.producer import Producer
from runtime.settings import Settings
from runtime.tokens import TokenKeys
from schemas.codec import Codec
from schemas.registry import RegistrySource
from schemas.topics import Topics

WATCH_EVERY_S = 0.5
"""How often the producer and the follower are looked at."""

SHUTDOWN_S = 10.0
"""Requests under way may end within this time of SIGTERM."""

log = logging.getLogger(__name__)
T = TypeVar("T")


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; SetupError when the port is in use, else what broke the producer or the follower."""
    clock, topics, names = SystemClock(), Topics(settings.topic_prefix, settings.shards), NewsletterNames()
    keys = TokenKeys.load(settings)
    codec = Codec(topics, RegistrySource(settings.schema_registry_url))
    producer = Producer(settings, f"{settings.topic_prefix}.edge")
    follower = LogFollower(settings, [topics.newsletters], names.apply, codec, name="edge")
    follower.start()
    metrics.serve(settings.metrics_port)
    recorder = Recorder(producer, codec, topics, clock)
    broken: list[BaseException] = []

    def guarded(step: Callable[[T], Awaitable[None]]) -> Callable[[T], Awaitable[None]]:
        async def record(asked: T) -> None:
            try:
                await step(asked)
            except RuntimeError as error:  # the producer failed for good: say so to who asks, and end
                broken.append(error)
                raise Unavailable(str(error)) from error

        return record

    def failure() -> BaseException | None:
        return broken[0] if broken else follower.failed()

    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, producer.close)
        stack.callback(follower.stop)
        callbacks = await stack.enter_async_context(open_callbacks(settings, producer, clock)) if wanted(settings) else None
        if callbacks is not None:
            callbacks = replace(callbacks, record=guarded(callbacks.record))
        app = make_app(Edge(keys, guarded(recorder.record), names.name_of, clock, failure, callbacks))
        runner = web.AppRunner(app, access_log=None, keepalive_timeout=15.0, lingering_time=1.0, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await _listen(runner, settings)
        log.info("listening on %s:%s", settings.edge_host, settings.edge_port)
        await _until_stopped(failure)


async def _listen(runner: web.AppRunner, settings: Settings) -> None:
    try:
        await web.TCPSite(runner, settings.edge_host, settings.edge_port).start()
    except OSError as error:
        place = f"{settings.edge_host}:{settings.edge_port}"
        raise SetupError(f"the edge cannot listen on {place} ({error.strerror}); free it or set NEWSWIRE_EDGE_PORT.") from None


async def _until_stopped(failed: Callable[[], BaseException | None]) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    while not stopped.is_set():
        failure = failed()
        if failure is not None:
            raise failure
        try:
            async with asyncio.timeout(WATCH_EVERY_S):
                await stopped.wait()
        except TimeoutError:
            continue
