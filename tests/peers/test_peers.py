"""The sinks against servers and libraries that others wrote, so that our sandbox is no mirror of our own mistakes."""

import asyncio
import base64
import html
import json
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from core.outcomes import Dead, Retry, Sent
from core.rendering.model import Retraction
from runtime.settings import Settings
from sinks.provider import Found, Limits, NotFound, Provider, Undecidable
from sinks.registry import PROVIDERS
from tests.peers import fix_peers
from tests.sinks_samples import Answers, alert, content, free_port, http, issue, prepared

SECRETS = tuple("whsec_" + base64.b64encode(bytes([n]) * 32).decode() for n in range(3))
TITLE = 'A <b>bold</b> claim & "more" {{subject}}'


@asynccontextmanager
async def opened(channel: str, **settings: Any) -> AsyncIterator[Provider]:
    """A provider with its client."""
    provider = PROVIDERS[channel](Settings(webhook_allow_http_loopback=True, **settings))
    await provider.open()
    try:
        yield provider
    finally:
        await provider.close()


def asked(address: str, document: Any = None, **headers: str) -> Any:
    """Return a JSON answer; a document makes it a POST."""
    data = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(address, data=data, headers={"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=90) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def ses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """npm aws-ses-v2-local."""
    port = free_port()
    account = {
        "DedicatedIpAutoWarmupEnabled": False, "EnforcementStatus": "HEALTHY", "ProductionAccessEnabled": True,
        "SendingEnabled": True, "SendQuota": {"Max24HourSend": 500.0, "MaxSendRate": 7.0, "SentLast24Hours": 3.0},
        "SuppressionAttributes": {"SuppressedReasons": []},
        "Details": {
            "AdditionalContactEmailAddresses": [], "ContactLanguage": "EN", "MailType": "MARKETING",
            "ReviewDetails": {"CaseId": "1", "Status": "GRANTED"}, "UseCaseDescription": "x", "WebsiteURL": "https://example.org",
        },
    }  # fmt: skip
    with fix_peers.server(
        "aws-ses-v2-local/dist/cli.js", "--host", "127.0.0.1", "--port", str(port),
        health=f"http://127.0.0.1:{port}/health-check", log=tmp_path_factory.mktemp("ses") / "log",
        AWS_SES_ACCOUNT=json.dumps(account),
    ):  # fmt: skip
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def slack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """npm emulate's Slack, with the scopes that a bot needs."""
    port = free_port()
    folder = tmp_path_factory.mktemp("slack")
    seed = {"slack": {"channels": [{"name": "general"}], "users": [{"name": "ada", "real_name": "Ada"}]}}
    (folder / "seed.json").write_text(json.dumps(seed))
    with fix_peers.server(
        "emulate/dist/index.js", "start", "--service", "slack", "--port", str(port), "--seed", str(folder / "seed.json"),
        health=f"http://127.0.0.1:{port}/", log=folder / "log",
    ):  # fmt: skip
        yield f"http://127.0.0.1:{port}"


async def test_mail_is_rendered_by_another_ses(ses: str) -> None:
    """Bulk entries arrive one by one with their own text, escaped once, and their own headers to unsubscribe."""
    async with opened("email", ses_endpoint_url=ses) as provider:
        group = [prepared(provider, f"a{n}@example.org", issue(content(n, title=TITLE), content(9))) for n in range(3)]
        outcomes = await provider.call(group)
        note = prepared(provider, "b@example.org", alert())
        outcomes += await provider.call([note])
        assert all(isinstance(o, Sent) for o in outcomes), outcomes
        assert await provider.limits() == Limits(7.0, 500.0, 3.0)
    mails = {mail["destination"]["to"][0]: mail for mail in asked(f"{ses}/store")["emails"]}
    assert set(mails) == {"a0@example.org", "a1@example.org", "a2@example.org", "b@example.org"}
    for mail in mails.values():
        text = mail["subject"] + mail["body"]["html"] + mail["body"]["text"]
        assert "<b>bold" not in mail["body"]["html"]
        assert {"name": "List-Unsubscribe-Post", "value": "List-Unsubscribe=One-Click"} in mail["headers"]
        assert {"name": "List-Unsubscribe", "value": "<https://example.org/u/token>"} in mail["headers"]
        assert "https://example.org/u/token" in mail["body"]["html"]
        assert "undefined" not in text
    assert mails["a0@example.org"]["subject"] == TITLE.replace("{{", "{ {").replace("}}", "} }")
    assert TITLE in html.unescape(mails["a0@example.org"]["body"]["html"])
    assert "https://example.org/1" in mails["a1@example.org"]["body"]["html"]
    assert "Beam lost" in mails["b@example.org"]["body"]["html"]


async def test_one_bad_entry_fails_alone_at_another_ses(ses: str) -> None:
    """The answer is read entry by entry."""
    async with opened("email", ses_endpoint_url=ses) as provider:
        group = [prepared(provider, f"c{n}@example.org") for n in range(3)]
        group[1].body["Destination"]["ToAddresses"] = ["no address"]
        first, second, third = await provider.call(group)
    assert isinstance(first, Sent)
    assert second == Retry(5.0, "provider_error")
    assert isinstance(third, Sent)


async def test_a_call_that_another_ses_refuses_as_a_whole_is_taken_apart(ses: str) -> None:
    """Data of another type spoils the call for all: each is tried alone, and the bad one ends there."""
    async with opened("email", ses_endpoint_url=ses) as provider:
        group = [prepared(provider, f"d{n}@example.org") for n in range(2)]
        group[0].body["ReplacementEmailContent"]["ReplacementTemplate"]["ReplacementTemplateData"] = 5
        assert await provider.call(group) == [Retry(0.0, "bad_request")] * 2
        assert await provider.call(group[:1]) == [Dead("rejected")]
        assert isinstance((await provider.call(group[1:]))[0], Sent)


async def test_posts_and_edits_at_another_slack(slack: str) -> None:
    """The message, its metadata and its blocks are there as sent; an edit keeps the metadata; refusals have Slack's words."""
    headers = {"Authorization": "Bearer xoxb-sandbox"}
    channel = asked(f"{slack}/api/conversations.list", {}, **headers)["channels"][0]["id"]
    async with opened("slack", slack_base_url=f"{slack}/api/") as provider:
        one = prepared(provider, channel, issue(content(8), content(9)))
        (sent,) = await provider.call([one])
        assert isinstance(sent, Sent)

        def shown() -> Any:
            return asked(f"{slack}/api/conversations.history", {"channel": channel}, **headers)["messages"][0]

        before = shown()
        assert f"{channel}:{before['ts']}" == sent.receipt
        assert before["metadata"] == one.body["metadata"]
        assert before["blocks"] == one.body["blocks"]
        assert before["client_msg_id"] == one.message.delivery.uuid
        gone = Retraction(
            titles=("Result 9",), publication_ids=("p",), language="en", retracted_at=datetime(2026, 11, 22, tzinfo=UTC),
            unsubscribe_url="https://example.org/u/token", rest=issue(content(8)),
        )  # fmt: skip
        body = provider.render_retraction(gone, one.message.delivery, channel)
        assert await provider.edit(sent.receipt, channel, body) == sent
        assert "Retracted on Nov 22, 2026: Result 9" in json.dumps(shown()["blocks"])
        assert shown()["metadata"] == before["metadata"]
        assert shown()["edited"]
        assert await provider.call([prepared(provider, "C999999999")]) == [Dead("invalid_address")]
        assert await provider.edit(f"{channel}:1.000001", channel, body) == Dead("rejected")


async def signed(secrets: dict[str, str]) -> list[tuple[dict[str, str], str]]:
    """The headers and payloads of two attempts of a newsletter and one of an alert, as they arrived."""
    async with Answers(http(500)) as server, opened("webhook") as provider:
        to = json.dumps({"url": f"{server.url}/x?y=%20z", **secrets})
        news = prepared(provider, to, issue(content(1, title="Ünïcode \u2028 ✓ & <b>")))
        for one in (news, news, prepared(provider, to, alert())):
            await provider.call([one])
        found = []
        for raw in server.requests:
            head, payload = raw.split(b"\r\n\r\n", 1)
            lines = [line.decode().split(": ", 1) for line in head.split(b"\r\n")[1:]]
            found.append(({name.lower(): value for name, value in lines}, payload.decode()))
        return found


async def test_signatures_verify_with_the_reference_libraries() -> None:
    """npm's and PyPI's accept each attempt with the present secret and, while it is replaced, with the one before."""
    node = fix_peers.node()
    rotated = {"secret": SECRETS[0], "previous_secret": SECRETS[1]}
    cases = [
        (secret, *one) for secrets in ({"secret": SECRETS[0]}, rotated) for one in await signed(secrets) for secret in SECRETS
    ]
    document = [{"secret": secret, "headers": headers, "payload": payload} for secret, headers, payload in cases]
    process = await asyncio.to_thread(
        subprocess.run, [node, "verify_webhook.mjs"], cwd=fix_peers.HERE, input=json.dumps(document), capture_output=True,
        text=True, timeout=180, check=True,
    )  # fmt: skip
    by_npm = [verdict == "" for verdict in json.loads(process.stdout)]
    by_pypi = []
    for secret, headers, payload in cases:
        try:
            Verifier(secret).verify(payload, headers)
            by_pypi.append(True)
        except WebhookVerificationError:
            by_pypi.append(False)
    wanted = [True, False, False] * 3 + [True, True, False] * 3
    assert by_npm == wanted
    assert by_pypi == wanted


async def test_a_signature_over_other_bytes_is_refused_by_the_reference_library() -> None:
    """What the library is asked is no formality."""
    headers, payload = (await signed({"secret": SECRETS[0]}))[0]
    with pytest.raises(WebhookVerificationError):
        Verifier(SECRETS[0]).verify(payload + " ", headers)


def test_the_peers_are_pinned(tmp_path: Path) -> None:
    """Their versions and hashes are written down, without an address to fetch them from."""
    lock = json.loads((fix_peers.HERE / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert all(package["integrity"].startswith("sha512-") and "resolved" not in package for package in packages.values())


async def test_finds_nothing_where_another_slack_has_nothing(slack: str) -> None:
    """emulate takes conversations.history by POST only and ignores `oldest`: it refuses, and a refusal is no NotFound."""
    async with opened("slack", slack_base_url=f"{slack}/api/") as provider:
        one = prepared(provider, "C999999999")
        sighting = await provider.find(one.message.delivery, "C999999999", datetime.now(UTC) - timedelta(minutes=1))
    assert not isinstance(sighting, Found | NotFound)
    assert isinstance(sighting, Undecidable)
