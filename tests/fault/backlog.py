"""The row of the matrix about a stop that meets a backlog: many deliveries wait while somebody leaves and sources are stopped.

Some thousand people get many alerts by mail. Their sink is down until all of it waits in Kafka, and the provider is slow when
it comes back; then one person unsubscribes, one alert is cancelled and one is stopped, all within a moment of each other. No
call for those may begin 2 s later. When the provider is fast again everything else must go out, and at last, resumed, also
what was stopped.
"""

import time
from datetime import UTC, datetime
from pathlib import Path

from core.ids import event_id
from tests.fault.checker import STOP_WITHIN, Verdict
from tests.fault.journal import Act, read_hits
from tests.fault.patience import wait_until
from tests.fault.probe import unsubscribe
from tests.fault.scenes import Scene
from tests.fault.stack import Stack
from tests.fault.upstream import Upstream, now

PEOPLE = 5_000
"""Most people; each gets as many alerts as it takes."""
SINK, CHANNEL = "ses-urgent", "email"
SLOW_S = 1.0
"""How long the provider takes for an answer, below its timeout: the sink has four calls of 50 entries at a time."""
GROWTH_BYTES = 128_000_000
"""What the sink may need more than when it was idle: twice what its window holds when every message is a mail of 30 kB."""
PATIENCE_S = 900.0


class Backlog(Scene):
    """A backlog of so many deliveries."""

    what = "a person leaves, an alert is cancelled and one is stopped while deliveries wait"
    settle_s = PATIENCE_S

    def __init__(self, stack: Stack, upstream: Upstream, waiting: int) -> None:
        super().__init__(stack, upstream)
        self.input.channels, self.input.people_a_channel = (CHANNEL,), min(PEOPLE, waiting // 5)
        self.waiting = waiting // self.input.people_a_channel * self.input.people_a_channel

    def rounds(self) -> None:
        """Let it pile up, let it begin, stop parts of it, and let the rest go."""
        stack, topic = self.stack, self.stack.topics.deliveries(CHANNEL, "urgent")
        wait_until(lambda: self.settled(self.sources), "the first sources to be settled", PATIENCE_S)
        idle_bytes = self._most_bytes()
        stack.supervisor.stop([stack.supervisor.states()[SINK]], 12.0)
        before = self.count(topic)
        piled = [self.alert() for _ in range(self.waiting // self.input.people_a_channel)]
        people = self.input.people_a_channel - len({act.subscriber_id for act in self.input.acts})
        wait_until(lambda: self.count(topic) - before >= people * len(piled), "the backlog to be complete", PATIENCE_S)
        stack.control("/control/faults", {"provider": "ses", "kind": "slow_body", "delay_s": SLOW_S})
        stack.start(SINK)
        wait_until(lambda: len(read_hits(self.journal_file, self.hits_before, ("ses",))) > people // 10, "the backlog to go out")
        self.behind = stack.behind(stack.ends(topic), f"sink.{CHANNEL}.urgent")
        self._stop_parts(cancelled=piled[0], stopped=piled[1])
        time.sleep(2 * STOP_WITHIN.total_seconds())  # what would be called too late is called now
        stack.control("/control/faults?provider=ses", method="DELETE")
        self.fast_at = time.monotonic()
        others = [source for source in self.sources if source != piled[1]]
        wait_until(lambda: self.settled(others), "everything else to be settled", PATIENCE_S)
        self.took_s, self.held = time.monotonic() - self.fast_at, self._pending(piled[1])
        self._resume(piled[1])
        self.grown_bytes = self._most_bytes() - idle_bytes

    def _stop_parts(self, *, cancelled: str, stopped: str) -> None:
        """Cancel an alert, stop another and let somebody unsubscribe; each counts from its acknowledgement."""
        topics, upstream, alert = self.stack.topics, self.input.upstream, {"alert_id": cancelled}
        cancel = {**alert, "reason": "fault", "cancelled_at": now()}
        identity = event_id("cancelled", cancelled)
        upstream.send([upstream.encode(topics.alerts, "AlertCancelled", cancel, cancelled, identity)])
        self.input.acts.append(Act(datetime.now(UTC), "the alert's cancellation", source_id=cancelled))
        self.control(stopped, "stop")
        self.stop = Act(datetime.now(UTC), "the stop", source_id=stopped)
        leaver = list(self.input.people)[-1]
        wait_until(lambda: unsubscribe(upstream.settings, leaver) == 200, "the edge to acknowledge")
        self.input.acts += [self.stop, Act(datetime.now(UTC), "their unsubscribe", leaver)]

    def _resume(self, stopped: str) -> None:
        until = datetime.now(UTC)
        self.input.acts = [
            act if act is not self.stop else Act(act.at, act.reason, source_id=stopped, until=until) for act in self.input.acts
        ]
        self.control(stopped, "resume")

    def control(self, source: str, action: str) -> None:
        """Stop or resume a source."""
        topics, upstream, name = self.stack.topics, self.input.upstream, f"source/{source}"
        value = {"control_id": name, "action": action, "reason": "fault", "changed_by": "fault", "changed_at": now()}
        upstream.send([upstream.encode(topics.controls, "ControlChanged", value, name, event_id(action, name))])

    def _most_bytes(self) -> int:
        """Return the most memory that the sink has had since it was started; 0 where the system does not say."""
        status = Path(f"/proc/{self.stack.pid(SINK)}/status")
        lines = status.read_text().splitlines() if status.exists() else []
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

    def _pending(self, source: str) -> int:
        return int(self.stack.query("select coalesce(sum(pending), 0) from api.accounting where source_id = %s", source)[0][0])

    def verdicts(self) -> list[Verdict]:
        """Say how much waited, what was held and let go, and what the sink needed for it."""
        counts = {state: sum(row.state == state for row in self.heard.rows) for state in ("sent", "suppressed")}
        told = (
            f"{self.behind} waited when it was stopped; {counts['suppressed']} suppressed, {self.held} held until resumed, "
            f"{counts['sent']} sent; the rest within {self.took_s:.0f} s of a fast provider; "
            f"the sink grew by {self.grown_bytes / 1e6:.0f} MB"
        )
        problems = []
        if self.grown_bytes > GROWTH_BYTES:
            problems.append(f"the sink grew by {self.grown_bytes / 1e6:.0f} MB, above {GROWTH_BYTES / 1e6:.0f}")
        if not counts["suppressed"] or not self.held:
            problems.append("nothing was left to be stopped: ask for more deliveries")
        return [Verdict("the backlog", told, tuple(problems))]
