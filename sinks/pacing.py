"""Turns at destinations: each gets so many messages a second, from all processes of its channel together.

Consumes what each message takes; state: a `Pace` for each destination in memory, and ledger.paces for those that are in use.
A process gives out turns by what it knows, so that no message waits for a statement; every SHARE_S it adds the turns that it
took to the table, in one statement, and learns of those that the others took. Guarantee: over time a destination gets its rate
and no more; what two processes take within the same SHARE_S, or a burst each before they know of each other, is made up for
afterwards. Urgent sees the turns of urgent only, bulk sees all: bulk makes room. A pause that a destination asks for holds for
all. A mail domain is divided by the share of the partitions instead, for nearly every message would name one.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from core.flow.bucket import Pace
from core.flow.rates import LONGEST_WAIT_S, ChannelRates, warm_up_rate
from runtime.clock import Clock
from sinks.flight import Flight
from sinks.flow_store import FlowStore, Taken
from sinks.provider import Message
from sinks.settle import persist

PACES_KEPT: Final = 50_000
"""Destinations remembered before idle ones are forgotten, about 300 bytes each."""
SHARE_S: Final = 0.5
"""How often a process tells the others what it took, while it takes anything."""
AHEAD_S: Final = 1.0
"""A destination is told of when its next turn is so far off: each message to a chat channel; of an endpoint a burst."""
CLEAN_S: Final = 600.0
"""How often rows that lie back are deleted; a day's chat channels are a few thousand."""


class Paces:
    """The turns of one sink process."""

    def __init__(
        self, store: FlowStore, rates: ChannelRates, flight: Flight, clock: Clock, *, lane: str, shards: int,
        hashed: Callable[[str], bytes], day_of_sender: Callable[[Message], int],
    ) -> None:  # fmt: skip
        self._store, self._rates, self._flight, self._clock = store, rates, flight, clock
        self._lane, self._shards, self._hashed, self._day_of_sender = lane, shards, hashed, day_of_sender
        self._paces: dict[str, Pace] = {}
        self._share = 1.0
        self._used: dict[str, Pace] = {}
        """Destinations of which the others are to be told."""
        self._any = asyncio.Event()

    def turn(self, destination: str, message: Message, now_s: float) -> tuple[float, bool]:
        """Return the wait for the next turn at a destination, and whether it was taken; see Pace.turn."""
        pace = self._pace(destination, message)
        found = pace.turn(now_s, LONGEST_WAIT_S)
        if pace.ahead_s(now_s) >= AHEAD_S:
            self._tell(destination, pace)
        return found

    def slow(self, destination: str, message: Message, now_s: float, after_s: float) -> None:
        """Take a throttled answer of a destination that asks to wait so long."""
        pace = self._pace(destination, message)
        pace.slow(now_s, after_s)
        self._tell(destination, pace)

    def _tell(self, destination: str, pace: Pace) -> None:
        if not self._rates.divided:
            self._used[destination] = pace
            self._any.set()

    async def run(self) -> None:
        """Share what was taken, for ever."""
        cleaned_s = self._clock.monotonic()
        while True:
            await self._any.wait()
            await self.share()
            if self._clock.monotonic() - cleaned_s > CLEAN_S:
                await persist("paces", self._store.forget)
                cleaned_s = self._clock.monotonic()
            await asyncio.sleep(SHARE_S)

    async def share(self) -> None:
        """Tell the others once what was taken since, and learn what they took."""
        used, self._used = {self._hashed(destination).hex(): pace for destination, pace in self._used.items()}, {}
        self._any.clear()
        now_s = self._clock.monotonic()
        taken = [Taken(hashed, pace.reported(), max(0.0, pace.held_until_s - now_s)) for hashed, pace in used.items()]
        found = await persist("paces", partial(self._store.share, self._lane, taken))
        now_s = self._clock.monotonic()
        for hashed, ahead_s, held_s in found:
            used[hashed].follow(now_s, ahead_s, held_s)

    def _pace(self, destination: str, message: Message) -> Pace:
        """Return the pace of a destination, one for each new sender."""
        share = self._flight.offsets.assigned / self._shards if self._rates.divided else 1.0
        if share != self._share or len(self._paces) > PACES_KEPT:
            now_s = self._clock.monotonic()
            self._paces = {} if share != self._share else {k: p for k, p in self._paces.items() if not p.idle(now_s)}
            self._share = share
        day = self._day_of_sender(message)
        key = destination if not day else f"{message.sender.address.rpartition('@')[2].lower()}/{day}/{destination}"
        pace = self._paces.get(key)
        if pace is None:
            rate = self._rates.destinations.get(destination, self._rates.destination)
            cold = warm_up_rate(day) if day else None
            if cold is not None and cold.per_s < rate.per_s:
                rate = cold
            pace = self._paces[key] = Pace(rate.of(share) if share > 0 else rate)
        return pace
