"""The ticker: one event a UTC minute.

Consumes `ticks` only to be a member of its group: whoever is assigned the one partition ticks, so that there is one ticker
however many processes run. Produces `ticks`. State: none; it continues from the last clock tick in the log, so there are no gaps
and no repeats. A zombie's tick has the same id as ours and comes to the same.
"""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from core.errors import CodecError, Unavailable
from core.folding import AHEAD_MS
from core.ids import minute_text, tick_id
from core.names import MAX_LATE_H
from runtime import failpoints
from runtime.kafka import admin_client, end_offsets, read_range, start_offsets
from runtime.retry import backoff
from runtime.settings import Settings
from runtime.stage import Stage
from schemas.codec import Codec
from schemas.records import Event, Record

MINUTE = timedelta(minutes=1)

MAX_GAP = timedelta(hours=MAX_LATE_H)
"""Ticks further back than this are not made up for: no newsletter's issues are worth sending for longer. Of what is made up for,
each newsletter sends what is within its own late_h, and the rest is skipped as expired."""

LOOK_BACK = 2_000
"""Records read at a time when the last clock tick is looked for; ticks by hand lie between."""

WAIT_S = 1.0
"""Longest sleep, so that losing the partition or a set clock is noticed."""


def tick_record(
    codec: Codec, topic: str, minute: datetime, now: datetime, newsletter_id: str | None = None, by: str | None = None
) -> Record:
    """Return the record of a tick; its id depends on the minute and the newsletter alone."""
    identity = tick_id(minute, newsletter_id)
    value = {"tick_id": identity, "minute": minute, "newsletter_id": newsletter_id, "requested_by": by}
    return codec.encode(topic, "Tick", value, key=minute_text(minute), time=now, id=identity, source="/newswire/streams/ticker")


def due_minutes(last: datetime | None, now: datetime) -> list[datetime]:
    """Return the minutes to tick: all after the last one, at most MAX_GAP back; the current one when there is none."""
    current = now.astimezone(UTC).replace(second=0, microsecond=0)
    first = current if last is None else max(last + MINUTE, current - MAX_GAP)
    return [first + index * MINUTE for index in range(max(0, (current - first) // MINUTE + 1))]


def newest_minute(ticks: Iterable[Mapping[str, Any]], now: datetime) -> datetime | None:
    """Return the newest minute that the clock ticked, None when there is none among these ticks.

    One that lies further ahead than clocks differ was ticked by none, and must not silence it until then.
    """
    latest = now + timedelta(milliseconds=AHEAD_MS)
    return max((tick["minute"] for tick in ticks if tick["newsletter_id"] is None and tick["minute"] <= latest), default=None)


class Ticker:
    """The background task and the group membership."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._topic = stage, stage.topics.ticks
        self._owned_generation: int | None = None
        stage.on_assigned = self._on_assigned
        stage.consume(self._topic, self._ignore)
        stage.spawn(self._run)

    async def _ignore(self, event: Event) -> None:
        """Ticks are for the audience stage."""

    async def _on_assigned(self, assigned: set[tuple[str, int]]) -> None:
        self._owned_generation = self._stage.generation if (self._topic, 0) in assigned else None

    async def _run(self) -> None:
        last: datetime | None = None
        known_generation: int | None = None
        attempt = 0
        while True:
            generation = self._owned_generation
            if generation is None:
                known_generation = None
                await asyncio.sleep(WAIT_S / 4)
                continue
            try:
                if known_generation != generation:
                    last = await asyncio.to_thread(self._last_tick)
                    known_generation = generation
                for minute in due_minutes(last, self._stage.clock.now()):
                    if self._owned_generation != generation:
                        break
                    await failpoints.hit_async("ticker.before_produce")
                    record = tick_record(self._stage.codec, self._topic, minute, self._stage.clock.now())
                    await self._stage.producer.send([record])
                    await failpoints.hit_async("ticker.after_produce")
                    last = minute
                attempt = 0
            except Unavailable as error:
                attempt += 1
                known_generation = None  # what was sent is not known: the log says
                self._stage.log.warning("no tick: %s", error)
                await asyncio.sleep(backoff(attempt))
                continue
            now = self._stage.clock.now()
            await asyncio.sleep(min(WAIT_S, 60.001 - now.second - now.microsecond / 1e6))

    def _last_tick(self) -> datetime | None:
        """Return the newest minute that the clock ticked, None when there is none in the log."""
        settings, place = self._stage.settings, (self._topic, 0)
        admin = admin_client(settings)
        start, end = start_offsets(admin, [place])[place], end_offsets(admin, [place])[place]
        while end > start:
            begin = max(start, end - LOOK_BACK)
            found = []
            for raw in read_range(settings, {place: begin}, {place: end}, clock=self._stage.clock):
                try:
                    event = self._stage.codec.decode(raw)
                except CodecError:
                    continue
                found.append(event.value)
            if (newest := newest_minute(found, self._stage.clock.now())) is not None:
                return newest
            end = begin
        return None


def run(settings: Settings) -> int:
    """Run the process and return its exit code."""
    stage = Stage("ticker", settings)
    Ticker(stage)
    return stage.run()
