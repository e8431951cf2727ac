"""The scoring service: asks for the quality of a publication, and remembers what it said.

POST to NEWSWIRE_SCORING_URL with publication_id, revision, title, summary, content_type, topics, language and attributes; the
answer is {"quality": 0 to 1, "scorer": name and version}. A 4xx answer means that it refuses this content for good; a timeout, a
5xx or an answer that is none means that it is down. While it is down the score of the same content is used, when there is one.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from core.errors import EventRefused, Unavailable
from core.flow.breaker import Breaker, BreakerPlan
from runtime.clock import Clock

BREAKER = BreakerPlan(window=20, window_s=60.0, min_calls=5, failure_share=0.5, open_s=5.0, open_cap_s=5.0)
"""While it is open, cached scores are used at once instead of after a timeout each."""
CACHED_SCORES = 50_000
"""Scores kept in memory, some 100 bytes each; the log holds all of them and fills the cache at start."""

_PASSING = frozenset({408, 425, 429})
"""4xx answers that do not concern the content."""


@dataclass(frozen=True, slots=True)
class Score:
    """A quality, who gave it, and whether it is an earlier answer for the same content."""

    quality: float
    scorer: str
    cached: bool = False


class Scorer:
    """Client of the scoring service; belongs to one event loop."""

    def __init__(self, url: str, timeout_s: float, clock: Clock) -> None:
        self._url, self._timeout = url, aiohttp.ClientTimeout(total=timeout_s)
        self._clock, self._breaker = clock, Breaker(BREAKER)
        self._session: aiohttp.ClientSession | None = None
        self._cache: OrderedDict[bytes, Score] = OrderedDict()

    def remember(self, content_sha256: bytes, quality: float, scorer: str) -> None:
        """Keep a score for the case that the service is down."""
        self._cache[content_sha256] = Score(quality, scorer, cached=True)
        self._cache.move_to_end(content_sha256)
        if len(self._cache) > CACHED_SCORES:
            self._cache.popitem(last=False)

    async def score(self, submitted: Mapping[str, Any], content_sha256: bytes) -> Score:
        """Return the quality of a PublicationSubmitted.

        Raises EventRefused when the service refuses the content, Unavailable when it is down and the content was never scored.
        """
        now_s = self._clock.monotonic
        if self._breaker.allow(now_s()):
            epoch = self._breaker.epoch
            try:
                found = await self._ask(submitted)
            except EventRefused:
                self._breaker.record(True, epoch, now_s())
                raise
            except (TimeoutError, aiohttp.ClientError, ValueError) as error:
                self._breaker.record(False, epoch, now_s())
                reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            except BaseException:
                self._breaker.abandon(epoch, now_s())
                raise
            else:
                self._breaker.record(True, epoch, now_s())
                self.remember(content_sha256, found.quality, found.scorer)
                return found
        else:
            reason = "its breaker is open"
        earlier = self._cache.get(content_sha256)
        if earlier is None:
            raise Unavailable(
                f"the scoring service at {self._url} does not answer ({reason}); nothing is approved without a score"
            )
        return earlier

    async def _ask(self, submitted: Mapping[str, Any]) -> Score:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        names = ("publication_id", "revision", "title", "summary", "content_type", "topics", "language", "attributes")
        async with self._session.post(self._url, json={name: submitted[name] for name in names}) as answer:
            if 400 <= answer.status < 500 and answer.status not in _PASSING:
                raise EventRefused(
                    "PublicationSubmitted", "quality", f"the scoring service refuses this content ({answer.status})"
                )
            answer.raise_for_status()
            body = await answer.json()
        quality = body.get("quality") if isinstance(body, dict) else None
        if not isinstance(quality, int | float) or isinstance(quality, bool) or not 0 <= quality <= 1:
            raise ValueError(f"no quality between 0 and 1 in {body!r}")
        return Score(float(quality), str(body.get("scorer") or "unnamed"))
