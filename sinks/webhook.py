"""Webhooks: Standard Webhooks 1.0.0, one POST a call, to addresses that subscribers chose.

Consumes messages whose address is JSON with url and secret; produces an outcome each. Guarantees: the webhook-id is the
delivery id, the same on every attempt; one request a call, no redirects; no connection to anything that is not public
(checked on the address that is connected to, after resolving, so a name that changes its mind is caught as well).
"""

import asyncio
import base64
import ipaddress
import socket
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import orjson

from core.errors import SetupError
from core.outcomes import Dead, Outcome, Sent, Unknown
from core.rendering.fragments import FragmentCache
from core.rendering.model import Issue
from core.rendering.webhook import alert_payload, newsletter_payload
from runtime.clock import Clock, SystemClock
from runtime.settings import Settings
from sinks.provider import CONNECT_TIMEOUT_S, Message, Prepared, http_outcome, transport_outcome

SECRET_BYTES: Final = range(24, 65)
"""Length of a secret, by the specification."""
MAX_PAYLOAD_BYTES: Final = 20_000
"""The specification's advice for a payload."""
MAX_ANSWER_BYTES: Final = 4_096
"""How much of an answer is read, so that the connection can be used again; a longer one costs the connection."""
MAX_URL: Final = 2_048
USER_AGENT: Final = "Newswire/1"

DENIED: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        # IPv4: this network, private, shared (CGN), loopback, link-local (cloud metadata), protocol assignments,
        # documentation, 6to4 relay, benchmarking, multicast, reserved and broadcast
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
        # IPv6: unspecified, loopback and IPv4-compatible, IPv4-mapped, NAT64 (both), discard, protocol assignments with
        # Teredo, documentation (both), 6to4, SRv6, unique local, link-local, site-local, multicast
        "::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23",
        "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    )
)  # fmt: skip
"""What is never connected to (IANA's special-purpose registries; ipaddress.is_global of 3.11 passes several of them)."""
LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))

_DENIED_TEXT: Final = "address denied by newswire"


class AddressDenied(OSError):
    """The name resolves to an address that must not be connected to."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A subscriber's endpoint."""

    url: str
    host: str
    secure: bool
    secret: str


def parse_endpoint(address: str) -> Endpoint | None:
    """Return the endpoint that an address means, or None when it is none."""
    try:
        document = orjson.loads(address)
        url, secret = str(document["url"]), str(document["secret"])
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (ValueError, KeyError, TypeError):
        return None
    if (
        parts.scheme not in ("http", "https")
        or not host
        or parts.username is not None
        or parts.password is not None
        or len(url) > MAX_URL
    ):
        return None
    if not secret.startswith("whsec_") or len(key) not in SECRET_BYTES:
        return None
    return Endpoint(url, host.lower(), parts.scheme == "https", secret)


def may_connect(address: str, *, loopback: bool) -> bool:
    """Return whether an IP address may be connected to: any public one, or with loopback=True only those of this machine."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if loopback:
        return any(ip in network for network in LOOPBACK)
    return not any(ip in network for network in DENIED)


def _guarded_socket(loopback: bool) -> Any:
    def make(info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, where = info
        if not may_connect(str(where[0]), loopback=loopback):
            raise AddressDenied(_DENIED_TEXT)
        return socket.socket(family=family, type=kind, proto=protocol)

    return make


class Webhook:
    """Any endpoint of any subscriber."""

    channel: ClassVar[str] = "webhook"
    entries: ClassVar[int] = 1
    calls: ClassVar[int] = 32

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        if not settings.live and not settings.webhook_allow_http_loopback:
            raise SetupError(
                "NEWSWIRE_WEBHOOK_ALLOW_HTTP_LOOPBACK and NEWSWIRE_LIVE are both off: set the first for a sandbox on this "
                "machine, or NEWSWIRE_LIVE=1 to send webhooks for real."
            )
        self._settings, self._clock = settings, clock or SystemClock()
        self._fragments = FragmentCache()
        self._public: Any = None
        self._local: Any = None

    async def open(self) -> None:
        """Make two sessions: https to public addresses, and http to this machine for a sandbox."""
        self._public, self._local = self._session(loopback=False), self._session(loopback=True)

    def _session(self, *, loopback: bool) -> Any:
        import aiohttp

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, socket_factory=_guarded_socket(loopback), ttl_dns_cache=10),
            timeout=aiohttp.ClientTimeout(total=self._settings.provider_timeout_s, sock_connect=CONNECT_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"User-Agent": USER_AGENT},
        )

    async def close(self) -> None:
        """Close the sessions."""
        for session in (self._public, self._local):
            if session is not None:
                await session.close()

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
        import aiohttp

        (one,) = prepared
        endpoint, payload = one.body
        if endpoint.secure and not self._settings.live:
            return [Dead("invalid_address")]  # a sandbox speaks to this machine only
        session = self._public if endpoint.secure else self._local
        headers = signed_headers(endpoint.secret, one.message.delivery.delivery_id, payload, self._clock)
        try:
            async with asyncio.timeout(self._settings.provider_timeout_s):
                response = await session.post(endpoint.url, data=payload, headers=headers, allow_redirects=False)
        except aiohttp.InvalidURL:
            return [Dead("invalid_address")]
        except aiohttp.ClientConnectorError as error:
            return [Dead("invalid_address") if _DENIED_TEXT in str(error.os_error) else transport_outcome(error)]
        except (aiohttp.ClientError, OSError) as error:
            return [transport_outcome(error)]
        outcome = self._outcome(response.status, response.headers.get("Retry-After"), one.message.delivery.delivery_id)
        await _finish(response)
        return [outcome]

    def _outcome(self, status: int, retry_after: str | None, delivery_id: str) -> Outcome:
        """Return the outcome of a status: 2xx taken, 410 gone, 3xx and other 4xx refused, 429 and 5xx later."""
        if 200 <= status < 300:
            return Sent(delivery_id)
        if status == 410:
            return Dead("endpoint_disabled")
        if status < 200:
            return Unknown("answer_lost")
        return http_outcome(status, retry_after, self._clock.now())


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


def signed_headers(secret: str, webhook_id: str, payload: bytes, clock: Clock) -> dict[str, str]:
    """Return the headers of one attempt; the time must be UTC, because standardwebhooks ignores the zone."""
    from standardwebhooks import Webhook as Signer

    now = clock.now().astimezone(UTC)
    return {
        "content-type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Signer(secret).sign(msg_id=webhook_id, timestamp=now, data=payload.decode()),
    }
