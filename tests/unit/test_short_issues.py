"""Tests of how long an issue is: what does not concern its reader does not fill it."""

from datetime import timedelta

from core.deciding import decide_newsletter
from core.explain import explain_newsletter
from core.newsletter_state import NewsletterState
from core.verdicts import Place
from tests.unit.deciding_samples import (
    NOW,
    Sample,
    available,
    clicked,
    fold,
    person,
    reader,
    slot,
    topics,
)
from tests.unit.test_decide_personal import ANNA, BEN, OLD, decide, issue, reasons


def sizes(value: dict, *of: str) -> list[int]:
    return [sum(reason.split(":")[0] in of for reason in reasons(value, entry)) for entry in range(len(value["chosen"]))]


def test_an_issue_is_shorter_rather_than_filled_with_what_concerns_nobody():
    """As much of other topics as of their own, and three of ten; who declared nothing and read little gets ten, `why` says it."""
    few = [reader(ANNA), reader(BEN, topics=topics("art")), reader(person(3), topics=[]), reader(person(4), topics=[])]
    content = [*(available(n, "physics") for n in range(2)), *(available(n, "art") for n in range(2, 6)),
               *(available(n, "maths") for n in range(6, 30))]  # fmt: skip
    read = [available(number, "music", **OLD) for number in range(50, 53)]
    state = fold(NewsletterState(), few, content, read, clicked(person(3), 50), [clicked(person(4), n) for n in range(50, 53)])
    value = decide(state)
    assert [len(entry["items"]) for entry in value["chosen"]] == [4, 7, 10]
    assert [value["reasons"][entry["reason"]] for entry in value["gated"]] == ["empty_issue"]
    assert [sizes(value, "topic"), sizes(value, "new")] == [[2, 4, 0], [2, 3, 10]]
    anna, nobody = (explain_newsletter(state, slot(), who, NOW) for who in (ANNA, person(4)))
    assert anna.because[1].startswith("Has 4 items and not 10: what else there is, they had or read before")
    assert nobody.because[-1].endswith("of what they follow or read about.")
    assert [len(decide(state, exploration=0.5, max_items=most)["gated"]) for most in (1, 2, 3)] == [1, 1, 1]
    explored = decide(state, exploration=0.1)
    assert [len(entry["items"]) for entry in explored["chosen"]] == [5, 8, 10]
    assert [reasons(explored, entry)[-1] for entry in (0, 1)] == ["explore", "explore"]
    assert len(decide(state, ranking="recent")["chosen"]) == 4
    test = slot() | {"source_id": "daily@2026-11-22T09:00Z#test-1", "test_subscriber": person(4)}
    assert len(decide_newsletter(state, test, Place(0, 12, 0, {}), NOW)["chosen"][0]["items"]) == 10


def test_what_was_not_sent_waits_for_the_next_issue():
    """When there is something of theirs, what is new elsewhere comes beside it."""
    state = fold(NewsletterState(), reader(ANNA), available(6, **OLD), [available(n, "art") for n in range(5)])
    value = decide(state)
    assert (value["chosen"], len(value["gated"])) == ([], 1)
    fold(state, Sample("AudienceDecided", value), [available(7), available(8)])
    later = decide_newsletter(state, slot(NOW + timedelta(days=1)), Place(0, 12, 0, {}), NOW + timedelta(days=1))
    assert issue(later)[:2] == [7, 8]
    assert (sizes(later, "topic"), sizes(later, "new")) == ([2], [2])


def test_a_newsletter_about_other_topics_than_its_reader_follows_comes_full():
    """They subscribed to it for another reason; it would never come. What else there is of other content types says nothing."""
    other = available(6, content_type="report")
    read = [available(n, "music", content_type="report") for n in range(50, 53)]
    state = fold(NewsletterState(), reader(ANNA), reader(BEN, topics=[]), other, read, [available(n, "art") for n in range(5)])
    fold(state, [clicked(BEN, n) for n in range(50, 53)])
    value = decide(state, content_types=["article"])
    assert [len(entry["items"]) for entry in value["chosen"]] == [5, 5]
    everything = decide(state)
    assert ([len(entry["items"]) for entry in everything["chosen"]], len(everything["gated"])) == ([2], 1)


def test_more_of_a_topic_comes_before_what_concerns_nobody():
    """topic_share gives way to nothing but what concerns the reader."""
    content = [available(n) for n in range(20)] + [available(n, "maths") for n in range(20, 40)]
    content += [available(40, "art"), available(41, "music")]
    state = fold(NewsletterState(), reader(ANNA, topics=topics("physics", "art", "music")), content)
    assert sizes(decide(state, topic_share=0.4), "topic") == [7]


def test_publications_without_topics_fill_an_issue():
    """Nobody can say whom they concern, much read or not; and who read only such has no topics to limit an issue by."""
    bare = [available(n, topics=[]) for n in range(60, 64)]
    others = [reader(person(n), newsletters=[]) for n in range(10, 20)]
    state = fold(NewsletterState(), reader(ANNA), others, bare)
    fold(state, [clicked(person(n), number, 0.1) for n in range(10, 20) for number in (60, 61, 62, 63)])
    assert reasons(decide(state)) == ["popular"] * 4
    read = [available(n, topics=[], **OLD) for n in range(50, 53)]
    told = fold(NewsletterState(), reader(BEN, topics=[]), read, [available(n, "art") for n in range(9)])
    assert len(issue(decide(fold(told, [clicked(BEN, n) for n in range(50, 53)])))) == 9
