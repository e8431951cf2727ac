"""Dead letters: what cannot be handled is kept as it came, with the reason, and its partition moves on.

The record in `<topic>.dlq` has the original value, key and headers, and headers of our own: dlq.topic, dlq.partition,
dlq.offset, dlq.reason (a code), dlq.detail (a sentence without personal data), dlq.process (who refused it),
dlq.attempts, dlq.first_at and dlq.last_at (RFC 3339). Of a topic that could hold personal data in the clear by a
producer's mistake, the original value, key and headers are encrypted as a whole: with the key of the subscriber whom the
record's key names, else with a key of the dead letters' own (dlq.sealed says which); an erased person's cannot be read any
more.
Guarantee: it is acknowledged by Kafka before the original is; when it cannot be written the process ends without
acknowledging anything. `newswire dlq` (runtime/letters.py) reads them.
"""

import asyncio
import logging
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import datetime
from functools import cache, partial
from typing import Final, NoReturn

import orjson

from core.errors import CodecError, EventRefused, KeyDestroyed, Unavailable
from runtime import metrics
from runtime.keys import KeyStore
from runtime.producer import EXIT_CODE, MAX_MESSAGE_BYTES, Producer
from runtime.settings import Settings
from schemas.partition import partition_for
from schemas.records import Raw, Record
from schemas.topics import Topics

ATTEMPTS = 3
"""Sends of a dead letter, of up to 30 s each, before the process ends."""
MAX_ORIGINAL_BYTES: Final = MAX_MESSAGE_BYTES - 65_536
"""A larger original (it came compressed) is left out of its letter; it is in its topic at the place that the letter names."""
PURPOSE: Final = "dead-letter"
OWN_SUBJECT: Final = "dead-letters"
"""Subject of the data key for originals whose key names no subscriber with a key."""
_SUBSCRIBER: Final = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

log = logging.getLogger(__name__)


def reason_of(error: Exception) -> tuple[str, str]:
    """Return (code, detail) of an error that makes a dead letter."""
    if isinstance(error, CodecError):
        return error.code, str(error)
    if isinstance(error, EventRefused):
        return "refused", str(error)
    return "error", type(error).__name__


def letter_of(
    topics: Topics, raw: Raw, reason: str, detail: str, attempts: int, first_at: datetime, last_at: datetime,
    keys: Callable[[], KeyStore] | None = None, process: str = "",
) -> Record:  # fmt: skip
    """Return the dead letter of a record; it goes to the partition of the same key.

    `keys` is asked for topics with personal data only; Unavailable when their database does not answer.
    """
    name = topics.dead_letters(raw.topic)
    ours = {
        "dlq.topic": raw.topic,
        "dlq.partition": str(raw.partition),
        "dlq.offset": str(raw.offset),
        "dlq.reason": reason,
        "dlq.detail": detail[:1000],
        "dlq.process": process,
        "dlq.attempts": str(attempts),
        "dlq.first_at": first_at.isoformat(),
        "dlq.last_at": last_at.isoformat(),
    }
    size_bytes = len(raw.value or b"") + len(raw.key or b"") + sum(len(name) + len(data) for name, data in raw.headers)
    if size_bytes > MAX_ORIGINAL_BYTES:
        ours["dlq.withheld"] = str(size_bytes)
        raw = raw._replace(key=None, value=b"", headers=())
    if topics.spec(raw.topic).personal:
        assert keys is not None, f"dead letters of {raw.topic} are encrypted"
        raw, ours["dlq.sealed"] = seal(keys(), raw)
    if raw.value is None:
        ours["dlq.tombstone"] = "true"  # told apart from an empty value
    partitions = topics.spec(name).partitions
    partition = raw.partition % partitions if raw.key is None else partition_for(raw.key, partitions)
    theirs = tuple(header for header in raw.headers if not header[0].startswith("dlq."))  # those names are ours
    headers = theirs + tuple((header, text.encode()) for header, text in ours.items())
    return Record(name, raw.key, raw.value if raw.value is not None else b"", headers, partition)


def seal(keys: KeyStore, raw: Raw) -> tuple[Raw, str]:
    """Return the record with all that it holds encrypted in its value, and the subject of the key.

    Its key stays only when it is a subscriber's id.
    """
    named = raw.key is not None and _SUBSCRIBER.fullmatch(raw.key) is not None
    head = orjson.dumps(
        {
            "key": None if raw.key is None else b64encode(raw.key).decode(),
            "headers": [(name, b64encode(data).decode()) for name, data in raw.headers],
            "tombstone": raw.value is None,
        }
    )
    original = len(head).to_bytes(4, "big") + head + (raw.value or b"")
    subject = raw.key.decode() if named and raw.key is not None else OWN_SUBJECT
    try:
        sealed = keys.encrypt(subject, PURPOSE, original)
    except KeyDestroyed:  # erased, or never registered
        subject = OWN_SUBJECT
        keys.create([subject])
        sealed = keys.encrypt(subject, PURPOSE, original)
    return raw._replace(key=raw.key if named else None, value=sealed, headers=()), subject


def unseal(keys: KeyStore, subject: str, raw: Raw) -> Raw:
    """Return the record as it was before `seal`; KeyDestroyed when the person was erased since."""
    original = keys.decrypt(subject, PURPOSE, raw.value or b"")
    end = 4 + int.from_bytes(original[:4], "big")
    head = orjson.loads(original[4:end])
    return raw._replace(
        key=None if head["key"] is None else b64decode(head["key"]),
        value=None if head["tombstone"] else original[end:],
        headers=tuple((name, b64decode(data)) for name, data in head["headers"]),
    )


@cache
def _keys_of(settings: Settings) -> KeyStore:
    """Return the process's key store for dead letters; SetupError when a setting of it is missing."""
    return KeyStore(settings)


def _letter(
    producer: Producer, topics: Topics, raw: Raw, error: Exception, attempts: int, first_at: datetime, last_at: datetime
) -> Record:
    reason, detail = reason_of(error)
    keys, process = partial(_keys_of, producer.settings), producer.client_id.removeprefix(f"{topics.prefix}.")
    return letter_of(topics, raw, reason, detail, attempts, first_at, last_at, keys, process)


async def dead_letter(
    producer: Producer, topics: Topics, raw: Raw, error: Exception, *, attempts: int, first_at: datetime, last_at: datetime
) -> None:
    """Write the dead letter and wait for its report; the process ends when that fails."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            record = await asyncio.to_thread(_letter, producer, topics, raw, error, attempts, first_at, last_at)
            await producer.send([record])
            break
        except Unavailable as failure:
            log.error("%s could not be written (%s of %s): %s", _named(raw), attempt, ATTEMPTS, failure)
            if attempt == ATTEMPTS:
                _end()
    _written(raw, error)


def dead_letter_sync(
    producer: Producer, topics: Topics, raw: Raw, error: Exception, *, attempts: int, first_at: datetime, last_at: datetime
) -> None:
    """Do the same in a process without an event loop."""
    try:
        producer.send_sync([_letter(producer, topics, raw, error, attempts, first_at, last_at)])
    except Unavailable:
        log.exception("%s could not be written", _named(raw))
        _end()
    _written(raw, error)


def _named(raw: Raw) -> str:
    return f"a dead letter of {raw.topic}/{raw.partition}@{raw.offset}"


def _end() -> NoReturn:
    logging.shutdown()
    os._exit(EXIT_CODE)


def _written(raw: Raw, error: Exception) -> None:
    reason, detail = reason_of(error)
    metrics.DEAD_LETTERS.labels(raw.topic, reason).inc()
    log.warning("%s: %s: %s", _named(raw), reason, detail)
