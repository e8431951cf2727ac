"""From a message with buttons at the sandbox to an engagement: what sinks put into messages is what the edge reads back."""

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.engagement import MOST
from core.errors import Unavailable
from core.outcomes import Sent
from edge.callbacks.compose import metadata_reader
from edge.callbacks.discord import public_key
from runtime.settings import Settings
from sinks.discord import Discord
from sinks.slack import Slack
from tests import fix_sandbox
from tests.fix_callbacks import SLACK_SECRET, Notices, Web, callbacks_of, discord_headers, edge_with, public_hex, slack_headers
from tests.fix_sandbox import SandboxProcess
from tests.sinks_samples import alert, content, issue, prepared

sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox
DISCORD = Ed25519PrivateKey.generate()


def settings_of(sandbox: SandboxProcess, **fields: Any) -> Settings:
    """Settings of a sandbox whose callbacks can be verified."""
    given = {"slack_signing_secret": SLACK_SECRET, "discord_public_key": public_hex(DISCORD), **fields}
    url = sandbox.url
    return Settings(slack_base_url=f"{url}/slack/api/", discord_base_url=f"{url}/discord/api/v10", slack_token="xoxb-1", **given)


@asynccontextmanager
async def opened(provider: Any) -> AsyncIterator[Any]:
    """A provider while it is open."""
    await provider.open()
    try:
        yield provider
    finally:
        await provider.close()


def message(sandbox: SandboxProcess, channel: str) -> dict[str, Any]:
    """The one message of a channel, as the sandbox keeps it."""
    (found,) = sandbox.ask(f"/inbox/messages?channel={channel}")["messages"]
    return dict(found["body"])


async def test_a_reaction_on_slack_counts_for_the_publications_of_its_message(sandbox: SandboxProcess) -> None:
    """The message is found by channel and time through the real client; a message that is not ours counts for nothing."""
    settings, notices = settings_of(sandbox), Notices()
    async with opened(Slack(settings)) as slack, aiohttp.ClientSession() as session:
        one = prepared(slack, "C0123", issue(content(1), content(2)))
        (outcome,) = await slack.call([one])
        assert isinstance(outcome, Sent)
        channel, _, ts = outcome.receipt.partition(":")
        callbacks = callbacks_of(Web(), notices, slack_secret=SLACK_SECRET, metadata_of=metadata_reader(settings, session))
        async with edge_with(callbacks) as edge:
            for where in (ts, "1.000000"):
                event = {"type": "reaction_added", "user": "U1", "reaction": "tada", "event_ts": "1795338000.000100",
                         "item": {"type": "message", "channel": channel, "ts": where}}  # fmt: skip
                body = json.dumps({"type": "event_callback", "event": event}).encode()
                assert (await edge.post("/callbacks/slack", data=body, headers=slack_headers(body))).status == 200
    assert [n.value["publication_id"] for n in notices.recorded] == [str(uuid.UUID(int=n)) for n in (1, 2)]
    assert {n.value["delivery_id"] for n in notices.recorded} == {one.message.delivery.delivery_id}


async def test_slack_is_asked_again_when_it_does_not_answer(sandbox: SandboxProcess) -> None:
    """Then the edge answers 503, and Slack repeats the event."""
    async with aiohttp.ClientSession() as session:
        read = metadata_reader(Settings(slack_base_url="http://127.0.0.1:1/", slack_token="x"), session)
        with pytest.raises(Unavailable):
            await read("C1", "1.0")


@pytest.mark.parametrize("count", [1, 3, MOST + 2])
async def test_buttons_of_slack_come_back_as_what_they_stand_for(sandbox: SandboxProcess, count: int) -> None:
    """The sandbox takes the block, and a press of each button is an engagement with its publication."""
    notices = Notices()
    async with opened(Slack(settings_of(sandbox))) as slack:
        one = prepared(slack, "C0123", issue(*(content(n) for n in range(1, count + 1))))
        assert isinstance((await slack.call([one]))[0], Sent)
    (row,) = [block for block in one.body["blocks"] if block["type"] == "actions"]
    callbacks = callbacks_of(Web(), notices, slack_secret=SLACK_SECRET, metadata_of=None)
    async with edge_with(callbacks) as edge:
        assert (await edge.post("/callbacks/slack", data=b"{}", headers=slack_headers(b"{}"))).status == 404
    async with edge_with(callbacks_of(Web(), notices, slack_secret=SLACK_SECRET, metadata_of=nothing)) as edge:
        for number, button in enumerate(row["elements"], 1):
            press = {"type": "block_actions", "user": {"id": "U1"},
                     "actions": [{**button, "action_ts": f"1795338000.00{number}"}]}  # fmt: skip
            body = json.dumps(press).encode()
            assert (await edge.post("/callbacks/slack", data=body, headers=slack_headers(body))).status == 200
    assert [n.value["publication_id"] for n in notices.recorded] == [
        str(uuid.UUID(int=n)) for n in range(1, min(count, MOST) + 1)
    ]


async def nothing(channel: str, ts: str) -> None:
    """No metadata."""


async def test_buttons_of_discord_come_back_as_what_they_stand_for(sandbox: SandboxProcess) -> None:
    """hikari sends the row, Discord's form takes it, a press is an engagement."""
    notices = Notices()
    async with opened(Discord(settings_of(sandbox))) as provider:
        one = prepared(provider, "123456789012345678", issue(content(1), content(2)))
        assert isinstance((await provider.call([one]))[0], Sent)
    rows = message(sandbox, "discord")["components"]
    values = [button["custom_id"] for button in rows[0]["components"]]
    assert len(values) == 2
    async with edge_with(callbacks_of(Web(), notices, discord_key=public_key(public_hex(DISCORD)))) as edge:
        for value in values:
            body = json.dumps({"type": 3, "id": "1310000000000000000", "data": {"custom_id": value}}).encode()
            answer = await edge.post("/callbacks/discord", data=body, headers=discord_headers(DISCORD, body))
            assert answer.status == 200
    assert [n.value["publication_id"] for n in notices.recorded] == [str(uuid.UUID(int=n)) for n in (1, 2)]


def test_messages_have_no_buttons_that_nobody_answers(sandbox: SandboxProcess) -> None:
    """Without the keys that verify a press, and under an alert about nothing of ours."""
    bare = settings_of(sandbox, slack_signing_secret="", discord_public_key="")
    assert not [b for b in prepared(Slack(bare), "C0123").body["blocks"] if b["type"] == "actions"]
    assert prepared(Discord(bare), "123456789012345678").body[3] == []
    keyed = settings_of(sandbox)
    assert not [b for b in prepared(Slack(keyed), "C0123", alert()).body["blocks"] if b["type"] == "actions"]
