"""Webhooks: Standard Webhooks 1.0.0, one POST a call, to addresses that subscribers chose.

Consumes messages whose address is JSON with url and secret; produces an outcome each. Guarantees: the webhook-id is the
delivery id, the same on every attempt; one request a call, no redirects; no connection to anything that is not public
(checked on the address that is connected to, after resolving, so a name that changes its mind is caught as well).
"""

import asyncio
import base64
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlsplit

import orjson

from core.errors import SetupError
from core.ids import event_id
from core.outcomes import Dead, Outcome, Refusal, Retry, Sent, Unknown, told
from core.rendering.fragments import FragmentCache
from core.rendering.model import Issue, Retraction
from core.rendering.retraction import webhook_retraction
from core.rendering.webhook import alert_payload, newsletter_payload
from runtime.clock import Clock, SystemClock
from runtime.settings import Settings
from sinks.delivery import Delivery
from sinks.provider import (
    CONNECT_TIMEOUT_S,
    PROVIDER_ERROR,
    SOON_S,
    THROTTLED,
    Limits,
    Message,
    Prepared,
    Sighting,
    Undecidable,
    edited,
    retry_after_s,
    transport_outcome,
)

if TYPE_CHECKING:
    from sinks.addresses import Lookup

SECRET_BYTES: Final = range(24, 65)
"""Length of a secret, by the specification."""
MAX_PAYLOAD_BYTES: Final = 20_000
"""The specification's advice for a payload."""
MAX_ANSWER_BYTES: Final = 4_096
"""How much of an answer is read, so that the connection can be used again; a longer one costs the connection."""
MAX_URL: Final = 2_048
REFUSED_RETRY_S: Final = 5.0
"""Shortest wait after an answer that says that something is wrong at the endpoint: the schedule's first step."""
USER_AGENT: Final = "Newswire/1"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A subscriber's endpoint."""

    url: str
    host: str
    secure: bool
    secrets: tuple[str, ...]
    """The secret, and while it is being replaced the one before as well: every message is then signed with both."""


def parse_endpoint(address: str) -> Endpoint | None:
    """Return the endpoint that an address means, or None when it is none: JSON with url, secret and perhaps previous_secret."""
    try:
        document = orjson.loads(address)
        url, secrets = str(document["url"]), [document["secret"]]
        if document.get("previous_secret") is not None:
            secrets.append(document["previous_secret"])
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if (
        parts.scheme not in ("http", "https")
        or not host
        or parts.username is not None
        or parts.password is not None
        or len(url) > MAX_URL
        or not all(_is_secret(secret) for secret in secrets)
    ):
        return None
    return Endpoint(url, host.lower(), parts.scheme == "https", tuple(secrets))


def _is_secret(secret: Any) -> bool:
    if not isinstance(secret, str) or not secret.startswith("whsec_"):
        return False
    try:
        return len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) in SECRET_BYTES
    except ValueError:
        return False


class Webhook:
    """Any endpoint of any subscriber."""

    channel: ClassVar[str] = "webhook"
    entries: ClassVar[int] = 1
    calls: ClassVar[int] = 512
    """They go to as many strangers; whoever does not answer must not keep the others waiting. A call under way costs a socket."""

    def __init__(self, settings: Settings, clock: Clock | None = None, lookup: "Lookup | None" = None) -> None:
        if not settings.live and not settings.webhook_allow_http_loopback:
            raise SetupError(
                "NEWSWIRE_WEBHOOK_ALLOW_HTTP_LOOPBACK and NEWSWIRE_LIVE are both off: set the first for a sandbox on this "
                "machine, or NEWSWIRE_LIVE=1 to send webhooks for real."
            )
        if settings.live and settings.webhook_allow_http_loopback:
            raise SetupError(
                "NEWSWIRE_LIVE and NEWSWIRE_WEBHOOK_ALLOW_HTTP_LOOPBACK are both on: subscribers could have http addresses of "
                "this machine called. Unset the second to send for real, the first for a sandbox."
            )
        self._settings, self._clock, self._lookup = settings, clock or SystemClock(), lookup
        self._fragments = FragmentCache()
        self._resolver: Any = None
        self._public: Any = None
        self._local: Any = None

    async def open(self) -> None:
        """Make two sessions: https to public addresses, and http to this machine for a sandbox."""
        from sinks.addresses import Resolver

        self._resolver = Resolver(self._lookup) if self._lookup else Resolver()
        self._public, self._local = self._session(loopback=False), self._session(loopback=True)

    def _session(self, *, loopback: bool) -> Any:
        import aiohttp

        from sinks.addresses import guarded_socket
        from sinks.last_look import trace

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, socket_factory=guarded_socket(loopback=loopback), resolver=self._resolver, use_dns_cache=False
            ),
            timeout=aiohttp.ClientTimeout(total=self._settings.provider_timeout_s, sock_connect=CONNECT_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"User-Agent": USER_AGENT},
            trace_configs=[trace()],
        )

    async def close(self) -> None:
        """Close the sessions."""
        for session in (self._public, self._local):
            if session is not None:
                await session.close()
        if self._resolver is not None:
            await self._resolver.close()

    def recipient(self, address: str) -> str:
        """Return the endpoint's host."""
        endpoint = parse_endpoint(address)
        return endpoint.host if endpoint else ""

    def group(self, message: Message) -> Hashable:
        """Return the delivery: every message is a call."""
        return message.delivery.delivery_id

    def render(self, message: Message) -> Any:
        """Return (endpoint, payload); the payload is the same on every attempt, the signature is made for each."""
        endpoint = parse_endpoint(message.address)
        if endpoint is None or (not endpoint.secure and not self._settings.webhook_allow_http_loopback):
            return Dead("invalid_address")
        content, delivery = message.content, message.delivery
        decided_at = delivery.request["decided_at"]
        if isinstance(content, Issue):
            payload = newsletter_payload(
                content,
                delivery_id=delivery.delivery_id,
                source_id=delivery.source_id,
                timestamp=decided_at,
                cache=self._fragments,
            )
        else:
            payload = alert_payload(content, delivery_id=delivery.delivery_id, source_id=delivery.source_id, timestamp=decided_at)
        return Dead("too_large") if len(payload) >= MAX_PAYLOAD_BYTES else (endpoint, payload)

    async def call(self, prepared: Sequence[Prepared]) -> list[Outcome]:
        """Post one payload."""
        (one,) = prepared
        endpoint, payload = one.body
        return [await self._post(endpoint, one.message.delivery.delivery_id, payload)]

    async def _post(self, endpoint: Endpoint, webhook_id: str, payload: bytes) -> Outcome:
        """Post a payload under an id, signed for this attempt."""
        import aiohttp

        if endpoint.secure and not self._settings.live:
            return Dead("invalid_address")  # a sandbox speaks to this machine only
        session = self._public if endpoint.secure else self._local
        headers = signed_headers(endpoint.secrets, webhook_id, payload, self._clock)
        try:
            async with asyncio.timeout(self._settings.provider_timeout_s):
                response = await session.post(endpoint.url, data=payload, headers=headers, allow_redirects=False)
        except aiohttp.InvalidURL:
            return Dead("invalid_address")
        except aiohttp.ClientConnectorError as error:
            from sinks.addresses import DENIED_TEXT

            return Dead("invalid_address") if DENIED_TEXT in str(error.os_error) else transport_outcome(error)
        except (aiohttp.ClientError, OSError) as error:
            return transport_outcome(error)
        outcome = self._outcome(response.status, response.headers.get("Retry-After"), webhook_id)
        await _finish(response)
        return outcome

    def destination(self, message: Message) -> str | None:
        """Return the endpoint's URL."""
        endpoint = parse_endpoint(message.address)
        return endpoint.url if endpoint else None

    async def limits(self) -> Limits | None:
        """Endpoints say none."""
        return None

    async def find(self, delivery: Delivery, address: str, since: datetime) -> Sighting:
        """An endpoint cannot be asked: it is sent to again under the same webhook-id."""
        return Undecidable("send_again")

    def render_retraction(self, retraction: Retraction, delivery: Delivery, address: str) -> Any | None:
        """Return (webhook-id, payload) of an event of its own; what it retracts makes the id, so that it comes once."""
        endpoint = parse_endpoint(address)
        if endpoint is None or (not endpoint.secure and not self._settings.webhook_allow_http_loopback):
            return None
        what = retraction.alert_id or ",".join(sorted(retraction.publication_ids))
        payload = webhook_retraction(retraction, delivery_id=delivery.delivery_id, source_id=delivery.source_id)
        return event_id("retraction", delivery.delivery_id, what), payload

    async def edit(self, receipt: str, address: str, body: Any) -> Outcome:
        """Post the event of a retraction."""
        endpoint = parse_endpoint(address)
        if endpoint is None:
            return Dead("invalid_address")
        webhook_id, payload = body
        return edited(await self._post(endpoint, webhook_id, payload))

    async def suppress(self, address: str, reason: str) -> bool:
        """Endpoints keep no such list."""
        return False

    def _outcome(self, status: int, retry_after: str | None, webhook_id: str) -> Outcome:
        """Return the outcome of a status (Standard Webhooks 1.0.0, "Delivery success and failure").

        2xx is success and 410 disables the endpoint; every other answer, a redirect among them, is a failure that is
        tried again by the schedule, no earlier than Retry-After says. A payload that is too large stays so.
        """
        if 200 <= status < 300:
            return Sent(webhook_id)
        return told(self._refusal(status, retry_after), f"status {status}")  # what a stranger writes beside it is not kept

    def _refusal(self, status: int, retry_after: str | None) -> Refusal:
        if status < 200:
            return Unknown("answer_lost")
        if status in (410, 413):
            return Dead("endpoint_disabled" if status == 410 else "too_large")
        asked_s = retry_after_s(retry_after, self._clock.now()) if retry_after else None
        if status == 429 or (status == 503 and asked_s is not None):
            return Retry(SOON_S if asked_s is None else asked_s, THROTTLED)
        return Retry(max(asked_s or 0.0, SOON_S if status >= 500 or status in (408, 425) else REFUSED_RETRY_S), PROVIDER_ERROR)


async def _finish(response: Any) -> None:
    """Read a short body so that the connection is kept, give up a long or slow one; the status has already decided."""
    import aiohttp

    try:
        async with asyncio.timeout(1.0):
            while len(await response.content.read(MAX_ANSWER_BYTES)) and response.content.total_bytes < MAX_ANSWER_BYTES:
                continue
    except (aiohttp.ClientError, OSError):
        pass
    if response.content.at_eof():
        response.release()
    else:
        response.close()


def signed_headers(secrets: Sequence[str], webhook_id: str, payload: bytes, clock: Clock) -> dict[str, str]:
    """Return the headers of one attempt, with a signature for each secret; UTC, because standardwebhooks ignores the zone."""
    from standardwebhooks import Webhook as Signer

    now, text = clock.now().astimezone(UTC), payload.decode()
    return {
        "content-type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Signer(secret).sign(msg_id=webhook_id, timestamp=now, data=text) for secret in secrets),
    }
