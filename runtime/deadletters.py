"""Dead letters: what cannot be handled is kept as it came, with the reason, and its partition moves on.

The record in `<topic>.dlq` has the original value, key and headers, and headers of our own: dlq.topic, dlq.partition,
dlq.offset, dlq.reason (a code), dlq.detail (a sentence without personal data), dlq.attempts, dlq.first_at and
dlq.last_at (RFC 3339). Guarantee: it is acknowledged by Kafka before the original is; when it cannot be written the
process ends without acknowledging anything.
"""

import logging
import os
from datetime import datetime

from core.errors import CodecError, EventRefused, Unavailable
from runtime import metrics
from runtime.producer import Producer
from schemas.partition import partition_for
from schemas.records import Raw, Record
from schemas.topics import Topics

EXIT_CODE = 70
"""Exit code of a process that ends because going on would lose an event."""
ATTEMPTS = 3
"""Sends of a dead letter, of up to 30 s each, before the process ends."""

log = logging.getLogger(__name__)


def reason_of(error: Exception) -> tuple[str, str]:
    """Return (code, detail) of an error that makes a dead letter."""
    if isinstance(error, CodecError):
        return error.code, str(error)
    if isinstance(error, EventRefused):
        return "refused", str(error)
    return "error", type(error).__name__


def letter_of(topics: Topics, raw: Raw, reason: str, detail: str, attempts: int, first_at: datetime, last_at: datetime) -> Record:
    """Return the dead letter of a record; it goes to the partition of the same key."""
    name = topics.dead_letters(raw.topic)
    ours = {
        "dlq.topic": raw.topic,
        "dlq.partition": str(raw.partition),
        "dlq.offset": str(raw.offset),
        "dlq.reason": reason,
        "dlq.detail": detail[:1000],
        "dlq.attempts": str(attempts),
        "dlq.first_at": first_at.isoformat(),
        "dlq.last_at": last_at.isoformat(),
    }
    if raw.value is None:
        ours["dlq.tombstone"] = "true"  # told apart from an empty value
    partitions = topics.spec(name).partitions
    partition = raw.partition % partitions if raw.key is None else partition_for(raw.key, partitions)
    headers = tuple(raw.headers) + tuple((header, text.encode()) for header, text in ours.items())
    return Record(name, raw.key, raw.value if raw.value is not None else b"", headers, partition)


async def dead_letter(
    producer: Producer, topics: Topics, raw: Raw, error: Exception, *, attempts: int, first_at: datetime, last_at: datetime
) -> None:
    """Write the dead letter and wait for its report; the process ends when that fails."""
    reason, detail = reason_of(error)
    record = letter_of(topics, raw, reason, detail, attempts, first_at, last_at)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            await producer.send([record])
            break
        except Unavailable as failure:
            log.error(
                "a dead letter of %s/%s@%s could not be written (%s of %s): %s",
                raw.topic,
                raw.partition,
                raw.offset,
                attempt,
                ATTEMPTS,
                failure,
            )
            if attempt == ATTEMPTS:
                os._exit(EXIT_CODE)
    metrics.DEAD_LETTERS.labels(raw.topic, reason).inc()
    log.warning("dead letter of %s/%s@%s: %s: %s", raw.topic, raw.partition, raw.offset, reason, detail)


def dead_letter_sync(
    producer: Producer, topics: Topics, raw: Raw, error: Exception, *, attempts: int, first_at: datetime, last_at: datetime
) -> None:
    """Do the same in a process without an event loop."""
    reason, detail = reason_of(error)
    try:
        producer.send_sync([letter_of(topics, raw, reason, detail, attempts, first_at, last_at)])
    except Unavailable:
        log.exception("a dead letter of %s/%s@%s could not be written", raw.topic, raw.partition, raw.offset)
        os._exit(EXIT_CODE)
    metrics.DEAD_LETTERS.labels(raw.topic, reason).inc()
    log.warning("dead letter of %s/%s@%s: %s: %s", raw.topic, raw.partition, raw.offset, reason, detail)
