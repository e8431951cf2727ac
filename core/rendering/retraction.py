"""What takes the place of a message of which something was retracted, on the channels that can change what they sent.

Slack and Discord show the issue again without the retracted items under a note that names them, or, when nothing is
left, the note alone; a webhook gets an event of its own. Limits are those of the channels' renderers.
"""

import json
from dataclasses import replace
from datetime import UTC
from typing import Any

from core.rendering import discord, slack
from core.rendering.model import Issue, Retraction
from core.rendering.phrases import Phrases, phrases_for, retracted_text
from core.rendering.text import discord_link, discord_text, fitted, one_line, safe_url, shorten, slack_link, slack_text

PUBLICATION_RETRACTED, ALERT_RETRACTED = "newswire.publication.retracted", "newswire.alert.retracted"
NOTE_LIMIT = 900
COLOUR = 0x475569


def slack_retraction(retraction: Retraction) -> slack.Message:
    """Return (text, blocks) for chat.update."""
    phrases, note = _words(retraction)
    block = {"type": "section", "text": {"type": "mrkdwn", "text": fitted(note, NOTE_LIMIT, slack_text), "verbatim": True}}
    rest = retraction.rest
    while rest is not None and rest.items:
        text, blocks = slack.newsletter_blocks(rest)
        blocks = [*blocks[:2], block, *blocks[2:]]
        if len(blocks) <= slack.MAX_BLOCKS and slack.characters(blocks) <= slack.MAX_TOTAL:
            return text, blocks
        rest = _shorter(rest)
    heading = {"type": "header", "text": {"type": "plain_text", "text": phrases.retracted, "emoji": True}}
    link = slack_link(safe_url(retraction.unsubscribe_url), slack_text(_label(retraction, phrases)))
    footer = {
        "type": "context",
        "elements": [{"type": "mrkdwn", "text": _signed(retraction, link, slack_text), "verbatim": True}],
    }
    return fitted(note, 500, slack_text), [heading, block, footer]


def discord_retraction(retraction: Retraction) -> list[discord.Embed]:
    """Return the embeds of the edited message."""
    phrases, note = _words(retraction)
    text = fitted(note, NOTE_LIMIT, discord_text)
    rest = retraction.rest
    while rest is not None and rest.items:
        first, *others = discord.newsletter_embeds(rest)
        embeds = [{**first, "description": f"{first['description']}\n\n{text}"}, *others]
        if discord.characters(embeds) <= discord.MAX_TOTAL:
            return embeds
        rest = _shorter(rest)
    link = discord_link(safe_url(retraction.unsubscribe_url), discord_text(_label(retraction, phrases)))
    description = f"{text}\n\n{_signed(retraction, link, discord_text)}"
    return [{"title": discord_text(phrases.retracted), "description": description, "color": COLOUR}]


def webhook_retraction(retraction: Retraction, *, delivery_id: str, source_id: str) -> bytes:
    """Return the event that tells an endpoint what of a delivery was retracted; the same bytes on every attempt."""
    moment = retraction.retracted_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    data = {
        "delivery_id": delivery_id,
        "source_id": source_id,
        "alert_id": retraction.alert_id,
        "publication_ids": list(retraction.publication_ids),
        "titles": [shorten(one_line(title), 120) for title in retraction.titles],
        "language": retraction.language,
        "retracted_at": moment,
    }
    kind = ALERT_RETRACTED if retraction.alert_id else PUBLICATION_RETRACTED
    return json.dumps({"type": kind, "timestamp": moment, "data": data}, ensure_ascii=False, separators=(",", ":")).encode()


def _words(retraction: Retraction) -> tuple[Phrases, str]:
    phrases = phrases_for(retraction.language)
    return phrases, retracted_text(retraction.titles, retraction.retracted_at, phrases)


def _shorter(issue: Issue) -> Issue:
    return replace(issue, items=issue.items[:-1])


def _label(retraction: Retraction, phrases: Phrases) -> str:
    return phrases.unsubscribe_alert if retraction.alert_id else phrases.unsubscribe_newsletter


def _signed(retraction: Retraction, link: str, escape: Any) -> str:
    sender = ", ".join(filter(None, (one_line(retraction.from_name), one_line(retraction.postal_address))))
    return f"{link}\n{fitted(sender, 300, escape)}" if sender else link
