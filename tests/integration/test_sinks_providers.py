"""Every provider over real sockets, with its real client: the sandbox, and servers that answer whatever a test wants.

What each answer means is in test_sinks_answers.py.
"""

import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier

from core.errors import SetupError
from core.outcomes import Dead, Retry, Sent, Unknown
from runtime.settings import Settings
from sinks.addresses import DENIED
from sinks.discord import Discord
from sinks.provider import Prepared, Provider
from sinks.ses import Ses
from sinks.slack import Slack
from sinks.webhook import Webhook
from tests import fix_sandbox
from tests.fix_sandbox import SandboxProcess
from tests.sinks_samples import SECRET, Answers, address, alert, free_port, http, opened, prepared, provider_settings

sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox
LOST = Unknown("answer_lost")


CHANNELS = ("email", "slack", "discord", "webhook")


@pytest.mark.parametrize("channel", CHANNELS)
async def test_sends_newsletters_and_alerts_to_the_sandbox(channel: str, sandbox: SandboxProcess) -> None:
    """The sandbox checks requests as the provider does; each message is one request and has a receipt of its own."""
    async with opened(channel, sandbox.url) as provider:
        made = [prepared(provider, address(channel, sandbox.url)), prepared(provider, address(channel, sandbox.url), alert())]
        outcomes = [(await provider.call([one]))[0] for one in made]
    assert all(isinstance(o, Sent) and o.receipt for o in outcomes), outcomes
    assert len({o.receipt for o in outcomes if isinstance(o, Sent)}) == 2
    lines = sandbox.lines()
    assert [line["outcome"] for line in lines[-2:]] == ["accepted", "accepted"]


async def test_sends_fifty_mails_in_one_call(sandbox: SandboxProcess) -> None:
    """The layout once, the data of each entry apart; what one entry's status says holds for that entry."""
    async with opened("email", sandbox.url) as provider:
        group = [prepared(provider, f"a{n}@example.org") for n in range(50)]
        sandbox.fault("ses", "partial", code="TRANSIENT_FAILURE", only=group[7].message.delivery.delivery_id)
        outcomes = await provider.call(group)
    assert isinstance(outcomes[7], Retry)
    assert all(isinstance(o, Sent) for n, o in enumerate(outcomes) if n != 7)
    assert sandbox.counts()["ses"] == 49
    assert len({line["request"] for line in sandbox.lines()}) == 1


@pytest.mark.parametrize("channel", CHANNELS)
async def test_takes_a_refused_connection_for_passing(channel: str) -> None:
    """Nothing was asked, so it is tried again later: a provider that is down fails nothing."""
    url = f"http://127.0.0.1:{free_port()}"
    async with opened(channel, url) as provider:
        assert await provider.call([prepared(provider, address(channel, url))]) == [Retry(1.0, "unreachable")]


async def test_a_reset_after_the_request_is_unknown_although_botocore_says_it_could_not_connect() -> None:
    """aiobotocore maps a reset connection and a refused one to the same error; the one inside tells them apart."""
    from aiohttp import ClientConnectorError, ClientOSError
    from aiohttp.client_reqrep import ConnectionKey
    from botocore.exceptions import EndpointConnectionError

    from sinks.ses import connection_outcome

    key = ConnectionKey("h", 1, False, True, None, None, None)
    refused = EndpointConnectionError(endpoint_url="u", error=ClientConnectorError(key, OSError(111, "refused")))
    reset = EndpointConnectionError(endpoint_url="u", error=ClientOSError(104, "reset"))
    assert connection_outcome(refused) == Retry(1.0, "unreachable")
    assert connection_outcome(reset) == LOST


async def test_a_bad_request_of_many_entries_is_tried_one_by_one() -> None:
    """One entry may have spoiled the call for all: each goes alone next time, and only the bad one fails."""
    async with (
        Answers(http(400, "{}", x_amzn_ErrorType="BadRequestException")) as server,
        opened("email", server.url) as provider,
    ):
        group = [prepared(provider, f"a{n}@example.org") for n in range(3)]
        assert len({provider.group(p.message) for p in group}) == 1
        assert await provider.call(group) == [Retry(0.0, "bad_request")] * 3
        assert len({provider.group(p.message) for p in group}) == 3


async def test_identifies_a_delivery_to_each_provider() -> None:
    """By a tag, by metadata and client_msg_id, by an enforced nonce, by the webhook-id."""
    found: dict[str, tuple[bytes, Prepared]] = {}
    for channel in CHANNELS:
        async with Answers(http(500)) as server, opened(channel, server.url) as provider:
            one = prepared(provider, address(channel, server.url))
            await provider.call([one])
            found[channel] = (server.requests[0], one)

    def body(channel: str) -> Any:
        return json.loads(found[channel][0].split(b"\r\n\r\n", 1)[1])

    ids = {channel: found[channel][1].message.delivery for channel in CHANNELS}
    assert {"Name": "delivery_id", "Value": ids["email"].delivery_id} in body("email")["BulkEmailEntries"][0]["ReplacementTags"]
    assert body("slack")["metadata"]["event_payload"]["delivery_id"] == ids["slack"].delivery_id
    assert body("slack")["client_msg_id"] == ids["slack"].uuid
    assert body("discord")["enforce_nonce"] is True
    assert len(body("discord")["nonce"]) == 22
    assert body("discord")["allowed_mentions"] == {"parse": []}
    assert f"webhook-id: {ids['webhook'].delivery_id}".encode() in found["webhook"][0]


async def test_signs_every_attempt_of_a_webhook_under_the_same_id() -> None:
    """Same id and payload, a signature of its own for each attempt that the specification's library accepts."""
    async with Answers(http(500)) as server, opened("webhook", server.url) as provider:
        one = prepared(provider, address("webhook", server.url))
        await provider.call([one])
        await provider.call([one])
        for raw in server.requests:
            head, payload = raw.split(b"\r\n\r\n", 1)
            lines = [line.decode().split(": ", 1) for line in head.split(b"\r\n")[1:]]
            Verifier(SECRET).verify(payload, {name.lower(): value for name, value in lines})
        assert server.requests[0].split(b"\r\n\r\n")[1] == server.requests[1].split(b"\r\n\r\n")[1]


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "[::1]", "169.254.169.254", "10.0.0.1", "2130706433", "[::ffff:127.0.0.1]"]
)
async def test_never_connects_to_a_private_address(host: str) -> None:
    """https to a name or literal that ends on this machine or network is refused before a byte is sent, also when live."""
    live = {"live": True, "allow_list": "*", "webhook_allow_http_loopback": False}
    async with opened("webhook", "http://127.0.0.1:1", **live) as provider:
        one = prepared(provider, json.dumps({"url": f"https://{host}:1/x", "secret": SECRET}))
        assert await provider.call([one]) == [Dead("invalid_address")]


async def test_speaks_plain_http_to_this_machine_only_and_only_when_allowed() -> None:
    """A public http address is refused; without the setting loopback is too; a sandbox never speaks https to the world."""
    async with opened("webhook", "http://127.0.0.1:1") as provider:
        public = prepared(provider, json.dumps({"url": "http://93.184.215.14/x", "secret": SECRET}))
        assert await provider.call([public]) == [Dead("invalid_address")]
        secure = prepared(provider, json.dumps({"url": "https://93.184.215.14/x", "secret": SECRET}))
        assert await provider.call([secure]) == [Dead("invalid_address")]
    live = Webhook(Settings(live=True, allow_list="*"))
    assert prepared(live, json.dumps({"url": "http://127.0.0.1/x", "secret": SECRET})).body == Dead("invalid_address")
    assert len(DENIED) > 25


def test_webhooks_are_not_for_real_and_to_this_machine_at_once() -> None:
    """With both, a subscriber's http address of this machine would be called: https only holds whenever it is for real."""
    with pytest.raises(SetupError, match="NEWSWIRE_WEBHOOK_ALLOW_HTTP_LOOPBACK are both on"):
        Webhook(provider_settings("http://127.0.0.1:1", live=True))


@pytest.mark.parametrize(
    ("make", "url_setting"), [(Ses, "ses_endpoint_url"), (Slack, "slack_base_url"), (Discord, "discord_base_url")]
)
def test_a_real_provider_needs_live(make: Callable[[Settings], Provider], url_setting: str) -> None:
    """The sandbox's address removed: SetupError, which names the variable."""
    with pytest.raises(SetupError, match=url_setting.upper()):
        make(replace(provider_settings("http://127.0.0.1:1"), **{url_setting: ""}))
    assert uuid.UUID(prepared(make(provider_settings("http://x")), "x").message.delivery.uuid)
