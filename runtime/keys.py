"""Data keys of the subjects: encrypts and decrypts personal values, and erases a person by destroying the key.

Every subject has a random 256-bit key, wrapped by a key-encryption key, which the KMS wraps. A value is AES-256-GCM in
the envelope of `schemas.envelope`; associated data are tenant, subject and purpose, so that a ciphertext can be copied
from event to event but not used for another subject or purpose. Unwrapped keys stay in memory for at most 60 s: so long
can another process still read after a key was destroyed.

All calls are synchronous and may be made from several threads; in an event loop `prefetch` goes through a thread, after
which encrypt and decrypt touch no database. KeyDestroyed is raised for a destroyed key and for one that never was;
Unavailable when the database does not answer.
"""

import hashlib
import hmac
import json
import os
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

import psycopg
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg_pool import ConnectionPool, PoolTimeout

from core.errors import KeyDestroyed, SetupError, Unavailable, WrongType
from core.names import TENANT
from runtime.clock import Clock, SystemClock
from runtime.kms import KEY_BYTES, NONCE_BYTES, Kms, LocalKms, create_master_key, seal, unseal
from runtime.settings import Settings
from schemas.envelope import HEADER_BYTES, VERSION, is_encrypted

__all__ = ["KeyStore", "Kms", "LocalKms", "address_hash", "create_master_key", "is_encrypted", "normalise_address"]

CACHE_S: Final = 60.0
"""Longest time that an unwrapped key stays in memory."""
CACHED_KEYS: Final = 50_000
"""Most keys in memory, about 15 MB; the oldest go first."""
POOL_TIMEOUT_S: Final = 5.0
"""Longest wait for a connection; then the database counts as unavailable."""
_KEY_ID: Final = 1
"""Number of a subject's first key; there is no second one yet."""

_CREATE: Final = """
INSERT INTO keys.subject_keys (subject, kek_id, wrapped)
SELECT subject, %(kek_id)s, wrapped FROM unnest(%(subjects)s::text[], %(wrapped)s::bytea[]) AS given (subject, wrapped)
ON CONFLICT (subject) DO NOTHING RETURNING subject
"""
_FETCH: Final = "SELECT subject, key_id, kek_id, wrapped FROM keys.subject_keys WHERE subject = ANY(%s::text[])"
_DESTROY: Final = """
INSERT INTO keys.subject_keys (subject, destroyed_at) VALUES (%s, now())
ON CONFLICT (subject) DO UPDATE SET wrapped = NULL, kek_id = NULL, destroyed_at = now() WHERE subject_keys.destroyed_at IS NULL
RETURNING xmax <> 0
"""
_INDEX: Final = """
INSERT INTO keys.address_index (channel, hash, subject)
SELECT DISTINCT given.* FROM unnest(%s::text[], %s::bytea[], %s::text[]) AS given (channel, hash, subject)
LEFT JOIN keys.subject_keys USING (subject) WHERE destroyed_at IS NULL
ON CONFLICT DO NOTHING
"""

_Cached = tuple[bytes | None, int, float]
"""Key (None: destroyed), its number, and the monotonic second at which it is forgotten."""


class KeyStore:
    """The keys database as a Cipher."""

    def __init__(self, settings: Settings, *, kms: Kms | None = None, clock: Clock | None = None) -> None:
        settings.require("keys_database_url")
        self._settings = settings
        self._kms = kms
        self._clock = clock or SystemClock()
        self._cache: dict[str, _Cached] = {}
        self._keks: dict[int, AESGCM] = {}
        self._lock = threading.Lock()
        self._pool: ConnectionPool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and forget all keys."""
        with self._lock:
            pool, self._pool = self._pool, None
            self._cache.clear()
            self._keks.clear()
        if pool is not None:
            pool.close()

    def encrypt(self, subject: str, purpose: str, plaintext: bytes) -> bytes:
        """Return the envelope of a value; KeyDestroyed when the subject has no key."""
        key, key_id = self._key(subject)
        nonce = os.urandom(NONCE_BYTES)
        sealed = AESGCM(key).encrypt(nonce, plaintext, _associated(subject, purpose))
        return b"".join((VERSION, key_id.to_bytes(4, "big"), nonce, sealed))

    def decrypt(self, subject: str, purpose: str, ciphertext: bytes) -> bytes:
        """Return the value; KeyDestroyed when the key is gone, WrongType when it was written for somebody or something else."""
        if not is_encrypted(ciphertext):
            raise WrongType(f"the {purpose} of subject {subject} is no encrypted value")
        key, key_id = self._key(subject)
        if int.from_bytes(ciphertext[1:5], "big") != key_id:
            raise KeyDestroyed(f"the {purpose} of subject {subject} was written with an earlier key, which is gone")
        try:
            return AESGCM(key).decrypt(ciphertext[5:HEADER_BYTES], ciphertext[HEADER_BYTES:], _associated(subject, purpose))
        except InvalidTag:
            raise WrongType(f"the ciphertext is not the {purpose} of subject {subject}, or is damaged") from None

    def create(self, subjects: Collection[str]) -> int:
        """Make keys for the subjects that never had one, in one statement; return how many.

        A destroyed key is not made again: such a subject stays without one.
        """
        wanted = list(dict.fromkeys(subjects))
        if not wanted:
            return 0
        keys = [os.urandom(KEY_BYTES) for _ in wanted]
        with self._connection() as connection:
            kek_id, kek = self._current_kek(connection)
            wrapped = [seal(kek, key, subject.encode()) for subject, key in zip(wanted, keys, strict=True)]
            rows = connection.execute(_CREATE, {"kek_id": kek_id, "subjects": wanted, "wrapped": wrapped}).fetchall()
        made = {row[0] for row in rows}
        self._remember((subject, key, _KEY_ID) for subject, key in zip(wanted, keys, strict=True) if subject in made)
        return len(made)

    def prefetch(self, subjects: Collection[str]) -> None:
        """Bring the keys that are not in memory with one statement; subjects without a key are no error here."""
        until = self._clock.monotonic()
        missing = [
            subject for subject in dict.fromkeys(subjects) if (known := self._cache.get(subject)) is None or known[2] <= until
        ]
        if not missing:
            return
        with self._connection() as connection:
            rows = connection.execute(_FETCH, [missing]).fetchall()
            for kek_id in {row[2] for row in rows if row[2] is not None} - set(self._keks):
                self._load_kek(connection, kek_id)
        with self._lock:
            for subject in missing:
                self._cache.pop(subject, None)
        self._remember(
            (subject, unseal(self._keks[kek_id], wrapped, subject.encode()) if wrapped is not None else None, key_id)
            for subject, key_id, kek_id, wrapped in rows
        )

    def destroy(self, subject: str) -> bool:
        """Destroy a subject's key and its rows of the address index, for good; return whether there was a key until now."""
        with self._connection() as connection:
            connection.execute("DELETE FROM keys.address_index WHERE subject = %s", [subject])
            row = connection.execute(_DESTROY, [subject]).fetchone()
        self._remember([(subject, None, _KEY_ID)])
        return bool(row and row[0])

    def address_hash(self, channel: str, address: str) -> bytes:
        """Return the keyed hash of an address, 32 bytes."""
        return address_hash(self._settings, channel, address)

    def index_address(self, channel: str, address: str, subject: str) -> None:
        """Let find_by_address find this subject; nothing happens when its key is destroyed."""
        self.index_addresses([(channel, address, subject)])

    def index_addresses(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Index (channel, address, subject) rows with one statement."""
        given = list(rows)
        hashes = [self.address_hash(channel, address) for channel, address, _ in given]
        with self._connection() as connection:
            connection.execute(_INDEX, [[row[0] for row in given], hashes, [row[2] for row in given]])

    def unindex_address(self, channel: str, address: str, subject: str) -> None:
        """Take one address of a subject out of the index."""
        with self._connection() as connection:
            connection.execute(
                "DELETE FROM keys.address_index WHERE channel = %s AND hash = %s AND subject = %s",
                [channel, self.address_hash(channel, address), subject],
            )

    def find_by_address(self, channel: str, address: str) -> list[str]:
        """Return the subjects that gave this address on this channel, sorted."""
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT subject FROM keys.address_index WHERE channel = %s AND hash = %s ORDER BY subject",
                [channel, self.address_hash(channel, address)],
            ).fetchall()
        return [row[0] for row in rows]

    def addresses_of(self, subject: str, channel: str) -> list[bytes]:
        """Return the keyed hashes of the addresses that a subject has on a channel now."""
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT hash FROM keys.address_index WHERE subject = %s AND channel = %s", [subject, channel]
            ).fetchall()
        return [bytes(row[0]) for row in rows]

    def _key(self, subject: str) -> tuple[bytes, int]:
        known = self._cache.get(subject)
        if known is None or known[2] <= self._clock.monotonic():
            self.prefetch([subject])
            known = self._cache.get(subject)
        if known is None:
            raise KeyDestroyed(f"subject {subject} never had a data key: nothing can be encrypted or read for it")
        if known[0] is None:
            raise KeyDestroyed(f"the data key of subject {subject} was destroyed")
        return known[0], known[1]

    def _remember(self, keys: Iterable[tuple[str, bytes | None, int]]) -> None:
        until = self._clock.monotonic() + CACHE_S
        with self._lock:
            for subject, key, key_id in keys:
                self._cache.pop(subject, None)
                self._cache[subject] = (key, key_id, until)
            for subject in _oldest(self._cache, len(self._cache) - CACHED_KEYS, self._clock.monotonic()):
                del self._cache[subject]

    def _current_kek(self, connection: psycopg.Connection) -> tuple[int, AESGCM]:
        row = connection.execute("SELECT max(kek_id) FROM keys.key_encryption_keys").fetchone()
        if row is None or row[0] is None:
            kms = self._get_kms()
            connection.execute(
                "INSERT INTO keys.key_encryption_keys (kek_id, wrapped, kms) VALUES (1, %s, %s) ON CONFLICT DO NOTHING",
                [kms.wrap(os.urandom(KEY_BYTES)), kms.name],
            )
            return 1, self._load_kek(connection, 1)
        return row[0], self._keks.get(row[0]) or self._load_kek(connection, row[0])

    def _load_kek(self, connection: psycopg.Connection, kek_id: int) -> AESGCM:
        row = connection.execute("SELECT wrapped FROM keys.key_encryption_keys WHERE kek_id = %s", [kek_id]).fetchone()
        assert row is not None, "a foreign key says that it exists"
        self._keks[kek_id] = AESGCM(self._get_kms().unwrap(row[0]))
        return self._keks[kek_id]

    def _get_kms(self) -> Kms:
        if self._kms is None:
            self._settings.require("master_key_file")
            self._kms = LocalKms(self._settings.master_key_file)
        return self._kms

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection]:
        """Give a connection in a transaction of its own."""
        try:
            with self._get_pool().connection() as connection:
                yield connection
        except psycopg.errors.UndefinedTable:
            raise SetupError("the keys database has no tables yet; run `newswire migrate`.") from None
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
            raise Unavailable(f"the keys database does not answer ({type(error).__name__}); is the stack up?") from None

    def _get_pool(self) -> ConnectionPool:
        with self._lock:
            if self._pool is None:
                self._pool = ConnectionPool(
                    self._settings.keys_database_url,
                    min_size=1,
                    max_size=2,
                    timeout=POOL_TIMEOUT_S,
                    open=True,
                    check=ConnectionPool.check_connection,
                    name="keys",
                )
            return self._pool


def normalise_address(channel: str, address: str) -> str:
    """Return the form of an address that is compared: mail in lower case, a webhook's URL without its secret."""
    text = address.strip()
    if channel == "email":
        return text.lower()
    if channel == "webhook" and text.startswith("{"):
        return str(json.loads(text)["url"]).strip()
    return text


def address_hash(settings: Settings, channel: str, address: str) -> bytes:
    """Return HMAC-SHA256 of channel and normalised address under the receipt key, 32 bytes."""
    settings.require("receipt_key")
    return hashed_address(bytes.fromhex(settings.receipt_key), channel, address)


def hashed_address(key: bytes, channel: str, address: str) -> bytes:
    """Return the same for a key that was read before: about 1 µs, for look-ups of every message."""
    return hmac.digest(key, f"address\x1f{channel}\x1f{normalise_address(channel, address)}".encode(), hashlib.sha256)


def hashed_receipt(key: bytes, channel: str, receipt: str) -> bytes:
    """Return HMAC-SHA256 of a provider's message id under the receipt key, 32 bytes: what events carry in its place."""
    return hmac.digest(key, f"receipt\x1f{channel}\x1f{receipt}".encode(), hashlib.sha256)


def _associated(subject: str, purpose: str) -> bytes:
    return f"{TENANT}\x1f{subject}\x1f{purpose}".encode()


def _oldest(cache: dict[str, _Cached], too_many: int, now: float) -> list[str]:
    """Return the subjects to forget: what is expired at the front, and as many as are too many."""
    found = []
    for number, (subject, (_, _, until)) in enumerate(cache.items()):
        if number >= too_many and until > now:
            break
        found.append(subject)
    return found
