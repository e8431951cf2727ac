"""The unsubscribe page in a real browser: pressed, on a phone, in light and dark."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web

from core.errors import Unavailable
from edge.app import Edge, make_app
from edge.unsubscribe import Unsubscribe
from runtime.clock import SystemClock
from runtime.tokens import TokenKeys, make_unsubscribe_token
from tests import fix_chromium
from tests.fix_chromium import Page, contrast

pytestmark = pytest.mark.browser
chromium = fix_chromium.chromium

KEYS = TokenKeys.parse(f"k1:{'ab' * 32}")
SHOTS = os.environ.get("NEWSWIRE_SCREENSHOTS", "")
"""A folder that gets the pictures, for somebody who wants to look."""


@asynccontextmanager
async def edge(asked: list[Unsubscribe], *, works: bool = True) -> AsyncIterator[str]:
    """Serve the page; give its address. What is asked for is collected, or refused as if Kafka were away."""

    async def record(one: Unsubscribe) -> None:
        if not works:
            raise Unavailable("Kafka does not answer")
        asked.append(one)

    runner = web.AppRunner(make_app(Edge(KEYS, record, lambda _: "Daily Brief", SystemClock())), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    token = make_unsubscribe_token(
        KEYS,
        subscriber_id="0b5f8a3e-6f3e-4b64-9a39-0c8a3a6b0001",
        delivery_id=None,
        kind="newsletter",
        newsletter_id="daily",
        expires_at=SystemClock().now() + timedelta(days=1),
    )
    try:
        yield f"http://{host}:{port}/u/{token}"
    finally:
        await runner.cleanup()


async def click(page: Page, selector: str) -> None:
    """Press the mouse in the middle of an element, as a person does."""
    box = await page.run(
        f"(() => {{ const b = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
        " return {x: b.x + b.width / 2, y: b.y + b.height / 2} })()"
    )
    for kind in ("mousePressed", "mouseReleased"):
        await page.command("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **box)


def heading(text: str) -> str:
    return f"document.querySelector('h1')?.innerText === {json.dumps(text)}"


async def shoot(page: Page, name: str) -> None:
    if SHOTS:
        await page.screenshot(Path(SHOTS) / f"{name}.png")


async def test_a_person_unsubscribes_with_one_press(chromium: Page) -> None:
    """The page asks, the button acts, the answer says so; then everything else can be ended as well."""
    asked: list[Unsubscribe] = []
    async with edge(asked) as url:
        await chromium.open(url)
        await chromium.until(heading("Unsubscribe from Daily Brief?"))
        assert asked == []
        await click(chromium, "button")
        await chromium.until(heading("You are unsubscribed"))
        assert [(one.kind, one.via) for one in asked] == [("newsletter", "page")]
        await click(chromium, "button")
        await chromium.until("document.body.innerText.includes('any newsletters or alerts any more')")
        await shoot(chromium, "unsubscribed")
        assert await chromium.run("document.cookie") == ""
    assert [one.kind for one in asked] == ["newsletter", "all"]
    assert chromium.problems == []


async def test_a_whole_box_chooses(chromium: Page) -> None:
    """The box of a choice can be pressed anywhere, not only on its small circle."""
    asked: list[Unsubscribe] = []
    async with edge(asked) as url:
        await chromium.open(url)
        await click(chromium, "label:nth-of-type(2)")
        await click(chromium, "button")
        await chromium.until(heading("You are unsubscribed"))
    assert [one.kind for one in asked] == ["all"]


async def test_works_from_the_keyboard(chromium: Page) -> None:
    """Tab to the choice, arrow to the second, Enter."""
    asked: list[Unsubscribe] = []
    async with edge(asked) as url:
        await chromium.open(url)
        await chromium.press("Tab", 9)
        await chromium.press("ArrowDown", 40)
        await chromium.press("Enter", 13)
        await chromium.until(heading("You are unsubscribed"))
    assert [one.kind for one in asked] == ["all"]


async def test_a_failure_is_shown_and_can_be_tried_again(chromium: Page) -> None:
    """Nothing says that it is done when it is not."""
    async with edge([], works=False) as url:
        await chromium.open(url)
        await click(chromium, "button")
        await chromium.until(heading("Not unsubscribed yet"))
        assert await chromium.run("document.querySelector('button').innerText") == "Try again"
        await shoot(chromium, "unsubscribe-failed")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_fits_a_small_screen_and_reads_well(chromium: Page, dark: bool) -> None:
    """No sideways scrolling at 320 px, large targets, its own style (so the policy lets it in), and enough contrast."""
    async with edge([]) as url:
        await chromium.size(320, 640)
        await chromium.dark(dark)
        await chromium.open(url)
        assert await chromium.run("document.documentElement.scrollWidth") <= 320
        for selector in ("button", ".choice"):
            assert await chromium.run(f"document.querySelector('{selector}').getBoundingClientRect().height") >= 44
        for text, ground in (("h1", "main"), ("p", "main"), (".quiet", "main"), ("button", "button")):
            assert contrast(await colour(chromium, text, "color"), await colour(chromium, ground, "backgroundColor")) >= 4.5, text
        await shoot(chromium, f"unsubscribe-{'dark' if dark else 'light'}")


async def colour(page: Page, selector: str, name: str) -> list[int]:
    """Return red, green and blue of an element."""
    found = await page.run(f"getComputedStyle(document.querySelector('{selector}')).{name}.match(/\\d+/g).map(Number)")
    return list(found[:3])
