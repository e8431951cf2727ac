"""One delivery on its way through a sink: the request as it was decided, and the claim that allows one call for it."""

import re
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, Self

from core.errors import EventRefused
from core.ids import ledger_key

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Position:
    """Where a record is in its topic; what the sweeper brings has none."""

    partition: int
    offset: int
    generation: int = 0
    """Which assignment of the partition it was read under; see sinks/offsets.py."""


@dataclass(slots=True)
class Delivery:
    """DeliveryRequested and where it stands; what follows `attempt` changes with its attempts."""

    delivery_id: str
    day: date
    """UTC day of not_after, and with `uuid` the ledger's key."""
    uuid: str
    subscriber_id: str
    channel: str
    lane: str
    source_id: str
    source_kind: str
    newsletter_id: str | None
    not_after: datetime
    request: dict[str, Any]
    """The event's fields."""
    raw: bytes
    """The event as it was in Kafka, to park it."""
    position: Position | None
    attempt: int = 0
    """Calls begun, this one included, once it is claimed."""
    rounds: int = 0
    """Times that it was parked after a call that was refused; where it stands in its channel's schedule."""
    lease_ends_s: float = 0.0
    """Monotonic time before which the claim certainly holds."""
    tries: int = 0
    """Calls made for it in this process since it was claimed."""
    called: bool = False
    """Whether a call was begun in this attempt."""
    call_ms: int | None = None
    """How long the provider took for its last answer, in milliseconds."""
    refused: str | None = None
    """Why the last call is made again at once, as one more attempt; or what a last attempt in doubt was refused for."""
    template: str | None = None
    """Name and version of the template that its message is made with."""
    error: str | None = None
    """What the provider said of the last call, or why no message could be made, without personal data."""
    in_doubt: bool = False
    """Whether an earlier attempt may have arrived, so that a refusal of this one does not say that nothing did."""
    alone: bool = False
    """Whether it must not share a call with others any more."""

    @classmethod
    def of(cls, value: dict[str, Any], raw: bytes, position: Position | None) -> Self:
        """Return the delivery that a DeliveryRequested asks for; EventRefused when its delivery_id cannot be the ledger's key."""
        try:
            day, uuid = ledger_key(value["delivery_id"])
        except ValueError as error:
            raise EventRefused("DeliveryRequested", "delivery_id", str(error)) from None
        not_after: datetime = value["not_after"]
        if not_after.date() != day:
            raise EventRefused(
                "DeliveryRequested", "delivery_id", f"its day {day} is not that of not_after, {not_after:%Y-%m-%d}"
            )
        if not _UUID.fullmatch(value["subscriber_id"]):
            raise EventRefused("DeliveryRequested", "subscriber_id", "is no UUID in lower case")
        for name in ("source_id", "source_kind", "newsletter_id"):
            if "\0" in (value[name] or ""):
                raise EventRefused("DeliveryRequested", name, "has a NUL character")
        return cls(
            delivery_id=value["delivery_id"],
            day=day,
            uuid=uuid,
            subscriber_id=value["subscriber_id"],
            channel=value["channel"],
            lane=value["lane"],
            source_id=value["source_id"],
            source_kind=value["source_kind"],
            newsletter_id=value["newsletter_id"],
            not_after=not_after,
            request=value,
            raw=raw,
            position=position,
        )

    @property
    def publication_ids(self) -> list[str]:
        """Publications of its items, in order."""
        return [item["publication_id"] for item in self.request["items"]]
