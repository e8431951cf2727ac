"""The deliveries that a sink process has in hand, from their claim to the end of their reporting."""

from collections.abc import Iterator
from contextlib import contextmanager

from sinks.delivery import Delivery
from sinks.offsets import Offsets


class Flight:
    """Who is in hand, whether new calls may start, and which offsets are finished. Used from the event loop only."""

    def __init__(self, window: int) -> None:
        """window: most deliveries in hand; the bound of the process's memory."""
        self.window = window
        self.offsets = Offsets()
        self.stopping = False
        self.leaving: set[int] = set()
        """Partitions that are being taken away: nothing new starts for them."""
        self._deliveries: dict[str, Delivery] = {}
        self._claiming = 0

    def __len__(self) -> int:
        return len(self._deliveries)

    def __contains__(self, delivery_id: str) -> bool:
        return delivery_id in self._deliveries

    @property
    def room(self) -> int:
        """How many more deliveries may be taken in hand."""
        return max(0, self.window - len(self._deliveries))

    @contextmanager
    def claiming(self) -> Iterator[None]:
        """Count as in hand what is claimed in the block, until it has been taken."""
        self._claiming += 1
        try:
            yield
        finally:
            self._claiming -= 1

    def take(self, delivery: Delivery) -> None:
        """Take a claimed delivery in hand."""
        self._deliveries[delivery.delivery_id] = delivery

    def finish(self, delivery: Delivery) -> None:
        """Let go of a delivery whose outcome is durable and reported, or that others see to."""
        if self._deliveries.get(delivery.delivery_id) is delivery:
            del self._deliveries[delivery.delivery_id]
        if delivery.position is not None:
            self.offsets.finish(delivery.position)

    def waiting(self) -> list[Delivery]:
        """Return what is claimed and has not been called for in its present attempt."""
        return [d for d in self._deliveries.values() if d.attempt and not d.called]

    def may_start(self, delivery: Delivery) -> bool:
        """Return whether a call for it may begin: not while the process stops or its partition is taken away."""
        return not self.stopping and not (delivery.position is not None and delivery.position.partition in self.leaving)

    def in_hand(self, partitions: set[int] | None) -> int:
        """Return how many deliveries of these partitions (None: of all, retries included) are in hand or just being claimed."""
        if partitions is None:
            return self._claiming + len(self._deliveries)
        return self._claiming + sum(
            1 for d in self._deliveries.values() if d.position is not None and d.position.partition in partitions
        )
