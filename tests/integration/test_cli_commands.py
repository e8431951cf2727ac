"""The commands for people, against a real broker, registry and database."""

import json
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from core.names import CHANNELS
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
    assert world.run("publish", "-", given=lines(first)).rows == [
        {"published": 0, "unchanged": 1}
    ]  # before the read model has it
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
    (row,) = define(name="Weekly 2").rows
    assert (row["revision"], row["changed"]) == (2, True)
    assert row["changes"] == {"name": ["Weekly", "Weekly 2"], "from_name": ["Weekly", "Weekly 2"]}
    assert "name: revision 2" in define(name="Weekly 3", revision=2).error
    assert "revision: revision 2" in define(revision=1).error
    assert "from_address" in define(from_address="nobody").error
    assert "days" in define(days=[8]).error
    assert "subject: has something else in braces" in define(subject="{foo}").error
    assert "min_quality: is 1" in define(min_quality=1).error
    listed = world.run("newsletter", "list").rows
    assert [(row["newsletter_id"], row["revision"], row["name"]) for row in listed] == [("weekly", 2, "Weekly 2")]
    assert (listed[0]["template"], listed[0]["subject"], listed[0]["variants"]) == ("newsletter", "{newsletter}: {title}", None)
    variants = [{"name": "a", "weight": 0.25}, {"name": "b", "weight": 0.75, "template": "digest", "local_minute": 450}]
    document = json.dumps({**base, "name": "Weekly 2", "days": [1], "variants": variants})
    shown = world.run("newsletter", "define", "-", given=document, human=True).text
    assert "  days: daily → Mon\n  variants: - → a 25%; b 75% (template digest, local_minute 07:30)\n" in shown
    assert world.run("newsletter", "list").rows[0]["variants"] == "a 25%; b 75% (template digest, local_minute 07:30)"
    twice = world.run("newsletter", "define", "-", given=f"{json.dumps(base)}\n{document}")
    assert (twice.code, "line 2: newsletter_id: weekly is defined twice" in twice.error) == (2, True), twice.error
    assert [event.value["revision"] for event in world.events(world.topics.newsletters, "weekly")] == [1, 2, 3]


def test_all_that_is_wrong_with_definitions_is_named_at_once(world: World) -> None:
    """Every field of every line, templates too; nothing is defined."""
    wrong = {
        "newsletter_id": "faulty",
        "days": [8],
        "subjet": "x",
        "from_address": "nobody",
        "template": "none",
        "max_items": "5",
    }
    fine = {"newsletter_id": "fine", "name": "F", "from_address": "f@example.org", "postal_address": "1 Street"}
    answer = world.run("newsletter", "define", "-", given=lines(wrong, fine, {**fine, "postal_address": ""}))
    assert answer.code == 2
    said = answer.error.splitlines()
    assert said[0] == "error: 8 things are wrong, and nothing was written:"
    fields = ("subjet", "name", "max_items", "postal_address", "days", "from_address", "template")
    assert {line.partition("line 1: ")[2].partition(":")[0] for line in said[1:8]} == set(fields)
    assert said[8].strip().startswith("standard input, line 3: postal_address: ")
    assert world.events(world.topics.newsletters, "faulty") == world.events(world.topics.newsletters, "fine") == []


def test_shows_when_issues_come_and_refuses_a_schedule_that_never_does(world: World) -> None:
    """The cadence in words, the next slots of a zone; what no day is on, and a zone that there is not, are refused."""
    base = {"newsletter_id": "monthly", "name": "M", "from_address": "w@example.org", "postal_address": "1 Street"}
    define = lambda **fields: world.run("newsletter", "define", "-", given=json.dumps({**base, **fields}))  # noqa: E731
    assert define(cadence="monthly", month_day=31, local_minute=570).code == 0
    listed = {row["newsletter_id"]: row for row in world.run("newsletter", "list", "--time-zone", "Asia/Kathmandu").rows}
    assert listed["monthly"]["comes"] == "monthly on day 31 or the last at 09:30"
    ahead = world.run("newsletter", "next", "monthly", "--time-zone", "Asia/Kathmandu", "--count", "2").rows
    assert ahead[0]["local"] == listed["monthly"]["next_local"]
    for row in ahead:
        slot, local = datetime.fromisoformat(row["slot"]), datetime.fromisoformat(row["local"])
        assert slot.replace(tzinfo=None) + timedelta(hours=5, minutes=45) == local
        assert (local + timedelta(days=1)).day == 1
    assert "days: names no day that every_hours" in define(cadence="hours", every_hours=168, days=[1]).error
    assert "days: names some weekdays, but a monthly" in define(cadence="monthly", days=[1]).error
    assert "Mars/Olympus" in world.run("newsletter", "next", "monthly", "--time-zone", "Mars/Olympus").error
    assert "monthly" in world.run("newsletter", "next", "moonly").error


def test_stops_and_resumes(world: World) -> None:
    """Scopes are checked; the event says who and why."""
    assert world.run("stop", "channel", "slack", "--reason", "moving").rows == [{"control_id": "channel/slack", "action": "stop"}]
    assert world.run("resume", "channel", "slack", "--reason", "moved").code == 0
    assert [e.value["action"] for e in world.events(world.topics.controls, "channel/slack")] == ["stop", "resume"]
    again = world.run("resume", "channel", "slack", "--reason", "again")
    assert (again.code, again.rows[0]["was_stopped"]) == (0, False)
    assert "was not stopped" in world.run("resume", "channel", "email", "--reason", "x", human=True).text
    assert len(world.events(world.topics.controls)) == 2
    assert world.run("stop", "all", "--reason", "x").rows[0]["control_id"] == "all"
    assert world.run("resume", "all", "--reason", "x").code == 0
    assert "channel: 'fax'" in world.run("stop", "channel", "fax", "--reason", "x").error
    assert world.run("stop", "all", "slack", "--reason", "x").code == 2


def test_a_resume_says_how_many_deliveries_go_on(world: World) -> None:
    """By channel, and how many another stop holds still; a canary's are no matter of stops."""
    insert = """insert into ledger.deliveries (day, delivery_id, channel, lane, source_id, source_kind, subscriber_id, state,
                reason, attempt, next_attempt_at, not_after, claimed_at)
                select current_date, gen_random_uuid(), %s, 'bulk', %s, 'newsletter', gen_random_uuid(), 'retry',
                %s, 1, now(), now(), now() from generate_series(1, %s)"""
    held = [("slack", "weekly@2026-11-22T09:00Z", "stopped", 2), ("slack", "other@2026-11-22T09:00Z", "stopped", 3)]
    held += [("email", "weekly@2026-11-22T09:00Z", "stopped", 4), ("slack", "weekly@2026-11-22T09:00Z", "canary", 5)]
    with psycopg.connect(world.settings.owner_database_url, dbname=world.settings.topic_prefix, autocommit=True) as connection:
        connection.execute("select ledger.ensure_days(current_date, current_date + 1)")
        connection.cursor().executemany(insert, held)
        try:
            for scope in (("channel", "slack"), ("all",)):
                assert world.run("stop", *scope, "--reason", "x").code == 0
            assert world.run("resume", "channel", "slack", "--reason", "x").rows[0] == {
                "control_id": "channel/slack", "action": "resume", "goes_on": {}, "still_held": 5,
            }  # fmt: skip
            said = world.run("resume", "all", "--reason", "x", human=True).text
            assert "9 held deliveries go on within seconds (email 4, slack 5). What comes" in said
        finally:
            connection.execute("delete from ledger.deliveries")
    assert world.run("stop", "channel", "email", "--reason", "x").code == 0
    assert "It held nothing so far." in world.run("resume", "channel", "email", "--reason", "x", human=True).text


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
