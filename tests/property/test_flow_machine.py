"""A sink played through by Hypothesis with a virtual clock: breaker, bucket, retry plan, ledger and completion tracking.

Records are produced, polled, claimed, called for, answered, parked and taken up again; processes crash, partitions move,
every outcome is written twice, and calls end in any order. What must hold is asserted after each step.
"""

import random
from collections import defaultdict
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from core.flow.breaker import Breaker, BreakerPlan
from core.flow.bucket import Bucket, Rate, Speed
from core.flow.retries import SCHEDULES, long_wait_s
from core.outcomes import RETRY_STATE
from sinks.delivery import Position
from sinks.offsets import Offsets
from tests.ledger_model import LEASE_S, Again, Claim, Due, Event, Row, Swept, Wrote, step

PLAN = BreakerPlan(window=6, window_s=60.0, min_calls=3, failure_share=0.5, open_s=1.0, open_cap_s=8.0)
RATE = Rate(0.5, 2.0)
SCHEDULE = SCHEDULES["slack", "bulk"]
PARTITIONS = 2
SUBSCRIBERS = 4
OUTCOMES = ("sent", "failed", "lost", "down", "throttled")
FINISHED = ("sent", "failed", "unknown", RETRY_STATE)


@dataclass
class Held:
    """A delivery in a process's hands."""

    delivery: int
    attempt: int
    position: Position | None


@dataclass
class Process:
    """One sink process: what it forgets when it crashes."""

    owner: int
    offsets: Offsets = field(default_factory=Offsets)
    breaker: Breaker = field(default_factory=lambda: Breaker(PLAN))
    next: dict[int, int] = field(default_factory=dict)
    waiting: list[Held] = field(default_factory=list)
    calling: list[tuple[Held, int]] = field(default_factory=list)
    first_calls: dict[tuple[int, int], list[int]] = field(default_factory=lambda: defaultdict(list))


class SinkMachine(RuleBasedStateMachine):
    """The machine."""

    @initialize(seed=st.integers(0, 1_000))
    def begin(self, seed: int) -> None:
        """An empty log, one process with all partitions, a full bucket."""
        self.random = random.Random(seed)
        self.now_s = 0.0
        self.log: list[list[int]] = [[] for _ in range(PARTITIONS)]
        self.subscriber_of: dict[int, int] = {}
        self.committed = [0] * PARTITIONS
        self.rows: dict[int, Row | None] = {}
        self.events: dict[int, list[Event]] = defaultdict(list)
        self.calls: dict[int, list[str]] = defaultdict(list)
        self.bucket = Bucket(Speed(RATE.per_s), RATE.burst, RATE.burst, 1.0, 0.0)
        self.granted: list[tuple[float, int]] = []
        self.owners = 0
        self.start()

    def start(self) -> None:
        """A new process takes all partitions from where they were committed."""
        self.owners += 1
        self.process = Process(self.owners)
        for partition in range(PARTITIONS):
            self.assign(partition)

    def assign(self, partition: int) -> None:
        self.process.offsets.assign(partition)
        self.process.next[partition] = self.committed[partition]

    def apply(self, delivery: int, event: Event) -> Row | None:
        """Apply an event twice, as a lost answer of the database makes it: the second time changes nothing."""
        once = step(self.rows.get(delivery), event)
        if not isinstance(event, Due | Claim):
            assert step(once, event) == once
        self.rows[delivery] = once
        self.events[delivery].append(event)
        return once

    @rule(subscriber=st.integers(0, SUBSCRIBERS - 1))
    def produce(self, subscriber: int) -> None:
        """A delivery for a subscriber, in the subscriber's partition."""
        delivery = len(self.subscriber_of)
        self.subscriber_of[delivery] = subscriber
        self.log[subscriber % PARTITIONS].append(delivery)

    @rule(partition=st.integers(0, PARTITIONS - 1), count=st.integers(1, 4))
    def poll_and_claim(self, partition: int, count: int) -> None:
        """Read some records and claim them."""
        process = self.process
        for _ in range(count):
            offset = process.next.get(partition)
            if offset is None or offset >= len(self.log[partition]):
                return
            process.next[partition] = offset + 1
            position = process.offsets.begin(partition, offset)
            assert position is not None
            delivery = self.log[partition][offset]
            if any(h.delivery == delivery for h in self.in_hand()):
                process.offsets.finish(position)
                continue
            known = self.rows.get(delivery)
            row = self.apply(delivery, Claim(process.owner, self.now_s))
            if known is None and row is not None:
                process.waiting.append(Held(delivery, row.attempt, position))
            else:
                process.offsets.finish(position)  # settled, parked, or another's: the sweeper sees to it

    def in_hand(self) -> list[Held]:
        return [*self.process.waiting, *(held for held, _ in self.process.calling)]

    @rule()
    def call(self) -> None:
        """Start the next call if lease, breaker and rate let it."""
        process = self.process
        if not process.waiting:
            return
        held = process.waiting[0]
        before = process.breaker.state
        allowed = process.breaker.allow(self.now_s)
        if before == "open" and self.now_s < process.breaker.until_s:
            assert not allowed, "a call was allowed while the breaker was open"
        if not allowed:
            return
        self.bucket, given = self.bucket.grant("bulk", 1, self.now_s)
        row = self.apply(held.delivery, Again(process.owner, held.attempt, 0, self.now_s))
        if not given or row is None or (row.state, row.owner, row.attempt) != ("claimed", process.owner, held.attempt):
            process.breaker.abandon(process.breaker.epoch, self.now_s)
            if given:
                process.waiting.pop(0)
                self.finish(held)
            return
        self.granted.append((self.now_s, given))
        process.waiting.pop(0)
        process.calling.append((held, process.breaker.epoch))
        self.calls[held.delivery].append("begun")
        if held.position is not None:
            process.first_calls[self.subscriber_of[held.delivery], process.owner].append(held.delivery)

    @rule(
        number=st.integers(0, 50),
        outcome=st.sampled_from(["sent", "failed", "lost", "down", "throttled"]),
        asked=st.floats(0, 100),
    )
    def answer(self, number: int, outcome: str, asked: float) -> None:
        """One of the calls under way ends, in any order."""
        process = self.process
        if not process.calling:
            return
        held, epoch = process.calling.pop(number % len(process.calling))
        self.calls[held.delivery][-1] = outcome
        process.breaker.record(outcome not in ("lost", "down"), epoch, self.now_s)
        process.breaker.record(outcome not in ("lost", "down"), epoch - 1, self.now_s)  # a result of before says nothing
        after_s = 0.0
        if outcome in ("down", "throttled"):
            after_s = long_wait_s(SCHEDULE, held.attempt, asked, self.random.uniform)
            assert after_s >= asked
        if outcome == "throttled":
            self.bucket = self.bucket.slowed(self.now_s, 0.0)
        state = {"lost": "unknown", "down": RETRY_STATE, "throttled": RETRY_STATE}.get(outcome, outcome)
        self.apply(held.delivery, Wrote(process.owner, held.attempt, state, self.now_s, after_s))
        self.finish(held)

    def finish(self, held: Held) -> None:
        if held.position is not None:
            self.process.offsets.finish(held.position)

    @rule()
    def release(self) -> None:
        """What waits is given back without a call: it counts no attempt and is due at once."""
        for held in self.process.waiting:
            self.apply(held.delivery, Wrote(self.process.owner, held.attempt, RETRY_STATE, self.now_s, 0.0, called=False))
            self.finish(held)
        self.process.waiting.clear()

    @rule()
    def sweep(self) -> None:
        """Ended leases become unknown; what is due is claimed."""
        for delivery in list(self.rows):
            before = self.rows[delivery]
            self.apply(delivery, Swept(self.now_s))
            row = self.apply(delivery, Due(self.process.owner, self.now_s))
            if before is not None and row is not None and row.state == "claimed" and row.attempt == before.attempt + 1:
                assert before.next_attempt_s <= self.now_s, "taken up before it was due"
                self.process.waiting.append(Held(delivery, row.attempt, None))

    @rule()
    def commit(self) -> None:
        """Commit what is finished."""
        offsets = self.process.offsets.committable()
        self.process.offsets.committed(offsets)
        for partition, offset in offsets.items():
            assert offset > self.committed[partition]
            self.committed[partition] = offset

    @rule(seconds=st.floats(0.05, 120.0))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now_s += seconds

    @rule()
    def crash(self) -> None:
        """The process is killed; another one begins with what is durable."""
        self.start()

    @rule(partition=st.integers(0, PARTITIONS - 1))
    def move_away_and_back(self, partition: int) -> None:
        """A partition is revoked and assigned again: what ends late belongs to the assignment before."""
        self.process.offsets.revoke(partition)
        self.assign(partition)

    @invariant()
    def nothing_unfinished_is_committed(self) -> None:
        """The committed offset is at most the lowest record whose delivery is neither settled, unknown nor parked ..."""
        for partition, log in enumerate(self.log):
            for delivery in log[: self.committed[partition]]:
                row = self.rows.get(delivery)
                assert row is not None, "committed and never claimed: lost"
                # ... or claimed by somebody: then its lease ends, and the sweeper sees to it
                assert row.state in (*FINISHED, "claimed")

    @invariant()
    def what_is_in_hand_is_not_committed(self) -> None:
        """The committed offset is at most the lowest record that this process has in hand."""
        for held in self.in_hand():
            position = held.position
            if position is not None and self.process.offsets.holds(position):
                assert self.committed[position.partition] <= position.offset

    @invariant()
    def nothing_is_called_again_that_may_have_arrived(self) -> None:
        """After sent, failed or unknown there is no further call, whoever crashed."""
        for delivery, calls in self.calls.items():
            ended = [c for c in calls if c in ("sent", "failed", "lost")]
            assert len(ended) <= 1
            assert not ended or calls[-1] == ended[0]
            assert calls.count("begun") <= 1, f"{delivery} was called twice at once"

    @invariant()
    def the_rate_is_kept(self) -> None:
        """In any stretch of time no more than the burst and what flowed in."""
        for first in range(max(0, len(self.granted) - 20), len(self.granted)):
            stretch = self.granted[first:]
            seconds = stretch[-1][0] - stretch[0][0]
            assert sum(n for _, n in stretch) <= RATE.burst + 1.0 + RATE.per_s * seconds + 1e-6

    @invariant()
    def order_per_subscriber_is_kept(self) -> None:
        """First calls of one process for one subscriber begin in the order of the log."""
        for calls in self.process.first_calls.values():
            fresh = list(dict.fromkeys(calls))
            assert fresh == sorted(fresh)

    @invariant()
    def a_replay_gives_the_same_rows(self) -> None:
        """Folding all that happened from the beginning gives what was folded step by step."""
        for delivery, events in list(self.events.items())[-3:]:
            row: Row | None = None
            for event in events:
                row = step(row, event)
            assert row == self.rows[delivery]

    def teardown(self) -> None:
        """Left alone, everything ends: leases run out, the parked are taken up, all offsets are committed."""
        if not hasattr(self, "log"):
            return
        self.start()
        for _ in range(400):
            if all(
                self.committed[p] == len(log) and all(self.rows[d].state in ("sent", "failed", "unknown") for d in log)  # type: ignore[union-attr]
                for p, log in enumerate(self.log)
            ):
                return
            self.now_s += LEASE_S
            for partition in range(PARTITIONS):
                self.poll_and_claim(partition, 4)
            self.sweep()
            for _ in range(4):
                self.call()
            while self.process.calling:
                self.answer(0, "sent", 0.0)
            self.commit()
        raise AssertionError("it did not come to an end")


TAKES = st.tuples(
    st.floats(0.0, 600.0), st.sampled_from(["urgent", "bulk"]), st.integers(0, 30), st.sampled_from([None, None, None, 0.0, 5.0])
)


@given(takes=st.lists(TAKES, min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_no_order_of_takes_gives_more_than_the_rate(takes: list[tuple[float, str, int, float | None]]) -> None:
    """From any moment on: the burst, bulk's own part of it, and what flows in; and never a token of what is held."""
    now_s, given = 0.0, list[tuple[float, int]]()
    bucket = Bucket(Speed(RATE.per_s), RATE.burst, RATE.burst, 1.0, 0.0)
    for wait_s, lane, wanted, slow_s in takes:
        now_s += wait_s
        if slow_s is not None:
            bucket = bucket.slowed(now_s, slow_s)
        bucket, tokens = bucket.grant(lane, wanted, now_s)
        assert 0 <= tokens <= wanted
        assert tokens == 0 or now_s >= bucket.held_until_s
        given.append((now_s, tokens))
    for first, (begin_s, _) in enumerate(given):
        assert sum(n for _, n in given[first:]) <= RATE.burst + 1.0 + RATE.per_s * (now_s - begin_s) + 1e-6


TestSink = SinkMachine.TestCase
TestSink.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
