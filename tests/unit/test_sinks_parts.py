"""The pure parts of the sinks: offsets, grouping, deliveries, guards, tables."""

import asyncio
import json
import uuid
from collections.abc import Hashable
from datetime import UTC, datetime
from typing import ClassVar, cast

import orjson
import pytest

from core.errors import EventRefused, SetupError
from core.ids import discord_nonce
from core.names import CHANNELS
from core.outcomes import Dead, Outcome, Retry, Unknown
from core.rendering.email import newsletter_entry
from runtime.settings import Settings
from sinks.addresses import may_connect
from sinks.calls import grouped
from sinks.delivery import Delivery
from sinks.flight import Flight
from sinks.offsets import Offsets
from sinks.provider import Message, Provider, Sender, allowed, retry_after_s
from sinks.registry import PROVIDERS
from sinks.ses import refusal
from sinks.settle import gather
from sinks.statements import literal, text_literal
from sinks.webhook import parse_endpoint
from tests.rendering_samples import content
from tests.sinks_samples import delivery, issue, prepared, provider_settings, request

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
SECRET = "whsec_bmV3c3dpcmUtZGVtby1zZWNyZXQtb2YtMzItYnl0ZXM="


def test_commits_up_to_the_lowest_unfinished_record() -> None:
    """What ends early waits for what came before it; nothing is committed twice."""
    offsets = Offsets()
    offsets.assign(0)
    first, second, third = (offsets.begin(0, n) for n in (10, 11, 12))
    assert first is not None
    assert second is not None
    assert third is not None
    assert offsets.committable() == {}
    offsets.finish(second)
    assert offsets.committable() == {}
    offsets.finish(first)
    assert offsets.committable() == {0: 12}
    offsets.committed({0: 12})
    offsets.finish(third)
    assert offsets.committable() == {0: 13}


def test_ignores_what_ends_after_its_partition_was_taken_away() -> None:
    """The next owner, or a later assignment of the same partition, is not affected."""
    offsets = Offsets()
    assert offsets.begin(0, 1) is None
    offsets.assign(0)
    old = offsets.begin(0, 1)
    assert old is not None
    offsets.revoke(0)
    assert not offsets.holds(old)
    offsets.assign(0)
    again = offsets.begin(0, 1)
    offsets.finish(old)
    assert again is not None
    assert offsets.committable() == {}
    offsets.finish(again)
    assert offsets.committable() == {0: 2}


def test_counts_what_is_in_hand() -> None:
    """By partition, with what is just being claimed; a delivery that was taken over is not let go by its old self."""
    flight = Flight(10)
    flight.offsets.assign(0)
    one = delivery()
    one.position = flight.offsets.begin(0, 5)
    flight.take(one)
    with flight.claiming():
        assert (flight.in_hand(None), flight.in_hand({0}), flight.in_hand({1}), flight.room) == (2, 2, 1, 9)
    flight.leaving.add(0)
    assert not flight.may_start(one)
    again = Delivery.of(one.request, b"", None)
    flight.take(again)
    flight.finish(one)
    assert flight.in_hand(None) == 1
    assert flight.may_start(again)
    flight.finish(again)
    assert len(flight) == 0


class Pairs:
    """A provider that takes two messages of one newsletter in a call."""

    entries: ClassVar[int] = 2

    def group(self, message: Message) -> Hashable:
        """Return the newsletter."""
        return message.delivery.newsletter_id


def messages(*of: tuple[str, str]) -> list[Message]:
    """Messages to (subscriber, newsletter)."""
    ids = {name: str(uuid.uuid5(uuid.NAMESPACE_DNS, name)) for name, _ in of}
    return [Message(delivery(ids[name], newsletter_id=newsletter), name, issue(), Sender("", "")) for name, newsletter in of]


def names(groups: list[list[Message]]) -> list[list[str]]:
    """Subscriber and newsletter of each message."""
    return [[f"{m.address}{m.delivery.newsletter_id}" for m in group] for group in groups]


def test_puts_messages_together_up_to_the_limit() -> None:
    """Of one newsletter, in order."""
    made = grouped(cast(Provider, Pairs()), messages(("a", "1"), ("b", "2"), ("c", "1"), ("d", "1"), ("e", "2")))
    assert names(made) == [["a1", "c1"], ["b2", "e2"], ["d1"]]


def test_keeps_the_order_of_one_subscriber_across_groups() -> None:
    """b's second message may not overtake its first although its newsletter's group was open before."""
    made = grouped(cast(Provider, Pairs()), messages(("a", "2"), ("b", "1"), ("b", "2")))
    assert names(made) == [["a2"], ["b1"], ["b2"]]


async def test_a_whole_batch_waits_for_nothing_more() -> None:
    """What comes one by one waits for company; once as many are there as fit, they go, however long the wait may be."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    for number in range(4):
        queue.put_nowait(number)
    assert await asyncio.wait_for(gather(queue, 3, linger_s=3_600.0), 60.0) == [0, 1, 2]
    assert await asyncio.wait_for(gather(queue, 3, linger_s=0.01), 60.0) == [3]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("delivery_id", "x"),
        ("delivery_id", "20200101-8ccdc424-1e2f-4307-b92a-979aa2e2e153"),
        ("subscriber_id", "someone"),
        ("source_id", "a\0b"),
    ],
)
def test_refuses_what_cannot_be_a_key_of_the_ledger(field: str, value: str) -> None:
    """The message names the field; one bad record must not fail a batch in the database."""
    with pytest.raises(EventRefused, match=field):
        Delivery.of({**request(), field: value}, b"", None)


def test_writes_array_literals_that_keep_any_text() -> None:
    """Quotes and backslashes are escaped, None is NULL and the text NULL is quoted."""
    assert text_literal(["a", None, "NULL", 'q"', "b\\", "{,}"]) == '{"a",NULL,"NULL","q\\"","b\\\\","{,}"}'
    assert literal(["1", "2"]) == "{1,2}"


def test_every_channel_has_a_provider_that_refuses_to_be_real_by_default() -> None:
    """Without a sandbox's address and without `live` nothing can be made that could send."""
    assert set(PROVIDERS) == set(CHANNELS)
    for channel, make in PROVIDERS.items():
        with pytest.raises(SetupError, match="NEWSWIRE_"):
            make(Settings())
        provider = make(Settings(live=True, slack_token="x", discord_token="x"))
        assert provider.channel == channel
        assert provider.entries >= 1


def test_real_recipients_must_be_on_the_allow_list() -> None:
    """With `live` nobody by default; * is everybody; in a sandbox the list does not matter."""
    assert allowed(Settings(), "a@example.org")
    assert not allowed(Settings(live=True), "a@example.org")
    assert allowed(Settings(live=True, allow_list="b@x, A@example.org"), "a@EXAMPLE.org ")
    assert allowed(Settings(live=True, allow_list="*"), "anyone")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3", 3.0), ("0.5", 0.5), ("Sun, 22 Nov 2026 09:00:30 GMT", 30.0), ("Sun, 22 Nov 2026 08:00:00 GMT", 0.0), ("soon", 1.0),
     (None, 1.0),
     ("99999999", 86_400.0),
     ("9999999999", 86_400.0), ("9" * 400 + ".12345678", 86_400.0), ("-5", 1.0), ("Sun, 22 Nov 2026 09:00:30", 1.0)],
)  # fmt: skip
def test_reads_retry_after(text: str | None, seconds: float) -> None:
    """A number or a date; what cannot be read is a second, what is beyond a day is a day."""
    assert retry_after_s(text, NOW) == seconds


DENIED = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.9.9.9", "169.254.169.254", "172.31.255.255", "192.0.0.8", "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1", "198.19.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1",
    "::7f00:1",
    "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1",
    "64:ff9b::a00:1", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:a00:1::",
    "3fff::1",
    "5f00::1", "fc00::1", "fd12::1", "fe80::1%eth0", "fec0::1", "ff02::1", "not an address",
]  # fmt: skip


@pytest.mark.parametrize("address", DENIED)
def test_never_connects_to_what_is_not_public(address: str) -> None:
    """Every special-purpose range, also those that ipaddress.is_global of Python 3.11 passes."""
    assert not may_connect(address, loopback=False)


def test_connects_to_public_addresses_and_with_loopback_to_this_machine_only() -> None:
    """The two sessions share nothing."""
    assert all(may_connect(a, loopback=False) for a in ("8.8.8.8", "2606:4700::1111", "100.63.0.1", "172.32.0.1"))
    assert [may_connect(a, loopback=True) for a in ("127.0.0.1", "::1", "8.8.8.8", "10.0.0.1")] == [True, True, False, False]


@pytest.mark.parametrize(
    "address",
    ["x", "[]", "{}", '{"url": "https://a.example/"}', f'{{"url": "ftp://a.example/", "secret": "{SECRET}"}}',
     f'{{"url": "https://u:p@a.example/", "secret": "{SECRET}"}}', '{"url": "https://a.example/", "secret": "whsec_c2hvcnQ="}',
     f'{{"url": "https:///x", "secret": "{SECRET}"}}', f'{{"url": "https://a.example:99999/", "secret": "{SECRET}"}}',
     f'{{"url": "https://a.example/", "secret": "{SECRET[6:]}"}}'],
)  # fmt: skip
def test_refuses_an_endpoint_that_is_none(address: str) -> None:
    """Scheme, host, port, user, and a secret of 24 to 64 bytes."""
    assert parse_endpoint(address) is None


SES_ERRORS: list[tuple[str, str, int, int, Outcome]] = [
    ("TooManyRequestsException", "Maximum sending rate exceeded", 429, 50, Retry(1.0, "throttled")),
    ("ThrottlingException", "Daily message quota exceeded", 400, 50, Retry(900.0, "throttled")),
    ("LimitExceededException", "", 400, 50, Retry(60.0, "throttled")),
    ("AccountSuspendedException", "", 400, 50, Retry(60.0, "account")),
    ("SendingPausedException", "", 400, 50, Retry(60.0, "account")),
    ("MailFromDomainNotVerifiedException", "", 400, 50, Retry(60.0, "account")),
    ("NotFoundException", "", 404, 50, Retry(60.0, "account")),
    ("MessageRejected", "", 400, 50, Retry(0.0, "bad_request")),
    ("MessageRejected", "", 400, 1, Dead("rejected")),
    ("BadRequestException", "", 400, 50, Retry(0.0, "bad_request")),
    ("BadRequestException", "", 400, 1, Dead("rejected")),
    ("UnrecognizedClientException", "", 403, 50, Retry(60.0, "account")),
    ("InternalFailure", "", 500, 50, Retry(1.0, "provider_error")),
    ("", "", 503, 50, Retry(1.0, "provider_error")),
    ("", "", 200, 50, Unknown("answer_lost")),
    ("RequestEntityTooLarge", "", 413, 1, Dead("too_large")),
]


@pytest.mark.parametrize(("code", "text", "status", "entries", "outcome"), SES_ERRORS)
def test_classifies_a_refused_ses_call(code: str, text: str, status: int, entries: int, outcome: Outcome) -> None:
    """One row an error of the whole call."""
    response = {"Error": {"Code": code, "Message": text}, "ResponseMetadata": {"HTTPStatusCode": status}}
    assert refusal(response, entries) == outcome


SANDBOX = Settings(
    ses_endpoint_url="http://127.0.0.1:1/ses", slack_base_url="http://127.0.0.1:1/", discord_base_url="http://127.0.0.1:1",
    webhook_allow_http_loopback=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("channel", "address"),
    [("email", "nobody"), ("email", "a@b\r\nBcc: c@d.example"), ("email", "ü@example.org"), ("slack", "#general"),
     ("discord", "general"),
     ("discord", "9" * 40), ("webhook", "https://a.example")],
)  # fmt: skip
def test_refuses_an_address_before_any_call(channel: str, address: str) -> None:
    """What the provider could never take is a failure, and no request is made for it."""
    assert prepared(PROVIDERS[channel](SANDBOX), address).body == Dead("invalid_address")


def test_tags_of_ses_hold_only_what_ses_allows() -> None:
    """Letters, digits, _ and -, at most 256; the delivery id goes unchanged."""
    provider = PROVIDERS["email"](SANDBOX)
    one = prepared(provider, "a@example.org", newsletter_id="hep/ph: daily " + "x" * 300)
    tags = {t["Name"]: t["Value"] for t in one.body["ReplacementTags"]}
    assert tags["delivery_id"] == one.message.delivery.delivery_id
    assert tags["newsletter_id"].startswith("hep_ph__daily_")
    assert all(len(v) <= 256 and v.replace("_", "a").replace("-", "a").isalnum() and v.isascii() for v in tags.values())


def test_the_nonce_of_a_delivery_is_short_and_its_own() -> None:
    """22 characters of the 25 that Discord takes."""
    one, other = delivery().delivery_id, delivery().delivery_id
    assert len(discord_nonce(one)) == 22
    assert discord_nonce(one) == discord_nonce(one) != discord_nonce(other)


def test_the_data_of_a_mail_is_quoted_in_parts_and_reads_as_a_whole() -> None:
    """Quotes, backslashes, line ends and any script reach SES as they are, also the second time, when parts are at hand."""
    ses = PROVIDERS["email"](provider_settings("http://127.0.0.1:9"))
    one = issue(content(1, title='A "quoted" \\ title\n', summary="ключ 🔑 </p>"), content(2))
    for _ in range(2):
        body = orjson.loads(orjson.dumps(prepared(ses, "ada@example.org", one).body))
        data = body["ReplacementEmailContent"]["ReplacementTemplate"]["ReplacementTemplateData"]
        assert json.loads(data) == newsletter_entry(one)
