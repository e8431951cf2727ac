"""Mails in a real browser, at the width of a phone and of a window, light and dark, without images, whatever they hold.

With NEWSWIRE_SCREENSHOTS=folder the pictures are kept, for somebody who wants to look.
"""

import json
import os
from pathlib import Path

import pytest

from core.rendering.catalogue import SHIPPED
from core.rendering.email import alert_email, newsletter_email
from core.rendering.model import IssueItem
from tests import fix_chromium
from tests.fix_chromium import Page, contrast
from tests.rendering_samples import NASTY, alert, content, issue, real_issue

pytestmark = pytest.mark.browser
chromium = fix_chromium.chromium

SHOTS = os.environ.get("NEWSWIRE_SCREENSHOTS", "")

TEXTS = """(() => {
  const rgba = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1] };
  const ground = node => {
    for (let one = node; one; one = one.parentElement) {
      const colour = rgba(getComputedStyle(one).backgroundColor);
      if (colour[3] > 0) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const box = walker.currentNode.parentElement, style = getComputedStyle(box);
    if (!walker.currentNode.textContent.trim() || !box.checkVisibility() || parseFloat(style.fontSize) < 2) continue;
    found.push({text: walker.currentNode.textContent.trim().slice(0, 40), size: parseFloat(style.fontSize),
                colour: rgba(style.color).slice(0, 3), ground: ground(box)});
  }
  return JSON.stringify(found);
})()"""
"""Every text that is shown, its size, its colour and the colour behind it."""

GROUND = "getComputedStyle(document.querySelector(s)).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"


def pages() -> dict[str, str]:
    """Return the mails by name: each template in both languages, an alert, and one of everything that breaks layouts."""
    nasty = issue(
        items=tuple(IssueItem(content(n, title=text, summary=text, authors=(text,)), text) for n, text in enumerate(NASTY))
    )
    return {
        **{f"{name}-{language}": newsletter_email(real_issue(language, template=one)).html for name, one in SHIPPED.items()
           for language in ("en", "de")},
        "alert-en": alert_email(alert(postal_address="1 Example Street, Berlin")).html,
        "alert-nasty": alert_email(alert(title="a" * 400, body="b" * 900, postal_address="c" * 300)).html,
        **{f"{name}-nasty": newsletter_email(issue(items=nasty.items, newsletter_name="n" * 150, template=one)).html
           for name, one in SHIPPED.items()},
    }  # fmt: skip


PAGES = pages()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 700])
async def test_every_mail_can_be_read(chromium: Page, tmp_path: Path, width: int, dark: bool) -> None:
    """No sideways scrolling, a card of at most 600 pixels, every text large enough and with a contrast of at least 4.5."""
    for name, html in PAGES.items():
        file = tmp_path / f"{name}.html"
        file.write_text(html, encoding="utf-8")
        await chromium.size(width, 900)
        await chromium.dark(dark)
        await chromium.open(file.as_uri())
        assert await chromium.run("document.documentElement.scrollWidth") <= width, name
        card = json.loads(await chromium.run("JSON.stringify(document.querySelector('.card').getBoundingClientRect())"))
        assert card["width"] <= 600, name
        assert card["left"] >= 0, name
        assert card["right"] <= width, name
        grounds = f"JSON.stringify(['body', '.bg', '.card'].map(s => {GROUND}))"
        assert all((sum(ground) < 200) == dark for ground in json.loads(await chromium.run(grounds))), name
        for one in json.loads(await chromium.run(TEXTS)):
            assert one["size"] >= 12, (name, one)
            assert contrast(one["colour"], one["ground"]) >= 4.5, (name, one)
        if SHOTS and "nasty" not in name:
            height = await chromium.run("document.documentElement.scrollHeight")
            await chromium.size(width, min(int(height), 4000))
            await chromium.screenshot(Path(SHOTS) / f"mail-{name}-{width}-{'dark' if dark else 'light'}.png")
    assert chromium.problems == []


async def test_nothing_is_fetched(chromium: Page, tmp_path: Path) -> None:
    """A mail is whole with images off and away from the network: it has no picture, font, style or script of elsewhere."""
    for name, html in PAGES.items():
        file = tmp_path / f"{name}.html"
        file.write_text(html, encoding="utf-8")
        await chromium.open(file.as_uri())
        assert await chromium.run("document.querySelectorAll('img, link, script, iframe, object, video').length") == 0, name
        assert await chromium.run("performance.getEntriesByType('resource').length") == 0, name
        assert "url(" not in html, name


async def test_the_preview_line_is_there_and_is_not_shown(chromium: Page, tmp_path: Path) -> None:
    """An inbox reads it before anything else; the mail itself does not show it."""
    file = tmp_path / "mail.html"
    file.write_text(PAGES["newsletter-en"], encoding="utf-8")
    await chromium.open(file.as_uri())
    first = "document.body.firstElementChild"
    assert (await chromium.run(f"{first}.textContent")).startswith("Also: A Measurement of the W Boson")
    assert not await chromium.run(f"{first}.checkVisibility()")
    assert await chromium.run("document.documentElement.lang + document.documentElement.dir") == "enltr"
