"""Tests of admission: contracts, duplicates and the gate."""

from datetime import timedelta

import pytest

from core.approval import CONTENT_FIELDS, Publications, content_sha256, gate
from core.errors import EventRefused
from tests.unit.deciding_samples import NOW, Sample, publication, topics

SUBMITTED = {
    "publication_id": publication(1),
    "revision": 1,
    "content_type": "article",
    "title": "Title",
    "summary": "Summary",
    "body": None,
    "url": "https://example.org/1",
    "authors": ["A"],
    "topics": topics("physics"),
    "language": "en",
    "published_at": NOW,
    "attributes": {"b": "2", "a": "1"},
}


def submit(known: Publications, offset: int, **changes) -> tuple:
    value = SUBMITTED | changes
    known.apply(Sample("PublicationSubmitted", value), offset)
    return value, offset


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"publication_id": "1"}, "publication_id"),
        ({"publication_id": publication(1).upper().replace("0", "A", 1)}, "publication_id"),
        ({"revision": 0}, "revision"),
        ({"content_type": " "}, "content_type"),
        ({"title": " "}, "title"),
        ({"title": "x" * 2001}, "title"),
        ({"body": "x" * 10_000_000}, "body"),
        ({"body": "x" * 300_000, "authors": ["語" * 500] * 900}, "authors"),
        ({"url": "ftp://example.org"}, "url"),
        ({"url": "/relative"}, "url"),
        ({"url": "http://[broken"}, "url"),
        ({"language": "english language"}, "language"),
        ({"topics": [{"topic": "x", "weight": 1.5}]}, "topics"),
        ({"topics": [{"topic": " ", "weight": 0.5}]}, "topics"),
    ],
)
def test_a_submission_that_breaks_a_rule_is_refused_by_field(changes, field):
    """The message names the field, and the fold ignores the submission."""
    known = Publications()
    submitted = submit(known, 0, **changes)
    assert known.known == {}
    with pytest.raises(EventRefused) as refused:
        known.accepted(*submitted)
    assert refused.value.field == field


def test_hash_does_not_depend_on_order_or_type_of_numbers_of_fields():
    """The canonical content is what counts."""
    shuffled = {name: SUBMITTED[name] for name in reversed(list(SUBMITTED))} | {"attributes": {"a": "1", "b": "2"}}
    assert content_sha256(shuffled) == content_sha256(SUBMITTED)
    assert all(
        content_sha256(SUBMITTED | {name: "x"}) != content_sha256(SUBMITTED) for name in CONTENT_FIELDS if name != "published_at"
    )


def test_the_same_revision_with_the_same_content_is_a_duplicate():
    """It changes nothing, at whatever offset."""
    known = Publications()
    first = known.accepted(*submit(known, 0))
    assert first is not None
    assert known.accepted(*submit(known, 7)) is None
    assert known.accepted(SUBMITTED, 0) is first


@pytest.mark.parametrize("name", [name for name in CONTENT_FIELDS if name != "published_at"])
def test_the_same_revision_with_other_content_is_refused_by_field(name):
    """The first differing field is named."""
    others = {"url": "https://example.org/2", "topics": topics("art"), "authors": [], "attributes": {}, "language": "de"}
    known = Publications()
    submit(known, 0)
    with pytest.raises(EventRefused) as refused:
        known.accepted(*submit(known, 1, **{name: others.get(name, "x")}))
    assert refused.value.field == name


def test_a_lower_revision_than_known_is_refused():
    """A higher one replaces, and names what changed."""
    known = Publications()
    submit(known, 0)
    third = known.accepted(*submit(known, 1, revision=3, title="New", summary="Other"))
    assert third is not None
    assert third.previous == 1
    assert known.changed_fields(publication(1), 3) == ["title", "summary"]
    with pytest.raises(EventRefused) as refused:
        known.accepted(*submit(known, 2, revision=2))
    assert refused.value.field == "revision"


def test_the_verdict_does_not_depend_on_how_far_the_fold_has_got():
    """A submission that is read again after later ones gets the verdict that it had."""
    known = Publications()
    first = submit(known, 0)
    verdict = known.accepted(*first)
    submit(known, 1, revision=2, title="New")
    known.apply(Sample("PublicationRetracted", {"publication_id": publication(1)}), 2)
    assert known.accepted(*first) is verdict
    assert known.known[publication(1)].retracted


def test_own_events_say_what_was_done():
    """A score is not asked for again, and a settled revision is done."""
    known = Publications()
    revision = known.accepted(*submit(known, 0))
    identity = {"publication_id": publication(1), "revision": 1}
    known.apply(
        Sample(
            "PublicationScored",
            identity | {"quality": 0.9, "scorer": "s", "scored_at": NOW, "vector": None, "vector_model": None},
        ),
        1,
    )
    known.apply(Sample("PublicationScored", identity | {"quality": 0.1, "scorer": "t", "scored_at": NOW}), 2)
    assert (revision.quality, revision.settled) == (0.9, False)
    known.apply(Sample("PublicationApproved", identity | {"approved_at": NOW}), 3)
    assert revision.settled


def test_the_time_of_the_first_approval_is_kept():
    """Whatever revisions follow."""
    known = Publications()
    for number in (1, 2):
        submit(known, number, revision=number, title=f"Title {number}")
        at = NOW + timedelta(days=number)
        known.apply(Sample("PublicationApproved", {"publication_id": publication(1), "revision": number, "approved_at": at}), 9)
    assert known.known[publication(1)].first_approved_at == NOW + timedelta(days=1)


def test_gates_are_strict():
    """Above 0.8 for newsletters, above 0.9 for alerts."""
    assert [(gate(q).newsletters, gate(q).alerts) for q in (0.8, 0.81, 0.9, 0.91)] == [
        (False, False),
        (True, False),
        (True, False),
        (True, True),
    ]
