"""The life of one request at any provider: fault, rate, acceptance, record, answer; the record always comes before the answer."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson
from aiohttp import web

from deploy.sandbox.faults import Fault, FaultBook
from deploy.sandbox.limits import Limits
from deploy.sandbox.recorder import Message, Recorder

POLL_S = 0.1
"""How often a request that gets no answer looks whether its client has gone."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer before it is sent."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


def json_reply(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Return a JSON answer."""
    return Reply(status, orjson.dumps(document), headers or {})


class Dialect(Protocol):
    """How a provider says no."""

    provider: str

    def throttled(self, retry_after_s: float, fault: Fault | None) -> Reply:
        """Return the provider's form of too many requests; fault is None when a rate was exceeded."""

    def failed(self, fault: Fault) -> Reply:
        """Return the provider's form of a 5xx."""

    def refused(self, fault: Fault) -> Reply:
        """Return the provider's form of a refusal for good."""


@dataclass
class Sandbox:
    """What all providers share."""

    recorder: Recorder
    faults: FaultBook
    limits: Limits


def retry_after_header(seconds: float) -> str:
    """Return whole seconds, rounded up, as Retry-After wants them."""
    return str(max(0, math.ceil(seconds)))


async def exchange(
    box: Sandbox, request: web.Request, dialect: Dialect, messages: Sequence[Message], accept: Callable[[], Reply]
) -> web.StreamResponse:
    """Let the request live through faults and rates; accept() settles the messages' outcomes and returns the answer."""
    provider = dialect.provider
    fault = box.faults.pick(provider, messages)
    if fault is not None and not fault.accepts:
        reply = _no(dialect, fault)
        settle(messages, reply.status if reply else 0, detail=f"fault {fault.kind}")
        box.recorder.record(messages)
        return await _send(request, reply, fault)
    wait_s = box.limits.take(provider, messages[0].destination if messages else "", max(len(messages), 1))
    if wait_s > 0:
        reply = dialect.throttled(wait_s, None)
        settle(messages, reply.status, detail="rate limit")
        box.recorder.record(messages)
        return await _send(request, reply, None)
    reply = accept()
    box.recorder.record(messages)
    return await _send(request, reply, fault)


def settle(messages: Sequence[Message], status: int, *, outcome: str = "refused", detail: str = "") -> None:
    """Give all messages of a request the same outcome."""
    for message in messages:
        message.outcome, message.status, message.detail = outcome, status, detail


def _no(dialect: Dialect, fault: Fault) -> Reply | None:
    if fault.kind == "throttle":
        return dialect.throttled(fault.wait_s, fault)
    if fault.kind == "error":
        return dialect.failed(fault)
    if fault.kind == "refuse":
        return dialect.refused(fault)
    return None


async def _send(request: web.Request, reply: Reply | None, fault: Fault | None) -> web.StreamResponse:
    kind = fault.kind if fault else ""
    if fault is not None and kind == "timeout":
        await _silence(request, fault.delay_s)
    if reply is None or kind in ("timeout", "drop_after_accept", "drop_before_accept"):
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)
    if fault is not None and kind == "slow_body":
        return await _slowly(request, reply, fault.delay_s)
    return web.Response(status=reply.status, body=reply.body, headers=reply.headers, content_type=reply.content_type)


async def _silence(request: web.Request, delay_s: float) -> None:
    until = time.monotonic() + delay_s
    while time.monotonic() < until and request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(POLL_S)


async def _slowly(request: web.Request, reply: Reply, delay_s: float) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=dict(reply.headers))
    response.content_type = reply.content_type
    response.content_length = len(reply.body)
    await response.prepare(request)
    await _silence(request, delay_s)
    await response.write(reply.body)
    await response.write_eof()
    return response
