"""What Slack sends to the edge: reactions (Events API) and button presses (interactivity), under its signature.

Produces ReactionAdded and ReactionRemoved. A reaction names channel and time of a message only, so the message is asked for once
(conversations.history) and its metadata says which delivery it is; a button carries all of it. Guarantee: nothing is read before
the signature is verified; a request older than 5 minutes is refused; a repeated one gives the same event.

Source: "Verifying requests from Slack", "reaction_added event", "block_actions payload".
"""

import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qs

import orjson

from core.engagement import read_button
from edge.callbacks.notice import Notice, Refused
from runtime.clock import Clock

WINDOW_S: Final = 300
"""Oldest request that is taken, as Slack recommends."""
EVENT_TYPE: Final = "newswire_delivery"
"""Type of the metadata of our messages (sinks/slack.py)."""
MAX_PUBLICATIONS: Final = 20
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_DELIVERY: Final = re.compile(r"\d{8}-" + _UUID.pattern)
_REACTIONS: Final = {"reaction_added": "ReactionAdded", "reaction_removed": "ReactionRemoved"}

MetadataOf = Callable[[str, str], Awaitable[Mapping[str, Any] | None]]
"""Returns the metadata of our message at (channel, ts), None when there is none; Unavailable when Slack does not answer."""


def verify(secret: str, headers: Mapping[str, str], body: bytes, clock: Clock) -> None:
    """Raise Refused unless Slack signed the body within the last five minutes."""
    timestamp = headers.get("X-Slack-Request-Timestamp", "")
    signature = headers.get("X-Slack-Signature", "")
    if not re.fullmatch(r"[0-9]{1,12}", timestamp):
        raise Refused(403, "bad_signature", "the request is not signed")
    if abs(clock.now().timestamp() - int(timestamp)) > WINDOW_S:
        raise Refused(403, "stale", "the request is older than five minutes")
    # slack_sdk's own verifier raises on a body that is no UTF-8
    expected = "v0=" + hmac.digest(secret.encode(), b"v0:" + timestamp.encode() + b":" + body, "sha256").hex()
    if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "surrogateescape")):
        raise Refused(403, "bad_signature", "the signature is not that of the request")


def read_request(content_type: str, body: bytes) -> dict[str, Any]:
    """Return the document of a verified request: JSON, or a form whose field payload is JSON."""
    try:
        text = body
        if content_type == "application/x-www-form-urlencoded":
            text = parse_qs(body.decode(), strict_parsing=True)["payload"][0].encode()
        document = orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeDecodeError, KeyError, ValueError):
        raise Refused(400, "malformed", "the body is no request of Slack's") from None
    if not isinstance(document, dict):
        raise Refused(400, "malformed", "the body is no JSON object")
    return document


async def slack_notices(document: Mapping[str, Any], metadata_of: MetadataOf) -> list[Notice]:
    """Return the notices of a request; none for one that is not about a message of ours."""
    try:
        if document.get("type") == "event_callback":
            return await _reaction(document["event"], metadata_of)
        if document.get("type") == "block_actions":
            return _presses(document)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise Refused(400, "malformed", "a field of Slack's request is missing or cannot be read") from None
    return []


async def _reaction(event: Mapping[str, Any], metadata_of: MetadataOf) -> list[Notice]:
    name = _REACTIONS.get(str(event["type"]))
    if name is None or event["item"]["type"] != "message":
        return []
    channel, ts = str(event["item"]["channel"]), str(event["item"]["ts"])
    metadata = await metadata_of(channel, ts)
    if metadata is None or metadata.get("event_type") != EVENT_TYPE:
        return []
    payload = metadata["event_payload"]
    subscriber_id, delivery_id = str(payload["subscriber_id"]), str(payload["delivery_id"])
    if not _UUID.fullmatch(subscriber_id) or not _DELIVERY.fullmatch(delivery_id):
        return []
    publications = [p for p in str(payload.get("publication_ids") or "").split(",") if _UUID.fullmatch(p)]
    at, reaction = _instant(str(event["event_ts"])), str(event["reaction"])[:100]
    identity = ("slack", channel, ts, str(event["user"]), reaction, str(event["event_ts"]))
    return [
        Notice(name, _value(subscriber_id, delivery_id, publication_id, reaction, at), (*identity, publication_id))
        for publication_id in publications[:MAX_PUBLICATIONS]
    ]


def _presses(document: Mapping[str, Any]) -> list[Notice]:
    notices = []
    for action in document["actions"]:
        button = read_button(str(action.get("value") or ""))
        if button is None:
            continue
        at = _instant(str(action["action_ts"]))
        value = _value(button.subscriber_id, button.delivery_id, button.publication_id, button.reaction, at)
        identity = ("slack", str(document["user"]["id"]), str(action["value"]), str(action["action_ts"]))
        notices.append(Notice("ReactionAdded", value, identity))
    return notices


def _value(subscriber_id: str, delivery_id: str, publication_id: str, reaction: str, at: datetime) -> dict[str, Any]:
    return {
        "subscriber_id": subscriber_id,
        "publication_id": publication_id,
        "delivery_id": delivery_id,
        "channel": "slack",
        "occurred_at": at,
        "reaction": reaction,
    }


def _instant(ts: str) -> datetime:
    return datetime.fromtimestamp(float(ts), UTC)
