"""What is watched while a run goes on: the ledger's rows, and what the consumer groups have committed."""

import contextlib
import threading
from collections.abc import Iterable
from typing import Any

import psycopg
from confluent_kafka import TopicPartition

from core.errors import CodecError
from core.names import CHANNELS, LANES
from runtime.kafka import admin_client, end_offsets, make_consumer, read_range
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.topics import Topics
from tests.fault.journal import Early, Requested, Row
from tests.fault.patience import PASSING, Places, insist


def ledger_rows(settings: Settings, delivery_ids: list[str]) -> list[Row]:
    """Return the rows of these deliveries in the ledger of these settings."""
    uuids = [one.partition("-")[2] for one in delivery_ids]
    with psycopg.connect(settings.ledger_database_url, connect_timeout=2) as connection:
        found = connection.execute(Row.SELECT + "WHERE delivery_id = ANY(%s::uuid[])", [uuids]).fetchall()
    return [Row.of(columns) for columns in found]


class Groups:
    """What consumer groups have committed, asked as a member would ask: admin requests do not survive a broker's crash."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._consumers = settings, dict[str, Any]()

    def committed(self, group: str, places: Iterable[tuple[str, int]]) -> Places:
        """Return the committed offsets; places without one are left out. KafkaException while Kafka does not say."""
        if group not in self._consumers:
            self._consumers[group] = make_consumer(self._settings, group)
        found = self._consumers[group].committed([TopicPartition(*place) for place in places], timeout=3.0)
        return {(tp.topic, tp.partition): tp.offset for tp in found if tp.offset >= 0}


class Watch(threading.Thread):
    """Looks on while a run goes on: what was requested, and whether offsets are committed before its outcome is durable.

    Committed offsets are read before the ledger, so that what is below them must be in it already: with an outcome, or with
    the request itself, from which a sweeper goes on.
    """

    def __init__(self, settings: Settings, topics: dict[str, str], since: Places, codec: Codec, every_s: float = 0.7) -> None:
        """`topics` maps the topics of deliveries to the consumer groups of their sinks."""
        super().__init__(daemon=True, name="watch")
        self._settings, self._topics, self._places, self._codec, self._every_s = settings, topics, dict(since), codec, every_s
        self._admin, self._groups, self._ended = admin_client(settings), Groups(settings), threading.Event()
        self._open: dict[tuple[str, int], list[Requested]] = {}
        self.requests: list[Requested] = []
        self.early: list[Early] = []
        self.looks = 0

    def run(self) -> None:
        """Look until it is ended."""
        while not self._ended.wait(self._every_s):
            with contextlib.suppress(*PASSING):
                self.look()

    def end(self) -> None:
        """Look a last time and end."""
        self._ended.set()
        self.join()
        insist(self.look)

    def look(self) -> None:
        """Read what is new, then the committed offsets, then the ledger."""
        ends = end_offsets(self._admin, list(self._places), 5.0)
        for raw in list(read_range(self._settings, self._places, ends, stall_s=5.0)):
            with contextlib.suppress(CodecError):
                request = Requested.of(self._codec.decode(raw), raw)
                self.requests.append(request)
                self._open.setdefault((raw.topic, raw.partition), []).append(request)
            self._places[raw.topic, raw.partition] = raw.offset + 1
        committed: Places = {}
        for topic, group in self._topics.items():
            committed |= self._groups.committed(group, [place for place in self._places if place[0] == topic])
        done = {
            request.delivery_id: committed[place]
            for place, open_ in self._open.items()
            for request in open_
            if request.offset < committed.get(place, 0)
        }
        if done:
            rows = {row.delivery_id: row for row in ledger_rows(self._settings, list(done))}
            for one, offset in done.items():
                row = rows.get(one)
                if row is None or (row.outcome_at is None and not row.kept):
                    self.early.append(Early(one, offset, row.state if row else ""))
            for place, open_ in self._open.items():
                self._open[place] = [request for request in open_ if request.offset >= committed.get(place, 0)]
        self.looks += 1


def sink_groups(topics: Topics) -> dict[str, str]:
    """Return the consumer group of the sink of every topic of deliveries."""
    return {topics.deliveries(channel, lane): f"{topics.prefix}.sink.{channel}.{lane}" for channel in CHANNELS for lane in LANES}
