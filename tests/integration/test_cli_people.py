"""The commands about subscribers, against a real broker, registry and database."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.directory import BATCH, read_profile
from runtime.kafka import ensure_first_offsets
from schemas.records import Event
from tests.fix_edge import World, world_of
from tests.fix_stack import Stack

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def world(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_of(stack, tmp_path_factory.mktemp("cli")) as made:
        made.define_newsletter()
        yield made


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
    mail = ("--email", f"{uuid.uuid4().hex}@example.org", "--allow-undefined")
    new = world.run("subscribe", *mail, "--time-zone", "Asia/Tokyo", "--newsletters", "daily,dialy").rows[0]
    assert (new["time_zone"], new["newsletters"], new["channels"]) == ("Asia/Tokyo", ["daily", "dialy"], ["email"])
    assert new["unknown_newsletters"] == ["dialy"]
    known = world.run("subscribe", *mail, "--time-zone", "Europe/London", human=True).text
    assert "left unchanged" in known
    assert "newswire prefer" in known
    meant = ("prefer", new["subscriber_id"], "--newsletters", "dialy", "--allow-undefined")
    assert "There is no newsletter 'dialy'" in world.run(*meant, human=True).text
    assert "unknown_newsletters" not in world.run("prefer", new["subscriber_id"], "--newsletters", "daily").rows[0]
    left = world.run("unsubscribe", new["subscriber_id"], "--newsletter", "dialy").rows[0]
    assert left["unknown_newsletters"] == ["dialy"]


def test_a_newsletter_that_is_not_defined_is_refused(world: World) -> None:
    """By option and in a file, with those that there are, unless it is said to be meant; nothing is written."""
    one = person(subscriber_id=str(uuid.uuid4()))
    assert world.run("subscribe", "--file", "-", given=lines(one)).code == 0
    before = of(world, one["subscriber_id"])
    stranger = person(subscriber_id=str(uuid.uuid4()), newsletters=["dialy", "daily"])
    for words, given in (
        (("prefer", one["subscriber_id"], "--newsletters", "dialy"), None),
        (("subscribe", "--email", f"{uuid.uuid4().hex}@example.org", "--newsletters", "dialy"), None),
        (("subscribe", "--file", "-"), lines(person(), stranger)),
    ):
        refused = world.run(*words, given=given)
        assert (refused.code, "there is no newsletter 'dialy'. Known: daily." in refused.error) == (2, True), refused.error
    assert of(world, one["subscriber_id"]) == before
    assert of(world, stranger["subscriber_id"]) == []
    taken = world.run("subscribe", "--file", "-", "--allow-undefined", given=lines(stranger))
    assert taken.rows[0]["unknown_newsletters"] == ["dialy"]


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
    """Of every line that is wrong; nothing of the file is written, and the address is not repeated."""
    good = person(subscriber_id=str(uuid.uuid4()))
    wrong = [person(channels={"email": "not.an.address"}), person(time_zone="Mars/Olympus")]
    answer = world.run("subscribe", "--file", "-", given=lines(good, *wrong))
    assert answer.code == 2
    assert "2 things are wrong, and nothing was written:" in answer.error
    assert "line 2: channels.email" in answer.error
    assert "line 3: time_zone" in answer.error
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


def test_a_channel_without_an_address_is_said(world: World) -> None:
    """With what to do; an address that is not verified is none, and nothing is said of one that is."""
    new = world.run("subscribe", "--email", f"{uuid.uuid4().hex}@example.org", "--urgent-channels", "webhook,email").rows[0]
    one = new["subscriber_id"]
    assert new["no_address"] == ["webhook"]
    assert world.run("prefer", one, "--channels", "slack,email", "--urgent-channels", "discord").rows[0]["no_address"] == [
        "discord",
        "slack",
    ]
    said = world.run("prefer", one, "--channels", "slack", human=True).text
    assert "no verified address on slack: nothing comes there until `newswire link --channel slack`" in said
    assert world.run("link", one, "--channel", "slack", "--address", "C024BE91L").code == 0
    assert "no_address" in world.run("prefer", one, "--channels", "slack").rows[0]
    assert world.run("link", one, "--channel", "slack", "--address", "C024BE91L", "--verified").code == 0
    assert "no_address" not in world.run("prefer", one, "--channels", "slack").rows[0]


def test_a_broken_file_of_names_is_said_before_anything_is_written(world: World, tmp_path: Path) -> None:
    """Of a command that failed nothing holds."""
    one = world.run("subscribe", "--email", f"{uuid.uuid4().hex}@example.org").rows[0]["subscriber_id"]
    before = of(world, one)
    (tmp_path / "topics.json").write_text("{")
    world.environ["NEWSWIRE_TOPIC_NAMES"] = str(tmp_path / "topics.json")
    try:
        refused = world.run("prefer", one, "--topics", "hep-ph")
        assert (refused.code, "NEWSWIRE_TOPIC_NAMES" in refused.error) == (3, True)
    finally:
        del world.environ["NEWSWIRE_TOPIC_NAMES"]
    assert of(world, one) == before


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
