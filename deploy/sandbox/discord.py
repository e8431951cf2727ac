"""Discord's REST API v10: create, edit and read messages; nonce with enforce_nonce; rate-limit headers.

With enforce_nonce the first message under a nonce is returned again for NONCE_WINDOW_S, and the request is recorded as
deduplicated. The nonce is the delivery id under which a message is counted. As at Discord, only the answer to a create
shows the nonce: a message that is read later has none, unless its body is not kept any more, so that it could not be
told from others.
"""

import re
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from aiohttp import web

from deploy.sandbox.embeds import check_message, form_error, leaf
from deploy.sandbox.exchange import Reply, Sandbox, exchange, json_reply, retry_after_header, settle
from deploy.sandbox.faults import Fault
from deploy.sandbox.recorder import Message, digest_of, hash_text

EPOCH_MS: Final = 1_420_070_400_000
NONCE_WINDOW_S: Final = 300.0
"""Discord says "the past few minutes"."""

POSTS_KEPT: Final = 50_000
MARKS: Final = re.compile(r"\\([\W_])|\*\*|__|~~|`")
"""Escapes, and marks of bold, underline, strike and code, which a list shows without."""

OFF_BUCKET: Final = 1_000
"""Requests a second that the headers promise while no rate is switched on; hikari keeps to the headers on its own."""

BUCKET: Final = hash_text("channels messages")
"""The route's bucket; a client keeps one for each channel under it."""

BOT: Final[dict[str, Any]] = {
    "id": "900000000000000001",
    "username": "newswire",
    "avatar": None,
    "discriminator": "0001",
    "public_flags": 0,
    "flags": 0,
    "bot": True,
    "global_name": None,
    "primary_guild": None,
}

TEXT_CHANNEL: Final[dict[str, Any]] = {
    "type": 0,
    "guild_id": "900000000000000002",
    "name": "sandbox",
    "position": 0,
    "flags": 0,
    "topic": None,
    "nsfw": False,
    "parent_id": None,
    "permission_overwrites": [],
    "rate_limit_per_user": 0,
}


@dataclass(slots=True)
class Post:
    """A message in a channel; its body is in the recorder while that keeps it."""

    id: str
    n: int
    nonce: str
    channel_hash: str


@dataclass(slots=True)
class DiscordBody:
    """The body of a created message; kept as bytes, because the collector walks through everything else that is kept."""

    packed: bytes
    channel_id: str
    id: str = ""
    edited_at: str | None = None
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())

    @property
    def payload(self) -> dict[str, Any]:
        """The body as the client sent it, with what it has edited since."""
        payload: dict[str, Any] = orjson.loads(self.packed)
        return payload

    def subject(self) -> str:
        """Return the first embed's title, else the content."""
        payload = self.payload
        titles = [e.get("title") or e.get("description") for e in payload.get("embeds") or []]
        text = payload.get("content") or next((t for t in titles if t), "")
        plain = MARKS.sub(lambda mark: mark[1] or "", str(text))
        return " ".join(plain.split())[:200] or "(no text)"

    def document(self) -> dict[str, Any]:
        """Return the body as JSON."""
        return self.payload | {"id": self.id, "channel_id": self.channel_id}

    def message(self, payload: dict[str, Any] | None = None, *, nonce: bool = False) -> dict[str, Any]:
        """Return the message object as Discord shows it; the nonce only in the answer to a create.

        `payload` is what `packed` says, for a caller who has it at hand.
        """
        payload = self.payload if payload is None else payload
        shown: dict[str, Any] = {
            "type": 0,
            "content": payload.get("content") or "",
            "mentions": [],
            "mention_roles": [],
            "attachments": [],
            "embeds": [_shown_embed(e) for e in payload.get("embeds") or []],
            "timestamp": self.created_at,
            "edited_timestamp": self.edited_at,
            "flags": payload.get("flags") or 0,
            "components": _numbered(payload.get("components") or [], [0]),
            "id": self.id,
            "channel_id": self.channel_id,
            "author": BOT,
            "pinned": False,
            "mention_everyone": False,
            "tts": bool(payload.get("tts")),
        }
        if nonce and payload.get("nonce") is not None:
            shown["nonce"] = payload["nonce"]
        return shown


def _shown_embed(embed: dict[str, Any]) -> dict[str, Any]:
    shown = {key: value for key, value in embed.items() if value is not None}
    if "fields" in shown:
        shown["fields"] = [{"inline": False} | {k: v for k, v in f.items() if v is not None} for f in shown["fields"]]
    return shown | {"type": "rich"}


def _numbered(components: list[dict[str, Any]], last: list[int]) -> list[dict[str, Any]]:
    shown = []
    for component in components:
        last[0] += 1
        shown.append({"id": last[0]} | component)
        if isinstance(component.get("components"), list):
            shown[-1]["components"] = _numbered(component["components"], last)
    return shown


class Discord:
    """The handlers under /discord/api/v10."""

    provider = "discord"

    def __init__(self, box: Sandbox) -> None:
        self._box = box
        self._posts: OrderedDict[str, Post] = OrderedDict()
        self._nonces: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._last_id = 0
        box.recorder.follow(self.provider, self._follow)

    def routes(self) -> list[web.RouteDef]:
        """Return the provider's routes."""
        base = "/discord/api/v10/channels/{channel_id}/messages"
        return [
            web.post(base, self.create),
            web.get(base, self.read),
            web.get(base + "/{message_id}", self.read_one),
            web.patch(base + "/{message_id}", self.edit),
            web.get("/discord/api/v10/channels/{channel_id}", self.channel),
            web.get("/discord/api/v10/users/@me", self.me),
        ]

    def reset(self) -> None:
        """Forget the channels' messages and the nonces."""
        self._posts.clear()
        self._nonces.clear()

    def _follow(self, line: dict[str, Any]) -> None:
        if line["outcome"] != "accepted":
            return
        post = Post(line["receipt"], line["n"], line["delivery_id"], line["destination_hash"])
        self._last_id = max(self._last_id, int(post.id))
        self._posts[post.id] = post
        if post.nonce:
            self._nonces[post.nonce] = (post.id, datetime.fromisoformat(line["at"]).timestamp())
        for kept in (self._posts, self._nonces):
            if len(kept) > POSTS_KEPT:
                kept.popitem(last=False)

    def _snowflake(self) -> str:
        self._last_id = max(self._last_id + 1, (int(time.time() * 1000) - EPOCH_MS) << 22)
        return str(self._last_id)

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Create Message."""
        channel_id = request.match_info["channel_id"]
        raw, payload, problem = await _payload(request)
        nonce = str(payload.get("nonce") or "")
        body = DiscordBody(raw if payload else b"{}", channel_id)
        message = Message(self.provider, nonce, channel_id, digest_of(raw), body, len(raw) + 500)
        problem = problem or check_message(payload)

        def accept() -> Reply:
            if problem:
                settle([message], problem.status, detail=orjson.dumps(orjson.loads(problem.body)).decode())
                return self._with_headers(problem)
            first = self._first(nonce) if payload.get("enforce_nonce") else None
            if first is not None:
                message.receipt, message.body = first.id, None
                settle([message], 200, outcome="deduplicated")
                return self._with_headers(json_reply(self._shown(first, channel_id) | {"nonce": nonce}))
            body.id = message.receipt = self._snowflake()
            settle([message], 200, outcome="accepted")
            return self._with_headers(json_reply(body.message(payload, nonce=True)))

        return await exchange(self._box, request, self, [message], accept)

    async def edit(self, request: web.Request) -> web.StreamResponse:
        """Edit Message."""
        channel_id, message_id = request.match_info["channel_id"], request.match_info["message_id"]
        raw, payload, problem = await _payload(request)
        post = self._post(channel_id, message_id)
        message = Message(
            self.provider, post.nonce if post else "", channel_id, digest_of(raw), None, len(raw), receipt=message_id
        )
        if not problem and post is None:
            problem = _unknown_message()
        problem = problem or check_message(payload, edit=True)

        def accept() -> Reply:
            if problem or post is None:
                settle([message], problem.status if problem else 404)
                return self._with_headers(problem or _unknown_message())
            kept = self._box.recorder.messages.get(post.n)
            if kept is not None and isinstance(kept.body, DiscordBody):
                kept.body.packed = orjson.dumps(kept.body.payload | payload)
                kept.body.edited_at = datetime.now(UTC).isoformat()
            settle([message], 200, outcome="updated")
            return self._with_headers(json_reply(self._shown(post, channel_id)))

        return await exchange(self._box, request, self, [message], accept)

    async def read(self, request: web.Request) -> web.StreamResponse:
        """Get Channel Messages: newest first."""
        channel_id = request.match_info["channel_id"]
        if not _authorized(request):
            return _respond(_unauthorized())
        try:
            limit = int(request.query.get("limit", 50))
            bounds = {name: int(request.query[name]) for name in ("before", "after", "around") if name in request.query}
        except ValueError:
            limit, bounds = 0, {}
        if not 1 <= limit <= 100:
            return _respond(form_error({"limit": leaf("NUMBER_TYPE_MAX", "int value should be between 1 and 100.")}))
        channel_hash = hash_text(channel_id)
        posts = [p for p in reversed(self._posts.values()) if p.channel_hash == channel_hash]
        if "before" in bounds:
            posts = [p for p in posts if int(p.id) < bounds["before"]]
        if "after" in bounds:
            posts = [p for p in posts if int(p.id) > bounds["after"]][-limit:]
        if "around" in bounds:
            posts = sorted(sorted(posts, key=lambda p: abs(int(p.id) - bounds["around"]))[:limit], key=lambda p: -int(p.id))
        shown = [self._shown(p, channel_id) for p in posts[:limit]]
        return _respond(self._with_headers(json_reply(shown)))

    async def read_one(self, request: web.Request) -> web.StreamResponse:
        """Get Channel Message."""
        channel_id = request.match_info["channel_id"]
        if not _authorized(request):
            return _respond(_unauthorized())
        post = self._post(channel_id, request.match_info["message_id"])
        reply = json_reply(self._shown(post, channel_id)) if post else _unknown_message()
        return _respond(self._with_headers(reply))

    async def channel(self, request: web.Request) -> web.StreamResponse:
        """Get Channel: a text channel that knows its newest message."""
        channel_id = request.match_info["channel_id"]
        if not _authorized(request):
            return _respond(_unauthorized())
        channel_hash = hash_text(channel_id)
        newest = next((p.id for p in reversed(self._posts.values()) if p.channel_hash == channel_hash), None)
        shown = {"id": channel_id, "last_message_id": newest, **TEXT_CHANNEL}
        return _respond(self._with_headers(json_reply(shown)))

    async def me(self, request: web.Request) -> web.StreamResponse:
        """Get Current User."""
        if not _authorized(request):
            return _respond(_unauthorized())
        return _respond(json_reply(BOT | {"mfa_enabled": False, "locale": "en-US", "verified": True, "email": None}))

    def _post(self, channel_id: str, message_id: str) -> Post | None:
        post = self._posts.get(message_id)
        return post if post is not None and post.channel_hash == hash_text(channel_id) else None

    def _first(self, nonce: str) -> Post | None:
        message_id, at = self._nonces.get(nonce, ("", 0.0))
        return self._posts.get(message_id) if time.time() - at < NONCE_WINDOW_S else None

    def _shown(self, post: Post, channel_id: str) -> dict[str, Any]:
        kept = self._box.recorder.messages.get(post.n)
        if kept is not None and isinstance(kept.body, DiscordBody):
            return kept.body.message()
        created = datetime.fromtimestamp(((int(post.id) >> 22) + EPOCH_MS) / 1000, UTC).isoformat()
        return DiscordBody(b"{}", channel_id, post.id, created_at=created).message({"nonce": post.nonce or None}, nonce=True)

    def _with_headers(self, reply: Reply) -> Reply:
        limit = self._box.limits.get(self.provider)
        bucket = _bucket(OFF_BUCKET, OFF_BUCKET - 1, 1.0)
        if limit.on and limit.scope == "destination":
            size = max(int(limit.burst), 2)
            bucket = _bucket(size, size - 1, size / limit.per_second)
        return Reply(reply.status, reply.body, bucket | dict(reply.headers))

    def throttled(self, retry_after_s: float, fault: Fault | None) -> Reply:
        """Return 429 with retry_after, for the resource (scope shared), the bot on this route (user) or the bot (global)."""
        scope = fault.scope if fault else self._box.limits.get(self.provider).scope
        scope = {"destination": "user"}.get(scope, scope)
        headers = {"Retry-After": retry_after_header(retry_after_s), "X-RateLimit-Scope": scope}
        if scope == "global":
            headers["X-RateLimit-Global"] = "true"
        else:
            headers |= _bucket(1, 0, retry_after_s)
        document = {
            "message": "You are being rate limited.",
            "retry_after": round(retry_after_s, 3),
            "global": scope == "global",
            "code": 0,
        }
        return json_reply(document, 429, headers)

    def failed(self, fault: Fault) -> Reply:
        """Return a 5xx."""
        status = fault.status or 503
        return json_reply({"message": f"{status}: the sandbox fails because a fault says so", "code": 0}, status)

    def refused(self, fault: Fault) -> Reply:
        """Return 403 Missing Access."""
        return json_reply({"message": "Missing Access", "code": int(fault.code or 50001)}, fault.status or 403)


def _bucket(limit: int, remaining: int, reset_after_s: float) -> dict[str, str]:
    return {
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": str(remaining),
        "X-RateLimit-Reset": f"{time.time() + reset_after_s:.3f}",
        "X-RateLimit-Reset-After": f"{reset_after_s:.3f}",
        "X-RateLimit-Bucket": BUCKET,
    }


def _authorized(request: web.Request) -> bool:
    return request.headers.get("Authorization", "").startswith(("Bot ", "Bearer "))


def _unauthorized() -> Reply:
    return json_reply({"message": "401: Unauthorized", "code": 0}, 401)


def _unknown_message() -> Reply:
    return json_reply({"message": "Unknown Message", "code": 10008}, 404)


async def _payload(request: web.Request) -> tuple[bytes, dict[str, Any], Reply | None]:
    raw = await request.read()
    if not _authorized(request):
        return raw, {}, _unauthorized()
    channel_id = request.match_info["channel_id"]
    if not channel_id.isdigit() or not 0 < int(channel_id) < 2**63:
        return raw, {}, form_error({"channel_id": leaf("NUMBER_TYPE_COERCE", f'Value "{channel_id}" is not snowflake.')})
    try:
        payload = orjson.loads(raw)
    except orjson.JSONDecodeError:
        payload = None
    if not isinstance(payload, dict):
        return raw, {}, json_reply({"message": "The request body contains invalid JSON.", "code": 50109}, 400)
    return raw, payload, None


def _respond(reply: Reply) -> web.Response:
    return web.Response(status=reply.status, body=reply.body, headers=reply.headers, content_type=reply.content_type)
