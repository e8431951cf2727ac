"""What a channel's provider has to offer to the loop, and what is the same for all of them.

A provider renders a message and makes one call for one or more of them. It never tries again by itself: what a call came
to is a value for each message (core/outcomes.py), decided by the table of that provider. An exception that no table
knows passes through and ends the process.
"""

import errno
import logging
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, Final, Protocol

from core.errors import SetupError
from core.outcomes import Dead, Outcome, Refusal, Retry, Unknown, told
from core.rendering.model import AlertMessage, Issue, Retraction
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
CLOCK_MARGIN: Final = timedelta(minutes=15)
"""How much earlier than `since` a look for a lost message begins: the provider's clock and ours may differ."""
UNREADABLE: Final = (AssertionError, AttributeError, KeyError, TypeError, ValueError)
"""What the client libraries raise for an answer of another form: they look things up in it without a check."""

log = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True)
class Found:
    """The provider has the message; the receipt is the one that the lost answer would have had."""

    receipt: str


@dataclass(frozen=True, slots=True)
class NotFound:
    """The provider showed everything since then, and the message was not there."""


@dataclass(frozen=True, slots=True)
class Undecidable:
    """The provider cannot say. With after_s it may be asked again then; without, asking again does not help."""

    reason: str
    after_s: float | None = None


Sighting = Found | NotFound | Undecidable


@dataclass(frozen=True, slots=True)
class Limits:
    """What the provider says that this account may send."""

    per_second: float
    per_day: float | None
    """In any 24 hours; None without a bound."""
    sent_24h: float


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

    def destination(self, message: Message) -> str | None:
        """Return what shares a rate and a breaker at the provider: the recipient's mail domain, a channel, an endpoint's URL.

        None when the address is none. It can be personal data: to be hashed before it is stored or becomes a label.
        """

    async def limits(self) -> Limits | None:
        """Return what the account may send, or None when the provider does not say (or does not answer just now)."""

    async def find(self, delivery: Delivery, address: str, since: datetime) -> Sighting:
        """Look for a message whose answer was lost; since is when its first call began.

        A call that is still on its way may arrive after a NotFound: ask no earlier than its timeout.
        """

    def render_retraction(self, retraction: Retraction, delivery: Delivery, address: str) -> Any | None:
        """Return the body for `edit`, or None when this channel cannot change what it has sent."""

    async def edit(self, receipt: str, address: str, body: Any) -> Outcome:
        """Put `body` in the place of the message of that receipt. Never Unknown: an edit that may have happened is a Retry."""

    async def suppress(self, address: str, reason: str) -> bool:
        """Tell the provider never to send to this address; reason is bounced or complained.

        Returns False when the provider keeps no such list, or does not take this address; Unavailable when it does not answer.
        """


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


def transport_outcome(error: BaseException) -> Refusal:
    """Return Retry when no connection was made, so that nothing was asked; else Unknown: the request may have been read."""
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return Retry(SOON_S, UNREACHABLE, kind_of(error))
    return Unknown("answer_lost", kind_of(error))


def kind_of(error: BaseException) -> str:
    """Return an error's class, and the system's name for what happened; its text may name an address."""
    code = errno.errorcode.get(getattr(error, "errno", None) or 0)
    return f"{type(error).__name__} {code}" if code else type(error).__name__


def unreadable(error: Exception) -> Refusal:
    """Return Unknown for an error of UNREADABLE, and say so: the answer came, but is nothing that the client can read."""
    log.warning("an answer of the provider could not be read (%s)", type(error).__name__)
    return Unknown("answer_lost", f"an answer that could not be read ({type(error).__name__})")


def http_outcome(status: int, asked_s: float | None = None) -> Refusal:
    """Return the outcome of an HTTP error that is not in the provider's own words, such as a proxy's (RFC 9110, 15.5 and 15.6).

    asked_s is what Retry-After asks for. A gateway that got a bad answer or none (502, 504) may have passed the request
    on. A client error that the provider did not explain is nothing that this message did: it waits until that is mended.
    """
    return told(_http_outcome(status, asked_s), f"status {status}")


def _http_outcome(status: int, asked_s: float | None) -> Refusal:
    if status == 429 or (status == 503 and asked_s is not None):
        return Retry(SOON_S if asked_s is None else asked_s, THROTTLED)
    if status in (502, 504):
        return Unknown("answer_lost")
    if status >= 500 or status in (408, 425):
        return Retry(SOON_S, PROVIDER_ERROR)
    return Dead("too_large") if status == 413 else Retry(ACCOUNT_RETRY_S, ACCOUNT)


def retry_after_s(value: str | None, now: datetime) -> float:
    """Return the seconds that a Retry-After header asks for (RFC 9110, 10.2.3: a number or a date), SOON_S if unreadable."""
    text = (value or "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return min(float(text), LONGEST_RETRY_AFTER_S)
    try:
        return min(max((parsedate_to_datetime(text) - now).total_seconds(), 0.0), LONGEST_RETRY_AFTER_S)
    except (ValueError, TypeError):
        return SOON_S


def edited(outcome: Outcome) -> Outcome:
    """Return the outcome of an edit: one that may have happened is made again, because it changes nothing twice."""
    return Retry(SOON_S, UNREACHABLE) if isinstance(outcome, Unknown) else outcome


def undecided(outcome: Outcome) -> Undecidable:
    """Return what a look that was refused means: to be asked again when the refusal is a passing one."""
    if isinstance(outcome, Retry):
        return Undecidable(outcome.reason, outcome.after_s)
    if isinstance(outcome, Unknown):
        return Undecidable(UNREACHABLE, SOON_S)
    assert isinstance(outcome, Dead), outcome
    return Undecidable(outcome.reason)
