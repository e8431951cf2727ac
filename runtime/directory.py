"""The directory of subscribers: makes their events, keeps their keys, and finds who is known already.

Produces: subscribers (all its events but the edge's own unsubscribe). State: the keys database. Order: per subscriber,
that of the calls.

Registering a batch goes in numbered steps, so that after a crash it can simply be done again:
1. find who is known (by the mark of step 5, or by an address); they are left alone, so that a repeated import never
   takes back an unsubscribe;
2. make the data keys;
3. index the addresses, so that somebody without a given id keeps the id chosen now;
4. produce the events, with ids that follow from the subscriber, and wait for all reports;
5. mark them as registered.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Self

import orjson
import psycopg

from core import checks
from core.errors import EventRefused, InputError, KeyDestroyed, Unavailable
from core.ids import event_id
from runtime.clock import Clock, SystemClock
from runtime.documents import event_value
from runtime.keys import KeyStore
from runtime.postgres import connect
from runtime.producer import Producer
from runtime.reach import require_kafka
from runtime.settings import Settings
from schemas.codec import Clear, Codec
from schemas.records import Record
from schemas.registry import RegistrySource
from schemas.topics import Topics

SOURCE: Final = "/newswire/directory"
BATCH: Final = 1_000
"""Subscribers a round: some 5,000 records, a second of work."""

_MARK: Final = "registered"
"""What stands in the channel column of the index for step 5."""
_LOCK: Final = 0x73756273
"""Advisory lock of registering ('subs'): two imports at once wait for each other, so no address gets two ids."""
_PREFERENCES: Final = (
    "topics", "urgent_channels", "newsletters", "alerts", "quiet_hours", "paused_until", "local_minute", "days",
    "alerts_a_day",
)  # fmt: skip
"""Fields of a subscriber's document that go into PreferencesChanged as they are."""

_FIELDS: Final = {"subscriber_id", "name", "time_zone", "language", "tags", "channels", "verified", *_PREFERENCES}

_KNOWN = """
select channel, hash, subject from keys.address_index
join unnest(%s::text[], %s::bytea[]) as asked (channel, hash) using (channel, hash) order by subject
"""


Place = tuple[str, bytes]
"""(channel, keyed hash of an address): where the index has it."""


class Draft(NamedTuple):
    """An event to be: its name, its value, and its id (None: a random one, for what is a new act each time)."""

    name: str
    value: dict[str, Any]
    id: str | None


@dataclass(frozen=True)
class Profile:
    """A subscriber's document, read and checked. addresses are plaintexts in the order of preference."""

    subscriber_id: str | None
    registered: Mapping[str, Any]
    preferences: Mapping[str, Any]
    addresses: Mapping[str, str] = field(repr=False)
    verified: bool
    name: str | None = field(repr=False)


class Registration(NamedTuple):
    """What came of one profile."""

    subscriber_id: str
    new: bool


def read_profile(document: Mapping[str, Any]) -> Profile:
    """Return the profile of a document in the form of `newswire subscribe --file`; InputError names the field."""
    unknown = sorted(set(document) - _FIELDS)
    if unknown:
        raise InputError(f"{unknown[0]}: there is no such field; known are {', '.join(sorted(_FIELDS))}")
    for required, example in (("time_zone", "Europe/Berlin"), ("language", "en")):
        if not document.get(required):
            raise InputError(f"{required}: is missing; expected one such as {example}")
    subscriber_id = document.get("subscriber_id")
    if subscriber_id is not None:
        subscriber_id = read_subscriber_id(subscriber_id)
    name, verified = document.get("name"), document.get("verified", True)
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise InputError("name: expected a text that is not empty, or no name at all")
    if not isinstance(verified, bool):
        raise InputError("verified: expected true or false")
    given = document.get("channels", {})
    if not isinstance(given, dict):
        raise InputError('channels: expected an object such as {"email": "reader@example.org"}, most wanted first')
    profile = Profile(
        subscriber_id,
        {"time_zone": document["time_zone"], "language": document["language"], "tags": document.get("tags") or []},
        {"channels": list(given), **{name: document[name] for name in _PREFERENCES if name in document}},
        {channel: read_address(channel, address) for channel, address in given.items()},
        verified,
        name,
    )
    _check(profile)
    return profile


def _check(profile: Profile) -> None:
    """Raise InputError when an event made of the profile would break a rule, naming the field of the document."""
    nobody = profile.subscriber_id or str(uuid.UUID(int=0))
    at = datetime(2000, 1, 1, tzinfo=UTC)
    try:
        event_value("SubscriberRegistered", {"subscriber_id": nobody, "registered_at": at, **profile.registered})
        event_value("PreferencesChanged", {"subscriber_id": nobody, "changed_at": at, **profile.preferences})
    except EventRefused as error:
        raise InputError(f"{error.field}: {error.reason}") from None


def read_subscriber_id(given: Any) -> str:
    """Return a subscriber_id as it is written everywhere; InputError when it is no UUID."""
    try:
        return str(uuid.UUID(given))
    except (ValueError, AttributeError, TypeError):
        raise InputError(f"{given!r} is no subscriber_id: expected a UUID such as 6f1d4f0e-4c0b-4a53-9f0f-6f9e2a6f3a11") from None


def read_address(channel: str, given: Any) -> str:
    """Return the plaintext of an address; InputError, which does not repeat it, names the channel and what is expected."""
    problem = checks.channel(channel)
    if problem is not None:
        raise InputError(f"channels: {channel!r} {problem}")
    if channel == "webhook" and isinstance(given, dict):
        text = orjson.dumps(given).decode()
    else:
        text = given.strip() if isinstance(given, str) else ""
    problem = checks.address(channel, text)
    if problem is not None:
        raise InputError(f"channels.{channel}: {problem}")
    return text


def registration_drafts(profile: Profile, subscriber_id: str, at: datetime) -> list[Draft]:
    """Return the events of a registration in order: registered, each address and its verification, preferences.

    Their ids follow from the subscriber alone, never from an address: a hash of one in an id could be guessed.
    """

    def draft(event: str, time_field: str, /, **value: Any) -> Draft:
        full = {"subscriber_id": subscriber_id, **value, time_field: at}
        return Draft(event, full, event_id("registration", subscriber_id, event, value.get("channel", "")))

    person = {} if profile.name is None else {"name": Clear(profile.name)}
    drafts = [draft("SubscriberRegistered", "registered_at", **profile.registered, **person)]
    for channel, address in profile.addresses.items():
        drafts.append(draft("ChannelLinked", "linked_at", channel=channel, address=Clear(address)))
        if profile.verified:
            drafts.append(draft("ChannelVerified", "verified_at", channel=channel, method="imported"))
    wanted = event_value("PreferencesChanged", {"subscriber_id": subscriber_id, "changed_at": at, **profile.preferences})
    drafts.append(Draft("PreferencesChanged", wanted, event_id("registration", subscriber_id, "PreferencesChanged", "")))
    return drafts


class Directory:
    """Writes subscriber events; synchronous, for the CLI and for threads. Close it."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        settings.require("keys_database_url", "receipt_key")
        require_kafka(settings.kafka_bootstrap_servers)
        self._settings, self._clock = settings, clock or SystemClock()
        self._topics = Topics(settings.topic_prefix, settings.shards)
        self._keys = KeyStore(settings, clock=self._clock)
        self._codec = Codec(self._topics, RegistrySource(settings.schema_registry_url), self._keys)
        self._producer = Producer(settings, f"{settings.topic_prefix}.directory")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the producer and the connections."""
        self._producer.close()
        self._keys.close()

    def register(self, profiles: Sequence[Profile]) -> list[Registration]:
        """Register at most BATCH profiles; return for each its subscriber_id and whether it is new.

        InputError when a given id belongs to somebody who was erased. Unavailable, ProduceFailed: do it again.
        """
        at = self._clock.now()
        with self._database() as connection:
            connection.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
            answers, fresh = self._plan(connection, profiles)
            self._keys.create(list(fresh))  # step 2
            addresses = [(c, a, subscriber_id) for subscriber_id, p in fresh.items() for c, a in p.addresses.items()]
            self._keys.index_addresses(addresses)  # step 3
            records = [
                self._record(draft, at)
                for subscriber_id, p in fresh.items()
                for draft in registration_drafts(p, subscriber_id, at)
            ]
            self._producer.send_sync(records)  # step 4
            self._keys.index_addresses([(_MARK, subscriber_id, subscriber_id) for subscriber_id in fresh])  # step 5
        return answers

    def _plan(self, connection: psycopg.Connection, profiles: Sequence[Profile]) -> tuple[list[Registration], dict[str, Profile]]:
        """Step 1: return the answer for each profile, and those to register by their subscriber_id."""
        places = [[self._place(c, a) for c, a in p.addresses.items()] if p.subscriber_id is None else [] for p in profiles]
        by_address = self._lookup(connection, {place for some in places for place in some})
        ids: list[str] = []
        for profile, some in zip(profiles, places, strict=True):
            found = (by_address[place] for place in some if place in by_address)
            ids.append(profile.subscriber_id or next(found, None) or str(uuid.uuid4()))
            by_address.update(dict.fromkeys(some, ids[-1]))
        marks = self._lookup(connection, {self._place(_MARK, subscriber_id) for subscriber_id in ids})
        marked = set(marks.values())
        fresh: dict[str, Profile] = {}
        answers: list[Registration] = []
        for subscriber_id, profile in zip(ids, profiles, strict=True):
            new = subscriber_id not in marked and subscriber_id not in fresh
            if new:
                fresh[subscriber_id] = profile
            answers.append(Registration(subscriber_id, new))
        return answers, fresh

    def _place(self, channel: str, address: str) -> Place:
        return channel, self._keys.address_hash(channel, address)

    def _lookup(self, connection: psycopg.Connection, places: set[Place]) -> dict[Place, str]:
        if not places:
            return {}
        rows = connection.execute(_KNOWN, [[c for c, _ in places], [h for _, h in places]]).fetchall()
        return {(channel, bytes(hashed)): subject for channel, hashed, subject in reversed(rows)}

    def prefer(self, subscriber_id: str, changes: Mapping[str, Any]) -> None:
        """Change preferences: what is named replaces the field, the rest stays. InputError names a wrong field."""
        self._must_exist(subscriber_id)
        at = self._clock.now()
        value = event_value("PreferencesChanged", {"subscriber_id": subscriber_id, "changed_at": at, **changes})
        self._send([Draft("PreferencesChanged", value, None)], at)

    def link(self, subscriber_id: str, channel: str, given: Any, *, verified: bool) -> None:
        """Give a subscriber an address on a channel, in place of any earlier one there; not used before it is verified."""
        address = read_address(channel, given)
        self._must_exist(subscriber_id)
        at = self._clock.now()
        common = {"subscriber_id": subscriber_id, "channel": channel}
        drafts = [Draft("ChannelLinked", {**common, "address": Clear(address), "linked_at": at}, None)]
        if verified:
            drafts.append(Draft("ChannelVerified", {**common, "method": "operator", "verified_at": at}, None))
        self._send(drafts, at)
        self._forget_addresses(subscriber_id, channel)
        self._keys.index_address(channel, address, subscriber_id)

    def unlink(self, subscriber_id: str, channel: str) -> None:
        """Take a subscriber's address on a channel out of use."""
        self._must_exist(subscriber_id)
        at = self._clock.now()
        value = {"subscriber_id": subscriber_id, "channel": channel, "reason": "requested", "unlinked_at": at}
        self._send([Draft("ChannelUnlinked", event_value("ChannelUnlinked", value), None)], at)
        self._forget_addresses(subscriber_id, channel)

    def unsubscribe(self, subscriber_id: str, kind: str, newsletter_id: str | None) -> None:
        """Unsubscribe from a newsletter, from alerts, or from all."""
        self._must_exist(subscriber_id)
        at = self._clock.now()
        value = {
            "subscriber_id": subscriber_id,
            "newsletter_id": newsletter_id,
            "kind": kind,
            "via": "cli",
            "unsubscribed_at": at,
        }
        self._send([Draft("SubscriberUnsubscribed", event_value("SubscriberUnsubscribed", value), None)], at)

    def _must_exist(self, subscriber_id: str) -> None:
        with self._database() as connection:
            row = connection.execute("select destroyed_at from keys.subject_keys where subject = %s", [subscriber_id]).fetchone()
        if row is None:
            raise InputError(f"subscriber: there is none with the id {subscriber_id}; `newswire subscribe` makes one")
        if row[0] is not None:
            raise InputError(f"subscriber {subscriber_id} was erased on {row[0]:%Y-%m-%d}; nothing can be changed any more")

    def _forget_addresses(self, subscriber_id: str, channel: str) -> None:
        with self._database() as connection:
            connection.execute("delete from keys.address_index where subject = %s and channel = %s", [subscriber_id, channel])

    def _send(self, drafts: Sequence[Draft], at: datetime) -> None:
        self._producer.send_sync([self._record(draft, at) for draft in drafts])

    def _record(self, draft: Draft, at: datetime) -> Record:
        subscriber_id = draft.value["subscriber_id"]
        try:
            return self._codec.encode(
                self._topics.subscribers, draft.name, draft.value, key=subscriber_id, time=at, id=draft.id, source=SOURCE
            )
        except KeyDestroyed:
            raise InputError(f"subscriber {subscriber_id} was erased; an erased subscriber_id is not used again") from None

    @contextmanager
    def _database(self) -> Iterator[psycopg.Connection]:
        """Give a connection to the keys database in a transaction of its own."""
        try:
            with connect(self._settings.keys_database_url) as connection:
                yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise Unavailable(f"the keys database does not answer ({type(error).__name__})") from None
