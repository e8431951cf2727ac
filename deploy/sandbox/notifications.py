"""SES events of the sandbox as SNS sends them over HTTP: signed with a certificate of its own, retried, off until switched on.

A mail that was accepted gives Send and then Delivery; the addresses of SES's mailbox simulator give what they give there
(bounce@, complaint@, ooto@simulator.amazonses.com, with +labels), a suppressed address a bounce. What waits is in memory only.
"""

import asyncio
import base64
import secrets
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import aiohttp
import orjson
from aiohttp import web

from deploy.sandbox.emails import EmailBody
from deploy.sandbox.faults import BadControl
from deploy.sandbox.recorder import Message

TOPIC: Final = "arn:aws:sns:eu-west-1:000000000000:newswire-ses"
SIMULATOR: Final = "@simulator.amazonses.com"
MOST_WAITING: Final = 200_000
"""Notifications in memory, some 2 kB each; what comes on top is lost and counted."""
SENDERS: Final = 4
TIMEOUT_S: Final = 15.0
"""How long SNS waits for an answer."""
ATTEMPTS: Final = 50
"""How often SNS tries."""
_FIELDS: Final = ("Message", "MessageId", "SubscribeURL", "Subject", "Timestamp", "Token", "TopicArn", "Type")


class Notifications:
    """The topic, its one subscription, and what is on its way."""

    def __init__(self) -> None:
        self.on = False
        self.url = ""
        self.version = "2"
        self.counts = {"sent": 0, "refused": 0, "lost": 0}
        self._name = f"SimpleNotificationService-{secrets.token_hex(16)}.pem"
        self._pem = b""
        self._key: Any = None
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(maxsize=MOST_WAITING)
        self._senders: list[asyncio.Task[None]] = []
        self._base = ""

    def routes(self) -> list[web.RouteDef]:
        """Return the routes: the certificate, the confirmation of a subscription, and the switch."""
        return [
            web.get("/ses/{name:SimpleNotificationService-[0-9a-f]+\\.pem}", self._certificate),
            web.get("/ses/sns", self._confirmed),
            web.get("/control/notifications", self._state),
            web.post("/control/notifications", self._switch_on),
            web.delete("/control/notifications", self._switch_off),
        ]

    def accepted(self, message: Message, suppressed: bool) -> None:
        """Take a mail that was accepted, and put its events on their way."""
        if not self.on or not isinstance(message.body, EmailBody):
            return
        for kind, part in _events(message.destination.lower(), suppressed):
            self._put(orjson.dumps(_event(kind, part, message, message.body)).decode())

    async def close(self) -> None:
        """Stop sending."""
        self.on = False
        for task in self._senders:
            task.cancel()
        await asyncio.gather(*self._senders, return_exceptions=True)
        self._senders.clear()

    async def _certificate(self, request: web.Request) -> web.Response:
        if request.match_info["name"] != self._name or not self._pem:
            raise web.HTTPNotFound
        return web.Response(body=self._pem, content_type="application/x-pem-file")

    async def _confirmed(self, request: web.Request) -> web.Response:
        self.counts["confirmed"] = self.counts.get("confirmed", 0) + 1
        return web.Response(text="<ConfirmSubscriptionResponse/>", content_type="text/xml")

    async def _state(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"on": self.on, "url": self.url, "topic": TOPIC, "waiting": self._waiting.qsize(), **self.counts}
        )

    async def _switch_on(self, request: web.Request) -> web.Response:
        try:
            document = orjson.loads(await request.read())
        except orjson.JSONDecodeError:
            raise BadControl("the body is no JSON") from None
        url = document.get("url") if isinstance(document, dict) else None
        if not isinstance(url, str) or not url.startswith(("http://127.0.0.1:", "http://localhost:")):
            raise BadControl('name the edge: {"url": "http://127.0.0.1:8090/callbacks/ses", "version": "2"}')
        if document.get("version", "2") not in ("1", "2"):
            raise BadControl('version is "1" (SHA1) or "2" (SHA256)')
        await self.close()
        self.on, self.url, self.version = True, url, document.get("version", "2")
        self._base = f"{request.url.origin()}/ses/"
        if self._key is None:
            self._key, self._pem = await asyncio.to_thread(_own_certificate)
        self._put(
            "You have chosen to subscribe to the topic.",
            "SubscriptionConfirmation",
            SubscribeURL=f"{self._base}sns",
            Token=secrets.token_hex(8),
        )
        self._senders = [asyncio.create_task(self._send()) for _ in range(SENDERS)]
        return await self._state(request)

    async def _switch_off(self, request: web.Request) -> web.Response:
        await self.close()
        return await self._state(request)

    def _put(self, text: str, kind: str = "Notification", **more: str) -> None:
        try:
            self._waiting.put_nowait(orjson.dumps(self._signed(text, kind, more)))
        except asyncio.QueueFull:
            self.counts["lost"] += 1

    def _signed(self, text: str, kind: str, more: Mapping[str, str]) -> dict[str, str]:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding

        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        message = {"Type": kind, "MessageId": str(uuid.uuid4()), "TopicArn": TOPIC, "Message": text, "Timestamp": at, **more}
        signed = "".join(f"{name}\n{message[name]}\n" for name in _FIELDS if name in message).encode()
        signature = self._key.sign(signed, padding.PKCS1v15(), hashes.SHA1() if self.version == "1" else hashes.SHA256())  # noqa: S303
        return {
            **message,
            "SignatureVersion": self.version,
            "Signature": base64.b64encode(signature).decode(),
            "SigningCertURL": f"{self._base}{self._name}",
        }

    async def _send(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), trust_env=False) as session:
            while True:
                body = await self._waiting.get()
                for attempt in range(ATTEMPTS):
                    if await self._taken(session, body):
                        break
                    await asyncio.sleep(min(5.0, 0.1 * 2**attempt))
                else:
                    self.counts["lost"] += 1

    async def _taken(self, session: aiohttp.ClientSession, body: bytes) -> bool:
        """Return whether the edge has answered for good; SNS tries 4xx no more, 5xx again."""
        try:
            async with session.post(self.url, data=body, headers={"Content-Type": "text/plain; charset=UTF-8"}) as answer:
                await answer.read()
                if answer.status < 500:
                    self.counts["sent" if answer.status < 300 else "refused"] += 1
                    return True
        except (aiohttp.ClientError, OSError):
            pass
        return False


def _own_certificate() -> tuple[Any, bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.x509.oid import NameOID

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sandbox")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
    return key, builder.not_valid_after(now + timedelta(days=365)).sign(key, hashes.SHA256()).public_bytes(
        serialization.Encoding.PEM
    )


def _events(address: str, suppressed: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield SES's eventType and what belongs to it alone, in the order in which SES publishes them."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    feedback = {"timestamp": at, "feedbackId": f"0102{uuid.uuid4()}"}
    bounced = {"bouncedRecipients": [{"emailAddress": address}], **feedback}
    delivered = ("Delivery", {"timestamp": at, "recipients": [address], "processingTimeMillis": 50, "smtpResponse": "250 ok"})
    case = address.removesuffix(SIMULATOR).partition("+")[0] if address.endswith(SIMULATOR) else ""
    yield "Send", {}
    if suppressed or case == "suppressionlist":
        yield "Bounce", {"bounceType": "Permanent", "bounceSubType": "OnAccountSuppressionList", **bounced}
    elif case == "bounce":
        yield "Bounce", {"bounceType": "Permanent", "bounceSubType": "General", **bounced}
    elif case == "ooto":
        yield delivered
        yield "Bounce", {"bounceType": "Transient", "bounceSubType": "General", **bounced}
    elif case == "complaint":
        yield delivered
        yield "Complaint", {"complainedRecipients": [{"emailAddress": address}], "complaintFeedbackType": "abuse", **feedback}
    else:
        yield delivered


def _event(kind: str, part: Mapping[str, Any], message: Message, body: EmailBody) -> dict[str, Any]:
    tags: dict[str, list[str]] = {}
    for name, value in (*body.envelope.tags, *body.entry_tags):
        tags[name] = [value]
    mail = {
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "messageId": message.receipt,
        "source": body.envelope.from_address,
        "destination": list(body.to),
        "tags": {**tags, "ses:configuration-set": [body.envelope.configuration_set]},
    }
    return {"eventType": kind, "mail": mail, kind.lower(): dict(part)}
