"""Deterministic identifiers: the same cause always gives the same id, so that doing a step twice changes nothing.

All are UUIDv5 under namespaces of Newswire's own (RFC 9562, section 5.5).
"""

import base64
import hashlib
import re
import uuid
import zlib
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Final

NAMESPACE = uuid.UUID("6f1d4f0e-4c0b-5a53-9f0f-6f9e2a6f3a11")
"""Root namespace, chosen once; changing it would send everything again."""


_NAMESPACE_BYTES: Final = NAMESPACE.bytes
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TEST: Final = "#test-"
_DAYS: Final = 64
"""Days whose date is remembered: those that the ledger has."""


def deterministic_id(*parts: str) -> uuid.UUID:
    """Return the UUIDv5 of the parts; parts must not contain the unit separator (U+001F)."""
    return uuid.uuid5(NAMESPACE, "\x1f".join(parts))


def deterministic_text(*parts: str) -> str:
    """Return the text of deterministic_id (RFC 9562, section 5.5) in a third of its time."""
    h = hashlib.sha1(_NAMESPACE_BYTES + "\x1f".join(parts).encode(), usedforsecurity=False).hexdigest()
    return f"{h[:8]}-{h[8:12]}-5{h[13:16]}-{_VARIANT[h[16]]}{h[17:20]}-{h[20:32]}"


def minute_text(minute: datetime) -> str:
    """Return an aware instant as its UTC minute, such as 2026-11-22T09:00Z."""
    return minute.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ")


def newsletter_source_id(newsletter_id: str, slot_at: datetime, test_subscriber: str | None = None) -> str:
    """Return the source id of a newsletter's slot, such as daily@2026-11-22T09:00Z; of a test send, it ends in #test-0c8a3a6b."""
    slot = f"{newsletter_id}@{minute_text(slot_at)}"
    return slot if test_subscriber is None else f"{slot}{_TEST}{tick_id(slot_at, newsletter_id, test_subscriber)[:8]}"


def is_test(source_id: str) -> bool:
    """Return whether a source is a test send: one person got it to look at, and nothing of it counts as had or given."""
    return _TEST in source_id


def tick_id(minute: datetime, newsletter_id: str | None, test_subscriber: str | None = None) -> str:
    """Return the deterministic id of a tick."""
    test = [] if test_subscriber is None else [test_subscriber]
    return deterministic_text("tick", minute_text(minute), newsletter_id or "", *test)


def issue_id(subscriber_id: str, newsletter_id: str, issue_group: str) -> str:
    """Return the id of one subscriber's issue for one nominal local slot."""
    return deterministic_text("issue", subscriber_id, newsletter_id, issue_group)


def delivery_id(cause_id: str, kind: str, subscriber_id: str, channel: str, not_after: datetime) -> str:
    """Return day-uuid: the UTC day of not_after (the ledger's partition) and UUIDv5(cause, kind, subscriber, channel).

    cause_id is the alert_id of an alert and the issue_id of a newsletter's issue; kind is alert or newsletter.
    """
    day = not_after.astimezone(UTC).strftime("%Y%m%d")
    return f"{day}-{deterministic_text('delivery', cause_id, kind, subscriber_id, channel)}"


def ledger_key(delivery_id: str) -> tuple[date, str]:
    """Return the ledger's primary key of a delivery id, the day and the UUID as text; ValueError when it is none."""
    day, _, rest = delivery_id.partition("-")
    try:
        if len(day) == 8 and day.isdigit():
            return _day(day), rest if _UUID.fullmatch(rest) else str(uuid.UUID(rest))
    except ValueError:
        pass
    raise ValueError(f"{delivery_id!r} is no delivery id: expected YYYYMMDD-uuid, such as 20261123-{uuid.UUID(int=0)}")


def split_delivery_id(delivery_id: str) -> tuple[date, uuid.UUID]:
    """Return the same key with the UUID as an object."""
    day, text = ledger_key(delivery_id)
    return day, uuid.UUID(text)


def uuid_bytes(text: str) -> bytes:
    """Return the 16 bytes of a UUID's text, in a fifth of the time of uuid.UUID; ValueError when it is none."""
    found = bytes.fromhex(text.replace("-", ""))
    if len(found) != 16:
        raise ValueError(f"{text!r} is no UUID")
    return found


@lru_cache(maxsize=_DAYS)
def _day(text: str) -> date:
    return date(int(text[:4]), int(text[4:6]), int(text[6:]))


@lru_cache(maxsize=_DAYS)
def day_text(day: date) -> str:
    """Return a day as the first part of a printed delivery id, such as 20261123."""
    return f"{day:%Y%m%d}"


def discord_nonce(delivery_id: str) -> str:
    """Return the nonce of a delivery on Discord: base64url of 16 bytes of its SHA-256, 22 characters of at most 25."""
    return base64.urlsafe_b64encode(hashlib.sha256(delivery_id.encode()).digest()[:16]).rstrip(b"=").decode()


def event_id(*parts: str) -> str:
    """Return a deterministic ce_id for an event that a stage derives from another."""
    return deterministic_text("event", *parts)


def chunk_of(subscriber_id: str, chunks: int) -> int:
    """Return the chunk, 0 to chunks - 1, of a subscriber: a fixed range of a hash, independent of who else is there."""
    return zlib.crc32(subscriber_id.encode()) * chunks >> 32
