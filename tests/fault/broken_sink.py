"""The mail sink, broken on purpose in one way: `python -m tests.fault.broken_sink WAY [WHAT...]`. The checker must see each.

early    an offset counts as finished as soon as its record is read: it is committed before the outcome
claimed  an offset counts as finished as soon as its delivery is claimed: it is committed before the outcome; when WHAT is
         given, a call ends only when that file exists
claim    nothing is claimed in the ledger: everything is called at once
new-id   what has no answer is sent again under a new id
twice    what has no answer is sent again under its own id, without being recorded as unknown
order    the call for the first delivery WHAT begins only when that for the second has ended
late     consent is looked at, but the calls begin later: when the file WHAT exists
deaf     its follower of the logs ends with an error at the definition of the newsletter WHAT
none     a good sink, for comparison
"""

import asyncio
import dataclasses
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core.outcomes import Outcome, Unknown
from runtime import failpoints, logs
from runtime.settings import Settings
from schemas.records import Event
from sinks.calls import Calls
from sinks.delivery import Delivery, Position
from sinks.knowledge import Knowledge
from sinks.ledger import Claims, Ledger
from sinks.loop import Sink
from sinks.offsets import Offsets
from sinks.provider import Prepared
from sinks.ses import Ses


def early() -> None:
    begin = Offsets.begin

    def finished(self: Offsets, partition: int, offset: int) -> Position | None:
        position = begin(self, partition, offset)
        if position is not None:
            self.finish(position)
        return position

    Offsets.begin = finished  # type: ignore[method-assign]


def claimed(file: Path | None) -> None:
    take, call = Calls.claimed, Ses.call

    def finished(self: Calls, delivery: Delivery) -> None:
        take(self, delivery)
        if delivery.position is not None:
            self._flight.offsets.finish(delivery.position)

    async def waiting(self: Ses, group: Sequence[Prepared]) -> list[Outcome]:
        outcomes = list(await call(self, group))
        while file is not None and not file.exists():
            await asyncio.sleep(0.01)
        return outcomes

    Calls.claimed, Ses.call = finished, waiting  # type: ignore[method-assign, assignment]


def order(first: str, second: str) -> None:
    call = Calls._call
    ended = asyncio.Event()

    async def overtaken(self: Calls, group: list[Prepared], epoch: int) -> None:
        ids = {one.message.delivery.delivery_id for one in group}
        if first in ids:
            await ended.wait()
            await asyncio.sleep(0.2)  # the witnesses' clocks have ticks
        await call(self, group, epoch)
        if second in ids:
            ended.set()

    Calls._call = overtaken  # type: ignore[method-assign]


def late(file: Path) -> None:
    call = Calls._call

    async def waiting(self: Calls, group: list[Prepared], epoch: int) -> None:
        while not file.exists():
            await asyncio.sleep(0.01)
        await call(self, group, epoch)

    Calls._call = waiting  # type: ignore[method-assign]
    Calls._looked_at = lambda self, prepared: prepared  # type: ignore[method-assign]


def deaf(newsletter_id: str) -> None:
    apply = Knowledge.apply

    def failing(self: Knowledge, event: Event) -> None:
        if event.name == "NewsletterDefined" and event.key == newsletter_id:
            raise RuntimeError("deaf on purpose")
        apply(self, event)

    Knowledge.apply = failing  # type: ignore[method-assign]


def claim() -> None:
    async def unclaimed(self: Ledger, deliveries: Sequence[Delivery], now_s: float, *_: Any) -> Claims:
        for one in deliveries:
            one.attempt, one.lease_ends_s = 1, now_s + 3600
        return Claims(list(deliveries), [], [])

    Ledger.claim = unclaimed  # type: ignore[method-assign]


def _again(under: Callable[[Ses, Prepared], Prepared]) -> None:
    call = Ses.call

    async def insisting(self: Ses, group: Sequence[Prepared]) -> list[Outcome]:
        outcomes = list(await call(self, group))
        lost = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Unknown)]
        if lost:
            for number, outcome in zip(lost, await call(self, [under(self, group[number]) for number in lost]), strict=True):
                outcomes[number] = outcome
        return outcomes

    Ses.call = insisting  # type: ignore[method-assign, assignment]


def _renamed(provider: Ses, prepared: Prepared) -> Prepared:
    delivery = dataclasses.replace(prepared.message.delivery)
    delivery.delivery_id = f"{delivery.day:%Y%m%d}-{uuid.uuid4()}"
    message = dataclasses.replace(prepared.message, delivery=delivery)
    return Prepared(message, provider.render(message))


WAYS: dict[str, Callable[[], None]] = {
    "early": early,
    "claimed": lambda: claimed(Path(sys.argv[2]) if len(sys.argv) > 2 else None),
    "order": lambda: order(sys.argv[2], sys.argv[3]),
    "late": lambda: late(Path(sys.argv[2])),
    "deaf": lambda: deaf(sys.argv[2]),
    "claim": claim,
    "new-id": lambda: _again(_renamed),
    "twice": lambda: _again(lambda provider, prepared: prepared),
    "none": lambda: None,
}


def main(way: str) -> int:
    """Run the sink until SIGTERM."""
    import uvloop

    settings = Settings.load()
    logs.configure(settings, "ses-bulk")
    failpoints.configure(settings.failpoints, "ses-bulk")
    WAYS[way]()
    return uvloop.run(Sink(settings, "email", "bulk").run())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
