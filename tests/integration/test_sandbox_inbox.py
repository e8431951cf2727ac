"""The inbox knows every message by its delivery id and its source, whatever the provider calls it."""

import json
import urllib.parse
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import Any

from core.ids import discord_nonce
from core.rendering.discord import alert_embeds, newsletter_embeds
from core.rendering.model import Retraction
from core.rendering.retraction import webhook_retraction
from core.rendering.slack import newsletter_blocks
from runtime.tokens import TokenKeys, make_unsubscribe_token
from tests import fix_sandbox
from tests.fix_sandbox import SandboxProcess
from tests.integration.test_sandbox_hooks import signed
from tests.rendering_samples import PUBLISHED, alert, issue

sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox

KEYS = TokenKeys.parse(f"k:{'ab' * 32}")


def delivery(number: int) -> str:
    return f"20261123-00000000-0000-4000-8000-{number:012d}"


def link(number: int, newsletter_id: str | None = "daily") -> str:
    """Return the unsubscribe link of a delivery, as the sinks write it."""
    token = make_unsubscribe_token(
        KEYS,
        subscriber_id="0b5f8a3e-6f3e-4b64-9a39-0c8a3a6b0001",
        delivery_id=delivery(number),
        kind="newsletter" if newsletter_id else "alert",
        newsletter_id=newsletter_id,
        expires_at=datetime.now(UTC) + timedelta(days=90),
    )
    return f"https://edge.example/u/{token}"


def post(sandbox: SandboxProcess, path: str, body: bytes, headers: dict[str, str]) -> None:
    request = urllib.request.Request(sandbox.url + path, data=body, headers={"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=90) as answer:
        assert answer.status == 200


def discord(sandbox: SandboxProcess, number: int, embeds: list[dict[str, Any]]) -> None:
    document = {"embeds": embeds, "nonce": discord_nonce(delivery(number)), "enforce_nonce": True}
    post(sandbox, "/discord/api/v10/channels/9/messages", json.dumps(document).encode(), {"Authorization": "Bot x"})


def fill(sandbox: SandboxProcess) -> None:
    """Deliver a newsletter and an alert on Discord, a newsletter on Slack, and a retraction to a webhook."""
    discord(sandbox, 1, newsletter_embeds(issue(unsubscribe_url=link(1))))
    discord(sandbox, 2, alert_embeds(alert(unsubscribe_url=link(2, None))))
    text, blocks = newsletter_blocks(issue(unsubscribe_url=link(3)))
    document = {"channel": "C1", "text": text, "blocks": blocks}
    post(sandbox, "/slack/api/chat.postMessage", json.dumps(document).encode(), {"Authorization": "Bearer x"})
    gone = Retraction(("Gone",), ("p",), "en", PUBLISHED, unsubscribe_url=link(4))
    body = webhook_retraction(gone, delivery_id=delivery(4), source_id="weekly@2026-11-22T09:00Z")
    post(sandbox, "/hooks/reader", body, signed(body))


def found(sandbox: SandboxProcess, **query: str) -> list[str]:
    """Return the delivery ids of the messages that the inbox finds, newest first."""
    messages = sandbox.ask("/inbox/messages?" + urllib.parse.urlencode(query))["messages"]
    return [message["origin"]["delivery_id"] for message in messages]


def test_finds_every_message_by_its_delivery_id(sandbox: SandboxProcess) -> None:
    """A Discord message has a nonce and a retraction an id of its own; both are found, shown and still counted by that."""
    fill(sandbox)
    for number in (1, 2, 3, 4):
        assert found(sandbox, q=delivery(number)) == [delivery(number)]
    nonce = discord_nonce(delivery(2))
    assert found(sandbox, q=nonce) == [delivery(2)]
    page = sandbox.text(f"/?q={delivery(2)}&m=2")
    assert f"<code>{delivery(2)}</code>" in page
    assert f"<dt>Nonce</dt><dd><code>{nonce}</code>" in page
    assert sandbox.counts(by="delivery_id")[nonce] == 1


def test_filters_by_source(sandbox: SandboxProcess) -> None:
    """By newsletter, or alerts; the page offers what is there, and the counts are of what is listed."""
    fill(sandbox)
    assert found(sandbox, source="daily") == [delivery(3), delivery(1)]
    assert found(sandbox, source="alerts") == [delivery(2)]
    assert found(sandbox, source="weekly") == [delivery(4)]
    page = sandbox.text("/?source=daily&channel=discord")
    for part in ("All <b>2</b>", "Slack <b>1</b>", "Discord <b>1</b>", "Webhook <b>0</b>", "<option>alerts</option>"):
        assert part in page
    assert "<option selected>daily</option>" in page


def test_a_link_opens_the_page_that_holds_its_message(sandbox: SandboxProcess) -> None:
    """However many messages came since, and whatever page the link was copied from."""
    for number in range(1, 61):
        discord(sandbox, number, alert_embeds(alert(title=f"Alert {number}", unsubscribe_url=link(number, None))))
    page = sandbox.text("/?m=5&page=1")
    assert "51–60 of 60" in page
    assert 'aria-current="true">\n      <span class="badge discord">' in page
    assert "1–50 of 60" in sandbox.text("/?m=60")
    assert "1–50 of 60" in sandbox.text("/?m=999")
    assert "51–60 of 60" in sandbox.text("/inbox/list?page=2")


def test_escapes_of_a_discord_title_are_not_shown(sandbox: SandboxProcess) -> None:
    """Discord takes the backslashes away in a title as in a text; so do the list and the drawing."""
    discord(sandbox, 1, alert_embeds(alert(title="SAEs (v1.2) <b> *x* a_b", unsubscribe_url=link(1, None))))
    page = sandbox.text("/?m=1")
    assert page.count("SAEs (v1.2) &lt;b&gt; *x* a_b") >= 2
    assert "\\(" not in page
