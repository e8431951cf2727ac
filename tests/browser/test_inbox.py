"""The sandbox's inbox page in a real browser: what is shown, that hostile messages stay text, and that it can be used."""

import json
import os
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests import fix_chromium, fix_sandbox
from tests.fix_chromium import Page
from tests.fix_sandbox import SandboxProcess
from tests.integration.test_sandbox_hooks import signed

pytestmark = pytest.mark.browser
sandbox_process, sandbox, chromium = fix_sandbox.sandbox_process, fix_sandbox.sandbox, fix_chromium.chromium

HOSTILE = "<img src=x onerror=\"document.title='owned';parent.document.title='owned'\"><script>window.owned=1</script>"
SHOTS = os.environ.get("NEWSWIRE_SCREENSHOTS", "")
"""A folder that gets the pictures, for somebody who wants to look."""


async def shoot(page: Page, name: str) -> None:
    """Keep a picture when one is wanted."""
    if SHOTS:
        await page.screenshot(Path(SHOTS) / f"{name}.png")


async def post(address: str, document: Any, headers: dict[str, str] | None = None) -> Any:
    """Send a JSON document as a client would."""
    async with aiohttp.ClientSession() as session, session.post(address, json=document, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def email(sandbox: SandboxProcess, number: int = 1, *, subject: str = "Daily", html: str = "<p>Hello</p>") -> None:
    """Deliver an email."""
    template = {"Subject": "{{subject}}", "Html": "<html><head></head><body>{{html}}</body></html>", "Text": "plain {{subject}}"}
    entry = {
        "Destination": {"ToAddresses": [f"reader{number}@example.org"]},
        "ReplacementEmailContent": {
            "ReplacementTemplate": {"ReplacementTemplateData": json.dumps({"subject": subject, "html": html})}
        },
        "ReplacementTags": [{"Name": "delivery_id", "Value": f"e{number}"}],
        "ReplacementHeaders": [{"Name": "List-Unsubscribe", "Value": "<https://example.org/u>"}],
    }
    call = {
        "FromEmailAddress": "a@newswire.example",
        "DefaultContent": {"Template": {"TemplateContent": template}},
        "BulkEmailEntries": [entry],
    }
    await post(sandbox.url + "/ses/v2/email/outbound-bulk-emails", call, {"Authorization": "AWS4-HMAC-SHA256 x"})


async def slack(sandbox: SandboxProcess, text: str = "*bold* <https://example.org|label>") -> None:
    """Deliver a Slack message with every kind of block."""
    button = {"type": "button", "text": {"type": "plain_text", "text": "Read"}, "url": "https://example.org", "style": "primary"}
    blocks = [
        {"type": "header", "text": {"type": "plain_text", "text": f"Header {HOSTILE}"[:150]}},
        {"type": "section", "text": {"type": "mrkdwn", "text": text}},
        {"type": "section", "fields": [{"type": "mrkdwn", "text": "a"}, {"type": "plain_text", "text": HOSTILE}]},
        {"type": "divider"},
        {"type": "context", "elements": [{"type": "mrkdwn", "text": HOSTILE}]},
        {"type": "image", "image_url": "https://example.org/a.png", "alt_text": "A plot"},
        {"type": "actions", "elements": [button]},
    ]
    document = {"channel": "C1", "text": f"Slack {HOSTILE}", "blocks": blocks}
    assert (await post(sandbox.url + "/slack/api/chat.postMessage", document, {"Authorization": "Bearer x"}))["ok"]


async def discord(sandbox: SandboxProcess) -> None:
    """Deliver a Discord message with every part of an embed."""
    embed = {
        "title": f"Discord {HOSTILE}"[:256],
        "url": "https://example.org/",
        "description": f"**bold** [label](https://example.org/x) [bad](javascript:alert(1)) {HOSTILE}",
        "color": 0xB31B1B,
        "author": {"name": HOSTILE},
        "fields": [{"name": "Topic", "value": HOSTILE, "inline": True}],
        "footer": {"text": HOSTILE},
    }
    await post(sandbox.url + "/discord/api/v10/channels/9/messages", {"embeds": [embed]}, {"Authorization": "Bot x"})


async def webhook(sandbox: SandboxProcess) -> None:
    """Deliver a signed webhook."""
    body = json.dumps({"type": "newswire.issue", "data": {"title": f"Hook {HOSTILE}"}}).encode()
    async with (
        aiohttp.ClientSession() as session,
        session.post(sandbox.url + "/hooks/reader-1", data=body, headers=signed(body)) as answer,
    ):
        assert answer.status == 200


def text(selector: str) -> str:
    """The expression for an element's text."""
    return f"document.querySelector({json.dumps(selector)})?.textContent.trim()"


async def test_says_what_to_do_when_it_is_empty(chromium: Page, sandbox: SandboxProcess) -> None:
    """An empty inbox names the command that fills it."""
    await chromium.open(sandbox.url + "/")
    assert "make demo" in await chromium.run(text(".list .empty"))
    await shoot(chromium, "empty")


async def test_shows_a_message_of_every_channel(chromium: Page, sandbox: SandboxProcess) -> None:
    """Counts, list and the four drawings; clicking a row needs no reload; no error reaches the console."""
    await email(sandbox)
    await slack(sandbox)
    await discord(sandbox)
    await webhook(sandbox)
    await chromium.open(sandbox.url + "/")
    assert (
        await chromium.run("[...document.querySelectorAll('.row .badge')].map(b => b.textContent).join()")
        == "webhook,discord,slack,email"
    )
    assert await chromium.run("[...document.querySelectorAll('.chips b')].map(b => b.textContent).join()") == "4,1,1,1,1"
    await chromium.run("window.stays = true")
    for channel, shown in (
        ("email", ".pane iframe"),
        ("slack", ".as-slack strong"),
        ("discord", ".as-discord .embed a[href='https://example.org/x']"),
        ("webhook", ".banner.good"),
    ):
        await chromium.run(f"[...document.querySelectorAll('.row')].find(r => r.querySelector('.badge.{channel}')).click()")
        await chromium.until(f"document.querySelector('.message')?.dataset.channel === '{channel}'")
        assert await chromium.run(f"Boolean(document.querySelector({json.dumps(shown)}))"), channel
        assert await chromium.run("window.stays")
        await shoot(chromium, channel)
        await chromium.dark(True)
        await shoot(chromium, f"{channel}-dark")
        await chromium.dark(False)
    assert chromium.problems == []


async def test_hostile_messages_stay_text(chromium: Page, sandbox: SandboxProcess) -> None:
    """No script of a message runs, in the page or in the email's frame, and no link leads to javascript."""
    await email(sandbox, subject=HOSTILE, html=f"{HOSTILE}<form action='/control/reset' method='post'><button>x</button></form>")
    await slack(sandbox, text=f"{HOSTILE} <javascript:alert(1)|click>")
    await discord(sandbox)
    await webhook(sandbox)
    for number in range(1, 5):
        for tab in ("", "text", "headers", "raw", "payload"):
            await chromium.open(f"{sandbox.url}/?m={number}&tab={tab}" if tab else f"{sandbox.url}/?m={number}")
            assert await chromium.run("window.owned === undefined && document.title !== 'owned'")
            assert await chromium.run("document.querySelectorAll('main img, main script, a[href^=javascript]').length") == 0
    chromium.problems.clear()
    await chromium.open(f"{sandbox.url}/inbox/frame/1")
    assert await chromium.run("window.owned === undefined && document.title !== 'owned' && self.origin === 'null'")


async def test_tabs_show_text_headers_and_raw(chromium: Page, sandbox: SandboxProcess) -> None:
    """A tab is opened in place and has the focus afterwards."""
    await email(sandbox)
    await chromium.open(f"{sandbox.url}/?m=1")
    for tab, words in (("Text", "plain Daily"), ("Headers", "List-Unsubscribe"), ("Raw", '"delivery_id": "e1"')):
        await chromium.run(f"[...document.querySelectorAll('.tabs a')].find(a => a.textContent === '{tab}').click()")
        await chromium.until(f"{text('.tabs a[aria-current]')} === '{tab}' && document.activeElement.textContent === '{tab}'")
        assert words in await chromium.run(text(".pane"))
        await shoot(chromium, f"email-{tab.lower()}")


async def test_new_messages_appear_without_stealing_focus(chromium: Page, sandbox: SandboxProcess) -> None:
    """The row that has the focus keeps it, the field that is typed in too, and a paused list does not change."""
    await email(sandbox, 1)
    await chromium.open(sandbox.url + "/")
    await chromium.run("document.querySelector('.row').focus(); window.row = document.querySelector('.row')")
    await email(sandbox, 2)
    await chromium.until("document.querySelectorAll('.row').length === 2")
    assert await chromium.run("document.activeElement === window.row && document.querySelector('.row') !== window.row")
    assert await chromium.run(text(".chips b")) == "2"
    await chromium.run("document.getElementById('q').focus(); document.getElementById('q').value = 'typing'")
    await email(sandbox, 3)
    await chromium.until("document.querySelectorAll('.row').length === 3")
    assert await chromium.run("document.activeElement.value") == "typing"
    sandbox.ask("/control/reset", {})
    await chromium.until("Boolean(document.querySelector('.list .empty'))")
    assert await chromium.run("document.activeElement.id") == "q"


async def test_the_list_stays_on_its_page_while_messages_arrive(chromium: Page, sandbox: SandboxProcess) -> None:
    """The open message moves on to page 2; the list that is looked at does not, and a new visit opens page 2."""
    for number in range(50):
        await email(sandbox, number)
    await chromium.open(f"{sandbox.url}/?m=1")
    assert await chromium.run("document.querySelector('.row[aria-current]').getBoundingClientRect().top < innerHeight")
    await email(sandbox, 50)
    await chromium.until("document.querySelector('.rows li').dataset.n === '51'")
    assert "1–50 of 51" in await chromium.run(text(".pages"))
    await chromium.open(f"{sandbox.url}/?m=1")
    assert "51–51 of 51" in await chromium.run(text(".pages"))


async def test_an_email_has_its_own_dark_design(chromium: Page, sandbox: SandboxProcess) -> None:
    """The frame of a mail gets the reader's colour scheme, and the tabs scroll sideways only."""
    style = "<style>:root{color-scheme:light dark}@media(prefers-color-scheme:dark){p{color:red}}</style>"
    await email(sandbox, html=f"{style}<p>Hello</p>")
    await chromium.size(700, 900)
    await chromium.dark(True)
    await chromium.open(f"{sandbox.url}/?m=1")
    assert await chromium.run("getComputedStyle(document.querySelector('.pane iframe')).colorScheme") != "light"
    assert await chromium.run("getComputedStyle(document.querySelector('.tabs')).overflowY") == "hidden"
    await shoot(chromium, "email-narrow-dark")
    await chromium.dark(False)


async def test_searches_and_filters(chromium: Page, sandbox: SandboxProcess) -> None:
    """By recipient, subject and delivery id, by channel, and with pages of 50."""
    for number in range(60):
        await email(sandbox, number, subject=f"Issue {number}")
    await webhook(sandbox)
    await chromium.open(sandbox.url + "/")
    assert await chromium.run("document.querySelectorAll('.row').length") == 50
    await chromium.run("document.querySelector('[rel=next]').click()")
    await chromium.until("document.querySelectorAll('.row').length === 11")
    await shoot(chromium, "page-2")
    await chromium.press("/", 191)
    await chromium.run("document.getElementById('q').value = 'READER42@'")
    await chromium.press("Enter", 13)
    await chromium.until("document.querySelectorAll('.row').length === 1")
    assert await chromium.run(text(".row .subject")) == "Issue 42"
    await chromium.open(sandbox.url + "/?channel=webhook")
    assert await chromium.run("document.querySelectorAll('.row').length") == 1
    await chromium.open(sandbox.url + "/?q=nothing")
    assert "No message matches" in await chromium.run(text(".list .empty"))


async def test_can_be_used_with_the_keyboard(chromium: Page, sandbox: SandboxProcess) -> None:
    """j and k go through the messages, Enter opens the focused row."""
    for number in range(3):
        await email(sandbox, number, subject=f"Issue {number}")
    await chromium.open(sandbox.url + "/")
    for key, subject in (("j", "Issue 2"), ("j", "Issue 1"), ("k", "Issue 2")):
        await chromium.press(key)
        await chromium.until(f"{text('.message h2')} === '{subject}'")
    assert await chromium.run("location.search") == "?m=3"
    await chromium.run("document.querySelectorAll('.row')[2].focus()")
    await chromium.press("Enter", 13)
    await chromium.until(f"{text('.message h2')} === 'Issue 0'")


async def test_fits_a_phone(chromium: Page, sandbox: SandboxProcess) -> None:
    """At 375 pixels nothing is cut off: first the list, then the message with a way back."""
    await email(sandbox, 1, subject="A long subject " * 8)
    await slack(sandbox)
    await discord(sandbox)
    await chromium.size(375, 760)
    await chromium.open(sandbox.url + "/")
    await shoot(chromium, "phone-list")
    for width in (320, 375):
        await chromium.size(width, 760)
        box = json.loads(await chromium.run("JSON.stringify(document.querySelector('.search button').getBoundingClientRect())"))
        assert box["right"] <= width
        assert await chromium.run("document.querySelector('#q').offsetWidth") >= 200
    for number in (1, 2, 3):
        await chromium.open(sandbox.url + "/")
        assert await chromium.run("document.documentElement.scrollWidth") <= 375
        await chromium.run(f"document.querySelector('li[data-n=\"{number}\"] .row').click()")
        await chromium.until(
            "getComputedStyle(document.querySelector('.list')).display === 'none' && Boolean(document.querySelector('.back'))"
        )
        assert await chromium.run("document.documentElement.scrollWidth") <= 375
        assert await chromium.run("document.querySelector('.view').scrollWidth") <= 375
        await shoot(chromium, f"phone-{number}")
        await chromium.run("document.querySelector('.back').click()")
        await chromium.until("getComputedStyle(document.querySelector('.list')).display !== 'none'")
