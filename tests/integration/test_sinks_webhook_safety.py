"""Webhooks go to addresses that strangers chose: what is connected to, how long and how much is read, and who can verify it."""

import asyncio
import base64
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from core.outcomes import Dead, Retry, Sent
from runtime.settings import Settings
from sinks.webhook import Webhook
from tests.sinks_samples import Answers, http, prepared

SECRETS = tuple("whsec_" + base64.b64encode(bytes([n]) * 32).decode() for n in range(3))
DENIED = Dead("invalid_address")


@asynccontextmanager
async def opened(lookup: Callable[..., Any] | None = None, **more: Any) -> AsyncIterator[Webhook]:
    """The sender, with name servers of our own where a test needs them."""
    settings: dict[str, Any] = {"webhook_allow_http_loopback": "live" not in more, "provider_timeout_s": 2.0, **more}
    webhook = Webhook(Settings(**settings), lookup=lookup)
    await webhook.open()
    try:
        yield webhook
    finally:
        await webhook.close()


class Names:
    """Name servers: each look-up of a name gets its next answer, and the last one for ever."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers, self.asked = answers, list[str]()

    def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        """Stand in for socket.getaddrinfo."""
        self.asked.append(host)
        given = self.answers.get(host.split(".")[0])
        if not given:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        addresses = given.pop(0) if len(given) > 1 else given[0]
        kinds = [socket.AF_INET6 if ":" in one else socket.AF_INET for one in addresses]
        return [(kind, socket.SOCK_STREAM, 6, "", (one, port)) for kind, one in zip(kinds, addresses, strict=True)]


def address(url: str, **more: str) -> str:
    """An endpoint's address."""
    return json.dumps({"url": url, "secret": SECRETS[0], **more})


PRIVATE = (
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1", "::",
    "fe80::1", "fc00::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "fec0::1",
)  # fmt: skip


@pytest.mark.parametrize("private", PRIVATE)
async def test_a_name_that_resolves_to_a_private_address_is_refused(private: str) -> None:
    """Nothing is connected to, although the name is a public one; with live on as well."""
    names = Names(hooks=[[private]])
    async with Answers(http(200)) as server, opened(names, live=True, allow_list="*") as webhook:
        one = prepared(webhook, address(f"https://hooks.example.com:{server.port}/x"))
        assert await webhook.call([one]) == [DENIED]
        assert server.requests == []
    assert names.asked == ["hooks.example.com"]


async def test_a_name_that_turns_private_at_the_second_look_up_is_refused() -> None:
    """Rebinding: what counts is the address of this connection, not what the name gave when it was looked at before.

    No address of this machine is public, so the two change places: the sandbox's session may reach loopback only.
    """
    names = Names(hooks=[["127.0.0.1"], ["10.0.0.1"], ["169.254.169.254"], ["127.0.0.1"]])
    async with Answers(http(200)) as server, opened(names) as webhook:
        one = prepared(webhook, address(f"http://hooks.example.com:{server.port}/x"))
        sent = Sent(one.message.delivery.delivery_id)
        assert [(await webhook.call([one]))[0] for _ in range(4)] == [sent, DENIED, DENIED, sent]
        assert len(server.requests) == 2
    assert len(names.asked) == 4, "every connection looks the name up anew"


@pytest.mark.parametrize(
    "host",
    [
        "a" * 70 + ".example.com", "a..b", "..", "a" * 300, "1.2.3.4.5", "0x7f.1", "127.1", "2130706433",
        "\uff11\uff12\uff17.0.0.1", "[::1%25lo]", "[::ffff:7f00:1]", "\u3002",
    ],
)  # fmt: skip
async def test_a_host_that_is_no_name_or_hides_an_address_is_refused(host: str) -> None:
    """With the machine's own name look-up: what it chokes on is no reason to end, and odd spellings are what they resolve to."""
    async with Answers(http(200)) as server, opened(live=True, allow_list="*") as webhook:
        one = prepared(webhook, address(f"https://{host}:{server.port}/x"))
        assert one.body == DENIED or await webhook.call([one]) == [DENIED]
        assert server.requests == []


async def test_a_name_that_cannot_be_looked_up_is_tried_later() -> None:
    """Name servers fail as networks do."""
    async with opened(Names()) as webhook:
        assert await webhook.call([prepared(webhook, address("http://gone.example.com/x"))]) == [Retry(1.0, "unreachable")]


async def test_name_servers_that_do_not_answer_hold_nobody_else() -> None:
    """A look-up that hangs is given up, and no request follows when it ends at last; others go on meanwhile, and the loop's own
    threads stay free."""
    release = threading.Event()

    def lookup(host: str, port: int, **_: Any) -> list[Any]:
        if host == "slow.example.com":
            release.wait(120)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    try:
        async with Answers(http(200)) as server, opened(lookup) as webhook:
            slow = [prepared(webhook, address(f"http://slow.example.com:{server.port}/x")) for _ in range(8)]
            waiting = [asyncio.create_task(webhook.call([one])) for one in slow]
            await asyncio.sleep(0)
            one = prepared(webhook, address(f"http://quick.example.com:{server.port}/x"))
            assert isinstance((await webhook.call([one]))[0], Sent)
            assert await asyncio.to_thread(lambda: 1) == 1
            outcomes = [(await task)[0] for task in waiting]
            release.set()
            assert set(outcomes) == {Retry(1.0, "unreachable")}
            assert isinstance((await webhook.call([one]))[0], Sent)
            assert len(server.requests) == 2, "those of the quick one"
    finally:
        release.set()


async def test_a_redirect_is_not_followed() -> None:
    """Not even to the same place: the address is to be corrected instead."""
    async with Answers(http(302, "", Location="http://127.0.0.1/")) as server, opened() as webhook:
        assert await webhook.call([prepared(webhook, address(f"{server.url}/x"))]) == [Retry(5.0, "provider_error")]
        assert len(server.requests) == 1


async def test_an_endless_answer_is_not_read() -> None:
    """The status decides; what follows is read up to a bound, in a second at most."""
    endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + 50 * (b"10000\r\n" + b"x" * 65536 + b"\r\n")
    async with Answers(endless) as server, opened(provider_timeout_s=20.0) as webhook:
        one = prepared(webhook, address(f"{server.url}/x"))
        assert await webhook.call([one]) == [Sent(one.message.delivery.delivery_id)]


@pytest.mark.parametrize(
    "more",
    [
        {"previous_secret": "short"},
        {"previous_secret": "whsec_c2hvcnQ="},
        {"previous_secret": 5},
        {"secret": "whsec_!"},
        {"secret": None},
        {"url": "ftp://example.com/"},
        {"url": "https://user:password@example.com/"},
        {"url": "https:///path"},
        {"url": "https://example.com:99999/"},
        {"url": "https://example.com/" + "x" * 2048},
    ],
)
async def test_refuses_what_is_no_endpoint(more: dict[str, Any]) -> None:
    """Before anything is sent."""
    document = {"url": "https://example.com/", "secret": SECRETS[0], **more}
    async with opened() as webhook:
        assert prepared(webhook, json.dumps(document)).body == DENIED
        assert prepared(webhook, "[1]").body == DENIED


async def test_a_secret_is_replaced_without_a_gap() -> None:
    """While both are there each message carries two signatures, so a receiver that has either accepts it; a third does not."""
    async with Answers(http(200)) as server, opened() as webhook:
        to = address(f"{server.url}/x", previous_secret=SECRETS[1])
        one = prepared(webhook, to)
        await webhook.call([one])
        head, payload = server.requests[0].split(b"\r\n\r\n", 1)
    headers = dict(line.decode().split(": ", 1) for line in head.lower().split(b"\r\n")[1:] if b"webhook-sig" not in line)
    (signatures,) = [line.decode().split(": ", 1)[1] for line in head.split(b"\r\n") if line.lower().startswith(b"webhook-sig")]
    assert len(signatures.split(" ")) == 2
    headers["webhook-signature"] = signatures
    for secret in SECRETS[:2]:
        Verifier(secret).verify(payload, headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(SECRETS[2]).verify(payload, headers)
