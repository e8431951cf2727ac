"""The sandbox's SES, spoken to by aiobotocore."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError, HTTPClientError, ReadTimeoutError

from tests import fix_sandbox
from tests.fix_sandbox import SandboxProcess

sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox

TEMPLATE = {"Subject": "{{subject}}", "Text": "Hello {{name}}", "Html": "<p>Hello {{name}}</p>{{items}}"}


@pytest.fixture
async def ses(sandbox: SandboxProcess) -> AsyncIterator[Any]:
    """A client that sends exactly one request a call."""
    config = AioConfig(retries={"total_max_attempts": 1}, read_timeout=20, parameter_validation=False)
    session = get_session()
    async with session.create_client(
        "sesv2",
        region_name="eu-west-1",
        endpoint_url=sandbox.url + "/ses",
        aws_access_key_id="sandbox",
        aws_secret_access_key="sandbox",
        config=config,
    ) as client:
        yield client


def entry(number: int, **data: Any) -> dict[str, Any]:
    """An entry of a bulk call; data replaces the template's values."""
    values = {"subject": f"Issue {number}", "name": "Ada", "items": "<ul><li>one</li></ul>"} | data
    return {
        "Destination": {"ToAddresses": [f"reader{number}@example.org"]},
        "ReplacementEmailContent": {"ReplacementTemplate": {"ReplacementTemplateData": json.dumps(values)}},
        "ReplacementHeaders": [{"Name": "List-Unsubscribe", "Value": "<https://example.org/u/1>"}],
        "ReplacementTags": [{"Name": "delivery_id", "Value": f"20261123-{number:04d}"}],
    }


def call(*entries: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The arguments of SendBulkEmail."""
    return {
        "FromEmailAddress": "Daily <daily@newswire.example>",
        "DefaultContent": {"Template": {"TemplateContent": TEMPLATE, "TemplateData": "{}"}},
        "BulkEmailEntries": list(entries),
        "ConfigurationSetName": "newswire",
    } | more


async def test_sends_every_entry_of_a_bulk_call(ses: Any, sandbox: SandboxProcess) -> None:
    """Each entry has a status and a receipt of its own, and is counted under its delivery id."""
    answer = await ses.send_bulk_email(**call(*[entry(i) for i in range(50)]))
    results = answer["BulkEmailEntryResults"]
    assert [r["Status"] for r in results] == ["SUCCESS"] * 50
    assert len({r["MessageId"] for r in results}) == 50
    assert sandbox.counts()["ses"] == 50
    assert sandbox.counts("delivery_id")["20261123-0007"] == 1
    lines = sandbox.lines()
    assert {line["request"] for line in lines} == {1}
    assert len({line["digest"] for line in lines}) == 50
    assert "reader7@example.org" not in (sandbox.journal / "requests.jsonl").read_text()


async def test_substitutes_when_somebody_looks(ses: Any, sandbox: SandboxProcess) -> None:
    """The inbox shows the filled-in email with its headers and tags; like SES it escapes nothing."""
    await ses.send_bulk_email(**call(entry(1, name="<b>Ada</b>"), DefaultEmailTags=[{"Name": "source", "Value": "daily"}]))
    message = sandbox.ask("/inbox/messages?channel=email")["messages"][0]
    assert message["subject"] == "Issue 1"
    assert message["body"]["html"] == "<p>Hello <b>Ada</b></p><ul><li>one</li></ul>"
    assert message["body"]["text"] == "Hello <b>Ada</b>"
    assert ["List-Unsubscribe", "<https://example.org/u/1>"] in message["body"]["headers"]
    assert message["body"]["tags"] == {"source": "daily", "delivery_id": "20261123-0001"}


async def test_fails_only_the_entry_that_lacks_a_value(ses: Any, sandbox: SandboxProcess) -> None:
    """A placeholder without a value is a rendering failure of that entry; bad JSON and bad tags are invalid parameters."""
    lacking, broken, tagged = entry(2), entry(3), entry(4)
    lacking["ReplacementEmailContent"]["ReplacementTemplate"]["ReplacementTemplateData"] = '{"subject": "x", "items": ""}'
    broken["ReplacementEmailContent"]["ReplacementTemplate"]["ReplacementTemplateData"] = "{"
    tagged["ReplacementTags"][0]["Value"] = "a b"
    answer = await ses.send_bulk_email(**call(entry(1), lacking, broken, tagged))
    results = answer["BulkEmailEntryResults"]
    assert [r["Status"] for r in results] == ["SUCCESS", "FAILED", "INVALID_PARAMETER", "INVALID_PARAMETER"]
    assert "RenderingFailure" in results[1]["Error"]
    assert "'name'" in results[1]["Error"]
    assert sandbox.counts()["ses"] == 1
    assert sandbox.counts(outcome="refused")["ses"] == 3


async def test_takes_default_template_data(ses: Any) -> None:
    """A value that the entry lacks comes from the default data."""
    lacking = entry(2)
    lacking["ReplacementEmailContent"]["ReplacementTemplate"]["ReplacementTemplateData"] = '{"subject": "x", "items": ""}'
    content = {"Template": {"TemplateContent": TEMPLATE, "TemplateData": '{"name": "Reader"}'}}
    answer = await ses.send_bulk_email(**call(lacking, DefaultContent=content))
    assert answer["BulkEmailEntryResults"][0]["Status"] == "SUCCESS"


def _too_long() -> dict[str, Any]:
    return entry(1, items="x" * 262_144)


def _bad_header(name: str, value: str) -> dict[str, Any]:
    return entry(1) | {"ReplacementHeaders": [{"Name": name, "Value": value}]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (call(*[entry(i) for i in range(51)]), "maximum is 50"),
        (call(), "must not be empty"),
        (call(_too_long()), "262144"),
        (call(_bad_header("X y", "z")), r"\^\[!-9;-@A-~]\+\$"),
        (call(_bad_header("X", "z" * 996)), "1 to 995"),
        (call(_bad_header("X", "ä")), "1 to 995"),
        (call(entry(1), FromEmailAddress="nobody"), "FromEmailAddress"),
        (
            call(entry(1), DefaultContent={"Template": {"TemplateContent": {"Subject": "a", "Html": "{{#if x}}y{{/if}}"}}}),
            "simple substitution",
        ),
        (
            call(entry(1), DefaultContent={"Template": {"TemplateContent": {"Subject": "a", "Html": "x" * 1_000_001}}}),
            "larger than",
        ),
        (call(entry(1), DefaultEmailTags=[{"Name": "a", "Value": "b.c"}]), "Tag a"),
    ],
)
async def test_refuses_a_call_beyond_the_limits(ses: Any, sandbox: SandboxProcess, arguments: dict[str, Any], words: str) -> None:
    """What the service model limits refuses the whole call with a BadRequestException."""
    with pytest.raises(ses.exceptions.BadRequestException, match=words):
        await ses.send_bulk_email(**arguments)
    assert sandbox.counts()["ses"] == 0


async def test_send_email_takes_simple_content(ses: Any, sandbox: SandboxProcess) -> None:
    """SendEmail, as for an alert."""
    content = {"Simple": {"Subject": {"Data": "Alert"}, "Body": {"Html": {"Data": "<b>{{not a placeholder}}</b>"}}}}
    answer = await ses.send_email(
        FromEmailAddress="a@newswire.example",
        Destination={"ToAddresses": ["b@example.org"]},
        Content=content,
        EmailTags=[{"Name": "delivery_id", "Value": "one"}],
    )
    assert answer["MessageId"]
    assert sandbox.counts("delivery_id") == {"one": 1}
    assert sandbox.ask("/inbox/messages")["messages"][0]["body"]["html"] == "<b>{{not a placeholder}}</b>"


async def test_reports_the_rate_and_suppresses_addresses(ses: Any, sandbox: SandboxProcess) -> None:
    """GetAccount has the rate that can be set, and the suppression list keeps what was put there."""
    assert (await ses.get_account())["SendQuota"]["MaxSendRate"] == 500.0
    sandbox.ask("/control/limits", {"provider": "ses", "per_second": 14, "on": False})
    assert (await ses.get_account())["SendQuota"]["MaxSendRate"] == 14.0
    await ses.put_suppressed_destination(EmailAddress="reader1@example.org", Reason="BOUNCE")
    found = await ses.get_suppressed_destination(EmailAddress="reader1@example.org")
    assert found["SuppressedDestination"]["Reason"] == "BOUNCE"
    await ses.send_bulk_email(**call(entry(1)))
    assert "suppression list" in sandbox.ask("/inbox/messages")["messages"][0]["body"]["note"]


async def test_throttles_and_fails_in_the_providers_words(ses: Any, sandbox: SandboxProcess) -> None:
    """A throttle is TooManyRequestsException without Retry-After, an error a 500, a refusal MessageRejected."""
    sandbox.fault("ses", "throttle", count=1)
    with pytest.raises(ses.exceptions.TooManyRequestsException) as throttled:
        await ses.send_bulk_email(**call(entry(1)))
    assert throttled.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429
    assert "retry-after" not in throttled.value.response["ResponseMetadata"]["HTTPHeaders"]
    sandbox.fault("ses", "error", count=1, status=503)
    with pytest.raises(ClientError) as failed:
        await ses.send_bulk_email(**call(entry(1)))
    assert failed.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    sandbox.fault("ses", "refuse", count=1)
    with pytest.raises(ses.exceptions.MessageRejected):
        await ses.send_bulk_email(**call(entry(1)))
    assert sandbox.counts()["ses"] == 0
    assert sandbox.counts(outcome="refused")["ses"] == 3
    assert (await ses.send_bulk_email(**call(entry(1))))["BulkEmailEntryResults"][0]["Status"] == "SUCCESS"


async def test_drops_after_accepting(ses: Any, sandbox: SandboxProcess) -> None:
    """The recipient has the message although the client got no answer; sending again is a duplicate."""
    sandbox.fault("ses", "drop_after_accept", count=1)
    with pytest.raises((ConnectionClosedError, HTTPClientError, EndpointConnectionError)):
        await ses.send_bulk_email(**call(entry(1)))
    assert sandbox.counts("delivery_id") == {"20261123-0001": 1}
    await ses.send_bulk_email(**call(entry(1)))
    assert sandbox.ask("/control/duplicates") == {"20261123-0001": 2}
    first, second = sandbox.lines()
    assert first["digest"] == second["digest"]


@pytest.mark.parametrize("kind", ["drop_before_accept", "timeout"])
async def test_gives_no_answer_and_accepts_nothing(ses: Any, sandbox: SandboxProcess, kind: str) -> None:
    """The client cannot tell, and the recipient has nothing."""
    sandbox.fault("ses", kind, count=1, delay_s=0.5)
    with pytest.raises((ConnectionClosedError, HTTPClientError, EndpointConnectionError, ReadTimeoutError)):
        await ses.send_bulk_email(**call(entry(1)))
    assert sandbox.counts()["ses"] == 0
    assert sandbox.lines()[0]["status"] == 0


async def test_partial_fails_the_entries_it_names(ses: Any, sandbox: SandboxProcess) -> None:
    """Of one call the entries that the fault names fail, and the others are sent."""
    sandbox.fault("ses", "partial", only="reader2@", status="ACCOUNT_THROTTLED")
    answer = await ses.send_bulk_email(**call(entry(1), entry(2), entry(3)))
    assert [r["Status"] for r in answer["BulkEmailEntryResults"]] == ["SUCCESS", "ACCOUNT_THROTTLED", "SUCCESS"]
    sandbox.ask("/control/faults", method="DELETE")
    sandbox.fault("ses", "partial", share=0.5)
    answer = await ses.send_bulk_email(**call(*[entry(i) for i in range(50)]))
    failed = sum(r["Status"] == "TRANSIENT_FAILURE" for r in answer["BulkEmailEntryResults"])
    assert 10 < failed < 40


async def test_slow_body_sends_headers_at_once(ses: Any, sandbox: SandboxProcess) -> None:
    """The message is accepted before the body comes."""
    sandbox.fault("ses", "slow_body", delay_s=0.5, count=1)
    began = time.monotonic()
    answer = await ses.send_bulk_email(**call(entry(1)))
    assert time.monotonic() - began > 0.45
    assert answer["BulkEmailEntryResults"][0]["Status"] == "SUCCESS"


async def test_rate_is_enforced_only_when_switched_on(ses: Any, sandbox: SandboxProcess) -> None:
    """Recipients are counted, not calls."""
    sandbox.ask("/control/limits", {"provider": "ses", "per_second": 0.5, "burst": 20})
    await ses.send_bulk_email(**call(*[entry(i) for i in range(20)]))
    with pytest.raises(ses.exceptions.TooManyRequestsException):
        await ses.send_bulk_email(**call(*[entry(i) for i in range(20)]))
    sandbox.ask("/control/limits", {"provider": "ses", "per_second": None})
    await ses.send_bulk_email(**call(*[entry(i) for i in range(20)]))


async def test_refuses_what_is_malformed(sandbox: SandboxProcess) -> None:
    """Wrong types and missing signatures are typed errors, not a server failure."""
    import aiohttp

    signed = {"Authorization": "AWS4-HMAC-SHA256 x"}
    address = sandbox.url + "/ses/v2/email/outbound-bulk-emails"
    cases: list[tuple[Any, dict[str, str], int, str]] = [
        (b"{", signed, 400, "SerializationException"),
        (b"[]", signed, 400, "SerializationException"),
        (json.dumps(call(entry(1)) | {"BulkEmailEntries": ["x"]}).encode(), signed, 400, "SerializationException"),
        (json.dumps(call(entry(1)) | {"DefaultContent": 3}).encode(), signed, 400, "SerializationException"),
        (json.dumps(call(entry(1))).encode(), {}, 403, "MissingAuthenticationTokenException"),
    ]
    async with aiohttp.ClientSession() as session:
        for body, headers, status, code in cases:
            async with session.post(address, data=body, headers=headers) as answer:
                assert (answer.status, answer.headers["x-amzn-errortype"]) == (status, code)
