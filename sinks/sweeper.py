"""What others left in the ledger: leases that ended, outcomes that nobody reported, parked deliveries that are due.

Consumes the ledger's rows of one channel and lane; every sink process of these runs one, and SKIP LOCKED keeps them
apart. Guarantee: every claimed delivery ends in a reported state, or waits parked until it is due and its provider works.
"""

import asyncio
import logging
from functools import partial
from typing import Final

from runtime.clock import Clock
from runtime.settings import Settings
from schemas.codec import Codec
from sinks.calls import Calls
from sinks.delivery import Delivery
from sinks.flight import Flight
from sinks.flow import Flow
from sinks.ledger import Ledger, Parked
from sinks.settle import Settlement, persist

LIMIT: Final = 500
"""Most rows of each kind in one sweep."""
TRIALS: Final = 10
"""Most parked deliveries taken up to find out whether a provider works again."""
UNREPORTED_SWEEPS: Final = 3
"""An outcome counts as left behind after so many intervals; its own process reports within milliseconds."""

log = logging.getLogger(__name__)


class Sweeper:
    """The sweeping part of one sink process."""

    def __init__(
        self, settings: Settings, ledger: Ledger, codec: Codec, topic: str, calls: Calls, settlement: Settlement, flight: Flight,
        flow: Flow, clock: Clock,
    ) -> None:  # fmt: skip
        self._settings, self._ledger, self._codec, self._topic = settings, ledger, codec, topic
        self._calls, self._settlement, self._flight, self._flow, self._clock = calls, settlement, flight, flow, clock

    async def run(self) -> None:
        """Sweep until the process stops."""
        today = None
        while not self._flight.stopping:
            if today != self._clock.now().date():
                today = self._clock.now().date()
                await persist("days", partial(self._ledger.ensure_days, today))
            full = await self.sweep()
            if not full:
                await asyncio.sleep(self._settings.sweep_interval_s)

    async def sweep(self) -> bool:
        """Sweep once; return whether there was as much as one sweep takes."""
        ended = await persist("leases", partial(self._ledger.expire_leases, LIMIT))
        if ended:
            log.warning("%s claims ended without an outcome: reported as unknown", len(ended))
        older_than_s = UNREPORTED_SWEEPS * self._settings.sweep_interval_s
        left = await persist("unreported", partial(self._ledger.unreported, older_than_s, LIMIT))
        for settled in (*ended, *left):
            self._settlement.report(settled, None)
        limit = min(LIMIT, self._flight.room // 2)
        due = await self._due(min(limit, TRIALS) if self._flow.looking else limit)
        return len(ended) == LIMIT or due == LIMIT

    async def _due(self, limit: int) -> int:
        if limit == 0 or self._flight.stopping or self._flow.blocked:
            return 0
        with self._flight.claiming():
            now_s = self._clock.monotonic()
            parked = await persist("due", partial(self._ledger.claim_due, limit))
            for one in parked:
                self._calls.claimed(await self._delivery(one, now_s))
        return len(parked)

    async def _delivery(self, parked: Parked, now_s: float) -> Delivery:
        async def decode() -> Delivery:
            _, value = self._codec.decode_value(self._topic, parked.raw)
            return Delivery.of(value, parked.raw, None)

        delivery = await persist("parked", decode)
        delivery.attempt, delivery.rounds, delivery.in_doubt = parked.attempt, parked.rounds, parked.in_doubt
        delivery.lease_ends_s = now_s + self._settings.lease_s
        return delivery
