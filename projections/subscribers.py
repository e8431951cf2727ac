"""Read model api.subscribers, from the topic subscribers (ordered by subscriber_id); it holds no personal data.

The fold is the one of core.subscribers: preferences are patches (null leaves a field as it was), a channel is verified only
while it is linked, linking again needs verifying again, erasure clears the row for good, and an event that breaks a rule
of its contract changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from core.rules import obeys
from projections.model import Projection, Statement, plain, texts, times, unique
from schemas.records import Event

_NEW = "insert into subscribers (subscriber_id) select * from unnest(%(ids)s::uuid[]) on conflict do nothing"

_PATCH = """
update subscribers t set
    time_zone = coalesce(n.time_zone, t.time_zone),
    language = coalesce(n.language, t.language),
    tags = coalesce(n.tags::text[], t.tags),
    topics = coalesce(n.topics::jsonb, t.topics),
    channels = (t.channels || n.linked::jsonb
                || (select coalesce(jsonb_object_agg(c, true), '{}') from unnest(n.verified::text[]) c where t.channels ? c))
               - n.unlinked::text[],
    channel_order = coalesce(n.channel_order::text[], t.channel_order),
    urgent_channels = coalesce(n.urgent_channels::text[], t.urgent_channels),
    newsletters = array(select x from unnest(coalesce(n.newsletters::text[], t.newsletters)) with ordinality u(x, place)
                         where x <> all (n.dropped::text[]) order by place),
    alerts = coalesce(n.alerts, t.alerts),
    quiet_hours = coalesce(n.quiet_hours::jsonb, t.quiet_hours),
    paused_until = coalesce(n.paused_until, t.paused_until),
    local_minute = coalesce(n.local_minute, t.local_minute),
    days = coalesce(n.days::integer[], t.days),
    alerts_a_day = coalesce(n.alerts_a_day, t.alerts_a_day),
    registered_at = coalesce(t.registered_at, n.registered_at),
    unsubscribed_at = case when n.unsubscribed is null then t.unsubscribed_at else n.unsubscribed_at end,
    applied_offset = n.applied_offset
from unnest(%(ids)s::uuid[], %(time_zones)s::text[], %(languages)s::text[], %(tags)s::text[], %(topics)s::text[],
            %(linked)s::text[], %(verified)s::text[], %(unlinked)s::text[], %(orders)s::text[], %(urgent)s::text[],
            %(newsletters)s::text[], %(dropped)s::text[], %(alerts)s::bool[], %(quiet)s::text[], %(paused)s::timestamptz[],
            %(minutes)s::int[], %(days)s::text[], %(caps)s::int[], %(registered)s::timestamptz[], %(unsubscribed)s::bool[],
            %(unsubscribed_at)s::timestamptz[], %(applied)s::bigint[])
    as n(subscriber_id, time_zone, language, tags, topics, linked, verified, unlinked, channel_order, urgent_channels,
         newsletters, dropped, alerts, quiet_hours, paused_until, local_minute, days, alerts_a_day, registered_at,
         unsubscribed, unsubscribed_at, applied_offset)
where t.subscriber_id = n.subscriber_id and t.erased_at is null and t.applied_offset < n.applied_offset
"""

_ERASE = """
update subscribers t set
    time_zone = null, language = null, tags = default, topics = default, channels = default, channel_order = default,
    urgent_channels = default, newsletters = default, alerts = default, quiet_hours = default, paused_until = null,
    local_minute = null, days = default, alerts_a_day = null, registered_at = null, unsubscribed_at = null,
    erased_at = n.erased_at, applied_offset = n.applied_offset
from unnest(%(ids)s::uuid[], %(at)s::timestamptz[], %(applied)s::bigint[]) as n(subscriber_id, erased_at, applied_offset)
where t.subscriber_id = n.subscriber_id and t.erased_at is null
"""

_PLAIN_FIELDS = ("time_zone", "language", "tags", "topics", "urgent_channels", "quiet_hours", "paused_until", "local_minute",
                 "days", "alerts_a_day")  # fmt: skip


@dataclass(slots=True)
class _Patch:
    """What one subscriber's events in a batch change; None leaves a field as it was."""

    time_zone: str | None = None
    language: str | None = None
    tags: list[str] | None = None
    topics: list[dict[str, Any]] | None = None
    channels: list[str] | None = None
    urgent_channels: list[str] | None = None
    newsletters: list[str] | None = None
    dropped: set[str] = field(default_factory=set)
    """Newsletters left since the list was last replaced."""
    alerts: bool | None = None
    quiet_hours: list[dict[str, int]] | None = None
    paused_until: datetime | None = None
    local_minute: int | None = None
    days: list[int] | None = None
    alerts_a_day: int | None = None
    links: dict[str, bool | None] = field(default_factory=dict)
    """Channel to verified, or None when it was unlinked."""
    verified: set[str] = field(default_factory=set)
    """Channels verified here whose linking lies before the batch, if there was any."""
    registered_at: datetime | None = None
    unsubscribed: bool | None = None
    unsubscribed_at: datetime | None = None
    applied_offset: int = -1

    def preferences(self, value: dict[str, Any]) -> None:
        """Take in the fields that are set."""
        for name in _PLAIN_FIELDS:
            if value[name] is not None:
                setattr(self, name, value[name])
        if value["channels"] is not None:
            self.channels = list(dict.fromkeys(value["channels"]))
        if value["newsletters"] is not None:
            self.newsletters, self.dropped = list(dict.fromkeys(value["newsletters"])), set()
        if value["alerts"] is not None:
            self.alerts = value["alerts"]
        if value["newsletters"] or value["alerts"]:
            self.unsubscribed, self.unsubscribed_at = False, None

    def unsubscribe(self, value: dict[str, Any]) -> None:
        """Leave one newsletter, the alerts, or everything."""
        kind = value["kind"]
        if kind == "newsletter" and value["newsletter_id"] is not None:
            if self.newsletters is not None:
                self.newsletters = [n for n in self.newsletters if n != value["newsletter_id"]]
            else:
                self.dropped.add(value["newsletter_id"])
        if kind in ("alerts", "all"):
            self.alerts = False
        if kind == "all":
            self.newsletters, self.dropped = [], set()
            self.unsubscribed, self.unsubscribed_at = True, value["unsubscribed_at"]

    def channel(self, event: Event) -> None:
        """Link, verify or unlink; verifying something that is not linked changes nothing."""
        channel = event.value["channel"]
        if event.name == "ChannelLinked":
            self.links[channel] = False
            self.verified.discard(channel)
        elif event.name == "ChannelUnlinked":
            self.links[channel] = None
            self.verified.discard(channel)
        elif channel not in self.links:
            self.verified.add(channel)
        elif self.links[channel] is not None:
            self.links[channel] = True


def _fold(patch: _Patch, event: Event) -> None:
    value = event.value
    if event.name == "SubscriberRegistered":
        patch.time_zone, patch.language, patch.tags = value["time_zone"], value["language"], value["tags"]
        patch.registered_at = patch.registered_at or value["registered_at"]
    elif event.name == "PreferencesChanged":
        patch.preferences(value)
    elif event.name == "SubscriberUnsubscribed":
        patch.unsubscribe(value)
    else:
        patch.channel(event)
    patch.applied_offset = event.offset


def apply(events: Sequence[Event]) -> list[Statement]:
    """Return the statements for a batch of events of the topic subscribers."""
    patches: dict[str, _Patch] = {}
    erased: dict[str, Event] = {}
    for event in events:
        if not obeys(event.name, event.value):
            continue  # as in the shards' state: the stage that admits it writes the dead letter
        subscriber_id = event.value["subscriber_id"]
        if event.name == "SubscriberErased":
            erased.setdefault(subscriber_id, event)
        elif subscriber_id not in erased:
            _fold(patches.setdefault(subscriber_id, _Patch()), event)
    if not patches and not erased:
        return []
    statements = [Statement(_NEW, {"ids": unique({**patches, **erased})})]
    if patches:
        statements.append(_patch(patches))
    if erased:
        params = {
            "ids": unique(erased),
            "at": times(e.value["erased_at"] for e in erased.values()),
            "applied": plain(e.offset for e in erased.values()),
        }
        statements.append(Statement(_ERASE, params))
    return statements


def _array(values: Sequence[str] | None) -> str | None:
    return None if values is None else texts(values)


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _patch(patches: dict[str, _Patch]) -> Statement:
    folded = list(patches.values())
    weights = [None if p.topics is None else {t["topic"]: t["weight"] for t in p.topics} for p in folded]
    params = {
        "ids": unique(patches),
        "time_zones": texts(p.time_zone for p in folded),
        "languages": texts(p.language for p in folded),
        "tags": texts(_array(p.tags) for p in folded),
        "topics": texts(_json(w) for w in weights),
        "linked": texts(_json({c: v for c, v in p.links.items() if v is not None}) for p in folded),
        "verified": texts(texts(sorted(p.verified)) for p in folded),
        "unlinked": texts(texts(c for c, v in p.links.items() if v is None) for p in folded),
        "orders": texts(_array(p.channels) for p in folded),
        "urgent": texts(_array(p.urgent_channels) for p in folded),
        "newsletters": texts(_array(p.newsletters) for p in folded),
        "dropped": texts(texts(sorted(p.dropped)) for p in folded),
        "alerts": plain(p.alerts for p in folded),
        "quiet": texts(_json(p.quiet_hours) for p in folded),
        "paused": times(p.paused_until for p in folded),
        "minutes": plain(p.local_minute for p in folded),
        "days": texts(None if p.days is None else _array([str(day) for day in p.days]) for p in folded),
        "caps": plain(p.alerts_a_day for p in folded),
        "registered": times(p.registered_at for p in folded),
        "unsubscribed": plain(p.unsubscribed for p in folded),
        "unsubscribed_at": times(p.unsubscribed_at for p in folded),
        "applied": plain(p.applied_offset for p in folded),
    }
    return Statement(_PATCH, params)


SUBSCRIBERS = Projection(
    name="subscribers",
    version=2,
    topics=lambda topics: (topics.subscribers,),
    tables=("subscribers",),
    views=("subscribers",),
    apply=apply,
)
