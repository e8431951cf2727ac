"""The control API under /control: faults, rates, webhook secrets, counts, recorded requests and reset."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from typing import Any, Final

import orjson
from aiohttp import web

from deploy.sandbox.exchange import Sandbox
from deploy.sandbox.faults import BadControl
from deploy.sandbox.hooks import DEFAULT_SECRET, Hooks
from deploy.sandbox.recorder import MESSAGE_PROVIDERS, OUTCOMES, PROVIDERS

DEFAULT_LIMIT: Final = 1_000
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def control_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 400 with a sentence when a control request cannot be understood."""
    try:
        return await handler(request)
    except BadControl as error:
        return web.json_response({"error": str(error)}, status=400)


class Control:
    """The handlers under /control."""

    def __init__(self, box: Sandbox, hooks: Hooks, forget: Callable[[bool], None]) -> None:
        self._box, self._hooks, self._forget = box, hooks, forget

    def routes(self) -> list[web.RouteDef]:
        """Return the API's routes."""
        return [
            web.get("/control/faults", self.list_faults),
            web.post("/control/faults", self.add_fault),
            web.delete("/control/faults", self.clear_faults),
            web.delete("/control/faults/{id}", self.clear_faults),
            web.get("/control/limits", self.list_limits),
            web.post("/control/limits", self.set_limit),
            web.get("/control/hooks", self.list_hooks),
            web.post("/control/hooks/{name}", self.set_hook),
            web.get("/control/counts", self.counts),
            web.get("/control/duplicates", self.duplicates),
            web.get("/control/requests", self.requests),
            web.post("/control/reset", self.reset),
        ]

    async def list_faults(self, request: web.Request) -> web.Response:
        """Return the faults that are on."""
        return web.json_response({"faults": self._box.faults.documents()})

    async def add_fault(self, request: web.Request) -> web.Response:
        """Switch a fault on."""
        return web.json_response(asdict(self._box.faults.add(await _document(request))), status=201)

    async def clear_faults(self, request: web.Request) -> web.Response:
        """Switch one fault, those of ?provider=, or all off."""
        text = request.match_info.get("id")
        if text is not None and not text.isdigit():
            raise BadControl(f"{text} is no fault's id")
        cleared = self._box.faults.clear(request.query.get("provider", ""), int(text) if text else None)
        return web.json_response({"cleared": cleared})

    async def list_limits(self, request: web.Request) -> web.Response:
        """Return every provider's rate, and whether it is on."""
        return web.json_response({"limits": self._box.limits.documents()})

    async def set_limit(self, request: web.Request) -> web.Response:
        """Change a provider's rate."""
        return web.json_response(asdict(self._box.limits.set(await _document(request))))

    async def list_hooks(self, request: web.Request) -> web.Response:
        """Return the webhook secrets."""
        return web.json_response({"default": DEFAULT_SECRET, "hooks": self._hooks.secrets})

    async def set_hook(self, request: web.Request) -> web.Response:
        """Give an endpoint a secret of its own."""
        document = await _document(request)
        name = request.match_info["name"]
        self._hooks.set_secret(name, document.get("secret") if isinstance(document, dict) else None)
        return web.json_response({"name": name, "secret": self._hooks.secrets[name]})

    async def counts(self, request: web.Request) -> web.Response:
        """Return {key: count} by provider (the default) or delivery_id; outcome is accepted unless it is asked for."""
        by, outcome = request.query.get("by", "provider"), request.query.get("outcome", "accepted")
        if outcome not in OUTCOMES:
            raise BadControl(f"outcome is {outcome!r}: use one of {', '.join(OUTCOMES)}")
        if by not in ("provider", "delivery_id"):
            raise BadControl(f"by is {by!r}: use provider or delivery_id")
        recorder = self._box.recorder
        count = recorder.by_provider if by == "provider" else recorder.by_delivery
        return _json(count(outcome, _providers(request)))

    async def duplicates(self, request: web.Request) -> web.Response:
        """Return {delivery_id: count} of what one provider accepted more than once."""
        return _json(self._box.recorder.duplicates(_providers(request)))

    async def requests(self, request: web.Request) -> web.Response:
        """Return journal lines, oldest first: the last ?limit= of those that match ?provider=, ?delivery_id= and ?outcome=."""
        try:
            limit = int(request.query.get("limit", DEFAULT_LIMIT))
        except ValueError:
            raise BadControl("limit must be a number") from None
        wanted = {name: request.query[name] for name in ("provider", "delivery_id", "outcome") if name in request.query}
        found = list(_matching(self._box.recorder.lines(), wanted))
        return _json({"total": len(found), "requests": found[-limit:] if limit > 0 else []})

    async def reset(self, request: web.Request) -> web.Response:
        """Forget all messages and counts; with ?all=1 also faults, rates, webhook secrets and suppressed addresses."""
        everything = request.query.get("all", "") in ("1", "true")
        self._forget(everything)
        return web.json_response({"reset": "all" if everything else "messages"})


def _matching(lines: Any, wanted: dict[str, str]) -> Iterator[dict[str, Any]]:
    return (line for line in lines if all(line[name] == value for name, value in wanted.items()))


def _providers(request: web.Request) -> tuple[str, ...]:
    asked = request.query.get("provider", "")
    if asked and asked not in PROVIDERS:
        raise BadControl(f"provider is {asked!r}: use one of {', '.join(PROVIDERS)}")
    return (asked,) if asked else MESSAGE_PROVIDERS


async def _document(request: web.Request) -> Any:
    try:
        return orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        raise BadControl("the body is no JSON") from None


def _json(document: Any) -> web.Response:
    return web.Response(body=orjson.dumps(document), content_type="application/json")
