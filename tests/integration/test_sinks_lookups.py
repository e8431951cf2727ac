"""What a provider is asked besides sending, over real sockets: the lost message, the edit, the quota, the suppression list."""

import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.errors import Unavailable
from core.outcomes import Dead, Outcome, Retry, Sent, Unknown
from core.rendering.model import Issue, Retraction
from runtime.tokens import TokenKeys, make_unsubscribe_token
from sinks.provider import Found, Limits, NotFound, Prepared, Provider, Undecidable
from sinks.registry import PROVIDERS
from tests import fix_sandbox
from tests.fix_sandbox import SandboxProcess
from tests.sinks_samples import Answers, address, alert, content, free_port, http, issue, opened, prepared, provider_settings

sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox
KEYS = TokenKeys.parse("k1:" + "0f" * 32)
ADDRESSES = {"email": "ada@example.org", "slack": "C0123456", "discord": "123456789012345678"}
CHANNELS = ("email", "slack", "discord", "webhook")


def linked(provider: Provider, to: str) -> Prepared:
    """A rendered issue whose link to unsubscribe is the delivery's own, as the composer makes it."""
    one = prepared(provider, to).message
    token = make_unsubscribe_token(
        KEYS, subscriber_id=one.delivery.subscriber_id, delivery_id=one.delivery.delivery_id, kind="newsletter",
        newsletter_id="daily", expires_at=datetime.now(UTC) + timedelta(days=9),
    )  # fmt: skip
    assert isinstance(one.content, Issue)
    one = replace(one, content=replace(one.content, unsubscribe_url=f"https://edge.example/u/{token}"))
    return Prepared(one, provider.render(one))


def retraction(rest: Issue | None = None, **more: Any) -> Retraction:
    """One item was retracted."""
    return Retraction(
        titles=("Result 9",), publication_ids=(str(uuid.UUID(int=9)),), language="en",
        retracted_at=datetime(2026, 11, 22, 10, tzinfo=UTC), unsubscribe_url="https://example.org/u/token", rest=rest, **more,
    )  # fmt: skip


BEFORE = timedelta(minutes=1)


@pytest.mark.parametrize(("channel", "to"), [("slack", "C0123456"), ("slack", "U0123456"), ("discord", "123456789012345678")])
async def test_finds_a_message_whose_answer_was_lost(channel: str, to: str, sandbox: SandboxProcess) -> None:
    """Its receipt is the one of the answer; what never arrived is not found, also among others; an older one is not seen."""
    since = datetime.now(UTC) - BEFORE
    async with opened(channel, sandbox.url) as provider:
        one, never = linked(provider, to), linked(provider, to)
        assert await provider.find(one.message.delivery, to, since) == NotFound()
        sandbox.fault(channel, "drop_after_accept", count=1)
        assert await provider.call([one]) == [Unknown("answer_lost")]
        for _ in range(3):
            assert isinstance((await provider.call([linked(provider, to)]))[0], Sent)
        found = await provider.find(one.message.delivery, to, since)
        assert isinstance(found, Found)
        assert found.receipt.rpartition(":")[2] == sandbox.lines()[0]["receipt"]
        assert await provider.find(never.message.delivery, to, since) == NotFound()
        assert await provider.find(one.message.delivery, to, datetime.now(UTC) + timedelta(hours=1)) == NotFound()
        edit = provider.render_retraction(retraction(), one.message.delivery, to)
        assert await provider.edit(found.receipt, to, edit) == Sent(found.receipt)


async def test_finds_a_message_pages_back_in_slack(sandbox: SandboxProcess) -> None:
    """The history is read page by page."""
    async with opened("slack", sandbox.url) as provider:
        one = linked(provider, "C1")
        receipts = [await provider.call([one])] + [await provider.call([linked(provider, "C1")]) for _ in range(205)]
        found = await provider.find(one.message.delivery, "C1", datetime.now(UTC) - BEFORE)
    assert [Sent(found.receipt)] == receipts[0] if isinstance(found, Found) else pytest.fail(str(found))


async def test_says_how_email_and_webhooks_are_decided(sandbox: SandboxProcess) -> None:
    """SES tells by its SEND event, a webhook is sent again under its id: neither can be asked."""
    for channel, reason in (("email", "send_event"), ("webhook", "send_again")):
        async with opened(channel, sandbox.url) as provider:
            one = prepared(provider, address(channel, sandbox.url))
            sighting = await provider.find(one.message.delivery, one.message.address, datetime.now(UTC))
            assert sighting == Undecidable(reason)


def history(*messages: dict[str, Any], cursor: str = "") -> bytes:
    """An answer of conversations.history."""
    return http(200, json.dumps({"ok": True, "messages": list(messages), "response_metadata": {"next_cursor": cursor}}))


ME = {"id": "9", "username": "newswire", "avatar": None, "discriminator": "0", "flags": 0, "mfa_enabled": False}
TEXT = {
    "id": "123456789012345678",
    "type": 0,
    "guild_id": "1",
    "name": "n",
    "topic": None,
    "permission_overwrites": [],
    "position": 0,
}


def written(text: str, author: dict[str, Any]) -> dict[str, Any]:
    """A message of Discord."""
    return {
        "id": "1", "channel_id": TEXT["id"], "author": author, "content": "", "timestamp": "2026-11-22T09:00:00+00:00",
        "edited_timestamp": None, "tts": False, "mention_everyone": False, "mentions": [], "mention_roles": [],
        "attachments": [], "embeds": [{"type": "rich", "description": text}], "pinned": False, "type": 0, "flags": 0,
    }  # fmt: skip


def snowflake(at: datetime) -> str:
    """An id made at that time."""
    return str((int(at.timestamp() * 1000) - 1_420_070_400_000) << 22)


NOW = datetime.now(UTC)
YESTERDAY = NOW - timedelta(days=1)


def page(*documents: Any) -> bytes:
    """An answer of Discord."""
    return http(200, json.dumps(documents[0] if len(documents) == 1 else list(documents)))


@pytest.mark.parametrize(
    ("channel", "answers", "sighting"),
    [
        ("slack", [history(cursor="x")], Undecidable("history_too_long")),
        ("slack", [http(200, json.dumps({"ok": False, "error": "missing_scope"}))], Undecidable("account", 60.0)),
        ("slack", [http(200, json.dumps({"ok": False, "error": "not_in_channel"}))], Undecidable("unauthorized")),
        ("slack", [http(429, "{}", Retry_After="30")], Undecidable("throttled", 30.0)),
        ("slack", [http(200, "<html>", "text/html")], Undecidable("unreachable", 1.0)),
        ("slack", ["drop"], Undecidable("unreachable", 1.0)),
        ("discord", [page(ME), http(200, "[]"), page(TEXT | {"last_message_id": None})], NotFound()),
        ("discord", [page(ME), http(200, "[]"), page(TEXT | {"last_message_id": snowflake(YESTERDAY)})], NotFound()),
        ("discord", [page(ME), http(200, "[]"), page(TEXT | {"last_message_id": snowflake(NOW)})], Undecidable("history_hidden")),
        ("discord", [page(ME), http(200, json.dumps([written("x", ME)])), http(200, "[]")], Undecidable("unmarked_message")),
        ("discord", [page(ME), http(200, json.dumps([written("x", ME | {"id": "8"})])), http(200, "[]")], NotFound()),
        ("discord", [page(ME), http(403, json.dumps({"code": 50001, "message": "m"}))], Undecidable("unauthorized")),
        ("discord", [http(500, "{}")], Undecidable("provider_error", 1.0)),
        ("discord", ["drop"], Undecidable("unreachable", 1.0)),
    ],
)  # fmt: skip
async def test_never_takes_a_silent_history_for_an_empty_one(
    channel: str, answers: list[bytes | str], sighting: NotFound | Undecidable
) -> None:
    """Only a history that was read to its end says that a message is not there."""
    async with Answers(*answers) as server, opened(channel, server.url) as provider:
        one = linked(provider, ADDRESSES[channel])
        assert await provider.find(one.message.delivery, ADDRESSES[channel], NOW - BEFORE) == sighting


async def test_edits_an_issue_down_to_what_is_left(sandbox: SandboxProcess) -> None:
    """The message keeps its place and its other items, and says what was retracted; it is no second delivery."""
    for channel in ("slack", "discord"):
        async with opened(channel, sandbox.url) as provider:
            one = prepared(provider, ADDRESSES[channel], issue(content(8), content(9)))
            (sent,) = await provider.call([one])
            assert isinstance(sent, Sent)
            body = provider.render_retraction(retraction(issue(content(8))), one.message.delivery, ADDRESSES[channel])
            assert await provider.edit(sent.receipt, ADDRESSES[channel], body) == sent
        text = json.dumps(sandbox.ask(f"/inbox/messages?channel={channel}")["messages"][0]["body"])
        assert "Retracted on Nov 22, 2026: Result 9" in text
        assert "https://example.org/8" in text
        assert "https://example.org/9" not in text
    assert sandbox.counts(outcome="updated") == {"ses": 0, "slack": 1, "discord": 1, "webhook": 0}
    assert (sandbox.counts()["slack"], sandbox.counts()["discord"]) == (1, 1)


async def test_a_webhook_is_told_of_a_retraction_under_an_id_of_its_own(sandbox: SandboxProcess) -> None:
    """The same retraction has the same id and bytes again, so that a receiver can drop it; another has another."""
    to = address("webhook", sandbox.url)
    async with opened("webhook", sandbox.url) as provider:
        one = prepared(provider, to)
        first, again = (provider.render_retraction(retraction(), one.message.delivery, to) for _ in range(2))
        other = provider.render_retraction(retraction(alert_id="a"), one.message.delivery, to)
        assert first is not None
        assert other is not None
        assert first == again
        assert first[0] not in (other[0], one.message.delivery.delivery_id)
        assert await provider.edit("", to, first) == Sent(first[0])
        assert provider.render_retraction(retraction(), one.message.delivery, "no address") is None
    payload = sandbox.ask("/inbox/messages?channel=webhook")["messages"][0]["body"]["payload"]
    assert payload["type"] == "newswire.publication.retracted"
    assert payload["data"]["delivery_id"] == one.message.delivery.delivery_id
    assert payload["data"]["publication_ids"] == [str(uuid.UUID(int=9))]


def slack_error(code: str) -> bytes:
    """An answer of Slack that is not ok."""
    return http(200, json.dumps({"ok": False, "error": code}))


@pytest.mark.parametrize(
    ("channel", "answer", "outcome"),
    [
        ("slack", slack_error("message_not_found"), Dead("rejected")),
        ("slack", slack_error("cant_update_message"), Dead("rejected")),
        ("slack", slack_error("edit_window_closed"), Dead("rejected")),
        ("slack", http(429, "{}", Retry_After="3"), Retry(3.0, "throttled")),
        ("slack", "drop", Retry(1.0, "unreachable")),
        ("discord", http(404, json.dumps({"code": 10008, "message": "Unknown Message"})), Dead("rejected")),
        ("discord", http(500, "{}"), Retry(1.0, "provider_error")),
        ("discord", "drop", Retry(1.0, "unreachable")),
        ("webhook", http(410), Dead("endpoint_disabled")),
        ("webhook", "drop", Retry(1.0, "unreachable")),
    ],
)
async def test_an_edit_is_never_unknown(channel: str, answer: bytes | str, outcome: Outcome) -> None:
    """A lost answer is a retry: the same edit twice is the same message."""
    async with Answers(answer) as server, opened(channel, server.url) as provider:
        to = address(channel, server.url)
        one = prepared(provider, to)
        body = provider.render_retraction(retraction(), one.message.delivery, to)
        assert await provider.edit("123456789012345678:1", to, body) == outcome


async def test_mail_cannot_be_taken_back(sandbox: SandboxProcess) -> None:
    """There is nothing to edit."""
    async with opened("email", sandbox.url) as provider:
        assert provider.render_retraction(retraction(), prepared(provider, "a@example.org").message.delivery, "a") is None


async def test_asks_ses_for_its_quota(sandbox: SandboxProcess) -> None:
    """Recipients a second and a day; the other providers name none; an answer that cannot be read is none."""
    sandbox.ask("/control/limits", {"provider": "ses", "per_second": 37, "on": False})
    for channel in CHANNELS:
        async with opened(channel, sandbox.url) as provider:
            assert await provider.limits() == (Limits(37.0, 10_000_000.0, 0.0) if channel == "email" else None)
    unlimited = {"SendQuota": {"MaxSendRate": 5, "Max24HourSend": -1, "SentLast24Hours": 2}}
    rows: list[tuple[bytes | str, Limits | None]] = [
        (http(200, json.dumps(unlimited)), Limits(5.0, None, 2.0)), (http(200, "{}"), None), (http(200, "<html>"), None),
        (http(403, json.dumps({"__type": "AccessDeniedException"})), None), ("drop", None),
    ]  # fmt: skip
    for answer, limits in rows:
        async with Answers(answer) as server, opened("email", server.url) as provider:
            assert await provider.limits() == limits


async def test_mirrors_a_suppression_to_ses(sandbox: SandboxProcess) -> None:
    """A bounce and a complaint by their own reasons; elsewhere there is no list; a provider that is down says so."""
    for channel in CHANNELS:
        async with opened(channel, sandbox.url) as provider:
            assert await provider.suppress("Ada@example.org", "bounced") is (channel == "email")
    request = sandbox.lines()
    assert request == [], "a suppression is no message"
    async with opened("email", sandbox.url) as provider:
        assert await provider.suppress("no address", "complained") is False
    url = f"http://127.0.0.1:{free_port()}"
    async with opened("email", url) as provider:
        with pytest.raises(Unavailable, match="SES"):
            await provider.suppress("ada@example.org", "bounced")
    for answer in (http(429, "{}"), http(500, "{}"), "drop"):
        async with Answers(answer) as server, opened("email", server.url) as provider:
            with pytest.raises(Unavailable, match="SES"):
                await provider.suppress("ada@example.org", "complained")
            if not isinstance(answer, str):
                assert b'"Reason": "COMPLAINT"' in server.requests[0]


async def test_names_what_shares_a_rate(sandbox: SandboxProcess) -> None:
    """The mail domain, the channel, the endpoint; nothing for what is no address."""
    wanted = {"email": "example.org", "slack": "C0123456", "discord": "123456789012345678", "webhook": f"{sandbox.url}/hooks/ada"}
    for channel in CHANNELS:
        provider = PROVIDERS[channel](provider_settings(sandbox.url))
        assert provider.destination(prepared(provider, address(channel, sandbox.url), alert()).message) == wanted[channel]
        assert provider.destination(prepared(provider, "").message) is None


async def test_what_is_asked_of_discord_fits_its_description(sandbox: SandboxProcess) -> None:
    """The bodies of a create and of an edit, against Discord's own OpenAPI description."""
    from tests.integration.test_sandbox_discord import check

    for of in (issue(content(8), content(9)), alert()):
        async with Answers(http(500, "{}")) as server, opened("discord", server.url) as provider:
            one = prepared(provider, ADDRESSES["discord"], of)
            await provider.call([one])
            body = provider.render_retraction(retraction(issue(content(8))), one.message.delivery, ADDRESSES["discord"])
            await provider.edit("123456789012345678:1", ADDRESSES["discord"], body)
        for name, raw in zip(("MessageCreateRequest", "MessageEditRequestPartial"), server.requests, strict=True):
            check(name, json.loads(raw.split(b"\r\n\r\n", 1)[1]))
        assert json.loads(server.requests[1].split(b"\r\n\r\n", 1)[1])["components"] == [], "buttons go with the old text"
