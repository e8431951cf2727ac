"""Tests of personal issues: meaning, fitted models, policies, diversity, exploration, reasons, and replays."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from core.deciding import decide_newsletter
from core.explain import explain_newsletter
from core.model import Model, Sigmas, load, unit_sparse
from core.names import MAX_AGE_H, MAX_LATE_H
from core.newsletter_state import NewsletterState
from core.picking import READERS
from core.ranking import BATCH_ROWS
from core.space import PROJECTED_FROM, Space
from core.sparse import sparse_rows
from core.subscribers import subscriber_key
from core.vectors import from_int8, to_int8
from core.verdicts import Place
from tests.unit.deciding_samples import (
    NOW,
    Sample,
    available,
    clicked,
    counted,
    fold,
    person,
    publication,
    reader,
    slot,
    topics,
    withdrawn,
)

ANNA, BEN = person(1), person(2)
DIMENSIONS = 8
VECTOR_MODEL = "test:1"


def vector(*weights: float) -> dict:
    """A content vector that points along the first axes."""
    row = np.zeros((1, DIMENSIONS))
    row[0, : len(weights)] = weights
    return {"vector": to_int8(row)[0].tobytes(), "vector_model": VECTOR_MODEL}


def decide(state: NewsletterState, space: Space | None = None, **rules) -> dict:
    what = slot(**rules) | {"model_version": space.model.version if space and space.model else None}
    fold(state, counted(state))
    return decide_newsletter(state, what, Place(0, 12, 0, {}), NOW, space)


def issue(value: dict, entry: int = 0) -> list[int]:
    found = [value["publications"][item["publication"]]["publication_id"] for item in value["chosen"][entry]["items"]]
    return [int(publication_id[-4:], 16) for publication_id in found]


def reasons(value: dict, entry: int = 0) -> list[str]:
    return [value["reasons"][item["reason"]] for item in value["chosen"][entry]["items"]]


OLD = {"approved_at": NOW - timedelta(days=10)}


def meant() -> list[Sample]:
    """Two kinds of content that only the vectors tell apart, and one old publication of each, with a title."""
    content = []
    for n in range(6):
        own = [0.4 * (axis == n // 2) for axis in range(3)]  # so that none is nearly the same as another
        content.append(available(n, "physics", **vector(1, 0.1 * n, 0, 0, *own) if n % 2 else vector(0, 0, 1, 0.1 * n, *own)))
    return [
        *content,
        available(11, "physics", title="Odd ones", **vector(1), **OLD),
        available(10, title="Even", **vector(0, 0, 1), **OLD),
    ]


def test_what_was_read_brings_up_what_means_the_same():
    """Two readers with the same topics get different issues, and each item says what it is because of."""
    state = fold(NewsletterState(), reader(ANNA), reader(BEN), meant(), clicked(ANNA, 11), clicked(BEN, 10))
    value = decide(state, max_items=3)
    assert [sorted(issue(value, 0)), sorted(issue(value, 1))] == [[1, 3, 5], [0, 2, 4]]
    assert set(reasons(value, 0)) == {"read:Odd ones"}
    assert set(reasons(value, 1)) == {"read:Even"}
    because = explain_newsletter(state, slot(max_items=3), ANNA, NOW).because
    assert len([line for line in because if "Because you read “Odd ones”" in line]) == 3


def test_an_explanation_has_the_names_of_topics_that_mails_have():
    """A topic without a name is shown as it is."""
    state = fold(NewsletterState(), reader(ANNA, topics=topics("cs.CL")), [available(1, "cs.CL")])
    for names, said in (({"cs.CL": "Computation and Language"}, "Computation and Language"), ({}, "cs.CL")):
        because = explain_newsletter(state, slot(), ANNA, NOW, topic_names=names).because
        assert because[-1].endswith(f": You follow {said}.")


def test_what_was_read_does_not_come_in_an_issue():
    """Who clicked on it, wherever, has it already; who took a like back may get it."""
    state = fold(NewsletterState(), reader(ANNA), reader(BEN), [available(n) for n in range(3)], clicked(ANNA, 1))
    assert [issue(decide(state), 0), issue(decide(state), 1)] == [[0, 2], [1, 0, 2]]


def test_without_vectors_history_or_topics_there_is_an_issue():
    """Every cold start works: nobody read, nothing declared, no vector, vectors of some only, of another model."""
    content = [available(1, "art"), available(2, "maths", **vector(1)), available(3, **vector(0, 1) | {"vector_model": "other"})]
    state = fold(NewsletterState(), reader(ANNA, topics=[]), reader(BEN), content, clicked(BEN, 77))
    value = decide(state)
    assert sorted(issue(value)) == [1, 2, 3]
    assert set(reasons(value)) == {"new:art", "new:maths", "new:physics"}
    bare = fold(NewsletterState(), reader(ANNA), available(1, topics=[]))
    assert reasons(decide(bare)) == ["recent"]


def test_a_vector_of_another_length_is_none():
    """It is left out, and the publication is ranked without."""
    state = fold(NewsletterState(), reader(ANNA), meant(), available(7, **vector(1) | {"vector": b"\x01\x02"}), clicked(ANNA, 11))
    assert 7 in issue(decide(state))


def test_a_topic_that_one_reads_is_named_when_no_single_title_explains_an_item():
    """Not declared, but read: of the same topic, and about something else."""
    content = [available(1, "art", **vector(0, 1)), available(2, "maths", **vector(0, 0, 1))]
    state = fold(NewsletterState(), reader(ANNA, topics=[]), content, available(11, "art", title="A painter", **vector(1), **OLD))
    fold(state, clicked(ANNA, 11))
    value = decide(state)
    assert dict(zip(issue(value), reasons(value), strict=True)) == {1: "often:art", 2: "new:maths"}


def test_much_read_says_so():
    """What others engaged with, and nothing of this reader's own speaks for."""
    others = [reader(person(n), newsletters=[]) for n in range(10, 20)]
    state = fold(NewsletterState(), reader(ANNA, topics=[]), others, [available(n) for n in range(20)])
    fold(state, [clicked(person(n), 3, 0.1) for n in range(10, 20)])
    value = decide(state)
    assert (issue(value)[0], reasons(value)[0]) == (3, "popular")


def test_what_is_close_to_all_that_was_read_is_not_merely_popular():
    """Alike to no single title, and much read by others too."""
    lines = [[float(column == row) for column in range(7)] for row in range(7)]
    read = [available(50 + row, "art", title=f"Line {row}", **vector(*line), **OLD) for row, line in enumerate(lines)]
    others = [reader(person(n), newsletters=[]) for n in range(10, 20)]
    content = [available(1, "maths", **vector(*[1.0] * 7)), available(2, "maths", **vector(*[0.0] * 7, 1))]
    state = fold(NewsletterState(), reader(ANNA, topics=[]), others, read, content)
    fold(state, [clicked(ANNA, 50 + row) for row in range(7)])
    fold(state, [clicked(person(n), number, 0.1) for n in range(10, 20) for number in (1, 2)])
    value = decide(state)
    assert dict(zip(issue(value), reasons(value), strict=True)) == {1: "history", 2: "popular"}


def test_policies():
    """topics leaves meaning out, recent is by age alone, and the decision names the policy and the candidates."""
    content = [
        *meant(),
        available(6, "art", approved_at=NOW + timedelta(minutes=1)),
        available(8, "art", approved_at=NOW - timedelta(hours=9)),
    ]
    state = fold(NewsletterState(), reader(ANNA), content, clicked(ANNA, 11))
    blend, by_topics, recent = (decide(state, ranking=name) for name in ("blend", "topics", "recent"))
    assert [value["policy"] for value in (blend, by_topics, recent)] == ["blend-3", "topics-3", "recent-2"]
    assert issue(blend)[0] in (1, 3, 5)
    assert issue(by_topics)[:6] == [0, 1, 2, 3, 4, 5]
    assert issue(recent)[-1] == 8
    assert blend["candidate_set"] == recent["candidate_set"]
    assert blend["candidate_set"].startswith("8-")
    fold(state, withdrawn(8))
    assert decide(state)["candidate_set"] != blend["candidate_set"]


def test_an_issue_has_one_of_what_is_nearly_the_same():
    """Two versions by title or meaning: the better one, and the next issue may have the other. `why` names what it left out."""
    content = [
        available(1, title="On  Schrödinger’s cat"),
        available(2, title="On Schrodinger's CAT.", approved_at=NOW - timedelta(hours=3)),
        available(3, title="Cats, a survey", **vector(1, 0.1)),
        available(4, title="A survey of cats", approved_at=NOW - timedelta(hours=3), **vector(1)),
        available(5, title="Dogs", **vector(0, 1)),
    ]
    state = fold(NewsletterState(), reader(ANNA), content)
    for exploration in (0.0, 1.0):
        assert sorted(issue(decide(state, exploration=exploration))) == [1, 3, 5]
    because = explain_newsletter(state, slot(), ANNA, NOW).because
    (said,) = [line for line in because if "cat:" in line]
    assert said.endswith(f"Nearly the same, and therefore not beside it: {publication(2)}.")
    assert len([line for line in because if "Nearly the same" in line]) == 2


def test_no_issue_is_ten_times_the_same():
    """At most topic_share of the items have the same strongest topic, unless it is a larger part of what the reader cares for, or
    nothing else is left."""
    content = [available(n, "physics") for n in range(20)] + [available(n, "art") for n in range(20, 26)]
    wide = topics("physics", "art")
    state = fold(NewsletterState(), reader(ANNA, topics=wide), reader(BEN), content)
    limited, free = decide(state, topic_share=0.5), decide(state, topic_share=1.0)
    assert sum(number < 20 for number in issue(limited)) == 5
    assert sum(number < 20 for number in issue(limited, 1)) == 8, "Ben cares for nothing else"
    assert [sum(number < 20 for number in issue(free, entry)) for entry in (0, 1)] == [10, 10]
    few = fold(NewsletterState(), reader(ANNA), content[:20], available(30, "art"))
    assert sum(number < 20 for number in issue(decide(few, topic_share=0.5))) == 9


def test_the_last_item_explores_with_a_known_probability():
    """Seeded by source and subscriber: the same again, other for others, and its share of chance is recorded."""
    people = [reader(person(n), topics=[]) for n in range(200)]
    state = fold(NewsletterState(), people, [available(n) for n in range(60)])
    value = decide(state, exploration=1.0)
    drawn = [entry["items"][-1] for entry in value["chosen"]]
    assert [item["propensity"] for item in drawn] == [pytest.approx(1 / 51, abs=1e-6)] * 200
    assert {value["reasons"][item["reason"]] for item in drawn} == {"explore"}
    assert len({item["publication"] for item in drawn}) > 30
    assert all(item["propensity"] == 1 for entry in value["chosen"] for item in entry["items"][:-1])
    assert decide(state, exploration=1.0) == value
    assert all(item["propensity"] == 1 for entry in decide(state)["chosen"] for item in entry["items"])


def test_what_was_drawn_and_is_followed_says_so():
    """It is nothing different."""
    value = decide(fold(NewsletterState(), reader(ANNA), [available(n) for n in range(60)]), exploration=1.0)
    assert value["chosen"][0]["items"][-1]["propensity"] < 1
    assert set(reasons(value)) == {"topic:physics"}


def model(sigmas: Sigmas | None = None) -> Model:
    """Publication 12 was read by those who read 0, and 13 by those who read 1; publications 12 and 13 are alike otherwise."""
    raw = to_int8(np.eye(4, DIMENSIONS))
    columns = sparse_rows(np.array([0, 1, 2, 3]), np.array([2, 3, 0, 1]), np.full(4, 0.5), (4, 4))
    return Model(
        version="m1",
        vector_model=VECTOR_MODEL,
        items=tuple(publication(n) for n in (12, 13, 20, 21)),
        mean=from_int8(raw).mean(axis=0),
        projection=np.eye(DIMENSIONS, 6, dtype=np.float32),
        vectors=raw,
        words=(),
        word_weights=np.zeros(0, dtype=np.float32),
        item_words=unit_sparse([[]] * 4, {}),
        topics=(),
        item_topics=unit_sparse([[]] * 4, {}),
        factors=np.eye(4, dtype=np.float32),
        fold=np.eye(4, dtype=np.float32),
        columns=columns,
        sigmas=sigmas or Sigmas(),
        metrics={},
    )


def with_model() -> NewsletterState:
    read = [available(12, title="Twelve", **OLD), available(13, title="Thirteen", **OLD)]
    new = [available(20, title="Twenty"), available(21, title="Twenty-one")]
    return fold(NewsletterState(), reader(ANNA), reader(BEN), read, new, clicked(ANNA, 12), clicked(BEN, 13))


def test_a_fitted_model_ranks_by_who_read_what_together():
    """Without it both get the same order; with it each gets what was read together with theirs, and it says so."""
    without, value = decide(with_model()), decide(with_model(), Space(load(model().dump())))
    assert issue(without, 0) == issue(without, 1) == [20, 21]
    assert [issue(value, 0), issue(value, 1)] == [[20, 21], [21, 20]]
    assert [reasons(value, 0)[0], reasons(value, 1)[0]] == ["read:Twelve", "read:Thirteen"]
    assert (value["model_version"], without["model_version"]) == ("m1", None)
    assert decide(with_model(), Space(model()), ranking="topics")["model_version"] is None


def test_a_short_issue_with_a_model_has_reasons():
    """Fewer candidates than items, for a reader of the model's first publication: what is missing is asked for no reason."""
    content = [available(12, title="Twelve", **OLD), *(available(n) for n in (1, 2, 3, 4, 5, 6, 7, 20))]
    state = fold(NewsletterState(), reader(ANNA), content, clicked(ANNA, 12), clicked(ANNA, 1))
    value = decide(state, Space(model()), max_items=10)
    assert sorted(issue(value)) == [2, 3, 4, 5, 6, 7, 20]
    assert reasons(value)[issue(value).index(20)] == "read:Twelve"


@pytest.mark.parametrize("strange", [{"vector_model": "other:1"}, {"dimensions": 5}, {"words": ("unheard",)}])
def test_a_model_of_another_embedding_of_other_dimensions_or_of_other_words_ranks_by_what_it_knows(strange):
    """Vectors that mean nothing to it play no part; who read what together still does."""
    wide, known = strange.get("dimensions", DIMENSIONS), strange.get("words", ())
    raw = to_int8(np.eye(4, wide))
    other = replace(
        model(),
        vector_model=strange.get("vector_model", VECTOR_MODEL),
        mean=from_int8(raw).mean(axis=0),
        projection=np.eye(wide, 3, dtype=np.float32),
        vectors=raw,
        words=known,
        word_weights=np.ones(len(known), dtype=np.float32),
        item_words=unit_sparse([[(word, 1.0) for word in known]] * 4, {word: n for n, word in enumerate(known)}),
    )
    state = fold(with_model(), [available(n, title=f"Twenty {n}", **vector(0, 0, 0, 0, 0, 0, 0, 1)) for n in (30, 31)])
    value = decide(state, Space(load(other.dump())))
    assert [issue(value, 0)[0], issue(value, 1)[0]] == [20, 21]
    assert sorted(issue(value, 0)) == [20, 21, 30, 31]


def test_publications_are_carried_once_in_a_process():
    """Not once a chunk, shard or slot."""
    asked = []
    states = [with_model(), with_model()]

    class Counting(Space):
        def _item(self, content, row):
            asked.append(content.items[row].publication_id)
            return super()._item(content, row)

    space = Counting(model())
    for state in states:
        decide(state, space)
        decide(fold(state, available(22)), space, max_items=2)
    assert sorted(asked) == [publication(20), publication(21), publication(22)]


@pytest.mark.parametrize("size", [BATCH_ROWS, READERS])
def test_one_more_than_fits_into_a_batch(size):
    """The last reader gets an issue too, and the one that they would get alone."""
    people = [reader(person(n), topics=topics(f"t{n % 5}")) for n in range(size + 1)]
    content = [available(n, f"t{n % 5}", **vector(*np.random.default_rng(n).normal(size=8))) for n in range(20)]
    read = [clicked(person(size), number) for number in (3, 7)]
    value = decide(fold(NewsletterState(), people, content, read))
    assert len(value["chosen"]) == size + 1
    assert issue(value, size) == issue(decide(fold(NewsletterState(), people[size], content, read)))
    assert {3, 7}.isdisjoint(issue(value, size))


def test_many_candidates_are_compared_in_fewer_dimensions():
    """Who read of one kind gets that kind, alone and beside others, in any shard: the axes are those of the candidates."""
    rng, kinds = np.random.default_rng(0), 20
    lines = rng.normal(size=(kinds, PROJECTED_FROM // 2))[np.arange(PROJECTED_FROM) % kinds]
    raw = to_int8(lines + rng.normal(size=lines.shape))
    means = [{"vector": line.tobytes(), "vector_model": VECTOR_MODEL} for line in raw]
    read = [available(9_000, "art", title="Kind 0", **means[0], **OLD), available(9_001, title="Kind 1", **means[1], **OLD)]
    content = [*read, *(available(n, **one) for n, one in enumerate(means[2:], 2))]
    clicks = [clicked(ANNA, 9_000), clicked(BEN, 9_001), clicked(BEN, 9_000, 60)]
    state = fold(NewsletterState(), reader(ANNA), reader(BEN), [available(0), available(1)], content, clicks)
    warm = Space()
    value = decide(state, warm)
    assert {number % kinds for number in issue(value, 0)} == {0}
    assert {number % kinds for number in issue(value, 1)} == {1}
    assert set(reasons(value, 0)) == {"read:Kind 0"}
    alone = fold(NewsletterState(), content[::-1], reader(BEN), clicks, [available(1), available(0)])
    mine = decide(alone, warm)
    assert mine == decide(alone)
    assert [issue(mine), reasons(mine)] == [issue(value, 1), reasons(value, 1)]
    assert [item["score"] for item in mine["chosen"][0]["items"]] == [item["score"] for item in value["chosen"][1]["items"]]


def test_the_same_log_gives_the_same_issues_on_another_day():
    """Vectors, a fitted model, exploration and histories: folded again, from a snapshot, in other batches, byte for byte."""
    rng = np.random.default_rng(0)
    people = [reader(person(n), topics=topics("physics", f"t{n % 5}")) for n in range(300)]
    content = [available(n, "physics", f"t{n % 7}", title=f"T{n}", **vector(*rng.normal(size=8))) for n in range(80)]
    read = [clicked(person(n), int(rng.integers(80)), float(rng.uniform(0, 40))) for n in range(300) for _ in range(6)]
    rules = {"exploration": 0.1, "topic_share": 0.5}
    state = fold(NewsletterState(), people, content, read)
    for fitted in (None, model()):
        value = decide(state, Space(fitted), **rules)
        assert decide(fold(NewsletterState(), read, content, people), Space(fitted), **rules) == value
        warm = Space(fitted)
        decide(fold(NewsletterState(), people[:9], content[:40], read[:99]), warm, **rules)
        loaded = NewsletterState()
        loaded.load(state.dump())
        assert decide(loaded, warm, **rules) == value
        for number in (0, 255, 256, 299):
            alone = fold(NewsletterState(), people[number], content, read)
            entry = [one["subscriber"] for one in value["chosen"]].index(subscriber_key(person(number)))
            mine = decide(alone, Space(fitted), **rules)
            assert issue(mine) == issue(value, entry)
            assert [item["propensity"] for item in mine["chosen"][0]["items"]] == [
                item["propensity"] for item in value["chosen"][entry]["items"]
            ]


def test_the_oldest_that_may_be_chosen_is_in_a_packed_state():
    """A decider that starts anew, at the latest moment for a slot, chooses from the same."""
    late = timedelta(hours=MAX_LATE_H)
    content = [available(1, approved_at=NOW - timedelta(hours=MAX_AGE_H)), available(2, approved_at=NOW + late)]
    state, loaded = fold(NewsletterState(), reader(ANNA), content), NewsletterState()
    loaded.load(state.dump())
    assert issue(decide(state, max_age_h=MAX_AGE_H)) == issue(decide(loaded, max_age_h=MAX_AGE_H)) == [2, 1]
