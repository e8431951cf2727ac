"""How fast this sink may call, and whether at all: the breakers and the rates of one channel, as one process sees them.

Consumes the outcomes of calls, what the provider says of the account's limits, and tokens from ledger.buckets, which all
processes of the channel share; what changes of a breaker goes to sinks/announcing.py. State: breakers and paces in memory; the
provider's breaker, and which destinations were open, come back from ledger.breakers after a restart.
Ordering: messages to a destination are given their turns in the order in which they are judged.

While the provider's breaker is not closed nothing is called but one call to look, the partitions pause, and what is in
hand waits with its claim; a destination that is open, or more than LONGEST_WAIT_S from its turn, has its deliveries parked.
Neither counts as an attempt. On the way of a message that nothing stops there is no statement and no waiting.
"""

import asyncio
import hashlib
import hmac
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final

from core.errors import SetupError
from core.flow.breaker import Breaker, Change
from core.flow.bucket import Rate
from core.flow.rates import DESTINATION_BREAKER, PROVIDER_BREAKER, RATES
from core.outcomes import Outcome, Retry, Unknown
from runtime import metrics
from runtime.clock import Clock
from runtime.settings import Settings
from sinks.announcing import Changed
from sinks.flight import Flight
from sinks.flow_store import FlowStore
from sinks.pacing import Paces
from sinks.provider import ACCOUNT, PROVIDER_ERROR, THROTTLED, UNREACHABLE, Message, Prepared, Provider
from sinks.settle import persist

WAIT_S: Final = 0.02
"""How often what waits looks again; urgent is delayed by no more than this once it may go."""
HOLD_CAP_S: Final = 60.0
"""A provider that asks for a longer pause is asked again after this; the deliveries that it refused wait as long as it said."""
BLOCK_S: Final = {"urgent": 0.1, "bulk": 0.25}
"""How much of a second's tokens is taken at once: what bulk has taken, urgent cannot have."""
TOKENS_LIVE_S: Final = 2.0
"""Tokens that were not used by then are forgotten, so that what was saved up is never sent in one burst."""
LIMITS_EVERY_S: Final = 60.0
"""How often the provider is asked what the account may send."""
WIDE: Final = 3
"""Throttled answers of so many destinations within a second are about the provider as a whole."""
TRIAL_S: Final = 5.0
"""How long deliveries of a destination wait while a call looks whether it works again."""
SUSPECTS: Final = 32
"""Most messages on their way to destinations that failed of late: what hangs again must not take the places of all others."""
SUSPECT_S: Final = 15.0
"""How long the deliveries wait for which there is no room among those."""

RATE: Final = "rate"
DESTINATION_OPEN: Final = "destination_open"
DESTINATION_FAILING: Final = "destination_failing"
"""Reasons of a Retry without a call."""

_STATES: Final = {"closed": 0, "half_open": 1, "open": 2}
_FAULTS: Final = frozenset({UNREACHABLE, PROVIDER_ERROR, ACCOUNT})

log = logging.getLogger(__name__)


def rates_apply(settings: Settings) -> bool:
    """Return whether rates hold: when real providers are spoken to, or when they are switched on. SetupError for another word."""
    if settings.rates not in ("auto", "on", "off"):
        raise SetupError(f"NEWSWIRE_RATES={settings.rates!r} is none of auto, on and off; correct it or unset it.")
    return settings.rates == "on" or (settings.rates == "auto" and settings.live)


def warming(text: str) -> dict[str, datetime]:
    """Return sender domain and first day of a text such as "news.example=2026-11-20"; SetupError when it is no such text."""
    found = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        domain, _, day = part.partition("=")
        try:
            found[domain.strip().lower()] = datetime.strptime(day.strip(), "%Y-%m-%d").replace(tzinfo=UTC)
        except ValueError:
            raise SetupError(f"NEWSWIRE_WARMUP: {part!r} is not domain=YYYY-MM-DD; correct it or unset it.") from None
    return found


@dataclass(frozen=True, slots=True)
class Admitted:
    """A call that may begin."""

    count: int
    """With so many messages."""
    epoch: int
    """Of the provider's breaker."""


class Flow:
    """Breakers and rates of one sink process."""

    def __init__(
        self, settings: Settings, store: FlowStore, provider: Provider, flight: Flight, clock: Clock, *, channel: str, lane: str
    ) -> None:  # fmt: skip
        """SetupError when NEWSWIRE_RATES or NEWSWIRE_WARMUP cannot be understood."""
        settings.require("receipt_key")
        self._key = bytes.fromhex(settings.receipt_key)
        self._store, self._provider, self._flight, self._clock = store, provider, flight, clock
        self._channel, self._lane = channel, lane
        self._process = f"{channel}-{lane}"
        self._rates, self._rated = RATES[channel], rates_apply(settings)
        self._warming = warming(settings.warmup)
        self._rate = self._rates.provider if self._rated else None
        self._breaker = Breaker(PROVIDER_BREAKER) if self._rates.breaker == "provider" else None
        self._breakers: dict[str, Breaker] = {}
        self._reopened: set[str] = set()
        """Hashes of destinations that were open when an earlier process ended."""
        self._judged: dict[str, tuple[str, int]] = {}
        """Deliveries on their way to a destination that has a breaker: destination and epoch."""
        self.paces = Paces(
            store, self._rates, flight, clock, lane=lane, shards=settings.shards, hashed=self._hash,
            day_of_sender=self._day_of_sender,
        )  # fmt: skip
        self._throttled: deque[tuple[float, str]] = deque(maxlen=16)
        self._tokens, self._tokens_end_s, self._held_until_s = 0, 0.0, 0.0
        self._wanted = 0
        self._slow_s: float | None = None
        self._need = asyncio.Event()
        self._said: set[str] = set()
        """Destinations of which it was said that they are not closed."""
        self.changes: asyncio.Queue[Changed] = asyncio.Queue()
        """What is to be announced."""

    async def start(self) -> None:
        """Take up what the breakers were when the last process ended."""
        now_s = self._clock.monotonic()
        for noted in await persist("breakers", self._store.noted):
            if noted.destination:
                self._reopened.add(noted.destination)
            elif noted.state != "closed" and self._breaker is not None:
                self._breaker.restore(now_s)
        self._show()

    # -- what the rest of the process asks ---------------------------------------------------------------------------

    @property
    def blocked(self) -> bool:
        """Whether nothing may be called now, so that polling and taking up parked deliveries make no sense."""
        breaker, now_s = self._breaker, self._clock.monotonic()
        waits = breaker is not None and breaker.state != "closed" and (breaker.state == "half_open" or now_s < breaker.until_s)
        return waits or now_s < self._held_until_s

    @property
    def looking(self) -> bool:
        """Whether the next call is one that looks whether the provider works again: then few deliveries are enough."""
        return self._breaker is not None and self._breaker.state != "closed"

    @property
    def by_destination(self) -> bool:
        """Whether messages must be judged one by one."""
        return self._rated or bool(self._breakers) or bool(self._reopened)

    def judge(self, message: Message) -> float | Retry:
        """Return how long a message waits for its turn at its destination, 0 for not at all; a Retry when it is to be parked."""
        destination = self._provider.destination(message)
        if destination is None:
            return 0.0
        now_s = self._clock.monotonic()
        delivery_id = message.delivery.delivery_id
        breaker = self._breaker_of(destination, now_s)
        if breaker is not None:
            if len(self._judged) >= SUSPECTS:
                return Retry(random.uniform(SUSPECT_S, 2 * SUSPECT_S), DESTINATION_FAILING)
            allowed = breaker.allow(now_s)
            if not allowed:
                pause_s = max(breaker.until_s - now_s, TRIAL_S)
                return Retry(pause_s + random.uniform(0.0, pause_s / 2), DESTINATION_OPEN)
            self._judged[delivery_id] = (destination, breaker.epoch)
        if not self._rated:
            return 0.0
        wait_s, taken = self.paces.turn(destination, message, now_s)
        if not taken:
            self.dropped(delivery_id)
            return Retry(wait_s, RATE)
        return wait_s

    async def admit(self, wanted: int, going: Callable[[], bool]) -> Admitted | None:
        """Wait until breaker and rate let a call begin, and return with how many of the messages that want to go.

        What was admitted ends in `answered` or `withdrawn`. None when `going` returns False meanwhile: then they are to be
        looked at before they wait on.
        """
        breaker = self._breaker
        while True:
            now_s = self._clock.monotonic()
            # a bucket never holds more tokens than its burst; a call that looks whether it works risks one message only
            count = wanted if self._rate is None else max(1, min(wanted, int(self._rate.burst)))
            if self.looking:
                count = 1
            if self._rate is None or self._has(count, now_s):
                allowed = True if breaker is None else breaker.allow(now_s)
                if allowed:
                    if self._rate is not None:
                        self._tokens -= count
                    if isinstance(allowed, Change):
                        self._changed("", allowed)
                    return Admitted(count, 0 if breaker is None else breaker.epoch)
            metrics.FLOW_WAIT_SECONDS.labels(self._process, "breaker" if self.looking else RATE).inc(WAIT_S)
            await asyncio.sleep(WAIT_S)
            if not going():
                return None

    def withdrawn(self, epoch: int, messages: Sequence[Prepared], called: int) -> None:
        """Take back what was given for messages that were not called for after all; so many others were."""
        if self._rate is not None:
            self._tokens += len(messages)
        for one in messages:
            self.dropped(one.message.delivery.delivery_id)
        if self._breaker is not None and not called:
            self._breaker.abandon(epoch, self._clock.monotonic())

    def dropped(self, delivery_id: str) -> None:
        """Take note that a judged message was not called for."""
        if self._judged and (judged := self._judged.pop(delivery_id, None)) and (breaker := self._breakers.get(judged[0])):
            breaker.abandon(judged[1], self._clock.monotonic())

    def answered(self, group: Sequence[Prepared], outcomes: Sequence[Outcome], epoch: int, now_s: float) -> None:
        """Take what a call came to."""
        failed = 0
        for prepared, outcome in zip(group, outcomes, strict=True):
            fault = isinstance(outcome, Unknown) or (isinstance(outcome, Retry) and outcome.reason in _FAULTS)
            failed += fault
            if fault or (self._judged and prepared.message.delivery.delivery_id in self._judged):
                self._destination(prepared.message, ok=not fault, now_s=now_s)
            if isinstance(outcome, Retry) and outcome.reason == THROTTLED:
                self._throttle(prepared.message, outcome.after_s, now_s)
        if self._breaker is not None:
            change = self._breaker.record(2 * failed < len(outcomes), epoch, now_s)
            if change is not None:
                self._changed("", change)

    # -- breakers -----------------------------------------------------------------------------------------------------

    def _breaker_of(self, destination: str, now_s: float) -> Breaker | None:
        """Return the breaker of a destination that failed of late, None for any other."""
        if self._reopened and (hashed := self._hash(destination).hex()) in self._reopened:
            self._reopened.discard(hashed)
            self._breakers[destination] = Breaker(DESTINATION_BREAKER)
            self._breakers[destination].restore(now_s)
        return self._breakers.get(destination)

    def _destination(self, message: Message, *, ok: bool, now_s: float) -> None:
        """Record a result at the destination's own breaker, made with the first failure and forgotten when all is well."""
        if self._rates.breaker != "destination":
            return
        judged = self._judged.pop(message.delivery.delivery_id, None)
        destination, epoch = judged or (self._provider.destination(message), 0)
        if destination is None:
            return
        breaker = self._breakers.setdefault(destination, Breaker(DESTINATION_BREAKER))
        change = breaker.record(ok, epoch, now_s)
        if change is not None and (change.state == "closed" or destination not in self._said):
            self._changed(destination, change)  # a trial that failed is no news
        if not breaker.failing(now_s):
            del self._breakers[destination]
        metrics.DESTINATIONS_OPEN.labels(self._process).set(sum(1 for b in self._breakers.values() if b.state != "closed"))

    def _changed(self, destination: str, change: Change) -> None:
        where = f"a destination of {self._channel}" if destination else self._channel
        log.log(logging.INFO if change.state == "closed" else logging.WARNING, "%s is %s: %s", where, change.state, change.reason)
        metrics.BREAKER_CHANGES.labels(self._process, "destination" if destination else "provider", change.state).inc()
        self._show()
        (self._said.discard if change.state == "closed" else self._said.add)(destination)
        hashed = self._hash(destination).hex() if destination else ""
        self.changes.put_nowait(Changed(hashed, change, self._clock.now()))

    def _show(self) -> None:
        if self._breaker is not None:
            metrics.BREAKER_STATE.labels(self._process).set(_STATES[self._breaker.state])

    def _hash(self, destination: str) -> bytes:
        return hmac.digest(self._key, f"destination\x1f{self._channel}\x1f{destination}".encode(), hashlib.sha256)

    # -- rates --------------------------------------------------------------------------------------------------------

    def _has(self, count: int, now_s: float) -> bool:
        """Return whether there are tokens for a call; if not, or if they run out soon, let `fill` get more."""
        if now_s >= self._tokens_end_s:
            self._tokens = 0
        enough = self._tokens >= count and now_s >= self._held_until_s
        if not enough or self._tokens < 2 * count:
            self._wanted = max(self._wanted, count)
            self._need.set()
        return enough

    async def fill(self) -> None:
        """Keep tokens in hand while there is something to send, for ever; ends at once where no rate applies."""
        while self._rate is not None:
            await self._need.wait()
            self._need.clear()
            wanted, self._wanted = self._wanted, 0
            slow_s, self._slow_s = self._slow_s, None
            block = max(int(self._rate.per_s * BLOCK_S[self._lane]), wanted)
            grant = await persist("tokens", partial(self._store.take, self._lane, block, self._rate, slow_s))
            now_s = self._clock.monotonic()
            if grant.tokens:
                self._tokens = (self._tokens if now_s < self._tokens_end_s else 0) + grant.tokens
            if grant.tokens or self._tokens:
                self._tokens_end_s = now_s + TOKENS_LIVE_S
            if grant.held_s:
                self._held_until_s = max(self._held_until_s, now_s + min(grant.held_s, HOLD_CAP_S))
            metrics.RATE.labels(self._process).set(grant.per_s)
            # more is there when it has flowed in: asking more often would only cost statements
            await asyncio.sleep(min(1.0, max(0.05, (block - grant.tokens) / grant.per_s)) if grant.tokens < block else WAIT_S)

    async def follow_limits(self) -> None:
        """Set the provider's rate to what the account may send, as the provider says, for ever."""
        while self._rate is not None:
            limits = await self._provider.limits()
            if limits is not None and limits.per_second > 0:
                self._rate = Rate(limits.per_second, max(1.0, limits.per_second))
                if limits.per_day is not None and limits.sent_24h >= limits.per_day:
                    log.warning("%s: the account has used up its %.0f messages a day", self._channel, limits.per_day)
                    self._hold(HOLD_CAP_S, self._clock.monotonic())
            await asyncio.sleep(LIMITS_EVERY_S)

    def _throttle(self, message: Message, after_s: float, now_s: float) -> None:
        if not self._rated:
            return
        metrics.THROTTLED.labels(self._process).inc()
        destination = self._provider.destination(message)
        if self._rates.throttled == "destination" and destination is not None:
            self.paces.slow(destination, message, now_s, after_s)
            self._throttled.append((now_s, destination))
            if len({d for at_s, d in self._throttled if at_s > now_s - 1.0}) < WIDE:
                return
            after_s = min(after_s, 1.0)  # of that destination; how long the whole provider wants to wait is not known
        self._hold(after_s, now_s)

    def _hold(self, after_s: float, now_s: float) -> None:
        if self._rate is not None:
            hold_s = min(after_s, HOLD_CAP_S)
            self._held_until_s = max(self._held_until_s, now_s + hold_s)
            self._slow_s = max(self._slow_s or 0.0, hold_s)
            self._need.set()

    def _day_of_sender(self, message: Message) -> int:
        """Return which day of its warm-up the sender's domain has, counted from 1; 0 when it is not a new sender."""
        if not self._warming:
            return 0
        since = self._warming.get(message.sender.address.rpartition("@")[2].lower())
        return 0 if since is None else max(1, (self._clock.now() - since).days + 1)
