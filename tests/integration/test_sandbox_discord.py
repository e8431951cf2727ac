"""The sandbox's Discord, spoken to by hikari; bodies and replies are checked against Discord's own OpenAPI description."""

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import hikari
import pytest
from hikari.impl import HTTPSettings, RESTClientImpl
from jsonschema import Draft202012Validator

from tests import fix_sandbox
from tests.fix_sandbox import SandboxProcess

sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox

CHANNEL = 900_000_000_000_000_007
DESCRIPTION: dict[str, Any] = json.loads(
    gzip.decompress((Path(__file__).parent.parent / "data/discord_openapi.json.gz").read_bytes())
)

# The description says that every error has a number as its code. Those inside a form's errors are names, such as
# BASE_TYPE_MAX_LENGTH, in Discord's answers and in its reference: the one place where it is not followed.
DESCRIPTION["components"]["schemas"]["InnerErrors"]["properties"]["_errors"]["items"] = {
    "type": "object",
    "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
    "required": ["code", "message"],
}


def check(name: str, document: Any) -> None:
    """Assert that the document fits the schema of that name in Discord's description."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": DESCRIPTION["components"]}
    errors = [f"{error.json_path}: {error.message[:200]}" for error in Draft202012Validator(schema).iter_errors(document)]
    assert not errors, errors


@pytest.fixture
async def discord(sandbox: SandboxProcess) -> AsyncIterator[RESTClientImpl]:
    """A client that sends exactly one request a call."""
    app = hikari.RESTApp(
        url=sandbox.url + "/discord/api/v10",
        max_retries=0,
        max_rate_limit=1,
        http_settings=HTTPSettings(force_close_transports=False),
    )
    await app.start()
    async with app.acquire("token", hikari.TokenType.BOT) as client:
        yield client
    await app.close()


def embed() -> hikari.Embed:
    """An embed with everything."""
    made = hikari.Embed(title="Title", url="https://example.org/a", description="**bold** text", color=0x336699)
    made.add_field("Topic", "hep-ph", inline=True)
    made.set_footer("because you read X")
    made.set_author(name="arXiv Daily")
    made.set_image("https://example.org/a.png")
    return made


async def raw(sandbox: SandboxProcess, method: str, path: str, body: Any = None, token: str = "Bot x") -> tuple[int, Any, Any]:
    """Send a request without a library; returns status, JSON and headers."""
    address = f"{sandbox.url}/discord/api/v10/channels/{path}"
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, address, json=body, headers={"Authorization": token}) as answer,
    ):
        return answer.status, await answer.json(), answer.headers


async def test_creates_a_message(discord: RESTClientImpl, sandbox: SandboxProcess) -> None:
    """hikari reads the reply, and the nonce is what the message is counted under."""
    message = await discord.create_message(CHANNEL, "hello", embed=embed(), nonce="n" * 22, user_mentions=False)
    assert message.content == "hello"
    assert message.channel_id == CHANNEL
    assert message.embeds[0].title == "Title"
    assert message.nonce == "n" * 22
    assert sandbox.counts("delivery_id") == {"n" * 22: 1}
    assert sandbox.lines()[0]["receipt"] == str(message.id)
    sent = sandbox.ask("/inbox/messages")["messages"][0]["body"]
    check("MessageCreateRequest", {k: v for k, v in sent.items() if k not in ("id", "channel_id")})


async def test_replies_fit_discords_description(sandbox: SandboxProcess) -> None:
    """Created, edited and listed messages, refusals and throttles have the form that Discord describes."""
    row = {"type": 1, "components": [{"type": 2, "style": 5, "label": "Read", "url": "https://example.org/"}]}
    body = {
        "content": "x",
        "embeds": [
            {"title": "t", "color": 1, "fields": [{"name": "a", "value": "b"}], "footer": {"text": "f"}, "timestamp": None}
        ],
        "components": [row],
        "nonce": "abc",
        "enforce_nonce": True,
        "allowed_mentions": {"parse": []},
    }
    check("MessageCreateRequest", body)
    status, created, headers = await raw(sandbox, "POST", f"{CHANNEL}/messages", body)
    assert status == 200
    check("MessageResponse", created)
    assert int(headers["X-RateLimit-Remaining"]) > 0
    status, edited, _ = await raw(sandbox, "PATCH", f"{CHANNEL}/messages/{created['id']}", {"content": "y"})
    check("MessageResponse", edited)
    assert edited["content"] == "y"
    assert edited["edited_timestamp"]
    _, listed, _ = await raw(sandbox, "GET", f"{CHANNEL}/messages?limit=2")
    assert [m["id"] for m in listed] == [created["id"]]
    check("MessageResponse", listed[0])
    _, one, _ = await raw(sandbox, "GET", f"{CHANNEL}/messages/{created['id']}")
    check("MessageResponse", one)
    assert (created["nonce"], "nonce" in one, "nonce" in listed[0]) == ("abc", False, False), "Discord keeps no nonce"
    _, channel, _ = await raw(sandbox, "GET", str(CHANNEL))
    check("GuildChannelResponse", channel)
    assert channel["last_message_id"] == created["id"]
    _, me, _ = await raw(sandbox, "GET", "../users/@me")
    check("UserPIIResponse", me)
    assert me["id"] == created["author"]["id"]
    status, missing, _ = await raw(sandbox, "PATCH", f"{CHANNEL}/messages/1", {"content": "y"})
    assert (status, missing["code"]) == (404, 10008)
    check("ErrorResponse", missing)
    status, refused, _ = await raw(sandbox, "POST", f"{CHANNEL}/messages", {"embeds": [{"title": "x" * 257}]})
    assert status == 400
    check("ErrorResponse", refused)
    sandbox.fault("discord", "throttle", count=1, retry_after_s=1.5)
    status, throttled, headers = await raw(sandbox, "POST", f"{CHANNEL}/messages", {"content": "x"})
    assert status == 429
    check("RatelimitedResponse", throttled)
    assert (throttled["retry_after"], headers["Retry-After"]) == (1.5, "2")
    status, unauthorized, _ = await raw(sandbox, "POST", f"{CHANNEL}/messages", {"content": "x"}, token="")
    assert status == 401
    check("ErrorResponse", unauthorized)


async def test_returns_the_first_message_under_a_nonce(discord: RESTClientImpl, sandbox: SandboxProcess) -> None:
    """A short retry after a lost answer is safe: the same message comes back, and nothing is delivered again."""
    sandbox.fault("discord", "drop_after_accept", count=1)
    with pytest.raises(hikari.HTTPError):
        await discord.create_message(CHANNEL, "first", nonce="same")
    message = await discord.create_message(CHANNEL, "second", nonce="same")
    assert message.content == "first"
    assert sandbox.counts("delivery_id") == {"same": 1}
    assert sandbox.counts(outcome="deduplicated")["discord"] == 1
    assert sandbox.ask("/control/duplicates") == {}


async def test_a_nonce_that_is_not_enforced_is_sent_again(sandbox: SandboxProcess) -> None:
    """Without enforce_nonce the nonce means nothing to Discord."""
    for _ in range(2):
        await raw(sandbox, "POST", f"{CHANNEL}/messages", {"content": "x", "nonce": "same"})
    assert sandbox.ask("/control/duplicates") == {"same": 2}


async def test_a_nonce_survives_a_restart(tmp_path: Path) -> None:
    """After kill -9 the first message's id comes back for its nonce."""
    other = SandboxProcess(tmp_path)
    body = {"content": "x", "nonce": "same", "enforce_nonce": True}
    _, first, _ = await raw(other, "POST", f"{CHANNEL}/messages", body)
    other.kill()
    other.start()
    _, second, _ = await raw(other, "POST", f"{CHANNEL}/messages", body)
    assert second["id"] == first["id"]
    check("MessageResponse", second)
    _, third, _ = await raw(other, "POST", f"{CHANNEL}/messages", {"content": "y"})
    assert int(third["id"]) > int(first["id"])
    other.stop()


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"content": "x" * 2001}, "content"),
        ({"content": "x", "nonce": "n" * 26}, "nonce"),
        ({"embeds": [{"title": "x"}] * 11}, "embeds"),
        ({"embeds": [{"title": "x" * 257}]}, "embeds.0.title"),
        ({"embeds": [{"description": "x" * 4097}]}, "embeds.0.description"),
        ({"embeds": [{"title": "x", "fields": [{"name": "a", "value": "b"}] * 26}]}, "embeds.0.fields"),
        ({"embeds": [{"title": "x", "fields": [{"name": "a" * 257, "value": "b"}]}]}, "embeds.0.fields.0.name"),
        ({"embeds": [{"title": "x", "fields": [{"name": "a", "value": "b" * 1025}]}]}, "embeds.0.fields.0.value"),
        ({"embeds": [{"title": "x", "fields": [{"name": "a"}]}]}, "embeds.0.fields.0.value"),
        ({"embeds": [{"title": "x", "footer": {"text": "x" * 2049}}]}, "embeds.0.footer.text"),
        ({"embeds": [{"title": "x", "author": {"name": "x" * 257}}]}, "embeds.0.author.name"),
        ({"embeds": [{"title": "x", "url": "javascript:alert(1)"}]}, "embeds.0.url"),
        ({"embeds": [{"title": "x", "color": 0x1000000}]}, "embeds.0.color"),
        ({"embeds": [{"description": "x" * 3001}, {"description": "x" * 3000}]}, "embeds"),
        ({"embeds": [{}]}, "embeds.0.description"),
        ({"content": "x", "allowed_mentions": {"parse": ["all"]}}, "allowed_mentions.parse.0"),
        ({"content": "x", "components": [3]}, "components"),
    ],
)
async def test_refuses_what_discord_refuses(sandbox: SandboxProcess, body: dict[str, Any], path: str) -> None:
    """Every limit is a 50035 with the error at its field."""
    status, answer, _ = await raw(sandbox, "POST", f"{CHANNEL}/messages", body)
    assert (status, answer["code"]) == (400, 50035)
    check("ErrorResponse", answer)
    errors = answer["errors"]
    for part in path.split("."):
        errors = errors[part]
    assert errors["_errors"][0]["message"]
    assert sandbox.counts()["discord"] == 0


async def test_refuses_an_empty_message_and_a_wrong_channel(sandbox: SandboxProcess) -> None:
    """Both have codes of their own."""
    status, answer, _ = await raw(sandbox, "POST", f"{CHANNEL}/messages", {"content": ""})
    assert (status, answer["code"]) == (400, 50006)
    status, answer, _ = await raw(sandbox, "POST", "general/messages", {"content": "x"})
    assert (status, answer["code"]) == (400, 50035)


@pytest.mark.parametrize("scope", ["shared", "global"])
async def test_a_throttle_reaches_the_caller_of_hikari(discord: RESTClientImpl, sandbox: SandboxProcess, scope: str) -> None:
    """hikari raises with the seconds to wait instead of sleeping, once it knows the route's bucket."""
    await discord.create_message(CHANNEL, "first")
    sandbox.fault("discord", "throttle", count=1, retry_after_s=30, scope=scope)
    with pytest.raises(hikari.RateLimitTooLongError) as throttled:
        await discord.create_message(CHANNEL, "x")
    assert 25 < throttled.value.retry_after <= 30
    assert sandbox.counts()["discord"] == 1


async def test_hikari_resends_a_throttle_of_its_own_route(discord: RESTClientImpl, sandbox: SandboxProcess) -> None:
    """With scope user hikari trusts its own count of the bucket and sends again, whatever max_retries says."""
    await discord.create_message(CHANNEL, "first")
    sandbox.fault("discord", "throttle", count=1, retry_after_s=30, scope="user")
    await discord.create_message(CHANNEL, "second")
    assert sandbox.counts()["discord"] == 2
    assert sandbox.counts(outcome="refused")["discord"] == 1


async def test_errors_and_refusals_are_hikaris(discord: RESTClientImpl, sandbox: SandboxProcess) -> None:
    """A 5xx, a 403 and a dropped connection."""
    sandbox.fault("discord", "error", count=1)
    with pytest.raises(hikari.InternalServerError):
        await discord.create_message(CHANNEL, "x")
    sandbox.fault("discord", "refuse", count=1)
    with pytest.raises(hikari.ForbiddenError):
        await discord.create_message(CHANNEL, "x")
    sandbox.fault("discord", "drop_before_accept", count=1)
    with pytest.raises(hikari.HTTPError):
        await discord.create_message(CHANNEL, "x")
    with pytest.raises(hikari.BadRequestError):
        await discord.create_message(CHANNEL, embed=hikari.Embed(title="x" * 257))
    assert sandbox.counts()["discord"] == 0
    assert sandbox.counts(outcome="refused")["discord"] == 4


async def test_rate_is_over_all_channels(sandbox: SandboxProcess) -> None:
    """Once it is switched on, whatever the channel."""
    sandbox.ask("/control/limits", {"provider": "discord", "per_second": 0.05, "burst": 3})
    statuses = [(await raw(sandbox, "POST", f"{CHANNEL + i}/messages", {"content": "x"}))[0] for i in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
