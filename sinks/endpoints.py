"""Endpoints that are gone or go on failing, and the event that says so: for webhooks only.

Consumes what the calls of one sink process came to; produces EndpointDisabled on provider-events, for the feedback process.
State: ledger.failing_endpoints, a row for each endpoint whose every call fails, shared by the processes of the channel; it is
written every few seconds and only while something fails, so that a delivery that succeeds costs a look into a set. Guarantees:
an endpoint that failed for five days, and fails still, is disabled; one success in between, or two days without a call, starts
the count anew. The event of one that is gone is acknowledged before the delivery counts as reported.
"""

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, LiteralString

from core.ids import event_id
from core.outcomes import Outcome, Retry, Sent, Unknown
from runtime.producer import Producer
from schemas.codec import Codec
from schemas.records import Record
from schemas.topics import Topics
from sinks.consent import address_mark
from sinks.delivery import Delivery
from sinks.ledger import Ledger, Settled
from sinks.provider import THROTTLED, Prepared
from sinks.settle import persist

FAILING_FOR: Final = timedelta(days=5)
"""Standard Webhooks 1.0.0, "Disabling endpoints": after several days of failures."""
QUIET_FOR: Final = timedelta(days=2)
"""After so long without a call that failed the count starts anew: what was not called has not failed. The longest wait of the
schedule is some 29 h."""
WRITE_EVERY_S: Final = 5.0
"""How long a crash may forget; against five days that is nothing."""
GONE: Final = "endpoint_disabled"
"""Reason of the outcome of an endpoint that answered 410."""

_FAILING: Final[LiteralString] = """
INSERT INTO ledger.failing_endpoints AS f (endpoint, subscriber_id, since, last_at)
SELECT i.endpoint, i.subscriber_id, clock_timestamp(), clock_timestamp()
FROM unnest(%(endpoints)s::bytea[], %(subscribers)s::uuid[]) AS i(endpoint, subscriber_id) ORDER BY i.endpoint
ON CONFLICT (endpoint) DO UPDATE SET
    last_at = excluded.last_at,
    since = CASE WHEN f.last_at < excluded.last_at - %(quiet_for)s::interval THEN excluded.since ELSE f.since END
RETURNING endpoint, since, since < clock_timestamp() - %(failing_for)s::interval
"""
_WORKING: Final[LiteralString] = "DELETE FROM ledger.failing_endpoints WHERE endpoint = ANY (%(endpoints)s::bytea[]) RETURNING 1"
_ALL: Final[LiteralString] = "SELECT endpoint FROM ledger.failing_endpoints"

log = logging.getLogger(__name__)


class Endpoints:
    """The endpoints of one sink process. Used from the event loop only."""

    def __init__(self, ledger: Ledger, codec: Codec, topics: Topics, producer: Producer) -> None:
        self._ledger, self._codec, self._topics, self._producer = ledger, codec, topics, producer
        self._known: set[bytes] = set()
        """Those of the table, as far as this process knows."""
        self._failed: dict[bytes, Delivery] = {}
        self._worked: set[bytes] = set()

    def answered(self, group: Sequence[Prepared], outcomes: Sequence[Outcome]) -> None:
        """Take what a call came to: every call, those too that are made again at once or look whether the endpoint works."""
        for prepared, outcome in zip(group, outcomes, strict=True):
            delivery = prepared.message.delivery
            if isinstance(outcome, Sent):
                if self._known or self._failed:
                    endpoint = _endpoint(delivery)
                    self._failed.pop(endpoint, None)
                    if endpoint in self._known:
                        self._worked.add(endpoint)
            elif isinstance(outcome, Retry | Unknown) and outcome.reason != THROTTLED:
                endpoint = _endpoint(delivery)
                self._failed[endpoint] = delivery
                self._worked.discard(endpoint)

    async def run(self) -> None:
        """Write what failed and what works again, for ever."""
        while True:
            self._known = {bytes(row[0]) for row in await persist("endpoints", partial(self._ledger.rows, _ALL, {}))}
            await asyncio.sleep(WRITE_EVERY_S)
            await self.write()

    async def write(self) -> None:
        """Write once, and disable what has failed for long enough."""
        failed, self._failed = self._failed, {}
        worked, self._worked = self._worked, set()
        if worked:
            await persist("endpoints", partial(self._ledger.rows, _WORKING, {"endpoints": list(worked)}))
        if not failed:
            return
        values = {
            "endpoints": list(failed), "subscribers": [d.subscriber_id for d in failed.values()], "failing_for": FAILING_FOR,
            "quiet_for": QUIET_FOR,
        }  # fmt: skip
        rows = await persist("endpoints", partial(self._ledger.rows, _FAILING, values))
        long = {bytes(endpoint): since for endpoint, since, is_long in rows if is_long}
        if long:
            records = [self._failing(failed[endpoint], since) for endpoint, since in long.items()]
            await persist("provider-events", partial(self._producer.send, records))
            await persist("endpoints", partial(self._ledger.rows, _WORKING, {"endpoints": list(long)}))
            log.warning("%s endpoints have failed for %s days: they are disabled", len(long), FAILING_FOR.days)

    def gone(self, pairs: Sequence[tuple[Settled, Delivery | None]]) -> list[Record]:
        """Return EndpointDisabled for those that answered 410, in doubt or not; the same delivery gives the same event."""
        return [
            self._disabled("gone", f"gone/{s.delivery_id}", s.outcome_at, s.subscriber_id, s.delivery_id, delivery)
            for s, delivery in pairs
            if s.reason == GONE or (delivery is not None and delivery.refused == GONE)
        ]

    def _failing(self, delivery: Delivery, since: datetime) -> Record:
        notice = f"failing/{delivery.subscriber_id}/{since.isoformat()}"
        return self._disabled("failing", notice, since + FAILING_FOR, delivery.subscriber_id, delivery.delivery_id, delivery)

    def _disabled(
        self, reason: str, notice: str, at: datetime, subscriber_id: str, delivery_id: str, delivery: Delivery | None
    ) -> Record:
        value: dict[str, Any] = {
            "subscriber_id": subscriber_id,
            "delivery_id": delivery_id,
            "channel": "webhook",
            "provider_event_id": notice,
            "provider_receipt_hash": None,
            "occurred_at": at,
            "reason": reason,
            "address": delivery.request["address"] if delivery else None,
        }
        return self._codec.encode(
            self._topics.provider_events,
            "EndpointDisabled",
            value,
            key=subscriber_id,
            time=at,
            id=event_id("notice", notice),
            source="/newswire/sinks/webhook",
            causation_id=delivery_id,
        )


def _endpoint(delivery: Delivery) -> bytes:
    """Return what tells an endpoint: the mark of its link, so that a new link, even of the same address, starts anew."""
    return address_mark(delivery.request["address"]).encode()
