"""Amazon SNS messages: their signature, their topic, and the confirmation of a subscription.

State: the public keys of signing certificates, fetched once a day each. Guarantee: `open` returns only what Amazon signed
(SignatureVersion 1 and 2) for a topic of the allow-list, not longer ago than asked; everything else is Refused. Nothing is
fetched from an address that is not Amazon's SNS (or the sandbox's), nor before the topic was looked at.

Source: "Verifying the signatures of Amazon SNS messages" and "Amazon SNS message and JSON formats".
"""

import base64
import binascii
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from core.errors import SetupError, Unavailable
from edge.callbacks.notice import Refused
from runtime.clock import Clock
from runtime.settings import Settings

HOST: Final = re.compile(r"sns\.[a-z]{2}(-[a-z]+)+-\d\.amazonaws\.com(\.cn)?")
"""Hosts of SNS. Not all of amazonaws.com: anybody can put a file in a bucket there."""
CERTIFICATE_PATH: Final = re.compile(r"/SimpleNotificationService-[0-9A-Za-z]{1,64}\.pem")
KEPT_S: Final = 86_400.0
"""How long a certificate's key is kept; Amazon changes it about once a year, and the address with it."""
MAX_KEPT: Final = 50
FETCHES: Final = 10
FETCHES_WITHIN_S: Final = 60.0
"""Most fetches in this time: whoever forges messages must not make us ask Amazon for each. Addresses whose certificate has
verified a message have as many again, to themselves: theirs are not used up by forged ones."""
FUTURE: Final = timedelta(minutes=15)
"""How far ahead Amazon's clock may be."""

_SIGNED: Final = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    "UnsubscribeConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
"""Type and the fields that are signed, in their order; Subject only when there is one."""
_HASHES: Final = {"1": hashes.SHA1, "2": hashes.SHA256}

Fetch = Callable[[str], Awaitable[bytes]]
"""Returns what a GET of an address answers with 200; Refused when there is nothing there, else Unavailable."""


class Sns:
    """Opens SNS messages for the topics of the settings."""

    def __init__(self, settings: Settings, fetch: Fetch, clock: Clock, *, fetches: int = FETCHES) -> None:
        """SetupError when the sandbox's certificates would be taken in production."""
        if settings.live and settings.sns_sandbox_url:
            raise SetupError("NEWSWIRE_SNS_SANDBOX_URL is set and NEWSWIRE_LIVE is on: unset one; a sandbox can sign anything.")
        self.topics = frozenset(arn.strip() for arn in settings.sns_topics.split(",") if arn.strip())
        self._sandbox, self._fetch, self._clock, self._fetches = settings.sns_sandbox_url, fetch, clock, fetches
        self._keys: dict[str, tuple[rsa.RSAPublicKey, float]] = {}
        self._verified: set[str] = set()
        """Addresses whose certificate has verified a message; as few as Amazon has certificates."""
        self._fetched: dict[bool, list[float]] = {True: [], False: []}
        """When something was fetched, from addresses that have verified and from others."""

    async def open(self, body: bytes, max_age: timedelta) -> dict[str, Any]:
        """Return the fields of a message whose signature, topic and age are right; Refused says what is not, Unavailable
        that its certificate cannot be had just now."""
        message = _parse(body)
        if message["TopicArn"] not in self.topics:
            raise Refused(403, "foreign_topic", "the topic is not in NEWSWIRE_SNS_TOPICS")
        signed_at = _instant(message["Timestamp"])
        if not -FUTURE <= self._clock.now() - signed_at <= max_age:
            raise Refused(403, "stale", "the message is too old, or from the future")
        if not self._ours(message["SigningCertURL"], CERTIFICATE_PATH):
            raise Refused(403, "bad_signature", "the certificate is not on an address of SNS")
        key = await self._key(message["SigningCertURL"])
        try:
            signature = base64.b64decode(message["Signature"], validate=True)
            key.verify(signature, string_to_sign(message), padding.PKCS1v15(), _HASHES[message["SignatureVersion"]]())
        except (binascii.Error, InvalidSignature):
            raise Refused(403, "bad_signature", "the signature is not that of the message") from None
        self._verified.add(message["SigningCertURL"])
        return message

    async def confirm(self, message: Mapping[str, Any]) -> None:
        """Confirm the subscription that an opened SubscriptionConfirmation asks for."""
        if not self._ours(message["SubscribeURL"], re.compile("/")):
            raise Refused(403, "bad_signature", "the confirmation is not on an address of SNS")
        await self._fetch(message["SubscribeURL"])

    def _ours(self, url: str, path: re.Pattern[str]) -> bool:
        if self._sandbox and url.startswith(self._sandbox):
            return True
        try:
            parts = urlsplit(url)
            plain = parts.port is None and parts.username is None and not parts.fragment
        except ValueError:
            return False
        return parts.scheme == "https" and plain and bool(HOST.fullmatch(parts.netloc)) and bool(path.fullmatch(parts.path))

    async def _key(self, url: str) -> rsa.RSAPublicKey:
        known = self._keys.get(url)
        now_s = self._clock.monotonic()
        if known is not None and known[1] > now_s:
            return known[0]
        verified = url in self._verified
        fetched = self._fetched[verified] = [at for at in self._fetched[verified] if at > now_s - FETCHES_WITHIN_S]
        if len(fetched) >= self._fetches:
            raise Unavailable("too many certificates of SNS were asked for within a minute")
        fetched.append(now_s)
        try:
            certificate = x509.load_pem_x509_certificate(await self._fetch(url))
        except ValueError:
            raise Refused(403, "bad_signature", "there is no certificate at that address of SNS") from None
        key = certificate.public_key()
        if not certificate.not_valid_before_utc <= self._clock.now() <= certificate.not_valid_after_utc:
            raise Refused(403, "bad_signature", "the certificate is not valid today")
        if not isinstance(key, rsa.RSAPublicKey):
            raise Refused(403, "bad_signature", "the certificate has no RSA key")
        self._keys[url] = key, now_s + KEPT_S
        while len(self._keys) > MAX_KEPT:
            del self._keys[next(iter(self._keys))]
        return key


def string_to_sign(message: Mapping[str, Any]) -> bytes:
    """Return what SNS signs: name and value of each signed field, a line each."""
    names = [name for name in _SIGNED[message["Type"]] if message.get(name) is not None]
    return "".join(f"{name}\n{message[name]}\n" for name in names).encode()


def _parse(body: bytes) -> dict[str, Any]:
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Refused(400, "malformed", "the body is no JSON") from None
    if not isinstance(message, dict) or message.get("Type") not in _SIGNED:
        raise Refused(400, "malformed", "the body is no SNS message; raw delivery must be off")
    if message.get("SignatureVersion") not in _HASHES:
        raise Refused(400, "malformed", "SignatureVersion is neither 1 nor 2")
    wanted = {*_SIGNED[message["Type"]], "Signature", "SigningCertURL"} - {"Subject"}
    if any(not isinstance(message.get(name), str) for name in wanted):
        raise Refused(400, "malformed", "a field of the SNS message is missing")
    return message


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise Refused(400, "malformed", "Timestamp is no time") from None
    if instant.tzinfo is None:
        raise Refused(400, "malformed", "Timestamp has no zone")
    return instant
