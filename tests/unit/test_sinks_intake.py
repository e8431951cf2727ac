"""The consuming half of a sink, with a client of Kafka that stands in: when it is called."""

import asyncio
import threading
import time
from typing import Any, cast

from confluent_kafka import TopicPartition

from runtime.settings import Settings
from schemas.topics import Topics
from sinks import intake
from sinks.flight import Flight


class Client:
    """A consumer with nothing to read, which notes whether two calls of it were under way at once."""

    def __init__(self) -> None:
        self.polls, self.commits, self.beside = 0, 0, 0
        self._busy = threading.Lock()

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return self._busy.locked()

    def _call(self, lasting_s: float) -> None:
        if not self._busy.acquire(blocking=False):
            self.beside += 1
            return
        time.sleep(lasting_s)
        self._busy.release()

    def subscribe(self, *_: Any, **__: Any) -> None:
        """Join nothing."""

    def poll(self, _timeout_s: float) -> None:
        """Return nothing, later."""
        self.polls += 1
        self._call(0.1)

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        """Note it."""
        self._call(0.01)
        self.commits += 1


async def test_a_commit_takes_its_turn_beside_polls(monkeypatch: Any) -> None:
    """The client lets in one call at a time and no queue: a commit waited there for seconds while there was nothing to read."""
    client = Client()
    monkeypatch.setattr(intake, "make_consumer", lambda *_, **__: client)
    flow = type("Flow", (), {"blocked": False})()
    flight = Flight(10)
    settings: Any = Settings()
    rest: Any = None
    one = intake.Intake(
        settings, Topics("t", 1), rest, rest, rest, rest, rest, flight, cast(Any, flow), cast(Any, time), channel="email",
        lane="bulk", batch=1,
    )  # fmt: skip
    one.open()
    flight.offsets.assign(0)
    polling = asyncio.create_task(one.poll())
    for offset in range(3):
        position = flight.offsets.begin(0, offset)
        assert position is not None
        flight.offsets.finish(position)
        while not client.busy:
            await asyncio.sleep(0.001)
        await one.commit_now()
    flight.stopping = True
    await polling
    assert (client.commits, client.beside) == (3, 0)
