"""Following whole logs without a group, in a thread of its own, and knowing how current that knowledge is.

Consumes: the topics it is given, from the beginning or from given offsets. Produces nothing, commits nothing.
State: what `apply` makes of the events. Order: that of each partition. Guarantee: `caught_up_at()` is an instant at
whose beginning everything then in the logs has been applied.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message
from confluent_kafka.admin import AdminClient

from core.errors import CodecError, Unavailable
from runtime import metrics
from runtime.clock import Clock, SystemClock
from runtime.reading import admin_client, assign, end_offsets, is_passing, make_consumer, partitions_of, take, to_raw
from runtime.settings import Settings
from schemas.records import Event, Raw

if TYPE_CHECKING:
    from schemas.codec import Codec

ASK_EVERY_S = 0.8
"""How often the end offsets are asked for: half of the lag that consent allows is left for applying."""
_ASK_TIMEOUT_S = 2.0
_POLL_S = 0.4
"""Longest wait for a record: how long a stop takes at most."""

log = logging.getLogger(__name__)


class LogFollower:
    """Applies every event of some topics, in a thread; `apply` runs in that thread.

    A record that is no event is skipped and counted; an exception of `apply` stops the follower (see `failed`).
    """

    def __init__(
        self,
        settings: Settings,
        topics: Sequence[str],
        apply: Callable[[Event], None],
        codec: "Codec",
        *,
        name: str,
        offsets: Mapping[tuple[str, int], int] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Follow `topics` from `offsets` where given, else from the beginning."""
        self._settings, self._topics, self._apply, self._codec = settings, tuple(topics), apply, codec
        self._name, self._clock = name, clock or SystemClock()
        self._from = dict(offsets or {})
        self._positions: dict[tuple[str, int], int] = {}
        self._caught_up_at = 0.0
        self._failed: BaseException | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"follow-{name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for it."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def caught_up_at(self) -> float:
        """Return the monotonic time at whose beginning everything then in the logs has been applied; 0.0 before the first."""
        return self._caught_up_at

    def failed(self) -> BaseException | None:
        """Return the exception that stopped the follower, or None."""
        return self._failed

    def positions(self) -> dict[tuple[str, int], int]:
        """Return the next offset of each partition."""
        return dict(self._positions)

    async def wait_caught_up(self, timeout_s: float) -> None:
        """Wait until everything that is in the logs now has been applied; Unavailable after `timeout_s`, or what stopped it."""
        asked = self._clock.monotonic()
        while self._caught_up_at < asked:
            if self._failed is not None:
                raise self._failed
            if self._clock.monotonic() - asked > timeout_s:
                raise Unavailable(f"{self._name}: the logs could not be read to their end within {timeout_s:g} s")
            await asyncio.sleep(0.01)

    def _run(self) -> None:
        try:
            self._follow()
        except BaseException as error:
            log.exception("the follower %s stopped", self._name)
            self._failed = error

    def _follow(self) -> None:
        admin = admin_client(self._settings)
        partitions = self._partitions(admin)
        self._positions = {tp: self._from.get(tp, 0) for tp in partitions}
        consumer = make_consumer(self._settings, None, auto_offset_reset="earliest", enable_partition_eof=True)
        try:
            assign(consumer, {tp: self._from.get(tp, OFFSET_BEGINNING) for tp in partitions})
            self._read(consumer, _Ends(admin, partitions, self._clock))
        finally:
            consumer.close()

    def _partitions(self, admin: AdminClient) -> list[tuple[str, int]]:
        while True:
            try:
                return partitions_of(admin, self._topics)
            except Unavailable:
                if self._stopping.wait(ASK_EVERY_S):
                    return []

    def _read(self, consumer: Consumer, ends: "_Ends") -> None:
        while not self._stopping.is_set():
            ends.ask()
            if ends.satisfied_by(self._positions):
                self._caught_up_at = ends.began
                ends.clear()
            for message in take(consumer, min(_POLL_S, ends.pause_s())):
                self._take(message)

    def _take(self, message: Message) -> None:
        tp, error = (message.topic() or "", message.partition() or 0), message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self._positions[tp] = max(self._positions[tp], message.offset() or 0)
            elif not is_passing(error):
                raise KafkaException(error)
            return
        raw = to_raw(message)
        if self._codec.is_tombstone(raw):
            self._positions[tp] = raw.offset + 1
            return
        try:
            event = self._decoded(raw)
        except CodecError as wrong:
            metrics.FOLLOWER_SKIPPED.labels(self._name, wrong.code).inc()
        else:
            if event is None:
                return
            self._apply(event)
            metrics.FOLLOWER_APPLIED.labels(self._name).inc()
        self._positions[tp] = raw.offset + 1

    def _decoded(self, raw: Raw) -> Event | None:
        """Return the event, waited for while the registry is away: nothing counts as current meanwhile; None at the stop."""
        while True:
            try:
                return self._codec.decode(raw)
            except Unavailable as error:
                log.warning("%s: %s", self._name, error)
                if self._stopping.wait(ASK_EVERY_S):
                    return None


class _Ends:
    """The end offsets that are being caught up with, and when the request for them began.

    A target stays until it is reached: replacing one that is not reached by a newer one could go on for ever.
    """

    def __init__(self, admin: AdminClient, partitions: Sequence[tuple[str, int]], clock: Clock) -> None:
        self._admin, self._partitions, self._clock = admin, partitions, clock
        self._target: dict[tuple[str, int], int] | None = None
        self.began = 0.0
        self._asked_at = float("-inf")

    def satisfied_by(self, positions: Mapping[tuple[str, int], int]) -> bool:
        return self._target is not None and all(positions.get(tp, 0) >= end for tp, end in self._target.items())

    def clear(self) -> None:
        self._target = None

    def pause_s(self) -> float:
        """Return how long nothing is to be asked; what is waited for meanwhile wakes the reader by itself."""
        return max(0.0, self._asked_at + ASK_EVERY_S - self._clock.monotonic()) if self._target is None else _POLL_S

    def ask(self) -> None:
        now = self._clock.monotonic()
        if self._target is not None or now - self._asked_at < ASK_EVERY_S:
            return
        self._asked_at = self.began = now
        try:
            self._target = end_offsets(self._admin, self._partitions, _ASK_TIMEOUT_S)
        except Unavailable as error:
            log.warning("%s: %s", "end offsets", error)
