"""The rules of events beyond their types: what upstream, people and the CLI hand in is checked here before it counts.

The CLI validates before it produces; the streams when an event came by Kafka, and every fold of such events ignores what
they refuse. Messages name the field and say what is expected; a given value is never repeated. Events without rules here
are written by Newswire alone.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from core import checks as c
from core.cadence import EPOCH, EVERY_DAY, Schedule
from core.errors import EventRefused
from core.ids import tick_id
from core.names import CADENCES, CHANNELS, MAX_AGE_H, MAX_LATE_H, POLICIES, PRIORITIES, RANKINGS

MAX_ALERT_LIFE: Final = timedelta(days=5)
"""Nothing is worth sending for longer; the ledger keeps its partitions so long."""

MAX_PUBLICATION_BYTES: Final = 1_500_000
"""Of all texts of a publication: Kafka takes records of 2 MB, and a dead letter says more than the record that it keeps."""

MAX_VARIANTS: Final = 20

SCHEDULE_DAYS: Final = 400
"""Days after its definition within which a newsletter must have an issue: more than a year, and more than a leap year's day."""

Value = Mapping[str, Any]
Problem = tuple[str, str] | None
_NAME: Final = c.text(200)
_REASON: Final = c.text(1_000)
_POSITIVE: Final = c.between(1, 2**31 - 1)
_QUALITY: Final = c.between(0, 1)
_CHANNELS: Final = c.each(c.channel, most=len(CHANNELS))
_TAGS: Final = c.each(c.text(100), most=100)
_SLUGS: Final = c.each(c.slug, most=1_000)
_LANGUAGES: Final = c.each(c.language, most=200)
_VARIANT: Final[Mapping[str, c.Check]] = {
    "name": c.slug,
    "subject": c.subject,
    "template": c.slug,
    "ranking": c.one_of(*RANKINGS),
    "local_minute": c.local_minute,
}
_EVIDENCE_FIELDS: Final = {"subscriber_id": c.uuid, "publication_id": c.uuid, "delivery_id": c.text(60), "channel": c.channel}
_NOTICE: Final = {"subscriber_id": c.uuid, "delivery_id": c.text(60), "channel": c.channel, "provider_event_id": c.text(500)}

FIELDS: Final[Mapping[str, Mapping[str, c.Check]]] = {
    "PublicationSubmitted": {
        "publication_id": c.uuid,
        "revision": _POSITIVE,
        "content_type": c.text(100),
        "title": c.text(2_000),
        "summary": c.text(50_000, empty=True),
        "body": c.text(400_000, empty=True),
        "url": c.url,
        "authors": c.each(c.text(500), most=10_000, unique=False),
        "topics": c.topics,
        "language": c.language,
        "attributes": c.labels,
    },
    "PublicationRetracted": {"publication_id": c.uuid, "reason": _REASON, "retracted_by": _NAME},
    "AlertRaised": {
        "alert_id": c.uuid,
        "publication_id": c.uuid,
        "title": c.text(500),
        "body": c.text(50_000, empty=True),
        "url": c.url,
        "topics": c.topics,
        "language": c.language,
        "priority": c.one_of(*PRIORITIES),
        "dedup_key": _NAME,
        "quality": _QUALITY,
        "on_unknown": c.one_of(*POLICIES),
    },
    "AlertUpdated": {"alert_id": c.uuid, "title": c.text(500), "body": c.text(50_000, empty=True), "url": c.url},
    "AlertCancelled": {"alert_id": c.uuid, "reason": _REASON},
    "Tick": {"tick_id": c.uuid, "newsletter_id": c.slug, "requested_by": _NAME, "test_subscriber": c.uuid},
    "SubscriberRegistered": {"subscriber_id": c.uuid, "time_zone": c.time_zone, "language": c.language, "tags": _TAGS},
    "PreferencesChanged": {
        "subscriber_id": c.uuid,
        "time_zone": c.time_zone,
        "language": c.language,
        "topics": c.topics,
        "channels": _CHANNELS,
        "urgent_channels": _CHANNELS,
        "newsletters": _SLUGS,
        "quiet_hours": c.quiet_hours,
        "local_minute": lambda value: None if value in (-1, -2) else c.local_minute(value),
        "days": c.each(c.between(1, 7), most=7),
        "alerts_a_day": c.between(-1, 1_000),
        "tags": _TAGS,
    },
    "ChannelLinked": {"subscriber_id": c.uuid, "channel": c.channel},
    "ChannelVerified": {
        "subscriber_id": c.uuid,
        "channel": c.channel,
        "method": c.one_of("confirmation_link", "operator", "imported"),
    },
    "ChannelUnlinked": {
        "subscriber_id": c.uuid,
        "channel": c.channel,
        "reason": c.one_of("requested", "bounced", "complained", "disabled", "replaced"),
    },
    "SubscriberUnsubscribed": {
        "subscriber_id": c.uuid,
        "newsletter_id": c.slug,
        "kind": c.one_of("newsletter", "alerts", "all"),
        "via": c.one_of("one_click", "page", "cli", "provider"),
        "delivery_id": c.text(60),
    },
    "SubscriberErased": {"subscriber_id": c.uuid, "requested_by": c.one_of("subscriber", "operator")},
    "ContentOpened": {**_EVIDENCE_FIELDS, "evidence": c.one_of("pixel", "pixel_proxy", "api")},
    "ContentClicked": {**_EVIDENCE_FIELDS, "evidence": c.one_of("click", "scanner", "api"), "link": c.between(0, 10_000)},
    "ReactionAdded": {**_EVIDENCE_FIELDS, "reaction": c.text(100)},
    "ReactionRemoved": {**_EVIDENCE_FIELDS, "reaction": c.text(100)},
    "ProviderAccepted": _NOTICE,
    "ProviderDelivered": _NOTICE,
    "DeliveryBounced": _NOTICE,
    "DeliveryDelayed": _NOTICE,
    "ComplaintReceived": _NOTICE,
    "EndpointDisabled": {**_NOTICE, "reason": c.one_of("gone", "failing")},
    "NewsletterDefined": {
        "newsletter_id": c.slug,
        "revision": _POSITIVE,
        "name": _NAME,
        "subject": c.subject,
        "days": c.each(c.between(1, 7), least=1, most=7),
        "local_minute": c.local_minute,
        "cadence": c.one_of(*CADENCES),
        "month_day": c.between(1, 31),
        "every_hours": c.between(1, 744),
        "skip_dates": c.each(c.local_date, most=400),
        "late_h": c.between(1, MAX_LATE_H),
        "audience_topics": _TAGS,
        "audience_languages": _LANGUAGES,
        "audience_tags": _TAGS,
        "audience_channels": _CHANNELS,
        "content_types": _TAGS,
        "max_age_h": c.between(1, MAX_AGE_H),
        "min_quality": lambda value: _QUALITY(value) or ("is 1, and nothing is above it; expected less" if value == 1 else None),
        "max_items": c.between(1, 20),
        "half_life_h": c.between(0.1, 8_760),
        "topic_share": c.between(0.05, 1),
        "exploration": c.between(0, 1),
        "ranking": c.one_of(*RANKINGS),
        "seed": c.text(200, empty=True),
        "template": c.slug,
        "from_name": _NAME,
        "from_address": c.mail_address,
        "reply_to": c.mail_address,
        "postal_address": c.text(500),
        "canary_share": c.between(0, 0.5),
        "canary_hold_min": c.between(1, 1_200),
        "on_unknown": c.one_of(*POLICIES),
    },
    "ControlChanged": {"action": c.one_of("stop", "resume"), "reason": _REASON, "changed_by": _NAME},
    "ExperimentStarted": {
        "experiment_id": c.slug,
        "newsletter_id": c.slug,
        "seed": _NAME,
        "variants": c.each(c.text(100), least=2, most=20),
    },
    "ExperimentStopped": {"experiment_id": c.slug, "reason": _REASON},
}
"""The rules of single fields, by event; a field that is null or left out is not looked at."""


def obeys(name: str, value: Value) -> bool:
    """Return whether an event obeys its rules: what a fold asks, which ignores the others."""
    try:
        validate(name, value)
    except EventRefused:
        return False
    return True


def validate(name: str, value: Value) -> None:
    """Return when an event obeys its rules; EventRefused names the first field that does not.

    Types are the schema's and the codec's business; address and name are looked at while they are Clear text only.
    """
    for fault in faults_of_fields(name, value):
        raise fault
    found = _ACROSS[name](value) if name in _ACROSS else None
    if found is not None:
        raise EventRefused(name, *found)


def faults_of_fields(name: str, value: Value) -> Iterator[EventRefused]:
    """Yield what is wrong with each field by itself; fields may be left out."""
    for field, check in FIELDS.get(name, {}).items():
        given = value.get(field)
        problem = check(given) if given is not None else None
        if problem is not None:
            yield EventRefused(name, field, problem)


def _publication(value: Value) -> Problem:
    texts = {name: [value.get(name) or ""] for name in ("title", "summary", "body")} | {"authors": value["authors"]}
    if 4 * sum(len(text) for field in texts.values() for text in field) <= MAX_PUBLICATION_BYTES:
        return None
    sizes = {field: sum(len(text.encode("utf-8", "surrogatepass")) for text in given) for field, given in texts.items()}
    if sum(sizes.values()) <= MAX_PUBLICATION_BYTES:
        return None
    largest = max(sizes, key=lambda field: sizes[field])
    return largest, f"has {sizes[largest]:,} bytes; expected at most {MAX_PUBLICATION_BYTES:,} together with the other texts"


def _alert(value: Value) -> Problem:
    expires_at: datetime | None = value.get("expires_at")
    if expires_at is None:
        return None
    if expires_at <= value["raised_at"]:
        return "expires_at", "is not after raised_at; expected a later instant"
    if expires_at - value["raised_at"] > MAX_ALERT_LIFE:
        return "expires_at", "is more than 5 days after raised_at; expected at most 5 days"
    return None


def _tick(value: Value) -> Problem:
    minute: datetime = value["minute"]
    if minute.second or minute.microsecond:
        return "minute", "is no whole minute"
    if value.get("test_subscriber") is not None and value.get("newsletter_id") is None:
        return "test_subscriber", "is set without newsletter_id; expected null, or the newsletter that is tried"
    if value["tick_id"] != tick_id(minute, value.get("newsletter_id"), value.get("test_subscriber")):
        return "tick_id", "is not the id of this minute, newsletter_id and test_subscriber"
    return None


def _registered(value: Value) -> Problem:
    name = value.get("name")
    problem = _NAME(name) if isinstance(name, str) else None
    return ("name", problem) if problem else None


def _linked(value: Value) -> Problem:
    address = value["address"]
    problem = c.address(value["channel"], address) if isinstance(address, str) else None
    return ("address", problem) if problem else None


def _unsubscribed(value: Value) -> Problem:
    if value["kind"] == "newsletter" and value.get("newsletter_id") is None:
        return "newsletter_id", "is missing; expected the newsletter, because kind is newsletter"
    if value["kind"] != "newsletter" and value.get("newsletter_id") is not None:
        return "newsletter_id", f"is set although kind is {value['kind']}; expected null"
    return None


def _control(value: Value) -> Problem:
    what, _, rest = value["control_id"].partition("/")
    if value["control_id"] == "all" or (what == "channel" and rest in CHANNELS) or (what == "source" and rest):
        return None
    if what == "canary" and rest:
        return None if value["action"] == "resume" else ("action", "is no resume; a canary can only be followed by the others")
    return "control_id", "is unknown; expected all, channel/<channel>, source/<source_id or newsletter_id> or canary/<source_id>"


def _experiment(value: Value) -> Problem:
    weights = value["weights"]
    if len(weights) != len(value["variants"]):
        return "weights", f"has {len(weights)} entries for {len(value['variants'])} variants; expected one for each"
    return None if _are_shares(weights) else ("weights", "expected shares above 0 that sum to 1")


def _are_shares(weights: Sequence[float]) -> bool:
    return all(weight > 0 for weight in weights) and math.isclose(sum(weights), 1, abs_tol=1e-6)


def _never_due(value: Value) -> Problem:
    """Return what is wrong with a schedule that no day is on, or says something twice in two ways."""
    schedule = Schedule.of({"cadence": "weekdays", "month_day": 1, "every_hours": 24, "skip_dates": (), **value})
    if schedule.cadence == "monthly" and schedule.days != EVERY_DAY:
        return "days", "names some weekdays, but a monthly issue comes on month_day; expected all seven"
    first = (value["defined_at"].date() - EPOCH).days
    days = range(first, first + SCHEDULE_DAYS)
    bare = replace(schedule, skipped=frozenset())
    if not any(bare.comes_on(day) for day in days):
        return "days", f"names no day that every_hours ({schedule.every_min // 60}) comes to; such as Thursday for 168"
    if schedule.skipped and not any(schedule.comes_on(day) for day in days):
        return "skip_dates", f"leaves no issue within {SCHEDULE_DAYS} days of defined_at; expected at least one"
    return None


def _newsletter(value: Value) -> Problem:
    never = _never_due(value)
    if never is not None:
        return never
    variants = value.get("variants") or []
    if len(variants) == 1 or len(variants) > MAX_VARIANTS:
        return "variants", f"has {len(variants)} entries; expected none, or 2 to {MAX_VARIANTS}"
    if len({variant["name"] for variant in variants}) < len(variants):
        return "variants", "names something twice"
    for number, variant in enumerate(variants, 1):
        for field, check in _VARIANT.items():
            problem = check(variant[field]) if variant[field] is not None else None
            if problem is not None:
                return "variants", f"entry {number} {field} {problem}"
    if variants and not _are_shares([variant["weight"] for variant in variants]):
        return "variants", "expected weights above 0 that sum to 1"
    return None


_ACROSS: Final[Mapping[str, Callable[[Value], Problem]]] = {
    "PublicationSubmitted": _publication,
    "AlertRaised": _alert,
    "Tick": _tick,
    "SubscriberRegistered": _registered,
    "ChannelLinked": _linked,
    "SubscriberUnsubscribed": _unsubscribed,
    "ControlChanged": _control,
    "NewsletterDefined": _newsletter,
    "ExperimentStarted": _experiment,
}
