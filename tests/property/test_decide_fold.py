"""A state machine over the pure core: replay equals incremental, duplicates change nothing, snapshots are the truth."""

from datetime import timedelta

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core.alert_state import AlertState
from core.deciding import decide_alert, decide_newsletter
from core.newsletter_state import NewsletterState
from core.verdicts import Place
from tests.unit.deciding_samples import (
    NOW,
    Sample,
    alert,
    available,
    counted,
    erased,
    fold,
    linked,
    person,
    preferred,
    publication,
    registered,
    slot,
    topics,
    unlinked,
    unsubscribed,
    verified,
    withdrawn,
)

WHO = st.integers(0, 7).map(person)
CHANNEL = st.sampled_from(["email", "slack", "webhook"])
ZONE = st.sampled_from(["UTC", "Asia/Tokyo", "America/New_York", "Europe/Berlin"])
TOPICS = st.lists(st.sampled_from(["physics", "art", "maths"]), unique=True, max_size=3).map(lambda names: topics(*names))
PREFERENCES = st.fixed_dictionaries(
    {},
    optional={
        "topics": TOPICS,
        "channels": st.lists(CHANNEL, unique=True, max_size=3),
        "urgent_channels": st.lists(CHANNEL, unique=True, max_size=2),
        "newsletters": st.sampled_from([[], ["daily"], ["daily", "weekly"]]),
        "alerts": st.booleans(),
        "alerts_a_day": st.sampled_from([-1, 1, 2]),
        "time_zone": ZONE,
        "quiet_hours": st.sampled_from([[], [{"start_minute": 1200, "end_minute": 420}]]),
        "paused_until": st.sampled_from([NOW - timedelta(days=1), NOW + timedelta(days=1)]),
        "local_minute": st.sampled_from([-1, -2, 540, 1080]),
        "days": st.sampled_from([[], [1, 3, 5], [7]]),
    },
)


class Shard(RuleBasedStateMachine):
    """Two deciders of one shard, fed with any mix of events; each log is kept, and time goes on."""

    @initialize()
    def begin(self) -> None:
        self.alerts, self.newsletters = AlertState(), NewsletterState()
        self.logs: dict[str, list[Sample]] = {
            "subscribers": [],
            "content": [],
            "engagements": [],
            "alerts": [],
            "newsletters": [],
        }
        self.now = NOW
        self.sources = 0

    def take(self, log: str, *events: Sample) -> None:
        self.logs[log] += events
        if log != "newsletters":
            fold(self.alerts, *events)
        if log != "alerts":
            fold(self.newsletters, *events)

    @rule(who=WHO, zone=ZONE, channel=CHANNEL)
    def joins(self, who: str, zone: str, channel: str) -> None:
        subscribed = preferred(who, newsletters=["daily"], alerts=True, topics=topics("physics"))
        self.take("subscribers", registered(who, zone), subscribed, linked(who, channel), verified(who, channel))

    @rule(who=WHO, changes=PREFERENCES)
    def prefers(self, who: str, changes: dict) -> None:
        self.take("subscribers", preferred(who, **changes))

    @rule(who=WHO, channel=CHANNEL, how=st.sampled_from([linked, verified, unlinked]))
    def channel_changes(self, who: str, channel: str, how) -> None:
        self.take("subscribers", how(who, channel))

    @rule(who=WHO, kind=st.sampled_from(["alerts", "all", "newsletter"]))
    def unsubscribes(self, who: str, kind: str) -> None:
        self.take("subscribers", unsubscribed(who, kind, "daily" if kind == "newsletter" else None))

    @rule(who=WHO)
    def is_erased(self, who: str) -> None:
        self.take("subscribers", erased(who))

    @rule(number=st.integers(0, 9), revision=st.integers(1, 3), names=st.sampled_from([("physics",), ("art", "maths")]))
    def content_comes(self, number: int, revision: int, names: tuple[str, ...]) -> None:
        self.take("content", available(number, *names, revision=revision, approved_at=self.now - timedelta(hours=number)))

    @rule(number=st.integers(0, 9), reason=st.sampled_from(["retracted", "replaced"]))
    def content_goes(self, number: int, reason: str) -> None:
        self.take("content", withdrawn(number, reason))

    @rule(who=WHO, number=st.integers(0, 9), name=st.sampled_from(["ReactionAdded", "ReactionRemoved", "ContentClicked"]))
    def engages(self, who: str, number: int, name: str) -> None:
        value = {"subscriber_id": who, "publication_id": publication(number), "occurred_at": self.now}
        self.take("engagements", Sample(name, value | {"reaction": "like", "evidence": "click"}))

    @rule(replaces=st.booleans())
    def reads_are_counted(self, replaces: bool) -> None:
        self.take("content", counted(self.newsletters, at=self.now, replaces=replaces))

    @rule(hours=st.integers(1, 30))
    def time_passes(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @rule(chunks=st.integers(1, 2), key=st.sampled_from([None, "k"]), priority=st.sampled_from(["critical", "normal"]))
    def an_alert_is_decided(self, chunks: int, key: str | None, priority: str) -> None:
        self.sources += 1
        what = alert(
            f"alert-{self.sources}", chunks=chunks, dedup_key=key, priority=priority, not_after=self.now + timedelta(days=1)
        )
        for chunk in range(chunks):
            value = decide_alert(self.alerts, what, Place(0, 12, chunk, {}), self.now)
            assert value == decide_alert(self.alerts, what, Place(0, 12, chunk, {}), self.now)
            self.take("alerts", Sample("AudienceDecided", value))

    @rule(chunks=st.integers(1, 2), forced=st.booleans(), items=st.integers(1, 3))
    def a_slot_is_decided(self, chunks: int, forced: bool, items: int) -> None:
        what = slot(self.now, forced=forced, chunks=chunks, max_items=items)
        for chunk in range(chunks):
            value = decide_newsletter(self.newsletters, what, Place(0, 12, chunk, {}), self.now)
            if (what["source_id"], chunk) not in self.newsletters.decided:
                self.take("newsletters", Sample("AudienceDecided", value))

    @precondition(lambda self: self.logs["alerts"] or self.logs["newsletters"])
    @rule(data=st.data())
    def a_decision_comes_again(self, data) -> None:
        log = data.draw(st.sampled_from([name for name in ("alerts", "newsletters") if self.logs[name]]))
        self.take(log, data.draw(st.sampled_from(self.logs[log])))

    @rule()
    def restarts_from_snapshots(self) -> None:
        for name in ("alerts", "newsletters"):
            fresh = AlertState() if name == "alerts" else NewsletterState()
            fresh.load(getattr(self, name).dump())
            setattr(self, name, fresh)

    @invariant()
    def nothing_was_given_twice(self) -> None:
        seen = set()
        first: dict[tuple[str, int], dict] = {}
        for event in self.logs["newsletters"]:
            first.setdefault((event.value["source_id"], event.value["chunk"]), event.value)
        for value in first.values():
            for entry in value["chosen"]:
                for item in entry["items"]:
                    pair = (entry["subscriber"], value["publications"][item["publication"]]["publication_id"])
                    assert pair not in seen
                    seen.add(pair)

    def teardown(self) -> None:
        """The state equals a fold from scratch, whatever the order in which the logs are read."""
        if not hasattr(self, "logs"):
            return
        order = np.random.default_rng(0).permutation(list(self.logs))
        for state, without in ((self.alerts, "newsletters"), (self.newsletters, "alerts")):
            scratch = type(state)()
            for log in order:
                if log != without:
                    fold(scratch, *self.logs[log])
            assert scratch.dump() == state.dump()


Shard.TestCase.settings = settings(
    max_examples=50, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
TestShard = Shard.TestCase
