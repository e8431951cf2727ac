"""A headless Chromium that a test drives over its DevTools protocol; `chromium` gives a page at 1280 x 800.

A test that takes it is marked `browser` and fails with a sentence when no Chromium is installed.
"""

import asyncio
import base64
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-port=0", "--hide-scrollbars",
)  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome")
START_S = 120
WAIT_S = 90
"""Longest wait for a page; a loaded machine is slow, and a healthy page takes below a second."""


class DevToolsError(Exception):
    """A command that the browser refused, such as one to a page that was just left."""


class Page:
    """One page of the browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._last = 0
        self.problems: list[str] = []

    async def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a DevTools command and return its result."""
        self._last += 1
        await self._socket.send_json({"id": self._last, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=WAIT_S)
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.problems.append(json.dumps(message["params"])[:500])
            if message.get("id") == self._last:
                if "error" in message:
                    raise DevToolsError(message["error"])
                return dict(message["result"])

    async def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression; promises are awaited."""
        answer = await self.command("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def open(self, address: str) -> None:
        """Load a page and wait until its scripts have run."""
        await self.command("Page.navigate", url=address)
        await self.until(f"location.href === {json.dumps(address)}")

    async def until(self, condition: str) -> None:
        """Wait until the page is loaded and a JavaScript expression is true; on the way it may be another page's."""
        deadline = asyncio.get_running_loop().time() + WAIT_S
        while not await self._is_true(f"document.readyState === 'complete' && ({condition})"):
            assert asyncio.get_running_loop().time() < deadline, f"never true: {condition}"
            await asyncio.sleep(0.05)

    async def _is_true(self, condition: str) -> bool:
        try:
            return bool(await self.run(condition))
        except DevToolsError:
            return False

    async def press(self, key: str, code: int = 0) -> None:
        """Press a key."""
        text = {"text": key} if len(key) == 1 else ({"text": "\r"} if key == "Enter" else {})
        await self.command("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        await self.command("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    async def size(self, width: int, height: int) -> None:
        """Change the viewport, to a phone's below 500 pixels."""
        await self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    async def dark(self, on: bool) -> None:
        """Prefer a dark or a light page."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        await self.command("Emulation.setEmulatedMedia", features=[feature])

    async def screenshot(self, path: Path) -> None:
        """Write a PNG."""
        answer = await self.command("Page.captureScreenshot")
        path.write_bytes(base64.b64decode(answer["data"]))


def contrast(one: list[int], other: list[int]) -> float:
    """Return the contrast of two colours (WCAG 2.2, relative luminance)."""

    def luminance(colour: list[int]) -> float:
        linear = [c / 12.92 if (c := part / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for part in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.fixture
async def chromium(tmp_path: Path) -> AsyncIterator[Page]:
    """A page of a Chromium of its own."""
    binary = next((found for name in NAMES if (found := shutil.which(name))), None)
    if binary is None:
        pytest.fail("no Chromium is installed: run `apt-get install chromium`, or leave these tests out with -m 'not browser'")
    profile = tmp_path / "profile"
    process = subprocess.Popen(
        [binary, *FLAGS, f"--user-data-dir={profile}", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        port = await _port(profile / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                targets = await answer.json(content_type=None)
            address = next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page")
            async with session.ws_connect(address, max_msg_size=0) as socket:
                page = Page(socket)
                for domain in ("Page", "Runtime", "Log"):
                    await page.command(f"{domain}.enable")
                await page.size(1280, 800)
                yield page
    finally:
        process.terminate()
        process.wait(timeout=60)


async def _port(file: Path) -> int:
    deadline = asyncio.get_running_loop().time() + START_S
    while not file.is_file() or "\n" not in file.read_text():
        assert asyncio.get_running_loop().time() < deadline, "Chromium did not start"
        await asyncio.sleep(0.05)
    return int(file.read_text().splitlines()[0])
