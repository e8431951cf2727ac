"""The suppression list as a sink process knows it: which addresses must not be used, checked before every send.

State: the hashes of ledger.suppressions in memory, 16 bytes of each (a million of them are some 90 MB), read on from the last
number every second. Guarantee: an address that was written there is not called any more by a message composed REFRESH_S later.
While nothing is suppressed a look costs nothing, else one HMAC.
"""

import asyncio
from functools import partial
from typing import Any, Final, Protocol

from runtime.keys import hashed_address
from runtime.settings import Settings
from sinks.settle import persist

REFRESH_S: Final = 1.0
"""Half of what may pass between a notice and the last call to its address."""
_PREFIX: Final = 16
_PAGE: Final = 50_000

_CHANGES: Final = """
SELECT number, address_hash, lifted_at IS NOT NULL FROM ledger.suppressions
WHERE number > %(after)s ORDER BY number LIMIT %(limit)s
"""


class Rows(Protocol):
    """Where the list is read from: the ledger."""

    async def rows(self, statement: Any, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Return the rows of a statement; Unavailable when the database does not answer."""


class Suppressed:
    """The suppressed addresses. Used from the event loop only."""

    def __init__(self, settings: Settings, ledger: Rows) -> None:
        self._key, self._ledger = bytes.fromhex(settings.receipt_key), ledger
        self._hashes: set[bytes] = set()
        self._last = 0

    def bars(self, channel: str, address: str) -> bool:
        """Return whether nothing may be sent to this address."""
        return bool(self._hashes) and hashed_address(self._key, channel, address)[:_PREFIX] in self._hashes

    async def refresh(self) -> None:
        """Learn what has changed since the last time."""
        full = True
        while full:
            rows = await self._ledger.rows(_CHANGES, {"after": self._last, "limit": _PAGE})
            for number, address_hash, lifted in rows:
                (self._hashes.discard if lifted else self._hashes.add)(bytes(address_hash)[:_PREFIX])
                self._last = number
            full = len(rows) == _PAGE

    async def run(self) -> None:
        """Follow the list, for ever."""
        while True:
            await asyncio.sleep(REFRESH_S)
            await persist("suppressions", partial(self.refresh))
