"""The inbox page: what the providers took, as a person would have seen it.

Messages are hostile text: everything is escaped, emails are shown in a sandboxed frame under a policy of their own, and
no page loads anything from elsewhere.
"""

import math
import re
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import orjson
from aiohttp import web
from jinja2 import ChainableUndefined, Environment, FileSystemLoader, select_autoescape

from deploy.sandbox.emails import EmailBody
from deploy.sandbox.hooks import HookBody
from deploy.sandbox.markup import discord_markup, link, moment, slack_markup
from deploy.sandbox.origin import Origin, origin_of
from deploy.sandbox.recorder import CHANNEL_OF, Message, Recorder

HERE: Final = Path(__file__).parent
PAGE_SIZE: Final = 50
MAX_JSON: Final = 5_000
CHANNELS: Final = tuple(CHANNEL_OF.values())
SHOWN: Final = ("accepted", "refused", "all")
TABS: Final = {
    "email": ("html", "text", "headers", "raw"),
    "slack": ("message", "raw"),
    "discord": ("message", "raw"),
    "webhook": ("payload", "headers", "raw"),
}
STATIC: Final = {"inbox.css": "text/css", "inbox.js": "text/javascript"}

PAGE_POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; frame-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
FRAME_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; frame-ancestors 'self'; "
    "sandbox allow-popups allow-popups-to-escape-sandbox"
)
HEADERS: Final = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


@dataclass(frozen=True)
class Query:
    """What the list shows."""

    channel: str = ""
    q: str = ""
    show: str = "accepted"
    source: str = ""
    page: int = 1
    m: int = 0
    tab: str = ""

    @classmethod
    def of(cls, request: web.Request) -> "Query":
        """Read the address; what makes no sense there counts as not given."""
        given = request.query
        channel, show = given.get("channel", ""), given.get("show", "")
        return cls(
            channel=channel if channel in CHANNELS else "",
            q=given.get("q", "").strip()[:200],
            show=show if show in SHOWN else "accepted",
            source=given.get("source", "").strip()[:100],
            page=max(1, _number(given.get("page", "1"))),
            m=_number(given.get("m", "0")),
            tab=given.get("tab", ""),
        )

    def href(self, **changes: Any) -> str:
        """Return the address of the page with some of it changed."""
        values = {"channel": self.channel, "q": self.q, "show": self.show, "source": self.source, "page": self.page, "m": self.m}
        values |= changes
        defaults: dict[str, Any] = {"show": "accepted", "page": 1, "m": 0}
        return "/?" + urlencode({k: v for k, v in values.items() if v and v != defaults.get(k)})


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0


class Inbox:
    """The handlers of / and /inbox."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._origins: dict[int, Origin] = {}
        self._resets = recorder.resets
        self._pages = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=select_autoescape(default=True),
            undefined=ChainableUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._pages.filters |= {
            "slack": slack_markup,
            "discord": discord_markup,
            "pretty": _pretty,
            "colour": _colour,
            "moment": moment,
        }
        self._pages.globals |= {"link": link, "channels": CHANNELS, "shown": SHOWN}

    def routes(self) -> list[web.RouteDef]:
        """Return the inbox's routes."""
        return [
            web.get("/", self.page),
            web.get("/inbox/list", self.list),
            web.get("/inbox/view/{n}", self.view),
            web.get("/inbox/frame/{n}", self.frame),
            web.get("/inbox/poll", self.poll),
            web.get("/inbox/messages", self.messages),
            web.get("/inbox/messages/{n}", self.message),
            web.get("/inbox/static/{name}", self.static),
        ]

    def find(self, query: Query) -> list[Message]:
        """Return the kept messages that match, newest first."""
        needle = query.q.casefold()
        return [
            m
            for m in reversed(self._recorder.messages.values())
            if (not query.channel or m.channel == query.channel)
            and (query.show == "all" or m.accepted is (query.show == "accepted"))
            and (not query.source or self.origin(m).source == query.source)
            and (not needle or needle in _haystack(m, self.origin(m)))
        ]

    def origin(self, message: Message) -> Origin:
        """Return what a kept message is about; worked out once."""
        if self._resets != self._recorder.resets or len(self._origins) > 2 * len(self._recorder.messages) + PAGE_SIZE:
            self._resets, self._origins = self._recorder.resets, {}
        known = self._origins.get(message.n)
        if known is None:
            known = self._origins[message.n] = origin_of(message)
        return known

    def _placed(self, query: Query) -> Query:
        """Return the query with the page that holds its message, so that a link stays right while new messages arrive."""
        at = next((at for at, m in enumerate(self.find(query)) if m.n == query.m), None) if query.m else None
        return query if at is None else replace(query, page=at // PAGE_SIZE + 1)

    async def page(self, request: web.Request) -> web.Response:
        """The whole page; it works without JavaScript."""
        query = self._placed(Query.of(request))
        return self._html("page.html", self._list_values(query) | self._view_values(query))

    async def list(self, request: web.Request) -> web.Response:
        """The list alone, for the live refresh."""
        return self._html("list.html", self._list_values(Query.of(request)))

    async def view(self, request: web.Request) -> web.Response:
        """One message alone."""
        values = self._view_values(self._placed(replace(Query.of(request), m=self._n(request))))
        return self._html("view.html", values, status=200 if values["message"] else 404)

    async def frame(self, request: web.Request) -> web.Response:
        """An email's HTML part, as a document of its own."""
        body = self._body(request)
        if not isinstance(body, EmailBody):
            raise web.HTTPNotFound(text="The sandbox keeps no such email.")
        html = body.html()
        head = re.search(r"<head[^>]*>", html, re.IGNORECASE)
        at = head.end() if head else 0
        return web.Response(
            text=f'{html[:at]}<base target="_blank">{html[at:]}' if head else f'<!doctype html><base target="_blank">{html}',
            content_type="text/html",
            charset="utf-8",
            headers=HEADERS | {"Content-Security-Policy": FRAME_POLICY},
        )

    async def poll(self, request: web.Request) -> web.Response:
        """The number of the newest message: the page asks for its list again only when that has changed."""
        return web.json_response({"last": self._recorder.last_n, "reset": self._recorder.resets}, headers=HEADERS)

    async def messages(self, request: web.Request) -> web.Response:
        """The kept messages as JSON, newest first; channel, q, show, source and limit choose."""
        query = Query.of(request)
        limit = min(_number(request.query.get("limit", "50")), MAX_JSON)
        found = self.find(query)
        return _json({"total": len(found), "messages": [self._document(m) for m in found[:limit]]})

    async def message(self, request: web.Request) -> web.Response:
        """One kept message as JSON."""
        found = self._recorder.messages.get(self._n(request))
        return _json(self._document(found)) if found else web.json_response({"error": "no such message is kept"}, status=404)

    async def static(self, request: web.Request) -> web.StreamResponse:
        """The page's style and script."""
        name = request.match_info["name"]
        if name not in STATIC:
            raise web.HTTPNotFound
        return web.Response(
            body=(HERE / "static" / name).read_bytes(), content_type=STATIC[name], charset="utf-8", headers=HEADERS
        )

    def _n(self, request: web.Request) -> int:
        return _number(request.match_info["n"])

    def _body(self, request: web.Request) -> Any:
        found = self._recorder.messages.get(self._n(request))
        return found.body if found else None

    def _document(self, message: Message) -> dict[str, Any]:
        return message.line() | {
            "channel": message.channel,
            "destination": message.destination,
            "detail": message.detail,
            "origin": asdict(self.origin(message)),
            "subject": message.body.subject() if message.body else "",
            "body": message.body.document() if message.body else None,
        }

    def _list_values(self, query: Query) -> dict[str, Any]:
        matching = self.find(replace(query, channel=""))
        counts = Counter(m.channel for m in matching)
        found = [m for m in matching if not query.channel or m.channel == query.channel]
        pages = max(1, math.ceil(len(found) / PAGE_SIZE))
        page = min(query.page, pages)
        kept = self._recorder.messages.values()
        return {
            "query": query,
            "found": found[(page - 1) * PAGE_SIZE : page * PAGE_SIZE],
            "total": len(found),
            "page": page,
            "pages": pages,
            "counts": {channel: counts[channel] for channel in CHANNELS},
            "sources": sorted({source for m in kept if (source := self.origin(m).source)} | {query.source} - {""}),
            "refused": sum(not m.accepted for m in kept),
            "accepted": sum(self._recorder.by_provider("accepted").values()),
            "duplicates": len(self._recorder.duplicates()),
            "kept": sum(m.accepted for m in kept),
            "last": self._recorder.last_n,
            "reset": self._recorder.resets,
        }

    def _view_values(self, query: Query) -> dict[str, Any]:
        message = self._recorder.messages.get(query.m)
        tabs: tuple[str, ...] = TABS[message.channel] if message else ()
        if message and not message.accepted and message.channel in ("slack", "discord"):
            tabs = ("raw",)  # what a provider refused need not have the form that can be drawn
        return {
            "query": query,
            "message": message,
            "origin": self.origin(message) if message else None,
            "body": message.body if message else None,
            "tabs": tabs,
            "tab": query.tab if query.tab in tabs else (tabs[0] if tabs else ""),
            "raw": _raw(message) if message else "",
        }

    def _html(self, template: str, values: dict[str, Any], status: int = 200) -> web.Response:
        text = self._pages.get_template(template).render(values)
        headers = HEADERS | {"Content-Security-Policy": PAGE_POLICY}
        return web.Response(text=text, status=status, content_type="text/html", charset="utf-8", headers=headers)


def _haystack(message: Message, origin: Origin) -> str:
    subject = message.body.subject() if message.body else ""
    sender = message.body.envelope.from_address if isinstance(message.body, EmailBody) else ""
    ids = f"{message.delivery_id}\n{origin.delivery_id}\n{origin.source}"
    return f"{message.destination}\n{subject}\n{sender}\n{ids}".casefold()


def _raw(message: Message) -> str:
    if isinstance(message.body, HookBody):
        return message.body.raw.decode("utf-8", "replace")
    if isinstance(message.body, EmailBody):
        body = message.body
        return _pretty(
            {"tags": body.tags(), "configuration_set": body.envelope.configuration_set, "template_data": body.values()}
        )
    return _pretty(message.body.document() if message.body else None)


def _pretty(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def _colour(value: Any) -> str:
    return f"#{value & 0xFFFFFF:06x}" if isinstance(value, int) else "#4e5058"


def _json(document: Any) -> web.Response:
    return web.Response(body=orjson.dumps(document), content_type="application/json", headers=HEADERS)
