"""Callbacks over real sockets with real signatures: what is taken, what is refused and why, and that nothing is lost."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.errors import SetupError, Unavailable
from edge.callbacks.routes import MESSAGE_BYTES, SNS_BYTES
from edge.callbacks.sns import FETCHES, Sns
from runtime.clock import SystemClock
from runtime.settings import Settings
from tests.fix_callbacks import (
    CERTIFICATE_URL,
    DELIVERY,
    TOPIC,
    Signer,
    Web,
    bounce,
    discord_headers,
    ses_event,
    slack_headers,
)
from tests.integration.callbacks_edge import DISCORD, SIGNER, Edge, counted, open_edge


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    """An edge with all three providers."""
    async with open_edge() as opened:
        yield opened


# -- SNS ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1", "2"])
async def test_takes_what_amazon_signed(edge: Edge, version: str) -> None:
    """Both signature versions, with and without a subject; the certificate is fetched once."""
    assert await edge.sns(SIGNER.message(ses_event(), version=version)) == 200
    assert await edge.sns(SIGNER.message(ses_event("Delivery"), version=version, Subject="Amazon SES")) == 200
    assert [n.name for n in edge.notices.recorded] == ["ProviderAccepted", "ProviderDelivered"]
    assert edge.internet.asked == [CERTIFICATE_URL]


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ({"Message": ses_event("Bounce")}, "bad_signature"),
        ({"MessageId": "another"}, "bad_signature"),
        ({"Timestamp": datetime.now(UTC).isoformat()}, "bad_signature"),
        ({"Subject": "added"}, "bad_signature"),
        ({"Signature": "AAAA"}, "bad_signature"),
        ({"Signature": "no base64!"}, "bad_signature"),
        ({"SignatureVersion": "1"}, "bad_signature"),
        ({"SignatureVersion": "3"}, "malformed"),
        ({"Type": "SubscriptionConfirmation"}, "malformed"),
        ({"Type": "Else"}, "malformed"),
        ({"Timestamp": "yesterday"}, "malformed"),
        ({"TopicArn": TOPIC + "2"}, "foreign_topic"),
    ],
)
async def test_refuses_what_was_changed_after_it_was_signed(edge: Edge, change: dict[str, str], result: str) -> None:
    """Any signed field; nothing is recorded, and the metric says why."""
    before = counted("ses", result)
    assert await edge.sns(SIGNER.message(ses_event()) | change) in (400, 403)
    assert edge.notices.recorded == []
    assert counted("ses", result) == before + 1


@pytest.mark.parametrize(
    "url",
    [
        "http://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem",
        "https://sns.eu-west-1.amazonaws.com.evil.example/SimpleNotificationService-0123456789abcdef.pem",
        "https://evil.s3.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem",
        "https://sns.evil.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem",
        "https://sns.eu-west-1.amazonaws.com:444/SimpleNotificationService-0123456789abcdef.pem",
        "https://a@sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem",
        "https://sns.eu-west-1.amazonaws.com/other/../SimpleNotificationService-0123456789abcdef.pem",
        "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem\n.evil.example",
        "https://[sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem",
        "file:///etc/passwd",
    ],
)
async def test_fetches_no_certificate_from_elsewhere(edge: Edge, url: str) -> None:
    """A message signed with a key of the forger's own: the address of its certificate is not asked."""
    forger = Signer()
    edge.internet.pages[url] = forger.pem
    assert await edge.sns(forger.message(ses_event(), SigningCertURL=url)) == 403
    assert edge.internet.asked == []
    assert edge.notices.recorded == []


async def test_refuses_a_foreign_topic_before_anything_is_fetched(edge: Edge) -> None:
    """Everybody can sign with Amazon's key, from a topic of their own; and everybody can ask for a confirmation."""
    foreign = TOPIC.replace("123456789012", "999999999999")
    assert await edge.sns(SIGNER.message(ses_event(), TopicArn=foreign)) == 403
    assert await edge.sns(SIGNER.message("confirm", "SubscriptionConfirmation", TopicArn=foreign)) == 403
    assert edge.internet.asked == []


async def test_confirms_a_subscription_of_its_own_topic_only_at_amazon(edge: Edge) -> None:
    """The signed SubscribeURL is fetched, but not from an address that is not SNS's."""
    url = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&Token=t"
    edge.internet.pages[url] = b"<ConfirmSubscriptionResponse/>"
    assert await edge.sns(SIGNER.message("confirm", "SubscriptionConfirmation", SubscribeURL=url)) == 200
    assert edge.internet.asked[-1] == url
    elsewhere = "https://evil.example/?Action=ConfirmSubscription"
    assert await edge.sns(SIGNER.message("confirm", "SubscriptionConfirmation", SubscribeURL=elsewhere)) == 403
    assert elsewhere not in edge.internet.asked
    assert await edge.sns(SIGNER.message("bye", "UnsubscribeConfirmation")) == 200


async def test_refuses_what_is_stale_and_takes_what_is_late(edge: Edge) -> None:
    """SNS repeats for hours; a day later it is a replay. A clock ahead of ours is borne for a quarter of an hour."""

    def at(delta: timedelta) -> dict[str, Any]:
        return SIGNER.message(ses_event(), Timestamp=(datetime.now(UTC) + delta).isoformat())

    assert await edge.sns(at(-timedelta(hours=23))) == 200
    assert await edge.sns(at(-timedelta(hours=25))) == 403
    assert await edge.sns(at(timedelta(minutes=10))) == 200
    assert await edge.sns(at(timedelta(minutes=20))) == 403
    assert len(edge.notices.recorded) == 2


async def test_a_replayed_message_is_the_same_event(edge: Edge) -> None:
    """The same ce_id, whatever envelope it comes in; another occurrence is another event."""
    message = SIGNER.message(ses_event("Bounce", **bounce()))
    for one in (message, message, SIGNER.message(ses_event("Bounce", **bounce())), SIGNER.message(ses_event())):
        assert await edge.sns(one) == 200
    first, second, third, other = edge.notices.recorded
    assert first.id == second.id == third.id != other.id


async def test_refuses_what_is_oversized_or_slow(edge: Edge) -> None:
    """By its length, by its bytes when it names none, and when they do not come."""
    big = b"x" * (SNS_BYTES + 1)
    assert (await edge.client.post("/callbacks/ses", data=big)).status == 413
    assert (await edge.client.post("/callbacks/slack", data=b"x" * (MESSAGE_BYTES + 1))).status == 413

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(SNS_BYTES // 50_000 + 1):
            yield b"x" * 50_000

    assert (await edge.client.post("/callbacks/ses", data=parts())).status == 413

    async def slowly() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(10)

    assert (await edge.client.post("/callbacks/ses", data=slowly())).status == 408


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'{"Type": "Notification"}', b"\xff\xfe", b"{" * 10_000])
async def test_refuses_garbage(edge: Edge, body: bytes) -> None:
    """Each with 4xx, on every route."""
    assert (await edge.client.post("/callbacks/ses", data=body)).status == 400
    assert (await edge.client.post("/callbacks/slack", data=body, headers=slack_headers(body))).status in (200, 400)
    assert (await edge.client.post("/callbacks/discord", data=body, headers=discord_headers(DISCORD, body))).status == 400
    assert edge.notices.recorded == []


async def test_answers_503_when_it_cannot_be_recorded(edge: Edge) -> None:
    """Kafka or the certificate away: SNS sends it again, and then it is taken."""
    message = SIGNER.message(ses_event())
    edge.internet.pages.clear()
    assert await edge.sns(message) == 503
    edge.internet.pages[CERTIFICATE_URL] = SIGNER.pem
    edge.notices.fails = True
    assert await edge.sns(message) == 503
    edge.notices.fails = False
    assert await edge.sns(message) == 200
    assert len(edge.notices.recorded) == 1


async def test_asks_amazon_for_few_certificates(edge: Edge) -> None:
    """A flood of forged addresses within SNS costs at most so many requests a minute; and no memory."""
    for number in range(FETCHES + 20):
        url = CERTIFICATE_URL.replace("0123456789abcdef", f"{number:016x}")
        assert await edge.sns(SIGNER.message(ses_event(), SigningCertURL=url)) == 503
    assert len(edge.internet.asked) == FETCHES


async def test_a_flood_of_forged_addresses_does_not_keep_a_known_certificate_out() -> None:
    """A day later the certificate is fetched again, although all that strangers may ask for is used up."""
    clock, internet = Days(), Web(**{CERTIFICATE_URL: SIGNER.pem})
    sns = Sns(Settings(sns_topics=TOPIC), internet.fetch, clock)
    message = SIGNER.message(ses_event())
    await sns.open(json.dumps(message).encode(), timedelta(days=9))
    clock.passed += timedelta(days=1, seconds=1)
    for number in range(FETCHES + 1):
        url = CERTIFICATE_URL.replace("0123456789abcdef", f"{number:016x}")
        with pytest.raises(Unavailable):
            await sns.open(json.dumps(message | {"SigningCertURL": url}).encode(), timedelta(days=9))
    assert await sns.open(json.dumps(message).encode(), timedelta(days=9)) == message
    assert internet.asked.count(CERTIFICATE_URL) == 2


class Days:
    """A clock that is set on."""

    def __init__(self) -> None:
        self.passed = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return 1_000.0 + self.passed.total_seconds()


async def test_refuses_an_expired_certificate_and_what_is_none(edge: Edge) -> None:
    """Amazon's old keys count for nothing."""
    old = Signer(valid=-timedelta(days=1))
    edge.internet.pages[CERTIFICATE_URL] = old.pem
    assert await edge.sns(old.message(ses_event())) == 403
    edge.internet.pages[CERTIFICATE_URL] = b"<html>not found</html>"
    assert await edge.sns(SIGNER.message(ses_event())) == 403


async def test_takes_no_message_that_is_not_newswires(edge: Edge) -> None:
    """Other software may send through the same configuration set; opens and clicks of SES are not used."""
    foreign = ses_event().replace(DELIVERY, "something")
    for text in (foreign, ses_event("Open"), ses_event("Click"), ses_event("Subscription")):
        assert await edge.sns(SIGNER.message(text)) == 200
    assert edge.notices.recorded == []
    assert await edge.sns(SIGNER.message("no json")) == 400
    assert await edge.sns(SIGNER.message(ses_event("Bounce", bounceType="Permanent"))) == 400


def test_refuses_a_sandbox_that_signs_in_production() -> None:
    """Whoever may sign as the sandbox could put any address on the suppression list."""
    with pytest.raises(SetupError, match="NEWSWIRE_SNS_SANDBOX_URL"):
        Sns(Settings(live=True, sns_sandbox_url="http://127.0.0.1:1/"), Web().fetch, SystemClock())
