"""The very last look, right before a request is written: after the connection, the pool's and the client's own waiting.

Opening a connection takes up to CONNECT_TIMEOUT_S, and a client may wait for a rate by itself, both after consent was looked at
(sinks/calls.py). Every provider's aiohttp session therefore has `trace()`: what it is told when the headers are about to be
written asks the Look of the call under way, and ends the request, unwritten, when somebody objects. Guarantee: of a call whose
Look was refused, the provider has got nothing, unless the client itself had made the request before (a 429 that it waited for).
Requests beside calls (looks for lost messages, edits, quotas) have no Look and are not asked about.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import aiohttp


class Refused(ConnectionError):
    """The request was not written; the clients hand it over as a lost connection, and the Look tells better."""


class Look:
    """Whether a call that began may still write its request."""

    def __init__(self, may_go: Callable[[], bool]) -> None:
        self._may_go = may_go
        self.refused = False

    @contextmanager
    def during(self) -> Iterator[None]:
        """Ask this Look about every request of the block."""
        token = _LOOK.set(self)
        try:
            yield
        finally:
            _LOOK.reset(token)

    def take(self) -> None:
        """Look; Refused when the request must not be written."""
        if not self._may_go():
            self.refused = True
            raise Refused


_LOOK: Final[ContextVar[Look | None]] = ContextVar("last_look", default=None)


def trace() -> "aiohttp.TraceConfig":
    """Return what a client's session must be given, so that its requests are looked at."""
    import aiohttp

    async def ask(session: aiohttp.ClientSession, context: Any, parameters: Any) -> None:
        if (look := _LOOK.get()) is not None:
            look.take()

    config = aiohttp.TraceConfig()
    config.on_request_headers_sent.append(ask)  # by its name after the fact; it is awaited before a byte is written
    config.freeze()
    return config
