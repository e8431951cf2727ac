"""Fixed phrases, reasons, numbers and dates in the reader's language; a language that nobody wrote phrases for is no error."""

import json
import re
from dataclasses import fields
from typing import Any

import pytest

from core.rendering import discord, slack, webhook
from core.rendering.email import newsletter_email
from core.rendering.model import IssueItem
from core.rendering.phrases import ENGLISH, GERMAN, Phrases, count_text, language_of, phrases_for, reason_text, told
from tests.rendering_samples import PUBLISHED, content, issue

BRACES = re.compile(r"\{[a-z]+\}")


def texts(value: Any) -> dict[str, str]:
    """Return the texts of phrases by path."""
    if isinstance(value, str):
        return {"": value}
    return {f"/{key}{rest}": text for key, inner in value.items() for rest, text in texts(inner).items()}


def all_texts(phrases: Phrases) -> dict[str, str]:
    return {
        f"{field.name}{rest}": text for field in fields(phrases) for rest, text in texts(getattr(phrases, field.name)).items()
    }


def test_german_has_every_phrase_of_english() -> None:
    """The same keys, the same values to be filled in, and nothing left in the other language."""
    english, german = all_texts(ENGLISH), all_texts(GERMAN)
    assert english.keys() == german.keys()
    for name, text in english.items():
        assert BRACES.findall(text) == BRACES.findall(german[name]), name
        assert text != german[name] or name in ("", "locale"), name


@pytest.mark.parametrize(
    ("wanted", "language"),
    [(["de-AT"], "de"), (["de_CH"], "de"), (["fr", "de"], "de"), (["fr-CA", "it"], "en"), (["", "de-DE"], "de"), ([], "en")],
)
def test_language_falls_back_step_by_step(wanted: list[str], language: str) -> None:
    """The tag, its primary language, the newsletter's languages, English."""
    assert language_of(*wanted) == language


@pytest.mark.parametrize(
    ("reason", "english", "german"),
    [
        ("topic:hep-ph", "You follow hep-ph", "Du folgst hep-ph"),
        ("read:A paper: part 2", "Because you read “A paper: part 2”", "Weil du „A paper: part 2“ gelesen hast"),
        ('read:Gr\\"obner bases', "Because you read “Gröbner bases”", "Weil du „Gröbner bases“ gelesen hast"),
        ("new:cs.CL", "New in cs.CL", "Neu in cs.CL"),
        ("often:cs.CL", "You often read cs.CL", "Du liest oft cs.CL"),
        ("popular", "Much read right now", "Wird gerade viel gelesen"),
        ("explore", "Something different", "Zur Abwechslung"),
        ("read:", "read:", "read:"),
        ("Chosen by the editors", "Chosen by the editors", "Chosen by the editors"),
    ],
)
def test_a_reason_is_a_sentence_in_the_readers_language(reason: str, english: str, german: str) -> None:
    """A code by its phrase; other words are shown as they are."""
    assert reason_text(reason, "en") == english
    assert reason_text(reason, "de") == german


def test_a_topic_has_the_name_that_readers_know() -> None:
    """In reasons and under titles, on every channel; its code stays where machines read, and where it has no name."""
    names = {"hep-ph": "Particle Physics", "cs.CL": "Language"}
    reasons = ("topic:hep-ph", "new:cs.CL", "topic:hep-th")
    items = tuple(IssueItem(content(n, topics=("hep-ph", "hep-th")), reason) for n, reason in enumerate(reasons))
    given = issue(items=items, topic_names=names)
    message = newsletter_email(given)
    for text in ("You follow Particle Physics", "New in Language", "You follow hep-th", "Particle Physics, hep-th"):
        assert text in message.text
        assert text in message.html.replace("\u2011", "-")
    assert "hep-th" not in message.html  # never broken at its hyphen
    for chat in (slack.newsletter_blocks(given), discord.newsletter_embeds(given)):
        assert "You follow Particle Physics" in str(chat)
    payload = json.loads(webhook.newsletter_payload(given, delivery_id="d", source_id="s", timestamp=PUBLISHED))
    first = payload["data"]["items"][0]
    assert (first["topics"], first["reason"]) == (["hep-ph", "hep-th"], "topic:hep-ph")
    assert first["reason_text"] == "You follow Particle Physics"


def test_a_reason_that_is_given_again_says_so() -> None:
    """Not the same sentence item for item; names may make two topics one."""
    told_twice = told(["read:A paper", "topic:a", "read:A paper", "topic:b", "new:a", "new:a", "popular", "popular"], {"b": "a"})
    assert [reason_text(reason, "en") for reason in told_twice] == [
        "Because you read “A paper”", "You follow a", "Also because you read “A paper”", "More in a", "New in a", "Also new in a",
        "Much read right now", "Also much read",
    ]  # fmt: skip
    assert (
        reason_text("again:read:" + "word " * 60, "de") == "Auch weil du „word word word word word word word word…“ gelesen hast"
    )


def test_a_subject_names_the_newsletter_and_the_first_title() -> None:
    """Each where it is asked for, and neither looked into for the other."""
    items = (IssueItem(content(title="On {newsletter}"), ""),)
    given = issue(items=items, newsletter_name="The {title} Brief", subject="{newsletter}: {title}")
    assert newsletter_email(given).subject == "The {title} Brief: On {newsletter}"


def test_a_long_title_is_shortened_inside_its_sentence() -> None:
    """So that the end of the sentence, and the closing quotation mark, stay."""
    assert re.fullmatch(r"Weil du „word( word)+…“ gelesen hast", reason_text("read:" + "word " * 60, "de"))


def test_numbers_and_dates_have_the_form_of_the_language() -> None:
    """By babel's data."""
    assert count_text(3_020, ENGLISH) == "3,020 picks for you"
    assert count_text(3_020, GERMAN) == "3.020 Beiträge für dich"
    german = newsletter_email(issue(1, language="de-CH")).text
    assert "Sonntag, 22. November 2026" in german
    assert "21.11.2026" in german


def test_a_publication_in_a_language_nobody_reads_is_shown_as_it_is() -> None:
    """Its own language is marked on its texts, the mail's on the mail; an unknown reader gets English."""
    item = IssueItem(content(language="tlh", title="nuqneH"), "topic:hep-ph")
    message = newsletter_email(issue(items=(item,), language="xx-YY"))
    assert '<html lang="en" dir="ltr"' in message.html
    assert 'dir="auto" lang="tlh"' in message.html
    assert "You follow hep\u2011ph" in message.html
    assert phrases_for("xx-YY") is ENGLISH
