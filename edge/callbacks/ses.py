"""SES events as notices. Pure; what is no event of a Newswire delivery is none.

Consumes the Message of an SNS notification from a configuration set. The delivery and the subscriber come back in the message
tags. Opens and clicks of SES are not used: our own links count.

Source: "Contents of event data that Amazon SES publishes to Amazon SNS".
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from edge.callbacks.notice import Notice, Refused
from runtime.keys import hashed_receipt
from schemas.codec import Clear

_UUID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_SUBSCRIBER: Final = re.compile(_UUID)
_DELIVERY: Final = re.compile(r"\d{8}-" + _UUID)

EVENTS: Final = {
    "Send": ("ProviderAccepted", "send"),
    "Delivery": ("ProviderDelivered", "delivery"),
    "DeliveryDelay": ("DeliveryDelayed", "deliveryDelay"),
    "Bounce": ("DeliveryBounced", "bounce"),
    "Complaint": ("ComplaintReceived", "complaint"),
    "Reject": ("DeliveryBounced", "reject"),
    "Rendering Failure": ("DeliveryBounced", "failure"),
}
"""SES's eventType, our event, and where SES puts what belongs to that type alone."""


def ses_notice(text: str, receipt_key: bytes) -> Notice | None:
    """Return the notice that an SES event means, None for one that is not ours or not used; Refused when it is none at all."""
    try:
        return _notice(orjson.loads(text), receipt_key)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise Refused(400, "malformed", "the notification holds no SES event that can be read") from None


def _notice(document: Mapping[str, Any], receipt_key: bytes) -> Notice | None:
    kind, mail = document.get("eventType") or document.get("notificationType"), document["mail"]
    if kind not in EVENTS:
        return None
    tags = mail.get("tags") or {}
    subscriber_id, delivery_id = _tag(tags, "subscriber_id", _SUBSCRIBER), _tag(tags, "delivery_id", _DELIVERY)
    if subscriber_id is None or delivery_id is None:
        return None
    name, part = EVENTS[kind]
    detail, message_id = document.get(part) or {}, str(mail["messageId"])
    at = str(detail.get("timestamp") or mail["timestamp"])
    own_id = str(detail.get("feedbackId") or f"{message_id}/{kind}/{at}")[:500]
    value = {
        "subscriber_id": subscriber_id,
        "delivery_id": delivery_id,
        "channel": "email",
        "provider_event_id": own_id,
        "provider_receipt_hash": hashed_receipt(receipt_key, "email", message_id),
        "occurred_at": datetime.fromisoformat(at).astimezone(UTC),
        **_special(kind, detail),
    }
    return Notice(name, value, ("email", own_id, delivery_id))


def _tag(tags: Mapping[str, Any], name: str, form: re.Pattern[str]) -> str | None:
    values = tags.get(name)
    text = values[0] if isinstance(values, list) and values else ""
    return text if isinstance(text, str) and form.fullmatch(text) else None


def _special(kind: str, detail: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that only this event has."""
    if kind == "Bounce":
        (first, *_) = detail["bouncedRecipients"]
        return {
            "permanent": detail["bounceType"] == "Permanent",
            "detail": f"{detail['bounceType']}/{detail.get('bounceSubType') or 'General'}"[:200],
            "address": Clear(str(first["emailAddress"])),
        }
    if kind == "Complaint":
        (first, *_) = detail["complainedRecipients"]
        kind_of = detail.get("complaintFeedbackType") or detail.get("complaintSubType")
        return {"detail": None if kind_of is None else str(kind_of)[:200], "address": Clear(str(first["emailAddress"]))}
    if kind == "DeliveryDelay":
        return {"detail": str(detail.get("delayType") or "")[:200] or None}
    if kind in ("Reject", "Rendering Failure"):
        text = detail.get("reason") or detail.get("errorMessage") or detail.get("templateName") or ""
        return {"permanent": False, "detail": f"{kind.replace(' ', '')}/{text}"[:200], "address": None}
    return {}
