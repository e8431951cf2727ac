"""What the renderers are given: plain data about one message to one subscriber."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Self

from core.rendering.catalogue import DEFAULT, SHIPPED
from core.rendering.latex import readable
from core.rendering.templating import MailTemplate


@dataclass(frozen=True)
class ItemContent:
    """A publication as it is shown; one object a revision is shared by all issues that contain it.

    Its texts are what a reader sees: simple LaTeX is plain text already (core/rendering/latex.py).
    """

    publication_id: str
    revision: int
    title: str
    summary: str
    url: str
    authors: tuple[str, ...]
    language: str
    published_at: datetime
    topics: tuple[str, ...]

    @classmethod
    def of(cls, submitted: Mapping[str, Any]) -> Self:
        """Return the content of a PublicationSubmitted."""
        return cls(
            publication_id=submitted["publication_id"],
            revision=submitted["revision"],
            title=readable(submitted["title"]),
            summary=readable(submitted["summary"]),
            url=submitted["url"],
            authors=tuple(map(readable, submitted["authors"])),
            language=submitted["language"],
            published_at=submitted["published_at"],
            topics=tuple(topic["topic"] for topic in submitted["topics"]),
        )


class IssueItem(NamedTuple):
    """One item of one issue; reason is a code such as `topic:hep-ph`, or words that are shown as they are."""

    content: ItemContent
    reason: str


@dataclass(frozen=True)
class Issue:
    """What one subscriber gets for one slot of a newsletter.

    subject may contain {title}, which becomes the title of the first item, and {newsletter}, which becomes newsletter_name.
    issue_group is the nominal local slot, such as 2026-11-22T09:00; its day is the date that is shown. template is the look of
    mails, topic_names what topics are called in the issue's language: those that are not in it are shown as they are.
    """

    newsletter_id: str
    newsletter_name: str
    subject: str
    language: str
    items: tuple[IssueItem, ...]
    issue_group: str
    from_name: str
    postal_address: str
    unsubscribe_url: str
    template: MailTemplate = field(default=SHIPPED[DEFAULT], kw_only=True)
    topic_names: Mapping[str, str] = field(default_factory=dict, kw_only=True, hash=False)
    delivery_id: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class AlertMessage:
    """A call for attention now, to one subscriber."""

    alert_id: str
    title: str
    body: str
    url: str | None
    priority: str
    language: str
    unsubscribe_url: str
    raised_at: datetime
    publication_id: str | None = field(default=None, kw_only=True)
    from_name: str = field(default="Newswire", kw_only=True)
    postal_address: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class Retraction:
    """What is said of a message that was sent and of which something was retracted since, in its language.

    rest is what is left of an issue, and is shown again without the retracted items; None when nothing is.
    """

    titles: tuple[str, ...]
    publication_ids: tuple[str, ...]
    language: str
    retracted_at: datetime
    unsubscribe_url: str
    rest: Issue | None = None
    alert_id: str | None = None
    from_name: str = field(default="Newswire", kw_only=True)
    postal_address: str = field(default="", kw_only=True)
