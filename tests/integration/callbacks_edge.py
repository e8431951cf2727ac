"""An edge for the tests of callbacks: its client, what it recorded, and the internet around it."""

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.engagement import Button, write_button
from edge.callbacks.discord import public_key
from runtime import metrics
from tests.fix_callbacks import (
    CERTIFICATE_URL,
    DELIVERY,
    SLACK_SECRET,
    SUBSCRIBER,
    Notices,
    Signer,
    Web,
    callbacks_of,
    discord_headers,
    edge_with,
    public_hex,
    slack_headers,
)

SIGNER = Signer()
DISCORD = Ed25519PrivateKey.generate()
PUBLICATION = str(uuid.UUID(int=3))
BUTTON = write_button(Button("like", SUBSCRIBER, DELIVERY, PUBLICATION))


class Edge:
    """An edge under test: its client, what it recorded, and the internet around it."""

    def __init__(self, client: aiohttp.ClientSession, notices: Notices, internet: Web) -> None:
        self.client, self.notices, self.internet = client, notices, internet

    async def sns(self, message: dict[str, Any]) -> int:
        """Send an SNS message as Amazon does, and return the status."""
        headers = {"Content-Type": "text/plain; charset=UTF-8", "x-amz-sns-message-type": message.get("Type", "")}
        return (await self.client.post("/callbacks/ses", data=json.dumps(message).encode(), headers=headers)).status

    async def slack(self, document: dict[str, Any], **more: Any) -> aiohttp.ClientResponse:
        """Send a signed request of Slack's."""
        body = json.dumps(document).encode()
        return await self.client.post("/callbacks/slack", data=body, headers=slack_headers(body, **more))

    async def discord(self, document: dict[str, Any], **more: Any) -> aiohttp.ClientResponse:
        """Send a signed interaction of Discord's."""
        body = json.dumps(document).encode()
        return await self.client.post("/callbacks/discord", data=body, headers=discord_headers(DISCORD, body, **more))


METADATA = {
    "event_type": "newswire_delivery",
    "event_payload": {"delivery_id": DELIVERY, "subscriber_id": SUBSCRIBER, "publication_ids": PUBLICATION},
}


async def metadata_of(channel: str, ts: str) -> dict[str, Any] | None:
    """One message of ours, in one channel, and one of another app's in another."""
    return {"C1": METADATA, "C3": {**METADATA, "event_type": "other_app"}}.get(channel)


@asynccontextmanager
async def open_edge() -> AsyncIterator[Edge]:
    """An edge with all three providers."""
    internet, notices = Web(**{CERTIFICATE_URL: SIGNER.pem}), Notices()
    callbacks = callbacks_of(
        internet, notices, slack_secret=SLACK_SECRET, metadata_of=metadata_of, discord_key=public_key(public_hex(DISCORD))
    )
    async with edge_with(callbacks) as client:
        yield Edge(client, notices, internet)


def counted(provider: str, result: str) -> float:
    """Return what the metric says."""
    return metrics.CALLBACKS.labels(provider, result)._value.get()
