"""The scoring service: a quality from 0 to 1 that depends on the title alone, so that anyone can work it out.

Over many titles 30 % are at most 0.8, 40 % above 0.8 and at most 0.9, and 30 % above 0.9. A publication whose attributes
have "quality" (a number, or a number as text) gets that one.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from deploy.sandbox.exchange import Reply, Sandbox, exchange, json_reply, retry_after_header, settle
from deploy.sandbox.faults import Fault
from deploy.sandbox.recorder import Message, digest_of

SCORER = "sandbox-1"


def quality_of(title: str, attributes: Mapping[str, Any] | None = None) -> float:
    """Return the quality of a title; runs of white space count as one space. ValueError when attributes' quality is none."""
    asked = (attributes or {}).get("quality")
    if asked is not None:
        quality = float(asked)
        if not 0 <= quality <= 1:
            raise ValueError(f"attributes.quality is {asked!r}: it must be a number from 0 to 1")
        return quality
    digest = hashlib.sha256(f"{SCORER}:{' '.join(title.split())}".encode("utf-8", "surrogatepass")).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    if share < 0.3:
        return round(0.3 + 0.5 * share / 0.3, 4)
    if share < 0.7:
        return round(0.8001 + 0.0999 * (share - 0.3) / 0.4, 4)
    return round(0.9001 + 0.0898 * (share - 0.7) / 0.3, 4)


class Scoring:
    """POST /score."""

    provider = "score"

    def __init__(self, box: Sandbox) -> None:
        self._box = box

    def routes(self) -> list[web.RouteDef]:
        """Return the service's routes."""
        return [web.post("/score", self.score)]

    async def score(self, request: web.Request) -> web.StreamResponse:
        """Answer {"quality", "scorer"}, or 422 with what is wrong."""
        raw = await request.read()
        problem, quality, name = "", 0.0, ""
        try:
            document = orjson.loads(raw)
            name = f"{document.get('publication_id', '')}@{document.get('revision', '')}"
            if not isinstance(document.get("title"), str) or not document["title"].strip():
                problem = "title: a text that is not empty is needed"
            else:
                quality = quality_of(document["title"], document.get("attributes"))
        except orjson.JSONDecodeError:
            problem = "the body is no JSON"
        except (AttributeError, TypeError, ValueError) as error:
            problem = str(error)
        message = Message(self.provider, name, "score", digest_of(raw), size_bytes=len(raw))

        def accept() -> Reply:
            if problem:
                settle([message], 422, detail=problem)
                return json_reply({"error": problem}, 422)
            settle([message], 200, outcome="accepted")
            return json_reply({"quality": quality, "scorer": SCORER})

        return await exchange(self._box, request, self, [message], accept)

    def throttled(self, retry_after_s: float, fault: Fault | None) -> Reply:
        """Return 429 with Retry-After."""
        return json_reply({"error": "too many requests"}, 429, {"Retry-After": retry_after_header(retry_after_s)})

    def failed(self, fault: Fault) -> Reply:
        """Return a 5xx."""
        return json_reply({"error": "the scorer is out of order"}, fault.status or 503)

    def refused(self, fault: Fault) -> Reply:
        """Return a 4xx."""
        return json_reply({"error": "the scorer refuses this publication"}, fault.status or 422)
