"""The routes under /callbacks, one a provider, there only when its key or topics are set.

A request is read up to a bound of size and time, verified, translated, recorded, and only then answered: 200, or 503 when it
could not be recorded, upon which the provider sends it again. What is refused is counted and says why in one line.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import orjson
from aiohttp import web

from core.errors import SetupError, Unavailable
from edge.callbacks import discord, slack
from edge.callbacks.notice import Notice, Refused
from edge.callbacks.ses import ses_notice
from edge.callbacks.sns import Sns
from runtime import metrics
from runtime.clock import Clock

SNS_BYTES: Final = 600_000
"""SNS messages have at most 256 kB, which escaping as JSON can double."""
MESSAGE_BYTES: Final = 256_000
"""A press of a button brings the message it stands under, of at most some 50 kB."""
BODY_TIMEOUT_S: Final = 2.0
RECORD_TIMEOUT_S: Final = 2.5
"""Slack and Discord give up after 3 s and try again; so does SNS after 15 s."""
MAX_AGE: Final = timedelta(hours=24)
"""Oldest SNS message that is taken over HTTP; SNS gives up long before."""

log = logging.getLogger(__name__)

Record = Callable[[list[Notice]], Awaitable[None]]


@dataclass(frozen=True)
class Callbacks:
    """What the handlers need; a provider that is None has no route."""

    record: Record
    clock: Clock
    receipt_key: bytes
    sns: Sns | None = None
    slack_secret: str = ""
    metadata_of: slack.MetadataOf | None = None
    discord_key: Any = None

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the providers that are set up."""
        found = []
        if self.sns is not None and self.sns.topics:
            found.append(web.post("/callbacks/ses", self._handler("ses", self._ses)))
        if self.slack_secret and self.metadata_of is not None:
            found.append(web.post("/callbacks/slack", self._handler("slack", self._slack)))
        if self.discord_key is not None:
            found.append(web.post("/callbacks/discord", self._handler("discord", self._discord)))
        return found

    def _handler(
        self, provider: str, act: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            try:
                answer = await act(request)
            except Refused as refused:
                log.warning("a callback of %s was refused: %s", provider, refused)
                metrics.CALLBACKS.labels(provider, refused.result).inc()
                return web.json_response({"error": str(refused)}, status=refused.status)
            except (Unavailable, SetupError, TimeoutError) as error:
                log.warning("a callback of %s could not be recorded: %s", provider, str(error) or "no acknowledgement in time")
                metrics.CALLBACKS.labels(provider, "unavailable").inc()
                return web.json_response({"error": "not recorded, send it again"}, status=503, headers={"Retry-After": "5"})
            metrics.CALLBACKS.labels(provider, "taken").inc()
            return answer

        return handle

    async def _recorded(self, notices: list[Notice]) -> None:
        async with asyncio.timeout(RECORD_TIMEOUT_S):
            await self.record(notices)

    async def _ses(self, request: web.Request) -> web.Response:
        assert self.sns is not None
        message = await self.sns.open(await read_body(request, SNS_BYTES), MAX_AGE)
        if message["Type"] == "SubscriptionConfirmation":
            await self.sns.confirm(message)
            log.info("confirmed the subscription to %s", message["TopicArn"])
        elif message["Type"] == "UnsubscribeConfirmation":
            log.warning("SNS has ended the subscription to %s: no SES events come any more", message["TopicArn"])
        elif (notice := ses_notice(message["Message"], self.receipt_key)) is not None:
            await self._recorded([notice])
        return web.Response(status=200)

    async def _slack(self, request: web.Request) -> web.Response:
        assert self.metadata_of is not None
        body = await read_body(request, MESSAGE_BYTES)
        slack.verify(self.slack_secret, request.headers, body, self.clock)
        document = slack.read_request(request.content_type, body)
        if document.get("type") == "url_verification":
            return web.json_response({"challenge": str(document.get("challenge", ""))[:1_000]})
        async with asyncio.timeout(RECORD_TIMEOUT_S):
            await self.record(await slack.slack_notices(document, self.metadata_of))
        return web.Response(status=200)

    async def _discord(self, request: web.Request) -> web.Response:
        body = await read_body(request, MESSAGE_BYTES)
        discord.verify(self.discord_key, request.headers, body, self.clock)
        document = discord.read_interaction(body)
        if document["type"] == discord.PING:
            return _json(discord.PONG)
        notice = discord.discord_notice(document)
        if notice is not None:
            await self._recorded([notice])
        return _json(discord.SEEN)


def _json(document: Any) -> web.Response:
    return web.Response(body=orjson.dumps(document), content_type="application/json")


async def read_body(request: web.Request, limit_bytes: int) -> bytes:
    """Return the body; Refused when it is larger than the limit or does not come in time. No more than the limit is kept."""
    if (request.content_length or 0) > limit_bytes:
        raise Refused(413, "too_large", f"the body has more than {limit_bytes} bytes")
    parts, size = list[bytes](), 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.content.iter_any():
                size += len(part)
                if size > limit_bytes:
                    raise Refused(413, "too_large", f"the body has more than {limit_bytes} bytes")
                parts.append(part)
    except TimeoutError:
        raise Refused(408, "too_slow", "the body did not come in time") from None
    return b"".join(parts)
