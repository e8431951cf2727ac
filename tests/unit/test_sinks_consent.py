"""Consent: what each event bars and lifts, for whom it holds, and that folding again changes nothing."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.names import SKIP_REASONS
from schemas.records import Event
from sinks.consent import (
    LIST_LIFETIME,
    Bar,
    Barred,
    Bars,
    Change,
    Lift,
    Spare,
    address_mark,
    consent_changes,
    merged,
    subjects_of,
)
from sinks.delivery import Delivery
from tests.sinks_samples import delivery

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
S = "11111111-1111-4111-8111-111111111111"


def event(name: str, at: datetime = NOW, **value: Any) -> Event:
    """An event with these fields; those of preferences that are not named are null."""
    if name == "PreferencesChanged":
        value = {"subscriber_id": S, "newsletters": None, "alerts": None, **value}
    return Event(name, value, "", "", "", at, "t", 0, 0, None, None, None)


OLD, NEW = (b"\x01" + bytes([number]) * 40 for number in (1, 2))
"""Two encrypted addresses."""

TABLE: list[tuple[Event, list[Change]]] = [
    (
        event("SubscriberUnsubscribed", subscriber_id=S, kind="newsletter", newsletter_id="daily"),
        [Bar(f"sub:{S}/nl:daily", "unsubscribed")],
    ),
    (
        event("SubscriberUnsubscribed", subscriber_id=S, kind="alerts", newsletter_id=None),
        [Bar(f"sub:{S}/alerts", "unsubscribed")],
    ),
    (
        event("SubscriberUnsubscribed", subscriber_id=S, kind="all", newsletter_id=None),
        [Bar(f"sub:{S}/nl", "unsubscribed", ()), Bar(f"sub:{S}/alerts", "unsubscribed")],
    ),
    (event("SubscriberErased", subscriber_id=S), [Bar(f"sub:{S}", "erased")]),
    (
        event("PreferencesChanged", newsletters=["a", "b"]),
        [Bar(f"sub:{S}/nl", "unsubscribed", ("a", "b")), Lift(f"sub:{S}/nl:a"), Lift(f"sub:{S}/nl:b")],
    ),
    (event("PreferencesChanged", newsletters=[]), [Bar(f"sub:{S}/nl", "unsubscribed", ())]),
    (event("PreferencesChanged", alerts=True), [Lift(f"sub:{S}/alerts")]),
    (event("PreferencesChanged", alerts=False), [Bar(f"sub:{S}/alerts", "unsubscribed")]),
    (event("PreferencesChanged"), []),
    (event("ChannelUnlinked", subscriber_id=S, channel="slack", reason="requested"), [Bar(f"sub:{S}/ch:slack", "unlinked")]),
    (
        event("ChannelUnlinked", subscriber_id=S, channel="email", reason="bounced"),
        [Bar(f"sub:{S}/ch:email", "suppressed_address")],
    ),
    (event("ChannelLinked", subscriber_id=S, channel="slack", address=NEW), [Spare(f"sub:{S}/ch:slack", address_mark(NEW))]),
    (event("ChannelVerified", subscriber_id=S, channel="slack"), []),
    (event("PublicationRetracted", publication_id="p"), [Bar("pub:p", "retracted")]),
    (event("AlertCancelled", alert_id="a"), [Bar("alert:a", "retracted")]),
    (event("ControlChanged", control_id="all", action="stop"), [Bar("stop:all", "stopped")]),
    (event("ControlChanged", control_id="channel/slack", action="stop"), [Bar("stop:ch:slack", "stopped")]),
    (event("ControlChanged", control_id="source/daily@x/y", action="resume"), [Lift("stop:src:daily@x/y")]),
    (event("ControlChanged", control_id="source/daily", action="stop"), [Bar("stop:src:daily", "stopped")]),
    (event("ControlChanged", control_id="canary/daily@x", action="resume"), []),
    (event("ControlChanged", control_id="breaker/slack", action="stop"), []),
    (event("SubscriberRegistered", subscriber_id=S), []),
]


@pytest.mark.parametrize(("one", "changes"), TABLE, ids=lambda x: x.name if isinstance(x, Event) else "")
def test_folds_every_event(one: Event, changes: list[Change]) -> None:
    """One row an event; reasons are those that a skip may have."""
    assert consent_changes(one) == changes
    assert {c.reason for c in changes if isinstance(c, Bar)} <= set(SKIP_REASONS)


def folded(*events: Event) -> Bars:
    """The set after these events."""
    bars = Bars()
    for one in events:
        bars.fold(one, NOW)
    return bars


def newsletter(newsletter_id: str = "daily") -> Delivery:
    """A newsletter's delivery to S."""
    return delivery(S, newsletter_id=newsletter_id)


def alert_to(subscriber: str = S, **fields: Any) -> Delivery:
    """An alert's delivery."""
    return delivery(subscriber, source_kind="alert", source_id="a", newsletter_id=None, **fields)


def test_unsubscribing_from_all_holds_until_preferences_name_it_again() -> None:
    """Alerts that are wanted again do not bring newsletters back, and the other way round."""
    everything = event("SubscriberUnsubscribed", subscriber_id=S, kind="all", newsletter_id=None)
    assert folded(everything).reason_against(newsletter()) == "unsubscribed"
    assert folded(everything).reason_against(alert_to()) == "unsubscribed"
    alerts = folded(everything, event("PreferencesChanged", alerts=True))
    assert (alerts.reason_against(alert_to()), alerts.reason_against(newsletter())) == (None, "unsubscribed")
    daily = folded(everything, event("PreferencesChanged", newsletters=["daily"]))
    assert (daily.reason_against(newsletter()), daily.reason_against(newsletter("weekly"))) == (None, "unsubscribed")
    assert daily.reason_against(alert_to()) == "unsubscribed"


def test_a_list_of_newsletters_bars_all_others() -> None:
    """Whoever takes a newsletter off the list has left it, also for what is on its way."""
    bars = folded(event("PreferencesChanged", newsletters=["weekly"]))
    assert bars.reason_against(newsletter()) == "unsubscribed"
    assert bars.reason_against(newsletter("weekly")) is None
    assert bars.reason_against(alert_to()) is None


def test_a_retracted_publication_bars_no_whole_issue() -> None:
    """An issue goes out without the item; whether one is left is seen when it is composed."""
    bars = folded(event("PublicationRetracted", publication_id="p"))
    assert bars.reason_against(delivery(S, items=[{"publication_id": "p"}])) is None
    assert bars.retracted("p")
    assert not bars.retracted("q")


@pytest.mark.parametrize("control_id", ["all", "channel/email", "source/daily@2026-11-22T09:00Z", "source/daily"])
def test_stops_and_resumes(control_id: str) -> None:
    """A stop of everything, a channel, a slot or a newsletter holds, and suppresses nothing, until it is resumed."""
    stop, resume = (event("ControlChanged", control_id=control_id, action=action) for action in ("stop", "resume"))
    one = newsletter()
    assert folded(stop).stopped(one.channel, one.source_id)
    assert folded(stop).reason_against(one) is None
    assert not folded(stop, resume).stopped(one.channel, one.source_id)
    assert folded(stop).stopped("slack", "weekly@2026-11-22T09:00Z") == (control_id == "all")
    assert folded(stop).stopped("slack", S) == (control_id == "all")


def test_an_address_that_was_unlinked_stays_barred_when_another_is_linked() -> None:
    """What was decided for the old address is on its way still; the new one may be sent to."""
    unlinked, linked = (
        event("ChannelUnlinked", subscriber_id=S, channel="email", reason="requested"),
        event("ChannelLinked", subscriber_id=S, channel="email", address=NEW),
    )
    verified = event("ChannelVerified", subscriber_id=S, channel="email")
    old, new = delivery(S, address=OLD), delivery(S, address=NEW)
    for events in ((unlinked, linked, verified), (unlinked, linked, verified, unlinked, linked, verified)):
        assert [folded(*events).reason_against(one) for one in (old, new)] == ["unlinked", None]
    again = folded(unlinked, linked, verified, unlinked)
    assert [again.reason_against(one) for one in (old, new)] == ["unlinked", "unlinked"]
    assert len(folded(linked, verified)) == 0


def test_two_changes_of_a_subject_are_one() -> None:
    """A batch is written as one row a subject; it must say what the changes say one after the other."""
    bar, spare, lift = Bar("s", "unlinked"), Spare("s", "mark"), Lift("s")
    assert merged(None, spare) == spare
    assert merged(bar, spare) == Bar("s", "unlinked", ("mark",))
    assert merged(Bar("s", "unlinked", ("older",)), spare) == Bar("s", "unlinked", ("mark",))
    assert merged(lift, spare) == lift
    assert merged(spare, bar) == bar
    assert merged(bar, lift) == lift


def test_folding_again_changes_nothing() -> None:
    """The follower may begin at an older offset than the table."""
    events = [row[0] for row in TABLE]
    once, twice = folded(*events), folded(*events, *events)
    for one in (newsletter(), newsletter("a"), newsletter("c"), alert_to()):
        assert once.reason_against(one) == twice.reason_against(one)


def test_starts_from_the_table() -> None:
    """Rows as they are in the ledger's database hold as if their events had been folded."""
    bars = Bars([(f"sub:{S}/nl", Barred("unsubscribed", NOW, ("daily",))), ("alert:a", Barred("retracted", NOW))])
    assert bars.reason_against(newsletter()) is None
    assert bars.reason_against(newsletter("weekly")) == "unsubscribed"
    assert bars.reason_against(alert_to()) == "retracted"


def test_forgets_old_lists_only() -> None:
    """Lists make memory grow with the subscribers; deliveries older than one have all ended after 6 days."""
    old = NOW - LIST_LIFETIME - timedelta(hours=1)
    bars = folded(
        event("PreferencesChanged", old, newsletters=["weekly"]),
        event("SubscriberUnsubscribed", old, subscriber_id=S, kind="newsletter", newsletter_id="monthly"),
    )
    assert len(bars) == 1
    assert bars.reason_against(newsletter("monthly")) == "unsubscribed"
    assert len(folded(event("PreferencesChanged", old, newsletters=[]))) == 1


def test_names_the_strongest_subject_first() -> None:
    """Who was erased is reported as erased, whatever else bars the delivery."""
    assert subjects_of(newsletter())[0] == (f"sub:{S}", None)
    bars = folded(*(row[0] for row in TABLE))
    assert bars.reason_against(newsletter()) == "erased"
