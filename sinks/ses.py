"""Email through Amazon SES v2: SendBulkEmail, up to 50 messages a call.

Consumes messages of one layout (newsletter, its wording, language) a call; the layout goes once, in TemplateContent, and
an entry carries only what differs. Produces an outcome for each entry: HTTP 200 is no success, every entry's Status is.
Guarantee: one request a call, because the client's own retries are off. SES has no idempotency token: a lost answer is
unknown, and is resolved by the tag `delivery_id` when the SEND event comes.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import datetime
from email.utils import formataddr
from functools import partial
from typing import Any, ClassVar, Final

import orjson

from core.errors import RenderingFailed, Unavailable
from core.outcomes import Dead, Outcome, Refusal, Retry, Sent, Unknown, told
from core.rendering.catalogue import ALERT
from core.rendering.email import EmailLayout, alert_entry, alert_layout, newsletter_layout, newsletter_parts
from core.rendering.fragments import REASONED, FragmentCache
from core.rendering.model import Issue, Retraction
from core.rendering.text import header_value
from runtime.settings import Settings
from sinks.answers import SES_CALL, SES_ENTRY, meaning
from sinks.delivery import Delivery
from sinks.provider import (
    ACCOUNT_RETRY_S,
    CONNECT_TIMEOUT_S,
    PROVIDER_ERROR,
    SOON_S,
    UNREACHABLE,
    UNREADABLE,
    Limits,
    Message,
    Prepared,
    Sighting,
    Undecidable,
    http_outcome,
    kind_of,
    require_endpoint,
    transport_outcome,
    unreadable,
)

MAX_TEMPLATE_DATA: Final = 262_144
"""Characters of an entry's data (API reference of SendBulkEmail)."""
MAX_HEADER_VALUE: Final = 995
"""Characters of a header's value."""
BAD_REQUEST: Final = "bad_request"
"""Reason of a Retry after a call of several entries that SES refused as a whole."""
_BODY: Final = "newswire_body"
"""Where the body waits in a request's context while botocore makes the rest of the request."""
SUPPRESSION_REASONS: Final = {"bounced": "BOUNCE", "complained": "COMPLAINT"}
"""Our reason and SES's."""
_TAG: Final = re.compile(r"[^A-Za-z0-9_-]")
_PLAIN_TAG: Final = re.compile(r"[A-Za-z0-9_-]{1,256}").fullmatch
_ADDRESS: Final = re.compile(r"[\x21-\x3b\x3d\x3f-\x7e]{1,64}@[A-Za-z0-9.-]{1,255}")
"""Local parts must be ASCII (no SMTPUTF8), domains are in their ASCII form; whether it exists is SES's business."""

log = logging.getLogger(__name__)


class Ses:
    """SES of one region, or the sandbox's."""

    channel: ClassVar[str] = "email"
    entries: ClassVar[int] = 50
    calls: ClassVar[int] = 4

    def __init__(self, settings: Settings) -> None:
        require_endpoint(settings, settings.ses_endpoint_url, "NEWSWIRE_SES_ENDPOINT_URL", "email")
        self._settings = settings
        self._fragments, self._items = FragmentCache(), FragmentCache(REASONED)
        self._client: Any = None
        self._exit: Callable[[], Any] | None = None

    async def open(self) -> None:
        """Make the client. With an endpoint of its own it needs no credentials; Amazon's are found as botocore finds them."""
        from aiobotocore.config import AioConfig
        from aiobotocore.httpsession import AIOHTTPSession
        from aiobotocore.session import AioSession

        from sinks.last_look import trace

        class Looking(AIOHTTPSession):  # type: ignore[misc]  # the library has no types
            """Makes its aiohttp session by itself, at the first request, and has no setting for a trace."""

            async def _get_session(self, proxy_url: Any) -> Any:
                session = await super()._get_session(proxy_url)
                if not session.trace_configs:
                    session.trace_configs.append(trace())
                return session

        config = AioConfig(
            retries={"total_max_attempts": 1},
            parameter_validation=False,
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=self._settings.provider_timeout_s,
            max_pool_connections=self.calls,
            http_session_cls=Looking,
        )
        endpoint = self._settings.ses_endpoint_url
        sandbox = (
            {"endpoint_url": endpoint, "aws_access_key_id": "sandbox", "aws_secret_access_key": "sandbox"} if endpoint else {}
        )
        context = AioSession().create_client("sesv2", region_name=self._settings.ses_region, config=config, **sandbox)
        self._client = await context.__aenter__()
        events = self._client.meta.events
        events.register("provide-client-params.sesv2.SendBulkEmail", _keep_body)
        events.register("before-call.sesv2.SendBulkEmail", _put_body)
        self._exit = partial(context.__aexit__, None, None, None)

    async def close(self) -> None:
        """Close the client's connections."""
        if self._exit is not None:
            await self._exit()

    def recipient(self, address: str) -> str:
        """Return the mail address."""
        return address.strip()

    def group(self, message: Message) -> Hashable:
        """Return sender and layout. What was in a call that was a bad request goes alone: one entry may spoil it."""
        content = message.content
        alone = message.delivery.delivery_id if message.delivery.alone else ""
        if isinstance(content, Issue):
            return (
                "newsletter",
                content.template.id,
                content.newsletter_name,
                content.language,
                content.from_name,
                content.postal_address,
                message.sender,
                alone,
            )
        return "alert", content.language, content.from_name, content.postal_address, message.sender, alone

    def render(self, message: Message) -> Any:
        """Return the entry of SendBulkEmail."""
        address = message.address.strip()
        if not _ADDRESS.fullmatch(address):
            return Dead("invalid_address")
        content = message.content
        try:
            _layout(message)  # remembered: one that fails is no call
            data = self._newsletter_data(content) if isinstance(content, Issue) else _data(alert_entry(content))
        except RenderingFailed as error:
            return Dead("rendering", str(error))
        if _characters(data) > MAX_TEMPLATE_DATA or len(content.unsubscribe_url) > MAX_HEADER_VALUE - 2:
            return Dead("too_large")
        delivery = message.delivery
        return {
            "Destination": {"ToAddresses": [address]},
            "ReplacementEmailContent": {"ReplacementTemplate": {"ReplacementTemplateData": orjson.Fragment(data)}},
            "ReplacementHeaders": [
                {"Name": "List-Unsubscribe", "Value": f"<{content.unsubscribe_url}>"},
                {"Name": "List-Unsubscribe-Post", "Value": "List-Unsubscribe=One-Click"},
            ],
            "ReplacementTags": _tags(
                delivery_id=delivery.delivery_id,
                subscriber_id=delivery.subscriber_id,
                source_kind=delivery.source_kind,
                newsletter_id=delivery.newsletter_id or "",
                template=content.template.id if isinstance(content, Issue) else ALERT.id,
            ),
        }

    def _newsletter_data(self, issue: Issue) -> bytes:
        """Return the data of an entry; the items, nearly all of it, are quoted once for all messages."""
        values, html, text = newsletter_parts(issue, self._fragments, self._items, _quoted)
        ends = (b',\\"items_html\\":\\"', *html, b'\\",\\"items_text\\":\\"', *text, b'\\"}"')
        return _data(values)[: -len(b'}"')] + b"".join(ends)

    async def call(self, prepared: Sequence[Prepared]) -> list[Outcome]:
        """Send one SendBulkEmail."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        first = prepared[0].message
        layout = _layout(first)
        arguments: dict[str, Any] = {
            "FromEmailAddress": formataddr((header_value(first.sender.name), first.sender.address)),
            "DefaultContent": {
                "Template": {
                    "TemplateContent": {"Subject": layout.subject, "Html": layout.html, "Text": layout.text},
                    "TemplateData": "{}",
                }
            },
            "BulkEmailEntries": [p.body for p in prepared],
        }
        if first.sender.reply_to:
            arguments["ReplyToAddresses"] = [first.sender.reply_to]
        if self._settings.ses_configuration_set:
            arguments["ConfigurationSetName"] = self._settings.ses_configuration_set
        try:
            async with asyncio.timeout(self._settings.provider_timeout_s):
                answer = await self._client.send_bulk_email(**arguments)
        except ClientError as error:
            outcome = refusal(error.response, len(prepared))
            for one in prepared:
                one.message.delivery.alone = isinstance(outcome, Retry) and outcome.reason == BAD_REQUEST
            return [outcome] * len(prepared)
        except (BotoCoreError, ResponseParserError) as error:
            return [connection_outcome(error)] * len(prepared)
        except TimeoutError as error:
            return [transport_outcome(error)] * len(prepared)
        except UNREADABLE as error:
            return [unreadable(error)] * len(prepared)
        results = answer.get("BulkEmailEntryResults") or []
        if len(results) != len(prepared) or not all(isinstance(result, dict) for result in results):
            return [Unknown("answer_lost", f"{len(results)} results for {len(prepared)} messages")] * len(prepared)
        return [entry_outcome(result) for result in results]

    def destination(self, message: Message) -> str | None:
        """Return the recipient's mail domain."""
        return message.address.strip().rpartition("@")[2].lower() or None

    async def limits(self) -> Limits | None:
        """Return the account's quota from GetAccount: recipients a second and in 24 hours (-1 is none)."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        try:
            async with asyncio.timeout(self._settings.provider_timeout_s):
                quota = (await self._client.get_account())["SendQuota"]
                rate, day, sent = (float(quota[name]) for name in ("MaxSendRate", "Max24HourSend", "SentLast24Hours"))
        except (ClientError, BotoCoreError, ResponseParserError, TimeoutError, *UNREADABLE) as error:
            log.warning("SES did not say what this account may send (%s): the rate stays as it was", error)
            return None
        return Limits(rate, day if day >= 0 else None, sent)

    async def find(self, delivery: Delivery, address: str, since: datetime) -> Sighting:
        """SES cannot be asked: it tells by itself, with the SEND event of the configuration set."""
        return Undecidable("send_event")

    def render_retraction(self, retraction: Retraction, delivery: Delivery, address: str) -> Any | None:
        """Mail cannot be taken back."""
        return None

    async def edit(self, receipt: str, address: str, body: Any) -> Outcome:
        """Mail cannot be changed."""
        raise AssertionError("there is no body of a retraction for mail")

    async def suppress(self, address: str, reason: str) -> bool:
        """Put an address on the account's suppression list."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        call = {"EmailAddress": address.strip(), "Reason": SUPPRESSION_REASONS[reason]}
        try:
            async with asyncio.timeout(self._settings.provider_timeout_s):
                await self._client.put_suppressed_destination(**call)
        except ClientError as error:
            if isinstance(refusal(error.response, 1), Dead):
                return False
            raise Unavailable(f"SES did not take an address onto its suppression list: {error}") from error
        except (BotoCoreError, ResponseParserError, TimeoutError, *UNREADABLE) as error:
            raise Unavailable(f"SES did not answer when an address was to be suppressed: {error}") from error
        return True


def _keep_body(params: Mapping[str, Any], context: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Return no parameters for botocore's serializer: in SendBulkEmail each is the member of the body with its name, and
    walking and encoding 50 mails takes botocore longer than rendering them."""
    context[_BODY] = orjson.dumps(params)
    return {}


def _put_body(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    """Give a request that was serialized without parameters its body; it is signed afterwards."""
    params["body"] = context[_BODY]


def _data(values: Mapping[str, str]) -> bytes:
    """Return what TemplateData holds, JSON text, as it stands in the call: once more quoted as a string."""
    return orjson.dumps(orjson.dumps(values).decode())


def _quoted(text: str) -> bytes:
    """Return a part of a value as it stands in the call."""
    return orjson.dumps(orjson.dumps(text)[1:-1].decode())[1:-1]


def _characters(data: bytes) -> int:
    """Return how many characters TemplateData has; where its bytes are few enough, their number, which is no less."""
    return len(data) if len(data) <= MAX_TEMPLATE_DATA else len(orjson.loads(data))


def _layout(message: Message) -> EmailLayout:
    content = message.content
    if isinstance(content, Issue):
        return newsletter_layout(content)
    return alert_layout(content.from_name, content.postal_address, content.language)


def _tags(**values: str) -> list[dict[str, str]]:
    """Return message tags: ASCII letters, digits, _ and - only, at most 256 characters; empty ones are left out."""
    return [
        {"Name": name, "Value": value if _PLAIN_TAG(value) else _TAG.sub("_", value)[:256]}
        for name, value in values.items()
        if value
    ]


def entry_outcome(result: Mapping[str, Any]) -> Outcome:
    """Return the outcome of one entry of the answer; a status that no row names was not accepted either."""
    status = str(result.get("Status") or "")
    if status == "SUCCESS":
        receipt = str(result.get("MessageId") or "")
        return Sent(receipt) if receipt else Unknown("answer_lost", "SUCCESS without a MessageId")
    text = str(result.get("Error") or "")
    return told(meaning(SES_ENTRY, status, text) or Retry(ACCOUNT_RETRY_S, PROVIDER_ERROR), f"{status}: {text}")


def refusal(response: Mapping[str, Any], entries: int) -> Outcome:
    """Return what a call that was refused as a whole means for each of its entries."""
    error = response.get("Error", {})
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
    return told(_refusal(error, status, entries), f"{error.get('Code', status)}: {error.get('Message', '')}")


def _refusal(error: Mapping[str, Any], status: int, entries: int) -> Refusal:
    known = meaning(SES_CALL, str(error.get("Code", "")), str(error.get("Message", "")))
    if known is None and status in (400, 413):
        known = Dead("too_large" if status == 413 else "rejected")
    if isinstance(known, Dead) and entries > 1:  # one entry may have spoiled it for all, so each is tried alone (see `group`)
        return Retry(0.0, BAD_REQUEST)
    if known is not None:
        return known
    if status < 300:
        return Unknown("answer_lost")
    return http_outcome(status)


def connection_outcome(error: Exception) -> Outcome:
    """Return the outcome of an error below HTTP. aiobotocore calls a connection that was reset after the request an
    EndpointConnectionError as well: only the error inside tells whether there had been a connection."""
    from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, HTTPClientError, ProxyConnectionError, SSLError
    from botocore.parsers import ResponseParserError

    if isinstance(error, EndpointConnectionError):
        inside = error.kwargs.get("error")
        return transport_outcome(inside) if isinstance(inside, BaseException) else Unknown("answer_lost", kind_of(error))
    if isinstance(error, ConnectTimeoutError | ProxyConnectionError | SSLError):
        return Retry(SOON_S, UNREACHABLE, kind_of(error))
    if isinstance(error, HTTPClientError | ResponseParserError):
        return Unknown("answer_lost", kind_of(error))
    raise error
