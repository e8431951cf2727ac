"""What Discord sends to the edge: interactions, under its Ed25519 signature.

Produces ReactionAdded for a button of ours. Guarantee: nothing is read before the signature is verified; a request older than
five minutes is refused; a repeated one gives the same event.

Source: "Receiving and Responding: Security and Authorization" of Discord's documentation.
"""

import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from core.engagement import read_button
from core.errors import SetupError
from edge.callbacks.notice import Notice, Refused
from runtime.clock import Clock

WINDOW_S: Final = 300
"""Oldest request that is taken. Discord names no bound of its own; an interaction's token lives for three seconds."""
PING, COMPONENT = 1, 3
"""Types of interactions that are answered."""
PONG: Final[Mapping[str, Any]] = {"type": 1}
SEEN: Final[Mapping[str, Any]] = {"type": 6}
"""Answers: to a ping, and to a press that changes nothing in the message."""
_EPOCH_MS: Final = 1_420_070_400_000
"""Discord's ids begin with the milliseconds since 2015."""


def public_key(text: str) -> Ed25519PublicKey:
    """Return the key of a Discord application; SetupError when the text is none."""
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    except ValueError:
        raise SetupError("NEWSWIRE_DISCORD_PUBLIC_KEY is no key: it has 64 digits in hex, from the application's page.") from None


def verify(key: Ed25519PublicKey, headers: Mapping[str, str], body: bytes, clock: Clock) -> None:
    """Raise Refused unless Discord signed the body within the last five minutes."""
    timestamp = headers.get("X-Signature-Timestamp", "")
    if not re.fullmatch(r"[0-9]{1,12}", timestamp):
        raise Refused(401, "bad_signature", "the request is not signed")
    try:
        key.verify(bytes.fromhex(headers.get("X-Signature-Ed25519", "")), timestamp.encode() + body)
    except (InvalidSignature, ValueError, binascii.Error):
        raise Refused(401, "bad_signature", "the signature is not that of the request") from None
    if abs(clock.now().timestamp() - int(timestamp)) > WINDOW_S:
        raise Refused(401, "stale", "the request is older than five minutes")


def read_interaction(body: bytes) -> dict[str, Any]:
    """Return the document of a verified request."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Refused(400, "malformed", "the body is no JSON") from None
    if not isinstance(document, dict) or not isinstance(document.get("type"), int):
        raise Refused(400, "malformed", "the body is no interaction")
    return document


def discord_notice(document: Mapping[str, Any]) -> Notice | None:
    """Return the notice of a press of our button, None for every other interaction."""
    if document["type"] != COMPONENT:
        return None
    try:
        button = read_button(str(document["data"]["custom_id"]))
        interaction_id = str(int(document["id"]))
        at = datetime.fromtimestamp(((int(interaction_id) >> 22) + _EPOCH_MS) / 1000, UTC)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        raise Refused(400, "malformed", "a field of the interaction is missing or cannot be read") from None
    if button is None:
        return None
    value = {
        "subscriber_id": button.subscriber_id,
        "publication_id": button.publication_id,
        "delivery_id": button.delivery_id,
        "channel": "discord",
        "occurred_at": at,
        "reaction": button.reaction,
    }
    return Notice("ReactionAdded", value, ("discord", interaction_id))
