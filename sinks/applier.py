"""The consent process: folds consent events into ledger.barred, and says how current that is.

Consumes subscribers, publications, alerts and controls without a group, from the offsets in ledger.consent_progress.
State: ledger.barred and ledger.consent_progress, written together in one transaction, so that a crash repeats nothing
that is not harmless. Order: per partition; subjects of different partitions never meet. Guarantee: caught_up_at of a
partition is an instant, by the database's clock, up to which all its events are applied. One process at a time: an
advisory lock makes a second one wait.
"""

import logging
import signal
import threading
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from types import FrameType
from typing import Any, Final

import psycopg
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Message

from core.errors import CodecError, SetupError, Unavailable
from runtime import metrics
from runtime.clock import Clock, SystemClock
from runtime.failpoints import hit
from runtime.kafka import admin_client, assign, end_offsets, is_passing, make_consumer, partitions_of, take, to_raw
from runtime.postgres import connect
from runtime.retry import backoff
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.records import Event
from schemas.registry import RegistrySource
from schemas.topics import Topics
from sinks.consent import LIST_LIFETIME, Bar, Change, Lift, Spare, consent_changes, merged
from sinks.knowledge import Wanted, consent_topics
from sinks.ledger import NOT_MIGRATED

ASK_EVERY_S: Final = 0.4
"""How often the ends of the logs are asked for, well within the lag that claims allow."""
FORGET_EVERY_S: Final = 3600.0
_ASK_TIMEOUT_S: Final = 2.0
_POLL_S: Final = 0.1
"""Longest wait for a record while the ends that were asked for are not reached; else until they are asked for again."""
_LOCK: Final = 0x636F6E73
"""Advisory lock of the consent process ('cons')."""

_BAR: Final = """
INSERT INTO ledger.barred (subject, reason, since, topic, partition, "offset", except_for)
SELECT subject, reason, since, topic, partition, "offset", string_to_array(list, E'\\x1f')
FROM unnest(%s::text[], %s::text[], %s::timestamptz[], %s::text[], %s::int[], %s::bigint[], %s::text[])
    AS given (subject, reason, since, topic, partition, "offset", list)
ON CONFLICT (subject) DO UPDATE SET
    reason = excluded.reason, since = excluded.since, topic = excluded.topic, partition = excluded.partition,
    "offset" = excluded."offset", except_for = excluded.except_for
"""
_SPARE: Final = """
UPDATE ledger.barred b SET except_for = ARRAY[given.exception], since = given.since
FROM unnest(%s::text[], %s::text[], %s::timestamptz[]) AS given (subject, exception, since)
WHERE b.subject = given.subject
"""
_LIFT: Final = "DELETE FROM ledger.barred WHERE subject = ANY(%s::text[])"
_PROGRESS: Final = """
UPDATE ledger.consent_progress p SET next_offset = given.next_offset
FROM unnest(%s::text[], %s::int[], %s::bigint[]) AS given (topic, partition, next_offset)
WHERE p.topic = given.topic AND p.partition = given.partition
"""
_NEW: Final = """
INSERT INTO ledger.consent_progress (topic, partition, next_offset, caught_up_at)
SELECT topic, partition, 0, '-infinity' FROM unnest(%s::text[], %s::int[]) AS given (topic, partition) ON CONFLICT DO NOTHING
"""
_CURRENT: Final = "UPDATE ledger.consent_progress SET caught_up_at = %s WHERE topic = ANY(%s::text[])"
_FORGET: Final = "DELETE FROM ledger.barred WHERE except_for <> '{}' AND since < clock_timestamp() - %s::interval"

log = logging.getLogger(__name__)
_Partition = tuple[str, int]
_Change = tuple[Change, Event]


class Applier:
    """The consent process."""

    def __init__(self, settings: Settings, *, codec: Codec | None = None, clock: Clock | None = None) -> None:
        """SetupError when the ledger's database is not named."""
        settings.require("ledger_database_url")
        self._settings = settings
        self._clock: Clock = clock or SystemClock()
        self._topics = Topics(settings.topic_prefix, settings.shards)
        self._followed = list(consent_topics(self._topics))
        self._codec = Wanted(codec or Codec(self._topics, RegistrySource(settings.schema_registry_url)))
        self._stopping = threading.Event()
        self._positions: dict[_Partition, int] = {}
        self._target: tuple[datetime, dict[_Partition, int]] | None = None
        self._asked_at = self._forgot_at = float("-inf")

    def stop(self) -> None:
        """Let `run` end after the batch in hand."""
        self._stopping.set()

    def run(self) -> None:
        """Apply consent until stopped. A silent database or broker is waited for; the sinks wait meanwhile, too."""
        attempt = 0
        while not self._stopping.is_set():
            try:
                with connect(self._settings.ledger_database_url, autocommit=True) as connection:
                    if self._locked(connection):
                        self._follow(connection)
                attempt = 0
            except NOT_MIGRATED as error:
                raise SetupError(f"the ledger has no schema ({str(error).splitlines()[0]}): run `newswire migrate`.") from error
            except (Unavailable, psycopg.OperationalError) as error:
                attempt += 1
                log.warning("consent: %s", error)
                self._stopping.wait(backoff(attempt))

    def _locked(self, connection: psycopg.Connection) -> bool:
        while not self._stopping.is_set():
            row = connection.execute(
                "SELECT pg_try_advisory_lock(%s, hashtext(%s))", [_LOCK, self._settings.topic_prefix]
            ).fetchone()
            if row is not None and row[0]:
                return True
            self._stopping.wait(0.2)
        return False

    def _follow(self, connection: psycopg.Connection) -> None:
        admin = admin_client(self._settings)
        partitions = partitions_of(admin, self._followed)
        connection.execute(_NEW, [[t for t, _ in partitions], [p for _, p in partitions]])
        rows = connection.execute(
            "SELECT topic, partition, next_offset FROM ledger.consent_progress WHERE topic = ANY(%s)", [self._followed]
        )
        self._positions = {(topic, partition): offset for topic, partition, offset in rows.fetchall()}
        self._target = None
        consumer = make_consumer(self._settings, None, enable_partition_eof=True)
        try:
            assign(consumer, {tp: offset or OFFSET_BEGINNING for tp, offset in self._positions.items()})
            log.info("consent runs from %s offsets", len(self._positions))
            while not self._stopping.is_set():
                self._mark_current(connection)
                self._ask(connection, partial(end_offsets, admin, partitions, _ASK_TIMEOUT_S))
                self._apply(connection, take(consumer, self._pause_s()))
                self._forget(connection)
        finally:
            consumer.close()

    def _mark_current(self, connection: psycopg.Connection) -> None:
        if self._target is not None and all(self._positions.get(tp, 0) >= end for tp, end in self._target[1].items()):
            connection.execute(_CURRENT, [self._target[0], self._followed])
            self._target = None

    def _pause_s(self) -> float:
        """Return how long nothing is to be done but to wait for a record."""
        return _POLL_S if self._target is not None else max(0.0, self._asked_at + ASK_EVERY_S - self._clock.monotonic())

    def _ask(self, connection: psycopg.Connection, ends: Any) -> None:
        now = self._clock.monotonic()
        if self._target is not None or now - self._asked_at < ASK_EVERY_S:
            return
        self._asked_at = now
        row = connection.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None
        self._target = (row[0], ends())

    def _apply(self, connection: psycopg.Connection, messages: Sequence[Message]) -> None:
        moved: dict[_Partition, int] = {}
        changes: dict[str, _Change] = {}
        for message in messages:
            tp, error = (message.topic() or "", message.partition() or 0), message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    self._positions[tp] = max(self._positions[tp], message.offset() or 0)
                elif not is_passing(error):
                    raise KafkaException(error)
                continue
            event = self._decoded(message)
            if event is not None:
                # the changes of a subject in a batch are all of one partition, so they are in order
                for change in consent_changes(event):
                    before = changes.get(change.subject)
                    changes[change.subject] = merged(before[0] if before else None, change), event
            moved[tp] = (message.offset() or 0) + 1
        if moved:
            self._write(connection, moved, changes)
            self._positions.update(moved)

    def _decoded(self, message: Message) -> Event | None:
        raw, attempt = to_raw(message), 0
        while True:
            try:
                return self._codec.decode(raw)
            except CodecError as error:
                metrics.FOLLOWER_SKIPPED.labels("consent", error.code).inc()
                return None
            except Unavailable as error:
                attempt += 1
                log.warning("consent: %s", error)
                if self._stopping.wait(backoff(attempt)):
                    raise

    def _write(self, connection: psycopg.Connection, moved: dict[_Partition, int], changes: dict[str, _Change]) -> None:
        bars = [(change, event) for change, event in changes.values() if isinstance(change, Bar)]
        spares = [(change, event) for change, event in changes.values() if isinstance(change, Spare)]
        lifts = [subject for subject, (change, _) in changes.items() if isinstance(change, Lift)]
        with connection.transaction():
            if bars:
                connection.execute(
                    _BAR,
                    [
                        [_clean(change.subject) for change, _ in bars],
                        [change.reason for change, _ in bars],
                        [event.time for _, event in bars],
                        [event.topic for _, event in bars],
                        [event.partition for _, event in bars],
                        [event.offset for _, event in bars],
                        [None if change.except_for is None else _clean("\x1f".join(change.except_for)) for change, _ in bars],
                    ],
                )
            if spares:
                columns = zip(*((_clean(change.subject), change.exception, event.time) for change, event in spares), strict=True)
                connection.execute(_SPARE, [list(column) for column in columns])
            if lifts:
                connection.execute(_LIFT, [[_clean(subject) for subject in lifts]])
            connection.execute(_PROGRESS, [[t for t, _ in moved], [p for _, p in moved], list(moved.values())])
            hit("consent.before_commit")
        hit("consent.after_commit")

    def _forget(self, connection: psycopg.Connection) -> None:
        """Drop lists of newsletters that are older than every living delivery."""
        if self._clock.monotonic() - self._forgot_at > FORGET_EVERY_S:
            self._forgot_at = self._clock.monotonic()
            connection.execute(_FORGET, [LIST_LIFETIME])


def _clean(text: str) -> str:
    """Return the text without NUL, which PostgreSQL cannot hold; no delivery has one in its ids (sinks/delivery.py)."""
    return text.replace("\0", "")


def run(settings: Settings) -> int:
    """Run the consent process until SIGTERM; for the command."""
    applier = Applier(settings)

    def end(number: int, frame: FrameType | None) -> None:
        applier.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    metrics.serve(settings.metrics_port)
    applier.run()
    return 0
