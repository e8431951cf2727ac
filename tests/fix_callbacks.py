"""What tests of the callbacks share: a certificate, signed SNS messages with SES events, signed Slack and Discord requests."""

import base64
import hashlib
import hmac
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from core.errors import Unavailable
from edge.app import Edge, make_app
from edge.callbacks.notice import Notice
from edge.callbacks.routes import Callbacks
from edge.callbacks.sns import Sns
from runtime.clock import SystemClock
from runtime.settings import Settings
from runtime.tokens import TokenKeys

TOPIC = "arn:aws:sns:eu-west-1:123456789012:newswire-ses"
CERTIFICATE_URL = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem"
SLACK_SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
SUBSCRIBER = "0b5f8a3e-6f3e-4b64-9a39-0c8a3a6b0001"
DELIVERY = "20261123-5d45fc3c-c398-5666-a1f0-59106951b3eb"


class Signer:
    """Amazon's side: a key, its certificate, and what it signs."""

    def __init__(self, *, valid: timedelta = timedelta(days=30)) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(self.key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=60)).not_valid_after(now + valid)
            .sign(self.key, hashes.SHA256())
        )  # fmt: skip
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)

    def message(self, text: str = "{}", kind: str = "Notification", version: str = "2", **fields: Any) -> dict[str, Any]:
        """A signed SNS message; any field may be replaced before it is signed."""
        message = {
            "Type": kind, "MessageId": str(uuid.uuid4()), "TopicArn": TOPIC, "Message": text,
            "Timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "SignatureVersion": version, "SigningCertURL": CERTIFICATE_URL, **fields,
        }  # fmt: skip
        if kind == "Notification":
            names = ["Message", "MessageId", *(["Subject"] if "Subject" in message else []), "Timestamp", "TopicArn", "Type"]
        else:
            message = {"SubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription", "Token": "t", **message}
            names = ["Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
        signed = "".join(f"{name}\n{message[name]}\n" for name in names).encode()
        algorithm = hashes.SHA1() if version == "1" else hashes.SHA256()
        message["Signature"] = base64.b64encode(self.key.sign(signed, padding.PKCS1v15(), algorithm)).decode()
        return message


class Web:
    """The internet as the edge sees it: certificates by their address, and what was asked for."""

    def __init__(self, **pages: bytes) -> None:
        self.pages: dict[str, bytes] = dict(pages)
        self.asked: list[str] = []

    async def fetch(self, url: str) -> bytes:
        self.asked.append(url)
        page = self.pages.get(url)
        if page is None:
            raise Unavailable(f"nothing at {url}")
        return page


def ses_event(kind: str = "Send", delivery_id: str = DELIVERY, subscriber_id: str = SUBSCRIBER, **part: Any) -> str:
    """An SES event as the documentation shows it, for a message of ours."""
    name = {"Send": "send", "Delivery": "delivery", "DeliveryDelay": "deliveryDelay", "Bounce": "bounce",
            "Complaint": "complaint", "Reject": "reject", "Rendering Failure": "failure"}.get(kind, kind.lower())  # fmt: skip
    event = {
        "eventType": kind,
        "mail": {
            "timestamp": "2026-11-22T09:00:00.000Z", "messageId": "0102-receipt", "source": "news@newswire.example",
            "destination": ["ada@example.org"],
            "tags": {"delivery_id": [delivery_id], "subscriber_id": [subscriber_id], "ses:configuration-set": ["newswire"]},
        },
        name: part,
    }  # fmt: skip
    return json.dumps(event)


def bounce(kind: str = "Permanent", sub: str = "General", address: str = "ada@example.org") -> dict[str, Any]:
    """What belongs to a bounce."""
    return {
        "bounceType": kind, "bounceSubType": sub, "bouncedRecipients": [{"emailAddress": address}],
        "timestamp": "2026-11-22T09:00:02.000Z", "feedbackId": f"feedback-{kind}-{sub}",
    }  # fmt: skip


def slack_headers(body: bytes, at: datetime | None = None, secret: str = SLACK_SECRET) -> dict[str, str]:
    """The headers with which Slack signs a body."""
    timestamp = str(int((at or datetime.now(UTC)).timestamp()))
    signature = hmac.new(secret.encode(), b"v0:" + timestamp.encode() + b":" + body, hashlib.sha256).hexdigest()
    return {
        "X-Slack-Request-Timestamp": timestamp, "X-Slack-Signature": f"v0={signature}", "Content-Type": "application/json",
    }  # fmt: skip


def discord_headers(key: Ed25519PrivateKey, body: bytes, at: datetime | None = None) -> dict[str, str]:
    """The headers with which Discord signs a body."""
    timestamp = str(int((at or datetime.now(UTC)).timestamp()))
    return {"X-Signature-Timestamp": timestamp, "X-Signature-Ed25519": key.sign(timestamp.encode() + body).hex()}


def public_hex(key: Ed25519PrivateKey) -> str:
    """The public key as Discord shows it."""
    return key.public_key().public_bytes_raw().hex()


class Notices:
    """What was recorded; may fail on demand."""

    def __init__(self) -> None:
        self.recorded: list[Notice] = []
        self.fails = False

    async def __call__(self, notices: list[Notice]) -> None:
        if self.fails:
            raise Unavailable("Kafka does not answer")
        self.recorded += notices


async def no_metadata(channel: str, ts: str) -> None:
    """A channel without messages of ours."""


@asynccontextmanager
async def edge_with(callbacks: Callbacks) -> AsyncIterator[aiohttp.ClientSession]:
    """Serve an edge with these callbacks on a free port and give a client for it."""

    async def record(asked: object) -> None:
        raise AssertionError("no unsubscribe is asked for here")

    keys = TokenKeys.load(Settings(token_keys="k1:" + "ab" * 32))
    app = make_app(Edge(keys, record, lambda newsletter_id: newsletter_id, SystemClock(), callbacks=callbacks))
    runner = web.AppRunner(app, access_log=None, lingering_time=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        async with aiohttp.ClientSession(f"http://{host}:{port}") as client:
            yield client
    finally:
        await runner.cleanup()


def callbacks_of(internet: Web, notices: Notices, **fields: Any) -> Callbacks:
    """Callbacks that record into a list, with the topic of the tests."""
    sns = Sns(Settings(sns_topics=TOPIC), internet.fetch, SystemClock())
    return replace(Callbacks(notices, SystemClock(), bytes(32), sns), **fields)
