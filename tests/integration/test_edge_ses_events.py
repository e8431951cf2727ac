"""SES events from signers that others wrote (moto) and from the sandbox, over real sockets, into provider-events."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from edge.callbacks.compose import fetcher, open_callbacks
from edge.callbacks.notice import Refused
from edge.callbacks.queue import Queue
from edge.callbacks.recording import Recorder
from edge.callbacks.sns import Fetch, Sns
from runtime.clock import SystemClock
from runtime.producer import Producer
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.envelope import is_encrypted
from schemas.records import Event
from schemas.registry import RegistrySource
from tests import fix_sandbox
from tests.fix_callbacks import Notices, Web, bounce, callbacks_of, edge_with, ses_event
from tests.fix_edge import World, world_of
from tests.fix_sandbox import SandboxProcess
from tests.fix_stack import Stack
from tests.sinks_kit import wait_for
from tests.sinks_samples import free_port

pytestmark = pytest.mark.stack
sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox
REGION = "us-east-1"
TOPIC = f"arn:aws:sns:{REGION}:123456789012:newswire-ses"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


class Moto:
    """moto_server: SNS and SQS as PyPI's moto plays them."""

    def __init__(self) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self._up, "moto_server", 60)

    def _up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/moto-api/", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        os.kill(self._process.pid, signal.SIGTERM)
        self._process.wait(timeout=60)

    def reset(self) -> None:
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/moto-api/reset", method="POST"), timeout=60).close()

    @asynccontextmanager
    async def client(self, service: str) -> AsyncIterator[Any]:
        """A real client of AWS's for it."""
        from aiobotocore.session import AioSession

        session = AioSession()
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        async with session.create_client(service, region_name=REGION, endpoint_url=self.url, **keys) as client:
            yield client

    def fetch(self, session: aiohttp.ClientSession) -> Fetch:
        """The internet with moto in Amazon's place, which finds its service by the scope of a request's signature."""

        async def fetch(url: str) -> bytes:
            host, path = url.removeprefix("https://").split("/", 1)
            assert host == f"sns.{REGION}.amazonaws.com"
            scope = {"Authorization": f"AWS4-HMAC-SHA256 Credential=test/20261122/{REGION}/sns/aws4_request, Signature=x"}
            async with session.get(f"{self.url}/{path}", headers=scope) as answer:
                assert answer.status == 200, await answer.text()
                return await answer.read()

        return fetch


@pytest.fixture(scope="module")
def moto_process() -> Iterator[Moto]:
    process = Moto()
    yield process
    process.stop()


@pytest.fixture
def moto(moto_process: Moto) -> Moto:
    moto_process.reset()
    return moto_process


@pytest.fixture(scope="module")
def world(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_of(stack, tmp_path_factory.mktemp("ses-events")) as made:
        yield made


def subscriber(world: World) -> str:
    """A subscriber who has a key."""
    subscriber_id = str(uuid.uuid4())
    with world.keys() as keys:
        keys.create([subscriber_id])
    return subscriber_id


def recorded(world: World, subscriber_id: str) -> list[Event]:
    """What provider-events has of a subscriber, each event once: SQS delivers at least once, the ce_id tells repetitions."""
    return list({event.id: event for event in world.events(world.topics.provider_events, subscriber_id)}.values())


async def test_takes_what_moto_signs_over_http(moto: Moto) -> None:
    """moto's SNS posts a notification with its own signature and certificate; the edge takes it, and no changed one."""
    notices = Notices()
    async with aiohttp.ClientSession() as session, moto.client("sns") as client:
        sns = Sns(Settings(sns_topics=TOPIC), moto.fetch(session), SystemClock())
        async with edge_with(callbacks_of(Web(), notices, sns=sns)) as edge:
            topic = (await client.create_topic(Name="newswire-ses"))["TopicArn"]
            assert topic == TOPIC
            endpoint = f"{edge._base_url}/callbacks/ses"
            await client.subscribe(TopicArn=topic, Protocol="http", Endpoint=endpoint)
            await client.publish(TopicArn=topic, Message=ses_event("Bounce", **bounce()))
            async with asyncio.timeout(90):
                while not notices.recorded:
                    await asyncio.sleep(0.02)
    assert [n.name for n in notices.recorded] == ["DeliveryBounced"]


async def test_empties_the_queue_in_batches(world: World, moto: Moto, monkeypatch: pytest.MonkeyPatch) -> None:
    """SNS -> SQS -> provider-events: each notice once in the log, the address encrypted, and the queue empty afterwards; what
    was put into the queue by somebody else brings nothing in."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    someone = subscriber(world)
    deliveries = [f"20261123-{uuid.uuid4()}" for _ in range(45)]
    async with aiohttp.ClientSession() as session, moto.client("sns") as sns, moto.client("sqs") as sqs:
        await sns.create_topic(Name="newswire-ses")
        queue = (await sqs.create_queue(QueueName="ses-events"))["QueueUrl"]
        await sns.subscribe(TopicArn=TOPIC, Protocol="sqs", Endpoint=f"arn:aws:sqs:{REGION}:123456789012:ses-events")
        for delivery_id in deliveries:
            await sns.publish(TopicArn=TOPIC, Message=ses_event("Send", delivery_id, someone))
        last = ses_event("Bounce", deliveries[0], someone, **bounce(address="Ada@example.org"))
        await sns.publish(TopicArn=TOPIC, Message=last)
        first = (await sqs.receive_message(QueueUrl=queue, VisibilityTimeout=0))["Messages"][0]
        forged = json.loads(first["Body"]) | {"Message": ses_event("Complaint", deliveries[1], someone)}
        for body in (json.dumps(forged), "no json", ses_event("Complaint", deliveries[1], someone)):
            await sqs.send_message(QueueUrl=queue, MessageBody=body)
        settings = replace(world.settings, sns_topics=TOPIC, ses_queue_url=queue, sqs_endpoint_url=moto.url, ses_region=REGION)
        stop = asyncio.Event()
        working = asyncio.create_task(Queue(settings, fetch=moto.fetch(session)).work(stop))
        async with asyncio.timeout(120):
            while len(await asyncio.to_thread(recorded, world, someone)) < 46:
                assert not working.done(), working
                await asyncio.sleep(0.2)
            while await waiting(sqs, queue):
                await asyncio.sleep(0.1)
        stop.set()
        await working
    events = recorded(world, someone)
    assert sorted(e.value["delivery_id"] for e in events if e.name == "ProviderAccepted") == sorted(deliveries)
    (bounced,) = [e for e in events if e.name == "DeliveryBounced"]
    assert is_encrypted(bounced.value["address"])
    with world.keys() as keys:
        assert keys.decrypt(someone, "address.email", bounced.value["address"]) == b"Ada@example.org"
    assert not [e for e in events if e.name == "ComplaintReceived"]


async def waiting(sqs: Any, queue: str) -> int:
    """How many messages the queue has, hidden ones included."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = (await sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=names))["Attributes"]
    return sum(int(found[name]) for name in names)


async def test_deletes_nothing_that_is_not_in_kafka(world: World, moto: Moto, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka is away: the messages stay in the queue."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    async with aiohttp.ClientSession() as session, moto.client("sns") as sns, moto.client("sqs") as sqs:
        await sns.create_topic(Name="newswire-ses")
        queue = (await sqs.create_queue(QueueName="ses-events"))["QueueUrl"]
        await sns.subscribe(TopicArn=TOPIC, Protocol="sqs", Endpoint=f"arn:aws:sqs:{REGION}:123456789012:ses-events")
        await sns.publish(TopicArn=TOPIC, Message=ses_event("Send", f"20261123-{uuid.uuid4()}", subscriber(world)))
        settings = replace(
            world.settings, sns_topics=TOPIC, ses_queue_url=queue, sqs_endpoint_url=moto.url, ses_region=REGION,
            schema_registry_url="http://127.0.0.1:1/apis/ccompat/v7",
        )  # fmt: skip
        stop = asyncio.Event()
        working = asyncio.create_task(Queue(settings, fetch=moto.fetch(session)).work(stop))
        await asyncio.sleep(3)
        assert not working.done()
        stop.set()
        await working
        assert await waiting(sqs, queue) == 1


async def test_the_sandbox_tells_the_edge_what_became_of_each_mail(world: World, sandbox: SandboxProcess) -> None:
    """The subscription is confirmed; SendBulkEmail to a reader, a bouncing and a complaining address gives their events."""
    from aiobotocore.session import AioSession

    settings = replace(
        world.settings, sns_topics="arn:aws:sns:eu-west-1:000000000000:newswire-ses", sns_sandbox_url=f"{sandbox.url}/ses/"
    )
    producer = Producer(settings, "test-callbacks")
    people = {name: subscriber(world) for name in ("reader", "bounce", "complaint", "ooto")}
    try:
        async with open_callbacks(settings, producer, SystemClock()) as callbacks, edge_with(callbacks) as edge:
            for version in ("1", "2"):
                url = f"{edge._base_url}/callbacks/ses"
                await asyncio.to_thread(sandbox.ask, "/control/notifications", {"url": url, "version": version})
                keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
                async with AioSession().create_client(
                    "sesv2", region_name="eu-west-1", endpoint_url=f"{sandbox.url}/ses", **keys
                ) as client:
                    await client.send_bulk_email(
                        FromEmailAddress="news@newswire.example",
                        DefaultContent={"Template": {"TemplateContent": {"Subject": "s", "Text": "t"}, "TemplateData": "{}"}},
                        BulkEmailEntries=[
                            {
                                "Destination": {"ToAddresses": [f"{name}+1@simulator.amazonses.com"]},
                                "ReplacementTags": [
                                    {"Name": "delivery_id", "Value": f"20261123-{uuid.uuid4()}"},
                                    {"Name": "subscriber_id", "Value": subscriber_id},
                                ],
                            }
                            for name, subscriber_id in people.items()
                        ],
                    )
                wanted = (9 + 1) * int(version)
                async with asyncio.timeout(90):
                    while (state := await asyncio.to_thread(sandbox.ask, "/control/notifications"))["sent"] < wanted:
                        await asyncio.sleep(0.1)
                assert state["refused"] == 0
        assert state["confirmed"] == 2
    finally:
        await asyncio.to_thread(producer.close)
    kinds = {name: sorted({e.name for e in recorded(world, someone)}) for name, someone in people.items()}
    assert kinds == {
        "reader": ["ProviderAccepted", "ProviderDelivered"],
        "bounce": ["DeliveryBounced", "ProviderAccepted"],
        "complaint": ["ComplaintReceived", "ProviderAccepted", "ProviderDelivered"],
        "ooto": ["DeliveryBounced", "ProviderAccepted", "ProviderDelivered"],
    }


async def test_an_erased_persons_bounce_is_recorded_without_the_address(world: World) -> None:
    """The key is gone; the fact stays."""
    from edge.callbacks.ses import ses_notice
    from runtime.keys import KeyStore

    someone = subscriber(world)
    notice = ses_notice(ses_event("Bounce", subscriber_id=someone, **bounce()), bytes(32))
    assert notice is not None
    producer, keys = Producer(world.settings, "test"), KeyStore(world.settings)
    keys.destroy(someone)
    codec = Codec(world.topics, RegistrySource(world.settings.schema_registry_url), keys)
    await Recorder(producer, codec, world.topics, keys).record([notice])
    (event,) = await asyncio.to_thread(recorded, world, someone)
    assert event.value["address"] is None
    assert event.id == notice.id
    await asyncio.to_thread(producer.close)
    keys.close()


async def test_the_fetch_of_a_certificate_is_bounded(tmp_path: Path) -> None:
    """No redirect is followed, and nothing large is read."""
    from core.errors import Unavailable
    from tests.sinks_samples import Answers, http

    async with aiohttp.ClientSession() as session:
        fetch = fetcher(session)
        for answer in (http(302, Location="http://127.0.0.1:1/"), http(500), http(200, "x" * 100_000), "drop"):
            async with Answers(answer) as server:
                with pytest.raises(Unavailable):
                    await fetch(f"{server.url}/cert.pem")
        async with Answers(http(404)) as server:
            with pytest.raises(Refused):
                await fetch(f"{server.url}/cert.pem")
        async with Answers(http(200, "pem")) as server:
            assert await fetch(f"{server.url}/cert.pem") == b"pem"
