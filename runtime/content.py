"""The content of publications and alerts by its recorded position in the log, kept in a bounded cache.

Consumes: single records of publications and alerts, with one plain consumer in a thread of its own. State: the last
20,000 contents. Guarantee: what is returned is what stands at that offset; None means that it is gone.
"""

import asyncio
import queue
import threading
from collections import OrderedDict
from collections.abc import Collection

from confluent_kafka import Consumer, KafkaError, KafkaException

from core.errors import CodecError, Unavailable
from runtime import metrics
from runtime.clock import Clock, SystemClock
from runtime.reading import assign, is_passing, make_consumer, take, to_raw
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.records import Event

Position = tuple[str, int, int]
"""(topic, partition, offset)."""

CACHE_ENTRIES = 20_000
"""Contents kept in memory: about 5 kB each, so at most 100 MB; a day's publications many times over."""
READ_TIMEOUT_S = 10.0
"""Longest wait for one record; a broker answers a single fetch in milliseconds."""
MAX_GAP = 200
"""Offsets between two wanted ones that are read over rather than sought: a seek costs a request."""


class ContentReader:
    """Reads contents; use it from one event loop. `close` it at the end."""

    def __init__(self, settings: Settings, codec: Codec, *, entries: int = CACHE_ENTRIES, clock: Clock | None = None) -> None:
        self._settings, self._codec, self._entries = settings, codec, entries
        self._clock: Clock = clock or SystemClock()
        self._cache: OrderedDict[Position, Event] = OrderedDict()
        self._waiting: dict[Position, asyncio.Future[Event | None]] = {}
        self._asked: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, list[Position]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def get(self, topic: str, partition: int, offset: int) -> Event | None:
        """Return the event at a position, None when it is gone; Unavailable when Kafka does not answer."""
        return (await self.get_many([(topic, partition, offset)]))[topic, partition, offset]

    async def get_many(self, positions: Collection[Position]) -> dict[Position, Event | None]:
        """Return the events at these positions; what is not cached is read together, partition by partition."""
        wanted = dict.fromkeys(positions)
        found: dict[Position, Event | None] = {}
        missing = []
        loop = asyncio.get_running_loop()
        for position in wanted:
            if position in self._cache:
                self._cache.move_to_end(position)
                found[position] = self._cache[position]
            elif position not in self._waiting:
                self._waiting[position] = loop.create_future()
                missing.append(position)
        metrics.CONTENT_READS.labels("hit").inc(len(found))
        waiting = {position: self._waiting[position] for position in wanted if position not in found}
        if missing:
            self._start()
            self._asked.put((loop, missing))
        for position, future in waiting.items():
            found[position] = await asyncio.shield(future)
        return found

    def close(self) -> None:
        """Stop the thread."""
        if self._thread is not None:
            self._asked.put(None)
            self._thread.join(timeout=5)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="content", daemon=True)
            self._thread.start()

    def _settle(self, position: Position, result: Event | BaseException | None) -> None:
        future = self._waiting.pop(position, None)
        if isinstance(result, BaseException):
            if future is not None and not future.done():
                future.set_exception(result)
                future.exception()  # a waiter that was cancelled leaves nobody to take it
            return
        metrics.CONTENT_READS.labels("gone" if result is None else "read").inc()
        if result is not None:
            self._cache[position] = result
        while len(self._cache) > self._entries:
            self._cache.popitem(last=False)
        if future is not None and not future.done():
            future.set_result(result)

    # -- in the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        consumer = make_consumer(self._settings, None, enable_partition_eof=True, fetch_wait_max_ms=50)
        while (asked := self._asked.get()) is not None:
            loop, positions = asked
            by_partition: dict[tuple[str, int], list[int]] = {}
            for topic, partition, offset in sorted(positions):
                by_partition.setdefault((topic, partition), []).append(offset)
            for tp, offsets in by_partition.items():
                results: dict[int, Event | BaseException | None]
                try:
                    results = dict(self._read(consumer, tp, offsets))
                except (KafkaException, Unavailable) as error:
                    failure = Unavailable(f"the content at {tp[0]}/{tp[1]} cannot be read: {error}")
                    results = dict.fromkeys(offsets, failure)
                except Exception as error:  # noqa: BLE001 - goes to who waits, and ends the process there
                    results = dict.fromkeys(offsets, error)
                for offset in offsets:
                    loop.call_soon_threadsafe(self._settle, (*tp, offset), results.get(offset))
        consumer.close()

    def _read(self, consumer: Consumer, tp: tuple[str, int], offsets: list[int]) -> dict[int, Event | BaseException | None]:
        """Return the event of each offset; offsets are in rising order. What is absent or no event is None."""
        results: dict[int, Event | BaseException | None] = {}
        wanted, position, idle_since = list(offsets), -1, self._clock.monotonic()
        while wanted:
            if position < 0 or not 0 <= wanted[0] - position <= MAX_GAP:
                position = wanted[0]
                assign(consumer, {tp: position})
            messages = take(consumer, 0.2)
            if messages:
                idle_since = self._clock.monotonic()
            elif self._clock.monotonic() - idle_since > READ_TIMEOUT_S:
                raise Unavailable(f"nothing came within {READ_TIMEOUT_S:g} s")
            for message in messages:
                error, offset = message.error(), message.offset() or 0
                if (message.topic(), message.partition()) != tp:
                    continue  # of the partition that was read before
                if error is None:
                    position = offset + 1
                    if offset in wanted:
                        results[offset] = self._event(message)
                    wanted = [o for o in wanted if o > offset]
                elif error.code() == KafkaError._PARTITION_EOF:
                    wanted = [o for o in wanted if o < offset and o >= position]
                elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                    wanted, position = wanted[1:], -1
                elif not is_passing(error):
                    raise KafkaException(error)
        assign(consumer, {})
        return results

    def _event(self, message: object) -> Event | BaseException | None:
        try:
            return self._codec.decode(to_raw(message))
        except CodecError:
            return None
        except Unavailable as error:
            return error
