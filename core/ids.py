"""Deterministic identifiers: the same cause always gives the same id, so that doing a step twice changes nothing.

All are UUIDv5 under namespaces of Newswire's own (RFC 9562, section 5.5).
"""

import base64
import hashlib
import uuid
import zlib
from datetime import UTC, date, datetime

NAMESPACE = uuid.UUID("6f1d4f0e-4c0b-5a53-9f0f-6f9e2a6f3a11")
"""Root namespace, chosen once; changing it would send everything again."""


def deterministic_id(*parts: str) -> uuid.UUID:
    """Return the UUIDv5 of the parts; parts must not contain the unit separator (U+001F)."""
    return uuid.uuid5(NAMESPACE, "\x1f".join(parts))


def minute_text(minute: datetime) -> str:
    """Return an aware instant as its UTC minute, such as 2026-11-22T09:00Z."""
    return minute.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ")


def newsletter_source_id(newsletter_id: str, slot_at: datetime) -> str:
    """Return the source id of a newsletter's slot, such as daily@2026-11-22T09:00Z."""
    return f"{newsletter_id}@{minute_text(slot_at)}"


def tick_id(minute: datetime, newsletter_id: str | None) -> str:
    """Return the deterministic id of a tick."""
    return str(deterministic_id("tick", minute_text(minute), newsletter_id or ""))


def issue_id(subscriber_id: str, newsletter_id: str, issue_group: str) -> str:
    """Return the id of one subscriber's issue for one nominal local slot."""
    return str(deterministic_id("issue", subscriber_id, newsletter_id, issue_group))


def delivery_id(cause_id: str, kind: str, subscriber_id: str, channel: str, not_after: datetime) -> str:
    """Return day-uuid: the UTC day of not_after (the ledger's partition) and UUIDv5(cause, kind, subscriber, channel).

    cause_id is the alert_id of an alert and the issue_id of a newsletter's issue; kind is alert or newsletter.
    """
    day = not_after.astimezone(UTC).strftime("%Y%m%d")
    return f"{day}-{deterministic_id('delivery', cause_id, kind, subscriber_id, channel)}"


def split_delivery_id(value: str) -> tuple[date, uuid.UUID]:
    """Return the ledger's primary key (day, uuid) of a delivery id; ValueError when it is none."""
    day, _, rest = value.partition("-")
    try:
        if len(day) == 8 and day.isdigit():
            return date(int(day[:4]), int(day[4:6]), int(day[6:])), uuid.UUID(rest)
    except ValueError:
        pass
    raise ValueError(f"{value!r} is no delivery id: expected YYYYMMDD-uuid, such as 20261123-{uuid.UUID(int=0)}")


def discord_nonce(delivery_id: str) -> str:
    """Return the nonce of a delivery on Discord: base64url of 16 bytes of its SHA-256, 22 characters of at most 25."""
    return base64.urlsafe_b64encode(hashlib.sha256(delivery_id.encode()).digest()[:16]).rstrip(b"=").decode()


def event_id(*parts: str) -> str:
    """Return a deterministic ce_id for an event that a stage derives from another."""
    return str(deterministic_id("event", *parts))


def chunk_of(subscriber_id: str, chunks: int) -> int:
    """Return the chunk, 0 to chunks - 1, of a subscriber: a fixed range of a hash, independent of who else is there."""
    return zlib.crc32(subscriber_id.encode()) * chunks >> 32
