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
from core.rendering.phrases import Phrases, by_line, count_text, issue_date, more_text, phrases_for, reason_text, short_date
from core.rendering.text import discord_link, discord_text, fitted, one_line, paragraphs, safe_url, shorten, units

MAX_EMBEDS, MAX_TITLE, MAX_DESCRIPTION, MAX_FOOTER, MAX_AUTHOR, MAX_TOTAL, MAX_URL = 10, 256, 4_096, 2_048, 256, 6_000, 2_048

ALLOWED_MENTIONS: Final[dict[str, list[str]]] = {"parse": []}
"""Value of allowed_mentions: nobody is ever pinged by content."""

SUMMARY_TIERS = (350, 200, 100, 0)
"""Characters of each summary; the next tier is taken when the message would be too large."""

ITEM_EMBEDS = 8
"""Items with an embed of their own; a heading and a last embed make 10. Further items are a list of links in the last."""

ALERT_BODY_LIMIT = 3_500
COLOURS = {"critical": 0xB3261E, "high": 0xB45309, "normal": 0x2457D6, "low": 0x475569}
NEWSLETTER_COLOUR = 0x2457D6

Embed = dict[str, Any]


class _Item(NamedTuple):
    """What an issue shows of an item, and its characters."""

    embed: Embed
    characters: int


@dataclass(frozen=True, eq=False)
class _Fragment:
    """A rendered item without its address and the reason why it is shown."""

    url: str
    embed: Embed
    meta: str


def newsletter_embeds(issue: Issue, cache: FragmentCache | None = None) -> list[Embed]:
    """Return one issue as embeds. Summaries become shorter, then items are left out and counted, before a limit is met.

    The embeds of items are shared between issues and must not be changed.
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
    around = characters([first]) + units(footer)
    for shown in range(count, -1, -1):
        for tier in SUMMARY_TIERS if issue.template.shows_summaries else SUMMARY_TIERS[-1:]:
            items = [_item(issue, position, tier, phrases, cache) for position in range(min(shown, ITEM_EMBEDS))]
            lines = [_line(issue, position) for position in range(ITEM_EMBEDS, shown)]
            if shown < count:
                lines.append(discord_text(more_text(count - shown, phrases)))
            closing = "\n".join([*lines, *([""] if lines else []), ending])
            size = units(closing)
            if size <= MAX_DESCRIPTION and around + size + sum([item.characters for item in items]) <= MAX_TOTAL:
                return [first, *[item.embed for item in items], {"description": closing, "footer": {"text": footer}}]
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


def _item(issue: Issue, position: int, tier: int, phrases: Phrases, cache: FragmentCache) -> _Item:
    content, reason = issue.items[position]
    key = FragmentKey(content.publication_id, content.revision, phrases.locale, f"item-{tier}", "discord")
    fragment: _Fragment = cache.get(key, lambda: _render_item(content, tier, phrases))
    return _shown(fragment, item_link(fragment.url, issue.delivery_id, position), reason, phrases.locale)


@lru_cache(maxsize=REASONED)
def _shown(fragment: _Fragment, url: str, reason: str, locale: str) -> _Item:
    words = shorten(reason_text(reason, locale), 100) if reason else ""
    embed = {**fragment.embed, "footer": {"text": " · ".join(filter(None, (fragment.meta, words)))}}
    if url := _link_url(url):
        embed["url"] = url
    return _Item(embed, characters([embed]))


def _render_item(content: ItemContent, tier: int, phrases: Phrases) -> _Fragment:
    meta = " · ".join(filter(None, (by_line(content.authors, phrases), short_date(content.published_at, phrases.locale))))
    embed: Embed = {"title": fitted(one_line(content.title), 220, discord_text) or "–", "color": NEWSLETTER_COLOUR}
    if tier and (summary := fitted(one_line(content.summary), tier, discord_text)):
        embed["description"] = summary
    return _Fragment(safe_url(content.url), embed, shorten(meta, 120))


def _line(issue: Issue, position: int) -> str:
    content = issue.items[position].content
    url = item_link(safe_url(content.url), issue.delivery_id, position)
    return f"• {discord_link(url if len(url) <= 300 else '', _text(one_line(content.title), 160) or '–')}"


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
