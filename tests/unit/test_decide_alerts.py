"""Tests of deciding alerts: who is concerned, every gate, and what is remembered."""

from datetime import UTC, datetime, timedelta

import pytest

from core.alert_state import AlertState, alert_not_after
from core.deciding import decide_alert
from core.explain import explain_alert
from core.folding import AHEAD_MS, to_ms
from core.subscribers import subscriber_key
from core.verdicts import Place
from tests.unit.deciding_samples import (
    NOW,
    Sample,
    alert,
    erased,
    fold,
    linked,
    person,
    preferred,
    reader,
    registered,
    topics,
    verified,
)

ANNA, BEN, CEM = person(1), person(2), person(3)


def place(chunk: int = 0) -> Place:
    return Place(shard=0, shards=12, chunk=chunk, applied={"newswire.subscribers": 7})


def decide(state: AlertState, what: dict | None = None, now: datetime = NOW, chunk: int = 0) -> dict:
    return decide_alert(state, what or alert(), place(chunk), now)


def remember(state: AlertState, value: dict) -> dict:
    state.apply(Sample("AudienceDecided", value))
    return value


def chosen(value: dict) -> list[tuple[bytes, str]]:
    return [(entry["subscriber"], value["channels"][entry["channel"]]) for entry in value["chosen"]]


def gated(value: dict) -> list[tuple[bytes, str, str]]:
    names = [*value["channels"], "none"]
    return [(entry["subscriber"], names[entry["channel"]], value["reasons"][entry["reason"]]) for entry in value["gated"]]


def reasons(value: dict) -> set[str]:
    return {reason for _, _, reason in gated(value)}


def test_reaches_who_takes_alerts_and_declared_a_topic():
    """Others are not concerned, and are counted."""
    state = fold(AlertState(), reader(ANNA), reader(BEN, topics=topics("art")), reader(CEM, alerts=False))
    value = decide(state)
    assert chosen(value) == [(subscriber_key(ANNA), "email")]
    assert (value["population"], value["not_concerned"], value["gated"]) == (3, 2, [])
    assert value["chosen"][0]["address"] == b"\x01secret"


def test_an_alert_without_topics_concerns_everybody_who_takes_alerts():
    """No topic means all."""
    state = fold(AlertState(), reader(ANNA), reader(BEN, topics=[]), reader(CEM, alerts=False))
    assert len(decide(state, alert(topics=[]))["chosen"]) == 2


def test_urgent_may_name_several_channels():
    """All verified ones of them are used, and each is in the accounting of its channel."""
    more = [
        linked(ANNA, "slack"),
        verified(ANNA, "slack"),
        linked(ANNA, "webhook"),
        preferred(ANNA, urgent_channels=["slack", "email"]),
    ]
    state = fold(AlertState(), reader(ANNA), more, reader(BEN))
    value = decide(state)
    assert chosen(value) == [(subscriber_key(ANNA), "email"), (subscriber_key(ANNA), "slack"), (subscriber_key(BEN), "email")]
    counted = {item["channel"]: item["not_concerned"] for item in value["channel_counts"]}
    assert counted == {"email": 0, "slack": 1, "discord": 2, "webhook": 2, "none": 2}
    assert value["not_concerned"] == 0


@pytest.mark.parametrize(
    ("what", "events", "reason"),
    [
        (alert(quality=None), [], "unscored"),
        (alert(quality=0.9), [], "low_quality"),
        (alert(), [preferred(ANNA, channels=[])], "no_channel"),
        (alert(), [preferred(ANNA, quiet_hours=[{"start_minute": 540, "end_minute": 541}])], "quiet_hours"),
        (alert(), [preferred(ANNA, alerts_a_day=0)], "cap"),
        (alert(not_after=NOW - timedelta(minutes=1)), [], "expired"),
    ],
)
def test_gate_names_its_reason(what, events, reason):
    """Somebody whom the alert concerns is gated, with the reason."""
    state = fold(AlertState(), reader(ANNA), events)
    value = decide(state, what)
    assert value["chosen"] == []
    assert gated(value) == [(subscriber_key(ANNA), "none" if reason == "no_channel" else "email", reason)]
    assert explain_alert(state, what, ANNA, NOW).reason == reason


def test_quality_gate_is_strict():
    """0.9 is not enough, anything above is."""
    state = fold(AlertState(), reader(ANNA))
    assert reasons(decide(state, alert(quality=0.9))) == {"low_quality"}
    assert decide(state, alert(quality=0.9000001))["chosen"]


def test_critical_passes_quiet_hours_and_caps():
    """Nothing but consent, a channel and quality stops a critical alert."""
    hours = [{"start_minute": 0, "end_minute": 1439}]
    state = fold(AlertState(), reader(ANNA, quiet_hours=hours, alerts_a_day=0))
    assert reasons(decide(state)) == {"quiet_hours"}
    assert decide(state, alert(priority="critical"))["chosen"]


def test_quiet_hours_are_local():
    """09:00 UTC is 18:00 in Tokyo."""
    hours = [{"start_minute": 18 * 60, "end_minute": 19 * 60}]
    state = fold(AlertState(), reader(ANNA, "Asia/Tokyo", quiet_hours=hours), reader(BEN, "UTC", quiet_hours=hours))
    value = decide(state)
    assert [who for who, _, _ in gated(value)] == [subscriber_key(ANNA)]
    assert [who for who, _ in chosen(value)] == [subscriber_key(BEN)]


def test_cap_looks_back_a_day():
    """The second alert is gated, and one more than a day later is not."""
    state = fold(AlertState(), reader(ANNA, alerts_a_day=1))
    remember(state, decide(state, alert(person(50))))
    assert reasons(decide(state, alert(person(51)))) == {"cap"}
    later = NOW + timedelta(hours=24)
    assert decide(state, alert(person(52), not_after=later + timedelta(hours=1)), later)["chosen"]


def test_same_dedup_key_reaches_a_subscriber_once_a_day():
    """Another key, or nobody's, is no duplicate."""
    state = fold(AlertState(), reader(ANNA))
    remember(state, decide(state, alert(person(50), dedup_key="outage")))
    assert reasons(decide(state, alert(person(51), dedup_key="outage"))) == {"duplicate"}
    assert decide(state, alert(person(52), dedup_key="other"))["chosen"]
    assert decide(state, alert(person(53)))["chosen"]


def test_rule_4_applying_a_decision_twice_changes_nothing():
    """Caps are sets of sources, not counters: a later copy of a decision does not count."""
    state = fold(AlertState(), reader(ANNA, alerts_a_day=2))
    value = remember(state, decide(state, alert(person(50))))
    before = state.dump()
    remember(state, value)
    remember(state, value | {"applied": [], "decided_at": NOW + timedelta(seconds=1)})
    assert state.dump() == before
    assert decide(state, alert(person(51)))["chosen"]


def test_rule_3_the_first_copy_of_a_chunk_is_the_one_that_counts():
    """A later copy with other people in it changes nothing."""
    state = fold(AlertState(), reader(ANNA, alerts_a_day=1), reader(BEN, alerts_a_day=1))
    value = decide(state, alert(person(50)))
    remember(state, value | {"chosen": value["chosen"][:1]})
    remember(state, value | {"chosen": value["chosen"][1:]})
    assert [who for who, _, _ in gated(decide(state, alert(person(51))))] == [subscriber_key(ANNA)]


def test_erased_and_unregistered_are_not_in_the_population():
    """The population is the registered subscribers."""
    state = fold(AlertState(), reader(ANNA), reader(BEN), erased(BEN), preferred(CEM, alerts=True))
    value = decide(state)
    assert (value["population"], len(value["chosen"]), value["not_concerned"]) == (1, 1, 0)


def test_an_empty_chunk_is_decided_with_counts_only():
    """Every chunk writes a decision."""
    value = decide(AlertState())
    assert (value["population"], value["not_concerned"], value["chosen"], value["gated"]) == (0, 0, [], [])


def test_chunks_share_out_the_population():
    """Each subscriber is in exactly one chunk."""
    state = fold(AlertState(), [event for number in range(200) for event in reader(person(number))])
    parts = [decide(state, alert(chunks=3), chunk=chunk) for chunk in range(3)]
    assert sum(part["population"] for part in parts) == 200
    assert len({entry["subscriber"] for part in parts for entry in part["chosen"]}) == 200


def test_same_state_and_event_decide_the_same():
    """Whatever the order in which the subscribers came, and after packing."""
    people = [
        reader(person(number), ["UTC", "Asia/Tokyo"][number % 2], topics=topics("physics", f"t{number}")) for number in range(50)
    ]
    one, other, loaded = fold(AlertState(), people), fold(AlertState(), people[::-1]), AlertState()
    remember(one, decide(one, alert(person(90))))
    remember(other, decide(other, alert(person(90))))
    loaded.load(one.dump())
    assert decide(one, alert(person(91), dedup_key="k")) == decide(other, alert(person(91), dedup_key="k"))
    assert decide(one) == decide(loaded)
    assert loaded.dump() == other.dump()


def test_history_older_than_two_days_is_dropped():
    """Memory stays bounded."""
    state = fold(AlertState(), reader(ANNA))
    remember(state, decide(state, alert(person(50))))
    much_later = NOW + timedelta(days=3)
    remember(state, decide(state, alert(person(51), not_after=much_later), much_later))
    assert list(state.sent) == [person(51)]
    assert (person(50), 0) in state.decided


def test_explains_who_was_not_concerned():
    """The sentences name the rule."""
    state = fold(AlertState(), reader(ANNA, alerts=False), reader(BEN, topics=topics("art")), reader(CEM))
    assert explain_alert(state, alert(), ANNA, NOW).because == ("Does not take alerts.",)
    assert "Declared none" in explain_alert(state, alert(), BEN, NOW).because[0]
    assert explain_alert(state, alert(), CEM, NOW).verdict == "chosen"
    assert "not a registered" in explain_alert(state, alert(), person(9), NOW).because[0]


def test_not_after_of_an_alert():
    """Its expiry, a day by default, never more than five."""
    raised = datetime(2026, 11, 22, tzinfo=UTC)

    def not_after(expires_at=None, timestamp_ms=0):
        return alert_not_after(Sample("AlertRaised", {"raised_at": raised, "expires_at": expires_at}, timestamp_ms))

    assert not_after() == raised + timedelta(days=1)
    assert not_after(raised + timedelta(hours=1)) == raised + timedelta(hours=1)
    assert not_after(raised + timedelta(days=30)) == raised + timedelta(days=5)
    had = raised - timedelta(days=400)
    believed = had + timedelta(milliseconds=AHEAD_MS)
    assert not_after(None, to_ms(had)) == believed + timedelta(days=1), "its clock is ahead"
    assert not_after(raised + timedelta(hours=1), to_ms(had)) == believed + timedelta(hours=1)


def test_registered_without_preferences_gets_no_alert():
    """Consent comes first."""
    state = fold(AlertState(), registered(ANNA), linked(ANNA), verified(ANNA))
    assert decide(state, alert(topics=[]))["not_concerned"] == 1
