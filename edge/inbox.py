"""A preview to the inbox page: handed to the sandbox's providers over HTTP, in the form that the sinks speak.

Only to a sandbox on this machine: with NEWSWIRE_LIVE, or without an inbox, nothing is sent. The message has no delivery_id,
so what the sandbox reports about it belongs to no delivery.
"""

from collections.abc import Mapping
from datetime import UTC
from typing import Any, Final

import httpx
import orjson

from core.errors import InputError, Unavailable
from core.names import PREVIEW_RECIPIENTS
from runtime.clock import SystemClock
from runtime.settings import Settings

TIMEOUT_S: Final = 10.0


def deliver(settings: Settings, channel: str, parts: Mapping[str, Any]) -> str:
    """Send what a channel's renderer made to the sandbox, and return the address of its page.

    InputError without a sandbox, Unavailable when it does not answer or refuses.
    """
    if settings.live or not settings.inbox_url or not _base(settings, channel).startswith(settings.inbox_url.rstrip("/")):
        raise InputError(
            "inbox: there is no sandbox (NEWSWIRE_LIVE is on, NEWSWIRE_INBOX_URL unset, or the provider's address is another); "
            "use --output FILE"
        )
    with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as client:
        try:
            answer = _send(client, settings, channel, parts)
            answer.raise_for_status()
        except httpx.HTTPStatusError as error:
            raise Unavailable(f"the sandbox refused the preview with HTTP {error.response.status_code}") from None
        except httpx.HTTPError as error:
            raise Unavailable(f"the sandbox does not answer ({type(error).__name__}); start it with `make up`") from None
    refused = channel == "slack" and not answer.json().get("ok")
    if refused:
        raise Unavailable(f"the sandbox's Slack refused the preview: {answer.json().get('error')}")
    return settings.inbox_url


def _base(settings: Settings, channel: str) -> str:
    """Return where the provider of a channel is."""
    return {
        "email": settings.ses_endpoint_url,
        "slack": settings.slack_base_url,
        "discord": settings.discord_base_url,
        "webhook": settings.inbox_url,
    }[channel].rstrip("/")


def _send(client: httpx.Client, settings: Settings, channel: str, parts: Mapping[str, Any]) -> httpx.Response:
    if channel == "email":
        url = f"{_base(settings, channel)}/v2/email/outbound-bulk-emails"
        return client.post(url, json=_bulk_email(parts), headers={"Authorization": "AWS4-HMAC-SHA256 preview"})
    if channel == "slack":
        url = f"{_base(settings, channel)}/chat.postMessage"
        message = {"channel": PREVIEW_RECIPIENTS["slack"], **parts["body"]}
        return client.post(url, json=message, headers={"Authorization": "Bearer preview"})
    if channel == "discord":
        url = f"{_base(settings, channel)}/channels/{PREVIEW_RECIPIENTS['discord']}/messages"
        return client.post(url, json=parts["body"], headers={"Authorization": "Bot preview"})
    return _webhook(client, _base(settings, channel), parts["payload"].encode())


def _bulk_email(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a SendBulkEmail of one entry whose three parts are values, so that no text in them is read as a placeholder."""
    values = {name: parts[name] for name in ("subject", "html", "text")}
    headers = {"List-Unsubscribe": f"<{parts['unsubscribe_url']}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}
    return {
        "FromEmailAddress": parts["from_address"],
        "DefaultContent": {
            "Template": {
                "TemplateContent": {"Subject": "{{subject}}", "Html": "{{html}}", "Text": "{{text}}"},
                "TemplateData": "{}",
            }
        },
        "BulkEmailEntries": [
            {
                "Destination": {"ToAddresses": [PREVIEW_RECIPIENTS["email"]]},
                "ReplacementEmailContent": {"ReplacementTemplate": {"ReplacementTemplateData": orjson.dumps(values).decode()}},
                "ReplacementHeaders": [{"Name": name, "Value": value} for name, value in headers.items()],
                "ReplacementTags": [{"Name": "template", "Value": parts["template"].replace("@", "_")}],
            }
        ],
    }


def _webhook(client: httpx.Client, sandbox: str, payload: bytes) -> httpx.Response:
    """Post a payload as Standard Webhooks asks for, signed with the secret that the sandbox's endpoints have."""
    from standardwebhooks import Webhook

    secret = client.get(f"{sandbox}/control/hooks").raise_for_status().json()["default"]
    now = SystemClock().now().astimezone(UTC)
    name = PREVIEW_RECIPIENTS["webhook"]
    webhook_id = f"{name}-{int(now.timestamp() * 1000)}"
    headers = {
        "content-type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(msg_id=webhook_id, timestamp=now, data=payload.decode()),
    }
    return client.post(f"{sandbox}/hooks/{name}", content=payload, headers=headers)
