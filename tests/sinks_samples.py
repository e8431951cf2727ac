"""What tests of the sinks send: requests, messages, and a provider that answers whatever a test wants."""

import asyncio
import contextlib
import json
import random
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from core.ids import delivery_id, issue_id
from core.rendering.model import AlertMessage, Issue, IssueItem, ItemContent
from runtime.settings import Settings
from sinks.delivery import Delivery, Position
from sinks.provider import Message, Prepared, Provider, Sender
from sinks.registry import PROVIDERS

SECRET = "whsec_bmV3c3dpcmUtZGVtby1zZWNyZXQtb2YtMzItYnl0ZXM="
"""Of a webhook."""


def request(subscriber_id: str | None = None, **fields: Any) -> dict[str, Any]:
    """A DeliveryRequested of a newsletter by mail, with any field replaced."""
    subscriber_id = subscriber_id or str(uuid.uuid4())
    now = datetime.now(UTC).replace(microsecond=0)
    issue = fields.get("source_kind", "newsletter") == "newsletter"
    value = {
        "subscriber_id": subscriber_id,
        "source_id": "daily@2026-11-22T09:00Z",
        "source_kind": "newsletter",
        "cause_id": issue_id(subscriber_id, "daily", str(uuid.uuid4())),
        "channel": "email",
        "lane": "bulk",
        "priority": "normal",
        "newsletter_id": "daily",
        "newsletter_revision": 1,
        "issue_group": "2026-11-22T09:00",
        "address": b"",
        "language": "en",
        "items": [],
        "alert_partition": None,
        "alert_offset": None,
        "variant": None,
        "subject": "{title}" if issue else "",
        "template": "newsletter" if issue else "",
        "not_after": now + timedelta(hours=12),
        "decision_partition": 0,
        "decision_offset": 0,
        "decided_at": now,
        **fields,
    }
    value["delivery_id"] = delivery_id(
        value["cause_id"], value["source_kind"], subscriber_id, value["channel"], value["not_after"]
    )
    return value


def delivery(subscriber_id: str | None = None, **fields: Any) -> Delivery:
    """A delivery as the intake makes it."""
    return Delivery.of(request(subscriber_id, **fields), b"request", Position(0, 0))


def content(number: int = 1, **fields: Any) -> ItemContent:
    """A publication as it is rendered."""
    values = {
        "publication_id": str(uuid.UUID(int=number)), "revision": 1, "title": f"Result {number}", "summary": "A summary.",
        "url": f"https://example.org/{number}", "authors": ("A. Author",), "language": "en",
        "published_at": datetime(2026, 11, 1, tzinfo=UTC), "topics": ("hep-ph",),
    }  # fmt: skip
    return ItemContent(**{**values, **fields})


def issue(*items: ItemContent) -> Issue:
    """An issue of a newsletter."""
    return Issue(
        newsletter_id="daily", newsletter_name="Daily", subject="{title}", language="en",
        items=tuple(IssueItem(one, "topic:hep-ph") for one in items or (content(),)), issue_group="2026-11-22T09:00",
        from_name="Newswire", postal_address="1 Example Street", unsubscribe_url="https://example.org/u/token",
    )  # fmt: skip


def alert() -> AlertMessage:
    """An alert."""
    return AlertMessage(
        alert_id=str(uuid.UUID(int=7)), title="Beam lost", body="At noon.", url="https://example.org/a", priority="high",
        language="en", unsubscribe_url="https://example.org/u/token", raised_at=datetime(2026, 11, 22, 9, tzinfo=UTC),
    )  # fmt: skip


def prepared(provider: Provider, address: str, of: Issue | AlertMessage | None = None, **fields: Any) -> Prepared:
    """A rendered message to an address."""
    if isinstance(of, AlertMessage):
        fields = {"source_kind": "alert", "newsletter_id": None, **fields}
    one = Message(
        delivery(channel=provider.channel, **fields), address, of or issue(), Sender("Newswire", "news@newswire.example")
    )
    return Prepared(one, provider.render(one))


def provider_settings(url: str, **more: Any) -> Settings:
    """Settings whose providers are all at one address."""
    values: dict[str, Any] = {
        "ses_endpoint_url": f"{url}/ses", "slack_base_url": f"{url}/slack/api/", "discord_base_url": f"{url}/discord/api/v10",
        "webhook_allow_http_loopback": True, "provider_timeout_s": 30.0,
    }  # fmt: skip
    return Settings(**{**values, **more})


@asynccontextmanager
async def opened(channel: str, url: str, **more: Any) -> AsyncIterator[Provider]:
    """A provider with its client, which finds it at one address."""
    provider = PROVIDERS[channel](provider_settings(url, **more))
    await provider.open()
    try:
        yield provider
    finally:
        await provider.close()


def address(channel: str, url: str) -> str:
    """A recipient that the channel's provider takes."""
    return {
        "email": "ada@example.org", "slack": "C0123456", "discord": "123456789012345678",
        "webhook": json.dumps({"url": f"{url}/hooks/ada", "secret": SECRET}),
    }[channel]  # fmt: skip


class Answers:
    """A provider of one's own over a real socket: each connection gets the next of the given answers.

    An answer is bytes to send after the request was read, "drop" to close after the request, "refuse" to close before it.
    """

    def __init__(self, *answers: bytes | str) -> None:
        self.answers, self.requests = list(answers), list[bytes]()

    async def __aenter__(self) -> "Answers":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0
            )
            self.requests.append(head + await reader.readexactly(length))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            elif answer == "silence":
                await asyncio.sleep(30)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def http(status: int, body: str = "{}", content_type: str = "application/json", **headers: str) -> bytes:
    """An HTTP answer."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def free_port() -> int:
    """A port on which nothing listens; none of those that the system gives to who asks for any, so nobody else gets it."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
