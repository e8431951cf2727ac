"""Slack's Web API: chat.postMessage, chat.update, auth.test, conversations.open and conversations.history with metadata.

What is posted to a user's id goes, as at Slack, into the direct message with that user, which has an id of its own.
"""

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiohttp import web

from deploy.sandbox.blocks import TEXT_MAX, check_blocks
from deploy.sandbox.exchange import Reply, Sandbox, exchange, json_reply, retry_after_header, settle
from deploy.sandbox.faults import Fault
from deploy.sandbox.recorder import MAX_ID_CHARS, Message, digest_of, hash_text

TEAM: Final = "T0SANDBOX1"
USER: Final = "U0SANDBOX1"
BOT: Final = "B0SANDBOX1"
APP: Final = "A0SANDBOX1"
CHANNEL_CHARS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.#@")
USERS: Final = ("U", "W")
"""What the ids of users begin with."""
POSTS_KEPT: Final = 50_000
"""Posts whose ts and delivery id are remembered for conversations.history (the oldest go first)."""
HISTORY_MAX: Final = 999
EVENT_TYPE: Final = "newswire_delivery"
"""event_type that a post has in the history when the sandbox was restarted since: the journal keeps the delivery id only."""


@dataclass(slots=True)
class Post:
    """A message in a channel; its body is in the recorder while that keeps it."""

    ts: str
    n: int
    delivery_id: str


@dataclass(slots=True)
class SlackBody:
    """The arguments of chat.postMessage; kept as bytes, because the collector walks through everything else that is kept."""

    packed: bytes
    ts: str
    edited_ts: str = ""

    @classmethod
    def of(cls, arguments: dict[str, Any], ts: str) -> "SlackBody":
        """Return the body of these arguments without what is secret."""
        return cls(orjson.dumps({name: value for name, value in arguments.items() if name != "token"}), ts)

    @property
    def payload(self) -> dict[str, Any]:
        """The arguments, without the token."""
        arguments: dict[str, Any] = orjson.loads(self.packed)
        return arguments

    def subject(self) -> str:
        """Return the notification text, else the first header or section."""
        payload = self.payload
        blocks = [b for b in payload.get("blocks") or [] if isinstance(b, dict) and isinstance(b.get("text"), dict)]
        text = payload.get("text") or next((b["text"].get("text", "") for b in blocks), "")
        return " ".join(str(text).split()) or "(no text)"

    def document(self) -> dict[str, Any]:
        """Return the arguments as JSON."""
        return self.payload | {"ts": self.ts}

    def message(self, *, metadata: bool) -> dict[str, Any]:
        """Return the message object as Slack shows it."""
        return _message(self.payload, self.ts, self.edited_ts, metadata=metadata)


def _message(payload: dict[str, Any], ts: str, edited_ts: str = "", *, metadata: bool) -> dict[str, Any]:
    blocks = [{"block_id": f"b{i}"} | b for i, b in enumerate(payload.get("blocks") or [])]
    shown: dict[str, Any] = {
        "user": USER,
        "type": "message",
        "ts": ts,
        "bot_id": BOT,
        "app_id": APP,
        "team": TEAM,
        "text": str(payload.get("text") or "")[:TEXT_MAX],
    }
    for name in ("client_msg_id", "thread_ts"):
        if payload.get(name):
            shown[name] = payload[name]
    if blocks:
        shown["blocks"] = blocks
    if edited_ts:
        shown["edited"] = {"user": USER, "ts": edited_ts}
    if metadata and payload.get("metadata"):
        shown["metadata"] = payload["metadata"]
    return shown


class Slack:
    """The handlers under /slack/api."""

    provider = "slack"

    def __init__(self, box: Sandbox) -> None:
        self._box = box
        self._posts: OrderedDict[tuple[str, str], Post] = OrderedDict()
        self._last_us = 0
        box.recorder.follow(self.provider, self._follow)

    def routes(self) -> list[web.RouteDef]:
        """Return the provider's routes; Slack takes GET and POST for reading methods."""
        methods = {
            "chat.postMessage": self.post_message,
            "chat.update": self.update,
            "auth.test": self.auth_test,
            "conversations.history": self.history,
            "conversations.open": self.open,
        }
        routes = [web.post(f"/slack/api/{name}", handler) for name, handler in methods.items()]
        return routes + [web.get(f"/slack/api/{name}", methods[name]) for name in ("auth.test", "conversations.history")]

    def reset(self) -> None:
        """Forget the channels' history."""
        self._posts.clear()

    def _follow(self, line: dict[str, Any]) -> None:
        if line["outcome"] == "accepted":
            self._posts[line["destination_hash"], line["receipt"]] = Post(line["receipt"], line["n"], line["delivery_id"])
            if len(self._posts) > POSTS_KEPT:
                self._posts.popitem(last=False)

    def _ts(self) -> str:
        self._last_us = max(self._last_us + 1, time.time_ns() // 1000)
        return f"{self._last_us // 1_000_000}.{self._last_us % 1_000_000:06d}"

    async def post_message(self, request: web.Request) -> web.StreamResponse:
        """chat.postMessage."""
        raw, call = await _arguments(request)
        channel = _conversation(str(call.get("channel") or ""))
        body = SlackBody.of(call, "")
        message = Message(self.provider, _delivery_id(call), channel, digest_of(raw), body, len(raw) + 500)
        error, details = _refusal(request, call)

        def accept() -> Reply:
            if error:
                settle([message], 200, detail=f"{error}: {'; '.join(details)}" if details else error)
                return _error(error, details)
            body.ts = message.receipt = self._ts()
            settle([message], 200, outcome="accepted")
            document = {"ok": True, "channel": channel, "ts": body.ts, "message": _message(call, body.ts, metadata=True)}
            if len(str(call.get("text") or "")) > TEXT_MAX:
                document |= {"warning": "message_truncated", "response_metadata": {"warnings": ["message_truncated"]}}
            return json_reply(document)

        return await exchange(self._box, request, self, [message], accept)

    async def update(self, request: web.Request) -> web.StreamResponse:
        """chat.update."""
        raw, call = await _arguments(request)
        channel = str(call.get("channel") or "")
        message = Message(self.provider, _delivery_id(call), channel, digest_of(raw), None, len(raw))
        error, details = _refusal(request, call)
        post = self._posts.get((hash_text(channel), str(call.get("ts") or "")))
        if not error and post is None:
            error = "message_not_found"

        def accept() -> Reply:
            if error or post is None:
                settle([message], 200, detail=error)
                return _error(error, details)
            kept = self._box.recorder.messages.get(post.n)
            shown: dict[str, Any] = {"text": call.get("text") or "", "ts": post.ts}
            if kept is not None and isinstance(kept.body, SlackBody):
                changed = kept.body.payload | {k: v for k, v in call.items() if k not in ("token", "ts", "channel")}
                kept.body.packed, kept.body.edited_ts = orjson.dumps(changed), self._ts()
                shown = kept.body.message(metadata=True)
            message.receipt = post.ts
            message.delivery_id = message.delivery_id or post.delivery_id
            settle([message], 200, outcome="updated")
            return json_reply({"ok": True, "channel": channel, "ts": post.ts, "text": shown["text"], "message": shown})

        return await exchange(self._box, request, self, [message], accept)

    async def auth_test(self, request: web.Request) -> web.StreamResponse:
        """auth.test."""
        _, call = await _arguments(request)
        if not _token(request, call):
            return web.json_response({"ok": False, "error": "not_authed"})
        names = {"url": "https://sandbox.slack.com/", "team": "Sandbox", "user": "newswire"}
        return web.json_response(
            {"ok": True, **names, "team_id": TEAM, "user_id": USER, "bot_id": BOT, "is_enterprise_install": False}
        )

    async def open(self, request: web.Request) -> web.StreamResponse:
        """conversations.open: the direct message with one user."""
        _, call = await _arguments(request)
        if not _token(request, call):
            return web.json_response({"ok": False, "error": "not_authed"})
        user = str(call.get("users") or "")
        if user[:1] not in USERS or not _is_channel(user):
            return web.json_response({"ok": False, "error": "user_not_found"})
        return web.json_response({"ok": True, "channel": {"id": _conversation(user)}})

    async def history(self, request: web.Request) -> web.StreamResponse:
        """conversations.history: newest first; metadata only with include_all_metadata."""
        _, call = await _arguments(request)
        if not _token(request, call):
            return web.json_response({"ok": False, "error": "not_authed"})
        channel = str(call.get("channel") or "")
        if not _is_channel(channel) or channel[:1] in USERS:
            return web.json_response({"ok": False, "error": "channel_not_found"})
        try:
            limit = max(1, min(int(call.get("limit") or 100), HISTORY_MAX))
            oldest, latest = float(call.get("oldest") or 0), float(call.get("latest") or "inf")
            before = float(call["cursor"]) if call.get("cursor") else float("inf")
        except ValueError:
            return web.json_response({"ok": False, "error": "invalid_arguments"})
        inclusive, metadata = _truth(call.get("inclusive")), _truth(call.get("include_all_metadata"))
        channel_hash = hash_text(channel)
        found = [
            post
            for (owner, _), post in reversed(self._posts.items())
            if owner == channel_hash and _within(float(post.ts), oldest, latest, inclusive=inclusive) and float(post.ts) < before
        ]
        page, more = found[:limit], len(found) > limit
        document: dict[str, Any] = {
            "ok": True,
            "messages": [self._shown(p, metadata) for p in page],
            "has_more": more,
            "pin_count": 0,
        }
        if more:
            document["response_metadata"] = {"next_cursor": page[-1].ts}
        return web.json_response(document)

    def _shown(self, post: Post, metadata: bool) -> dict[str, Any]:
        kept = self._box.recorder.messages.get(post.n)
        if kept is not None and isinstance(kept.body, SlackBody):
            return kept.body.message(metadata=metadata)
        fallback = {"event_type": EVENT_TYPE, "event_payload": {"delivery_id": post.delivery_id}} if post.delivery_id else None
        return _message({"text": "", "metadata": fallback}, post.ts, metadata=metadata)

    def throttled(self, retry_after_s: float, fault: Fault | None) -> Reply:
        """Return 429 ratelimited with Retry-After."""
        return json_reply({"ok": False, "error": "ratelimited"}, 429, {"Retry-After": retry_after_header(retry_after_s)})

    def failed(self, fault: Fault) -> Reply:
        """Return a 5xx."""
        status = fault.status or 503
        usual = "service_unavailable" if status == 503 else "internal_error"
        return json_reply({"ok": False, "error": fault.code or usual}, status)

    def refused(self, fault: Fault) -> Reply:
        """Return ok: false with status 200, as Slack refuses."""
        return json_reply({"ok": False, "error": fault.code or "restricted_action"}, fault.status or 200)


async def _arguments(request: web.Request) -> tuple[bytes, dict[str, Any]]:
    """Return the raw body and the arguments: from JSON, from a form (values that are JSON are read), or from the query."""
    raw = await request.read()
    arguments: dict[str, Any] = dict(request.query)
    if request.content_type == "application/json" and raw:
        try:
            document = orjson.loads(raw)
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            return raw, arguments | {"": "invalid_json"}
        arguments |= document
    elif raw:
        arguments |= {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
        for name in ("blocks", "metadata", "attachments"):
            if isinstance(arguments.get(name), str):
                try:
                    arguments[name] = orjson.loads(arguments[name])
                except orjson.JSONDecodeError:
                    arguments[""] = "invalid_blocks_format" if name == "blocks" else "invalid_arguments"
    if "text" in arguments:
        arguments["text"] = str(arguments["text"] or "")
    return raw, arguments


def _token(request: web.Request, call: dict[str, Any]) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return (token.strip() if scheme == "Bearer" else "") or str(call.get("token") or "")


def _conversation(address: str) -> str:
    """Return the conversation that an address means: for a user's id the direct message with that user."""
    return f"D{address[1:]}" if address[:1] in USERS and address[1:].isalnum() and address.isupper() else address


def _is_channel(channel: str) -> bool:
    return 1 < len(channel) <= 80 and CHANNEL_CHARS.issuperset(channel)


def _metadata(call: dict[str, Any]) -> dict[str, Any]:
    metadata = call.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _delivery_id(call: dict[str, Any]) -> str:
    payload = _metadata(call).get("event_payload")
    return str(payload.get("delivery_id") or "")[:MAX_ID_CHARS] if isinstance(payload, dict) else ""


def _refusal(request: web.Request, call: dict[str, Any]) -> tuple[str, list[str]]:
    """Return Slack's error for a posted message, and its details; "" when it is fine."""
    if call.get(""):
        return str(call[""]), []
    if not _token(request, call):
        return "not_authed", []
    if not _is_channel(str(call.get("channel") or "")):
        return "channel_not_found", []
    if call.get("metadata") is not None:
        metadata = _metadata(call)
        if not isinstance(metadata.get("event_type"), str) or not isinstance(metadata.get("event_payload"), dict):
            return "invalid_metadata_format", []
    blocks = call.get("blocks") or []
    if not call.get("text") and not blocks and not call.get("attachments"):
        return "no_text", []
    return check_blocks(blocks)


def _error(error: str, details: list[str]) -> Reply:
    document: dict[str, Any] = {"ok": False, "error": error}
    if details:
        document |= {"errors": details, "response_metadata": {"messages": [f"[ERROR] {detail}" for detail in details]}}
    return json_reply(document)


def _truth(value: Any) -> bool:
    return value is True or str(value).lower() in ("1", "true")


def _within(ts: float, oldest: float, latest: float, *, inclusive: bool) -> bool:
    return oldest <= ts <= latest if inclusive else oldest < ts < latest
