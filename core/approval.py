"""Admission: which submissions are well-formed, which are duplicates, and which quality passes which gate.

Pure. State: what is known of each publication of a partition, folded from the `publications` topic in the order of the log; so a
submission gets the same verdict when it is read again, however far the fold has got meanwhile.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from core.content import ALERT_QUALITY, NEWSLETTER_QUALITY
from core.errors import EventRefused
from core.folding import StateEvent
from core.names import PRIORITIES

CONTENT_FIELDS: Final = (
    "content_type",
    "title",
    "summary",
    "body",
    "url",
    "authors",
    "topics",
    "language",
    "published_at",
    "attributes",
)
"""What makes two submissions of one revision the same, in the order in which a difference is named."""

TITLE_CHARACTERS: Final = 2000
ALERT_TITLE_CHARACTERS: Final = 500
MAX_ALERT_LIFE: Final = timedelta(days=5)
"""No alert is worth sending for longer."""

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NEWSLETTER: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


def _canonical(value: Any) -> Any:
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    if isinstance(value, Mapping):
        return {name: _canonical(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return value


def field_digest(value: Any) -> bytes:
    """Return a short digest (8 bytes) of one field, by which a difference is found."""
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def content_sha256(submitted: Mapping[str, Any]) -> bytes:
    """Return the SHA-256 of the canonical content: the fields of CONTENT_FIELDS as JSON with sorted keys, times in ms."""
    content = {name: _canonical(submitted.get(name)) for name in CONTENT_FIELDS}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).digest()


def _check(event: str, name: str, holds: bool, message: str) -> None:
    if not holds:
        raise EventRefused(event, name, message)


def _check_url(event: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        good = False
    _check(event, "url", good, f"{url!r} is no absolute http or https address")


def _check_topics(event: str, topics: Iterable[Mapping[str, Any]]) -> None:
    for item in topics:
        _check(event, "topics", bool(item["topic"].strip()), "a topic has no name")
        _check(event, "topics", 0 < item["weight"] <= 1, f"the weight of {item['topic']!r} must be above 0, at most 1")


def check_publication(value: Mapping[str, Any]) -> None:
    """Raise EventRefused, naming the field, when a PublicationSubmitted breaks a rule of its contract."""
    event = "PublicationSubmitted"
    identity = value["publication_id"]
    _check(event, "publication_id", bool(_UUID.fullmatch(identity)), f"{identity!r} is no UUID in lower case")
    _check(event, "revision", value["revision"] >= 1, f"{value['revision']} is below 1")
    _check(event, "content_type", bool(value["content_type"].strip()), "is empty; say what it is, such as article")
    _check(event, "title", bool(value["title"].strip()), "is empty; a publication needs a title")
    _check(event, "title", len(value["title"]) <= TITLE_CHARACTERS, f"is longer than {TITLE_CHARACTERS:,} characters")
    _check_url(event, value["url"])
    language = value["language"]
    _check(event, "language", bool(_LANGUAGE.fullmatch(language)), f"{language!r} is no BCP 47 tag; use one such as en or pt-BR")
    _check_topics(event, value["topics"])


def check_alert(value: Mapping[str, Any]) -> None:
    """Raise EventRefused, naming the field, when an AlertRaised breaks a rule of its contract."""
    event = "AlertRaised"
    _check(event, "alert_id", bool(_UUID.fullmatch(value["alert_id"])), f"{value['alert_id']!r} is no UUID in lower case")
    _check(event, "title", bool(value["title"].strip()), "is empty; an alert needs a title")
    _check(event, "title", len(value["title"]) <= ALERT_TITLE_CHARACTERS, f"is longer than {ALERT_TITLE_CHARACTERS} characters")
    if value["url"] is not None:
        _check_url(event, value["url"])
    priority = value["priority"]
    _check(event, "priority", priority in PRIORITIES, f"{priority!r} is none of {', '.join(PRIORITIES)}")
    quality = value["quality"]
    _check(event, "quality", quality is None or 0 <= quality <= 1, f"{quality} is not between 0 and 1")
    _check(event, "language", bool(_LANGUAGE.fullmatch(value["language"])), f"{value['language']!r} is no BCP 47 tag")
    _check_topics(event, value["topics"])
    expires_at = value["expires_at"]
    if expires_at is not None:
        _check(event, "expires_at", expires_at > value["raised_at"], "lies before raised_at")
        _check(event, "expires_at", expires_at <= value["raised_at"] + MAX_ALERT_LIFE, "lies more than 5 days after raised_at")


def check_newsletter(value: Mapping[str, Any]) -> None:
    """Raise EventRefused, naming the field, when a NewsletterDefined breaks a rule of its contract."""
    event = "NewsletterDefined"
    name = value["newsletter_id"]
    _check(
        event, "newsletter_id", bool(re.fullmatch(r"[A-Za-z0-9-]{1,64}", name)), f"{name!r} must be letters, digits and hyphens"
    )
    _check(event, "revision", value["revision"] >= 1, f"{value['revision']} is below 1")
    good = all(1 <= day <= 7 for day in value["days"])
    _check(event, "days", good, "must be ISO weekdays, 1 Monday to 7 Sunday; none means that it is only sent by hand")
    minute = value["local_minute"]
    _check(event, "local_minute", 0 <= minute < 1440 and minute % 15 == 0, f"{minute} is no quarter hour of a day")
    _check(event, "max_items", 1 <= value["max_items"] <= 20, f"{value['max_items']} is not between 1 and 20")
    _check(event, "max_age_h", value["max_age_h"] >= 1, f"{value['max_age_h']} is below 1")
    _check(event, "half_life_h", value["half_life_h"] > 0, f"{value['half_life_h']} is not above 0")
    _check(event, "min_quality", 0 <= value["min_quality"] <= 1, f"{value['min_quality']} is not between 0 and 1")


@dataclass(slots=True)
class Revision:
    """One accepted revision of a publication, and what was said about it since."""

    offset: int
    content_sha256: bytes
    digests: tuple[bytes, ...]
    previous: int = 0
    quality: float | None = None
    scorer: str = ""
    scored_at: datetime | None = None
    settled: bool = False


@dataclass(slots=True)
class Publication:
    """What is known of one publication."""

    revisions: dict[int, Revision] = field(default_factory=dict)
    retracted: bool = False


class Publications:
    """What is known of the publications of one partition: the fold of the publications topic."""

    def __init__(self) -> None:
        self.known: dict[str, Publication] = {}

    def apply(self, event: StateEvent, offset: int) -> None:
        """Fold one event at its offset; events come in the order of the log, each once."""
        value = event.value
        item = self.known.get(value["publication_id"])
        if event.name == "PublicationSubmitted":
            self._submitted(value, offset)
        elif event.name == "PublicationRetracted":
            self.known.setdefault(value["publication_id"], Publication()).retracted = True
        elif item is not None and (revision := item.revisions.get(value["revision"])) is not None:
            if event.name == "PublicationScored" and revision.quality is None:
                revision.quality, revision.scorer, revision.scored_at = value["quality"], value["scorer"], value["scored_at"]
            elif event.name in ("PublicationApproved", "PublicationRejected"):
                revision.settled = True

    def _submitted(self, value: Mapping[str, Any], offset: int) -> None:
        try:
            check_publication(value)
        except EventRefused:
            return
        revisions = self.known.setdefault(value["publication_id"], Publication()).revisions
        highest = max(revisions, default=0)
        if value["revision"] > highest:
            digests = tuple(field_digest(value.get(name)) for name in CONTENT_FIELDS)
            revisions[value["revision"]] = Revision(offset, content_sha256(value), digests, previous=highest)

    def accepted(self, value: Mapping[str, Any], offset: int) -> Revision | None:
        """Return the revision that the submission at this offset is; None for a duplicate, which changes nothing.

        The submission must have been folded. Raises EventRefused, naming the first differing field, when the revision is known
        with other content, and naming the revision when a higher one was known.
        """
        check_publication(value)
        revisions = self.known[value["publication_id"]].revisions
        found = revisions.get(value["revision"])
        if found is None:
            higher = min(number for number in revisions if number > value["revision"])
            raise EventRefused(
                "PublicationSubmitted",
                "revision",
                f"{value['revision']} is below revision {higher}, which is known: use a higher one",
            )
        if found.offset == offset:
            return found
        for name, digest in zip(CONTENT_FIELDS, found.digests, strict=True):
            if field_digest(value.get(name)) != digest:
                raise EventRefused(
                    "PublicationSubmitted",
                    name,
                    f"differs from what revision {value['revision']} was submitted with; send a change as a higher revision",
                )
        return None

    def changed_fields(self, publication_id: str, revision: int) -> list[str]:
        """Return the names of the fields that differ from the revision that this one replaces."""
        revisions = self.known[publication_id].revisions
        new, old = revisions[revision], revisions[revisions[revision].previous]
        return [name for name, one, other in zip(CONTENT_FIELDS, new.digests, old.digests, strict=True) if one != other]


@dataclass(frozen=True, slots=True)
class Gate:
    """What a quality is good enough for; both gates are strict."""

    newsletters: bool
    alerts: bool


def gate(quality: float) -> Gate:
    """Return what a quality passes: newsletters above 0.8, alerts above 0.9."""
    return Gate(newsletters=quality > NEWSLETTER_QUALITY, alerts=quality > ALERT_QUALITY)
