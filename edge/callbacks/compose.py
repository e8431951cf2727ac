"""The callbacks as the settings want them, with the clients that they ask: certificates of SNS, messages of Slack."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import aiohttp

from core.errors import Unavailable
from edge.callbacks import discord, slack
from edge.callbacks.notice import Refused
from edge.callbacks.recording import Recorder
from edge.callbacks.routes import Callbacks
from edge.callbacks.sns import Fetch, Sns
from runtime.clock import Clock
from runtime.keys import KeyStore
from runtime.producer import Producer
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.registry import RegistrySource
from schemas.topics import Topics

FETCH_TIMEOUT_S: Final = 5.0
"""Longest wait for a certificate or a confirmation; SNS itself waits 15 s for our answer."""
MAX_FETCHED_BYTES: Final = 64_000
ASK_TIMEOUT_S: Final = 2.0
"""Longest wait for a message of Slack's; Slack gives us 3 s in all."""


def wanted(settings: Settings) -> bool:
    """Return whether any provider may call back."""
    return bool(settings.sns_topics or settings.slack_signing_secret or settings.discord_public_key)


@contextlib.asynccontextmanager
async def open_callbacks(settings: Settings, producer: Producer, clock: Clock) -> AsyncIterator[Callbacks]:
    """Give the callbacks while their clients are open; SetupError when a setting is missing or cannot be read."""
    settings.require("receipt_key", "keys_database_url")
    topics, keys = Topics(settings.topic_prefix, settings.shards), KeyStore(settings, clock=clock)
    codec = Codec(topics, RegistrySource(settings.schema_registry_url), keys)
    async with aiohttp.ClientSession(trust_env=False, cookie_jar=aiohttp.DummyCookieJar()) as session:
        try:
            yield Callbacks(
                record=Recorder(producer, codec, topics, keys).record,
                clock=clock,
                receipt_key=bytes.fromhex(settings.receipt_key),
                sns=Sns(settings, fetcher(session), clock),
                slack_secret=settings.slack_signing_secret,
                metadata_of=metadata_reader(settings, session) if settings.slack_signing_secret else None,
                discord_key=discord.public_key(settings.discord_public_key) if settings.discord_public_key else None,
            )
        finally:
            await asyncio.to_thread(keys.close)


def fetcher(session: aiohttp.ClientSession) -> Fetch:
    """Return a fetch of one small document: no redirects, bounded in size and time."""

    async def fetch(url: str) -> bytes:
        try:
            async with (
                asyncio.timeout(FETCH_TIMEOUT_S),
                session.get(url, allow_redirects=False, max_line_size=8_190, max_field_size=8_190) as answer,
            ):
                if 400 <= answer.status < 500 and answer.status != 429:
                    raise Refused(403, "bad_signature", f"SNS answers {answer.status} at the address that the message names")
                if answer.status != 200:
                    raise Unavailable(f"SNS answered {answer.status} where its certificate or confirmation should be")
                body = bytearray()
                async for part in answer.content.iter_any():
                    body += part
                    if len(body) > MAX_FETCHED_BYTES:
                        raise Unavailable("SNS answered with more than a certificate or a confirmation")
                return bytes(body)
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"SNS does not answer: {type(error).__name__}") from error

    return fetch


def metadata_reader(settings: Settings, session: aiohttp.ClientSession) -> slack.MetadataOf:
    """Return what asks Slack for the metadata of a message of ours."""
    from slack_sdk.errors import SlackApiError
    from slack_sdk.web.async_client import AsyncWebClient

    client = AsyncWebClient(
        token=settings.slack_token,
        base_url=settings.slack_base_url or AsyncWebClient.BASE_URL,
        session=session,
        retry_handlers=[],
    )

    async def metadata_of(channel: str, ts: str) -> Mapping[str, Any] | None:
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                answer = await client.conversations_history(
                    channel=channel, oldest=ts, latest=ts, inclusive=True, limit=1, include_all_metadata=True
                )
        except SlackApiError as error:
            code = error.response.get("error") if hasattr(error.response, "get") else None
            if code in ("channel_not_found", "not_in_channel", "missing_scope"):
                return None  # a channel that we cannot see has no message of ours
            raise Unavailable("Slack does not show the message") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable("Slack does not answer") from error
        messages = answer.get("messages") or []
        found = next((m for m in messages if m.get("ts") == ts), None)
        return found.get("metadata") if found else None

    return metadata_of
