"""Callbacks of Slack and Discord over real sockets with real signatures: reactions and presses, and what is refused."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.errors import SetupError
from edge.callbacks.discord import public_key
from edge.callbacks.routes import Callbacks
from edge.callbacks.sns import Sns
from runtime.clock import SystemClock
from runtime.settings import Settings
from tests.fix_callbacks import (
    DELIVERY,
    SUBSCRIBER,
    Notices,
    Web,
    discord_headers,
    edge_with,
    no_metadata,
    slack_headers,
)
from tests.integration.callbacks_edge import BUTTON, DISCORD, PUBLICATION, Edge, open_edge


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    """An edge with all three providers."""
    async with open_edge() as opened:
        yield opened


# -- Slack --------------------------------------------------------------------------------------------------------------


def reaction(kind: str = "reaction_added", channel: str = "C1", **fields: Any) -> dict[str, Any]:
    """A reaction as the Events API brings it."""
    event = {
        "type": kind, "user": "U1", "reaction": "thumbsup", "item": {"type": "message", "channel": channel, "ts": "1.000200"},
        "event_ts": "1795338000.000100", **fields,
    }  # fmt: skip
    return {"type": "event_callback", "event_id": "Ev1", "event": event}


async def test_takes_reactions_and_presses_of_slack(edge: Edge) -> None:
    """A reaction finds its message's publications; a press carries them; a repetition is the same event."""
    press = {
        "type": "block_actions", "user": {"id": "U1"},
        "actions": [{"action_id": "newswire_like", "value": BUTTON, "action_ts": "1795338000.000300"}],
    }  # fmt: skip
    form = f"payload={quote(json.dumps(press))}".encode()
    assert (await edge.slack(reaction())).status == 200
    assert (await edge.slack(reaction())).status == 200
    assert (await edge.slack(reaction("reaction_removed"))).status == 200
    headers = slack_headers(form) | {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await edge.client.post("/callbacks/slack", data=form, headers=headers)).status == 200
    first, again, removed, pressed = edge.notices.recorded
    assert (first.name, first.value["reaction"], first.value["publication_id"]) == ("ReactionAdded", "thumbsup", PUBLICATION)
    assert first.value["delivery_id"] == DELIVERY
    assert first.id == again.id != removed.id
    assert removed.name == "ReactionRemoved"
    assert (pressed.value["reaction"], pressed.value["subscriber_id"]) == ("like", SUBSCRIBER)


async def test_answers_slacks_challenge_only_when_it_is_signed(edge: Edge) -> None:
    """The check that Slack makes when the address is entered."""
    answer = await edge.slack({"type": "url_verification", "challenge": "abc"})
    assert await answer.json() == {"challenge": "abc"}
    assert (await edge.client.post("/callbacks/slack", json={"type": "url_verification", "challenge": "abc"})).status == 403


async def test_refuses_slack_requests_that_are_forged_or_stale(edge: Edge) -> None:
    """Another secret, another body, five minutes ago, a time that is no number, no time at all."""
    body = json.dumps(reaction()).encode()
    good = slack_headers(body)
    old = slack_headers(body, datetime.now(UTC) - timedelta(seconds=301))
    ahead = slack_headers(body, datetime.now(UTC) + timedelta(seconds=330))
    bad = [
        slack_headers(body, secret="other"), slack_headers(body + b" "), old, ahead, {},
        good | {"X-Slack-Request-Timestamp": "now"}, good | {"X-Slack-Signature": "v0="},
        {"X-Slack-Signature": good["X-Slack-Signature"]},
    ]  # fmt: skip
    for headers in bad:
        assert (await edge.client.post("/callbacks/slack", data=body, headers=headers)).status == 403
    assert edge.notices.recorded == []
    assert (await edge.slack(reaction(), at=datetime.now(UTC) - timedelta(seconds=290))).status == 200


async def test_ignores_reactions_to_other_messages(edge: Edge) -> None:
    """Messages of people and other apps, files, other events."""
    for document in (
        reaction(channel="C2"), reaction(channel="C3"), reaction(item={"type": "file", "file": "F1"}),
        reaction("member_joined_channel"),
        {"type": "block_actions", "user": {"id": "U1"}, "actions": [{"action_id": "x", "value": "y", "action_ts": "1.0"}]},
        {"type": "view_submission"},
    ):  # fmt: skip
        assert (await edge.slack(document)).status == 200
    assert (await edge.slack({"type": "event_callback"})).status == 400
    assert (await edge.slack(reaction(event_ts="soon"))).status == 400
    assert edge.notices.recorded == []


# -- Discord ------------------------------------------------------------------------------------------------------------


async def test_takes_presses_of_discord_and_answers_its_ping(edge: Edge) -> None:
    """The answer to a press leaves the message as it is; a repetition is the same event."""
    assert await (await edge.discord({"type": 1})).json() == {"type": 1}
    press = {"type": 3, "id": "1310000000000000000", "data": {"custom_id": BUTTON, "component_type": 2}}
    for _ in range(2):
        assert await (await edge.discord(press)).json() == {"type": 6}
    first, again = edge.notices.recorded
    assert first.id == again.id
    assert (first.value["channel"], first.value["publication_id"]) == ("discord", PUBLICATION)
    assert first.value["occurred_at"].year == 2024
    assert (await edge.discord({"type": 3, "id": "1310000000000000000", "data": {"custom_id": "other"}})).status == 200
    assert (await edge.discord({"type": 3})).status == 400
    assert len(edge.notices.recorded) == 2


async def test_refuses_discord_requests_that_are_forged_or_stale(edge: Edge) -> None:
    """Discord itself tries a wrong signature when the address is entered, and wants 401."""
    body = b'{"type": 1}'
    good = discord_headers(DISCORD, body)
    old = discord_headers(DISCORD, body, datetime.now(UTC) - timedelta(seconds=301))
    other = discord_headers(Ed25519PrivateKey.generate(), body)
    for headers in (other, old, {}, good | {"X-Signature-Ed25519": "zz"}, good | {"X-Signature-Timestamp": "1"}):
        assert (await edge.client.post("/callbacks/discord", data=body, headers=headers)).status == 401
    assert (await edge.client.post("/callbacks/discord", data=body + b" ", headers=good)).status == 401


async def test_has_no_route_for_a_provider_that_is_not_set_up() -> None:
    """Without keys there is nothing to call."""
    callbacks = Callbacks(Notices(), SystemClock(), bytes(32), Sns(Settings(), Web().fetch, SystemClock()), "", no_metadata)
    async with edge_with(callbacks) as client:
        for provider in ("ses", "slack", "discord"):
            assert (await client.post(f"/callbacks/{provider}", data=b"{}")).status == 404
    with pytest.raises(SetupError, match="NEWSWIRE_DISCORD_PUBLIC_KEY"):
        public_key("no key")
