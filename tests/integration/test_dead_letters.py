"""Dead letters from the process that writes them to the person who handles them, on real Kafka, PostgreSQL and a sink."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from core.errors import InputError, Unavailable, WrongType
from runtime.deadletters import dead_letter_sync
from runtime.kafka import Producer, admin_client, end_offsets, partitions_of
from runtime.letters import Choice, Letter, LetterBox
from schemas.admin import ensure_topics
from schemas.partition import partition_for
from schemas.records import Raw, Record
from tests import fix_sandbox
from tests.fix_sandbox import SandboxProcess
from tests.fix_stack import Stack
from tests.sinks_kit import ROOT, SHARDS, World, environ_of, records_of, wait_for, world

pytestmark = pytest.mark.stack
sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox
BULK = "deliveries.email.bulk"


@pytest.fixture(scope="module")
def sinks(stack: Stack, sandbox_process: SandboxProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """All topics, and databases, with consent and the bulk mail sink running."""
    url, folder = f"{sandbox_process.url}/ses", tmp_path_factory.mktemp("letters")
    with world(stack, folder, ses_endpoint_url=url, sweep_interval_s=0.3, actor="ada") as one:
        made = ensure_topics(one.settings).created
        wait_for(lambda: sizes(one), "the new topics to have leaders")
        one.define_newsletter()
        one.start("consent")
        one.start("ses-bulk")
        yield one
        one.stop_all()
        admin = admin_client(one.settings)
        for gone in admin.delete_topics(list(made)).values():
            gone.result()


@pytest.fixture
def box(sinks: World) -> Iterator[LetterBox]:
    """The dead letters."""
    with LetterBox(sinks.settings) as one:
        yield one


def newswire(sinks: World, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    """Run a command with --json as a process of its own; return what it printed."""
    command = [sys.executable, "-c", "from runtime.commands import main; main()", "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environ_of(sinks.settings), capture_output=True, text=True, timeout=180)
    assert done.returncode == code, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def misplaced(sinks: World, request: dict[str, Any]) -> Record:
    """The record of a request, in a partition that its key does not belong in."""
    record = sinks.codec.encode(
        sinks.topics.deliveries("email", "bulk"), "DeliveryRequested", request, key=request["subscriber_id"],
        time=request["decided_at"],
    )  # fmt: skip
    assert record.partition is not None
    return record._replace(partition=(record.partition + 1) % SHARDS)


def letter_for(sinks: World, box: LetterBox, record: Record) -> Letter:
    """Produce a record that the sink cannot take, and wait for its dead letter."""
    (offset,) = sinks.produce_all([record])
    place = (record.topic, record.partition, offset)
    return wait_for(lambda: next((one for one in box.find(Choice(state=None)) if one.place == place), None), "a dead letter")


def sizes(sinks: World) -> dict[tuple[str, int], int]:
    """The end of every partition of every topic; empty while one has no leader."""
    admin = admin_client(sinks.settings)
    names = [spec.name for spec in sinks.topics.specs()]
    try:
        return dict(end_offsets(admin, partitions_of(admin, names)))
    except Unavailable:
        return {}


def test_what_is_handled_by_then_is_sent_once_after_a_redrive(sinks: World, box: LetterBox, sandbox: SandboxProcess) -> None:
    """A request in a wrong partition goes to the right one, under its own id; a second redrive is refused."""
    (request,) = sinks.requests(1, items=[sinks.publish()])
    letter = letter_for(sinks, box, misplaced(sinks, request))
    assert (letter.reason, letter.state, letter.attempts) == ("wrong_partition", "open", 1)

    before = sizes(sinks)
    (told,) = newswire(sinks, "dlq", "redrive", letter.id, "--reason", "x", "--dry-run")
    right = partition_for(request["subscriber_id"].encode(), SHARDS)
    assert told == {"id": letter.id, "answer": "would be sent again", "detail": f"DeliveryRequested to {letter.topic}/{right}"}
    assert sizes(sinks) == before, "a dry run changes nothing"

    (told,) = newswire(sinks, "dlq", "redrive", letter.id, "--reason", "The fan-out was mended")
    assert told["answer"] == "sent again"
    wait_for(lambda: sinks.states([request])[request["delivery_id"]] == [("DeliverySent", None, 1)], "the delivery")
    assert sandbox.counts("delivery_id") == {request["delivery_id"]: 1}
    (after,) = box.get([letter.id])
    assert after.mark is not None
    assert (after.state, after.mark.by, after.mark.why) == ("redriven", "ada", "The fan-out was mended")
    (told,) = newswire(sinks, "dlq", "redrive", letter.id, "--reason", "again", code=1)
    assert told["answer"] == "refused"
    assert "it was redriven at" in told["detail"]
    assert sandbox.counts("delivery_id") == {request["delivery_id"]: 1}


def test_a_redrive_of_something_already_sent_sends_nothing(sinks: World, box: LetterBox, sandbox: SandboxProcess) -> None:
    """The ledger has it: its status is reported again as the same event, and no call is made."""
    (request,) = sinks.requests(1, items=[sinks.publish()])
    sinks.deliver([request])
    wait_for(lambda: sinks.states([request])[request["delivery_id"]], "the delivery")
    letter = letter_for(sinks, box, misplaced(sinks, request))
    newswire(sinks, "dlq", "redrive", letter.id, "--reason", "to see")
    mine = lambda: [e for e in sinks.statuses() if e.value["delivery_id"] == request["delivery_id"]]  # noqa: E731
    wait_for(lambda: len(mine()) == 2, "its status to be reported again")
    assert len({event.id for event in mine()}) == 1
    assert sandbox.counts("delivery_id") == {request["delivery_id"]: 1}


def test_a_redriven_delivery_is_looked_at_like_any_other(sinks: World, box: LetterBox, sandbox: SandboxProcess) -> None:
    """Who has left since is suppressed."""
    (request,) = sinks.requests(1, items=[sinks.publish()])
    letter = letter_for(sinks, box, misplaced(sinks, request))
    sinks.change("PreferencesChanged", request["subscriber_id"], newsletters=["weekly"], changed_at=datetime.now(UTC))
    subject = f"sub:{request['subscriber_id']}/nl"
    wait_for(lambda: sinks.ledger("SELECT 1 FROM ledger.barred WHERE subject = %s", subject), "the preference")
    newswire(sinks, "dlq", "redrive", letter.id, "--reason", "x")
    wait_for(
        lambda: sinks.states([request])[request["delivery_id"]] == [("DeliverySuppressed", "unsubscribed", 0)], "its suppression"
    )
    assert sandbox.counts("delivery_id") == {}


def preference(sinks: World, subscriber_id: str) -> Record:
    """The record of a subscriber who takes the newsletter again; every other preference stays as it is."""
    others = dict.fromkeys(
        ("time_zone", "language", "topics", "channels", "urgent_channels", "alerts", "quiet_hours", "paused_until",
         "local_minute", "alerts_a_day", "tags")
    )  # fmt: skip
    now = datetime.now(UTC)
    value = {"subscriber_id": subscriber_id, **others, "newsletters": ["daily"], "changed_at": now}
    return sinks.codec.encode(sinks.topics.subscribers, "PreferencesChanged", value, key=subscriber_id, time=now)


def leave(sinks: World, subscriber_id: str) -> None:
    """Unsubscribe from the newsletter, and wait until the ledger bars it."""
    sinks.change(
        "SubscriberUnsubscribed", subscriber_id, kind="newsletter", newsletter_id="daily", delivery_id=None, via="page",
        unsubscribed_at=datetime.now(UTC),
    )  # fmt: skip
    subject = f"sub:{subscriber_id}/nl:daily"
    wait_for(lambda: sinks.ledger("SELECT 1 FROM ledger.barred WHERE subject = %s", subject), "the unsubscribe")


@pytest.mark.parametrize("misplaced_by", [0, 1])
def test_a_redrive_does_not_undo_what_a_subscriber_said_since(
    sinks: World, box: LetterBox, sandbox: SandboxProcess, misplaced_by: int
) -> None:
    """An old preference is refused once its subscriber has left; the bar stays, and nothing is mailed."""
    (request,) = sinks.requests(1, items=[sinks.publish()])
    record = preference(sinks, request["subscriber_id"])
    record = record._replace(partition=((record.partition or 0) + misplaced_by) % SHARDS)
    letter = put_aside(sinks, box, record)
    leave(sinks, request["subscriber_id"])
    for options in ("--dry-run",), ():
        (told,) = newswire(sinks, "dlq", "redrive", letter.id, "--reason", "The consumer was mended", *options, code=1)
        assert told["answer"] == "refused"
        assert "SubscriberUnsubscribed at " in told["detail"]
    assert box.get([letter.id])[0].state == "open"
    sinks.deliver([request])
    wait_for(
        lambda: sinks.states([request])[request["delivery_id"]] == [("DeliverySuppressed", "unsubscribed", 0)], "its suppression"
    )
    assert sandbox.counts("delivery_id") == {}


def test_a_redrive_does_not_lift_a_later_stop(sinks: World, box: LetterBox) -> None:
    """An old resume is refused once the same thing was stopped again; of a key that has no later event it is sent."""
    topic = sinks.topics.controls

    def change(control_id: str, action: str) -> Record:
        now = datetime.now(UTC)
        value = {"control_id": control_id, "action": action, "reason": "x", "changed_by": "ada", "changed_at": now}
        return sinks.codec.encode(topic, "ControlChanged", value, key=control_id, time=now)

    overtaken, alone = (put_aside(sinks, box, change(f"source/{name}", "resume")) for name in ("weekly", "monthly"))
    sinks.produce_all([change("source/weekly", "stop")])
    told = newswire(sinks, "dlq", "redrive", overtaken.id, alone.id, "--reason", "x", code=1)
    assert [line["answer"] for line in told] == ["refused", "sent again"]
    sinks.produce_all([change("source/weekly", "resume")])  # for the other tests


def put_aside(sinks: World, box: LetterBox, record: Record) -> Letter:
    """Write a dead letter as a consumer that cannot take a record does; the record stays in its place in the log.

    No running consumer reads it: its value is no event. That of the letter is.
    """
    (offset,) = sinks.produce_all([record._replace(key=b"nobody", value=b"poison")])
    now = datetime.now(UTC)
    raw = Raw(record.topic, record.partition or 0, offset, record.key, record.value, record.headers, 0)
    dead_letter_sync(sinks.producer, sinks.topics, raw, WrongType("no"), attempts=1, first_at=now, last_at=now)
    return next(
        one for one in box.find(Choice()) if one.place == (record.topic, record.partition, offset) and one.reason == "wrong_type"
    )


def test_what_would_be_refused_again_stays_open(sinks: World, box: LetterBox) -> None:
    """Bytes that are no event do not become one by waiting; they can be discarded, and stay on record."""
    letter = letter_for(sinks, box, Record(sinks.topics.deliveries("email", "bulk"), b"k", b"poison", (), 0))
    before = sizes(sinks)
    (told,) = newswire(sinks, "dlq", "redrive", letter.id, "--reason", "x", code=1)
    assert told["detail"].startswith("it would be refused again: truncated")
    (told,) = newswire(sinks, "dlq", "discard", letter.id, "--reason", "x", "--dry-run")
    assert told["answer"] == "would be discarded"
    assert sizes(sinks) == before
    newswire(sinks, "dlq", "discard", letter.id, "--reason", "Garbage of a load test")
    (shown,) = newswire(sinks, "dlq", "show", letter.id)
    assert (shown["state"], shown["handled_by"], shown["handled_why"]) == ("discarded", "ada", "Garbage of a load test")
    assert shown["value"] == "poison"
    assert letter.id not in [line["id"] for line in newswire(sinks, "dlq", "list")]
    assert letter.id in [line["id"] for line in newswire(sinks, "dlq", "list", "--state", "discarded")]
    for command in ("discard", "redrive"):
        (told,) = newswire(sinks, "dlq", command, letter.id, "--reason", "again", code=1)
        assert told["detail"].endswith("by ada: Garbage of a load test")
    assert box.get([letter.id])[0].record == letter.record


def test_a_letter_of_a_topic_with_personal_data_is_encrypted(sinks: World, box: LetterBox) -> None:
    """Value, key and headers are in the letter only encrypted, and come back as they were; the subscriber's key is used."""
    topic, (request,) = sinks.topics.deliveries("email", "bulk"), sinks.requests(1)
    secret = b"ada.lovelace@example.org"
    subscriber = request["subscriber_id"].encode()
    headers = (("ce_id", b"1"), ("x", secret))
    records = [
        Record(topic, subscriber, b"\0\0" + secret, headers, 0),
        Record(topic, secret, secret, headers, 1),
        Record(topic, None, secret, headers, 1),
    ]
    letters = [letter_for(sinks, box, record) for record in records]
    for raw in records_of(sinks.settings, f"{topic}.dlq"):
        assert secret not in (raw.value or b"") + (raw.key or b"") + b"".join(data for _, data in raw.headers)
    for letter, record in zip(letters, records, strict=True):
        raw = box.original(letter)
        assert (raw.key, raw.value, raw.headers) == (record.key, record.value, record.headers)
    assert [letter.sealed for letter in letters] == [request["subscriber_id"], "dead-letters", "dead-letters"]
    assert [letter.record.key for letter in letters] == [subscriber, None, None]
    (shown,) = newswire(sinks, "dlq", "show", letters[1].id)
    assert (shown["encrypted"], shown["key"], shown["headers"]["x"]) == (True, secret.decode(), secret.decode())


def test_what_an_erased_person_left_in_dead_letters_cannot_be_read(sinks: World, box: LetterBox) -> None:
    """With the key goes the original: showing says so, and it cannot be sent again."""
    (request,) = sinks.requests(1, items=[sinks.publish()])
    letter = letter_for(sinks, box, misplaced(sinks, request))
    sinks.keys.destroy(request["subscriber_id"])
    (shown,) = newswire(sinks, "dlq", "show", letter.id)
    assert "was erased" in shown["original"]
    (told,) = newswire(sinks, "dlq", "redrive", letter.id, "--reason", "x", code=1)
    assert "was erased" in told["detail"]


def test_keeps_originals_of_other_topics_as_they_are(sinks: World, box: LetterBox) -> None:
    """Upstream's records hold no personal data; headers with our names, a tombstone and an empty value are told apart."""
    topic, now = sinks.topics.publications, datetime.now(UTC)
    headers = (("dlq.mark", b"discarded"), ("dlq.of", b"0"), ("mine", b"\xff"))
    for number, value in enumerate((b"bytes", b"", None)):
        raw = Raw(topic, 1, 10 + number, b"k", value, headers, 0)
        dead_letter_sync(sinks.producer, sinks.topics, raw, WrongType("no"), attempts=2, first_at=now, last_at=now)
    letters = list(box.find(Choice(topic="publications")))
    assert [box.original(letter).value for letter in letters] == [b"bytes", b"", None]
    assert all(box.original(letter).headers == (("mine", b"\xff"),) for letter in letters)
    assert [(letter.place[1:], letter.attempts, letter.first_at, letter.sealed) for letter in letters] == [
        ((1, 10 + number), 2, now, None) for number in range(3)
    ]


def test_says_who_refused_and_discards_a_record_with_all_its_letters(sinks: World, box: LetterBox) -> None:
    """Each process that refuses a record writes a letter; closing one closes them all, and those of other records stay."""
    topic, now = sinks.topics.publications, datetime.now(UTC)
    audience = Producer(sinks.settings, f"{sinks.settings.topic_prefix}.audience")
    for offset in (50, 51):
        for producer in (sinks.producer, audience):
            raw = Raw(topic, 0, offset, b"k", b"poison", (), 0)
            dead_letter_sync(producer, sinks.topics, raw, WrongType("no"), attempts=1, first_at=now, last_at=now)
    audience.close()
    mine = [line for line in newswire(sinks, "dlq", "list") if line["original"] in (f"{topic}/0@50", f"{topic}/0@51")]
    own = sinks.producer.client_id.removeprefix(f"{sinks.settings.topic_prefix}.")
    assert [line["refused_by"] for line in mine] == [own, "audience"] * 2
    assert newswire(sinks, "dlq", "show", mine[1]["id"])[0]["refused_by"] == "audience"
    told = newswire(sinks, "dlq", "discard", mine[1]["id"], "--dry-run")
    assert {line["id"] for line in told} == {mine[0]["id"], mine[1]["id"]}
    assert {line["answer"] for line in told} == {"would be discarded"}
    newswire(sinks, "dlq", "discard", mine[1]["id"], "--reason", "Garbage")
    assert [one.state for one in box.get([line["id"] for line in mine])] == ["discarded"] * 2 + ["open"] * 2
    newswire(sinks, "dlq", "discard", mine[2]["id"], "--reason", "Garbage")


def test_sends_one_record_once_although_each_of_its_consumers_wrote_a_letter(
    sinks: World, box: LetterBox, sandbox: SandboxProcess
) -> None:
    """A sink and a projection both refuse it: two letters, one sending, both marked."""
    (request,) = sinks.requests(1, items=[sinks.publish()])
    record = misplaced(sinks, request)
    first = letter_for(sinks, box, record)
    now = datetime.now(UTC)
    raw = box.original(first)
    dead_letter_sync(sinks.producer, sinks.topics, raw, WrongType("no"), attempts=1, first_at=now, last_at=now)
    place = (record.topic, right := partition_for(request["subscriber_id"].encode(), SHARDS))
    before = sizes(sinks)[place]
    both = [letter.id for letter in box.find(Choice(topic=BULK)) if letter.place == first.place]
    assert len(both) == 2
    told = newswire(sinks, "dlq", "redrive", *both, "--reason", "x")
    assert [line["detail"] for line in told] == [
        f"DeliveryRequested to {record.topic}/{right}", "with another letter of the same record"
    ]  # fmt: skip
    assert sizes(sinks)[place] == before + 1
    assert {letter.state for letter in box.get(both)} == {"redriven"}


def test_an_original_that_is_too_large_for_its_letter_is_read_where_it_is(sinks: World, box: LetterBox, tmp_path: Path) -> None:
    """The partition moves on, and the bytes are still to be had while the topic keeps them."""
    value = b"\0" * 2_060_000
    letter = letter_for(sinks, box, Record(sinks.topics.deliveries("email", "bulk"), b"k", value, (), 0))
    assert letter.withheld
    assert len(letter.record.value or b"") < 1000
    newswire(sinks, "dlq", "show", letter.id, "--bytes", str(tmp_path / "original"))
    assert (tmp_path / "original").read_bytes() == value


def test_chooses_letters_by_topic_reason_and_time(sinks: World, box: LetterBox) -> None:
    """What a filter leaves out is not touched."""
    topic = sinks.topics.engagements
    times = [datetime(2026, 11, day, tzinfo=UTC) for day in (1, 2, 3)]
    for number, at in enumerate(times):
        error = WrongType("no") if number != 1 else InputError("other")
        raw = Raw(topic, 0, number, None, b"x", (), 0)
        dead_letter_sync(sinks.producer, sinks.topics, raw, error, attempts=1, first_at=at, last_at=at)

    def chosen(*filters: str) -> list[str]:
        return [line["original"][-1] for line in newswire(sinks, "dlq", "list", "--topic", "engagements", *filters)]

    assert chosen() == ["0", "1", "2"]
    assert chosen("--code", "wrong_type") == ["0", "2"]
    assert chosen("--since", "2026-11-02T00:00Z", "--until", "2026-11-03T00:00Z") == ["1"]
    assert chosen("--limit", "1") == ["2"]
    told = newswire(sinks, "dlq", "discard", "--topic", "engagements", "--code", "wrong_type", "--reason", "x")
    assert [line["id"] for line in told] == ["engagements/0/0", "engagements/0/2"]
    assert chosen() == ["1"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "subscribers/0/4711"), "There is no dead letter subscribers/0/4711"),
        (("redrive", "subscribers/0/4711", "--reason", "x"), "There is no dead letter subscribers/0/4711"),
        (("show", "subscribers"), "'subscribers' is no id of a dead letter"),
        (("show", "nothing/0/1"), "There is no topic 'nothing' with dead letters"),
        (("list", "--topic", "nothing"), "There is no topic 'nothing' with dead letters"),
        (("list", "--since", "yesterday"), "--since 'yesterday' is no time with a zone"),
        (("redrive", "--reason", "x"), "Name letters by their ids, or choose them"),
        (("discard", "subscribers/0/1", "--topic", "subscribers", "--reason", "x"), "one of both"),
    ],
)
def test_says_what_is_wrong_with_a_choice(sinks: World, arguments: tuple[str, ...], says: str) -> None:
    """A sentence that names the thing and what to do, and exit code 2."""
    (told,) = newswire(sinks, "dlq", *arguments, code=2)
    assert says in told["error"]


def test_a_topic_has_encrypted_letters_when_an_event_of_it_has_an_encrypted_field(sinks: World) -> None:
    """The rule is read from the schemas, so that a new field needs no second entry."""
    personal = {spec.base for spec in sinks.topics.specs() if spec.personal}
    assert {"subscribers", "provider-events", "decisions.bulk", BULK} <= personal
    assert not personal & {"publications", "alerts", "delivery-status", "engagements"}
