"""Reading on in the decisions log of the shards that are loaded, in a thread; what it reads is looked at in the loop."""

import asyncio
import threading
from collections.abc import Callable, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException

from runtime.reading import assign, is_passing, make_consumer, take, to_raw
from runtime.settings import Settings
from schemas.records import Raw

_POLL_S = 0.25


class DecisionsFollower:
    """Follows changing sets of partitions of one topic; hands every record to `seen`, in order, in the event loop."""

    def __init__(
        self,
        settings: Settings,
        topic: str,
        loop: asyncio.AbstractEventLoop,
        seen: Callable[[list[Raw]], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._settings, self._topic, self._loop, self._seen, self._on_error = settings, topic, loop, seen, on_error
        self._lock = threading.Lock()
        self._wanted: dict[int, int] | None = None
        self._positions: dict[int, int] = {}
        self._thread = threading.Thread(target=self._run, name="decisions", daemon=True)

    def start(self) -> None:
        """Start the thread; it ends with the process."""
        self._thread.start()

    def follow(self, positions: Mapping[int, int]) -> None:
        """Follow these partitions and no others, each from the given offset.

        Always positions anew: what was read for a shard that was gone at that moment has been thrown away.
        """
        with self._lock:
            self._wanted = dict(positions)

    def _run(self) -> None:
        try:
            consumer = make_consumer(self._settings, None)
            while True:
                self._reassign(consumer)
                if not self._positions:
                    threading.Event().wait(_POLL_S)
                    continue
                raws = []
                for message in take(consumer, _POLL_S):
                    error = message.error()
                    if error is None:
                        raws.append(to_raw(message))
                    elif not is_passing(error) and error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                if raws:
                    self._loop.call_soon_threadsafe(self._seen, raws)
        except BaseException as error:  # noqa: BLE001 - ends the process
            self._on_error(error)

    def _reassign(self, consumer: Consumer) -> None:
        with self._lock:
            wanted, self._wanted = self._wanted, None
        if wanted is not None:
            self._positions = wanted
            assign(consumer, {(self._topic, partition): offset for partition, offset in wanted.items()})
