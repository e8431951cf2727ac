"""The commands for people, against a real broker, registry and database."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from core.names import CHANNELS
from runtime.directory import BATCH, read_profile
from runtime.kafka import ensure_first_offsets
from schemas.records import Event
from tests.fix_edge import World, world_of
from tests.fix_stack import Stack

pytestmark = pytest.mark.stack

READ_MODEL = """
create schema if not exists api;
create table if not exists api.publications (publication_id text, revision int, title text, state text, quality float8,
    topics jsonb, content_partition int, content_offset bigint);
create table if not exists api.deliveries (delivery_id text, source_id text, channel text, state text);
grant usage on schema api to public; grant select on all tables in schema api to public;
"""
"""The columns of the views that the commands read."""


@pytest.fixture(scope="module")
def world(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_of(stack, tmp_path_factory.mktemp("cli")) as made:
        yield made


@pytest.fixture
def read_model(world: World) -> Iterator[psycopg.Connection[Any]]:
    """The read models' columns as plain tables; gone after the test."""
    server = world.settings.owner_database_url
    name = world.settings.topic_prefix
    with psycopg.connect(server, dbname=name, autocommit=True) as connection:
        connection.execute(READ_MODEL)
        yield connection
        connection.execute("drop table api.publications, api.deliveries")


def publication(**fields: Any) -> dict[str, Any]:
    return {
        "publication_id": str(uuid.uuid4()),
        "revision": 1,
        "content_type": "article",
        "title": "A paper",
        "summary": "On things.",
        "url": "https://example.org/p",
        "authors": ["Ada Lovelace"],
        "topics": {"hep-ph": 1.0},
        "language": "en",
        "published_at": "2026-11-21T08:30:00.123456Z",
        **fields,
    }


def person(**fields: Any) -> dict[str, Any]:
    mail = f"{uuid.uuid4().hex}@example.org"
    return {
        "time_zone": "Europe/Berlin",
        "language": "en",
        "topics": {"hep-ph": 1.0},
        "newsletters": ["daily"],
        "channels": {"email": mail},
        **fields,
    }


def lines(*documents: dict[str, Any]) -> str:
    return "\n".join(json.dumps(document) for document in documents)


def of(world: World, subscriber_id: str) -> list[Event]:
    return world.events(world.topics.subscribers, subscriber_id)


def project(connection: psycopg.Connection[Any], event: Event, state: str = "approved") -> None:
    """Do what the projection does with a submission."""
    value = event.value
    connection.execute(
        "insert into api.publications values (%s, %s, %s, %s, %s, %s, %s, %s)",
        [event.key, value["revision"], value["title"], state, 0.95, json.dumps({"hep-ph": 1.0}), event.partition, event.offset],
    )


def test_publishes_what_is_new_and_refuses_other_content(world: World, read_model: psycopg.Connection[Any]) -> None:
    """Same content is unchanged, other content names its field, a higher revision is published, a lower one refused."""
    first = publication()
    assert world.run("publish", "-", given=lines(first)).rows == [{"published": 1, "unchanged": 0}]
    (event,) = world.events(world.topics.publications, first["publication_id"])
    project(read_model, event)
    assert world.run("publish", "-", given=lines(first, publication())).rows == [{"published": 1, "unchanged": 1}]
    refused = world.run("publish", "-", given=lines({**first, "title": "Another"}))
    assert refused.code == 2
    assert "title" in refused.error
    assert "raise revision" in refused.error
    assert world.run("publish", "-", given=lines({**first, "title": "Another", "revision": 2})).rows[0]["published"] == 1
    revised = world.events(world.topics.publications, first["publication_id"])[-1]
    read_model.execute("delete from api.publications")
    project(read_model, revised)
    lower = world.run("publish", "-", given=lines(first))
    assert (lower.code, "revision: 1 is lower than 2" in lower.error) == (2, True)


def test_publishes_all_or_nothing(world: World) -> None:
    """One wrong line, and nothing of the file is written; line and field are named."""
    good, bad = publication(), publication(url="nowhere")
    answer = world.run("publish", "-", given=lines(good, bad))
    assert answer.code == 2
    assert "line 2: url" in answer.error
    assert answer.rows[0]["kind"] == "InputError"
    assert world.events(world.topics.publications, good["publication_id"]) == []


def test_the_same_publication_twice_in_a_file(world: World) -> None:
    """It is written once; with other content it is refused."""
    one = publication()
    assert world.run("publish", "-", given=lines(one, one)).rows == [{"published": 1, "unchanged": 1}]
    assert world.run("publish", "-", given=lines(one, {**one, "summary": "x"})).code == 2


def test_publishes_without_a_database(world: World) -> None:
    """Approval refuses duplicates anyway; a person is told that nothing was compared."""
    answer = world.run("publish", "-", given=lines(publication()), human=True)
    assert answer.code == 0
    assert "nothing was compared" in answer.text


def test_retracts(world: World, read_model: psycopg.Connection[Any]) -> None:
    """The event names who and why; a second time writes nothing, and neither does an id that is none or unknown."""
    submitted = publication()
    one = submitted["publication_id"]
    assert world.run("publish", "-", given=lines(submitted)).code == 0
    assert world.run("retract", one.upper(), "--reason", "wrong data").rows[0]["changed"]
    again = world.run("retract", one, "--reason", "wrong data", human=True)
    assert "retracted before" in again.text
    assert f"newswire recalls {one}" in again.text
    first, event = world.events(world.topics.publications, one)
    assert (event.name, event.value["reason"], event.value["retracted_by"]) == ("PublicationRetracted", "wrong data", "cli")
    project(read_model, first, state="retracted")
    assert world.run("retract", one, "--reason", "x").rows[0]["changed"] is False
    assert "publication_id" in world.run("retract", "7", "--reason", "x").error
    unknown = str(uuid.uuid4())
    assert f"none with the id {unknown}" in world.run("retract", unknown, "--reason", "x").error
    assert world.events(world.topics.publications, unknown) == []


def test_raises_and_cancels_alerts(world: World) -> None:
    """From options and from a file."""
    answer = world.run(
        "alert", "--title", "Now", "--body", "Text", "--priority", "critical", "--topics", "a,b:0.5", "--quality", "0.95"
    )
    alert_id = answer.rows[0]["alert_id"]
    (event,) = world.events(world.topics.alerts, alert_id)
    assert event.value["topics"] == [{"topic": "a", "weight": 1.0}, {"topic": "b", "weight": 0.5}]
    document = {"title": "x", "body": "y", "quality": 1}
    raised = world.run("alert", "-", given=lines(document, document)).rows
    assert len({row["alert_id"] for row in raised if row["raised"]}) == 2
    assert world.run("alert-cancel", alert_id, "--reason", "false alarm").code == 0
    assert world.events(world.topics.alerts, alert_id)[-1].name == "AlertCancelled"
    unknown = str(uuid.uuid4())
    assert f"no alert {unknown} was raised" in world.run("alert-cancel", unknown, "--reason", "x").error
    assert "quality" in world.run("alert", "--title", "x", "--quality", "7").error
    past = world.run("alert", "--title", "x", "--quality", "0.95", "--expires-at", "2020-01-01T00:00:00Z")
    assert "expires_at" in past.error
    assert "such as 2026-11-22T18:00:00Z" in world.run("alert", "--title", "x", "--expires-at", "yesterday").error
    assert "title" in world.run("alert").error


def test_the_same_alert_again_changes_nothing_and_another_one_is_refused(world: World) -> None:
    """By options at another time as in a file, under one alert_id; what differs is named, and nothing more is written."""
    alert_id = str(uuid.uuid4())
    words = ("alert", "--alert-id", alert_id, "--quality", "0.95", "--topics", "a:0.3", "--title")
    assert [world.run(*words, "Now").rows[0]["raised"] for _ in range(2)] == [True, False]
    assert "raised before with the same content" in world.run(*words, "Now", human=True).text
    document = {"alert_id": alert_id, "title": "Now", "body": "", "quality": 0.95, "topics": {"a": 0.3}}
    assert world.run("alert", "-", given=lines(document, document)).rows[0]["raised"] is False
    other = world.run(*words, "Later")
    assert (other.code, f"title: alert {alert_id} was raised with another one" in other.error) == (2, True)
    assert len(world.events(world.topics.alerts, alert_id)) == 1
    fresh = {**document, "alert_id": str(uuid.uuid4())}
    assert "line 2: priority" in world.run("alert", "-", given=lines(fresh, {**fresh, "priority": "high"})).error
    assert world.events(world.topics.alerts, fresh["alert_id"]) == []


def test_an_alert_that_would_reach_nobody_is_refused(world: World, read_model: psycopg.Connection[Any]) -> None:
    """Without a quality above the gate, its own or its publication's, and with a publication that nobody knows."""
    before = len(world.events(world.topics.alerts))
    missing = world.run("alert", "--title", "x", "--priority", "high")
    assert missing.code == 2
    assert "would reach nobody" in missing.error
    assert "--quality 0.95" in missing.error
    assert "--publication" in missing.error
    assert "line 2: quality" in world.run(
        "alert", "-", given=lines({"title": "x", "body": "", "quality": 0.95}, {"title": "y", "body": ""})
    ).error  # fmt: skip
    assert "0.9 is too low" in world.run("alert", "--title", "x", "--quality", "0.9").error
    assert "there is no publication" in world.run("alert", "--title", "x", "--publication", str(uuid.uuid4())).error
    one = publication()
    world.run("publish", "-", given=lines(one))
    assert "not scored yet" in world.run("alert", "--title", "x", "--publication", one["publication_id"]).error
    assert len(world.events(world.topics.alerts)) == before
    project(read_model, world.events(world.topics.publications, one["publication_id"])[0])
    assert world.run("alert", "--title", "x", "--publication", one["publication_id"]).code == 0


def test_defines_newsletters_by_revision(world: World) -> None:
    """Left out, the revision follows from what is known; the same definition changes nothing; another one is refused."""
    base = {"newsletter_id": "weekly", "name": "Weekly", "from_address": "w@example.org", "postal_address": "1 Street"}
    define = lambda **fields: world.run("newsletter", "define", "-", given=json.dumps({**base, **fields}))  # noqa: E731
    assert define().rows == [{"newsletter_id": "weekly", "revision": 1, "changed": True}]
    assert define().rows == [{"newsletter_id": "weekly", "revision": 1, "changed": False}]
    assert define(name="Weekly 2").rows == [{"newsletter_id": "weekly", "revision": 2, "changed": True}]
    assert "name: revision 2" in define(name="Weekly 3", revision=2).error
    assert "revision: revision 2" in define(revision=1).error
    assert "from_address" in define(from_address="nobody").error
    assert "days" in define(days=[8]).error
    listed = world.run("newsletter", "list").rows
    assert [(row["newsletter_id"], row["revision"], row["name"]) for row in listed] == [("weekly", 2, "Weekly 2")]


def test_stops_and_resumes(world: World) -> None:
    """Scopes are checked; the event says who and why."""
    assert world.run("stop", "channel", "slack", "--reason", "moving").rows == [{"control_id": "channel/slack", "action": "stop"}]
    assert world.run("resume", "channel", "slack", "--reason", "moved").code == 0
    assert [e.value["action"] for e in world.events(world.topics.controls, "channel/slack")] == ["stop", "resume"]
    assert world.run("stop", "all", "--reason", "x").rows[0]["control_id"] == "all"
    assert world.run("resume", "all", "--reason", "x").code == 0
    assert "channel: 'fax'" in world.run("stop", "channel", "fax", "--reason", "x").error
    assert world.run("stop", "all", "slack", "--reason", "x").code == 2


def test_stops_a_source_that_exists_and_lists_what_is_stopped(world: World) -> None:
    """A newsletter, a slot of it or an alert; a typing error is refused, because it would stop nothing."""
    newsletter = f"stopped-{uuid.uuid4().hex[:6]}"
    definition = {"newsletter_id": newsletter, "name": "N", "from_address": "n@example.org", "postal_address": "1 Street"}
    assert world.run("newsletter", "define", "-", given=json.dumps(definition)).code == 0
    alert = str(uuid.uuid4())
    for source in (newsletter, f"{newsletter}@2026-11-22T09:00Z", alert):
        assert world.run("stop", "source", source, "--reason", "wrong data").rows[0]["control_id"] == f"source/{source}"
    listed = {row["control_id"]: row for row in world.run("stops").rows}
    assert {f"source/{newsletter}", f"source/{newsletter}@2026-11-22T09:00Z", f"source/{alert}"} <= listed.keys()
    assert (listed[f"source/{alert}"]["reason"], listed[f"source/{alert}"]["changed_by"]) == ("wrong data", "cli")
    for source in (newsletter, f"{newsletter}@2026-11-22T09:00Z", alert):
        assert world.run("resume", "source", source, "--reason", "mended").code == 0
    assert not listed.keys() & {row["control_id"] for row in world.run("stops").rows}
    refused = world.run("stop", "source", newsletter[:-1], "--reason", "wrong data")
    assert refused.code != 0
    assert newsletter in refused.error


def test_subscribes_by_options_and_finds_by_address(world: World) -> None:
    """The same address is the same person, however it is written; addresses and names are encrypted in the log."""
    mail = f"Ada.{uuid.uuid4().hex[:6]}@Example.org"
    words = ("--name", "Ada", "--time-zone", "Asia/Tokyo", "--topics", "hep-ph:0.5", "--newsletters", "daily", "--alerts")
    first = world.run("subscribe", "--email", mail, "--slack", "C024BE91L", "--channels", "slack,email", *words).rows[0]
    assert first["new"]
    again = world.run("subscribe", "--email", mail.lower()).rows[0]
    assert again == {"subscriber_id": first["subscriber_id"], "new": False}
    events = of(world, first["subscriber_id"])
    assert [event.name for event in events] == [
        "SubscriberRegistered", "ChannelLinked", "ChannelVerified", "ChannelLinked", "ChannelVerified", "PreferencesChanged",
    ]  # fmt: skip
    preferences = events[-1].value
    assert (preferences["channels"], preferences["newsletters"], preferences["alerts"]) == (["slack", "email"], ["daily"], True)
    with world.keys() as keys:
        assert keys.decrypt(first["subscriber_id"], "address.slack", events[1].value["address"]) == b"C024BE91L"
        assert keys.decrypt(first["subscriber_id"], "address.email", events[3].value["address"]) == mail.encode()
        assert keys.decrypt(first["subscriber_id"], "profile.name", events[0].value["name"]) == b"Ada"


def test_says_what_a_registration_came_to(world: World) -> None:
    """The zone and the newsletters that count, a newsletter that nobody defined, and that somebody known stays as they are."""
    world.define_newsletter()
    mail = ("--email", f"{uuid.uuid4().hex}@example.org")
    new = world.run("subscribe", *mail, "--time-zone", "Asia/Tokyo", "--newsletters", "daily,dialy").rows[0]
    assert (new["time_zone"], new["newsletters"], new["channels"]) == ("Asia/Tokyo", ["daily", "dialy"], ["email"])
    assert new["unknown_newsletters"] == ["dialy"]
    known = world.run("subscribe", *mail, "--time-zone", "Europe/London", human=True).text
    assert "left unchanged" in known
    assert "newswire prefer" in known
    assert (
        "There is no newsletter 'dialy'" in world.run("prefer", new["subscriber_id"], "--newsletters", "dialy", human=True).text
    )
    assert "unknown_newsletters" not in world.run("prefer", new["subscriber_id"], "--newsletters", "daily").rows[0]
    left = world.run("unsubscribe", new["subscriber_id"], "--newsletter", "dialy").rows[0]
    assert left["unknown_newsletters"] == ["dialy"]
    one = person(newsletters=["dialy"])
    assert world.run("subscribe", "--file", "-", given=lines(one)).rows[0]["unknown_newsletters"] == ["dialy"]


def test_says_that_a_group_without_members_is_assigned_by_hand(world: World) -> None:
    """The projections keep offsets in groups that nobody joins: they are neither empty nor short of members."""
    group = f"{world.settings.topic_prefix}.projection.test"
    assert ensure_first_offsets(world.settings, group, [world.topics.ticks])
    (row,) = world.run("lag", "projection.test").rows
    assert (row["state"], row["members"]) == ("assigned by hand", None)


def test_makes_a_secret_for_a_webhook(world: World) -> None:
    """It is printed once, so that the receiver can be told."""
    row = world.run("subscribe", "--webhook-url", f"https://example.org/{uuid.uuid4().hex}").rows[0]
    linked = of(world, row["subscriber_id"])[1].value["address"]
    with world.keys() as keys:
        assert json.loads(keys.decrypt(row["subscriber_id"], "address.webhook", linked))["secret"] == row["webhook_secret"]


def test_imports_in_bulk_once(world: World) -> None:
    """A second import of the same file registers nobody; ids are those given, else by address; two batches work."""
    people = [person(**({"subscriber_id": str(uuid.uuid4())} if number % 2 else {})) for number in range(BATCH + 50)]
    text = lines(*people)
    world.define_newsletter()
    assert world.run("subscribe", "--file", "-", given=text).rows == [{"registered": BATCH + 50, "known": 0}]
    assert world.run("subscribe", "--file", "-", given=text).rows == [{"registered": 0, "known": BATCH + 50}]
    registered = [e.key for e in world.events(world.topics.subscribers) if e.name == "SubscriberRegistered"]
    given = {p["subscriber_id"] for p in people if "subscriber_id" in p}
    assert given <= set(registered)
    assert len(registered) == len(set(registered))


def test_an_import_does_not_take_back_an_unsubscribe(world: World) -> None:
    """Whoever unsubscribed since the first import stays unsubscribed."""
    one = person(subscriber_id=str(uuid.uuid4()))
    world.run("subscribe", "--file", "-", given=lines(one))
    assert world.run("unsubscribe", one["subscriber_id"], "--all").code == 0
    world.run("subscribe", "--file", "-", given=lines(one))
    assert of(world, one["subscriber_id"])[-1].name == "SubscriberUnsubscribed"


def test_an_import_that_broke_off_goes_on(world: World) -> None:
    """Keys and index are there, events are not: doing it again registers the same people under the same ids."""
    one = person()
    profile = read_profile(one)
    with world.directory() as directory:
        send, directory._producer.send_sync = (
            directory._producer.send_sync,
            lambda records: (_ for _ in ()).throw(RuntimeError("cut")),
        )  # type: ignore[method-assign,assignment]
        with pytest.raises(RuntimeError, match="cut"):
            directory.register([profile])
        directory._producer.send_sync = send  # type: ignore[method-assign]
        (answer,) = directory.register([profile])
    assert answer.new
    with world.keys() as keys:
        assert keys.find_by_address("email", one["channels"]["email"]) == [answer.subscriber_id]
    assert len(of(world, answer.subscriber_id)) == 4


def test_names_the_line_of_a_subscriber(world: World) -> None:
    """Nothing of the file is written, and the address is not repeated."""
    good = person(subscriber_id=str(uuid.uuid4()))
    answer = world.run("subscribe", "--file", "-", given=lines(good, person(channels={"email": "not.an.address"})))
    assert answer.code == 2
    assert "line 2: channels.email" in answer.error
    assert "not.an.address" not in answer.error
    assert of(world, good["subscriber_id"]) == []


def test_an_erased_id_is_not_used_again(world: World) -> None:
    """Its key is gone for good."""
    one = person(subscriber_id=str(uuid.uuid4()))
    world.run("subscribe", "--file", "-", given=lines(one))
    with world.keys() as keys:
        keys.destroy(one["subscriber_id"])
    assert "was erased" in world.run("subscribe", "--file", "-", given=lines(one)).error
    assert "was erased" in world.run("prefer", one["subscriber_id"], "--no-alerts").error


def test_changes_a_subscriber(world: World) -> None:
    """prefer patches; link replaces an address and unlink ends it; unsubscribe names what ends."""
    one = world.run("subscribe", "--email", f"{uuid.uuid4().hex}@example.org").rows[0]["subscriber_id"]
    assert world.run("prefer", one, "--topics", "a:0.5", "--quiet-hours", "22:00-07:00").rows[0]["changed"] == [
        "quiet_hours",
        "topics",
    ]
    changed = of(world, one)[-1].value
    assert changed["topics"] == [{"topic": "a", "weight": 0.5}]
    assert changed["newsletters"] is None
    assert world.run("link", one, "--channel", "slack", "--address", "C024BE91L").rows[0]["verified"] is False
    assert [event.name for event in of(world, one)[-2:]] == ["PreferencesChanged", "ChannelLinked"]
    assert world.run("link", one, "--channel", "slack", "--address", "C024BE92M", "--verified").code == 0
    with world.keys() as keys:
        assert one not in keys.find_by_address("slack", "C024BE91L")
        assert one in keys.find_by_address("slack", "C024BE92M")
    secret, before = ("whsec_" + letter * 32 for letter in "bc")
    hook = ("--channel", "webhook", "--address", "https://example.org/h", "--secret", secret, "--previous-secret", before)
    assert world.run("link", one, *hook).code == 0
    with world.keys() as keys:
        sealed = of(world, one)[-1].value["address"]
        assert json.loads(keys.decrypt(one, "address.webhook", sealed))["previous_secret"] == before
    assert world.run("unlink", one, "--channel", "slack").code == 0
    assert world.run("unsubscribe", one, "--newsletter", "daily").code == 0
    assert [event.name for event in of(world, one)[-2:]] == ["ChannelUnlinked", "SubscriberUnsubscribed"]
    assert "kind" in world.run("unsubscribe", one).error
    assert "topics" in world.run("prefer", one, "--topics", "a:7").error
    assert "channels.slack" in world.run("link", one, "--channel", "slack", "--address", "general").error
    assert world.run("prefer", one).code == 2
    nobody = str(uuid.uuid4())
    assert f"there is none with the id {nobody}" in world.run("prefer", nobody, "--no-alerts").error


def status(world: World, number: int, channel: str = "email", name: str = "DeliverySent") -> Any:
    subscriber = str(uuid.UUID(int=number))
    value = {
        "delivery_id": f"20261123-{uuid.UUID(int=number)}",
        "subscriber_id": subscriber,
        "source_id": "daily@2026-11-22T09:00Z",
        "source_kind": "newsletter",
        "channel": channel,
        "lane": "bulk",
        "reason": "bounced" if name == "DeliveryFailed" else None,
        "provider_receipt_hash": None,
        "attempt": 1,
        "occurred_at": world.now(),
    }
    return world.codec.encode(world.topics.delivery_status, name, value, key=subscriber, time=world.now())


def test_watches_statuses(world: World) -> None:
    """From the beginning, by source and channel, as lines or as JSON, and ends after a count or a silence."""
    with world.directory() as directory:
        directory._producer.send_sync(
            [status(world, n, CHANNELS[n % 4], "DeliveryFailed" if n == 3 else "DeliverySent") for n in range(8)]
        )
    rows = world.run("watch", "--from-beginning", "--count", "8").rows
    assert {row["event"] for row in rows} == {"DeliverySent", "DeliveryFailed"}
    assert len({row["delivery_id"] for row in rows}) == 8
    only = world.run("watch", "--from-beginning", "--channel", "slack", "--timeout", "1").rows
    assert [row["channel"] for row in only] == ["slack", "slack"]
    assert world.run("watch", "--from-beginning", "--source", "other", "--timeout", "0.5").rows == []
    text = world.run("watch", "--from-beginning", "--count", "8", human=True).text
    assert "failed (bounced)" in text
    assert text.count("daily@2026-11-22T09:00Z") == 8


def test_shows_a_publication(world: World, read_model: psycopg.Connection[Any]) -> None:
    """State and quality from the read model, the history from the log, deliveries by channel."""
    one = publication()
    world.run("publish", "-", given=lines(one))
    (event,) = world.events(world.topics.publications, one["publication_id"])
    project(read_model, event)
    world.run("retract", one["publication_id"], "--reason", "wrong")
    row = world.run("show", one["publication_id"].upper()).rows[0]
    assert (row["state"], row["quality"]) == ("approved", 0.95)
    assert [entry["event"] for entry in row["history"]] == ["PublicationSubmitted", "PublicationRetracted"]
    assert row["deliveries"] == []
    assert "PublicationRetracted" in world.run("show", one["publication_id"], human=True).text
    assert "there is none with the id" in world.run("show", str(uuid.uuid4())).error


def test_show_needs_the_read_models(world: World) -> None:
    """One sentence says what to do."""
    answer = world.run("show", str(uuid.uuid4()))
    assert answer.code == 3
    assert "start the projections" in answer.error
