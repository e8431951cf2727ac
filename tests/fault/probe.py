"""People who unsubscribe at the edge: once in a run, and all the time while brokers are lost.

What was answered with 200 must be in the log.
"""

import http.client
import threading
import time
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta

from core.ids import event_id
from runtime.settings import Settings
from runtime.tokens import TokenKeys, make_unsubscribe_token
from tests.fault.checker import Verdict
from tests.fault.stack import Stack

EVERY_S = 0.3
TIMEOUT_S = 12.0
"""Longer than the edge itself waits for Kafka before it answers 503."""
FORM = "application/x-www-form-urlencoded"


def unsubscribe(settings: Settings, subscriber: str) -> int:
    """Unsubscribe somebody from everything by the page's form and return the status; 0 is no answer."""
    token = make_unsubscribe_token(
        TokenKeys.load(settings),
        subscriber_id=subscriber,
        delivery_id=None,
        kind="alert",
        newsletter_id=None,
        expires_at=datetime.now(UTC) + timedelta(days=1),
    )
    connection = http.client.HTTPConnection("127.0.0.1", settings.edge_port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", f"/u/{token}", "scope=all", {"Content-Type": FORM})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


class EdgeProbe(threading.Thread):
    """Unsubscribes of people who do not exist, one after the other, each with a link of its own."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(daemon=True, name="edge-probe")
        self._stack, self._settings = stack, stack.settings
        self._since = stack.ends(stack.topics.subscribers)
        self._ended = threading.Event()
        self.answers: list[tuple[float, str, int]] = []
        """Monotonic time, the event's id, the status; 0 is no answer."""

    def run(self) -> None:
        """Ask until it is ended."""
        while not self._ended.wait(EVERY_S):
            subscriber = str(uuid.uuid4())
            identity = event_id("unsubscribe", subscriber, "", "all", "")
            self.answers.append((time.monotonic(), identity, unsubscribe(self._settings, subscriber)))

    def verdicts(self) -> list[Verdict]:
        """End, and say of every answer 200 whether its event is in the log, and whether the edge came back."""
        self._ended.set()
        self.join()
        logged = {event.id for event, _ in self._stack.events(self._since)}
        counts = Counter(status for _, _, status in self.answers)
        told = ", ".join(f"{count}x {status}" for status, count in sorted(counts.items()))
        verdicts = [
            Verdict(f"unsubscribe {identity}", "", ("the edge answered 200, and it is not in the log: a false promise",))
            for _, identity, status in self.answers
            if status == 200 and identity not in logged
        ]
        strange = set(counts) - {200, 503}
        problems = (f"the edge answered {sorted(strange)}",) if strange else ()
        if not self.answers or self.answers[-1][2] != 200:
            problems = (*problems, "it did not come back")
        return [*verdicts, Verdict("the edge", told, problems)]
