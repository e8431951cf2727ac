"""The sandbox's Slack, spoken to by slack_sdk."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from tests import fix_sandbox
from tests.fix_sandbox import SandboxProcess

sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox

BLOCKS: list[dict[str, Any]] = [
    {"type": "header", "text": {"type": "plain_text", "text": "Today"}},
    {"type": "section", "text": {"type": "mrkdwn", "text": "*One* <https://example.org|link>"}},
    {"type": "divider"},
    {"type": "context", "elements": [{"type": "mrkdwn", "text": "why"}]},
    {
        "type": "actions",
        "elements": [
            {"type": "button", "text": {"type": "plain_text", "text": "Read"}, "url": "https://example.org", "action_id": "read"}
        ],
    },
]


def metadata(delivery_id: str) -> dict[str, Any]:
    """The metadata that carries a delivery id."""
    return {"event_type": "newswire_delivery", "event_payload": {"delivery_id": delivery_id}}


@pytest.fixture
async def slack(sandbox: SandboxProcess) -> AsyncIterator[AsyncWebClient]:
    """A client that sends exactly one request a call."""
    async with aiohttp.ClientSession() as session:
        yield AsyncWebClient(
            token="xoxb-sandbox", base_url=sandbox.url + "/slack/api/", session=session, retry_handlers=[], timeout=60
        )


async def test_posts_blocks_with_metadata(slack: AsyncWebClient, sandbox: SandboxProcess) -> None:
    """The answer is Slack's message object, and the delivery id comes from the metadata."""
    answer = await slack.chat_postMessage(channel="C000000001", text="Today", blocks=BLOCKS, metadata=metadata("d1"))
    assert answer["ok"]
    assert answer["channel"] == "C000000001"
    assert answer["message"]["ts"] == answer["ts"]
    assert answer["message"]["blocks"][0]["block_id"]
    assert sandbox.counts("delivery_id") == {"d1": 1}
    assert sandbox.lines()[0]["receipt"] == answer["ts"]
    auth = await slack.auth_test()
    assert auth["bot_id"] == answer["message"]["bot_id"]


async def test_finds_a_delivery_in_the_history(slack: AsyncWebClient, sandbox: SandboxProcess) -> None:
    """A message whose answer was lost is found by its metadata, which is there only when it is asked for."""
    sandbox.fault("slack", "drop_after_accept", count=1)
    with pytest.raises(aiohttp.ClientError):
        await slack.chat_postMessage(channel="C1", text="lost", metadata=metadata("lost"))
    for number in range(4):
        await slack.chat_postMessage(channel="C1", text=f"m{number}", metadata=metadata(f"d{number}"))
    await slack.chat_postMessage(channel="C2", text="elsewhere")
    plain = await slack.conversations_history(channel="C1")
    assert [m["text"] for m in plain["messages"]] == ["m3", "m2", "m1", "m0", "lost"]
    assert "metadata" not in plain["messages"][0]
    first = await slack.conversations_history(channel="C1", include_all_metadata=True, limit=3)
    assert first["has_more"]
    rest = await slack.conversations_history(
        channel="C1", include_all_metadata=True, limit=3, cursor=first["response_metadata"]["next_cursor"]
    )
    assert [m["metadata"]["event_payload"]["delivery_id"] for m in rest["messages"]] == ["d0", "lost"]
    newer = await slack.conversations_history(channel="C1", oldest=plain["messages"][1]["ts"])
    assert [m["text"] for m in newer["messages"]] == ["m3"]


async def test_history_survives_a_restart(slack: AsyncWebClient, sandbox: SandboxProcess, tmp_path: Any) -> None:
    """After kill -9 the text is gone, the delivery id in the metadata is not."""
    other = fix_sandbox.SandboxProcess(tmp_path)
    async with aiohttp.ClientSession() as session:
        client = AsyncWebClient(token="x", base_url=other.url + "/slack/api/", session=session, retry_handlers=[])
        ts = (await client.chat_postMessage(channel="C1", text="a", metadata=metadata("d1")))["ts"]
        other.kill()
        other.start()
        client = AsyncWebClient(token="x", base_url=other.url + "/slack/api/", session=session, retry_handlers=[])
        history = await client.conversations_history(channel="C1", include_all_metadata=True)
    assert history["messages"][0]["ts"] == ts
    assert history["messages"][0]["metadata"]["event_payload"]["delivery_id"] == "d1"
    other.stop()


async def test_a_users_messages_are_in_a_conversation_of_their_own(slack: AsyncWebClient) -> None:
    """Posting to a user's id answers with the direct message's id, under which alone the history is."""
    posted = await slack.chat_postMessage(channel="U000000001", text="hello", metadata=metadata("d1"))
    opened = await slack.conversations_open(users="U000000001")
    assert posted["channel"] == opened["channel"]["id"] == "D000000001"
    history = await slack.conversations_history(channel=posted["channel"])
    assert [m["ts"] for m in history["messages"]] == [posted["ts"]]
    assert (await slack.chat_update(channel=posted["channel"], ts=posted["ts"], text="bye"))["ok"]
    with pytest.raises(SlackApiError, match="channel_not_found"):
        await slack.conversations_history(channel="U000000001")
    with pytest.raises(SlackApiError, match="user_not_found"):
        await slack.conversations_open(users="nobody")


async def test_updates_a_message(slack: AsyncWebClient, sandbox: SandboxProcess) -> None:
    """An edit changes the message and is no second delivery."""
    ts = (await slack.chat_postMessage(channel="C1", text="before", metadata=metadata("d1")))["ts"]
    answer = await slack.chat_update(channel="C1", ts=ts, text="after")
    assert answer["text"] == "after"
    history = await slack.conversations_history(channel="C1", include_all_metadata=True)
    assert history["messages"][0]["text"] == "after"
    assert history["messages"][0]["metadata"]["event_payload"]["delivery_id"] == "d1"
    assert sandbox.counts()["slack"] == 1
    assert sandbox.counts(outcome="updated")["slack"] == 1
    with pytest.raises(SlackApiError, match="message_not_found"):
        await slack.chat_update(channel="C1", ts="1.000001", text="x")


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def _button(**more: Any) -> dict[str, Any]:
    return {"type": "actions", "elements": [{"type": "button", "text": {"type": "plain_text", "text": "x"}} | more]}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"channel": "C1"}, "no_text"),
        ({"channel": "not a channel", "text": "x"}, "channel_not_found"),
        ({"channel": "C1", "blocks": [_section("x")] * 51}, "invalid_blocks"),
        ({"channel": "C1", "blocks": [_section("x" * 3001)]}, "invalid_blocks"),
        ({"channel": "C1", "blocks": [_section("")]}, "invalid_blocks"),
        ({"channel": "C1", "blocks": [{"type": "section", "fields": [{"type": "mrkdwn", "text": "x"}] * 11}]}, "invalid_blocks"),
        ({"channel": "C1", "blocks": [{"type": "header", "text": {"type": "plain_text", "text": "x" * 151}}]}, "invalid_blocks"),
        ({"channel": "C1", "blocks": [{"type": "header", "text": {"type": "mrkdwn", "text": "x"}}]}, "invalid_blocks"),
        (
            {"channel": "C1", "blocks": [{"type": "context", "elements": [{"type": "mrkdwn", "text": "x"}] * 11}]},
            "invalid_blocks",
        ),
        ({"channel": "C1", "blocks": [_button(text={"type": "plain_text", "text": "x" * 76})]}, "invalid_blocks"),
        ({"channel": "C1", "blocks": [_button(value="x" * 2001)]}, "invalid_blocks"),
        ({"channel": "C1", "blocks": [{"type": "actions", "elements": _button()["elements"] * 26}]}, "invalid_blocks"),
        ({"channel": "C1", "blocks": [{"type": "image", "image_url": "https://example.org/a.png"}]}, "invalid_blocks"),
        ({"channel": "C1", "blocks": [{"type": "nonsense"}]}, "invalid_blocks"),
        ({"channel": "C1", "blocks": [_section("x" * 2900)] * 5}, "msg_blocks_too_long"),
        ({"channel": "C1", "text": "x", "metadata": {"event_type": "x"}}, "invalid_metadata_format"),
    ],
)
async def test_refuses_what_slack_refuses(
    slack: AsyncWebClient, sandbox: SandboxProcess, arguments: dict[str, Any], error: str
) -> None:
    """Every limit has Slack's own error, and a block's has a pointer to it."""
    with pytest.raises(SlackApiError) as refused:
        await slack.chat_postMessage(**arguments)
    assert refused.value.response["error"] == error
    assert refused.value.response.status_code == 200
    if error == "invalid_blocks":
        assert "json-pointer:/blocks" in refused.value.response["response_metadata"]["messages"][0]
    assert sandbox.counts()["slack"] == 0


async def test_needs_a_token(sandbox: SandboxProcess) -> None:
    """A call without a token is not_authed."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(sandbox.url + "/slack/api/chat.postMessage", json={"channel": "C1"}) as answer,
    ):
        assert await answer.json() == {"ok": False, "error": "not_authed"}


async def test_takes_a_form(sandbox: SandboxProcess) -> None:
    """Slack takes forms too, with blocks as JSON text."""
    form = {"token": "x", "channel": "C1", "text": "a", "blocks": '[{"type": "divider"}]'}
    async with aiohttp.ClientSession() as session, session.post(sandbox.url + "/slack/api/chat.postMessage", data=form) as answer:
        assert (await answer.json())["message"]["blocks"][0]["type"] == "divider"


async def test_throttles_and_fails_in_the_providers_words(slack: AsyncWebClient, sandbox: SandboxProcess) -> None:
    """A throttle is 429 with Retry-After, an error a 5xx, a refusal ok: false."""
    sandbox.fault("slack", "throttle", count=1, retry_after_s=7)
    with pytest.raises(SlackApiError) as throttled:
        await slack.chat_postMessage(channel="C1", text="x")
    assert throttled.value.response.status_code == 429
    assert throttled.value.response.headers["Retry-After"] == "7"
    sandbox.fault("slack", "error", count=1)
    with pytest.raises(SlackApiError) as failed:
        await slack.chat_postMessage(channel="C1", text="x")
    assert failed.value.response.status_code == 503
    sandbox.fault("slack", "refuse", count=1, code="is_archived")
    with pytest.raises(SlackApiError, match="is_archived"):
        await slack.chat_postMessage(channel="C1", text="x")
    sandbox.fault("slack", "drop_before_accept", count=1)
    with pytest.raises(aiohttp.ClientError):
        await slack.chat_postMessage(channel="C1", text="x")
    sandbox.fault("slack", "timeout", count=1, accept=True, delay_s=30)
    with pytest.raises(asyncio.TimeoutError):
        await AsyncWebClient(token="x", base_url=slack.base_url, retry_handlers=[], timeout=3).chat_postMessage(
            channel="C1", text="x"
        )
    assert sandbox.counts()["slack"] == 1
    assert sandbox.counts(outcome="refused")["slack"] == 4


async def test_rate_is_a_channels_own(slack: AsyncWebClient, sandbox: SandboxProcess) -> None:
    """Off at first; once on a channel has its burst and then waits, and other channels are not held."""
    assert {"provider": "slack", "per_second": 1.0, "burst": 5.0, "scope": "destination", "on": False} in sandbox.ask(
        "/control/limits"
    )["limits"]
    for _ in range(10):
        await slack.chat_postMessage(channel="C1", text="x")
    sandbox.ask("/control/limits", {"provider": "slack", "per_second": 0.05, "burst": 5})
    for _ in range(5):
        await slack.chat_postMessage(channel="C1", text="x")
    with pytest.raises(SlackApiError) as throttled:
        await slack.chat_postMessage(channel="C1", text="x")
    assert 1 <= int(throttled.value.response.headers["Retry-After"]) <= 20
    await slack.chat_postMessage(channel="C2", text="x")
