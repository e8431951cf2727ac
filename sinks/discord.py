"""Discord: one message with embeds a call, through hikari's REST client; no gateway.

Consumes messages to a channel id; produces an outcome each. Guarantee: one accepted request a call (max_retries=0); a 429
that names at most MAX_RATE_LIMIT_S is waited for inside hikari, which is safe because it was refused, a longer one is a
Retry. The nonce with enforce_nonce makes Discord return the first message of a delivery for a few minutes.
"""

import asyncio
from collections.abc import Awaitable, Hashable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import Any, ClassVar, Final

import orjson

from core.ids import discord_nonce
from core.outcomes import Dead, Outcome, Refusal, Retry, Sent, Unknown, told
from core.rendering.discord import alert_embeds, newsletter_embeds
from core.rendering.fragments import REASONED, FragmentCache
from core.rendering.model import Issue, Retraction
from core.rendering.retraction import discord_retraction
from runtime.clock import Clock, SystemClock
from runtime.settings import Settings
from runtime.tokens import names_delivery
from sinks.answers import BLOCKED_RETRY_S, DISCORD, meaning
from sinks.buttons import buttons_of
from sinks.delivery import Delivery
from sinks.provider import (
    CLOCK_MARGIN,
    CONNECT_TIMEOUT_S,
    THROTTLED,
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
    kind_of,
    require_endpoint,
    transport_outcome,
    undecided,
    unreadable,
)

MAX_RATE_LIMIT_S: Final = 1
"""Longest wait for a rate limit inside the client; below what consent may lag."""
FIELDS_NAMED: Final = 3
"""Fields of a refused message that are named; the first tells most."""
HISTORY_MESSAGES: Final = 1_000
"""Most messages read for one delivery, 100 a request."""
_SNOWFLAKE_MAX: Final = 1 << 63
_NOBODY: Final = {"mentions_everyone": False, "user_mentions": False, "role_mentions": False}


def _row(buttons: Sequence[tuple[str, str]]) -> list[Any]:
    """Return the one row that holds these buttons, or none."""
    if not buttons:
        return []
    from hikari import ButtonStyle
    from hikari.impl import MessageActionRowBuilder

    row = MessageActionRowBuilder()
    for label, value in buttons:
        row.add_interactive_button(ButtonStyle.SECONDARY, value, label=label)
    return [row]


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
        self._me: Any = None

    async def open(self) -> None:
        """Make the client; connections are kept (closing them costs twice the CPU)."""
        from hikari import RESTApp, TokenType
        from hikari.impl.config import HTTPSettings, HTTPTimeoutSettings

        from sinks.last_look import trace

        timeouts = HTTPTimeoutSettings(request_socket_connect=CONNECT_TIMEOUT_S, total=None)  # `_ask` ends what takes too long
        self._app = RESTApp(
            url=self._settings.discord_base_url or None,
            max_retries=0,
            max_rate_limit=MAX_RATE_LIMIT_S,
            http_settings=HTTPSettings(force_close_transports=False, max_redirects=None, timeouts=timeouts),
        )
        await self._app.start()
        self._rest = self._app.acquire(self._settings.discord_token or "sandbox", TokenType.BOT)
        self._rest.start()
        self._rest._client_session.trace_configs.append(trace())  # hikari makes its session by itself and has no setting for it

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
        """Return (channel id, embeds, nonce, rows of buttons)."""
        text = message.address.strip()
        if not text.isascii() or not text.isdigit() or not 0 < int(text) < _SNOWFLAKE_MAX:
            return Dead("invalid_address")
        content = message.content
        if isinstance(content, Issue):
            *shared, last = newsletter_embeds(content, self._fragments)
            embeds = [*[_shared_embed(e) if "title" in e else _embed(e) for e in shared], _embed(last)]
        else:
            embeds = [_embed(e) for e in alert_embeds(content)]
        buttons = buttons_of(message) if self._settings.discord_public_key else []
        return int(text), embeds, discord_nonce(message.delivery.delivery_id), _row(buttons)

    async def call(self, prepared: Sequence[Prepared]) -> list[Outcome]:
        """Create one message."""
        (one,) = prepared
        channel, embeds, nonce, rows = one.body
        more = {"components": rows} if rows else {}
        message = await self._ask(self._rest.create_message(channel, embeds=embeds, nonce=nonce, **more, **_NOBODY))
        return [message if isinstance(message, Retry | Dead | Unknown) else Sent(f"{channel}:{int(message.id)}")]

    async def _ask(self, request: Awaitable[Any]) -> Any:
        """Return what a request of the client gives, or the outcome that it was refused with."""
        import aiohttp
        from hikari.errors import HikariError

        try:
            async with asyncio.timeout(self._settings.provider_timeout_s):
                return await request
        except HikariError as error:
            return self._refusal(error)
        except (aiohttp.ClientError, OSError) as error:
            return transport_outcome(error)
        except UNREADABLE as error:
            return unreadable(error)

    def destination(self, message: Message) -> str | None:
        """Return the channel: Discord's buckets are of a route, and the route names the channel."""
        return message.address.strip() or None

    async def limits(self) -> Limits | None:
        """Discord says them in the headers of each answer, and hikari keeps to them."""
        return None

    async def find(self, delivery: Delivery, address: str, since: datetime) -> Sighting:
        """Read what this bot wrote in the channel from `since` on; a message is known by the link to unsubscribe in it.

        Discord does not keep the nonce of a message. Without the permission to read the history it shows an empty one, so
        an empty one counts only when the channel's newest message is older as well.
        """
        channel, start = int(address.strip()), since - CLOCK_MARGIN
        me = await self._ask(self._rest.fetch_my_user()) if self._me is None else self._me
        if isinstance(me, Retry | Dead | Unknown):
            return undecided(me)
        self._me = me
        messages = await self._ask(self._collected(channel, start))
        if isinstance(messages, Retry | Dead | Unknown):
            return undecided(messages)
        nonce, marked = discord_nonce(delivery.delivery_id), True
        for message in (m for m in messages if m.author.id == me.id):
            text = "\n".join(embed.description or "" for embed in message.embeds)
            if message.nonce == nonce or names_delivery(text, delivery.delivery_id):
                return Found(f"{channel}:{int(message.id)}")
            marked = marked and (message.nonce is not None or names_delivery(text, None))
        if len(messages) == HISTORY_MESSAGES:
            return Undecidable("history_too_long")
        if not marked:
            return Undecidable("unmarked_message")
        return NotFound() if messages else await self._empty(channel, start)

    async def _collected(self, channel: int, start: datetime) -> list[Any]:
        return [message async for message in self._rest.fetch_messages(channel, after=start).limit(HISTORY_MESSAGES)]

    async def _empty(self, channel: int, start: datetime) -> Sighting:
        """Return what an empty history means."""
        found = await self._ask(self._rest.fetch_channel(channel))
        if isinstance(found, Retry | Dead | Unknown):
            return undecided(found)
        newest = getattr(found, "last_message_id", None)
        return NotFound() if newest is None or newest.created_at < start else Undecidable("history_hidden")

    def render_retraction(self, retraction: Retraction, delivery: Delivery, address: str) -> Any | None:
        """Return the embeds of the edited message."""
        return [_embed(e) for e in discord_retraction(retraction)]

    async def edit(self, receipt: str, address: str, body: Any) -> Outcome:
        """Edit the message; its buttons go, because they were numbered for the items that it had."""
        channel, _, message = receipt.partition(":")
        answer = await self._ask(self._rest.edit_message(int(channel), int(message), embeds=body, components=None, **_NOBODY))
        return edited(answer) if isinstance(answer, Retry | Dead | Unknown) else Sent(receipt)

    async def suppress(self, address: str, reason: str) -> bool:
        """Discord keeps no such list."""
        return False

    def _refusal(self, error: Exception) -> Refusal:
        """Return the outcome of hikari's error: by Discord's code, else by the status."""
        from hikari import errors

        if isinstance(error, errors.RateLimitTooLongError):
            return Retry(max(float(error.retry_after), 0.0), THROTTLED, "status 429")
        if isinstance(error, errors.HTTPResponseError):
            return self._told(int(error.status), error.raw_body)
        if isinstance(error, errors.HTTPError):
            cause = error.__cause__
            return transport_outcome(cause) if cause is not None else Unknown("answer_lost", kind_of(error))
        if isinstance(error, errors.UnrecognisedEntityError):
            return Unknown("answer_lost", kind_of(error))
        raise error

    def _told(self, status: int, raw: Any) -> Refusal:
        if status == 429:
            # without retry_after it is not Discord's: the address is banned for a while
            return Retry(BLOCKED_RETRY_S, THROTTLED, "status 429")
        try:
            body = orjson.loads(raw)
        except (orjson.JSONDecodeError, TypeError):
            body = None
        if not isinstance(body, dict) and status < 500:
            return http_outcome(status)
        code = str(body.get("code") or "") if isinstance(body, dict) else ""
        known = meaning(DISCORD, code)
        if known is None and code and status in (403, 404):
            known = Dead("unauthorized" if status == 403 else "invalid_address")
        return told(known or meaning(DISCORD, str(status)) or http_outcome(status), _words(status, body))


def _words(status: int, body: Any) -> str:
    """Return code and message of an answer, and the fields that Discord names, each with its message; else the status."""
    if not isinstance(body, dict) or not body.get("code"):
        return f"status {status}"
    return "; ".join([f"{body['code']}: {body.get('message') or ''}", *islice(_fields(body.get("errors"), ""), FIELDS_NAMED)])


def _fields(errors: Any, path: str) -> Iterator[str]:
    for name, inner in errors.items() if isinstance(errors, dict) else ():
        if name != "_errors":
            yield from _fields(inner, f"{path}.{name}" if path else name)
        elif isinstance(inner, list):
            yield from (f"{path} {one.get('message')}" for one in inner if isinstance(one, dict))


def _shared_embed(plain: Mapping[str, Any]) -> Any:
    """Return hikari's embed of a heading or a first item, the same object for all who get it."""
    footer = plain.get("footer")
    return _made(plain["title"], plain.get("description"), plain.get("url"), plain["color"], footer["text"] if footer else None)


@lru_cache(maxsize=REASONED)
def _made(title: str, description: str | None, url: str | None, color: int, footer: str | None) -> Any:
    plain = {"title": title, "description": description, "url": url, "color": color}
    return _embed({**plain, "footer": {"text": footer}} if footer is not None else plain)


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
