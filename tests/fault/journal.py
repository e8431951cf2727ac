"""What is known of a run with faults, from three witnesses that do not know each other.

The producer's: what was asked for and acknowledged (`Expected`, `Act`, `Poison`). The providers': every request that
reached one (`Hit`, from the sandbox's own file). The database's and the log's: decisions, requests, ledger rows and
reports. `tests.fault.checker` reads it; nothing here judges.
"""

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, LiteralString

from core.ids import delivery_id, discord_nonce, issue_id
from core.names import STATUS_EVENTS
from schemas.records import Event, Raw

PROVIDER_OF = {"email": "ses", "slack": "slack", "discord": "discord", "webhook": "webhook"}


@dataclass(frozen=True)
class Expected:
    """The producer's journal: this subscriber must be decided on for this source, on this channel."""

    source_id: str
    subscriber_id: str
    channel: str
    may_be_left_out: bool = False
    """They unsubscribed while the source was being decided."""
    gate: str = ""
    """They must be left out, for this reason."""


@dataclass(frozen=True)
class Act:
    """The producer's journal: somebody unsubscribed from a source's kind, or a source was stopped; acknowledged at `at`."""

    at: datetime
    reason: str
    subscriber_id: str | None = None
    """None: it holds for everybody."""
    source_id: str | None = None
    """None: it holds for every source."""
    until: datetime | None = None
    """When it was taken back."""

    def bars(self, subscriber_id: str, source_id: str) -> bool:
        """Whether it forbids a delivery."""
        return self.subscriber_id in (None, subscriber_id) and self.source_id in (None, source_id)


@dataclass(frozen=True)
class Poison:
    """The producer's journal: bytes that are no event, and where Kafka put them."""

    topic: str
    partition: int
    offset: int
    value: bytes
    what: str


@dataclass(frozen=True)
class Letter:
    """A dead letter: where the record was, its bytes and the reason."""

    topic: str
    partition: int
    offset: int
    value: bytes
    reason: str

    @classmethod
    def of(cls, headers: dict[str, bytes], value: bytes) -> "Letter":
        """Return it from its record's headers and the original bytes."""
        told = {name: text.decode() for name, text in headers.items() if name.startswith("dlq.")}
        return cls(told["dlq.topic"], int(told["dlq.partition"]), int(told["dlq.offset"]), value, told["dlq.reason"])


@dataclass(frozen=True)
class Decision:
    """One AudienceDecided as it stands in the log."""

    source_id: str
    shard: int
    chunk: int
    shards: int
    chunks: int
    offset: int
    population: int
    not_concerned: int
    chosen: dict[str, tuple[str, str]]
    """By delivery id: subscriber and channel."""
    gated: dict[tuple[str, str], str]
    """By subscriber and channel: the reason."""

    @classmethod
    def of(cls, event: Event) -> "Decision":
        """Return it from its event; ids are derived here anew, not taken from fan-out."""
        v = event.value
        chosen = {}
        for entry in v["chosen"]:
            subscriber, channel = _uuid(entry["subscriber"]), v["channels"][entry["channel"]]
            group = v["issue_groups"][entry["issue_group"]] if entry["issue_group"] >= 0 else None
            cause = v["source_id"] if group is None else issue_id(subscriber, v["newsletter_id"], group)
            one = delivery_id(cause, v["source_kind"], subscriber, channel, v["not_after"])
            chosen[one] = (subscriber, channel)
        gated = {
            (_uuid(entry["subscriber"]), v["channels"][entry["channel"]] if entry["channel"] >= 0 else "none"): v["reasons"][
                entry["reason"]
            ]
            for entry in v["gated"]
        }
        return cls(
            v["source_id"],
            v["shard"],
            v["chunk"],
            v["shards"],
            v["chunks"],
            event.offset,
            v["population"],
            v["not_concerned"],
            chosen,
            gated,
        )


def _uuid(data: bytes) -> str:
    text = data.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@dataclass(frozen=True)
class Requested:
    """One DeliveryRequested as it stands in the log."""

    delivery_id: str
    subscriber_id: str
    channel: str
    lane: str
    source_id: str
    partition: int
    offset: int
    digest: str
    topic: str = ""

    @classmethod
    def of(cls, event: Event, raw: Raw) -> "Requested":
        """Return it from its record."""
        v = event.value
        digest = hashlib.sha256(raw.value or b"").hexdigest()[:16]
        place = (raw.partition, raw.offset, digest, raw.topic)
        return cls(v["delivery_id"], v["subscriber_id"], v["channel"], v["lane"], v["source_id"], *place)


@dataclass(frozen=True)
class Claim:
    """The ledger's memory of one claim: a call for it began after `at`."""

    at: datetime
    call_ms: int | None
    """From the beginning of the call to its answer; None when nobody lived to note it, or no call was made."""


@dataclass(frozen=True)
class Row:
    """A row of the ledger."""

    delivery_id: str
    state: str
    reason: str | None
    attempt: int
    reported: bool
    claims: tuple[Claim, ...] = ()
    """The present one is the last; several when something was tried again, parked or overwritten."""
    outcome_at: datetime | None = None
    kept: bool = False
    """Whether the request is in the ledger, so that nobody needs Kafka's record any more."""

    @classmethod
    def of(cls, columns: tuple[Any, ...]) -> "Row":
        """Return it from the columns of `SELECT`."""
        delivery_id, state, reason, attempt, reported, claimed_at, call_ms, outcome_at, kept, history = columns
        earlier = [
            Claim(datetime.fromisoformat(entry["claimed_at"]), entry.get("call_ms"))
            for entry in history or ()
            if "claimed_at" in entry
        ]
        claims = (*earlier, Claim(claimed_at, call_ms))
        return cls(delivery_id, state, reason, attempt, reported, claims, outcome_at, kept)

    SELECT: ClassVar[LiteralString] = """
        SELECT
            to_char(day, 'YYYYMMDD') || '-' || delivery_id::text, state, reason, attempt, reported_at IS NOT NULL,
            claimed_at, call_ms, outcome_at, request IS NOT NULL, history
        FROM ledger.deliveries
    """


@dataclass(frozen=True)
class Status:
    """A report in delivery-status; `id` is its ce_id."""

    id: str
    delivery_id: str
    state: str
    reason: str | None
    attempt: int
    at: datetime

    @classmethod
    def of(cls, event: Event) -> "Status":
        """Return it from its event."""
        v = event.value
        return cls(event.id, v["delivery_id"], STATUS_EVENTS[event.name], v["reason"], v["attempt"], v["occurred_at"])


@dataclass(frozen=True)
class Hit:
    """A message that reached a provider; key is the id that the provider saw."""

    n: int
    at: datetime
    provider: str
    key: str
    outcome: str
    status: int = 0
    """Of the answer, by HTTP."""


@dataclass(frozen=True)
class Early:
    """An offset that was seen to be committed although a delivery below it had no durable outcome yet."""

    delivery_id: str
    committed: int
    state: str = ""
    """Of the delivery then; empty when the ledger knew nothing of it."""


@dataclass(frozen=True)
class Commit:
    """Kafka's own record that a sink's group committed an offset."""

    topic: str
    partition: int
    offset: int
    at: datetime


@dataclass(frozen=True)
class Rebalance:
    """Kafka's own record that the members of a topic's sink changed."""

    topic: str
    at: datetime


@dataclass
class Journal:
    """All that is known of a run; `decisions` is None where only a sink is tested."""

    expected: list[Expected] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)
    poison: list[Poison] = field(default_factory=list)
    decisions: list[Decision] | None = None
    requests: list[Requested] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    statuses: list[Status] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)
    others: set[tuple[str, str]] = field(default_factory=set)
    """(provider, key) of deliveries of earlier runs, which may be sent again now; they are judged in the closing check."""
    early: list[Early] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    rebalances: list[Rebalance] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    accounting: list[dict[str, Any]] = field(default_factory=list)
    """Rows of api.accounting of the sources."""


def key_at_provider(delivery_id: str, channel: str) -> tuple[str, str]:
    """Return (provider, id) under which a provider counts a delivery."""
    return PROVIDER_OF[channel], discord_nonce(delivery_id) if channel == "discord" else delivery_id


def read_hits(path: Path, after: int = 0, providers: Collection[str] = tuple(PROVIDER_OF.values())) -> list[Hit]:
    """Return the messages in the sandbox's file that came after number `after`; edits of earlier ones are no deliveries."""
    if not path.exists():
        return []
    lines: Iterable[dict[str, Any]] = (
        json.loads(line) for line in path.read_text().splitlines(keepends=True) if line[-1] == "\n"
    )
    return [
        Hit(one["n"], datetime.fromisoformat(one["at"]), one["provider"], one["delivery_id"], one["outcome"], one["status"])
        for one in lines
        if one["n"] > after and one["provider"] in providers and one["outcome"] != "updated"
    ]
