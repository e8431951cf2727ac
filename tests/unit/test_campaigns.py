"""Campaigns: the dry run's counts are those of the decision, a test send leaves no trace, and variants are decided and logged."""

from collections import Counter
from datetime import timedelta

import numpy as np
import pytest

from core.campaigns import DryRun, obstacle_to_test
from core.deciding import decide_newsletter
from core.experiments import variants_of
from core.newsletter_state import NewsletterState
from core.subscribers import subscriber_key
from core.verdicts import Place
from edge.campaigns import show
from runtime.output import Output
from tests.unit.deciding_samples import (
    NOW,
    RULES,
    Sample,
    available,
    fold,
    person,
    preferred,
    reader,
    registered,
    slot,
    topics,
    unsubscribed,
)

ANNA, BEN, CEM, DORA, EVA, FINN = (person(number) for number in range(1, 7))


def decide(state: NewsletterState, what: dict, chunk: int = 0) -> dict:
    return decide_newsletter(state, what, Place(3, 12, chunk, {"newswire.subscribers": 7}), what["slot_at"])


def remember(state: NewsletterState, value: dict) -> dict:
    state.apply(Sample("AudienceDecided", value))
    return value


def people(state: NewsletterState, value: dict) -> list[str]:
    return [entry["subscriber"].hex() for entry in value["chosen"]]


def many() -> NewsletterState:
    """Six subscribers, each of whom stands for another answer, and two publications."""
    paused = NOW + timedelta(days=3)
    return fold(
        NewsletterState(),
        reader(ANNA), reader(BEN, language="de", channel="slack", channels=["slack"]),
        reader(CEM, topics=topics("biology")), reader(DORA, paused_until=paused), [registered(EVA)],
        reader(FINN, zone="Asia/Tokyo"), available(1), available(2, "biology"),
    )  # fmt: skip


def counted(state: NewsletterState, what: dict) -> DryRun:
    run = DryRun()
    for chunk in range(what["chunks"]):
        run.add(state, what, chunk, what["slot_at"])
    return run


@pytest.mark.parametrize("chunks", [1, 3])
def test_a_dry_run_counts_what_is_decided(chunks: int) -> None:
    """Chunk by chunk it names the same numbers as the decisions, and every subscriber once."""
    what = slot(chunks=chunks, audience_topics=["physics"])
    state = many()
    run = counted(state, what)
    values = [decide(state, what, chunk) for chunk in range(chunks)]
    assert run.population == sum(value["population"] for value in values) == 6
    assert run.balance() == 0
    assert run.chosen == Counter({("email", "en", ""): 1, ("slack", "de", ""): 1})
    assert run.chosen.total() == sum(len(value["chosen"]) for value in values)
    assert run.gated == Counter({"paused": 1})
    assert sum(len(value["gated"]) for value in values) == 1
    assert +run.not_concerned == Counter({"subscription": 1, "topics": 1, "due": 1})
    assert run.items.total() == sum(len(entry["items"]) for value in values for entry in value["chosen"])
    assert run.publications.total() == run.items.total()


def test_a_dry_run_changes_nothing_and_knows_who_had_the_issue() -> None:
    """The state is the same afterwards; once the issue was decided, a dry run of the same slot says so."""
    state, what = many(), slot()
    before = state.dump()
    counted(state, what)
    assert state.dump() == before
    remember(state, decide(state, what))
    assert counted(state, what).not_concerned["had"] == 4 - 1  # all who are due but Dora, whose gate left her without one


def test_several_newsletters_have_each_their_own_audience() -> None:
    """Side by side in the state of one shard: each has its filters, and what one gave is not given by the other again."""
    state = fold(many(), preferred(ANNA, newsletters=["daily", "lab"]), preferred(CEM, newsletters=["lab"]))
    daily = remember(state, decide(state, slot(audience_topics=["physics"])))
    lab = remember(state, decide(state, slot(newsletter_id="lab", audience_topics=["physics", "biology"])))
    assert {entry["subscriber"] for entry in daily["chosen"]} == {subscriber_key(ANNA), subscriber_key(BEN)}
    assert {entry["subscriber"] for entry in lab["chosen"]} == {subscriber_key(CEM)}
    # Anna had all there is from the daily one: her issue of the other is empty, which is a gate and no silence
    assert [(entry["subscriber"], lab["reasons"][entry["reason"]]) for entry in lab["gated"]] == [
        (subscriber_key(ANNA), "empty_issue")
    ]
    assert counted(state, slot(newsletter_id="lab")).not_concerned["subscription"] == 4


# ---- a test send ----

TEST = "daily@2026-11-22T09:00Z#test-0123abcd"


def slot_of_a_test(who: str, **rules: object) -> dict:
    return slot(forced=True, **rules) | {"source_id": TEST, "test_subscriber": who}


def test_a_test_send_is_a_source_of_one_person() -> None:
    """Whatever the audience and the hour; its accounting is complete with one chunk of one shard."""
    value = decide(many(), slot_of_a_test(FINN, audience_topics=["medicine"]))
    assert [entry["subscriber"] for entry in value["chosen"]] == [subscriber_key(FINN)]
    assert (value["population"], value["not_concerned"], value["shards"], value["chunks"]) == (1, 0, 1, 1)
    assert value["issue_groups"] == ["2026-11-22T09:00Z#test-0123abcd"]


def test_nothing_of_a_test_send_is_remembered() -> None:
    """The real slot gives the same items afterwards; and a test shows items although they were given before."""
    state = many()
    tested = remember(state, decide(state, slot_of_a_test(ANNA)))
    real = remember(state, decide(state, slot()))
    anna = next(entry for entry in real["chosen"] if entry["subscriber"] == subscriber_key(ANNA))
    items = [[real["publications"][item["publication"]]["publication_id"] for item in anna["items"]]]
    items += [[tested["publications"][item["publication"]]["publication_id"] for item in tested["chosen"][0]["items"]]]
    assert items[0] == items[1]
    again = decide(state, slot_of_a_test(ANNA) | {"source_id": TEST + "e"})
    assert len(again["chosen"][0]["items"]) == len(items[0])
    assert state.decided.chunks_of(TEST, 9) == 1  # but decided it is: not a second time


def test_consent_holds_for_a_test() -> None:
    """Who unsubscribed, never subscribed, or is unknown, is sent none; the numbers still add up."""
    state = fold(many(), unsubscribed(ANNA, kind="newsletter", newsletter_id="daily"))
    for who, population in ((ANNA, 1), (EVA, 1), (person(99), 0)):
        value = decide(state, slot_of_a_test(who))
        assert (value["chosen"], value["gated"]) == ([], [])
        assert (value["population"], value["not_concerned"]) == (population, population)
        assert str(obstacle_to_test(state.table, RULES | {"newsletter_id": "daily"}, who, NOW)).startswith(("did not", "is no"))
    assert "paused" in str(obstacle_to_test(state.table, RULES | {"newsletter_id": "daily"}, DORA, NOW))
    assert obstacle_to_test(state.table, RULES | {"newsletter_id": "daily"}, FINN, NOW) is None
    only_chat = RULES | {"newsletter_id": "daily", "audience_channels": ["slack"]}
    assert "no verified channel" in str(obstacle_to_test(state.table, only_chat, FINN, NOW))


# ---- experiments ----


def variant(name: str, weight: float = 0.5, **own: object) -> dict:
    return {"name": name, "weight": weight, "subject": None, "template": None, "ranking": None, "local_minute": None, **own}


def crowd(count: int = 60) -> NewsletterState:
    """Readers of physics, for whom there is something about biology that is newer."""
    old = available(1, "physics", approved_at=NOW - timedelta(hours=30))
    new = available(2, "biology", approved_at=NOW - timedelta(hours=1))
    return fold(NewsletterState(), *(reader(person(number)) for number in range(1, count + 1)), old, new)


def test_everybody_has_the_variant_of_the_hash_and_the_decision_logs_it() -> None:
    """Exposure is part of the decision: the table of variants, and for each delivery its own."""
    rules = {"variants": [variant("control"), variant("short", subject="News")], "seed": "spring"}
    value = decide(crowd(), slot(**rules))
    keys = [entry["subscriber"] for entry in value["chosen"]]
    assert value["variants"] == ["control", "short"]
    assert [look["subject"] for look in value["looks"]] == [RULES["subject"], "News"]
    assert [entry["variant"] for entry in value["chosen"]] == variants_of("daily", RULES | rules, keys).tolist()
    assert len({entry["variant"] for entry in value["chosen"]}) == 2
    assert (decide(crowd(), slot())["variants"], len(decide(crowd(), slot())["looks"])) == ([], 1)
    assert {entry["variant"] for entry in decide(crowd(), slot())["chosen"]} == {-1}


def test_each_variant_is_ranked_by_its_own_policy() -> None:
    """Those of `recent` get the newest first, the others what they declared; alone each gets the same as in the crowd."""
    rules = {"variants": [variant("control"), variant("newest", ranking="recent")], "max_items": 1}
    state = crowd()
    value = decide(state, slot(**rules))
    names = {place: item["content_offset"] for place, item in enumerate(value["publications"])}
    got = {(entry["variant"], names[entry["items"][0]["publication"]]) for entry in value["chosen"]}
    assert got == {(0, 1), (1, 2)}
    reasons = {(entry["variant"], value["reasons"][entry["items"][0]["reason"]]) for entry in value["chosen"]}
    assert len(reasons) == 2
    run = counted(state, slot(**rules))
    assert run.chosen.total() == 60
    assert {key[2] for key in run.chosen} == {"control", "newest"}


def test_the_hour_of_a_variant_is_the_hour_of_its_subscribers() -> None:
    """At the newsletter's hour only the control is due, at the variant's the others; an own hour goes before both."""
    rules = {"variants": [variant("control"), variant("early", local_minute=420)]}
    state = fold(crowd(), preferred(person(1), local_minute=600))
    at = {hour: decide(state, slot(NOW.replace(hour=hour), **rules)) for hour in (7, 9, 10)}
    assert {entry["variant"] for entry in at[7]["chosen"]} == {1}
    assert {entry["variant"] for entry in at[9]["chosen"]} == {0}
    assert [entry["subscriber"] for entry in at[10]["chosen"]] == [subscriber_key(person(1))]
    assert sum(len(value["chosen"]) for value in at.values()) == 60
    assert np.sum([value["population"] for value in at.values()]) == 180


def test_a_dry_run_says_in_words_that_no_model_is_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    """For people; a program is given null, and both the version of one that is."""
    show(Output(), slot(), DryRun())
    assert (
        "model             none is in use: ranked by topics, by content and by what each one has read" in capsys.readouterr().out
    )
    show(Output(json_mode=True), slot(), DryRun())
    assert '"model":null' in capsys.readouterr().out
    show(Output(), slot() | {"model_version": "20261122-1"}, DryRun())
    assert "model             20261122-1\n" in capsys.readouterr().out
