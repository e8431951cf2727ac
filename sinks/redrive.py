"""Giving deliveries that failed, or are unknown, back to their sink: the decision, and its effect on the ledger.

Consumes rows of the ledger and their DeliveryRequested (kept for 7 days); writes the row as parked and due, under the same
delivery id, with who did it and why in its history. From there the sweeper of its sink claims it as one more attempt, and
it goes the ordinary way: consent, suppression, recall, stop and expiry are looked at right before the call. Guarantee: what
a provider has accepted is never given back; what may have arrived only when that was asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString

from confluent_kafka.admin import OffsetSpec

from core.errors import CodecError, EventRefused
from core.outcomes import RETRY_STATE
from runtime.clock import Clock, SystemClock
from runtime.kafka import admin_client, end_offsets, read_range, start_offsets
from runtime.reading import TopicOffsets, offsets_of
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.partition import partition_for
from schemas.registry import RegistrySource
from schemas.topics import Topics
from sinks.consent import stops_of, subjects_of
from sinks.delivery import Delivery
from sinks.history import HELD, clock_time, ledger_connection, read_rows
from sinks.statements import GIVE_BACK

NEVER_MADE: Final = "rendering"
"""Failure of what a provider may have accepted, but then could make no message of: nothing was sent."""
CAME_BACK: Final = ("bounced", "complained")
"""Failures of a message that the provider had accepted."""
BATCH: Final = 5_000
"""Deliveries given back at once: each is in memory with its request, some 10 kB."""
BEFORE_CLAIM: Final = timedelta(minutes=10)
"""A request is usually this close before its first claim; all that is kept is read only when it is not found there."""
AFTER_CLAIM: Final = timedelta(minutes=1)
"""How far the clocks of Kafka and PostgreSQL may disagree."""

_BARRED: Final[LiteralString] = """
SELECT s.subject, r.reason FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS s(subject, exception, strength)
JOIN ledger.barred r ON r.subject = s.subject
WHERE r.except_for IS NULL OR s.exception IS NULL OR s.exception <> ALL (r.except_for)
ORDER BY s.strength LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one delivery that was to be given back."""

    delivery_id: str
    given_back: bool
    """With a dry run: whether it would be."""
    detail: str


def refusal(row: Mapping[str, Any], now: datetime, *, unknown_too: bool) -> str | None:
    """Return why a delivery is not given back, or None; pure."""
    state, reason, at = row["state"], row["reason"], row["outcome_at"]
    if state in ("sent", "confirmed"):
        return f"it was {state} at {clock_time(at)}, and is not sent again"
    if state == "failed" and (reason in CAME_BACK or (row["receipt_hash"] and reason != NEVER_MADE)):
        return f"it was sent, and failed afterwards ({reason}); it is not sent again"
    if state == "suppressed":
        return f"it was left unsent on purpose ({reason})"
    if state == "claimed":
        return "a sink has it in hand right now"
    if state == RETRY_STATE:
        if reason in HELD:
            return f"it is held ({reason}); `newswire delivery show {row['delivery_id']}` says how it is let go"
        return f"it waits for its next attempt at {clock_time(row['next_attempt_at'])}"
    if state == "unknown" and not unknown_too:
        return f"it may have arrived ({reason}); with --unknown it is sent all the same"
    if row["not_after"] <= now:
        return f"it stopped being worth sending at {clock_time(row['not_after'])}"
    return None


def give_back(
    settings: Settings, delivery_ids: Sequence[str], *, by: str, why: str, unknown_too: bool, dry_run: bool,
    clock: Clock | None = None,
) -> list[Answer]:  # fmt: skip
    """Give deliveries back to their sinks, each at most once; InputError for an id that the ledger does not know."""
    now = (clock or SystemClock()).now()
    rows = read_rows(settings, list(dict.fromkeys(delivery_ids)))
    refused = {row["delivery_id"]: refusal(row, now, unknown_too=unknown_too) for row in rows}
    going = [row for row in rows if refused[row["delivery_id"]] is None]
    requests = find_requests(settings, going)
    found = [row for row in going if row["delivery_id"] in requests]
    with ledger_connection(settings) as connection:
        if dry_run:
            done = {row["uuid"] for row in found}
        else:
            values = {
                "days": [row["day"] for row in found],
                "ids": [row["uuid"] for row in found],
                "attempts": [row["attempt"] for row in found],
                "states": [row["state"] for row in found],
                "requests": [requests[row["delivery_id"]].raw for row in found],
                "by": by,
                "why": why,
            }
            done = {uuid for (uuid,) in connection.execute(GIVE_BACK, values)}
        answers = []
        for row in rows:
            delivery_id = row["delivery_id"]
            reason = refused[delivery_id]
            if reason is None and delivery_id not in requests:
                reason = f"its request is not in deliveries.{row['channel']}.{row['lane']} any more, which is kept for 7 days"
            elif reason is None and row["uuid"] not in done:
                reason = "it changed meanwhile; look at it again"
            if reason is None:
                barred = connection.execute(_BARRED, _subjects(requests[delivery_id])).fetchone()
                but = f"; as things are it will not be sent: {barred[1]} ({barred[0]})" if barred else ""
                answers.append(Answer(delivery_id, True, f"to the sink {row['channel']}-{row['lane']}{but}"))
            else:
                answers.append(Answer(delivery_id, False, reason))
    return answers


def _subjects(delivery: Delivery) -> list[Any]:
    """Return what may bar or hold a delivery, and what may except it, as two columns."""
    subjects = [*subjects_of(delivery), *((stop, None) for stop in stops_of(delivery.channel, delivery.source_id))]
    return [list(column) for column in zip(*subjects, strict=True)]


def find_requests(settings: Settings, rows: Sequence[Mapping[str, Any]]) -> dict[str, Delivery]:
    """Return the deliveries of these rows as they were requested; those that Kafka does not keep any more are left out."""
    topics = Topics.of(settings)
    codec = Codec(topics, RegistrySource(settings.schema_registry_url))
    admin, found = admin_client(settings), dict[str, Delivery]()
    wanted: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        topic = topics.deliveries(row["channel"], row["lane"])
        place = (topic, partition_for(row["subscriber_id"].encode(), topics.spec(topic).partitions))
        wanted.setdefault(place, {})[row["delivery_id"]] = row
    for place, mine in wanted.items():
        claims = [_first_claim(row) for row in mine.values()]
        start, end = start_offsets(admin, [place]), end_offsets(admin, [place])
        near = _at(admin, place, min(claims) - BEFORE_CLAIM, end), _at(admin, place, max(claims) + AFTER_CLAIM, end)
        for first, last in ((near[0], near[1]), (start, near[0])):
            if missing := mine.keys() - found.keys():
                found.update(_scan(settings, codec, first, last, [mine[one] for one in missing]))
    return found


def _first_claim(row: Mapping[str, Any]) -> datetime:
    for one in row["history"] or ():
        if "claimed_at" in one:
            return datetime.fromisoformat(one["claimed_at"])
    claimed_at: datetime = row["claimed_at"]
    return claimed_at


def _at(admin: Any, place: tuple[str, int], at: datetime, end: TopicOffsets) -> TopicOffsets:
    """Return the offset of the first record at or after a time, the end when there is none."""
    offset = offsets_of(admin, [place], OffsetSpec.for_timestamp(int(at.timestamp() * 1000)))[place]
    return {place: offset} if offset >= 0 else end


def _scan(
    settings: Settings, codec: Codec, starts: TopicOffsets, ends: TopicOffsets, wanted: Sequence[Mapping[str, Any]]
) -> dict[str, Delivery]:
    """Return the wanted deliveries among the records of a range; only records of their subscribers are decoded."""
    keys, ids = {row["subscriber_id"].encode() for row in wanted}, {row["delivery_id"] for row in wanted}
    found: dict[str, Delivery] = {}
    for raw in read_range(settings, starts, ends):
        if raw.key not in keys:
            continue
        try:
            delivery = Delivery.of(codec.decode(raw).value, raw.value or b"", None)
        except (CodecError, EventRefused):
            continue  # the sink has dead-lettered it
        if delivery.delivery_id in ids:
            found[delivery.delivery_id] = delivery
            if len(found) == len(ids):
                break
    return found
