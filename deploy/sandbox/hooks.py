"""Webhook receivers: every name under /hooks is an endpoint that verifies Standard Webhooks signatures.

A name without a secret of its own has DEFAULT_SECRET, which the demo's subscribers use too.
"""

import base64
from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from deploy.sandbox.exchange import Reply, Sandbox, exchange, json_reply, retry_after_header, settle
from deploy.sandbox.faults import BadControl, Fault
from deploy.sandbox.recorder import MAX_ID_CHARS, Message, digest_of

DEFAULT_SECRET: Final = "whsec_" + base64.b64encode(b"newswire-demo-secret-of-32-bytes").decode()
MAX_PAYLOAD_BYTES: Final = 20_000
"""Standard Webhooks: payloads are below 20 kB."""

SECRET_BYTES: Final = (24, 64)
SHOWN_HEADERS: Final = ("content-type", "user-agent", "webhook-id", "webhook-timestamp", "webhook-signature")


@dataclass(slots=True)
class HookBody:
    """What was posted to an endpoint."""

    name: str
    raw: bytes
    headers: tuple[tuple[str, str], ...]
    verified: bool
    problem: str

    def payload(self) -> Any:
        """Return the JSON, or the body as text when it is none."""
        try:
            return orjson.loads(self.raw)
        except orjson.JSONDecodeError:
            return self.raw.decode("utf-8", "replace")

    def subject(self) -> str:
        """Return the payload's title, else its type."""
        payload = self.payload()
        if not isinstance(payload, dict):
            return "(no JSON object)"
        data = payload.get("data")
        holders = [data, payload] if isinstance(data, dict) else [payload]
        for name in ("subject", "title", "newsletter_name", "type", "event"):
            for holder in holders:
                if isinstance(holder.get(name), str) and holder[name]:
                    return " ".join(holder[name].split())
        return "(no title)"

    def document(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {
            "name": self.name,
            "payload": self.payload(),
            "headers": [list(pair) for pair in self.headers],
            "verified": self.verified,
            "problem": self.problem,
        }


class Hooks:
    """POST /hooks/{name}."""

    provider = "webhook"

    def __init__(self, box: Sandbox) -> None:
        self._box = box
        self.secrets: dict[str, str] = {}

    def routes(self) -> list[web.RouteDef]:
        """Return the provider's routes."""
        return [web.post("/hooks/{name}", self.receive)]

    def set_secret(self, name: str, secret: Any) -> None:
        """Give an endpoint a secret of its own; BadControl when it is none."""
        try:
            if not isinstance(secret, str) or not secret.startswith("whsec_"):
                raise ValueError
            length = len(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
        except ValueError:
            raise BadControl("secret must be whsec_ and base64") from None
        if not SECRET_BYTES[0] <= length <= SECRET_BYTES[1]:
            raise BadControl(f"secret has {length} bytes: Standard Webhooks asks for 24 to 64")
        self.secrets[name] = secret

    async def receive(self, request: web.Request) -> web.StreamResponse:
        """Verify and take a webhook: 200, 401 for a bad signature, 413 when it is too large."""
        name = request.match_info["name"]
        raw = await request.read()
        problem = self._problem(name, raw, request)
        headers = tuple((h.title(), _readable(request.headers[h])) for h in SHOWN_HEADERS if h in request.headers)
        body = HookBody(name, raw, headers, not problem, problem)
        message = Message(
            self.provider,
            _readable(request.headers.get("webhook-id", ""))[:MAX_ID_CHARS],
            name,
            digest_of(raw),
            body,
            len(raw) + 500,
        )

        def accept() -> Reply:
            if problem:
                settle([message], 401, detail=problem)
                return json_reply({"error": problem}, 401)
            if len(raw) >= MAX_PAYLOAD_BYTES:
                settle([message], 413, detail="payload too large")
                return json_reply({"error": f"the payload has {len(raw)} bytes, below {MAX_PAYLOAD_BYTES} are taken"}, 413)
            settle([message], 200, outcome="accepted")
            return json_reply({"received": True})

        return await exchange(self._box, request, self, [message], accept)

    def _problem(self, name: str, raw: bytes, request: web.Request) -> str:
        headers = {h: request.headers.get(h, "") for h in SHOWN_HEADERS[2:]}
        try:
            Webhook(self.secrets.get(name, DEFAULT_SECRET)).verify(raw, headers, json_parse=False)
        except WebhookVerificationError as error:
            return str(error)
        return ""

    def throttled(self, retry_after_s: float, fault: Fault | None) -> Reply:
        """Return 429 with Retry-After."""
        return json_reply({"error": "too many requests"}, 429, {"Retry-After": retry_after_header(retry_after_s)})

    def failed(self, fault: Fault) -> Reply:
        """Return a 5xx."""
        return json_reply({"error": "the endpoint is out of order"}, fault.status or 503)

    def refused(self, fault: Fault) -> Reply:
        """Return a 4xx; 410 says that the endpoint is gone."""
        return json_reply({"error": "the endpoint refuses"}, fault.status or 400)


def _readable(header: str) -> str:
    """Return a header whose bytes were no UTF-8 with marks in their place."""
    return header.encode("utf-8", "replace").decode()
