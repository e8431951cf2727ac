"""The edge's HTTP application: the unsubscribe page, the one-click POST of RFC 8058, and the providers' callbacks.

Seeing the page (GET) never acts, because mail scanners open links. A POST acts, and is answered with 200 only after the
event is in Kafka; when it cannot be recorded the answer is 503 with Retry-After. No cookie, no redirect, no script; the
token is the only credential, so addresses are never logged.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from core.errors import SetupError, Unavailable
from edge.callbacks.routes import Callbacks
from edge.pages import SECURITY_HEADERS, ask_page, done_page, problem_page
from edge.phrases import PageText, page_text
from edge.unsubscribe import NameOf, Unsubscribe
from runtime.clock import Clock
from runtime.tokens import BadToken, TokenClaims, TokenKeys, read_token

MAX_BODY_BYTES = 8_192
"""A one-click body has 26 bytes, in multipart some 200."""

BODY_TIMEOUT_S = 5.0
"""Longest wait for a body."""

RECORD_TIMEOUT_S = 8.0
"""Longest wait for Kafka before the answer is 503; mail providers give a one-click POST some 10 s."""

RETRY_AFTER_S = 60

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Edge:
    """What the handlers need; `record` returns once the event is acknowledged, Unavailable when it cannot be."""

    keys: TokenKeys
    record: Callable[[Unsubscribe], Awaitable[None]]
    name_of: NameOf
    clock: Clock
    failed: Callable[[], BaseException | None] = lambda: None
    callbacks: Callbacks | None = None
    record_timeout_s: float = RECORD_TIMEOUT_S
    body_timeout_s: float = BODY_TIMEOUT_S


EDGE = web.AppKey("edge", Edge)


def make_app(edge: Edge) -> web.Application:
    """Return the application."""
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_pages_for_errors])
    app[EDGE] = edge
    app.router.add_get("/u/{token}", _ask)
    app.router.add_post("/u/{token}", _act)
    app.router.add_get("/health", _health)
    if edge.callbacks is not None:
        app.add_routes(edge.callbacks.routes())
    app.on_response_prepare.append(_secure)
    return app


async def _secure(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(SECURITY_HEADERS)


@web.middleware
async def _pages_for_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn aiohttp's own refusals into pages of ours."""
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as refused:
        answer = problem_page(_text(request), "not_allowed", 405)
        answer.headers["Allow"] = ", ".join(sorted(refused.allowed_methods))
        return answer
    except web.HTTPRequestEntityTooLarge:
        return problem_page(_text(request), "too_large", 413)
    except web.HTTPNotFound:
        return problem_page(_text(request), "not_found", 404)


def _text(request: web.Request) -> PageText:
    return page_text(request.headers.get("Accept-Language", ""))


def _claims(request: web.Request) -> TokenClaims | web.Response:
    edge = request.app[EDGE]
    read = read_token(edge.keys, request.match_info["token"], edge.clock.now())
    if isinstance(read, BadToken):
        log.info("a link was refused: %s", read.reason)
        expired = read.reason == "expired"
        return problem_page(_text(request), "expired" if expired else "invalid", 410 if expired else 404)
    return read


def _name(edge: Edge, claims: TokenClaims) -> str:
    return edge.name_of(claims.newsletter_id) if claims.newsletter_id else ""


async def _ask(request: web.Request) -> web.Response:
    claims = _claims(request)
    if isinstance(claims, web.Response):
        return claims
    return ask_page(_text(request), claims, _name(request.app[EDGE], claims))


async def _act(request: web.Request) -> web.Response:
    edge, text = request.app[EDGE], _text(request)
    claims = _claims(request)
    if isinstance(claims, web.Response):
        return claims
    try:
        async with asyncio.timeout(edge.body_timeout_s):
            asked = await _asked(request, claims)
    except TimeoutError:
        return problem_page(text, "too_slow", 408)
    if asked is None:
        return problem_page(text, "bad_form", 400)
    try:
        async with asyncio.timeout(edge.record_timeout_s):
            await edge.record(asked)
    except (Unavailable, SetupError, TimeoutError) as error:
        log.warning("an unsubscribe could not be recorded: %s", str(error) or "no acknowledgement in time")
        answer = problem_page(text, "unavailable", 503, again=asked.kind)
        answer.headers["Retry-After"] = str(RETRY_AFTER_S)
        return answer
    log.info("recorded an unsubscribe: kind %s via %s", asked.kind, asked.via)
    return done_page(text, asked.kind, _name(edge, claims))


async def _asked(request: web.Request, claims: TokenClaims) -> Unsubscribe | None:
    """Return what the form asks for: the pair of RFC 8058, or the page's own field scope; None when it is neither."""
    if request.content_type not in ("application/x-www-form-urlencoded", "multipart/form-data"):
        return None
    try:
        form = await request.post()
    except ValueError:  # a multipart body that is none, or no UTF-8
        return None
    own = "newsletter" if claims.kind == "newsletter" else "alerts"
    if form.get("List-Unsubscribe") == "One-Click":
        return Unsubscribe(claims, own, "one_click")
    scope = form.get("scope")
    return Unsubscribe(claims, scope, "page") if isinstance(scope, str) and scope in (own, "all") else None


async def _health(request: web.Request) -> web.Response:
    failed = request.app[EDGE].failed()
    return web.json_response({"status": "ok" if failed is None else "failed"}, status=200 if failed is None else 503)
