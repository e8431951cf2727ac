"""Consent: which events bar which deliveries. Pure folds, used by the applier and by every sink's own follower.

Consumes subscribers, publications, alerts and controls, event by event. State: the set of barred subjects, each a flat
text, so that the same rules serve a table and a dict. Order: that of each topic's partitions; subjects of different
topics never meet. Folding an event twice, or from an older position with the events after it, gives the same set.

Subjects:
    sub:<id>                everything to a subscriber (erased)
    sub:<id>/alerts         alerts to a subscriber
    sub:<id>/nl:<nl>        a newsletter to a subscriber (unsubscribed from it)
    sub:<id>/nl             newsletters to a subscriber, except those of a list (preferences named the list)
    sub:<id>/ch:<channel>   a channel of a subscriber, except at an address that was linked since it was unlinked
    pub:<id>                a publication: items of issues are left out, alerts about it are not sent
    alert:<id>              an alert
    stop:all, stop:ch:<channel>, stop:src:<source_id or newsletter_id>   what an operator or the brake stopped

A stop holds, all others suppress: what is held is parked in the ledger until it is resumed, or not worth sending any more.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from schemas.envelope import HEADER_BYTES
from schemas.records import Event
from sinks.delivery import Delivery

LIST_LIFETIME: Final = timedelta(days=6)
"""How long an exception is kept: a list of wanted newsletters, or the address that a channel was linked to again. It matters
only for deliveries decided before it, and those end within 5 days; explicit unsubscribes, erasures and retractions are kept
for ever."""

STOP: Final = "stop:"
"""What the subjects of stops begin with."""

FOLDED: Final = frozenset(
    {
        "PreferencesChanged", "SubscriberUnsubscribed", "SubscriberErased", "ChannelUnlinked", "ChannelLinked",
        "PublicationRetracted", "AlertCancelled", "ControlChanged",
    }
)  # fmt: skip
"""Events that `consent_changes` looks at."""


@dataclass(frozen=True, slots=True)
class Bar:
    """From here on nothing goes to this subject; with except_for, nothing but these newsletters, or this address."""

    subject: str
    reason: str
    except_for: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Lift:
    """The subject is barred no longer."""

    subject: str


@dataclass(frozen=True, slots=True)
class Spare:
    """If the subject is barred, it is not for this exception; a subject that is not barred stays free."""

    subject: str
    exception: str


Change = Bar | Lift | Spare


@dataclass(frozen=True, slots=True)
class Barred:
    """A barred subject and since when, by the time of its event."""

    reason: str
    since: datetime
    except_for: tuple[str, ...] | None = None

    def holds_for(self, exception: str | None) -> bool:
        """Return whether it bars a delivery whose newsletter, or mark of the address, is this one."""
        return self.except_for is None or exception not in self.except_for


def subjects_of(delivery: Delivery) -> list[tuple[str, str | None]]:
    """Return the subjects that suppress a whole delivery, the strongest reason first, each with what may except it.

    Items of an issue, and the publication that an alert is about, are looked at when it is composed.
    """
    subscriber, address = f"sub:{delivery.subscriber_id}", delivery.request["address"]
    subjects: list[tuple[str, str | None]] = [(subscriber, None)]
    if delivery.source_kind == "newsletter":
        subjects.append((f"{subscriber}/nl:{delivery.newsletter_id}", None))
        subjects.append((f"{subscriber}/nl", delivery.newsletter_id))
    else:
        subjects.append((f"{subscriber}/alerts", None))
        subjects.append((f"alert:{delivery.source_id}", None))
    subjects.append((f"{subscriber}/ch:{delivery.channel}", address_mark(address)))
    return subjects


def address_mark(address: bytes) -> str:
    """Return what tells one encrypted address from another without reading it: the nonce, which is copied from event to event."""
    return address[:HEADER_BYTES].hex()


def stops_of(channel: str, source_id: str) -> tuple[str, ...]:
    """Return the subjects of the stops that hold deliveries of a source on a channel."""
    return f"{STOP}all", f"{STOP}ch:{channel}", f"{STOP}src:{source_id}", f"{STOP}src:{source_of(source_id)}"


def source_of(source_id: str) -> str:
    """Return what the brake stops: the newsletter of a slot (its id has no @), or the alert itself."""
    return source_id.partition("@")[0]


def consent_changes(event: Event) -> list[Change]:
    """Return what an event bars and lifts, in order; nothing for an event that is not about consent."""
    fold = _FOLDS.get(event.name)
    return fold(event.value) if fold else []


def _preferences_changed(value: dict[str, Any]) -> list[Change]:
    subscriber, changes = f"sub:{value['subscriber_id']}", list[Change]()
    newsletters = value["newsletters"]
    if newsletters is not None:
        wanted = tuple(dict.fromkeys(newsletters))
        changes.append(Bar(f"{subscriber}/nl", "unsubscribed", wanted))
        changes += [Lift(f"{subscriber}/nl:{newsletter_id}") for newsletter_id in wanted]
    if value["alerts"] is not None:
        changes.append(Lift(f"{subscriber}/alerts") if value["alerts"] else Bar(f"{subscriber}/alerts", "unsubscribed"))
    return changes


def _unsubscribed(value: dict[str, Any]) -> list[Change]:
    subscriber, kind = f"sub:{value['subscriber_id']}", value["kind"]
    if kind == "newsletter" and value["newsletter_id"]:
        return [Bar(f"{subscriber}/nl:{value['newsletter_id']}", "unsubscribed")]
    if kind == "alerts":
        return [Bar(f"{subscriber}/alerts", "unsubscribed")]
    # "all"; and a kind that is not known yet is taken for the most that it can mean
    return [Bar(f"{subscriber}/nl", "unsubscribed", ()), Bar(f"{subscriber}/alerts", "unsubscribed")]


def _erased(value: dict[str, Any]) -> list[Change]:
    return [Bar(f"sub:{value['subscriber_id']}", "erased")]


def _unlinked(value: dict[str, Any]) -> list[Change]:
    reason = "suppressed_address" if value["reason"] in ("bounced", "complained", "disabled") else "unlinked"
    return [Bar(f"sub:{value['subscriber_id']}/ch:{value['channel']}", reason)]


def _linked(value: dict[str, Any]) -> list[Change]:
    """What was decided before carries the old address and stays barred; for the new one nothing is until it is verified."""
    return [Spare(f"sub:{value['subscriber_id']}/ch:{value['channel']}", address_mark(value["address"]))]


def _retracted(value: dict[str, Any]) -> list[Change]:
    return [Bar(f"pub:{value['publication_id']}", "retracted")]


def _cancelled(value: dict[str, Any]) -> list[Change]:
    return [Bar(f"alert:{value['alert_id']}", "retracted")]


def _control(value: dict[str, Any]) -> list[Change]:
    scope, _, name = value["control_id"].partition("/")
    subject = {"all": f"{STOP}all", "channel": f"{STOP}ch:{name}", "source": f"{STOP}src:{name}"}.get(scope)
    if subject is None:
        return []
    return [Lift(subject) if value["action"] == "resume" else Bar(subject, "stopped")]


_FOLDS: Final[dict[str, Callable[[dict[str, Any]], list[Change]]]] = {
    "PreferencesChanged": _preferences_changed,
    "SubscriberUnsubscribed": _unsubscribed,
    "SubscriberErased": _erased,
    "ChannelUnlinked": _unlinked,
    "ChannelLinked": _linked,
    "PublicationRetracted": _retracted,
    "AlertCancelled": _cancelled,
    "ControlChanged": _control,
}
assert frozenset(_FOLDS) == FOLDED


def merged(before: Change | None, change: Change) -> Change:
    """Return the one change that does what two changes of a subject do, one after the other."""
    if isinstance(change, Spare) and isinstance(before, Bar):
        return Bar(before.subject, before.reason, (change.exception,))
    return before if isinstance(change, Spare) and isinstance(before, Lift) else change


class Bars:
    """The barred subjects in memory. One thread writes; reading one subject needs no lock."""

    def __init__(self, rows: Iterable[tuple[str, Barred]] = ()) -> None:
        self._rows: dict[str, Barred] = {}
        self._lists: dict[str, Barred] = {}  # those with exceptions, oldest first, so that old ones can go
        self._stops: dict[str, Barred] = {}
        for subject, barred in sorted(rows, key=lambda row: row[1].since):
            self._put(subject, barred)

    def __len__(self) -> int:
        return len(self._rows) + len(self._lists) + len(self._stops)

    def _put(self, subject: str, barred: Barred) -> None:
        if subject.startswith(STOP):
            self._stops[subject] = barred
            return
        self._lists.pop(subject, None)
        if barred.except_for:
            self._rows.pop(subject, None)
            self._lists[subject] = barred
        else:
            self._rows[subject] = barred

    def fold(self, event: Event, now: datetime) -> None:
        """Apply an event, and forget exceptions that no living delivery is older than."""
        for change in consent_changes(event):
            subject = change.subject
            if isinstance(change, Bar):
                self._put(subject, Barred(change.reason, event.time, change.except_for))
            elif isinstance(change, Lift):
                self._rows.pop(subject, None)
                self._stops.pop(subject, None)
            elif barred := self._rows.get(subject) or self._lists.get(subject):
                self._put(subject, Barred(barred.reason, event.time, (change.exception,)))
        while self._lists and self._lists[oldest := next(iter(self._lists))].since < now - LIST_LIFETIME:
            del self._lists[oldest]

    def reason_against(self, delivery: Delivery) -> str | None:
        """Return why a delivery must never be sent, or None."""
        return self.first_reason(subjects_of(delivery))

    def first_reason(self, subjects: Iterable[tuple[str, str | None]]) -> str | None:
        """Return the reason of the first of these subjects that is barred, or None."""
        for subject, exception in subjects:
            barred = self._rows.get(subject) or self._lists.get(subject)
            if barred is not None and barred.holds_for(exception):
                return barred.reason
        return None

    def stopped(self, channel: str, source_id: str) -> bool:
        """Return whether deliveries of a source on a channel are held."""
        return bool(self._stops) and any(subject in self._stops for subject in stops_of(channel, source_id))

    def has_stop(self, source: str) -> bool:
        """Return whether a newsletter or an alert is stopped by itself, not with others."""
        return f"{STOP}src:{source}" in self._stops

    def retracted(self, publication_id: str) -> bool:
        """Return whether a publication was retracted."""
        return f"pub:{publication_id}" in self._rows
