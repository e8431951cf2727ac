"""Email: a layout for a whole SES call, and for each entry only the data that differs.

The layout holds {{placeholders}} of SES's simple substitution, which escapes nothing: every value that ends in `_text`,
and the subject, is plain text; all others are HTML already escaped. Values go through JSON, which quotes them.
"""

import textwrap
from dataclasses import dataclass
from functools import lru_cache

from markupsafe import Markup

from core.rendering.fragments import FragmentCache, FragmentKey
from core.rendering.model import AlertMessage, Issue, ItemContent
from core.rendering.phrases import Phrases, by_line, count_text, instant, issue_date, phrases_for, reason_text, short_date
from core.rendering.templating import fill, squeeze, template
from core.rendering.text import header_value, html_text, one_line, paragraphs, plain_text, safe_url, shorten

TEXT_WIDTH = 72
"""Columns of the plain-text part: what every reader shows without wrapping."""

TITLE_LIMIT, LEAD_SUMMARY_LIMIT, SUMMARY_LIMIT, BODY_LIMIT = 300, 480, 260, 20_000
"""Characters shown; a summary is a reason to open the item, not the item."""

NAME_LIMIT = 200
"""Characters of a newsletter's or sender's name; it stands in the layout several times."""
POSTAL_LIMIT = 500
"""Characters of the postal address."""
PREHEADER_LIMIT = 140
"""Characters of the preview line that inboxes show."""

MAX_PUBLICATION_TOPICS = 3
"""Topics named under a title."""

COLOURS = {"critical": "#b3261e", "high": "#b45309", "normal": "#2457d6", "low": "#475569"}
"""Colour of an alert's priority; white text on each has a contrast of at least 4.5 (WCAG AA)."""

_PADDING = Markup("&#847;&zwnj;&nbsp;" * 40)  # noqa: S704 - a constant
"""Keeps an inbox from filling the preview line with the first words of the body."""

_RULE = "-" * TEXT_WIDTH
_SLOT_HTML, _SLOT_TEXT = Markup("\x00reason\x00"), "\x00reason\x00"


@dataclass(frozen=True)
class EmailLayout:
    """A subject, an HTML part and a text part; with placeholders, or filled in."""

    subject: str
    html: str
    text: str


@dataclass(frozen=True)
class _Fragment:
    """A rendered item with its reason cut out: before and after it, and the same without any reason."""

    html: tuple[str, str]
    text: tuple[str, str]
    html_without: str
    text_without: str


def _sender_lines(name: str, sender: str, postal: str) -> tuple[str, str, str]:
    """Return what the layout says of the sender, shortened so that the layout alone never fills a message."""
    return (
        shorten(one_line(name), NAME_LIMIT),
        shorten(one_line(sender), NAME_LIMIT),
        shorten(one_line(postal), POSTAL_LIMIT),
    )


def newsletter_layout(newsletter_name: str, from_name: str, postal_address: str, language: str) -> EmailLayout:
    """Return the layout for all entries of a call that share a newsletter and a language; remembered, so it is cheap to ask."""
    return _newsletter_layout(newsletter_name, from_name, postal_address, phrases_for(language).locale)


@lru_cache(maxsize=256)
def _newsletter_layout(newsletter_name: str, from_name: str, postal_address: str, locale: str) -> EmailLayout:
    phrases = phrases_for(locale)
    name, sender, postal = _sender_lines(newsletter_name, from_name, postal_address)
    values = {"phrases": phrases, "name": name, "from_name": sender, "postal_address": postal, "rule": _RULE}
    why = phrases.why_newsletter.format(name=name)
    html = squeeze(template("email_newsletter.html.j2").render(**values, why=why, padding=_PADDING))
    text = template("email_newsletter.txt.j2").render(
        phrases=phrases,
        rule=_RULE,
        heading=plain_text(name.upper()),
        why=plain_text(_wrapped(why)),
        sender=plain_text("\n".join(filter(None, (sender, postal)))),
    )
    return EmailLayout("{{subject}}", html, text)


def newsletter_entry(issue: Issue, cache: FragmentCache | None = None) -> dict[str, str]:
    """Return the values of the layout's placeholders for one subscriber."""
    phrases = phrases_for(issue.language)
    cache = cache if cache is not None else FragmentCache()
    html: list[str] = []
    text: list[str] = []
    for position, item in enumerate(issue.items):
        fragment = _fragment(item.content, "lead" if position == 0 else "item", phrases, cache)
        if item.reason:
            reason_html, reason_plain = _reason(item.reason, phrases.locale)
            html += (fragment.html[0], reason_html, fragment.html[1])
            text += (fragment.text[0], reason_plain, fragment.text[1])
        else:
            html.append(fragment.html_without)
            text.append(fragment.text_without)
    count = count_text(len(issue.items), phrases)
    return {
        "subject": newsletter_subject(issue),
        "preheader": html_text(_preheader(issue, phrases)),
        "count": html_text(count),
        "count_text": count,
        "date": html_text(issue_date(issue.issue_group, phrases.locale)),
        "items_html": "".join(html),
        "items_text": "".join(text).rstrip("\n") + "\n",
        "unsubscribe_url": html_text(issue.unsubscribe_url),
        "unsubscribe_text": plain_text(issue.unsubscribe_url),
    }


def newsletter_email(issue: Issue, cache: FragmentCache | None = None) -> EmailLayout:
    """Return one issue as it arrives: its layout filled in."""
    layout = newsletter_layout(issue.newsletter_name, issue.from_name, issue.postal_address, issue.language)
    return filled(layout, newsletter_entry(issue, cache))


def filled(layout: EmailLayout, data: dict[str, str]) -> EmailLayout:
    """Return the layout with its placeholders filled in, as SES does it."""
    return EmailLayout(fill(layout.subject, data), fill(layout.html, data), fill(layout.text, data))


def newsletter_subject(issue: Issue) -> str:
    """Return the subject line: {title} is the title of the first item; one line, whatever is in it."""
    title = one_line(issue.items[0].content.title) if issue.items else issue.newsletter_name
    return plain_text(
        header_value(issue.subject.replace("{title}", title)) or header_value(issue.newsletter_name) or issue.newsletter_id
    )


def _preheader(issue: Issue, phrases: Phrases) -> str:
    """Return the preview line: the titles after the first, which the subject most often holds already."""
    titles = [shorten(one_line(item.content.title), 70) for item in issue.items[1:3]]
    if titles:
        return shorten(phrases.also.format(titles="; ".join(titles)), PREHEADER_LIMIT)
    return shorten(one_line(issue.items[0].content.summary), PREHEADER_LIMIT) if issue.items else ""


@lru_cache(maxsize=4096)
def _reason(reason: str, locale: str) -> tuple[str, str]:
    words = shorten(reason_text(reason, locale), 120)
    return html_text(words), plain_text(words)


def _fragment(content: ItemContent, look: str, phrases: Phrases, cache: FragmentCache) -> _Fragment:
    key = FragmentKey(content.publication_id, content.revision, phrases.locale, look, "email")
    fragment: _Fragment = cache.get(key, lambda: _render_item(content, look, phrases))
    return fragment


def _render_item(content: ItemContent, look: str, phrases: Phrases) -> _Fragment:
    topics = ", ".join(one_line(topic) for topic in content.topics[:MAX_PUBLICATION_TOPICS])
    published = short_date(content.published_at, phrases.locale)
    meta = " · ".join(filter(None, (shorten(by_line(content.authors, phrases), 160), published, shorten(topics, 80))))
    title = shorten(one_line(content.title), TITLE_LIMIT)
    summary = shorten(one_line(content.summary), LEAD_SUMMARY_LIMIT if look == "lead" else SUMMARY_LIMIT)
    values = {"phrases": phrases, "meta": meta, "language": content.language, "url": safe_url(content.url)}

    def html(slot: str) -> str:
        markup = template(f"email_{look}.html.j2").render(**values, title=title, summary=summary, reason_slot=slot)
        return squeeze(markup).strip().replace("{", "&#123;").replace("}", "&#125;")

    def text(slot: str) -> str:
        wrapped = {"title": _wrapped(title), "summary": _wrapped(summary), "rule": _RULE, "meta": _wrapped(meta)}
        return plain_text(template("email_item.txt.j2").render(**{**values, **wrapped}, reason_slot=slot))

    html_parts, text_parts = html(_SLOT_HTML).partition(_SLOT_TEXT), text(_SLOT_TEXT).partition(_SLOT_TEXT)
    return _Fragment((html_parts[0], html_parts[2]), (text_parts[0], text_parts[2]), html(""), text(""))


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.fill(line, TEXT_WIDTH, break_long_words=False, break_on_hyphens=False) for line in text.split("\n"))


def alert_layout(from_name: str, postal_address: str, language: str) -> EmailLayout:
    """Return the layout for all alerts of a sender in a language."""
    return _alert_layout(from_name, postal_address, phrases_for(language).locale)


@lru_cache(maxsize=64)
def _alert_layout(from_name: str, postal_address: str, locale: str) -> EmailLayout:
    _, sender, postal = _sender_lines("", from_name, postal_address)
    values = {"phrases": phrases_for(locale), "from_name": sender, "postal_address": postal, "rule": _RULE}
    html = squeeze(template("email_alert.html.j2").render(**values, padding=_PADDING))
    text = template("email_alert.txt.j2").render(**values, sender=plain_text("\n".join(filter(None, (sender, postal)))))
    return EmailLayout("{{subject}}", html, text)


def alert_entry(message: AlertMessage) -> dict[str, str]:
    """Return the values of the alert layout's placeholders."""
    phrases = phrases_for(message.language)
    title, body = shorten(one_line(message.title), TITLE_LIMIT), shorten(paragraphs(message.body), BODY_LIMIT)
    priority = phrases.priorities.get(message.priority, phrases.priorities["normal"])
    subject = f"{priority}: {title}" if title and message.priority == "critical" else title or priority
    url = safe_url(message.url)
    inner = "".join(
        f'<p style="margin:0 0 14px">{html_text(part).replace(chr(10), "<br>")}</p>' for part in body.split("\n\n") if part
    )
    button = template("email_button.html.j2").render(url=url, label=phrases.open_alert).replace("{", "&#123;") if url else ""
    return {
        "subject": plain_text(header_value(subject)),
        "preheader": html_text(shorten(one_line(body), PREHEADER_LIMIT)),
        "priority": html_text(priority),
        "priority_text": priority.upper(),
        "colour": COLOURS.get(message.priority, COLOURS["normal"]),
        "title": html_text(title),
        "title_text": plain_text(_wrapped(title)),
        "date": html_text(instant(message.raised_at, phrases.locale)),
        "body_html": inner,
        "body_text": plain_text(_wrapped(body)),
        "button_html": button,
        "link_text": f"\n{plain_text(url)}\n" if url else "",
        "unsubscribe_url": html_text(message.unsubscribe_url),
        "unsubscribe_text": plain_text(message.unsubscribe_url),
    }


def alert_email(message: AlertMessage) -> EmailLayout:
    """Return one alert as it arrives: subject, HTML and text."""
    return filled(alert_layout(message.from_name, message.postal_address, message.language), alert_entry(message))
