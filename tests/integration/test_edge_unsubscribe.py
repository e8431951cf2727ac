"""The unsubscribe page and the one-click POST over real sockets, with a real broker behind them."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from core.errors import Unavailable
from edge.app import Edge, make_app
from edge.unsubscribe import NewsletterNames, Recorder, Unsubscribe
from runtime.clock import SystemClock
from runtime.follower import LogFollower
from runtime.producer import Producer
from runtime.tokens import TokenKeys
from tests.fix_edge import SUBSCRIBER, World, world_of
from tests.fix_stack import Stack
from tests.sinks_samples import free_port

pytestmark = pytest.mark.stack

ONE_CLICK = {"List-Unsubscribe": "One-Click"}
HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@pytest.fixture(scope="module")
def world(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_of(stack, tmp_path_factory.mktemp("edge")) as made:
        made.define_newsletter()
        yield made


@asynccontextmanager
async def served(edge: Edge) -> AsyncIterator[aiohttp.ClientSession]:
    """Serve an edge on a free port and give a client for it."""
    runner = web.AppRunner(make_app(edge), access_log=None, lingering_time=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        async with aiohttp.ClientSession(f"http://{host}:{port}") as client:
            yield client
    finally:
        await runner.cleanup()


@asynccontextmanager
async def edge_of(world: World, body_timeout_s: float = 60.0, **changes: object) -> AsyncIterator[aiohttp.ClientSession]:
    """Serve the real thing: producer, codec with the registry, names from the newsletters topic."""
    settings = replace(world.settings, **changes)  # type: ignore[arg-type]
    names, clock = NewsletterNames(), SystemClock()
    follower = LogFollower(world.settings, [world.topics.newsletters], names.apply, world.codec, name="edge-test")
    follower.start()
    await follower.wait_caught_up(90)
    producer = Producer(settings, "edge-test")
    edge = Edge(TokenKeys.load(settings), Recorder(producer, world.codec, world.topics, clock).record, names.name_of, clock)
    try:
        async with served(replace(edge, record_timeout_s=1.5 if changes else 60.0, body_timeout_s=body_timeout_s)) as client:
            yield client
    finally:
        follower.stop()
        producer.close()


def unsubscribes(world: World, token_delivery: str) -> list[dict[str, object]]:
    """Return the unsubscribes of a delivery's link with their ids."""
    found = world.events(world.topics.subscribers)
    return [
        {**e.value, "id": e.id} for e in found if e.name == "SubscriberUnsubscribed" and e.value["delivery_id"] == token_delivery
    ]


DELIVERY = "20261123-0b5f8a3e-6f3e-4b64-9a39-{:012d}"


async def test_looking_changes_nothing(world: World) -> None:
    """Scanners open every link: GET and HEAD show the page, with the newsletter's name, and produce nothing."""
    token = world.token(delivery_id=DELIVERY.format(1))
    async with edge_of(world) as client:
        answer = await client.get(f"/u/{token}")
        page = await answer.text()
        assert answer.status == 200
        assert (await client.head(f"/u/{token}")).status == 200
    assert "Unsubscribe from Daily Brief?" in page
    assert '<form method="post">' in page
    assert unsubscribes(world, DELIVERY.format(1)) == []


@pytest.mark.parametrize("form", ["urlencoded", "multipart"])
async def test_one_click_is_in_the_log_before_it_is_confirmed(world: World, form: str) -> None:
    """RFC 8058 in both encodings: 200 without redirect and cookie, and the event is there."""
    delivery = DELIVERY.format(2 if form == "urlencoded" else 3)
    data = aiohttp.FormData(ONE_CLICK, default_to_multipart=form == "multipart")
    async with edge_of(world) as client:
        answer = await client.post(f"/u/{world.token(delivery_id=delivery)}", data=data, allow_redirects=False)
        assert answer.status == 200
        assert not answer.cookies
        assert "You will not get Daily Brief any more." in await answer.text()
    (event,) = unsubscribes(world, delivery)
    assert (event["subscriber_id"], event["kind"], event["newsletter_id"], event["via"]) == (
        SUBSCRIBER,
        "newsletter",
        "daily",
        "one_click",
    )


async def test_a_repeated_post_is_the_same_event(world: World) -> None:
    """Mail programs repeat requests: every repeat has the id of the first."""
    delivery = DELIVERY.format(4)
    token = world.token(delivery_id=delivery)
    async with edge_of(world) as client:
        for _ in range(3):
            assert (await client.post(f"/u/{token}", data=ONE_CLICK)).status == 200
        assert (await client.post(f"/u/{token}", data={"scope": "all"})).status == 200
    events = unsubscribes(world, delivery)
    assert len({event["id"] for event in events if event["kind"] == "newsletter"}) == 1
    assert len({event["id"] for event in events}) == 2


async def test_the_page_offers_everything_at_once(world: World) -> None:
    """The second choice of the page ends all newsletters and alerts."""
    delivery = DELIVERY.format(5)
    async with edge_of(world) as client:
        answer = await client.post(f"/u/{world.token(delivery_id=delivery)}", data={"scope": "all"})
        assert "any newsletters or alerts any more" in await answer.text()
    (event,) = unsubscribes(world, delivery)
    assert (event["kind"], event["newsletter_id"], event["via"]) == ("all", None, "page")


async def test_a_link_of_an_alert_stops_alerts(world: World) -> None:
    """The token says what the link is for."""
    delivery = DELIVERY.format(6)
    async with edge_of(world) as client:
        token = world.token(delivery_id=delivery, kind="alert", newsletter_id=None)
        assert "Stop alerts?" in await (await client.get(f"/u/{token}")).text()
        assert (await client.post(f"/u/{token}", data={"scope": "newsletter"})).status == 400
        assert (await client.post(f"/u/{token}", data=ONE_CLICK)).status == 200
    (event,) = unsubscribes(world, delivery)
    assert (event["kind"], event["newsletter_id"]) == ("alerts", None)


@pytest.mark.parametrize("data", [{}, {"List-Unsubscribe": "no"}, {"scope": "alerts"}, {"scope": "everything"}])
async def test_a_post_that_asks_for_nothing_does_nothing(world: World, data: dict[str, str]) -> None:
    """Only the pair of RFC 8058 or a choice of the page acts."""
    delivery = DELIVERY.format(7)
    async with edge_of(world) as client:
        answer = await client.post(f"/u/{world.token(delivery_id=delivery)}", data=data)
        assert answer.status == 400
        assert "Nothing was changed" in await answer.text()
    assert unsubscribes(world, delivery) == []


async def test_expired_and_wrong_links_say_what_to_do(world: World) -> None:
    """4xx with a page, for GET and POST, and nothing is produced."""
    delivery = DELIVERY.format(8)
    expired = world.token(delivery_id=delivery, expires_at=world.now() - timedelta(seconds=1))
    good = world.token(delivery_id=delivery)
    wrong = good[:-1] + ("A" if good[-1] != "A" else "E")
    async with edge_of(world) as client:
        for token, status, title in (
            (expired, 410, "This link has expired"),
            (wrong, 404, "not valid"),
            ("nonsense", 404, "not valid"),
        ):
            for answer in (await client.get(f"/u/{token}"), await client.post(f"/u/{token}", data=ONE_CLICK)):
                page = await answer.text()
                assert answer.status == status
                assert title in page
                assert "newer message" in page
                assert "<form" not in page
    assert unsubscribes(world, delivery) == []


async def test_never_a_false_200(world: World) -> None:
    """Kafka does not answer: 503 in plain words, when to come back, and a button to try again."""
    async with edge_of(world, kafka_bootstrap_servers="127.0.0.1:1") as client:
        answer = await client.post(f"/u/{world.token(delivery_id=DELIVERY.format(9))}", data=ONE_CLICK)
        page = await answer.text()
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert "Not unsubscribed yet" in page
    assert "Try again" in page
    assert unsubscribes(world, DELIVERY.format(9)) == []


async def test_every_answer_has_the_security_headers(world: World) -> None:
    """Pages, refusals and errors alike; no script, no framing, no referrer, nothing stored."""
    token = world.token()
    async with edge_of(world) as client:
        answers = [
            await client.get(f"/u/{token}"),
            await client.post(f"/u/{token}", data={"scope": "x"}),
            await client.put(f"/u/{token}"),
            await client.get("/nothing"),
            await client.get("/health"),
            await client.post(f"/u/{token}", data={"scope": "x" * 9_000}),
        ]
        assert [answer.status for answer in answers] == [200, 400, 405, 404, 200, 413]
    for answer in answers:
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "script" not in policy
        assert "Set-Cookie" not in answer.headers


async def test_a_slow_body_is_cut_off(world: World) -> None:
    """A client that sends its body in drops does not keep a request open."""
    async with edge_of(world, body_timeout_s=0.5) as client:
        host, port = str(client._base_url).removeprefix("http://").rstrip("/").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        lines = ("Host: x", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 26", "", "List")
        head = "\r\n".join((f"POST /u/{world.token()} HTTP/1.1", *lines))
        writer.write(head.encode())
        async with asyncio.timeout(90):
            assert b" 408 " in await reader.readline()
        writer.close()


async def test_speaks_the_language_of_the_browser(world: World) -> None:
    """German when it is preferred, English for every other language."""
    async with edge_of(world) as client:
        for accept, language, title in (
            ("de-AT,de;q=0.9,en;q=0.5", "de", "Daily Brief abbestellen?"),
            ("fr,en;q=0.3", "en", "Unsubscribe from Daily Brief?"),
            ("de;q=0.2,en;q=0.8", "en", "Unsubscribe from Daily Brief?"),
            ("de;q=x", "en", "Unsubscribe from Daily Brief?"),
        ):
            answer = await client.get(f"/u/{world.token()}", headers={"Accept-Language": accept})
            assert answer.headers["Content-Language"] == language
            assert title in await answer.text()


async def test_an_unknown_newsletter_goes_by_its_id(world: World) -> None:
    """The link works even when its newsletter's definition is not known here."""
    async with edge_of(world) as client:
        page = await (await client.get(f"/u/{world.token(newsletter_id='weekly-42')}")).text()
    assert "Unsubscribe from weekly-42?" in page


async def test_names_are_escaped(world: World) -> None:
    """A newsletter's name is text on the page."""

    async def record(asked: Unsubscribe) -> None:
        raise Unavailable("not in this test")

    edge = Edge(TokenKeys.load(world.settings), record, lambda _: "<b>x</b>", SystemClock())
    async with served(edge) as client:
        page = await (await client.get(f"/u/{world.token()}")).text()
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "<b>" not in page


async def test_a_failed_follower_shows_in_health(world: World) -> None:
    """The supervisor and the proxy see it."""

    async def record(asked: Unsubscribe) -> None:
        raise Unavailable("not in this test")

    edge = Edge(TokenKeys.load(world.settings), record, str, SystemClock(), failed=lambda: RuntimeError("x"))
    async with served(edge) as client:
        assert (await client.get("/health")).status == 503


def _start(world: World, port: int, folder: Path) -> "subprocess.Popen[str]":
    program = Path(sys.executable).with_name("newswire")
    environ = {**world.environ, "NEWSWIRE_EDGE_PORT": str(port), "PATH": "/usr/bin:/bin"}
    return subprocess.Popen([program, "run", "edge"], env=environ, cwd=folder, stderr=subprocess.PIPE, text=True)


async def test_the_process_serves_until_sigterm_and_names_a_port_in_use(world: World, tmp_path: Path) -> None:
    """`newswire run edge` answers, ends with 0 on SIGTERM; a second one on the same port says so and ends with 3."""
    port = free_port()
    first = _start(world, port, tmp_path)
    try:
        base = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession() as client, asyncio.timeout(120):
            while True:
                try:
                    page = await (await client.get(f"{base}/u/{world.token()}")).text()
                    if "Daily Brief" in page:
                        break
                except aiohttp.ClientConnectionError:
                    assert first.poll() is None, first.communicate()[1]
                await asyncio.sleep(0.05)
        second = _start(world, port, tmp_path)
        _, error = await asyncio.to_thread(second.communicate, timeout=120)
        assert second.returncode == 3
        assert f"cannot listen on 127.0.0.1:{port}" in error
        first.send_signal(signal.SIGTERM)
        _, error = await asyncio.to_thread(first.communicate, timeout=120)
        assert first.returncode == 0
        assert world.token()[:20] not in error
    finally:
        first.kill()
        first.wait()
