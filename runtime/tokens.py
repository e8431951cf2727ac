"""Tokens in unsubscribe links: all that an unsubscribe needs, under a MAC, so that it asks no database.

A token is base64url without padding of

    version 1 | purpose 1 | key id length 1 | key id | expiry 4 | subscriber 16 | delivery day 4 | delivery uuid 16
    | kind 1 | newsletter_id (UTF-8, the rest) | MAC 16

with big-endian numbers, the expiry in Unix seconds, and HMAC-SHA256 over a label and all before it, cut to 16 bytes
(128 bits, the least that RFC 2104 and NIST SP 800-107 advise). It holds ids only, no personal data.
"""

import base64
import binascii
import hmac
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final, Self

from core.errors import SetupError
from core.ids import ledger_key, split_delivery_id, uuid_bytes
from runtime.settings import Settings

VERSION: Final = 1
UNSUBSCRIBE: Final = 1
"""Purpose byte; a token for one purpose is malformed for every other."""

LIFETIME: Final = timedelta(days=90)
"""How long a link works: people unsubscribe from old mail, and CAN-SPAM asks for 30 days at least."""

MAC_BYTES: Final = 16
MAX_CHARACTERS: Final = 512
"""Longer texts are no token of ours and are not decoded."""

_LABEL = b"newswire.link\x00"
_KINDS: Final = ("newsletter", "alert")
_NO_UUID = bytes(16)
_LINK = re.compile(r"/u/([A-Za-z0-9_-]{60,512})")


@dataclass(frozen=True, slots=True)
class TokenKeys:
    """Keys by id; the first of the setting signs, all verify, so that a key can be retired after LIFETIME."""

    signing_id: str
    keys: Mapping[str, bytes]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `id:hex,id:hex`; SetupError says what is wrong with it, without showing a key."""
        keys: dict[str, bytes] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, _, secret = part.partition(":")
            try:
                key = bytes.fromhex(secret)
            except ValueError:
                key = b""
            if not name.isascii() or not 1 <= len(name) <= 16 or len(key) < 16:
                raise SetupError(
                    "NEWSWIRE_TOKEN_KEYS must be id:hex, comma-separated: ids of 1 to 16 characters, keys of 16 bytes or more."
                )
            keys[name] = key
        if not keys:
            raise SetupError(
                "NEWSWIRE_TOKEN_KEYS is not set (keys of link tokens). Start the stack with `make up`, or set it to id:hex."
            )
        return cls(next(iter(keys)), MappingProxyType(keys))

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Return the keys of the settings."""
        return cls.parse(settings.token_keys)


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """What a valid token says; kind is newsletter or alert, delivery_id is None for a link outside a delivery."""

    subscriber_id: str
    delivery_id: str | None
    kind: str
    newsletter_id: str | None
    expires_at: datetime
    key_id: str


@dataclass(frozen=True, slots=True)
class BadToken:
    """A token that must not be acted on: malformed, unknown_key, bad_signature or expired."""

    reason: str


def make_unsubscribe_token(
    keys: TokenKeys, *, subscriber_id: str, delivery_id: str | None, kind: str, newsletter_id: str | None, expires_at: datetime
) -> str:
    """Return a token for `/u/<token>`; ValueError when an id is none or kind is unknown."""
    if (kind == "newsletter") != bool(newsletter_id):
        raise ValueError(
            f"kind {kind!r} with newsletter_id {newsletter_id!r}: a newsletter's token names it, an alert's does not"
        )
    key_id = keys.signing_id.encode()
    day, delivery = 0, _NO_UUID
    if delivery_id is not None:
        date, identifier = ledger_key(delivery_id)
        day, delivery = date.year * 10_000 + date.month * 100 + date.day, uuid_bytes(identifier)
    payload = b"".join(
        (
            bytes((VERSION, UNSUBSCRIBE, len(key_id))),
            key_id,
            int(expires_at.timestamp()).to_bytes(4, "big"),
            uuid_bytes(subscriber_id),
            day.to_bytes(4, "big"),
            delivery,
            bytes((_KINDS.index(kind),)),
            (newsletter_id or "").encode(),
        )
    )
    mac = hmac.digest(keys.keys[keys.signing_id], _LABEL + payload, "sha256")[:MAC_BYTES]
    return base64.urlsafe_b64encode(payload + mac).rstrip(b"=").decode()


def read_token(keys: TokenKeys, token: str, now: datetime) -> TokenClaims | BadToken:
    """Return what the token says, or why it must not be acted on. The signature is checked before anything is believed."""
    raw = _decode(token)
    if raw is None or len(raw) < 3 or raw[0] != VERSION or raw[1] != UNSUBSCRIBE:
        return BadToken("malformed")
    start = 3 + raw[2]
    if len(raw) < start + 41 + MAC_BYTES:
        return BadToken("malformed")
    key = keys.keys.get(raw[3:start].decode("ascii", "replace"))
    if key is None:
        return BadToken("unknown_key")
    payload, mac = raw[:-MAC_BYTES], raw[-MAC_BYTES:]
    if not hmac.compare_digest(hmac.digest(key, _LABEL + payload, "sha256")[:MAC_BYTES], mac):
        return BadToken("bad_signature")
    claims = _claims(payload)
    return BadToken("expired") if now >= claims.expires_at else claims


def _claims(payload: bytes) -> TokenClaims:
    """Return what a payload of ours says."""
    start = 3 + payload[2]
    body = payload[start + 4 :]
    day = int.from_bytes(body[16:20], "big")
    return TokenClaims(
        subscriber_id=str(uuid.UUID(bytes=body[:16])),
        delivery_id=f"{day:08d}-{uuid.UUID(bytes=body[20:36])}" if day else None,
        kind=_KINDS[body[36]],
        newsletter_id=body[37:].decode() or None,
        expires_at=datetime.fromtimestamp(int.from_bytes(payload[start : start + 4], "big"), UTC),
        key_id=payload[3:start].decode(),
    )


def unverified_claims(text: str) -> TokenClaims | None:
    """Return what the first link of ours in a text says, or None when there is none; it may be forged, so it allows nothing."""
    for token in _LINK.findall(text):
        raw = _decode(token)
        if raw is not None and len(raw) >= 3 and raw[:2] == bytes((VERSION, UNSUBSCRIBE)):
            try:
                return _claims(raw[:-MAC_BYTES])
            except (ValueError, IndexError):
                continue
    return None


def names_delivery(text: str, delivery_id: str | None) -> bool:
    """Return whether a link in a text that we wrote is of this delivery, or, for None, of any.

    Looks at the identifier only and checks no signature: it recognises a message, and allows nothing.
    """
    wanted = split_delivery_id(delivery_id)[1].bytes if delivery_id else b""
    return any((raw := _decode(token)) is not None and wanted in raw for token in _LINK.findall(text))


def _decode(token: str) -> bytes | None:
    """Return the bytes of canonical base64url, else None."""
    if not token.isascii() or len(token) > MAX_CHARACTERS:
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == token else None
