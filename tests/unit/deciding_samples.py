"""Sample events and states for the tests of deciding."""

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from core.folding import to_ms
from core.readership import as_items, summed

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Sample:
    """A decoded event, as the folds see one."""

    name: str
    value: dict[str, Any] = field(default_factory=dict)
    timestamp_ms: int = 0


def person(number: int) -> str:
    return str(uuid.UUID(int=number + 1))


def publication(number: int) -> str:
    return str(uuid.UUID(int=(1 << 96) + number))


PREFERENCES: dict[str, Any] = dict.fromkeys(
    (
        "time_zone",
        "language",
        "topics",
        "channels",
        "urgent_channels",
        "newsletters",
        "alerts",
        "quiet_hours",
        "paused_until",
        "local_minute",
        "days",
        "alerts_a_day",
        "tags",
    )
)


def registered(who: str, zone: str = "UTC", **more: Any) -> Sample:
    value = {"subscriber_id": who, "time_zone": zone, "language": "en", "tags": [], "name": None, "registered_at": NOW}
    return Sample("SubscriberRegistered", value | more)


def preferred(who: str, **more: Any) -> Sample:
    return Sample("PreferencesChanged", PREFERENCES | {"subscriber_id": who, "changed_at": NOW} | more)


def linked(who: str, channel: str = "email", address: bytes = b"\x01secret") -> Sample:
    return Sample("ChannelLinked", {"subscriber_id": who, "channel": channel, "address": address, "linked_at": NOW})


def verified(who: str, channel: str = "email") -> Sample:
    return Sample("ChannelVerified", {"subscriber_id": who, "channel": channel, "method": "operator", "verified_at": NOW})


def unlinked(who: str, channel: str = "email") -> Sample:
    return Sample("ChannelUnlinked", {"subscriber_id": who, "channel": channel, "reason": "requested", "unlinked_at": NOW})


def unsubscribed(who: str, kind: str = "all", newsletter_id: str | None = None) -> Sample:
    return Sample(
        "SubscriberUnsubscribed",
        {"subscriber_id": who, "newsletter_id": newsletter_id, "kind": kind, "via": "page", "unsubscribed_at": NOW},
    )


def erased(who: str) -> Sample:
    return Sample("SubscriberErased", {"subscriber_id": who, "requested_by": "subscriber", "erased_at": NOW})


def topics(*names: str) -> list[dict[str, Any]]:
    return [{"topic": name, "weight": 1.0} for name in names]


def reader(who: str, zone: str = "UTC", channel: str = "email", **more: Any) -> list[Sample]:
    """A subscriber of the daily newsletter who takes alerts on one verified channel."""
    chosen = {"newsletters": ["daily"], "alerts": True, "topics": topics("physics")} | more
    return [registered(who, zone), preferred(who, **chosen), linked(who, channel), verified(who, channel)]


def available(number: int, *names: str, revision: int = 1, quality: float = 0.95, **more: Any) -> Sample:
    value = {
        "publication_id": publication(number),
        "revision": revision,
        "quality": quality,
        "content_type": "article",
        "topics": topics(*names or ("physics",)),
        "language": "en",
        "approved_at": NOW,
        "content_partition": 3,
        "content_offset": number,
        "vector": None,
        "vector_model": None,
    }
    return Sample("ContentAvailable", value | more)


def withdrawn(number: int, reason: str = "retracted") -> Sample:
    return Sample("ContentWithdrawn", {"publication_id": publication(number), "reason": reason, "withdrawn_at": NOW})


def counted(*shards: Any, at: datetime = NOW, replaces: bool = True) -> Sample:
    """How much is read in these shards together, as the audience stage says before a slot."""
    counts = summed(state.own_counts(to_ms(at)) for state in shards)
    return Sample("ContentRead", {"replaces": replaces, "counts": as_items(counts)})


def alert(alert_id: str = "00000000-0000-0000-0000-0000000000aa", **more: Any) -> dict[str, Any]:
    """An item of AlertBatch."""
    value = {
        "alert_id": alert_id,
        "action": "raised",
        "chunks": 1,
        "publication_id": None,
        "quality": 0.95,
        "priority": "high",
        "topics": topics("physics"),
        "language": "en",
        "dedup_key": None,
        "raised_at": NOW,
        "not_after": datetime(2026, 11, 23, 9, 0, tzinfo=UTC),
        "content_partition": 1,
        "content_offset": 7,
    }
    return value | more


def clicked(who: str, number: int, days_ago: float = 1, **more: Any) -> Sample:
    """Somebody clicked on a publication."""
    value = {"subscriber_id": who, "publication_id": publication(number), "occurred_at": NOW - timedelta(days=days_ago)}
    return Sample("ContentClicked", value | {"evidence": "click", "link": number, "delivery_id": None} | more)


RULES: dict[str, Any] = {
    "revision": 1,
    "name": "Daily",
    "subject": "{title}",
    "days": [1, 2, 3, 4, 5, 6, 7],
    "local_minute": 540,
    "audience_topics": [],
    "audience_languages": [],
    "audience_tags": [],
    "audience_channels": [],
    "content_types": [],
    "max_age_h": 72,
    "min_quality": 0.8,
    "max_items": 10,
    "half_life_h": 24.0,
    "cadence": "weekdays",
    "month_day": 1,
    "every_hours": 24,
    "skip_dates": [],
    "late_h": 24,
    "topic_share": 1.0,
    "exploration": 0.0,
    "ranking": "blend",
    "variants": [],
    "seed": "",
    "template": "standard",
}


def slot(
    slot_at: datetime = NOW, forced: bool = False, chunks: int = 1, newsletter_id: str = "daily", **rules: Any
) -> dict[str, Any]:
    """A SlotDue."""
    return {
        "source_id": f"{newsletter_id}@{slot_at:%Y-%m-%dT%H:%MZ}",
        "chunks": chunks,
        "newsletter_id": newsletter_id,
        "slot_at": slot_at,
        "forced": forced,
        "rules": RULES | rules,
        "model_version": None,
        "test_subscriber": None,
    }


def fold(state: Any, *events: Any) -> Any:
    """Apply events, and lists of events, to a state and return it."""
    for event in events:
        if isinstance(event, list):
            fold(state, *event)
        else:
            state.apply(event)
    return state
