"""Documents that people hand in: read, checked, and refused with the place and the field."""

import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from core.errors import EventRefused, InputError
from edge.newsletters import NEWSLETTER_DEFAULTS
from edge.publishing import publish
from runtime.directory import read_address, read_profile, registration_drafts
from runtime.documents import event_value, read_documents, read_value

ROOT = Path(__file__).parents[2]
AT = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
SUBSCRIBER = "0b5f8a3e-6f3e-4b64-9a39-0c8a3a6b0001"
PUBLICATION: dict[str, Any] = {
    "publication_id": "6f1d4f0e-4c0b-4a53-9f0f-6f9e2a6f3a11",
    "revision": 1,
    "content_type": "article",
    "title": "A paper",
    "summary": "On things.",
    "url": "https://example.org/p",
    "authors": ["Ada Lovelace"],
    "topics": {"hep-ph": 1.0},
    "language": "en",
    "published_at": "2026-11-21T08:30:00Z",
}
PERSON: dict[str, Any] = {
    "subscriber_id": SUBSCRIBER,
    "name": "Ada",
    "time_zone": "Europe/Berlin",
    "language": "en",
    "topics": {"hep-ph": 1.0, "hep-th": 0.5},
    "newsletters": ["daily"],
    "alerts": True,
    "channels": {"slack": "C024BE91L", "email": "ada@example.org"},
}


def documents(tmp_path: Path, text: str) -> list[Any]:
    file = tmp_path / "in.jsonl"
    file.write_text(text)
    return read_documents(str(file), io.StringIO())


def test_reads_an_object_an_array_and_lines(tmp_path: Path) -> None:
    """The form of the file follows from its content; a place says where each object stood."""
    assert [d.fields for d in documents(tmp_path, '{"a": 1}')] == [{"a": 1}]
    assert [d.place[-7:] for d in documents(tmp_path, '[{"a": 1}, {"a": 2}]')] == ["entry 1", "entry 2"]
    assert [d.place[-6:] for d in documents(tmp_path, '{"a": 1}\n\n{"a": 2}\n')] == ["line 1", "line 3"]
    assert [d.fields for d in read_documents("-", io.StringIO('{"a": 1}'))] == [{"a": 1}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ('{"a": 1}\n{"a"', "line 2: no JSON"),
        ('{"a": 1}\n7', "line 2: expected a JSON object"),
        ("[1]", "entry 1: expected a JSON"),
    ],
)
def test_names_the_line_that_is_no_document(tmp_path: Path, text: str, message: str) -> None:
    """One sentence says which line is wrong and how."""
    with pytest.raises(InputError, match=message):
        documents(tmp_path, text)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    """It says what to give instead."""
    with pytest.raises(InputError, match="there is no file"):
        read_documents(str(tmp_path / "none"), io.StringIO())


def test_topics_may_be_written_short() -> None:
    """An object of weights, or names alone, mean the same as the long form."""
    long = [{"topic": "hep-ph", "weight": 1.0}]
    for topics in (long, {"hep-ph": 1}, ["hep-ph"]):
        assert event_value("PublicationSubmitted", {**PUBLICATION, "topics": topics})["topics"] == long


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"title": ""}, "title"),
        ({"title": None}, "title"),
        ({"titel": "x"}, "titel"),
        ({"url": "ftp://example.org"}, "url"),
        ({"topics": {"a": 2}}, "topics"),
        ({"revision": 0}, "revision"),
        ({"revision": "1"}, "revision"),
        ({"published_at": "yesterday"}, "published_at"),
        ({"published_at": "2026-11-21T08:30:00"}, "published_at"),
        ({"publication_id": "no-uuid"}, "publication_id"),
    ],
)
def test_names_the_field_of_a_publication(change: dict[str, Any], field: str) -> None:
    """A rule that is broken is said with the name of its field."""
    with pytest.raises(EventRefused) as caught:
        event_value("PublicationSubmitted", {**PUBLICATION, **change})
    assert caught.value.field.startswith(field)


def test_suggests_the_field_that_was_meant() -> None:
    """A slip of the pen is recognised."""
    with pytest.raises(EventRefused, match="did you mean title"):
        event_value("PublicationSubmitted", {**PUBLICATION, "titel": "x"})


def test_registration_comes_in_order_with_ids_of_the_subscriber() -> None:
    """Registered, each address and its verification, preferences; the same person gives the same ids, another one others."""
    drafts = registration_drafts(read_profile(PERSON), SUBSCRIBER, AT)
    assert [draft.name for draft in drafts] == [
        "SubscriberRegistered",
        "ChannelLinked",
        "ChannelVerified",
        "ChannelLinked",
        "ChannelVerified",
        "PreferencesChanged",
    ]
    assert drafts[-1].value["channels"] == ["slack", "email"]
    assert [d.id for d in drafts] == [d.id for d in registration_drafts(read_profile({**PERSON, "name": "B"}), SUBSCRIBER, AT)]
    other = registration_drafts(read_profile(PERSON), "0b5f8a3e-6f3e-4b64-9a39-0c8a3a6b0002", AT)
    assert not {d.id for d in drafts} & {d.id for d in other}


def test_ids_do_not_depend_on_addresses() -> None:
    """A hash of an address in an id could be guessed back."""
    one = registration_drafts(read_profile(PERSON), SUBSCRIBER, AT)
    other = registration_drafts(
        read_profile({**PERSON, "channels": {"slack": "C0000000", "email": "b@example.org"}}), SUBSCRIBER, AT
    )
    assert [d.id for d in one] == [d.id for d in other]


def test_unverified_people_have_no_verification() -> None:
    """verified: false links the addresses and no more."""
    names = [d.name for d in registration_drafts(read_profile({**PERSON, "verified": False}), SUBSCRIBER, AT)]
    assert "ChannelVerified" not in names
    assert names.count("ChannelLinked") == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"time_zone": None}, "time_zone: is missing"),
        ({"language": "english!"}, "language"),
        ({"channels": {"fax": "1"}}, "channels.*fax"),
        ({"channels": {"email": "nobody"}}, "channels.email"),
        ({"channels": {"webhook": {"url": "https://example.org", "secret": "short"}}}, "channels.webhook"),
        ({"channels": ["email"]}, "channels: expected an object"),
        ({"topics": {"a": 0}}, "topics"),
        ({"quiet_hours": [{"start_minute": 0, "end_minute": 1440}]}, "quiet_hours"),
        ({"local_minute": 7}, "local_minute"),
        ({"urgent_channels": ["fax"]}, "urgent_channels"),
        ({"subscriber_id": "7"}, "subscriber_id"),
        ({"verified": "yes"}, "verified"),
        ({"name": " "}, "name"),
        ({"telephone": "1"}, "telephone"),
    ],
)
def test_names_the_field_of_a_subscriber(change: dict[str, Any], message: str) -> None:
    """Each wrong field is named as the document spells it."""
    with pytest.raises(InputError, match=message):
        read_profile({**PERSON, **change})


def test_an_address_is_never_repeated() -> None:
    """Messages go to logs and screens; addresses do not."""
    with pytest.raises(InputError) as caught:
        read_address("email", "secret.person(at)example.org")
    assert "secret.person" not in str(caught.value)
    assert "ada@example.org" not in repr(read_profile(PERSON))


def test_webhook_address_is_json() -> None:
    """The plaintext of a webhook's address is an object with url and secret."""
    given = {"url": "https://example.org/hook", "secret": "whsec_" + "bmV3c3dpcmUtZGVtby1zZWNyZXQtb2YtMzItYnl0ZXM="}
    assert json.loads(read_address("webhook", given)) == given


def test_a_webhooks_secret_is_checked_as_the_sink_reads_it() -> None:
    """whsec_ and 24 to 64 bytes, for the one before as well: what is taken here can be signed with later."""
    url, good = "https://example.org/hook", "whsec_" + "b" * 32
    assert read_address("webhook", {"url": url, "secret": good, "previous_secret": good})
    for secrets in ({"secret": "b" * 32}, {"secret": "whsec_bbbb"}, {"secret": good, "previous_secret": "b" * 32},
                    {"secret": good, "previous_secret": 5}):  # fmt: skip
        with pytest.raises(InputError, match="whsec_"):
            read_address("webhook", {"url": url, **secrets})


def test_the_sample_newsletter_is_one_and_the_page_shows_it() -> None:
    """Nothing is wrong with the definition in the README, which is the file that its next command defines."""
    (shown,) = re.findall(r"^```json\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert shown == (ROOT / "deploy/samples/newsletter.json").read_text()
    defaults = {**NEWSLETTER_DEFAULTS, "from_name": "x", "revision": 1, "defined_at": AT}
    value, faults = read_value("NewsletterDefined", {**defaults, **json.loads(shown)})
    assert faults == []
    assert value["topic_share"] == 0.4


def test_the_sample_publication_is_one() -> None:
    """The file that the README publishes; the example in the command's help is the same form."""
    sample = read_documents(str(ROOT / "deploy/samples/publications.jsonl"), io.StringIO())
    assert [event_value("PublicationSubmitted", one.fields)["revision"] for one in sample] == [1]
    shown = publish.epilog.partition("such as")[2] if publish.epilog else ""
    assert event_value("PublicationSubmitted", json.loads(shown))["language"] == "en"
