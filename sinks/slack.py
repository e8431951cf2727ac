"""Slack: chat.postMessage with Block Kit, one message a call.

Consumes messages to a channel or user id; produces an outcome each. Guarantee: one request a call (no retry handlers).
Slack documents no idempotency: client_msg_id is sent as a best effort, and the metadata carries the delivery id, by which
an unknown delivery is found again in the channel's history.
"""

import asyncio
import re
from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Final

from core.outcomes import Dead, Outcome, Retry, Sent, Unknown
from core.rendering.fragments import FragmentCache
from core.rendering.model import Issue
from core.rendering.slack import alert_blocks, newsletter_blocks
from runtime.clock import Clock, SystemClock
from runtime.settings import Settings
from sinks.provider import (
    ACCOUNT,
    ACCOUNT_RETRY_S,
    CONNECT_TIMEOUT_S,
    PROVIDER_ERROR,
    SOON_S,
    THROTTLED,
    Message,
    Prepared,
    http_outcome,
    require_endpoint,
    retry_after_s,
    transport_outcome,
)

EVENT_TYPE: Final = "newswire_delivery"
"""Type of the metadata; Slack takes letters, digits, _ and -."""
_ADDRESS: Final = re.compile(r"[A-Z0-9]{2,32}")

ERRORS: Final[Mapping[str, Outcome]] = MappingProxyType(
    {
        "ratelimited": Retry(SOON_S, THROTTLED),
        "rate_limited": Retry(SOON_S, THROTTLED),
        "message_limit_exceeded": Retry(ACCOUNT_RETRY_S, THROTTLED),
        "internal_error": Retry(SOON_S, PROVIDER_ERROR),
        "fatal_error": Retry(SOON_S, PROVIDER_ERROR),
        "service_unavailable": Retry(SOON_S, PROVIDER_ERROR),
        "request_timeout": Retry(SOON_S, PROVIDER_ERROR),
        "team_added_to_org": Retry(ACCOUNT_RETRY_S, ACCOUNT),
        "invalid_auth": Retry(ACCOUNT_RETRY_S, ACCOUNT),
        "not_authed": Retry(ACCOUNT_RETRY_S, ACCOUNT),
        "account_inactive": Retry(ACCOUNT_RETRY_S, ACCOUNT),
        "token_revoked": Retry(ACCOUNT_RETRY_S, ACCOUNT),
        "token_expired": Retry(ACCOUNT_RETRY_S, ACCOUNT),
        "missing_scope": Retry(ACCOUNT_RETRY_S, ACCOUNT),
        "channel_not_found": Dead("invalid_address"),
        "user_not_found": Dead("invalid_address"),
        "is_archived": Dead("invalid_address"),
        "not_in_channel": Dead("unauthorized"),
        "restricted_action": Dead("unauthorized"),
        "ekm_access_denied": Dead("unauthorized"),
        "msg_too_long": Dead("too_large"),
        "msg_blocks_too_long": Dead("too_large"),
        "metadata_too_large": Dead("too_large"),
        "invalid_blocks": Dead("rejected"),
        "invalid_blocks_format": Dead("rejected"),
        "no_text": Dead("rejected"),
        "invalid_arguments": Dead("rejected"),
    }
)
"""Slack's `error` in an answer whose `ok` is false. What is not listed is a refusal of this message."""


class Slack:
    """One workspace, or the sandbox's."""

    channel: ClassVar[str] = "slack"
    entries: ClassVar[int] = 1
    calls: ClassVar[int] = 8

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        require_endpoint(settings, settings.slack_base_url, "NEWSWIRE_SLACK_BASE_URL", "Slack messages")
        if not settings.slack_base_url:
            settings.require("slack_token")
        self._settings, self._clock = settings, clock or SystemClock()
        self._fragments = FragmentCache()
        self._session: Any = None
        self._client: Any = None

    async def open(self) -> None:
        """Make the client on one shared session (a session a call costs twice the CPU)."""
        import aiohttp
        from slack_sdk.web.async_client import AsyncWebClient

        timeout = aiohttp.ClientTimeout(total=self._settings.provider_timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
        self._client = AsyncWebClient(
            token=self._settings.slack_token or "xoxb-sandbox",
            base_url=self._settings.slack_base_url or AsyncWebClient.BASE_URL,
            session=self._session,
            retry_handlers=[],
        )

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()

    def recipient(self, address: str) -> str:
        """Return the channel or user id."""
        return address.strip()

    def group(self, message: Message) -> Hashable:
        """Return the delivery: every message is a call."""
        return message.delivery.delivery_id

    def render(self, message: Message) -> Any:
        """Return the arguments of chat.postMessage."""
        channel = message.address.strip()
        if not _ADDRESS.fullmatch(channel):
            return Dead("invalid_address")
        content, delivery = message.content, message.delivery
        text, blocks = newsletter_blocks(content, self._fragments) if isinstance(content, Issue) else alert_blocks(content)
        return {
            "channel": channel,
            "text": text,
            "blocks": blocks,
            "client_msg_id": delivery.uuid,
            "metadata": {
                "event_type": EVENT_TYPE,
                "event_payload": {"delivery_id": delivery.delivery_id, "subscriber_id": delivery.subscriber_id},
            },
            "unfurl_links": False,
            "unfurl_media": False,
        }

    async def call(self, prepared: Sequence[Prepared]) -> list[Outcome]:
        """Post one message."""
        import aiohttp
        from slack_sdk.errors import SlackApiError

        (one,) = prepared
        try:
            async with asyncio.timeout(self._settings.provider_timeout_s):
                answer = await self._client.chat_postMessage(**one.body)
        except SlackApiError as error:
            return [self._refusal(error.response)]
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            return [transport_outcome(error)]
        return [Sent(f"{answer.get('channel') or one.body['channel']}:{answer.get('ts')}")]

    def _refusal(self, response: Any) -> Outcome:
        """Return the outcome of an answer without `ok`; slack_sdk hands over its own, or aiohttp's when it is no JSON."""
        status = getattr(response, "status_code", None) or getattr(response, "status", None)
        if not isinstance(status, int):
            return Unknown("answer_lost")
        headers = response.headers
        if status == 429:
            return Retry(retry_after_s(headers.get("Retry-After"), self._clock.now()), THROTTLED)
        data = getattr(response, "data", None)
        code = data.get("error") if isinstance(data, dict) else None
        if status >= 500 or (status >= 400 and not code):
            return http_outcome(status, headers.get("Retry-After"), self._clock.now())
        if not code:
            return Unknown("answer_lost")  # 200, but no answer of Slack's that could be read
        return ERRORS.get(code, Dead("rejected"))
