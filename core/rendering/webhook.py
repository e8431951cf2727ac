"""Webhooks: one JSON object a message, below the 20 kB that Standard Webhooks 1.0.0 advises, with the same bytes each time.

{"type": "newswire.newsletter.issued" or "newswire.alert.raised", "timestamp": RFC 3339, "data": {...}}
"""

import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from core.rendering.fragments import REASONED, FragmentCache, FragmentKey
from core.rendering.links import item_link
from core.rendering.model import AlertMessage, Issue, ItemContent
from core.rendering.phrases import named, phrases_for, reason_text
from core.rendering.text import one_line, paragraphs, safe_url, shorten

MAX_BYTES = 20_000
SUMMARY_TIERS = (600, 300, 120, 0)
"""Characters of each summary; the next tier is taken when the payload would be too large."""

TITLE_LIMIT, MAX_AUTHORS, AUTHOR_LIMIT, MAX_TOPICS, URL_LIMIT = 500, 10, 120, 10, 2_048
NEWSLETTER_ISSUED, ALERT_RAISED = "newswire.newsletter.issued", "newswire.alert.raised"


def newsletter_payload(
    issue: Issue, *, delivery_id: str, source_id: str, timestamp: datetime, cache: FragmentCache | None = None
) -> bytes:
    """Return one issue as JSON. timestamp is when it was decided, so that every attempt sends the same bytes."""
    cache = cache if cache is not None else FragmentCache()
    data: dict[str, Any] = {
        "delivery_id": delivery_id,
        "source_id": source_id,
        "newsletter_id": issue.newsletter_id,
        "newsletter_name": shorten(one_line(issue.newsletter_name), TITLE_LIMIT),
        "issue": shorten(issue.issue_group, 100),
        "language": issue.language,
        "unsubscribe_url": issue.unsubscribe_url,
    }
    head = _json({"type": NEWSLETTER_ISSUED, "timestamp": _moment(timestamp), "data": data}).removesuffix("}}")
    for shown in range(len(issue.items), -1, -1):
        for tier in SUMMARY_TIERS:
            items = ",".join([_item(issue, position, tier, cache) for position in range(shown)])
            payload = f'{head},"items":[{items}],"items_left_out":{len(issue.items) - shown}}}}}'.encode()
            if len(payload) < MAX_BYTES:
                return payload
    raise AssertionError("a payload without items is within the limit")


def alert_payload(message: AlertMessage, *, delivery_id: str, source_id: str, timestamp: datetime) -> bytes:
    """Return one alert as JSON; timestamp is when it was decided."""
    for limit in (12_000, 6_000, 3_000, 1_000):
        data = {
            "delivery_id": delivery_id,
            "source_id": source_id,
            "alert_id": message.alert_id,
            "title": shorten(one_line(message.title), TITLE_LIMIT),
            "body": shorten(paragraphs(message.body), limit),
            "url": _url(message.url) or None,
            "priority": message.priority,
            "language": message.language,
            "raised_at": _moment(message.raised_at),
            "unsubscribe_url": message.unsubscribe_url,
        }
        payload = _json({"type": ALERT_RAISED, "timestamp": _moment(timestamp), "data": data}).encode()
        if len(payload) < MAX_BYTES:
            return payload
    raise AssertionError("an alert's fields are bounded")


def _item(issue: Issue, position: int, tier: int, cache: FragmentCache) -> str:
    """Return one item as JSON: the cached beginning, which is the same for everybody, then address and reason."""
    content, reason = issue.items[position]
    key = FragmentKey(content.publication_id, content.revision, "", f"item-{tier}", "webhook")
    url, beginning = cache.get(key, lambda: (_url(content.url), _json(_render_item(content, tier)).removesuffix("}")))
    ending = _reason(reason, named(reason, issue.topic_names), phrases_for(issue.language).locale)
    return f"{beginning},{_address(item_link(url, issue.delivery_id, position))}{ending}"


@lru_cache(maxsize=REASONED)
def _address(url: str) -> str:
    return _json({"url": url})[1:-1]


@lru_cache(maxsize=REASONED)
def _reason(reason: str, shown: str, locale: str) -> str:
    words = {"reason": shorten(one_line(reason), AUTHOR_LIMIT), "reason_text": shorten(reason_text(shown, locale), AUTHOR_LIMIT)}
    return "," + _json(words).removeprefix("{")


def _render_item(content: ItemContent, tier: int) -> dict[str, Any]:
    return {
        "publication_id": content.publication_id,
        "revision": content.revision,
        "title": shorten(one_line(content.title), TITLE_LIMIT),
        "summary": shorten(one_line(content.summary), tier) if tier else "",
        "authors": [shorten(one_line(name), AUTHOR_LIMIT) for name in content.authors[:MAX_AUTHORS]],
        "topics": [shorten(one_line(topic), AUTHOR_LIMIT) for topic in content.topics[:MAX_TOPICS]],
        "language": content.language,
        "published_at": _moment(content.published_at),
    }


def _url(url: str | None) -> str:
    clean = safe_url(url)
    return clean if len(clean) <= URL_LIMIT else ""


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
