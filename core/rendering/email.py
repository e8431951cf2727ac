"""Email: a layout for a whole SES call, and for each entry only the data that differs.

The layout holds {{placeholders}} of SES's simple substitution, which escapes nothing: every value that ends in `_text`,
and the subject, is plain text; all others are HTML already escaped. Values go through JSON, which quotes them.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final, Generic, NamedTuple, TypeVar

from markupsafe import Markup

from core.checks import SUBJECT_VALUE
from core.rendering.catalogue import ALERT
from core.rendering.fragments import REASONED, FragmentCache, FragmentKey
from core.rendering.links import item_link
from core.rendering.model import AlertMessage, Issue, ItemContent
from core.rendering.phrases import Phrases, by_line, count_text, instant, issue_date, phrases_for, reason_text, short_date, told
from core.rendering.templating import TEXT_WIDTH, MailTemplate, fill, wrapped
from core.rendering.text import header_value, html_text, one_line, paragraphs, plain_text, safe_url, shorten, units

T = TypeVar("T")

TITLE_LIMIT, LEAD_SUMMARY_LIMIT, SUMMARY_LIMIT, BODY_LIMIT = 300, 480, 260, 20_000
"""Characters shown; a summary is a reason to open the item, not the item."""

ITEM_BYTES, URL_LIMIT = 3_500, 800
"""Bytes of an item's HTML without its reason, and of its address in it, which stands there twice: 20 items and the layout are
below the 102 kB at which Gmail cuts a message off, and with it the unsubscribe link. Real items have about 1,600."""

BODY_BYTES = 60_000
"""Bytes of an alert's body in HTML, where each paragraph is an element: with the layout below the same 102 kB."""

NAME_LIMIT, NAME_BYTES = 200, 400
"""Characters of a newsletter's or sender's name, and its bytes in HTML; it stands in the layout several times."""
POSTAL_LIMIT, POSTAL_BYTES = 500, 1_000
"""The same of the postal address."""
PREHEADER_LIMIT = 140
"""Characters of the preview line that inboxes show."""
REASON_LIMIT = 120
"""Characters of the words for why an item was chosen."""

MAX_PUBLICATION_TOPICS = 3
"""Topics named under a title."""

COLOURS = {"critical": "#b3261e", "high": "#b45309", "normal": "#2457d6", "low": "#475569"}
"""Colour of an alert's priority; white text on each has a contrast of at least 4.5 (WCAG AA)."""

_DOT = "\u00a0· "
"""Between the parts of a line, and never at the beginning of one."""
_UNBROKEN, _HYPHEN = "\u2011", re.compile(r"(?<=\w)-(?=\w)")
"""A hyphen where no line ends: of a topic such as cond-mat.mtrl-sci, in HTML."""
_TOPICAL = ("topic:", "new:", "often:", "again:topic:", "again:new:", "again:often:")
_PADDING = Markup("&#847;&zwnj;&nbsp;" * 40)  # noqa: S704 - a constant
"""Keeps an inbox from filling the preview line with the first words of the body."""

_URL, _REASON = "\x00url\x00", "\x00reason\x00"
"""Slots of a rendered item; no text has a NUL, cleaning takes it out."""
_SLOTS: Final = re.compile(f"({_URL}|{_REASON})")
_ESCAPES: Final[Mapping[str, Callable[[str], str]]] = {
    "html": lambda text: Markup(html_text(text)),  # noqa: S704 - html_text escapes
    "text": lambda text: plain_text(text.replace(_UNBROKEN, "-")),
}


@dataclass(frozen=True)
class EmailLayout:
    """A subject, an HTML part and a text part; with placeholders, or filled in."""

    subject: str
    html: str
    text: str


class _Cut:
    """A rendered text cut at its slots."""

    __slots__ = ("_parts", "_reasons", "_urls")

    def __init__(self, text: str) -> None:
        self._parts = _SLOTS.split(text)
        self._urls = [place for place, part in enumerate(self._parts) if part == _URL]
        self._reasons = [place for place, part in enumerate(self._parts) if part == _REASON]

    def filled(self, url: str, reason: str) -> str:
        """Return the whole text."""
        parts = self._parts.copy()
        for place in self._urls:
            parts[place] = url
        for place in self._reasons:
            parts[place] = reason
        return "".join(parts)


class _Fragment(NamedTuple):
    """A rendered item with slots for its address and, unless it is shown without one, its reason."""

    url: str
    html: _Cut
    text: _Cut


class _Shown(NamedTuple, Generic[T]):
    """An item as it stands in a message, in the form in which its channel takes it."""

    url: str
    html: T
    text: T


def newsletter_layout(issue: Issue) -> EmailLayout:
    """Return the layout for all entries of a call that share newsletter, template and language; remembered, so cheap to ask."""
    locale = phrases_for(issue.language).locale
    return _newsletter_layout(issue.template, issue.newsletter_name, issue.from_name, issue.postal_address, locale)


@lru_cache(maxsize=256)
def _newsletter_layout(template: MailTemplate, name: str, from_name: str, postal_address: str, locale: str) -> EmailLayout:
    phrases = phrases_for(locale)
    name = _bounded(name, NAME_LIMIT, NAME_BYTES)
    why = phrases.why_newsletter.format(name=name)
    return _layout(template, phrases, name, why, phrases.unsubscribe_newsletter, from_name, postal_address)


def _layout(
    template: MailTemplate, phrases: Phrases, name: str, why: str, unsubscribe: str, from_name: str, postal_address: str
) -> EmailLayout:
    """Return a layout; what it says of the sender is shortened, so that it alone never fills a message."""
    values = {
        "name": name,
        "why": why,
        "unsubscribe": unsubscribe,
        "from_name": _bounded(from_name, NAME_LIMIT, NAME_BYTES),
        "postal_address": _bounded(postal_address, POSTAL_LIMIT, POSTAL_BYTES),
    }

    def part(kind: str) -> str:
        escaped = {key: _ESCAPES[kind](value) for key, value in values.items()}
        return template.layout(kind, {**escaped, "phrases": phrases, "locale": phrases.locale, "padding": _PADDING})

    return EmailLayout("{{subject}}", part("html"), part("text").rstrip("\n") + "\n")


def _bounded(text: str, limit: int, limit_bytes: int) -> str:
    return shorten(shorten(one_line(text), limit), limit_bytes, measure=lambda part: len(html_text(part).encode()))


def newsletter_entry(issue: Issue, cache: FragmentCache | None = None) -> dict[str, str]:
    """Return the values of the layout's placeholders for one subscriber."""
    values, html, text = newsletter_parts(issue, cache if cache is not None else FragmentCache(), FragmentCache(), str)
    return {**values, "items_html": "".join(html), "items_text": "".join(text)}


def newsletter_parts(
    issue: Issue, fragments: FragmentCache, shown: FragmentCache, form: Callable[[str], T]
) -> tuple[dict[str, str], list[T], list[T]]:
    """Return the values of the layout's placeholders but items_html and items_text, and the parts of these two in `form`.

    An item takes its form once for each reason: `shown` keeps it, and belongs to one form. Where its address is the
    message's own it is formed anew.
    """
    phrases = phrases_for(issue.language)
    template, locale, names = issue.template, phrases.locale, issue.topic_names
    html: list[T] = []
    text: list[T] = []
    reasons = told((item.reason for item in issue.items), names)
    for position, ((content, _), reason) in enumerate(zip(issue.items, reasons, strict=True)):
        look = "item" if position else template.lead
        key = (content.publication_id, content.revision, locale, template.id, look, reason)
        item: _Shown[T] = shown.get(key, partial(_shown, content, issue, look, phrases, reason, fragments, form))
        if (url := item_link(item.url, issue.delivery_id, position)) != item.url:
            item = _shown(content, issue, look, phrases, reason, fragments, form, url)
        html.append(item.html)
        text.append(item.text)
    count = count_text(len(issue.items), phrases)
    date = issue_date(issue.issue_group, locale)
    values = {
        "subject": newsletter_subject(issue),
        "preheader": html_text(_preheader(issue, phrases)),
        "count": html_text(count),
        "count_text": count,
        "date": html_text(date),
        "date_text": plain_text(date),
        "unsubscribe_url": html_text(issue.unsubscribe_url),
        "unsubscribe_text": plain_text(issue.unsubscribe_url),
    }
    return values, html, text


def newsletter_email(issue: Issue, cache: FragmentCache | None = None) -> EmailLayout:
    """Return one issue as it arrives: its layout filled in."""
    return filled(newsletter_layout(issue), newsletter_entry(issue, cache))


def filled(layout: EmailLayout, data: dict[str, str]) -> EmailLayout:
    """Return the layout with its placeholders filled in, as SES does it."""
    return EmailLayout(fill(layout.subject, data), fill(layout.html, data), fill(layout.text, data))


def newsletter_subject(issue: Issue) -> str:
    """Return the subject line: {title} is the title of the first item, {newsletter} the name; one line, whatever is in it."""
    title = issue.items[0].content.title if issue.items else issue.newsletter_name
    return _subject(issue.subject, title, issue.newsletter_name) or issue.newsletter_id


@lru_cache(maxsize=REASONED)
def _subject(subject: str, title: str, newsletter_name: str) -> str:
    values = {"title": one_line(title), "newsletter": one_line(newsletter_name)}
    subject = SUBJECT_VALUE.sub(lambda match: values.get(match[1], match[0]), subject)
    return plain_text(header_value(subject) or header_value(newsletter_name))


def _preheader(issue: Issue, phrases: Phrases) -> str:
    """Return the preview line: the titles after the first, which the subject most often holds already."""
    titles = [_short_title(item.content.title) for item in issue.items[1:3]]
    if titles:
        return shorten(phrases.also.format(titles="; ".join(titles)), PREHEADER_LIMIT)
    return shorten(one_line(issue.items[0].content.summary), PREHEADER_LIMIT) if issue.items else ""


@lru_cache(maxsize=REASONED)
def _short_title(title: str) -> str:
    return shorten(one_line(title), 70)


@lru_cache(maxsize=REASONED)
def _reason(reason: str, locale: str) -> tuple[str, str]:
    words = shorten(reason_text(reason, locale), REASON_LIMIT)
    shown = _HYPHEN.sub(_UNBROKEN, words) if reason.startswith(_TOPICAL) else words
    return html_text(shown), plain_text(wrapped(words, TEXT_WIDTH - 2).replace("\n", "\n  "))


@lru_cache(maxsize=REASONED)
def _address(url: str) -> tuple[str, str]:
    return html_text(url), plain_text(url)


def _shown(
    content: ItemContent, issue: Issue, look: str, phrases: Phrases, reason: str, fragments: FragmentCache,
    form: Callable[[str], T], url: str | None = None,
) -> _Shown[T]:  # fmt: skip
    """Return an item filled in, with its publication's own address when no other is given."""
    fragment = _fragment(content, issue.template, look, phrases, issue.topic_names, fragments, reasoned=bool(reason))
    url_html, url_plain = _address(fragment.url if url is None else url)
    reason_html, reason_plain = _reason(reason, phrases.locale)
    html, text = fragment.html.filled(url_html, reason_html), fragment.text.filled(url_plain, reason_plain)
    return _Shown(fragment.url, form(html), form(text))


def _fragment(
    content: ItemContent, template: MailTemplate, look: str, phrases: Phrases, topic_names: Mapping[str, str],
    cache: FragmentCache, *, reasoned: bool,
) -> _Fragment:  # fmt: skip
    name = f"{template.id} {look} reasoned" if reasoned else f"{template.id} {look}"
    key = FragmentKey(content.publication_id, content.revision, phrases.locale, name, "email")
    fragment: _Fragment = cache.get(
        key, lambda: _render_item(content, template, look, phrases, topic_names, _REASON if reasoned else "")
    )
    return fragment


def _render_item(
    content: ItemContent, template: MailTemplate, look: str, phrases: Phrases, topic_names: Mapping[str, str], reason: str
) -> _Fragment:
    """Return a rendered item; in HTML of at most ITEM_BYTES, for which it says less of an absurdly long one."""
    url = safe_url(content.url)
    url = url if len(html_text(url)) <= URL_LIMIT else ""
    shown = dict.fromkeys(topic_names.get(topic) or _HYPHEN.sub(_UNBROKEN, topic) for topic in content.topics)
    names = [one_line(name) for name in list(shown)[:MAX_PUBLICATION_TOPICS]]
    published = short_date(content.published_at, phrases.locale)
    full = LEAD_SUMMARY_LIMIT if look == "lead" else SUMMARY_LIMIT
    for title_limit, summary_limit, authors_limit in (
        (TITLE_LIMIT, full, 160),
        (TITLE_LIMIT, 100, 160),
        (TITLE_LIMIT, 0, 80),
        (80, 0, 0),
    ):
        authors, topics = shorten(by_line(content.authors, phrases), authors_limit), _whole(names, authors_limit // 2)
        values = {
            "title": shorten(one_line(content.title), title_limit) or "–",
            "summary": shorten(one_line(content.summary), summary_limit),
            "meta": _DOT.join(filter(None, (authors, published, topics))),
            "authors": authors,
            "published": published,
            "topics": topics,
            "language": content.language,
            "url": _URL if url else "",
            "reason": reason,
        }
        html = _block(template, "html", look, values, phrases)
        if len(html.replace(_URL, html_text(url)).encode()) <= ITEM_BYTES:
            break
    return _Fragment(url, _Cut(html), _Cut(_block(template, "text", look, values, phrases)))


def _whole(names: list[str], limit: int) -> str:
    """Return as many names as fit, the first shortened when it alone does not."""
    while len(names) > 1 and units(", ".join(names)) > limit:
        names = names[:-1]
    return shorten(", ".join(names), limit)


def _block(template: MailTemplate, part: str, name: str, values: Mapping[str, str], phrases: Phrases) -> str:
    escaped = {key: _ESCAPES[part](value) for key, value in values.items()}
    return template.block(part, name, {**escaped, "phrases": phrases})


def alert_layout(from_name: str, postal_address: str, language: str) -> EmailLayout:
    """Return the layout for all alerts of a sender in a language."""
    return _alert_layout(from_name, postal_address, phrases_for(language).locale)


@lru_cache(maxsize=64)
def _alert_layout(from_name: str, postal_address: str, locale: str) -> EmailLayout:
    phrases = phrases_for(locale)
    return _layout(ALERT, phrases, "", phrases.why_alert, phrases.unsubscribe_alert, from_name, postal_address)


def alert_entry(message: AlertMessage) -> dict[str, str]:
    """Return the values of the alert layout's placeholders."""
    phrases = phrases_for(message.language)
    title = shorten(one_line(message.title), TITLE_LIMIT)
    body, inner = _alert_body(message.body)
    priority = phrases.priorities.get(message.priority, phrases.priorities["normal"])
    subject = f"{priority}: {title}" if title and message.priority == "critical" else title or priority
    url, date = safe_url(message.url), instant(message.raised_at, phrases.locale)
    return {
        "subject": plain_text(header_value(subject)),
        "preheader": html_text(shorten(one_line(body), PREHEADER_LIMIT)),
        "priority": html_text(priority),
        "priority_text": priority.upper(),
        "colour": COLOURS.get(message.priority, COLOURS["normal"]),
        "title": html_text(title),
        "title_text": plain_text(wrapped(title)),
        "date": html_text(date),
        "date_text": date,
        "body_html": inner,
        "body_text": plain_text(wrapped(body)),
        "button_html": _block(ALERT, "html", "button", {"url": url}, phrases) if url else "",
        "link_text": f"\n{phrases.open_alert}: {plain_text(url)}\n" if url else "",
        "unsubscribe_url": html_text(message.unsubscribe_url),
        "unsubscribe_text": plain_text(message.unsubscribe_url),
    }


@lru_cache(maxsize=8)
def _alert_body(text: str) -> tuple[str, str]:
    """Return the body as it is shown, and in HTML; remembered, for all recipients of an alert have the same."""
    body = shorten(paragraphs(text), BODY_LIMIT)
    inner = _paragraphs(body)
    if len(inner.encode()) > BODY_BYTES:
        body = shorten(body, BODY_BYTES, measure=lambda part: len(_paragraphs(part).encode()))
        inner = _paragraphs(body)
    return body, inner


def _paragraphs(text: str) -> str:
    """Return a text as HTML, an element a paragraph."""
    parts = (html_text(part).replace("\n", "<br>") for part in text.split("\n\n") if part)
    return "".join([f'<p style="margin:0 0 14px">{part}</p>' for part in parts])


def alert_email(message: AlertMessage) -> EmailLayout:
    """Return one alert as it arrives: subject, HTML and text."""
    return filled(alert_layout(message.from_name, message.postal_address, message.language), alert_entry(message))
