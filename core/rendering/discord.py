"""Discord: embeds within its limits, whatever the content, and no mention of anyone.

Limits (Discord's documentation): 10 embeds, title 256, description 4,096, footer 2,048, author 256, and 6,000 characters
over all embeds. Send with ALLOWED_MENTIONS.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

from core.rendering.fragments import REASONED, FragmentCache, FragmentKey
from core.rendering.links import item_link
from core.rendering.model import AlertMessage, Issue, ItemContent
from core.rendering.phrases import Phrases, by_line, count_text, issue_date, more_text, phrases_for, reason_text, short_date, told
from core.rendering.text import discord_link, discord_text, fitted, one_line, paragraphs, safe_url, shorten, units

MAX_EMBEDS, MAX_TITLE, MAX_DESCRIPTION, MAX_FOOTER, MAX_AUTHOR, MAX_TOTAL, MAX_URL = 10, 256, 4_096, 2_048, 256, 6_000, 2_048

ALLOWED_MENTIONS: Final[dict[str, list[str]]] = {"parse": []}
"""Value of allowed_mentions: nobody is ever pinged by content."""

SUMMARY_TIERS = ((350, 220), (350, 140), (200, 80), (100, 0), (0, 0))
"""Characters of the first item's summary and of each other one's; the next tier is taken when the message would be too large."""

LIST_ITEMS = 5
"""Items of an embed after the first item's own: 19 of them, heading and ending are 6 embeds."""
MAX_LISTED_URL = 1_000
"""A longer address would eat the message; its title then stands without a link."""

ALERT_BODY_LIMIT = 3_500
COLOURS = {"critical": 0xB3261E, "high": 0xB45309, "normal": 0x2457D6, "low": 0x475569}
NEWSLETTER_COLOUR, LIST_COLOUR = 0x2457D6, 0x94A3B8

Embed = dict[str, Any]


class _Lead(NamedTuple):
    """What an issue shows of its first item, and its characters."""

    embed: Embed
    characters: int


class _Listed(NamedTuple):
    """What an issue shows of another item, and its characters."""

    text: str
    characters: int


@dataclass(frozen=True, eq=False)
class _Fragment:
    """A rendered item without its address and the reason why it is shown."""

    url: str
    title: str
    summary: str
    meta: str
    escaped_meta: str


def newsletter_embeds(issue: Issue, cache: FragmentCache | None = None) -> list[Embed]:
    """Return one issue as embeds: a heading, the first item, lists of the others, and who sent it.

    Summaries become shorter, then items are left out and counted, before a limit is met. The embed of the first item is shared
    between issues and must not be changed.
    """
    phrases = phrases_for(issue.language)
    cache = cache if cache is not None else FragmentCache()
    count = len(issue.items)
    name = one_line(issue.newsletter_name) or issue.newsletter_id
    heading = f"{count_text(count, phrases)} · {issue_date(issue.issue_group, phrases.locale)}"
    first: Embed = {
        "title": _text(name, MAX_TITLE) or "–",
        "description": _text(heading, 200),
        "color": NEWSLETTER_COLOUR,
    }
    why = phrases.why_newsletter.format(name=name)
    ending = _ending(why, issue.unsubscribe_url, phrases.unsubscribe_newsletter)
    footer = _sender(issue.from_name, issue.postal_address)
    reasons = told((item.reason for item in issue.items), issue.topic_names)
    around = characters([first]) + units(footer)
    for shown in range(count, -1, -1):
        closing = ending if shown == count else f"{discord_text(more_text(count - shown, phrases))}\n\n{ending}"
        for lead_limit, limit in SUMMARY_TIERS if issue.template.shows_summaries else SUMMARY_TIERS[-1:]:
            lead = [_lead(issue, lead_limit, phrases, reasons[0], cache)] if shown else []
            others = [_listed(issue, position, limit, phrases, reasons[position], cache) for position in range(1, shown)]
            lists = [others[start : start + LIST_ITEMS] for start in range(0, len(others), LIST_ITEMS)]
            sizes = [sum([one.characters for one in some]) + 2 * (len(some) - 1) for some in lists]
            size = around + units(closing) + sum(sizes) + sum([one.characters for one in lead])
            if size <= MAX_TOTAL and max(sizes, default=0) <= MAX_DESCRIPTION:
                listed: list[Embed] = [
                    {"description": "\n\n".join([one.text for one in some]), "color": LIST_COLOUR} for some in lists
                ]
                return [first, *(one.embed for one in lead), *listed, {"description": closing, "footer": {"text": footer}}]
    raise AssertionError("a heading and a footer are within the limits")


def alert_embeds(message: AlertMessage) -> list[Embed]:
    """Return one alert as an embed."""
    phrases = phrases_for(message.language)
    priority = phrases.priorities.get(message.priority, phrases.priorities["normal"])
    ending = _ending(phrases.why_alert, message.unsubscribe_url, phrases.unsubscribe_alert)
    body = fitted(paragraphs(message.body), ALERT_BODY_LIMIT, discord_text)
    embed: Embed = {
        "author": {"name": shorten(priority, MAX_AUTHOR)},
        "title": fitted(one_line(message.title), MAX_TITLE, discord_text) or "–",
        "description": f"{body}\n\n{ending}" if body else ending,
        "color": COLOURS.get(message.priority, COLOURS["normal"]),
        "timestamp": message.raised_at.isoformat(),
        "footer": {"text": _sender(message.from_name, message.postal_address)},
    }
    if url := _link_url(message.url):
        embed["url"] = url
    return [embed]


def characters(embeds: Sequence[Embed]) -> int:
    """Return the characters that count towards the limit over all embeds."""
    texts: list[str] = []
    for embed in embeds:
        texts += (embed.get("title", ""), embed.get("description", ""))
        texts += (embed.get("footer", {}).get("text", ""), embed.get("author", {}).get("name", ""))
    return units("".join(texts))


def _fragment(content: ItemContent, limit: int, phrases: Phrases, cache: FragmentCache) -> _Fragment:
    key = FragmentKey(content.publication_id, content.revision, phrases.locale, f"item-{limit}", "discord")
    fragment: _Fragment = cache.get(key, lambda: _render_item(content, limit, phrases))
    return fragment


def _render_item(content: ItemContent, limit: int, phrases: Phrases) -> _Fragment:
    meta = " · ".join(filter(None, (by_line(content.authors, phrases), short_date(content.published_at, phrases.locale))))
    meta = shorten(meta, 120)
    return _Fragment(
        url=safe_url(content.url),
        title=fitted(one_line(content.title), 220, discord_text) or "–",
        summary=fitted(one_line(content.summary), limit, discord_text) if limit else "",
        meta=meta,
        escaped_meta=discord_text(meta),
    )


def _lead(issue: Issue, limit: int, phrases: Phrases, reason: str, cache: FragmentCache) -> _Lead:
    fragment = _fragment(issue.items[0].content, limit, phrases, cache)
    return _shown_lead(fragment, item_link(fragment.url, issue.delivery_id, 0), reason, phrases.locale)


@lru_cache(maxsize=REASONED)
def _shown_lead(fragment: _Fragment, url: str, reason: str, locale: str) -> _Lead:
    below = " · ".join(filter(None, (fragment.meta, _words(reason, locale)[0])))
    embed: Embed = {"title": fragment.title, "color": NEWSLETTER_COLOUR, "footer": {"text": below}}
    if fragment.summary:
        embed["description"] = fragment.summary
    if url := _link_url(url):
        embed["url"] = url
    return _Lead(embed, characters([embed]))


def _listed(issue: Issue, position: int, limit: int, phrases: Phrases, reason: str, cache: FragmentCache) -> _Listed:
    fragment = _fragment(issue.items[position].content, limit, phrases, cache)
    return _shown_listed(fragment, item_link(fragment.url, issue.delivery_id, position), reason, phrases.locale)


@lru_cache(maxsize=REASONED)
def _shown_listed(fragment: _Fragment, url: str, reason: str, locale: str) -> _Listed:
    title = f"**{discord_link(url if len(url) <= MAX_LISTED_URL else '', fragment.title)}**"
    below = " · ".join(filter(None, (fragment.escaped_meta, _words(reason, locale)[1])))
    text = f"{title}\n{fragment.summary}\n*{below}*" if fragment.summary else f"{title}\n*{below}*"
    return _Listed(text, units(text))


@lru_cache(maxsize=REASONED)
def _words(reason: str, locale: str) -> tuple[str, str]:
    """Return a reason in words, as it is and escaped."""
    words = shorten(reason_text(reason, locale), 100)
    return words, discord_text(words)


def _ending(why: str, unsubscribe_url: str, label: str) -> str:
    return f"{_text(why, 300)} {discord_link(safe_url(unsubscribe_url), _text(label, 100))}"


@lru_cache(maxsize=4096)
def _text(text: str, limit: int) -> str:
    """Return a text that many messages share, escaped and shortened."""
    return fitted(text, limit, discord_text)


def _link_url(url: str | None) -> str:
    clean = safe_url(url)
    return clean if len(clean) <= MAX_URL else ""


def _sender(from_name: str, postal_address: str) -> str:
    return shorten(", ".join(filter(None, (one_line(from_name), one_line(postal_address)))), 300) or "–"
