"""Slack: chat.postMessage with Block Kit, one message a call.

Consumes messages to a channel or user id; produces an outcome each. Guarantee: one request a call (no retry handlers).
Slack documents no idempotency: client_msg_id is sent as a best effort, and the metadata carries the delivery id, by which
an unknown delivery is found again in the channel's history.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

import orjson

from core.outcomes import Dead, Outcome, Refusal, Retry, Sent, Unknown, told
from core.rendering.fragments import FragmentCache
from core.rendering.model import Issue, Retraction
from core.rendering.retraction import slack_retraction
from core.rendering.slack import MAX_BLOCKS, alert_blocks, newsletter_blocks
from runtime.clock import Clock, SystemClock
from runtime.settings import Settings
from sinks.answers import SLACK, meaning
from sinks.buttons import buttons_of, publications_of
from sinks.delivery import Delivery
from sinks.provider import (
    ACCOUNT,
    ACCOUNT_RETRY_S,
    CLOCK_MARGIN,
    CONNECT_TIMEOUT_S,
    UNREADABLE,
    Found,
    Limits,
    Message,
    NotFound,
    Prepared,
    Sighting,
    Undecidable,
    edited,
    http_outcome,
    require_endpoint,
    retry_after_s,
    transport_outcome,
    undecided,
    unreadable,
)

EVENT_TYPE: Final = "newswire_delivery"
"""Type of the metadata; Slack takes letters, digits, _ and -."""
HISTORY_PAGE: Final = 200
"""Messages a page of conversations.history; Slack advises at most 200."""
HISTORY_PAGES: Final = 10
"""Most pages read for one delivery; conversations.history allows about 50 calls a minute (tier 3)."""
_ADDRESS: Final = re.compile(r"[A-Z0-9]{2,32}")


class Redirected(Exception):
    """Something answered that the Web API is elsewhere; following would send the message, and the token, once more."""


def _button(label: str, value: str) -> dict[str, Any]:
    text = {"type": "plain_text", "text": label, "emoji": True}
    return {"type": "button", "action_id": value[-40:], "value": value, "text": text}


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

        from sinks.last_look import trace

        class OneAnswer(aiohttp.ClientResponse):
            """Ends where a redirect would be followed; is read by orjson, a tenth of the standard module's time."""

            async def start(self, connection: Any) -> aiohttp.ClientResponse:
                await super().start(connection)
                if 300 <= self.status < 400:
                    raise Redirected(self.status)
                return self

            async def json(self, *, loads: Callable[[str], Any] = orjson.loads, **options: Any) -> Any:
                return await super().json(loads=loads, **options)

        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),  # `_ask` ends what takes too long
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            json_serialize=lambda value: orjson.dumps(value).decode(),
            response_class=OneAnswer,
            trace_configs=[trace()],
        )
        quiet = logging.getLogger("sinks.slack.client")
        quiet.setLevel(logging.WARNING)  # the client looks at this logger's own level: unset, it formats every body for debugging
        self._client = AsyncWebClient(
            token=self._settings.slack_token or "xoxb-sandbox",
            base_url=self._settings.slack_base_url or AsyncWebClient.BASE_URL,
            session=self._session,
            retry_handlers=[],
            logger=quiet,
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
        if self._settings.slack_signing_secret and len(blocks) < MAX_BLOCKS and (buttons := buttons_of(message)):
            blocks = [*blocks, {"type": "actions", "elements": [_button(*button) for button in buttons]}]
        return {
            "channel": channel,
            "text": text,
            "blocks": blocks,
            "client_msg_id": delivery.uuid,
            "metadata": {
                "event_type": EVENT_TYPE,
                "event_payload": {
                    "delivery_id": delivery.delivery_id,
                    "subscriber_id": delivery.subscriber_id,
                    "publication_ids": ",".join(publications_of(content)),
                },
            },
            "unfurl_links": False,
            "unfurl_media": False,
        }

    async def call(self, prepared: Sequence[Prepared]) -> list[Outcome]:
        """Post one message."""
        (one,) = prepared
        # not by chat_postMessage, which walks through all blocks for objects of its own: a third of the whole call
        answer = await self._ask(self._client.api_call, {"api_method": "chat.postMessage", "json": one.body})
        if isinstance(answer, Retry | Dead | Unknown):
            return [answer]
        if not answer.get("ts"):
            return [Unknown("answer_lost", "ok without ts")]  # not the answer to a message
        return [Sent(f"{answer.get('channel') or one.body['channel']}:{answer['ts']}")]

    async def _ask(self, method: Callable[..., Awaitable[Any]], arguments: Mapping[str, Any]) -> Any:
        """Return the answer of one call of a method, or the outcome that it was refused with."""
        import aiohttp
        from slack_sdk.errors import SlackApiError

        try:
            async with asyncio.timeout(self._settings.provider_timeout_s):
                return await method(**arguments)
        except SlackApiError as error:
            return self._refusal(error.response)
        except Redirected:
            return Retry(ACCOUNT_RETRY_S, ACCOUNT, "a redirect")
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            return transport_outcome(error)
        except UNREADABLE as error:
            return unreadable(error)

    def destination(self, message: Message) -> str | None:
        """Return the channel: Slack counts a message a second in each."""
        return message.address.strip() or None

    async def limits(self) -> Limits | None:
        """Slack says none."""
        return None

    async def find(self, delivery: Delivery, address: str, since: datetime) -> Sighting:
        """Read the channel's history back to `since` and look for the delivery id in the messages' metadata."""
        channel = await self._conversation(address.strip())
        if not isinstance(channel, str):
            return undecided(channel)
        arguments: dict[str, Any] = {
            "channel": channel, "include_all_metadata": True, "limit": HISTORY_PAGE,
            "oldest": f"{(since - CLOCK_MARGIN).timestamp():.6f}",
        }  # fmt: skip
        for _ in range(HISTORY_PAGES):
            answer = await self._ask(self._client.conversations_history, arguments)
            if isinstance(answer, Retry | Dead | Unknown):
                return undecided(answer)
            for message in answer.get("messages") or []:
                metadata = message.get("metadata") or {}
                if (metadata.get("event_payload") or {}).get("delivery_id") == delivery.delivery_id:
                    return Found(f"{channel}:{message.get('ts')}")
            cursor = (answer.get("response_metadata") or {}).get("next_cursor")
            if not cursor:
                return NotFound()
            arguments["cursor"] = cursor
        return Undecidable("history_too_long")

    async def _conversation(self, address: str) -> Any:
        """Return the id of the conversation with an address: a user's is a direct message that has an id of its own."""
        if address[:1] not in ("U", "W"):
            return address
        answer = await self._ask(self._client.conversations_open, {"users": address})
        return answer if isinstance(answer, Retry | Dead | Unknown) else str((answer.get("channel") or {}).get("id") or "")

    def render_retraction(self, retraction: Retraction, delivery: Delivery, address: str) -> Any | None:
        """Return text and blocks for chat.update; the metadata stays, because it is not named."""
        text, blocks = slack_retraction(retraction)
        return {"text": text, "blocks": blocks}

    async def edit(self, receipt: str, address: str, body: Any) -> Outcome:
        """Call chat.update."""
        channel, _, ts = receipt.partition(":")
        answer = await self._ask(self._client.chat_update, {"channel": channel, "ts": ts, **body})
        return edited(answer) if isinstance(answer, Retry | Dead | Unknown) else Sent(receipt)

    async def suppress(self, address: str, reason: str) -> bool:
        """Slack keeps no such list."""
        return False

    def _refusal(self, response: Any) -> Refusal:
        """Return the outcome of an answer without `ok`; slack_sdk hands over its own, or aiohttp's when it is no JSON."""
        status = getattr(response, "status_code", None) or getattr(response, "status", None)
        if not isinstance(status, int):
            return Unknown("answer_lost", "no status")
        data = getattr(response, "data", None)
        code = data.get("error") if isinstance(data, dict) else None
        if status != 429 and isinstance(code, str) and code:
            known = meaning(SLACK, code)
            if known is not None or status < 500:
                return told(known or Dead("rejected"), _words(code, data))
        if status < 300:
            return Unknown("answer_lost", f"status {status}, not Slack's")  # 2xx, but no answer of Slack's that could be read
        asked = response.headers.get("Retry-After")
        return http_outcome(status, retry_after_s(asked, self._clock.now()) if asked else None)


def _words(code: str, data: Any) -> str:
    """Return an error and what Slack says about it, such as the block that it does not take."""
    details = data.get("response_metadata")
    messages = details.get("messages") if isinstance(details, dict) else None
    return ", ".join([code, *map(str, messages)]) if isinstance(messages, list) else code
