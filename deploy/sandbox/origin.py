"""What a kept message is about: its delivery, and the newsletter or alerts that it came from.

Every message of Newswire's holds an unsubscribe link, which names all of it (runtime/tokens.py); that is what makes a
Discord message, which has a nonce only, known by its delivery id. A webhook says it in its payload as well.
"""

from dataclasses import dataclass
from typing import Any, Final

from deploy.sandbox.discord import DiscordBody
from deploy.sandbox.emails import EmailBody
from deploy.sandbox.hooks import HookBody
from deploy.sandbox.recorder import Message
from deploy.sandbox.slack import SlackBody
from runtime.tokens import unverified_claims

ALERTS: Final = "alerts"
"""Source of alerts; that of a newsletter is its id."""


@dataclass(frozen=True, slots=True)
class Origin:
    """delivery_id is what the message was counted under when it names none of ours; source is empty when it names none."""

    delivery_id: str
    source: str


def origin_of(message: Message) -> Origin:
    """Return what a message is about, whatever the provider calls it."""
    claims = unverified_claims(_written(message.body))
    if claims is not None:
        source = claims.newsletter_id or ALERTS
        return Origin(claims.delivery_id or message.delivery_id, source)
    return _told(message) if isinstance(message.body, HookBody) else Origin(message.delivery_id, "")


def _written(body: Any) -> str:
    """Return where a message has its link to unsubscribe, without taking it apart."""
    if isinstance(body, EmailBody):
        return " ".join(value for name, value in body.entry_headers if name.lower() == "list-unsubscribe")
    if isinstance(body, SlackBody | DiscordBody):
        return body.packed.decode("utf-8", "replace")
    return body.raw.decode("utf-8", "replace") if isinstance(body, HookBody) else ""


def _told(message: Message) -> Origin:
    """Return what the payload of a webhook says; a retraction has no link."""
    payload = message.body.payload() if isinstance(message.body, HookBody) else None
    data = payload.get("data") if isinstance(payload, dict) else None
    if not isinstance(data, dict):
        return Origin(message.delivery_id, "")
    delivery_id, source_id = (value if isinstance(value := data.get(name), str) else "" for name in ("delivery_id", "source_id"))
    newsletter_id, at, _ = source_id.rpartition("@")
    source = newsletter_id if at else ALERTS
    return Origin(delivery_id or message.delivery_id, source if source_id else "")
