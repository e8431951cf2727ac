"""The demo's input: the arXiv sample as publications, and a made-up population of subscribers; pure and seeded.

`expected_newsletter` and `expected_alert` work out from this input alone, without any of Newswire's code, what must
become of each subscriber. The demo compares Newswire's answer with theirs.
"""

import json
import random
import re
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from importlib.resources import files
from typing import Any

from deploy.sandbox.scoring import quality_of

NAMESPACE = uuid.UUID("b1f0a3a8-4a0e-5d0f-8a55-7a3a1a3de001")
"""Namespace of the demo's own ids, so that every run speaks of the same publications and people."""

NEWSLETTER_ID = "arxiv-daily"
SUBSCRIBERS = 2_000
ZONES = (
    "America/Los_Angeles", "America/Denver", "America/Chicago", "America/New_York", "America/Sao_Paulo", "Atlantic/Reykjavik",
    "Europe/London", "Europe/Berlin", "Europe/Athens", "Africa/Nairobi", "Asia/Dubai", "Asia/Kolkata", "Asia/Kathmandu",
    "Asia/Shanghai", "Asia/Tokyo", "Australia/Sydney", "Pacific/Auckland",
)  # fmt: skip
GIVEN = (
    "Ada",
    "Emmy",
    "Lise",
    "Chien-Shiung",
    "Vera",
    "Rosalind",
    "Barbara",
    "Dorothy",
    "Paul",
    "Enrico",
    "Satyendra",
    "Abdus",
    "Max",
    "Niels",
)
FAMILY = (
    "Keller",
    "Okafor",
    "Nguyen",
    "García",
    "Rossi",
    "Novák",
    "Yamada",
    "Haddad",
    "Silva",
    "Andersson",
    "Müller",
    "Kaur",
    "Moreau",
    "Byrne",
)
ALWAYS_QUIET = [{"start_minute": 0, "end_minute": 720}, {"start_minute": 720, "end_minute": 0}]
"""Quiet hours that cover the whole day, so that what the demo expects does not depend on when it is run."""

READS_EVERY, READS = 4, 6
"""Every fourth subscriber has a reading history, of six articles."""

Outcome = tuple[str, str]
"""(channel, outcome): outcome is chosen, or the reason of the gate."""


@dataclass(frozen=True)
class Expectation:
    """What a source must come to."""

    outcomes: dict[Outcome, int] = field(default_factory=dict)
    """Whoever is in none of them on a channel is not concerned there."""

    def chosen(self, channel: str) -> int:
        """Return how many deliveries a channel must have."""
        return self.outcomes.get((channel, "chosen"), 0)

    def gated(self, channel: str) -> int:
        """Return how many deliveries gates must have kept from a channel, whatever the reason."""
        return sum(count for (name, outcome), count in self.outcomes.items() if name == channel and outcome != "chosen")


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def publications() -> list[dict[str, Any]]:
    """Return the 200 arXiv records as PublicationSubmitted documents."""
    lines = files("deploy").joinpath("samples/arxiv-metadata-sample.jsonl").read_text(encoding="utf-8").splitlines()
    return [_publication(json.loads(line)) for line in lines]


def _publication(record: dict[str, Any]) -> dict[str, Any]:
    published_at = parsedate_to_datetime(record["versions"][0]["created"]).astimezone(UTC)
    return {
        "publication_id": str(uuid.uuid5(NAMESPACE, record["id"])),
        "revision": 1,
        "content_type": "article",
        "title": _plain(record["title"]),
        "summary": _plain(record["abstract"]),
        "url": f"https://arxiv.org/abs/{record['id']}",
        "authors": [_plain(" ".join(reversed(names[:2]))) for names in record["authors_parsed"]],
        "topics": [{"topic": topic, "weight": 1.0} for topic in record["categories"].split()],
        "language": "en",
        "published_at": published_at.isoformat().replace("+00:00", "Z"),
        "attributes": {"arxiv_id": record["id"]},
    }


def newsletter() -> dict[str, Any]:
    """Return the demo's newsletter, in the form that `newswire newsletter define` reads."""
    return {
        "newsletter_id": NEWSLETTER_ID,
        "revision": 1,
        "name": "arXiv Daily",
        "subject": "{newsletter}: {title}",
        "days": [1, 2, 3, 4, 5, 6, 7],
        "local_minute": 9 * 60,
        "audience_topics": [],
        "audience_languages": [],
        "audience_tags": [],
        "audience_channels": [],
        "content_types": ["article"],
        "max_age_h": 72,
        "min_quality": 0.8,
        "max_items": 10,
        "half_life_h": 24.0,
        "template": "newsletter",
        "from_name": "arXiv Daily",
        "from_address": "daily@newswire.example",
        "reply_to": "editors@newswire.example",
        "postal_address": "Newswire demo, 1 Example Street, 10115 Berlin, Germany",
    }


def reading(documents: list[dict[str, Any]], before: datetime) -> list[dict[str, Any]]:
    """Return what every READS_EVERY-th subscriber read in the days before: ContentClicked of articles of one category each.

    The category is not one of those they declared, so that what they get beyond their topics comes from what they read.
    """
    by_topic: dict[str, list[str]] = {}
    for publication in publications():
        for topic in publication["topics"]:
            by_topic.setdefault(topic["topic"], []).append(publication["publication_id"])
    found = []
    for number, document in enumerate(documents[::READS_EVERY]):
        rng = random.Random(f"reading {number}")
        themes = sorted(name for name, ids in by_topic.items() if len(ids) > READS and name not in document["topics"])
        for publication_id in rng.sample(by_topic[rng.choice(themes)], READS):
            at = before - timedelta(minutes=rng.randint(60, 10 * 24 * 60))
            found.append({"subscriber_id": document["subscriber_id"], "publication_id": publication_id, "occurred_at": at})
    return found


def alerts(raised_at: datetime) -> list[dict[str, Any]]:
    """Return the demo's two alerts: one for a topic, which respects quiet hours and caps, and one for everybody."""
    raised = raised_at.isoformat().replace("+00:00", "Z")
    expires = (raised_at + timedelta(hours=24)).isoformat().replace("+00:00", "Z")
    return [
        {
            "alert_id": str(uuid.uuid5(NAMESPACE, f"alert hep {raised}")),
            "title": "Anomaly in high-energy physics: three groups report the same excess",
            "body": "Three independent analyses published today agree within errors. A summary with links is in the record.",
            "url": "https://arxiv.org/list/hep-ph/new",
            "topics": [
                {"topic": "hep-ph", "weight": 1.0},
                {"topic": "hep-th", "weight": 1.0},
                {"topic": "hep-ex", "weight": 1.0},
            ],
            "language": "en",
            "priority": "high",
            "quality": 0.95,
            "raised_at": raised,
            "expires_at": expires,
        },
        {
            "alert_id": str(uuid.uuid5(NAMESPACE, f"alert all {raised}")),
            "title": "Correction: yesterday's dataset release has been withdrawn",
            "body": "Please do not use release 2026-11. A corrected release follows; details are at the address below.",
            "url": "https://arxiv.org/help/withdraw",
            "topics": [],
            "language": "en",
            "priority": "critical",
            "quality": 0.97,
            "raised_at": raised,
            "expires_at": expires,
        },
    ]


def subscribers(hook_url: str, count: int = SUBSCRIBERS) -> list[dict[str, Any]]:
    """Return the made-up population, in the form that `newswire subscribe --file` reads; hook_url has a {name} to fill in.

    Each follows topics that good enough articles are about, so that everybody's first issue has something for them.
    """
    approved = [p for p in publications() if quality_of(p["title"], p["attributes"]) > 0.8]
    topic_counts = Counter(t["topic"] for p in approved for t in p["topics"])
    topics, weights = list(topic_counts), list(topic_counts.values())
    return [_subscriber(number, topics, weights, hook_url) for number in range(count)]


def _subscriber(number: int, topics: list[str], weights: list[int], hook_url: str) -> dict[str, Any]:
    rng = random.Random(number)
    given, family = rng.choice(GIVEN), rng.choice(FAMILY)
    addresses = {
        "email": f"reader.{number:05d}@example.org",
        "slack": f"C{number:09d}",
        "discord": str(900_000_000_000_000_000 + number),
        "webhook": {
            "url": hook_url.format(name=f"reader-{number:05d}"),
            "secret": "whsec_" + "bmV3c3dpcmUtZGVtby1zZWNyZXQtb2YtMzItYnl0ZXM=",
        },
    }
    first = rng.choices(list(addresses), weights=[55, 18, 15, 12])[0]
    second = rng.choice([c for c in addresses if c != first]) if rng.random() < 0.3 else None
    order = [first] + ([second] if second else [])
    document: dict[str, Any] = {
        "subscriber_id": str(uuid.uuid5(NAMESPACE, f"subscriber {number}")),
        "name": f"{given} {family}",
        "time_zone": ZONES[number % len(ZONES)],
        "language": "de" if ZONES[number % len(ZONES)] == "Europe/Berlin" else "en",
        "topics": dict.fromkeys(sorted(set(rng.choices(topics, weights=weights, k=rng.randint(1, 4)))), 1.0),
        "newsletters": [NEWSLETTER_ID] if rng.random() < 0.93 else [],
        "alerts": rng.random() < 0.7,
        "channels": {c: addresses[c] for c in order},
    }
    if rng.random() < 0.1:
        document["quiet_hours"] = ALWAYS_QUIET
    if rng.random() < 0.04:
        document["paused_until"] = "2100-01-01T00:00:00Z"
    if rng.random() < 0.03:
        document["alerts_a_day"] = 0
    if rng.random() < 0.03:
        document["verified"] = False
    elif second and rng.random() < 0.2:
        document["urgent_channels"] = order
    return document


def _channels(document: dict[str, Any]) -> list[str]:
    return [] if document.get("verified") is False else list(document["channels"])


def expected_newsletter(documents: list[dict[str, Any]]) -> Expectation:
    """Return what the demo's newsletter must come to: one delivery a subscriber on the first verified channel."""
    outcomes: Counter[Outcome] = Counter()
    for document in documents:
        channels = _channels(document)
        if NEWSLETTER_ID not in document["newsletters"]:
            continue
        if "paused_until" in document:
            outcomes[channels[0] if channels else "none", "paused"] += 1
        elif not channels:
            outcomes["none", "no_channel"] += 1
        else:
            outcomes[channels[0], "chosen"] += 1
    return Expectation(dict(outcomes))


def expected_alert(documents: list[dict[str, Any]], alert: dict[str, Any]) -> Expectation:
    """Return what an alert must come to: on each urgent channel, else on the first verified one."""
    wanted = {t["topic"] for t in alert["topics"]}
    outcomes: Counter[Outcome] = Counter()
    for document in documents:
        channels = document.get("urgent_channels") or _channels(document)[:1]
        if not document["alerts"] or (wanted and not wanted & set(document["topics"])):
            continue
        if not channels:
            outcomes["none", "no_channel"] += 1
        elif alert["priority"] != "critical" and "quiet_hours" in document:
            outcomes.update((channel, "quiet_hours") for channel in channels)
        elif alert["priority"] != "critical" and document.get("alerts_a_day") == 0:
            outcomes.update((channel, "cap") for channel in channels)
        else:
            outcomes.update((channel, "chosen") for channel in channels)
    return Expectation(dict(outcomes))
