"""Tests of the content of a shard: publications that shards share, and their vectors."""

import numpy as np

from core.content import ContentTable
from core.newsletter_state import NewsletterState
from tests.unit.deciding_samples import available, fold, publication, withdrawn


def vector_of(content: ContentTable, model: str, number: int) -> list[int]:
    row = content.index[publication(number)]
    return content.vectors(model, np.array([row]))[0].tolist()


def test_shards_share_a_publication_only_while_it_is_the_same():
    """What one shard folds changes nothing in another, and equal names with other content stay apart."""
    one, other, odd = (fold(ContentTable(), available(1, "physics", title="One")) for _ in range(3))
    assert one.items[0] is other.items[0]
    fold(one, withdrawn(1))
    assert (one.items[0].available, other.items[0].available) == (False, True)
    assert fold(ContentTable(), available(1, "physics", title="Other")).items[0].title == "Other"
    assert odd.items[0].title == "One"


def test_vectors_are_those_of_one_model_and_one_length():
    """One of another length, one of zeros, and one of another model are none; a revision without one has none."""
    content = ContentTable()
    fold(content, available(1, vector=b"\x01\x02", vector_model="m"), available(2, vector=b"\x01\x02\x03", vector_model="m"))
    fold(content, available(3, vector=b"\x00\x00", vector_model="m"), available(4, vector=b"\x05\x06", vector_model="n"))
    assert [vector_of(content, "m", number) for number in (1, 2, 3, 4)] == [[1, 2], [0, 0], [0, 0], [0, 0]]
    assert content.vector_model(np.arange(4)) == "m"
    fold(content, available(1, revision=2))
    assert vector_of(content, "m", 1) == [0, 0]
    assert content.vector_model(np.arange(3)) is None


def test_a_packed_state_has_the_vectors():
    """Of each model, and the same bytes again."""
    state = fold(NewsletterState(), available(2, vector=b"\x01\x80", vector_model="m"), available(1), withdrawn(3))
    fold(state, available(4, "chemistry", vector=b"\x07", vector_model="n"))
    again = NewsletterState()
    again.load(state.dump())
    assert again.dump() == state.dump()
    assert vector_of(again.content, "m", 2) == [1, -128]
    assert vector_of(again.content, "n", 4) == [7]
    assert again.content.items[again.content.index[publication(2)]] == state.content.items[0]
