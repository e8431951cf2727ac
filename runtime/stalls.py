"""A stream that no longer takes what is there: found, and ended, so that it starts anew where it had committed.

Kafka sees only that a member's heartbeats go on. A client that stays in its group, but no longer fetches, hands over or commits
the events of a partition, would wait for ever, and everything behind it. What a dependency's outage holds up is no stall: its
handler is waiting, and so is one that waits for its shard.
"""

import asyncio
import os
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING

from core.errors import NewswireError, SetupError, Unavailable
from runtime.reading import admin_client, end_offsets, read_range
from runtime.settings import Settings

if TYPE_CHECKING:
    from runtime.stage import Stage

LOOKS = 8
"""How often it is looked within the setting NEWSWIRE_STALLED_S."""
SILENCE_S = 10.0
"""Longest wait for a record that should be there."""

Place = tuple[str, int]


class Stalled(NewswireError):
    """Events wait in a partition of ours, and nothing is done with them."""


class Progress:
    """How long each partition has stood still although something lies behind its committed offset."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since: dict[Place, tuple[int, float]] = {}

    def look(self, now_s: float, committed: Mapping[Place, int], ends: Mapping[Place, int], handling: bool) -> list[Place]:
        """Return the partitions that stood still for the limit; while an event is being handled, none does."""
        behind = {} if handling else {place: offset for place, offset in committed.items() if ends.get(place, 0) > offset}
        before, self._since = self._since, {}
        for place, offset in behind.items():
            known = before.get(place)
            self._since[place] = known if known is not None and known[0] == offset else (offset, now_s)
        return [place for place, (_, since_s) in self._since.items() if now_s - since_s >= self._limit_s]


async def watch(stage: "Stage") -> None:
    """Look until the stop; Stalled ends the process."""
    limit_s, clock = stage.settings.stalled_s, stage.clock
    admin, progress = admin_client(stage.settings), Progress(limit_s)
    while True:
        await asyncio.sleep(limit_s / LOOKS)
        if stage.app.should_stop:
            return
        committed = stage.committed()
        try:
            ends = await asyncio.to_thread(end_offsets, admin, list(committed))
            for place in progress.look(clock.monotonic(), committed, ends, stage.handling > 0):
                if await asyncio.to_thread(holds_events, stage.settings, place, committed[place], ends[place]):
                    os.kill(os.getpid(), signal.SIGUSR2)  # runtime/stacks.py: what everything waits for, into the log
                    await asyncio.sleep(0)
                    raise Stalled(
                        f"{place[0]}/{place[1]} has waited at offset {committed[place]} of {ends[place]} for {limit_s:g} s and "
                        "nothing is being handled: the process starts anew"
                    )
        except (SetupError, Unavailable):
            progress = Progress(limit_s)


def holds_events(settings: Settings, place: Place, begin: int, end: int) -> bool:
    """Return whether there is a record: compaction and the markers of a producer's transactions leave offsets without one."""
    return any(True for _ in read_range(settings, {place: begin}, {place: end}, stall_s=SILENCE_S))
