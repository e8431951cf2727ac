"""Values and a cipher that the codec's tests share."""

import hashlib
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.errors import WrongType
from schemas.codec import Codec, FileSource
from schemas.records import Raw, Record
from schemas.topics import Topics

NOW = datetime(2026, 11, 22, 9, 30, 15, 123000, tzinfo=UTC)
SUBSCRIBER = "3f2b8c1e-0d4a-4b6e-9a57-2f1c6d8e9b04"
OTHER = "0a4c7d2e-61f3-4b8a-8d5c-9e2b7f1a6c30"


class FixedCipher:
    """A cipher without a database: one key a subject, derived from its id."""

    def encrypt(self, subject: str, purpose: str, plaintext: bytes) -> bytes:
        nonce = hashlib.sha256(plaintext).digest()[:12]
        return b"\x01\0\0\0\1" + nonce + self._cipher(subject).encrypt(nonce, plaintext, f"{subject}|{purpose}".encode())

    def decrypt(self, subject: str, purpose: str, ciphertext: bytes) -> bytes:
        try:
            return self._cipher(subject).decrypt(ciphertext[5:17], ciphertext[17:], f"{subject}|{purpose}".encode())
        except InvalidTag:
            raise WrongType("another subject or purpose") from None

    def _cipher(self, subject: str) -> AESGCM:
        return AESGCM(hashlib.sha256(subject.encode()).digest())


def make_codec() -> tuple[Topics, Codec]:
    topics = Topics()
    return topics, Codec(topics, FileSource(topics), FixedCipher())


def sent(**changes: Any) -> dict[str, Any]:
    value = {
        "delivery_id": "20261123-5b1cbb1e-6a4d-5e7b-8f3a-2b9d0c1e4f60",
        "subscriber_id": SUBSCRIBER,
        "source_id": "daily@2026-11-22T09:00Z",
        "source_kind": "newsletter",
        "channel": "email",
        "lane": "bulk",
        "reason": None,
        "provider_receipt_hash": b"h" * 32,
        "attempt": 1,
        "occurred_at": NOW,
        "template": None,
    }
    return {**value, **changes}


def consumed(record: Record, **changes: Any) -> Raw:
    fields = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": 41,
        "key": record.key,
        "value": record.value,
        "headers": record.headers,
        "timestamp_ms": 1_795_339_800_000,
    }
    return Raw(**{**fields, **changes})
