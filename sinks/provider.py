"""What a channel's provider has to offer to the loop, and what is the same for all of them.

A provider renders a message and makes one call for one or more of them. It never tries again by itself: what a call came
to is a value for each message (core/outcomes.py), decided by the table of that provider. An exception that no table
knows passes through and ends the process.
"""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, Final, Protocol

from core.errors import SetupError
from core.outcomes import Dead, Outcome, Retry, Unknown
from core.rendering.model import AlertMessage, Issue
from runtime.settings import Settings
from sinks.delivery import Delivery

UNREACHABLE: Final = "unreachable"
THROTTLED: Final = "throttled"
PROVIDER_ERROR: Final = "provider_error"
ACCOUNT: Final = "account"
"""Reasons of a Retry. `account` is what an operator can mend (credentials, a suspended account): it is no fault of the
message, so the delivery waits until it is not worth sending any more."""

SOON_S: Final = 1.0
"""Wait after a passing error that names no time."""
ACCOUNT_RETRY_S: Final = 60.0
"""Wait after a refusal that somebody has to mend."""
CONNECT_TIMEOUT_S: Final = 5.0
"""Longest time to connect; a provider that is farther away than that is down."""
LONGEST_RETRY_AFTER_S: Final = 86_400.0
"""Retry-After beyond a day is cut: nothing is worth sending that much later."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends: for email only, ignored elsewhere."""

    name: str
    address: str
    reply_to: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One message to one subscriber, before it is rendered for its channel."""

    delivery: Delivery
    address: str
    content: Issue | AlertMessage
    sender: Sender


@dataclass(frozen=True, slots=True)
class Prepared:
    """A message and what its provider made of it."""

    message: Message
    body: Any


class Provider(Protocol):
    """One channel's provider."""

    channel: ClassVar[str]
    entries: ClassVar[int]
    """Most messages in one call."""
    calls: ClassVar[int]
    """Most calls under way at a time."""

    def __init__(self, settings: Settings) -> None:
        """SetupError when the settings do not allow to speak to this provider."""

    async def open(self) -> None:
        """Make the client; no request is sent."""

    async def close(self) -> None:
        """Close the client's connections."""

    def recipient(self, address: str) -> str:
        """Return what the allow-list names: the part of an address that says who gets it."""

    def group(self, message: Message) -> Hashable:
        """Return what messages must have in common to go in one call."""

    def render(self, message: Message) -> Any:
        """Return the body for `call`, or Dead when this address or content can never be sent."""

    async def call(self, prepared: Sequence[Prepared]) -> list[Outcome]:
        """Make one call and return an outcome for each message, in order."""


def require_endpoint(settings: Settings, endpoint: str, variable: str, channel: str) -> None:
    """Raise SetupError unless there is a sandbox endpoint or speaking to the real provider is allowed."""
    if not endpoint and not settings.live:
        raise SetupError(
            f"{variable} is not set and NEWSWIRE_LIVE is off: set the sandbox's address, "
            f"or NEWSWIRE_LIVE=1 to send {channel} for real."
        )


def allowed(settings: Settings, recipient: str) -> bool:
    """Return whether this recipient may be sent to: everybody in a sandbox, with `live` those of the allow-list."""
    if not settings.live:
        return True
    names = {name.strip().lower() for name in settings.allow_list.split(",") if name.strip()}
    return "*" in names or recipient.strip().lower() in names


def transport_outcome(error: BaseException) -> Outcome:
    """Return Retry when no connection was made, so that nothing was asked; else Unknown: the request may have been read."""
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return Retry(SOON_S, UNREACHABLE)
    return Unknown("answer_lost")


def http_outcome(status: int, retry_after: str | None, now: datetime) -> Outcome:
    """Return the outcome of an HTTP status that is no success, for providers without codes of their own."""
    if status == 429 or (status == 503 and retry_after):
        return Retry(retry_after_s(retry_after, now), THROTTLED)
    if status >= 500 or status in (408, 425):
        return Retry(SOON_S, PROVIDER_ERROR)
    if status == 413:
        return Dead("too_large")
    return Dead("rejected")


def retry_after_s(value: str | None, now: datetime) -> float:
    """Return the seconds that a Retry-After header asks for (RFC 9110, 10.2.3: a number or a date), SOON_S if unreadable."""
    text = (value or "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text):
        return min(float(text), LONGEST_RETRY_AFTER_S)
    try:
        return min(max((parsedate_to_datetime(text) - now).total_seconds(), 0.0), LONGEST_RETRY_AFTER_S)
    except (ValueError, TypeError):
        return SOON_S
