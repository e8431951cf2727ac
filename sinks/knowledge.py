"""What a sink process knows by following the logs itself: consent, stops, newsletters' definitions, new texts of alerts.

Consumes subscribers, publications, alerts, controls and newsletters without a group. Consent starts from the table in the
ledger's database and goes on from its offsets, so that a start does not fold the whole log; alerts, controls and newsletters
are read from their beginning. Guarantee: `current()` is true only while everything that was in the logs `consent_lag_s` ago
is applied.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from core.ids import is_test
from core.newsletters import Definitions
from core.outcomes import Outcome, Retry, Skipped
from runtime.clock import Clock, SystemClock
from runtime.kafka import LogFollower
from runtime.settings import Settings
from schemas.codec import TYPE_PREFIX, Codec
from schemas.records import Event, Raw
from schemas.topics import Topics
from sinks.consent import FOLDED, Barred, Bars
from sinks.delivery import Delivery

UPDATE_LIFETIME: Final = timedelta(days=6)
"""How long the new text of an alert, and the end of a canary, are kept: their deliveries end within 5 days."""
STOPPED, CANARY = "stopped", "canary"
"""Reasons of a Retry for a delivery that is held until somebody resumes it, or its canary has gone well."""
HOLD_ENDS_S: Final = 5.0
"""So long before not_after a held delivery comes up a last time, so that it is settled."""
_CANARY_SCOPE: Final = "canary"
_WANTED: Final = frozenset(f"{TYPE_PREFIX}{name}".encode() for name in (*FOLDED, "NewsletterDefined", "AlertUpdated"))


class Wanted:
    """A codec for a follower that decodes only what it applies; publications alone would be most of the work."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def is_tombstone(self, raw: Raw) -> bool:
        """As the codec itself."""
        return self._codec.is_tombstone(raw)

    def decode(self, raw: Raw) -> Event:
        """Return the event; for a record whose ce_type says that it is of no interest, an empty one."""
        kind = next((value for name, value in raw.headers if name == "ce_type"), None)
        if kind is None or kind in _WANTED:
            return self._codec.decode(raw)
        when = datetime.fromtimestamp(raw.timestamp_ms / 1000, UTC)
        return Event("", {}, "", "", "", when, raw.topic, raw.partition, raw.offset, None, None, None)


def consent_topics(topics: Topics) -> tuple[str, ...]:
    """Return the topics that consent is folded from."""
    return topics.subscribers, topics.publications, topics.alerts, topics.controls


class Knowledge:
    """Bars, newsletters and alert texts of one process; a thread keeps them current."""

    def __init__(self, settings: Settings, topics: Topics, codec: Codec, *, name: str, clock: Clock | None = None) -> None:
        self._settings, self._topics, self._codec, self._name = settings, topics, codec, name
        self._clock = clock or SystemClock()
        self._follower: LogFollower | None = None
        self.bars = Bars()
        self._newsletters = Definitions()
        self._updates: dict[str, dict[str, Any]] = {}
        self._canaries: dict[str, int] = {}  # newsletters with a canary share: deliveries with a lower number go first
        self._followed_canaries: dict[str, datetime] = {}  # slots whose canary has gone well, oldest first
        self._resumed: dict[str, datetime] = {}

    def start(self, barred: Iterable[tuple[str, Barred]], offsets: Mapping[tuple[str, int], int]) -> None:
        """Begin with the barred subjects as of these offsets and follow from there."""
        self.bars = Bars(barred)
        followed = (*consent_topics(self._topics), self._topics.newsletters)
        # alerts and controls from the beginning, for what the table does not hold; folding an event twice changes nothing
        whole = (self._topics.alerts, self._topics.controls)
        offsets = {tp: offset for tp, offset in offsets.items() if tp[0] in followed and tp[0] not in whole}
        self._follower = LogFollower(
            self._settings,
            followed,
            self.apply,
            Wanted(self._codec),  # type: ignore[arg-type]
            name=self._name,
            offsets=offsets,
            clock=self._clock,
        )
        self._follower.start()

    def stop(self) -> None:
        """Stop following."""
        if self._follower is not None:
            self._follower.stop()

    async def ready(self, timeout_s: float) -> None:
        """Wait until the logs have been read to their end once; Unavailable after `timeout_s`."""
        assert self._follower is not None
        await self._follower.wait_caught_up(timeout_s)

    def current(self) -> bool:
        """Return whether consent is known well enough to send; raises what stopped the follower."""
        assert self._follower is not None
        failed = self._follower.failed()
        if failed is not None:
            raise failed
        return self._clock.monotonic() - self._follower.caught_up_at() <= self._settings.consent_lag_s

    def apply(self, event: Event) -> None:
        """Apply one event."""
        if event.name in FOLDED:
            self.bars.fold(event, self._clock.now())
        if event.name == "ControlChanged":
            self._control(event)
        elif self._newsletters.apply(event, event.offset):
            share = event.value.get("canary_share", 0.0)
            self._canaries.pop(event.key, None)
            if share > 0:
                self._canaries[event.key] = int(share * 2**32)
        elif event.name == "AlertUpdated":
            self._updates.pop(event.key, None)
            self._updates[event.key] = event.value
            limit = self._clock.now() - UPDATE_LIFETIME
            while self._updates and self._updates[oldest := next(iter(self._updates))]["updated_at"] < limit:
                del self._updates[oldest]

    def _control(self, event: Event) -> None:
        scope, _, name = event.value["control_id"].partition("/")
        if event.value["action"] != "resume":
            return
        self._resumed[event.value["control_id"]] = event.time
        if scope == _CANARY_SCOPE:
            self._followed_canaries.pop(name, None)
            self._followed_canaries[name] = event.time
            limit = self._clock.now() - UPDATE_LIFETIME
            while self._followed_canaries[oldest := next(iter(self._followed_canaries))] < limit:
                del self._followed_canaries[oldest]

    def objection(self, delivery: Delivery) -> Outcome | None:
        """Return what a delivery comes to instead of a call that would begin now; None when it may be sent."""
        reason = self.bars.reason_against(delivery)
        return Skipped(reason) if reason is not None else self.hold(delivery)

    def hold(self, delivery: Delivery) -> Outcome | None:
        """Return the Retry that parks a delivery which is held, its last outcome when that is too late, None when it is not."""
        held = self._held(delivery)
        if held is None:
            return None
        left_s = (delivery.not_after - self._clock.now()).total_seconds()
        return Retry(left_s - HOLD_ENDS_S, held) if left_s > HOLD_ENDS_S else Skipped("stopped" if held == STOPPED else "expired")

    def _held(self, delivery: Delivery) -> str | None:
        if self.bars.stopped(delivery.channel, delivery.source_id):
            return STOPPED
        if not self._canaries or delivery.newsletter_id not in self._canaries:
            return None
        first = int(delivery.uuid[:8], 16) < self._canaries[delivery.newsletter_id]  # a UUIDv5 begins with a hash
        return None if first or is_test(delivery.source_id) or self.canary_passed(delivery.source_id) else CANARY

    def canary_passed(self, source_id: str) -> bool:
        """Return whether the canary of a newsletter's slot has gone well, so that the others follow."""
        return source_id in self._followed_canaries

    def resumed_at(self, control_id: str) -> datetime | None:
        """Return when something was last resumed, by the time of the event."""
        return self._resumed.get(control_id)

    def newsletter(self, newsletter_id: str) -> Mapping[str, Any] | None:
        """Return the newest definition of a newsletter."""
        return self._newsletters.newest(newsletter_id)

    def alert_update(self, alert_id: str) -> dict[str, Any] | None:
        """Return the newest text of an alert, when it was changed after it had been raised."""
        return self._updates.get(alert_id)
