"""Slack: Block Kit within its limits, whatever the content.

Limits (Slack's documentation): 50 blocks, section 3,000 characters, header 150, context 10 elements, and about 13,200
characters over all blocks; the fallback text is cut off at 40,000.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from core.rendering.fragments import REASONED, FragmentCache, FragmentKey
from core.rendering.links import item_link
from core.rendering.model import AlertMessage, Issue, ItemContent
from core.rendering.phrases import (
    Phrases,
    by_line,
    count_text,
    instant,
    issue_date,
    more_text,
    phrases_for,
    reason_text,
    short_date,
    told,
)
from core.rendering.text import fitted, one_line, paragraphs, safe_url, shorten, slack_link, slack_text, units

MAX_BLOCKS, MAX_SECTION, MAX_HEADER, MAX_TOTAL, MAX_TEXT = 50, 3_000, 150, 13_200, 40_000

SUMMARY_TIERS = (400, 220, 0)
"""Characters of each summary; the next tier is taken when the message would be too large."""

TITLE_LIMIT, META_LIMIT, ALERT_BODY_LIMIT = 300, 200, 2_900
MAX_LINK = 1_000
"""A longer address would eat the message; its title then stands without a link."""

MAX_ITEMS, APART_ITEMS = 20, 15
"""Two blocks an item leave room for heading and footer within 50 blocks; up to 15 items, a line between them too."""
_DIVIDER = {"type": "divider"}

Block = dict[str, Any]
Message = tuple[str, list[Block]]
"""(fallback text, blocks); blocks of items are shared between messages and must not be changed."""


class _Item(NamedTuple):
    """What an issue shows of an item, and its characters."""

    blocks: tuple[Block, ...]
    apart: tuple[Block, ...]
    """The same, with a line to the next one."""
    characters: int


@dataclass(frozen=True, eq=False)
class _Fragment:
    """A rendered item without its address and the reason why it is shown."""

    url: str
    title: str
    below: str
    meta: str


def newsletter_blocks(issue: Issue, cache: FragmentCache | None = None) -> Message:
    """Return one issue as (text, blocks). Before a limit, summaries become shorter, then items are left out and counted."""
    phrases = phrases_for(issue.language)
    cache = cache if cache is not None else FragmentCache()
    count = len(issue.items)
    date = issue_date(issue.issue_group, phrases.locale)
    name = one_line(issue.newsletter_name) or issue.newsletter_id
    why = phrases.why_newsletter.format(name=name)
    fixed = [_header(name), _context(_text(f"{count_text(count, phrases)} · {date}", META_LIMIT))]
    footer = _footer(why, issue.unsubscribe_url, phrases.unsubscribe_newsletter, issue.from_name, issue.postal_address)
    around = characters([*fixed, footer])
    reasons = told((item.reason for item in issue.items), issue.topic_names)
    for shown in range(min(count, MAX_ITEMS), -1, -1):
        more = [_context(slack_text(more_text(count - shown, phrases)))] if shown < count else []
        for tier in SUMMARY_TIERS if issue.template.shows_summaries else SUMMARY_TIERS[-1:]:
            items = [_item(issue, position, tier, phrases, reasons[position], cache) for position in range(shown)]
            blocks = [*fixed, _DIVIDER]
            for item in items:
                blocks += item.apart if shown <= APART_ITEMS else item.blocks
            blocks += more
            blocks += [footer] if blocks[-1] is _DIVIDER else [_DIVIDER, footer]
            if len(blocks) <= MAX_BLOCKS and around + characters(more) + sum([i.characters for i in items]) <= MAX_TOTAL:
                return _fallback(f"{name}: {one_line(issue.items[0].content.title) if issue.items else date}"), blocks
    raise AssertionError("a heading and a footer are within the limits")


def alert_blocks(message: AlertMessage) -> Message:
    """Return one alert as (text, blocks)."""
    phrases = phrases_for(message.language)
    priority = phrases.priorities.get(message.priority, phrases.priorities["normal"])
    icon = {"critical": "🔴", "high": "🟠"}.get(message.priority, "🔵")
    title = one_line(message.title)
    blocks = [_header(f"{icon} {title}"), _context(slack_text(f"{priority} · {instant(message.raised_at, phrases.locale)}"))]
    if len(title) + 2 > MAX_HEADER:
        blocks.append(_section(f"*{fitted(title, MAX_SECTION - 2, slack_text)}*"))
    if body := fitted(paragraphs(message.body), ALERT_BODY_LIMIT, slack_text):
        blocks.append(_section(body))
    if url := _link_url(message.url):
        blocks.append(_section(f"*{slack_link(url, phrases.open_alert + ' →')}*"))
    blocks.append(
        _footer(phrases.why_alert, message.unsubscribe_url, phrases.unsubscribe_alert, message.from_name, message.postal_address)
    )
    return _fallback(f"{priority}: {title}"), blocks


def characters(blocks: Sequence[Block]) -> int:
    """Return the characters of all texts in blocks, addresses of links included."""
    texts = [block["text"] if "text" in block else block["elements"][0] for block in blocks if block["type"] != "divider"]
    return units("".join([text["text"] for text in texts]))


def _item(issue: Issue, position: int, tier: int, phrases: Phrases, reason: str, cache: FragmentCache) -> _Item:
    content = issue.items[position].content
    key = FragmentKey(content.publication_id, content.revision, phrases.locale, f"item-{tier}", "slack")
    fragment: _Fragment = cache.get(key, lambda: _render_item(content, tier, phrases))
    return _shown(fragment, item_link(fragment.url, issue.delivery_id, position), reason, phrases.locale)


@lru_cache(maxsize=REASONED)
def _shown(fragment: _Fragment, url: str, reason: str, locale: str) -> _Item:
    words = _reason(reason, locale) if reason else ""
    section = _section(f"*{slack_link(_link_url(url), fragment.title)}*{fragment.below}")
    blocks = (section, _context(" · ".join(filter(None, (fragment.meta, words)))))
    return _Item(blocks, (*blocks, _DIVIDER), characters(blocks))


def _reason(reason: str, locale: str) -> str:
    return _text(reason_text(reason, locale), 120)


def _render_item(content: ItemContent, tier: int, phrases: Phrases) -> _Fragment:
    summary = fitted(one_line(content.summary), tier, slack_text) if tier else ""
    meta = " · ".join(filter(None, (by_line(content.authors, phrases), short_date(content.published_at, phrases.locale))))
    return _Fragment(
        url=safe_url(content.url),
        title=fitted(one_line(content.title), TITLE_LIMIT, slack_text) or "–",
        below=f"\n{summary}" if summary else "",
        meta=fitted(meta, META_LIMIT, slack_text),
    )


def _link_url(url: str | None) -> str:
    clean = safe_url(url)
    return clean if len(clean) <= MAX_LINK else ""


def _header(text: str) -> Block:
    return {"type": "header", "text": {"type": "plain_text", "text": shorten(text, MAX_HEADER) or "–", "emoji": True}}


def _section(text: str) -> Block:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}


def _context(text: str) -> Block:
    return {"type": "context", "elements": [{"type": "mrkdwn", "text": text or "–", "verbatim": True}]}


def _footer(why: str, unsubscribe_url: str, label: str, from_name: str, postal_address: str) -> Block:
    sender = ", ".join(filter(None, (one_line(from_name), one_line(postal_address))))
    link = slack_link(safe_url(unsubscribe_url), _text(label, 100))
    return _context(f"{_text(why, 300)} {link}" + (f"\n{_text(sender, 300)}" if sender else ""))


def _fallback(text: str) -> str:
    return _text(text, min(MAX_TEXT, 500))


@lru_cache(maxsize=4096)
def _text(text: str, limit: int) -> str:
    """Return a text that many messages share, escaped and shortened."""
    return fitted(text, limit, slack_text)
