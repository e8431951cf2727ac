"""Amazon SES v2 in its REST-JSON protocol: SendBulkEmail, SendEmail, GetAccount and the account's suppression list.

Checked as SES does: what the service model limits (headers, template data, 50 entries) refuses the whole call with a
BadRequestException; what belongs to one entry (addresses, tags, data that is no JSON) fails that entry. An entry whose
data lacks a placeholder fails with RenderingFailure in its Error. (SES itself answers SUCCESS there and publishes a
RENDERING_FAILURE event later; the sandbox says so at once.)
"""

import re
import time
import uuid
from typing import Any, Final

import orjson
from aiohttp import web

from deploy.sandbox.emails import BadTemplate, EmailBody, Envelope, Template, TemplateCache, missing_names
from deploy.sandbox.exchange import Reply, Sandbox, exchange, json_reply, retry_after_header, settle
from deploy.sandbox.faults import Fault
from deploy.sandbox.notifications import Notifications
from deploy.sandbox.recorder import Message, digest_of

MAX_ENTRIES: Final = 50
MAX_RECIPIENTS: Final = 50
MAX_TAGS: Final = 50
MAX_HEADERS: Final = 15
MAX_DATA_CHARS: Final = 262_144
MAX_24_HOUR_SEND: Final = 10_000_000.0

TAG: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")
HEADER_NAME: Final = re.compile(r"[!-9;-@A-~]{1,126}")
HEADER_VALUE: Final = re.compile(r"[ -~]{1,995}")
ADDRESS: Final = re.compile(r"(?:[^<>]*<)?[^\s<>@,;]+@[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?>?")
BODY_OVERHEAD_BYTES: Final = 1_000
"""What a kept email needs beside its data, about."""

SUPPRESSION_REASONS: Final = ("BOUNCE", "COMPLAINT")
Pairs = tuple[tuple[str, str], ...]


class SesError(Exception):
    """A whole call is refused; code is the exception's name in the service model."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.status = code, status

    def reply(self) -> Reply:
        """Return the error in the REST-JSON form."""
        return _error(self.code, str(self), self.status)


def _error(code: str, message: str, status: int, headers: dict[str, str] | None = None) -> Reply:
    shared = {"x-amzn-errortype": code, "x-amzn-requestid": str(uuid.uuid4())}
    return json_reply({"message": message}, status, shared | (headers or {}))


def _bad(message: str) -> SesError:
    return SesError("BadRequestException", message)


class Ses:
    """The handlers under /ses."""

    provider = "ses"

    def __init__(self, box: Sandbox, notifications: Notifications) -> None:
        self._box, self._notifications = box, notifications
        self._templates = TemplateCache()
        self._run = f"{int(time.time() * 1000):016x}-{uuid.uuid4()}"
        self._receipts = 0
        self.suppressed: dict[str, tuple[str, float]] = {}

    def routes(self) -> list[web.RouteDef]:
        """Return the provider's routes."""
        base = "/ses/v2/email"
        return [
            web.post(f"{base}/outbound-bulk-emails", self.send_bulk_email),
            web.post(f"{base}/outbound-emails", self.send_email),
            web.get(f"{base}/account", self.get_account),
            web.put(f"{base}/suppression/addresses", self.put_suppressed),
            web.get(f"{base}/suppression/addresses/{{address}}", self.get_suppressed),
            web.delete(f"{base}/suppression/addresses/{{address}}", self.delete_suppressed),
        ]

    async def send_bulk_email(self, request: web.Request) -> web.StreamResponse:
        """SendBulkEmail: one status and MessageId an entry."""
        raw = await request.read()
        messages: list[Message] = []
        failures: list[tuple[str, str] | None] = []
        try:
            call = _parse(request, raw)
            entries = call.get("BulkEmailEntries")
            if not isinstance(entries, list) or not entries:
                raise _bad("BulkEmailEntries must not be empty.")
            if len(entries) > MAX_ENTRIES:
                raise _bad(
                    f"1 validation error detected: BulkEmailEntries has {len(entries)} entries, the maximum is {MAX_ENTRIES}."
                )
            content = (call.get("DefaultContent") or {}).get("Template") or {}
            envelope = self._envelope(call, content, call.get("DefaultEmailTags"))
            salt = envelope.template.digest
            for number, entry in enumerate(entries, 1):
                message, failure = _entry(entry, number, envelope, salt)
                messages.append(message)
                failures.append(failure)
        except SesError as error:
            return await self._refuse(request, raw, error)
        except (AttributeError, KeyError, TypeError) as error:
            return await self._refuse(
                request, raw, SesError("SerializationException", f"A field has another type than its shape: {error}")
            )

        def accept() -> Reply:
            results = [self._settle_entry(m, f) for m, f in zip(messages, failures, strict=True)]
            return json_reply({"BulkEmailEntryResults": results})

        return await exchange(self._box, request, self, messages, accept)

    async def send_email(self, request: web.Request) -> web.StreamResponse:
        """SendEmail with Simple or inline Template content."""
        raw = await request.read()
        try:
            call = _parse(request, raw)
            content = call.get("Content") or {}
            if "Simple" in content:
                template, part = _simple(content["Simple"])
                envelope = self._envelope(call, part, call.get("EmailTags"), template)
            elif "Template" in content:
                envelope = self._envelope(call, content["Template"], call.get("EmailTags"))
            else:
                raise _bad("Content must have Simple or Template; the sandbox takes no Raw message.")
            message, failure = _entry({"Destination": call.get("Destination") or {}}, 1, envelope, digest_of(raw).encode())
            if failure is not None:
                raise SesError("MessageRejected" if failure[0] == "FAILED" else "BadRequestException", failure[1])
        except SesError as error:
            return await self._refuse(request, raw, error)
        except (AttributeError, KeyError, TypeError) as error:
            return await self._refuse(
                request, raw, SesError("SerializationException", f"A field has another type than its shape: {error}")
            )

        def accept() -> Reply:
            return json_reply({"MessageId": self._settle_entry(message, None)["MessageId"]})

        return await exchange(self._box, request, self, [message], accept)

    def _envelope(self, call: dict[str, Any], content: dict[str, Any], tags: Any, template: Template | None = None) -> Envelope:
        sender = call.get("FromEmailAddress")
        if not isinstance(sender, str) or not ADDRESS.fullmatch(sender.strip()):
            raise _bad(f"FromEmailAddress is missing or is no email address: {sender!r}")
        if template is None:
            parts = content.get("TemplateContent")
            if not isinstance(parts, dict):
                raise SesError("NotFoundException", "The sandbox has no stored templates: send TemplateContent.", 404)
            try:
                template = self._templates.get(parts.get("Subject") or "", parts.get("Text") or "", parts.get("Html") or "")
            except BadTemplate as error:
                raise _bad(str(error)) from None
            if not template.subject or not (template.text or template.html):
                raise _bad("TemplateContent needs a Subject, and Text or Html.")
        pairs, problem = _tags(tags)
        if problem:
            raise _bad(problem)
        return Envelope(
            template=template,
            from_address=sender,
            reply_to=tuple(call.get("ReplyToAddresses") or ()),
            configuration_set=call.get("ConfigurationSetName") or "",
            headers=_headers(content.get("Headers"), "Headers"),
            tags=pairs,
            defaults=_data(content.get("TemplateData"), "TemplateData") if content.get("TemplateData") else {},
        )

    def _settle_entry(self, message: Message, failure: tuple[str, str] | None) -> dict[str, str]:
        fault = self._box.faults.pick_partial(self.provider, message)
        if failure is None and fault is not None:
            failure = (fault.code or "TRANSIENT_FAILURE", fault.text or "The sandbox fails this entry because a fault says so.")
        if failure is not None:
            settle([message], 200, detail=f"{failure[0]}: {failure[1]}")
            return {"Status": failure[0], "Error": failure[1]}
        self._receipts += 1
        message.receipt = f"{self._run}-{self._receipts:08x}-000000"
        settle([message], 200, outcome="accepted")
        suppressed = bool(self.suppressed) and message.destination.lower() in self.suppressed
        self._notifications.accepted(message, suppressed)
        if suppressed and isinstance(message.body, EmailBody):
            message.body.note = "The address is on the suppression list: SES takes the message and reports a bounce."
        return {"Status": "SUCCESS", "MessageId": message.receipt}

    async def _refuse(self, request: web.Request, raw: bytes, error: SesError) -> web.StreamResponse:
        message = Message(self.provider, "", "", digest_of(raw), size_bytes=len(raw))

        def accept() -> Reply:
            settle([message], error.status, detail=f"{error.code}: {error}")
            return error.reply()

        return await exchange(self._box, request, self, [message], accept)

    async def get_account(self, request: web.Request) -> web.Response:
        """GetAccount: MaxSendRate is the sandbox's SES rate, whether it is enforced or not."""
        return web.json_response(
            {
                "DedicatedIpAutoWarmupEnabled": False,
                "EnforcementStatus": "HEALTHY",
                "ProductionAccessEnabled": True,
                "SendingEnabled": True,
                "SendQuota": {
                    "Max24HourSend": MAX_24_HOUR_SEND,
                    "MaxSendRate": self._box.limits.get(self.provider).per_second,
                    "SentLast24Hours": float(self._box.recorder.by_provider("accepted")[self.provider]),
                },
                "SuppressionAttributes": {"SuppressedReasons": list(SUPPRESSION_REASONS)},
            }
        )

    async def put_suppressed(self, request: web.Request) -> web.Response:
        """PutSuppressedDestination."""
        try:
            call = _parse(request, await request.read())
            address, reason = call.get("EmailAddress"), call.get("Reason")
            if not isinstance(address, str) or not ADDRESS.fullmatch(address) or reason not in SUPPRESSION_REASONS:
                raise _bad("EmailAddress must be an address and Reason BOUNCE or COMPLAINT.")
        except SesError as error:
            return _plain(error.reply())
        self.suppressed[address.lower()] = (reason, time.time())
        return web.json_response({})

    async def get_suppressed(self, request: web.Request) -> web.Response:
        """GetSuppressedDestination."""
        address = request.match_info["address"]
        if address.lower() not in self.suppressed:
            return _plain(_error("NotFoundException", f"Email address {address} does not exist on your suppression list.", 404))
        reason, at = self.suppressed[address.lower()]
        return web.json_response({"SuppressedDestination": {"EmailAddress": address, "Reason": reason, "LastUpdateTime": at}})

    async def delete_suppressed(self, request: web.Request) -> web.Response:
        """DeleteSuppressedDestination."""
        if self.suppressed.pop(request.match_info["address"].lower(), None) is None:
            return _plain(_error("NotFoundException", "The address is not on your suppression list.", 404))
        return web.json_response({})

    def throttled(self, retry_after_s: float, fault: Fault | None) -> Reply:
        """Return 429; SES names no Retry-After, so there is one only when the fault asks for it."""
        code = (fault.code if fault else "") or "TooManyRequestsException"
        headers = {"Retry-After": retry_after_header(retry_after_s)} if fault and fault.retry_after_s is not None else None
        return _error(code, "Maximum sending rate exceeded.", fault.status or 429 if fault else 429, headers)

    def failed(self, fault: Fault) -> Reply:
        """Return a 5xx."""
        status = fault.status or 500
        code = fault.code or ("ServiceUnavailableException" if status == 503 else "InternalFailure")
        return _error(code, "The service is out of order because a fault says so.", status)

    def refused(self, fault: Fault) -> Reply:
        """Return a refusal for good."""
        return _error(fault.code or "MessageRejected", "Email contains invalid content.", fault.status or 400)


def _plain(reply: Reply) -> web.Response:
    return web.Response(status=reply.status, body=reply.body, headers=reply.headers, content_type=reply.content_type)


def _parse(request: web.Request, raw: bytes) -> dict[str, Any]:
    if not request.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256 "):
        raise SesError("MissingAuthenticationTokenException", "Missing Authentication Token", 403)
    try:
        call = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise SesError("SerializationException", "The body is no JSON.") from None
    if not isinstance(call, dict):
        raise SesError("SerializationException", "The body is no JSON object.")
    return call


def _simple(simple: dict[str, Any]) -> tuple[Template, dict[str, Any]]:
    try:
        body = simple["Body"]
        parts = [(body.get(name) or {}).get("Data") or "" for name in ("Text", "Html")]
        template = Template(simple["Subject"]["Data"], parts[0], parts[1], frozenset(), b"")
    except (KeyError, AttributeError, TypeError):
        raise _bad("Content.Simple needs Subject.Data, and Body.Text.Data or Body.Html.Data.") from None
    if not any(parts):
        raise _bad("Content.Simple.Body has neither Text nor Html.")
    return template, simple


def _entry(entry: dict[str, Any], number: int, envelope: Envelope, salt: bytes) -> tuple[Message, tuple[str, str] | None]:
    """Return an entry's message, and its (Status, Error) when it fails; SesError when it fails the whole call."""
    destination = entry.get("Destination") or {}
    to, cc, bcc = (tuple(destination.get(kind) or ()) for kind in ("ToAddresses", "CcAddresses", "BccAddresses"))
    replacement = ((entry.get("ReplacementEmailContent") or {}).get("ReplacementTemplate") or {}).get(
        "ReplacementTemplateData"
    ) or ""
    if len(replacement) > MAX_DATA_CHARS:
        where = f"bulkEmailEntries.{number}.member.replacementEmailContent.replacementTemplate.replacementTemplateData"
        raise _bad(f"1 validation error detected: Value at '{where}' must have length less than or equal to {MAX_DATA_CHARS}")
    headers = _headers(entry.get("ReplacementHeaders"), f"bulkEmailEntries.{number}.member.replacementHeaders")
    tags, problem = _tags(entry.get("ReplacementTags"))
    recipient = to[0] if to else ""
    data = replacement.encode()
    body = EmailBody(envelope, to, cc, bcc, data, headers, tags)
    delivery_id = _delivery_id(tags) or _delivery_id(envelope.tags)
    digest = digest_of(b"\x1f".join((salt, recipient.encode(), data)))
    message = Message("ses", delivery_id, recipient, digest, body, len(data) + BODY_OVERHEAD_BYTES)
    problem = problem or _bad_addresses(to + cc + bcc if cc or bcc else to)
    if problem:
        return message, ("INVALID_PARAMETER", problem)
    try:
        missing = missing_names(envelope.template, _object(data, "ReplacementTemplateData") if data else {}, envelope.defaults)
    except SesError as error:
        body.data = b""
        return message, ("INVALID_PARAMETER", str(error))
    if missing:
        return message, ("FAILED", f"RenderingFailure: Attribute '{missing[0]}' is not present in the rendering data.")
    return message, None


def _bad_addresses(addresses: tuple[str, ...]) -> str:
    if not 0 < len(addresses) <= MAX_RECIPIENTS:
        return f"Destination has {len(addresses)} recipients: 1 to {MAX_RECIPIENTS} are needed."
    for address in addresses:
        if ADDRESS.fullmatch(address) is None:
            return f"Illegal address: {address!r}"
    return ""


def _data(text: Any, field: str) -> dict[str, Any]:
    return _object(text.encode() if isinstance(text, str) and len(text) <= MAX_DATA_CHARS else b"", field)


def _object(data: bytes, field: str) -> dict[str, Any]:
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        found = None
    if isinstance(found, dict):
        return found
    raise _bad(f"{field} must be a JSON object of at most {MAX_DATA_CHARS} characters, written as text.")


def _delivery_id(tags: Pairs) -> str:
    for name, value in tags:
        if name == "delivery_id":
            return value
    return ""


def _tags(tags: Any) -> tuple[Pairs, str]:
    if not tags:
        return (), ""
    if len(tags) > MAX_TAGS:
        return (), f"A message has at most {MAX_TAGS} tags."
    pairs = []
    for tag in tags:
        name, value = tag["Name"], tag["Value"]
        if TAG.fullmatch(name) is None or TAG.fullmatch(value) is None:
            return (), f"Tag {name}: {value!r}: a name and a value are 1 to 256 of A-Z, a-z, 0-9, _ and -."
        pairs.append((name, value))
    return tuple(pairs), ""


def _headers(headers: Any, field: str) -> Pairs:
    if not headers:
        return ()
    if len(headers) > MAX_HEADERS:
        raise _bad(f"1 validation error detected: Value at '{field}' must have at most {MAX_HEADERS} members")
    pairs = []
    for number, header in enumerate(headers, 1):
        name, value = header["Name"], header["Value"]
        if HEADER_NAME.fullmatch(name) is None:
            raise _bad(
                f"1 validation error detected: Value at '{field}.{number}.member.name' must match ^[!-9;-@A-~]+$, 1 to 126 long"
            )
        if HEADER_VALUE.fullmatch(value) is None:
            raise _bad(f"1 validation error detected: Value at '{field}.{number}.member.value' must match [ -~]*, 1 to 995 long")
        pairs.append((name, value))
    return tuple(pairs)
