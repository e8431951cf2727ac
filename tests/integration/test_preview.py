"""`newswire preview`: an issue as the sink would render it, from what is in the log."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.writing import Log, NewEvent
from tests import fix_sandbox
from tests.fix_edge import World, world_of
from tests.fix_sandbox import SandboxProcess
from tests.fix_stack import Stack

pytestmark = pytest.mark.stack
sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox

OTHER = {"newsletter_id": "other", "name": "O", "from_address": "o@example.org", "postal_address": "1 Street"}
TITLES = ("The oldest paper", "A paper on quarks & co", "The newest paper")


@pytest.fixture(scope="module")
def world(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_of(stack, tmp_path_factory.mktemp("preview")) as made:
        made.define_newsletter(audience_languages=["de"], max_items=2)
        publish(made)
        yield made


def publish(world: World) -> None:
    """Write three approved publications, one that is not good enough and one that was retracted."""
    with Log(world.settings) as log:
        for number, (title, quality) in enumerate([*((title, 0.95) for title in TITLES), ("Poor", 0.5), ("Withdrawn", 0.95)]):
            key = str(uuid.UUID(int=number + 1))
            topics = [{"topic": "hep-ph" if number == 1 else "cs.LG", "weight": 1.0}]
            submitted = {
                "publication_id": key, "revision": 1, "content_type": "article", "title": title, "summary": "What it says.",
                "body": None, "url": f"https://example.org/{number}", "authors": ["Ada Lovelace"], "topics": topics,
                "language": "en", "published_at": world.now(), "attributes": {},
            }  # fmt: skip
            log.write_one(NewEvent(log.topics.publications, "PublicationSubmitted", submitted, key))
            (place,) = world.events(log.topics.publications, key)
            approved = {
                "publication_id": key, "revision": 1, "quality": quality, "newsletters": quality > 0.8, "alerts": False,
                "content_type": "article", "title": title, "topics": topics, "language": "en",
                "content_partition": place.partition, "content_offset": place.offset, "approved_at": world.now(),
            }  # fmt: skip
            log.write_one(NewEvent(log.topics.publications, "PublicationApproved", approved, key))
        gone = {"publication_id": key, "reason": "wrong", "retracted_by": "cli", "retracted_at": world.now()}
        log.write_one(NewEvent(log.topics.publications, "PublicationRetracted", gone, key))


@pytest.fixture(scope="module")
def reader(world: World) -> str:
    """A subscriber who reads English and follows hep-ph."""
    words = ("--email", f"{uuid.uuid4().hex}@example.org", "--language", "en", "--topics", "hep-ph", "--newsletters", "daily")
    return str(world.run("subscribe", *words).rows[0]["subscriber_id"])


def test_shows_the_newest_that_it_could_contain(world: World) -> None:
    """As many as the newsletter has, in its audience's language; what is not approved or retracted is left out."""
    (shown,) = world.run("preview", "daily").rows
    assert shown["template"].startswith("newsletter@")
    assert shown["subject"] == f"Daily Brief: {TITLES[2]}"
    assert shown["shows"] == "the newest publications that it could contain, with samples of reasons"
    for part in (shown["html"], shown["text"]):
        assert "Beiträge für dich" in part
        assert "Poor" not in part
        assert "Withdrawn" not in part
        assert TITLES[0] not in part
    assert "quarks &amp; co" in shown["html"]
    assert "quarks & co" in shown["text"]
    assert world.run("preview", "daily", human=True).text.startswith(f"Subject: Daily Brief: {TITLES[2]}\n\nDAILY BRIEF")


def test_a_language_and_a_subscriber_change_the_words(world: World, reader: str) -> None:
    """The option first, then the subscriber's own; topics that they follow are their reasons."""
    assert "2 picks for you" in world.run("preview", "daily", "--language", "en-GB").rows[0]["text"]
    assert "2 Beiträge für dich" in world.run("preview", "daily", "--language", "xx").rows[0]["text"]
    answer = world.run("preview", "daily", "--subscriber", reader).rows[0]
    assert answer["shows"].startswith(
        "the newest publications, with samples of reasons, which are not chosen for them: nothing that is new enough"
    )
    text = answer["text"]
    assert "2 picks for you" in text
    assert "You follow hep-ph" in text


@pytest.mark.parametrize(("channel", "mark"), [("slack", "blocks"), ("discord", "embeds"), ("webhook", "items")])
def test_every_channel_is_shown_in_its_own_form(world: World, tmp_path: Path, channel: str, mark: str) -> None:
    """As the JSON that its provider gets, printed or in a file."""
    printed = json.loads(world.run("preview", "daily", "--channel", channel, human=True).text)
    assert mark in (printed["data"] if channel == "webhook" else printed)
    file = tmp_path / "issue.json"
    answer = world.run("preview", "daily", "--channel", channel, "--output", str(file))
    assert answer.rows[0]["written"] == [str(file)]
    written = json.loads(file.read_text())
    if channel == "webhook":
        assert [item["title"] for item in written["data"]["items"]] == [TITLES[2], TITLES[1]]
    else:
        assert written == printed


def test_a_mail_is_written_as_html_and_text(world: World, tmp_path: Path) -> None:
    """Two files; a folder that is not there is said."""
    answer = world.run("preview", "daily", "--output", str(tmp_path / "issue.html"))
    assert answer.code == 0
    assert (tmp_path / "issue.html").read_text().startswith("<!doctype html>")
    assert TITLES[2] in (tmp_path / "issue.txt").read_text()
    refused = world.run("preview", "daily", "--output", str(tmp_path / "none" / "issue.html"))
    assert (refused.code, "cannot be written" in refused.error) == (2, True)


def test_a_subscriber_sees_what_they_were_given(world: World, reader: str) -> None:
    """The newest issue that was decided for them, with its reasons, its variant's template and its day."""
    variants = [
        {"name": "control", "weight": 0.5},
        {"name": "short", "weight": 0.5, "template": "digest", "subject": "In short"},
    ]
    world.define_newsletter(newsletter_id="given", variants=variants)
    place, gone = (
        next(e for e in world.events(world.topics.publications, str(uuid.UUID(int=number))) if e.name == "PublicationSubmitted")
        for number in (1, 5)
    )
    item = {
        "publication_id": place.key, "revision": 1, "content_partition": place.partition, "content_offset": place.offset,
        "score": 1, "reason": "read:Another paper", "propensity": 1.0,
    }  # fmt: skip
    withdrawn = {**item, "publication_id": gone.key, "content_partition": gone.partition, "content_offset": gone.offset}
    now = world.now()
    requested = {
        "delivery_id": f"{now:%Y%m%d}-{uuid.uuid4()}", "subscriber_id": reader, "source_id": "given@2026-01-05T09:00Z",
        "source_kind": "newsletter", "cause_id": str(uuid.uuid4()), "channel": "email", "lane": "bulk", "priority": "normal",
        "newsletter_id": "given", "newsletter_revision": 1, "issue_group": "2026-01-05T09:00", "address": sealed(world, reader),
        "language": "en", "items": [item, withdrawn], "alert_partition": None, "alert_offset": None, "variant": "short",
        "not_after": now, "decision_partition": 0, "decision_offset": 0, "decided_at": now,
    }  # fmt: skip
    with Log(world.settings) as log:
        log.write_one(NewEvent(log.topics.deliveries("email", "bulk"), "DeliveryRequested", requested, reader))
    refused = world.run("preview", "given", "--subscriber", reader, "--channel", "slack")
    assert (refused.code, "no verified address on slack; they have email" in refused.error) == (2, True)
    shown = world.run("preview", "given", "--subscriber", reader).rows[0]
    assert shown["shows"] == "the issue of 2026-01-05T09:00 that they were given, as variant short"
    assert shown["subject"] == "In short"
    unsaid = world.run("preview", "given").rows[0]["shows"]
    assert unsaid.endswith("reasons, as none of its variants: --variant shows one of control, short")
    assert shown["template"].startswith("digest@")
    for words in (TITLES[0], "Because you read “Another paper”", "Monday, January 5, 2026", "One pick for you"):
        assert words in shown["text"]
    assert world.run("preview", "given", "--variant", "control").rows[0]["template"].startswith("newsletter@")


def sealed(world: World, subscriber_id: str) -> bytes:
    """Return an encrypted address of the subscriber."""
    keys = world.keys()
    try:
        return keys.encrypt(subscriber_id, "address.email", b"ada@example.org")
    finally:
        keys.close()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nothing",), "Known: daily"),
        ((), "name a newsletter"),
        (("daily", "--variant", "x"), "has none named x"),
        (("daily", "--subscriber", str(uuid.UUID(int=5))), "there is none with this id"),
        (("daily", "--inbox"), "there is no sandbox"),
        (("daily", "--language", "xx-??"), "language: 'xx-??' is no BCP 47 language tag"),
    ],
)
def test_says_what_there_is_instead(world: World, words: tuple[str, ...], says: str) -> None:
    """Every refusal names what would work."""
    answer = world.run("preview", *words)
    assert (answer.code, says in answer.error) == (2, True), answer.error


def test_says_what_of_preferences_will_come_to_nothing(world: World) -> None:
    """A topic that nothing has, days on which the newsletter does not come; and the hour that was found."""
    base = {"newsletter_id": "mondays", "name": "M", "from_address": "m@example.org", "postal_address": "1 Street"}
    document = json.dumps({**base, "days": [1], "audience_topics": ["hep-ph", "physiks"]})
    assert "topic 'physiks'" in world.run("newsletter", "define", "-", given=document, human=True).text
    words = ("--newsletters", "mondays", "--topics", "hep-ph,cs.LGG", "--days", "tue")
    made = world.run("subscribe", "--email", f"{uuid.uuid4().hex}@example.org", *words).rows[0]
    assert (made["unknown_topics"], made["never_due"]) == ({"cs.LGG": ["cs.LG"]}, ["mondays"])
    one = made["subscriber_id"]
    changed = world.run("prefer", one, "--days", "mon-wed", "--newsletter-time", "usual").rows[0]
    assert (changed["changed"], changed["newsletter_time"]) == (["days", "newsletter_time"], "usual")
    assert "never_due" not in changed
    far = world.run("prefer", one, "--topics", "hep-phh,beekeeping", human=True).text
    assert "has the topic 'hep-phh' (the nearest known: hep-ph)" in far
    assert "has the topic 'beekeeping'; it counts from the first one on" in far
    assert "mondays: Wants issues when they usually read: 0 times" in changed["usual_hour"][0]
    said = world.run("prefer", one, "--days", "sat", "--newsletter-time", "07:30", human=True).text
    assert "newsletter_time  07:30" in said
    assert "'mondays' comes on no day that they take newsletters on" in said
    assert "nearest are 23:45 and 00:00" in world.run("prefer", one, "--newsletter-time", "23:50").error


def test_a_definition_with_an_unknown_template_is_refused(world: World) -> None:
    """With those that there are; the same for a variant. Nothing is defined."""
    variants = [{"name": "a", "weight": 0.5}, {"name": "b", "weight": 0.5, "template": "standard"}]
    fine = json.dumps({**OTHER, "newsletter_id": "fine"})
    for fields in ({"template": "standard"}, {"variants": variants}):
        answer = world.run("newsletter", "define", "-", given=f"{fine}\n{json.dumps({**OTHER, **fields})}")
        assert answer.code == 2, answer.rows
        assert "there is no template standard; there are digest, newsletter" in answer.error
    assert not {"fine", "other"} & {event.key for event in world.events(world.topics.newsletters)}


def test_checks_templates_of_ones_own(world: World, tmp_path: Path) -> None:
    """Every template with its version; one that is wrong with its problem, and exit code 1. It stops only who uses it."""
    fine = world.run("preview", "--check")
    assert fine.code == 0
    assert {row["template"] for row in fine.rows} == {"alert", "digest", "newsletter"}
    (tmp_path / "ours.mjml").write_text("<mjml>\n[[ oops")
    (tmp_path / "ours.txt").write_text("")
    world.environ["NEWSWIRE_TEMPLATES"] = str(tmp_path)
    try:
        wrong = world.run("preview", "--check")
        assert wrong.code == 1
        (row,) = [row for row in wrong.rows if row["template"] == "ours"]
        assert "ours.mjml, line 2" in row["problems"]
        for words, given in (
            (("preview", "daily"), None),
            (("newsletter", "define", "-"), json.dumps({**OTHER, "template": "digest"})),
        ):
            judged = world.run(*words, given=given or "")
            assert (judged.code, "ours.mjml, line 2" in judged.error) == (0, True), judged.error
        refused = world.run("newsletter", "define", "-", given=json.dumps({**OTHER, "template": "ours"}))
        assert (refused.code, "template: ours cannot be used. ours.mjml, line 2" in refused.error) == (2, True), refused.error
    finally:
        del world.environ["NEWSWIRE_TEMPLATES"]


@pytest.mark.parametrize("channel", ["email", "slack", "discord", "webhook"])
def test_is_handed_to_the_inbox_of_the_sandbox(world: World, sandbox: SandboxProcess, channel: str) -> None:
    """As the provider's client would send it: the page shows the message, and no delivery is named."""
    given: dict[str, Any] = {
        "NEWSWIRE_INBOX_URL": f"{sandbox.url}/",
        "NEWSWIRE_SES_ENDPOINT_URL": f"{sandbox.url}/ses",
        "NEWSWIRE_SLACK_BASE_URL": f"{sandbox.url}/slack/api/",
        "NEWSWIRE_DISCORD_BASE_URL": f"{sandbox.url}/discord/api/v10",
    }
    world.environ.update(given)
    try:
        answer = world.run("preview", "daily", "--channel", channel, "--inbox")
        assert answer.code == 0, answer.error
        assert answer.rows[0]["inbox"] == f"{sandbox.url}/"
        assert sandbox.counts()[channel if channel != "email" else "ses"] == 1, sandbox.counts()
        assert "newest paper" in sandbox.text("/") or "Daily Brief" in sandbox.text("/")
        world.environ["NEWSWIRE_LIVE"] = "1"
        assert "there is no sandbox" in world.run("preview", "daily", "--channel", channel, "--inbox").error
    finally:
        for name in (*given, "NEWSWIRE_LIVE"):
            world.environ.pop(name, None)
