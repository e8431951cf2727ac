"""What the tests of the read models share: events as they come from the topics, a database, and a place to apply them."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from core.ids import delivery_id, issue_id
from projections.model import Projection
from projections.store import create_tables
from schemas.records import Event
from schemas.topics import Topics

TOPICS = Topics("unit", 2)
AT = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
NOT_AFTER = AT + timedelta(days=36_500)
"""Later than any day on which these tests run: what is past it is finished."""
SOURCE = "daily@2026-11-22T09:00Z"
ALERT = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


def subscriber(number: int) -> str:
    """Return the id of the n-th subscriber."""
    return str(uuid.UUID(int=0xA0000000_0000_4000_8000_000000000000 + number))


def event(name: str, value: dict[str, Any], topic: str, offset: int = 0, partition: int = 0, key: str = "") -> Event:
    """Return an event as the codec returns it."""
    return Event(name, value, key, f"{topic}/{partition}/{offset}", "/test", AT, topic, partition, offset, None, None, None)


def decided(
    chosen: Sequence[tuple[int, str]] = (),
    gated: Sequence[tuple[int, str, str]] = (),
    *,
    population: int = 10,
    source_id: str = SOURCE,
    shard: int = 0,
    chunk: int = 0,
    chunks: int = 1,
    shards: int = 1,
    offset: int = 0,
    at: datetime = AT,
    not_concerned: dict[str, int] | None = None,
    variants: dict[int, str] | None = None,
    topics: Topics = TOPICS,
) -> Event:
    """Return an AudienceDecided; chosen is (subscriber, channel), gated is (subscriber, channel or none, reason)."""
    kind = "newsletter" if "@" in source_id else "alert"
    channels = sorted({c for _, c in chosen} | {c for _, c, _ in gated if c != "none"})
    reasons = sorted({r for _, _, r in gated})
    has = variants or {}
    names = sorted(set(has.values()))
    people = {n for n, _ in chosen} | {n for n, _, _ in gated}
    if not_concerned is None:
        taken = [c for _, c in chosen] + [c for _, c, _ in gated]
        not_concerned = {c: population - taken.count(c) for c in ("email", "slack", "discord", "webhook", "none")}
    value = {
        "shard": shard, "shards": shards, "source_id": source_id, "source_kind": kind,
        "newsletter_id": "daily" if kind == "newsletter" else None, "newsletter_revision": 1 if kind == "newsletter" else None,
        "slot_at": AT if kind == "newsletter" else None, "lane": "bulk" if kind == "newsletter" else "urgent",
        "priority": "normal", "chunk": chunk, "chunks": chunks, "not_after": NOT_AFTER,
        "alert_partition": None, "alert_offset": None, "dedup_key": None,
        "channels": channels, "languages": ["en"], "issue_groups": ["2026-11-22T09:00"], "reasons": reasons, "variants": names,
        "publications": [],
        "chosen": [
            {"subscriber": uuid.UUID(subscriber(n)).bytes, "channel": channels.index(c), "address": b"\x01" + bytes(40),
             "language": 0, "issue_group": 0 if kind == "newsletter" else -1, "items": [],
             "variant": names.index(has[n]) if n in has else -1}
            for n, c in chosen
        ],
        "gated": [
            {"subscriber": uuid.UUID(subscriber(n)).bytes, "channel": channels.index(c) if c != "none" else -1,
             "reason": reasons.index(r)}
            for n, c, r in gated
        ],
        "population": population, "not_concerned": population - len(people),
        "channel_counts": [{"channel": c, "not_concerned": n} for c, n in not_concerned.items()],
        "applied": [], "model_version": None, "tzdata_version": "2026b", "code_version": "test", "decided_at": at,
    }  # fmt: skip
    lane = value["lane"]
    return event("AudienceDecided", value, topics.decisions(str(lane)), offset, shard, f"{source_id}/{chunk}")


def id_of(number: int, channel: str, source_id: str = SOURCE) -> str:
    """Return the delivery id that a decision of this source stands for."""
    kind = "newsletter" if "@" in source_id else "alert"
    cause = issue_id(subscriber(number), "daily", "2026-11-22T09:00") if kind == "newsletter" else source_id
    return delivery_id(cause, kind, subscriber(number), channel, NOT_AFTER)


def requested(number: int, channel: str, *, source_id: str = SOURCE, offset: int = 0, topics: Topics = TOPICS) -> Event:
    """Return the DeliveryRequested of one chosen delivery."""
    kind, lane = ("newsletter", "bulk") if "@" in source_id else ("alert", "urgent")
    value = {
        "delivery_id": id_of(number, channel, source_id), "subscriber_id": subscriber(number), "source_id": source_id,
        "source_kind": kind, "cause_id": source_id, "channel": channel, "lane": lane, "priority": "normal",
        "newsletter_id": "daily" if kind == "newsletter" else None, "newsletter_revision": 1 if kind == "newsletter" else None,
        "issue_group": "2026-11-22T09:00" if kind == "newsletter" else None, "address": b"\x01" + bytes(40), "language": "en",
        "items": [], "alert_partition": None, "alert_offset": None, "variant": None, "not_after": NOT_AFTER,
        "decision_partition": 0, "decision_offset": 0, "decided_at": AT,
    }  # fmt: skip
    return event("DeliveryRequested", value, topics.deliveries(channel, lane), offset, 0, subscriber(number))


def status(
    name: str, number: int, channel: str, *, after_s: float = 1.0, reason: str | None = None, source_id: str = SOURCE,
    offset: int = 0, topics: Topics = TOPICS, attempt: int = 1, template: str | None = "newsletter@1a2b3c4d",
) -> Event:  # fmt: skip
    """Return a delivery-status event, such as DeliverySent."""
    kind, lane = ("newsletter", "bulk") if "@" in source_id else ("alert", "urgent")
    value = {
        "delivery_id": id_of(number, channel, source_id), "subscriber_id": subscriber(number), "source_id": source_id,
        "source_kind": kind, "channel": channel, "lane": lane, "reason": reason, "provider_receipt_hash": None,
        "attempt": attempt, "template": template, "occurred_at": AT + timedelta(seconds=after_s),
    }  # fmt: skip
    return event(name, value, topics.delivery_status, offset, 0, subscriber(number))


@contextmanager
def database(owner_url: str) -> Iterator[str]:
    """Create a database of this test's own and drop it afterwards."""
    name = f"projections_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(owner_url, autocommit=True) as owner:
        owner.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        try:
            yield make_conninfo(owner_url, dbname=name)
        finally:
            owner.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


class Scratch:
    """A projection's tables and views without Kafka: batches are applied straight to them."""

    def __init__(self, url: str, projection: Projection) -> None:
        self.projection = projection
        self.connection = psycopg.connect(url, autocommit=True, options="-c synchronous_commit=off")
        self.clear()

    def clear(self) -> None:
        """Begin again with empty tables."""
        with self.connection.transaction():
            self.connection.execute("drop schema if exists scratch cascade")
            self.connection.execute("create schema if not exists api")
            create_tables(self.connection, self.projection, "scratch")
            self.connection.execute(self.projection.views_sql.encode())
        self.connection.execute("set search_path to scratch")

    def empty(self) -> None:
        """Empty the tables, which is faster than making them again."""
        self.connection.execute(f"truncate {', '.join(self.projection.tables)}".encode())

    def apply(self, events: Sequence[Event]) -> None:
        """Apply one batch in one transaction."""
        with self.connection.transaction():
            for statement in self.projection.apply(events):
                self.connection.execute(statement.sql, statement.params)

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return all rows of all tables, sorted."""
        return {
            t: sorted(self.connection.execute(f"select * from {t}".encode()).fetchall(), key=repr) for t in self.projection.tables
        }

    def view(self, name: str, where: str = "true", columns: str = "*") -> list[dict[str, Any]]:
        """Return the rows of a view as dictionaries."""
        cursor = self.connection.cursor(row_factory=psycopg.rows.dict_row)
        return cursor.execute(f"select {columns} from api.{name} where {where} order by 1, 2, 3".encode()).fetchall()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()
