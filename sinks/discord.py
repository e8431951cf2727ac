"""Discord: one message with embeds a call, through hikari's REST client; no gateway.

Consumes messages to a channel id; produces an outcome each. Guarantee: one accepted request a call (max_retries=0); a 429
that names at most MAX_RATE_LIMIT_S is waited for inside hikari, which is safe because it was refused, a longer one is a
Retry. The nonce with enforce_nonce makes Discord return the first message of a delivery for a few minutes.
"""

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from core.ids import discord_nonce
from core.outcomes import Dead, Outcome, Retry, Sent, Unknown
from core.rendering.discord import alert_embeds, newsletter_embeds
from core.rendering.fragments import FragmentCache
from core.rendering.model import Issue
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
    transport_outcome,
)

MAX_RATE_LIMIT_S: Final = 1
"""Longest wait for a rate limit inside the client; below what consent may lag."""
CLOUDFLARE_RETRY_S: Final = 60.0
"""Wait after a 429 that is not Discord's own: the address is banned for a while."""
_SNOWFLAKE_MAX: Final = 1 << 63


class Discord:
    """One bot, or the sandbox's."""

    channel: ClassVar[str] = "discord"
    entries: ClassVar[int] = 1
    calls: ClassVar[int] = 8

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        require_endpoint(settings, settings.discord_base_url, "NEWSWIRE_DISCORD_BASE_URL", "Discord messages")
        if not settings.discord_base_url:
            settings.require("discord_token")
        self._settings, self._clock = settings, clock or SystemClock()
        self._fragments = FragmentCache()
        self._app: Any = None
        self._rest: Any = None

    async def open(self) -> None:
        """Make the client; connections are kept (closing them costs twice the CPU)."""
        from hikari import RESTApp, TokenType
        from hikari.impl.config import HTTPSettings, HTTPTimeoutSettings

        timeouts = HTTPTimeoutSettings(request_socket_connect=CONNECT_TIMEOUT_S, total=self._settings.provider_timeout_s)
        self._app = RESTApp(
            url=self._settings.discord_base_url or None,
            max_retries=0,
            max_rate_limit=MAX_RATE_LIMIT_S,
            http_settings=HTTPSettings(force_close_transports=False, timeouts=timeouts),
        )
        await self._app.start()
        self._rest = self._app.acquire(self._settings.discord_token or "sandbox", TokenType.BOT)
        self._rest.start()

    async def close(self) -> None:
        """Close the client's connections."""
        if self._rest is not None:
            await self._rest.close()
            await self._app.close()

    def recipient(self, address: str) -> str:
        """Return the channel id."""
        return address.strip()

    def group(self, message: Message) -> Hashable:
        """Return the delivery: every message is a call."""
        return message.delivery.delivery_id

    def render(self, message: Message) -> Any:
        """Return (channel id, embeds, nonce)."""
        text = message.address.strip()
        if not text.isascii() or not text.isdigit() or not 0 < int(text) < _SNOWFLAKE_MAX:
            return Dead("invalid_address")
        content = message.content
        embeds = newsletter_embeds(content, self._fragments) if isinstance(content, Issue) else alert_embeds(content)
        return int(text), [_embed(e) for e in embeds], discord_nonce(message.delivery.delivery_id)

    async def call(self, prepared: Sequence[Prepared]) -> list[Outcome]:
        """Create one message."""
        import aiohttp
        from hikari.errors import HikariError

        (one,) = prepared
        channel, embeds, nonce = one.body
        try:
            async with asyncio.timeout(self._settings.provider_timeout_s):
                message = await self._rest.create_message(
                    channel, embeds=embeds, nonce=nonce, mentions_everyone=False, user_mentions=False, role_mentions=False
                )
        except HikariError as error:
            return [self._refusal(error)]
        except (aiohttp.ClientError, OSError) as error:
            return [transport_outcome(error)]
        except (KeyError, TypeError, ValueError):
            return [Unknown("answer_lost")]  # accepted, but the answer is no message that hikari can read
        return [Sent(f"{channel}:{int(message.id)}")]

    def _refusal(self, error: Exception) -> Outcome:
        """Return the outcome of hikari's error; the table of PROVIDERS in code, because hikari tells them by type."""
        from hikari import errors

        if isinstance(error, errors.RateLimitTooLongError):
            return Retry(max(float(error.retry_after), 0.0), THROTTLED)
        if isinstance(error, errors.UnauthorizedError):
            return Retry(ACCOUNT_RETRY_S, ACCOUNT)
        if isinstance(error, errors.ForbiddenError):
            return Dead("unauthorized")
        if isinstance(error, errors.NotFoundError):
            return Dead("invalid_address")
        if isinstance(error, errors.InternalServerError):
            return Retry(SOON_S, PROVIDER_ERROR)
        if isinstance(error, errors.HTTPResponseError):
            status = int(error.status)
            return Retry(CLOUDFLARE_RETRY_S, THROTTLED) if status == 429 else http_outcome(status, None, self._clock.now())
        if isinstance(error, errors.HTTPError):
            cause = error.__cause__
            return transport_outcome(cause) if cause is not None else Unknown("answer_lost")
        if isinstance(error, errors.UnrecognisedEntityError):
            return Unknown("answer_lost")
        raise error


def _embed(plain: Mapping[str, Any]) -> Any:
    """Return hikari's embed of a plain one."""
    import hikari

    embed = hikari.Embed(
        title=plain.get("title"),
        description=plain.get("description"),
        url=plain.get("url"),
        color=plain.get("color"),
        timestamp=datetime.fromisoformat(plain["timestamp"]) if plain.get("timestamp") else None,
    )
    if author := plain.get("author"):
        embed.set_author(name=author.get("name"), url=author.get("url"))
    if footer := plain.get("footer"):
        embed.set_footer(footer["text"])
    for field in plain.get("fields", ()):
        embed.add_field(field["name"], field["value"], inline=field.get("inline", False))
    return embed
