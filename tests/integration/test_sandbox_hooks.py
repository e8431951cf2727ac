"""The sandbox's webhook receiver and scoring service, spoken to over plain HTTP with the signatures of standardwebhooks."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from standardwebhooks import Webhook

from deploy.sandbox.hooks import DEFAULT_SECRET
from deploy.sandbox.scoring import quality_of
from tests import fix_sandbox
from tests.fix_sandbox import SandboxProcess

sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox

Post = Any


def signed(body: bytes, secret: str = DEFAULT_SECRET, delivery_id: str = "d1", age: timedelta = timedelta()) -> dict[str, str]:
    """The headers of a signed webhook."""
    at = datetime.now(UTC) - age
    signature = Webhook(secret).sign(delivery_id, at, body.decode())
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signature,
        "Content-Type": "application/json",
    }


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A session that gives up after 20 s."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


async def status_of(http: aiohttp.ClientSession, address: str, body: bytes, headers: dict[str, str]) -> int:
    """Post and return the status."""
    async with http.post(address, data=body, headers=headers) as answer:
        await answer.read()
        return answer.status


async def test_takes_what_is_signed(http: aiohttp.ClientSession, sandbox: SandboxProcess) -> None:
    """The delivery id is the webhook-id; the inbox says that the signature is valid."""
    body = json.dumps({"type": "newswire.newsletter", "data": {"title": "Today", "n": 1}}).encode()
    assert await status_of(http, sandbox.url + "/hooks/reader-1", body, signed(body)) == 200
    assert sandbox.counts("delivery_id") == {"d1": 1}
    message = sandbox.ask("/inbox/messages?channel=webhook")["messages"][0]
    assert (message["subject"], message["destination"], message["body"]["verified"]) == ("Today", "reader-1", True)


@pytest.mark.parametrize("wrong", ["secret", "body", "old", "missing", "bytes"])
async def test_answers_401_to_a_wrong_signature(http: aiohttp.ClientSession, sandbox: SandboxProcess, wrong: str) -> None:
    """Another secret, another body, a timestamp of ten minutes ago, no headers, headers that are no text."""
    body = b'{"type": "x"}'
    headers = {
        "secret": signed(body, "whsec_" + base64.b64encode(bytes(32)).decode()),
        "body": signed(b'{"type": "y"}'),
        "old": signed(body, age=timedelta(minutes=10)),
        "missing": {},
        "bytes": signed(body) | {"webhook-signature": "v1,\udcff"},
    }[wrong]
    assert await status_of(http, sandbox.url + "/hooks/a", body, headers) == 401
    assert sandbox.counts()["webhook"] == 0
    assert "signature is not valid" in sandbox.text("/?show=refused&m=1")


async def test_a_name_has_a_secret_of_its_own(http: aiohttp.ClientSession, sandbox: SandboxProcess) -> None:
    """Once registered, the default secret no longer opens it."""
    own = "whsec_" + base64.b64encode(b"o" * 32).decode()
    sandbox.ask("/control/hooks/mine", {"secret": own})
    assert await status_of(http, sandbox.url + "/hooks/mine", b"{}", signed(b"{}", own)) == 200
    assert await status_of(http, sandbox.url + "/hooks/mine", b"{}", signed(b"{}")) == 401
    assert await status_of(http, sandbox.url + "/hooks/other", b"{}", signed(b"{}")) == 200


async def test_refuses_large_payloads(http: aiohttp.ClientSession, sandbox: SandboxProcess) -> None:
    """Payloads are below 20 kB."""
    body = json.dumps({"x": "y" * 20_000}).encode()
    assert await status_of(http, sandbox.url + "/hooks/a", body, signed(body)) == 413


async def test_faults(http: aiohttp.ClientSession, sandbox: SandboxProcess) -> None:
    """429 with Retry-After, 5xx, 410, drops on both sides of accepting, silence."""
    address, body = sandbox.url + "/hooks/a", b"{}"
    sandbox.fault("webhook", "throttle", count=1, retry_after_s=3)
    async with http.post(address, data=body, headers=signed(body)) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
    sandbox.fault("webhook", "error", count=1, status=502)
    assert await status_of(http, address, body, signed(body)) == 502
    sandbox.fault("webhook", "refuse", count=1, status=410)
    assert await status_of(http, address, body, signed(body)) == 410
    for kind in ("drop_before_accept", "drop_after_accept"):
        sandbox.fault("webhook", kind, count=1)
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await status_of(http, address, body, signed(body, delivery_id=kind))
    sandbox.fault("webhook", "timeout", count=1, delay_s=0.5)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await status_of(http, address, body, signed(body))
    sandbox.fault("webhook", "slow_body", count=1, delay_s=0.3)
    async with http.post(address, data=body, headers=signed(body)) as answer:
        assert answer.status == 200
        assert await answer.json() == {"received": True}
    assert sandbox.counts("delivery_id") == {"drop_after_accept": 1, "d1": 1}


async def test_only_and_share_choose_requests(http: aiohttp.ClientSession, sandbox: SandboxProcess) -> None:
    """A fault for one destination leaves others alone, and a share of a half happens to about half."""
    sandbox.fault("webhook", "error", only="reader-7")
    assert await status_of(http, sandbox.url + "/hooks/reader-6", b"{}", signed(b"{}")) == 200
    assert await status_of(http, sandbox.url + "/hooks/reader-7", b"{}", signed(b"{}")) == 503
    sandbox.ask("/control/faults", method="DELETE")
    sandbox.fault("webhook", "error", share=0.5)
    statuses = [await status_of(http, sandbox.url + "/hooks/a", b"{}", signed(b"{}", delivery_id=str(i))) for i in range(60)]
    assert 15 < statuses.count(503) < 45


async def test_scores_a_title(http: aiohttp.ClientSession, sandbox: SandboxProcess) -> None:
    """The quality is the title's, unless the attributes have one; scores are no messages."""

    async def score(document: Any) -> tuple[int, Any]:
        async with http.post(sandbox.url + "/score", json=document) as answer:
            return answer.status, await answer.json()

    asked = {"publication_id": "p", "revision": 1, "title": "A title", "attributes": {}}
    assert await score(asked) == (200, {"quality": quality_of("A title"), "scorer": "sandbox-1"})
    assert (await score(asked | {"attributes": {"quality": "0.95"}}))[1]["quality"] == 0.95
    assert (await score(asked | {"attributes": {"quality": "good"}}))[0] == 422
    assert (await score(asked | {"title": " "}))[0] == 422
    assert (await score([1]))[0] == 422
    sandbox.fault("score", "throttle", count=1)
    assert (await score(asked))[0] == 429
    assert sum(sandbox.counts().values()) == 0
    assert sandbox.counts(provider="score") == {"score": 2}
    assert sandbox.counts("delivery_id", provider="score") == {"p@1": 2}


async def test_counts_survive_kill_9(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    """What a client saw accepted is counted after the sandbox was killed in the middle of its work."""
    other = SandboxProcess(tmp_path)
    answered: list[str] = []

    async def send(worker: int) -> None:
        for number in range(10_000):
            delivery_id = f"{worker}-{number}"
            try:
                status = await status_of(http, other.url + "/hooks/a", b"{}", signed(b"{}", delivery_id=delivery_id))
            except aiohttp.ClientError:
                return
            assert status == 200
            answered.append(delivery_id)

    workers = [asyncio.create_task(send(worker)) for worker in range(8)]
    while len(answered) < 200:
        await asyncio.sleep(0.01)
    other.kill()
    await asyncio.gather(*workers)
    with (tmp_path / "requests.jsonl").open("ab") as journal:
        journal.write(b'{"n": 99999, "cut of')
    other.start()
    counts = other.counts("delivery_id")
    assert all(counts.get(delivery_id) == 1 for delivery_id in answered)
    assert len(counts) <= len(answered) + len(workers)
    assert await status_of(http, other.url + "/hooks/a", b"{}", signed(b"{}", delivery_id="after")) == 200
    numbers = [line["n"] for line in other.lines()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert other.stop() == 0
