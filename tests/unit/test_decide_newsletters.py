"""Tests of deciding newsletters: who is due, what is in an issue, every gate, and what is remembered."""

from datetime import UTC, datetime, timedelta

import pytest

from core.deciding import decide_newsletter
from core.explain import explain_newsletter
from core.newsletter_state import NewsletterState
from core.subscribers import subscriber_key
from core.verdicts import Place
from tests.unit.deciding_samples import (
    NOW,
    Sample,
    available,
    fold,
    linked,
    person,
    preferred,
    publication,
    reader,
    slot,
    topics,
    verified,
    withdrawn,
)

ANNA, BEN, CEM = person(1), person(2), person(3)


def decide(state: NewsletterState, what: dict | None = None, now: datetime | None = None, chunk: int = 0) -> dict:
    what = what or slot()
    return decide_newsletter(state, what, Place(0, 12, chunk, {"newswire.subscribers": 7}), now or what["slot_at"])


def remember(state: NewsletterState, value: dict) -> dict:
    state.apply(Sample("AudienceDecided", value))
    return value


def chosen(value: dict) -> list[bytes]:
    return [entry["subscriber"] for entry in value["chosen"]]


def items(value: dict, entry: int = 0) -> list[str]:
    return [value["publications"][item["publication"]]["publication_id"] for item in value["chosen"][entry]["items"]]


def scores(value: dict, entry: int = 0) -> list[int]:
    return [item["score"] for item in value["chosen"][entry]["items"]]


def item_reasons(value: dict, entry: int = 0) -> list[str]:
    return [value["reasons"][item["reason"]] for item in value["chosen"][entry]["items"]]


def gated(value: dict) -> list[tuple[str, str]]:
    names = [*value["channels"], "none"]
    return [(names[entry["channel"]], value["reasons"][entry["reason"]]) for entry in value["gated"]]


def test_only_who_is_due_at_this_minute_gets_an_issue():
    """09:00 in UTC is not 09:00 in Tokyo."""
    state = fold(NewsletterState(), reader(ANNA), reader(BEN, "Asia/Tokyo"), reader(CEM, newsletters=[]), available(1))
    value = decide(state)
    assert chosen(value) == [subscriber_key(ANNA)]
    assert (value["population"], value["not_concerned"], value["issue_groups"]) == (3, 2, ["2026-11-22T09:00"])
    assert chosen(decide(state, slot(datetime(2026, 11, 23, 0, 0, tzinfo=UTC)))) == [subscriber_key(BEN)]


def test_forced_slot_makes_every_subscriber_of_the_newsletter_due():
    """Whatever the local hour, under the slot's own group; gates still hold."""
    paused = preferred(CEM, paused_until=NOW + timedelta(days=1))
    state = fold(NewsletterState(), reader(ANNA), reader(BEN, "Asia/Tokyo"), reader(CEM), paused, available(1))
    value = decide(state, slot(NOW + timedelta(minutes=7), forced=True))
    assert chosen(value) == [subscriber_key(ANNA), subscriber_key(BEN)]
    assert value["issue_groups"] == ["2026-11-22T09:07Z"]
    assert gated(value) == [("email", "paused")]


@pytest.mark.parametrize(
    ("events", "rules", "expected"),
    [
        ([preferred(ANNA, paused_until=NOW + timedelta(seconds=1))], {}, ("email", "paused")),
        ([preferred(ANNA, channels=["slack"])], {}, ("none", "no_channel")),
        ([], {"audience_channels": ["slack"]}, ("none", "no_channel")),
        ([withdrawn(1)], {}, ("email", "empty_issue")),
        ([], {"content_types": ["report"]}, ("email", "empty_issue")),
        ([], {"min_quality": 0.95}, ("email", "empty_issue")),
    ],
)
def test_gate_names_its_reason(events, rules, expected):
    """Somebody who would have had an issue is gated, with the reason."""
    state = fold(NewsletterState(), reader(ANNA), available(1), events)
    value = decide(state, slot(**rules))
    assert value["chosen"] == []
    assert gated(value) == [expected]
    assert explain_newsletter(state, slot(**rules), ANNA, NOW).reason == expected[1]


def test_what_is_decided_too_late_is_gated_as_expired():
    """A slot more than a day old is not worth sending."""
    state = fold(NewsletterState(), reader(ANNA), available(1))
    assert gated(decide(state, now=NOW + timedelta(hours=24, minutes=1))) == [("email", "expired")]


@pytest.mark.parametrize(
    "rules", [{"audience_topics": ["art"]}, {"audience_tags": ["staff"]}, {"audience_languages": ["de"]}, {"days": [1]}]
)
def test_who_is_outside_the_audience_is_not_concerned(rules):
    """The audience of a newsletter is part of its definition."""
    state = fold(NewsletterState(), reader(ANNA), available(1))
    value = decide(state, slot(**rules))
    assert (value["not_concerned"], value["gated"], value["chosen"]) == (1, [], [])
    assert explain_newsletter(state, slot(**rules), ANNA, NOW).verdict == "not_concerned"
    matching = fold(state, preferred(ANNA, topics=topics("art", "physics"), tags=["staff"], language="de", local_minute=540))
    assert bool(decide(matching, slot(**rules))["chosen"]) == ("days" not in rules)


def test_quality_gate_of_newsletters_is_strict():
    """0.8 is not enough, whatever the newsletter says."""
    state = fold(NewsletterState(), reader(ANNA), available(1, quality=0.8), available(2, quality=0.80001))
    assert items(decide(state, slot(min_quality=0.1))) == [publication(2)]


def test_items_are_ranked_by_topics_and_say_why():
    """What matches the declared topics comes first, with its reason."""
    state = fold(NewsletterState(), reader(ANNA), available(1, "art"), available(2, "physics"), available(3, "art", "physics"))
    value = decide(state)
    assert items(value) == [publication(2), publication(3), publication(1)]
    assert item_reasons(value) == ["topic:physics", "topic:physics", "new:art"]
    assert scores(value) == sorted(scores(value), reverse=True)


def test_ties_go_to_the_smaller_publication_id():
    """Equal scores are in the order of publication_id, and max_items cuts."""
    state = fold(NewsletterState(), reader(ANNA), [available(number) for number in (5, 3, 9, 1)])
    assert items(decide(state, slot(max_items=3))) == [publication(1), publication(3), publication(5)]


def test_newer_content_scores_higher():
    """The score halves with each half-life."""
    old = available(1, approved_at=NOW - timedelta(hours=24))
    state = fold(NewsletterState(), reader(ANNA), old, available(2))
    value = decide(state)
    assert items(value) == [publication(2), publication(1)]
    first, second = scores(value)
    assert abs(second * 2 - first) <= 2


def test_content_older_than_max_age_is_left_out():
    """max_age_h counts from approval."""
    state = fold(NewsletterState(), reader(ANNA), available(1, approved_at=NOW - timedelta(hours=73)), available(2))
    assert items(decide(state)) == [publication(2)]


def test_engagement_changes_what_comes_first():
    """Reading art brings art up, though physics was declared; a proxy's opens weigh nothing."""
    read = [
        {"subscriber_id": ANNA, "publication_id": publication(10 + n), "occurred_at": NOW, "evidence": "click"} for n in range(6)
    ]
    base = [reader(ANNA), [available(10 + n, "art", approved_at=NOW - timedelta(days=10)) for n in range(6)]]
    base += [available(1, "art"), available(2, "physics")]
    state = fold(NewsletterState(), *base, [Sample("ContentClicked", value | {"link": 0}) for value in read])
    value = decide(state)
    assert items(value)[0] == publication(1)
    assert item_reasons(value)[0] == "history"
    proxied = fold(NewsletterState(), *base, [Sample("ContentOpened", value | {"evidence": "pixel_proxy"}) for value in read])
    assert items(decide(proxied))[0] == publication(2)


def test_a_reaction_taken_back_does_not_count():
    """Removing a reaction restores the ranking."""
    like = {"subscriber_id": ANNA, "publication_id": publication(1), "reaction": "comment", "occurred_at": NOW}
    state = fold(NewsletterState(), reader(ANNA), available(1), available(2))
    fresh = decide(state)
    fold(state, Sample("ReactionAdded", like), Sample("ReactionAdded", like))
    assert decide(state)["chosen"][0]["items"] != fresh["chosen"][0]["items"]
    fold(state, Sample("ReactionRemoved", like))
    assert decide(state) == fresh


def test_nothing_is_given_twice():
    """The next day's issue holds only what was not in the last."""
    state = fold(NewsletterState(), reader(ANNA), [available(number) for number in range(15)])
    first = remember(state, decide(state))
    second = decide(state, slot(NOW + timedelta(days=1)))
    assert len(items(first)) == 10
    assert sorted(items(first) + items(second)) == sorted(publication(number) for number in range(15))


def test_what_one_newsletter_gave_no_other_one_gives_again():
    """A subscriber of two newsletters over the same content, due at the same minute, gets each publication once."""
    state = fold(NewsletterState(), reader(ANNA, newsletters=["daily", "digest"]), [available(number) for number in range(15)])
    first = remember(state, decide(state))
    second = decide(state, slot(newsletter_id="digest"))
    assert len(items(first)) == 10
    assert sorted(items(first) + items(second)) == sorted(publication(number) for number in range(15))


def test_moving_to_another_zone_does_not_bring_the_same_issue_again():
    """One issue of a newsletter for one nominal local slot, wherever it was."""
    state = fold(NewsletterState(), reader(ANNA, "Asia/Tokyo"), [available(number) for number in range(30)])
    remember(state, decide(state, slot(datetime(2026, 11, 22, 0, 0, tzinfo=UTC))))
    fold(state, preferred(ANNA, time_zone="UTC"))
    value = decide(state)
    assert (value["chosen"], value["gated"], value["not_concerned"]) == ([], [], 1)
    assert "Already had" in explain_newsletter(state, slot(), ANNA, NOW).because[0]


def test_withdrawn_for_good_or_until_a_higher_revision():
    """A retraction is for ever; what was replaced comes back with its new revision."""
    state = fold(NewsletterState(), reader(ANNA), available(1), withdrawn(1, "replaced"), available(1))
    assert gated(decide(state)) == [("email", "empty_issue")]
    fold(state, available(1, revision=2))
    value = decide(state)
    assert value["publications"][0]["revision"] == 2
    fold(state, withdrawn(1), available(1, revision=3))
    assert gated(decide(state)) == [("email", "empty_issue")]


def test_rule_4_a_decision_applied_twice_changes_nothing():
    """What was given is a set."""
    state = fold(NewsletterState(), reader(ANNA), reader(BEN), [available(number) for number in range(12)])
    value = remember(state, decide(state))
    before = state.dump()
    remember(state, value)
    assert state.dump() == before


def test_rule_3_the_first_copy_of_a_chunk_is_the_one_that_counts():
    """A later copy with other items changes nothing."""
    state = fold(NewsletterState(), reader(ANNA), available(1), available(2))
    value = decide(state)
    first, later = dict(value), dict(value)
    for copy, item in ((first, 0), (later, 1)):
        copy["chosen"] = [dict(value["chosen"][0], items=[value["chosen"][0]["items"][item]])]
    remember(state, first)
    remember(state, later)
    left = decide(state, slot(NOW + timedelta(days=1)))
    assert items(left) == [items(value)[1]]


def test_alone_and_in_a_batch_give_the_same_answer():
    """Each person's issue is the same whether decided with a thousand others or explained alone, and in any order of folding."""
    names = [f"t{number}" for number in range(40)]
    people = [reader(person(n), topics=topics(*{*names[n % 40 :][:3], names[n * 7 % 40]})) for n in range(300)]
    content = [available(n, *{names[n % 40], names[n * 3 % 40], names[n * 11 % 40]}) for n in range(120)]
    state = fold(NewsletterState(), people, content)
    together = decide(state)
    backwards = fold(NewsletterState(), content[::-1], people[::-1])
    assert decide(backwards) == together
    for number in (0, 17, 255, 256, 299):
        alone = fold(NewsletterState(), [preferred(person(0), topics=topics(*names))], people[number], content)
        entry = chosen(together).index(subscriber_key(person(number)))
        mine = decide(alone)
        assert items(mine) == items(together, entry)
        assert [item["score"] for item in mine["chosen"][0]["items"]] == [
            item["score"] for item in together["chosen"][entry]["items"]
        ]


def test_state_survives_packing_and_topics_may_be_folded_in_any_order():
    """A loaded state decides and goes on as the dumped one; decisions may be folded before subscribers and content."""
    people = [reader(person(number), topics=topics("physics", f"t{number % 3}")) for number in range(70)]
    content = [available(number, "physics", f"t{number % 5}") for number in range(40)]
    engaged = [
        Sample(
            "ReactionAdded",
            {"subscriber_id": person(n), "publication_id": publication(n % 40), "reaction": "like", "occurred_at": NOW},
        )
        for n in range(70)
    ]
    state = fold(NewsletterState(), people, content, engaged)
    value = remember(state, decide(state))
    loaded = NewsletterState()
    loaded.load(state.dump())
    other = fold(NewsletterState(), Sample("AudienceDecided", value), engaged, content, people)
    assert loaded.dump() == state.dump() == other.dump()
    tomorrow = slot(NOW + timedelta(days=1))
    assert decide(loaded, tomorrow) == decide(state, tomorrow) == decide(other, tomorrow)


def test_own_minute_counts_instead_of_the_newsletters():
    """A subscriber's local_minute moves their issue."""
    state = fold(NewsletterState(), reader(ANNA, local_minute=18 * 60 + 15), available(1))
    assert decide(state)["chosen"] == []
    assert decide(state, slot(datetime(2026, 11, 22, 18, 15, tzinfo=UTC)))["chosen"]


def test_first_verified_channel_that_the_newsletter_uses():
    """audience_channels narrows the subscriber's own order."""
    state = fold(NewsletterState(), reader(ANNA), linked(ANNA, "slack", b"\x01s"), verified(ANNA, "slack"), available(1))
    entry = decide(state, slot(audience_channels=["slack", "discord"]))
    assert entry["channels"] == ["slack"]
    assert entry["chosen"][0]["address"] == b"\x01s"


def test_explanation_of_who_is_not_due_names_the_local_time():
    """A person asks why nothing came."""
    state = fold(NewsletterState(), reader(ANNA, "Asia/Tokyo"), reader(BEN, newsletters=[]), reader(CEM), available(1))
    assert "2026-11-22T18:00 in Asia/Tokyo" in explain_newsletter(state, slot(), ANNA, NOW).because[0]
    assert "not subscribed" in explain_newsletter(state, slot(), BEN, NOW).because[0]
    assert explain_newsletter(state, slot(), CEM, NOW).verdict == "chosen"
