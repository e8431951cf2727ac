"""Rows of the fault matrix that are more than a plan: each step waits for what the one before has come to.

A scene is a run; what it does beyond the first sources is in `rounds`, and what it says beyond each message in `verdicts`.
The stack is left as it was found.
"""

import contextlib
import itertools
import signal
import time
from collections import Counter
from io import BytesIO
from typing import Any, ClassVar

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource
from fastavro import schemaless_writer

from core.names import CHANNELS
from runtime.kafka import start_offsets
from schemas import files
from schemas.records import Record
from schemas.registry import sync
from tests.fault import newer
from tests.fault.checker import Verdict
from tests.fault.journal import Hit, read_hits
from tests.fault.patience import insist, wait_until
from tests.fault.plan import Plan
from tests.fault.run import Run
from tests.fault.stack import Stack
from tests.fault.upstream import Input, Upstream


class Scene(Run):
    """A run with steps of its own."""

    what: ClassVar[str]
    points: ClassVar[tuple[str, ...]] = ()

    def __init__(self, stack: Stack, upstream: Upstream) -> None:
        super().__init__(stack, upstream, Plan(0, self.points, (), (), 1, 0, 1.0))

    def count(self, *topics: str) -> int:
        """Return how many records these topics have had."""
        return sum(self.stack.ends(*topics).values())


class NewerInput(Input):
    """An upstream that writes the second version of its alerts once it is told."""

    newer = False

    def alert_record(self, value: dict[str, Any], identity: str) -> Record:
        """Return the record in the version of the day."""
        record = super().alert_record(value, identity)
        if not self.newer:
            return record
        second, topics = newer.next_version("AlertRaised"), self.upstream.topics
        defaults = {one["name"]: one["default"] for one in second["fields"] if "default" in one}
        body = BytesIO()
        schemaless_writer(body, files.parse(second), {**defaults, **value, "remark": "new"})
        number = newer.id_of(self.upstream.settings, topics.alerts, "AlertRaised")
        return record._replace(value=b"\0" + number.to_bytes(4, "big") + body.getvalue())


class Schema(Scene):
    """A new version is registered and comes into use stage by stage, and is rolled back, while alerts go on."""

    what = "four events get a second version while alerts go on: new writers, old and new readers, and all the way back"

    def __init__(self, stack: Stack, upstream: Upstream) -> None:
        super().__init__(stack, upstream)
        self.input = self.upstream = NewerInput(upstream, self.input.name)
        topics = stack.topics
        self.written = {
            topics.alerts: "AlertRaised",
            topics.decisions("urgent"): "AudienceDecided",
            topics.deliveries("email", "urgent"): "DeliveryRequested",
            topics.delivery_status: "DeliverySent",
        }
        self.places = stack.ends(*self.written)

    def rounds(self) -> None:
        """Upgrade upstream, then one process after the other; writers come before their readers."""
        self.alert()
        insist(lambda: sync(self.stack.settings, schemas=newer.versions))
        self.upstream.newer = True
        self.alert()
        with contextlib.ExitStack() as upgraded:
            for process in ("alerts", "fanout-urgent", "ses-urgent"):
                upgraded.enter_context(self.stack.replaced(process, "tests.fault.newer"))
                self.alert()
                self.alert()
            time.sleep(2.0)  # so that what is decided is also sent by the new ones, and not by those that come back
            self.alert()
            wait_until(lambda: self._versions()["DeliverySent", 2] > 0, "a report in the second version")
        self.upstream.newer = False
        self.alert()

    def _versions(self) -> "Counter[tuple[str, int]]":
        second = {newer.id_of(self.stack.settings, topic, event) for topic, event in self.written.items()}
        return Counter(
            (event.name, 1 + (int.from_bytes((raw.value or b"")[1:5], "big") in second))
            for event, raw in self.stack.events(self.places)
            if event.name == self.written[raw.topic]
        )

    def verdicts(self) -> list[Verdict]:
        """Say how many records of each event were written in which version."""
        found = self._versions()
        told = ", ".join(f"{name} {found[name, 1]} + {found[name, 2]}" for name in newer.CHANGED)
        problems = [
            f"no {name} was written in version {version}"
            for name in newer.CHANGED
            for version in (1, 2)
            if not found[name, version]
        ]
        return [Verdict("versions", f"first + second: {told}", tuple(problems))]


class Snapshots(Scene):
    """Two alerts fill everybody's cap and an issue gives them content; then only the log can know of it."""

    what = "the snapshots of the shards are deleted while the deciders are down: what was decided before still counts"

    def __init__(self, stack: Stack, upstream: Upstream) -> None:
        super().__init__(stack, upstream)
        self.input.alerts_a_day = 2
        self.issues = stack.ends(*(stack.topics.deliveries(channel, "bulk") for channel in CHANNELS))

    def rounds(self) -> None:
        """Delete the snapshots of both deciders, ask again for what was decided, and for what their state must refuse."""
        stack, topics = self.stack, self.stack.topics
        wait_until(lambda: self.settled(self.sources), "the first sources to be settled")
        wait_until(lambda: self.count(topics.snapshots_alerts) * self.count(topics.snapshots_newsletters) > 0, "snapshots")
        states = stack.supervisor.states()
        stack.supervisor.stop([states["alerts"], states["newsletters"]], 12.0)
        self.deleted = sum(delete_records(stack, topic) for topic in (topics.snapshots_alerts, topics.snapshots_newsletters))
        stack.start("alerts")
        stack.start("newsletters")
        self.input.upstream.send(self.input.alerts)
        self.input.gate = "cap"
        self.alert()
        self.input.gate, self.input.content_used_up = "", True
        self.sources.append(self.input.tick(1))

    def verdicts(self) -> list[Verdict]:
        """Say how much was deleted, and that nothing was decided, or given to anybody, a second time."""
        problems = [f"{count} decisions of {source} were written again" for source, count in copies(self).items()]
        given: Counter[tuple[str, str]] = Counter()
        for event, _ in self.stack.events(self.issues):
            if event.value["source_id"] in self.sources:
                given.update({(event.value["subscriber_id"], item["publication_id"]) for item in event.value["items"]})
        problems += [f"{one} was given {publication} {count} times" for (one, publication), count in given.items() if count > 1]
        if not self.deleted:
            problems.append("there was nothing to delete")
        told = f"{self.deleted} records deleted; nothing decided again, {len(given)} items given once each"
        return [Verdict("snapshots", told, tuple(problems))]


def copies(run: Run) -> "Counter[str]":
    """Return by source how many decisions stand in the log beyond the first ones."""
    counts = Counter((one.source_id, one.shard, one.chunk) for one in run.heard.decisions or ())
    again: Counter[str] = Counter()
    for (source, _, _), count in counts.items():
        again[source] += count - 1
    return +again


def delete_records(stack: Stack, topic: str) -> int:
    """Delete all records of a compacted topic and return how many offsets that were; its settings stay as they are."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)

    def policy(value: str) -> None:
        resource.add_incremental_config(ConfigEntry("cleanup.policy", value, incremental_operation=AlterConfigOpType.SET))
        for done in stack.admin.incremental_alter_configs([resource]).values():
            done.result(30)
        resource.incremental_configs.clear()

    insist(lambda: policy("compact,delete"))
    try:
        ends = stack.ends(topic)
        starts = start_offsets(stack.admin, list(ends))
        wanted = [TopicPartition(one, partition, offset) for (one, partition), offset in ends.items()]
        for done in stack.admin.delete_records(wanted).values():
            done.result(30)
        assert start_offsets(stack.admin, list(ends)) == ends, f"{topic} still has records"
    finally:
        insist(lambda: policy("compact"))
    return sum(ends.values()) - sum(starts.values())


class Zombie(Scene):
    """A decider is frozen in the middle of a decision until others have decided in its place; then it goes on."""

    what = "a decider frozen in the middle of a decision, past its session's end, goes on after another one has taken over"

    def rounds(self) -> None:
        """Freeze, let a guest take over and decide, let go."""
        stack, topics = self.stack, self.stack.topics
        self.alert()
        wait_until(lambda: stack.behind(stack.ends(topics.audience_alerts), "alerts") == 0, "the alerts to be decided")
        stack.arm(("alerts:decide.before_produce=sleep:12",))
        asked, decided = self.count(topics.audience_alerts), self.count(topics.decisions("urgent"))
        self.contested = self.alert()
        wait_until(lambda: self.count(topics.audience_alerts) > asked, "the alert to be asked for")
        time.sleep(1.0)  # it has been read and is being decided
        zombie, frozen_at = stack.pid("alerts"), time.monotonic()
        stack.kill("alerts", signal.SIGSTOP)
        guest = stack.guest("alerts")
        wait_until(lambda: self.count(topics.decisions("urgent")) > decided, "another worker to decide")
        while time.monotonic() < frozen_at + 13.0:
            time.sleep(0.1)
        stack.arm(())
        stack.kill("alerts", signal.SIGCONT)
        self.frozen_s = time.monotonic() - frozen_at
        self.after = [self.alert() for _ in itertools.repeat(None, 2)]
        time.sleep(2.0)
        self.after.append(self.alert())
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: stack.pid("alerts") not in (0, zombie), "it to end", 20.0)
        self.ended = stack.pid("alerts") != zombie
        guest.terminate()
        guest.wait(20)
        self.after.append(self.alert())

    def verdicts(self) -> list[Verdict]:
        """Say what the frozen one wrote: copies of what others had decided, and nothing after it knew."""
        again = copies(self)
        problems = [f"{again[one]} decisions were written again after it had gone on" for one in self.after if again[one]]
        strange = set(again) - {self.contested, *self.after}
        problems += [f"{again[one]} decisions of {one} were written again" for one in strange]
        fate = "it ended" if self.ended else "it joined again"
        told = f"frozen for {self.frozen_s:.1f} s; {again[self.contested]} late copies, which count for nothing; {fate}"
        return [Verdict("the frozen worker", told, tuple(problems))]


class Behind(Scene):
    """Receivers of webhooks refuse a timestamp that is 10 minutes old; what they refused waits for a clock that is right."""

    what = "the clock of webhook-urgent is off by -600 s, and then right"
    settle_s = 300.0

    def __init__(self, stack: Stack, upstream: Upstream) -> None:
        super().__init__(stack, upstream)
        self.places = stack.ends(stack.topics.deliveries("webhook", "urgent"))

    def rounds(self) -> None:
        """Let the receivers refuse what a late clock has signed, then put it right."""
        with self.stack.replaced("webhook-urgent", "tests.fault.off_clock", "-600"):
            self.late = [self.alert(), self.alert()]
            wait_until(lambda: len(self._hooks()) >= 2 * self.input.people_a_channel, "the receivers to refuse")
        self.right_from = len(self._hooks())
        self.alert()

    def _hooks(self) -> list[Hit]:
        ids = {one.value["delivery_id"] for one, _ in self.stack.events(self.places) if one.value["source_id"] in self.late}
        return [hit for hit in read_hits(self.journal_file, self.hits_before, ("webhook",)) if hit.key in ids]

    def verdicts(self) -> list[Verdict]:
        """Say how often receivers refused, and that each took every message once in the end."""
        hits = self._hooks()
        refused, taken = [hit for hit in hits if hit.outcome == "refused"], [hit for hit in hits if hit.outcome == "accepted"]
        problems = [] if refused else ["nobody refused what was signed with a late clock"]
        if any(hit.outcome == "accepted" for hit in hits[: self.right_from]):
            problems.append("a receiver took what was signed with a late clock")
        if len({hit.key for hit in taken}) != len(taken) or {hit.key for hit in taken} != {hit.key for hit in hits}:
            problems.append(f"{len(taken)} were taken of {len({hit.key for hit in hits})}")
        told = f"{len(refused)} times refused with a late clock, then {len(taken)} taken, each once"
        return [Verdict("the receivers", told, tuple(problems))]


SCENES: dict[str, type[Scene]] = {"schema": Schema, "snapshots": Snapshots, "zombie": Zombie}
"""By the name of the row."""
