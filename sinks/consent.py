"""Consent: which events bar which deliveries. Pure folds, used by the applier and by every sink's own follower.

Consumes subscribers, publications, alerts and controls, event by event. State: the set of barred subjects, each a flat
text, so that the same rules serve a table and a dict. Order: that of each topic's partitions; subjects of different
topics never meet. Folding an event twice, or from an older position with the events after it, gives the same set.

Subjects:
    sub:<id>                everything to a subscriber (erased)
    sub:<id>/alerts         alerts to a subscriber
    sub:<id>/nl:<nl>        a newsletter to a subscriber (unsubscribed from it)
    sub:<id>/nl             newsletters to a subscriber, except those of a list (preferences named the list)
    sub:<id>/ch:<channel>   a channel of a subscriber
    pub:<id>                a publication: items of issues are left out, alerts about it are not sent
    alert:<id>              an alert
    stop:all, stop:ch:<channel>, stop:src:<source_id>   what an operator stopped
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from schemas.records import Event
from sinks.delivery import Delivery

LIST_LIFETIME: Final = timedelta(days=6)
"""How long a list of wanted newsletters is kept. It matters only for deliveries decided before it, and those end within
5 days; explicit unsubscribes, erasures and retractions are kept for ever."""

FOLDED: Final = frozenset(
    {
        "PreferencesChanged", "SubscriberUnsubscribed", "SubscriberErased", "ChannelUnlinked", "ChannelVerified",
        "PublicationRetracted", "AlertCancelled", "ControlChanged",
    }
)  # fmt: skip
"""Events that `consent_changes` looks at."""


@dataclass(frozen=True, slots=True)
class Bar:
    """From here on nothing goes to this subject; with except_for, nothing but these newsletters."""

    subject: str
    reason: str
    except_for: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Lift:
    """The subject is barred no longer."""

    subject: str


Change = Bar | Lift


@dataclass(frozen=True, slots=True)
class Barred:
    """A barred subject and since when, by the time of its event."""

    reason: str
    since: datetime
    except_for: tuple[str, ...] | None = None

    def holds_for(self, newsletter_id: str | None) -> bool:
        """Return whether it bars a delivery of this newsletter (None: an alert)."""
        return self.except_for is None or newsletter_id not in self.except_for


def subjects_of(delivery: Delivery) -> list[str]:
    """Return the subjects that bar a whole delivery, the strongest reason first. Items of an issue are looked at apart."""
    subscriber = f"sub:{delivery.subscriber_id}"
    subjects = [subscriber]
    if delivery.source_kind == "newsletter":
        subjects += [f"{subscriber}/nl:{delivery.newsletter_id}", f"{subscriber}/nl"]
    else:
        subjects += [f"{subscriber}/alerts", f"alert:{delivery.source_id}"]
        subjects += [f"pub:{publication_id}" for publication_id in delivery.publication_ids]
    subjects += [
        f"{subscriber}/ch:{delivery.channel}",
        "stop:all",
        f"stop:ch:{delivery.channel}",
        f"stop:src:{delivery.source_id}",
    ]
    return subjects


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


def _verified(value: dict[str, Any]) -> list[Change]:
    return [Lift(f"sub:{value['subscriber_id']}/ch:{value['channel']}")]


def _retracted(value: dict[str, Any]) -> list[Change]:
    return [Bar(f"pub:{value['publication_id']}", "retracted")]


def _cancelled(value: dict[str, Any]) -> list[Change]:
    return [Bar(f"alert:{value['alert_id']}", "retracted")]


def _control(value: dict[str, Any]) -> list[Change]:
    scope, _, name = value["control_id"].partition("/")
    subject = {"all": "stop:all", "channel": f"stop:ch:{name}", "source": f"stop:src:{name}"}.get(scope)
    if subject is None:
        return []
    return [Lift(subject) if value["action"] == "resume" else Bar(subject, "stopped")]


_FOLDS: Final[dict[str, Callable[[dict[str, Any]], list[Change]]]] = {
    "PreferencesChanged": _preferences_changed,
    "SubscriberUnsubscribed": _unsubscribed,
    "SubscriberErased": _erased,
    "ChannelUnlinked": _unlinked,
    "ChannelVerified": _verified,
    "PublicationRetracted": _retracted,
    "AlertCancelled": _cancelled,
    "ControlChanged": _control,
}
assert frozenset(_FOLDS) == FOLDED


class Bars:
    """The barred subjects in memory. One thread writes; reading one subject needs no lock."""

    def __init__(self, rows: Iterable[tuple[str, Barred]] = ()) -> None:
        self._rows: dict[str, Barred] = {}
        self._lists: dict[str, Barred] = {}  # sub:<id>/nl with a list, oldest first, so that old ones can go
        for subject, barred in sorted(rows, key=lambda row: row[1].since):
            self._put(subject, barred)

    def __len__(self) -> int:
        return len(self._rows) + len(self._lists)

    def _put(self, subject: str, barred: Barred) -> None:
        self._lists.pop(subject, None)
        if barred.except_for:
            self._rows.pop(subject, None)
            self._lists[subject] = barred
        else:
            self._rows[subject] = barred

    def fold(self, event: Event, now: datetime) -> None:
        """Apply an event, and forget lists of newsletters that no living delivery is older than."""
        for change in consent_changes(event):
            if isinstance(change, Bar):
                self._put(change.subject, Barred(change.reason, event.time, change.except_for))
            else:
                self._rows.pop(change.subject, None)
        while self._lists and self._lists[oldest := next(iter(self._lists))].since < now - LIST_LIFETIME:
            del self._lists[oldest]

    def reason_against(self, delivery: Delivery) -> str | None:
        """Return why a delivery must not be sent, or None."""
        for subject in subjects_of(delivery):
            barred = self._rows.get(subject) or self._lists.get(subject)
            if barred is not None and barred.holds_for(delivery.newsletter_id):
                return barred.reason
        return None

    def retracted(self, publication_id: str) -> bool:
        """Return whether a publication was retracted."""
        return f"pub:{publication_id}" in self._rows
