"""Tests of the fitted model: carrying against a slow, obvious reference, alone and together, the round trip, and bad models."""

import math
from dataclasses import replace

import numpy as np
import pytest

from core.model import ALIKE, ALIKE_PART, KNOWN_PART, NEIGHBOURS, NEW_ENTRIES, OWN_PART, Model, NewItem, Sigmas, load, words_of
from core.packing import pack, unpack
from core.vectors import centred, to_int8, unit_rows
from streams.fitting import fit

WORDS = ["cell", "protein", "network", "graph", "learning", "kernel", "market", "price", "climate", "ocean", "ökologie", "行動"]


def made_up(count: int = 400, seed: int = 0) -> list[NewItem]:
    rng = np.random.default_rng(seed)
    vectors = to_int8(rng.normal(size=(count, 16)))
    return [
        NewItem(
            f"pub-{place:05d}",
            " ".join(rng.choice(WORDS, 4)),
            vectors[place].tobytes() if place % 7 else None,
            tuple((f"topic-{topic}", 1.0) for topic in rng.choice(9, int(rng.integers(0, 4)), replace=False)),
        )
        for place in range(count)
    ]


def fitted(items: list[NewItem]) -> Model:
    rng = np.random.default_rng(1)
    reader = np.repeat(np.arange(150), 12)
    return fit("v1", "some-model", items, reader, rng.integers(0, len(items), len(reader)), rng.integers(1, 5, len(reader)))


@pytest.fixture(scope="module")
def model() -> Model:
    return fitted(made_up())


@pytest.fixture(scope="module")
def new() -> list[NewItem]:
    return [replace(item, publication_id=f"new-{place}") for place, item in enumerate(made_up(150, seed=5))]


def cosine(left: dict[str, float], right: dict[str, float]) -> float:
    lengths = math.sqrt(sum(v * v for v in left.values())) * math.sqrt(sum(v * v for v in right.values()))
    return sum(value * right.get(name, 0) for name, value in left.items()) / lengths if lengths else 0.0


def slowly(model: Model, items: dict[str, NewItem], item: NewItem) -> tuple[np.ndarray, np.ndarray]:
    """Factor and reading column of a new publication, item by item in double precision."""
    rarity = dict(zip(model.words, model.word_weights.tolist(), strict=True))

    def texts(title: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for word in words_of(title):
            if word in rarity:
                found[word] = found.get(word, 0) + rarity[word]
        return found

    def vector(entry: NewItem) -> np.ndarray:
        raw = np.frombuffer(entry.vector, np.int8) if entry.vector else np.zeros(len(model.mean), np.int8)
        return centred(raw[None], model.mean)[0].astype(float)

    likeness = np.array(
        [
            vector(item) @ vector(items[name])
            + 0.25 * cosine(texts(item.title), texts(items[name].title))
            + 0.5 * cosine(dict(item.topics), dict(items[name].topics))
            for name in model.items
        ]
    )
    order = np.argsort(-likeness, kind="stable")[:ALIKE]
    order = order[likeness[order] > 0]
    share = likeness[order] ** 3
    near, part = order[:NEIGHBOURS], share[:NEIGHBOURS]
    factor = (part[:, None] * unit_rows(model.factors)[near]).sum(axis=0)
    column = (part / np.linalg.norm(part)) @ model.columns.dense()[near]
    column[order] += ALIKE_PART * share / share.sum()
    column[np.argsort(-np.abs(column), kind="stable")[NEW_ENTRIES:]] = 0
    return factor / np.linalg.norm(factor), column


def test_new_publications_are_placed_by_their_neighbours(model, new):
    """The formulas of core/model.py, worked out one item at a time."""
    items = {item.publication_id: item for item in made_up()}
    carried = model.carry(new[:20])
    for row, item in enumerate(new[:20]):
        factor, column = slowly(model, items, item)
        assert carried.factors[row] == pytest.approx(factor, abs=1e-5)
        there = carried.items[row] >= 0
        found = np.zeros(len(model.items))
        found[carried.items[row][there]] = carried.weights[row][there]
        assert found == pytest.approx(column, abs=1e-5)


def test_alone_and_together_give_the_same_bytes(model, new):
    """Whatever else is carried with it."""
    together = model.carry(new)
    for row, item in enumerate(new):
        alone = model.carry([item])
        for name in ("vectors", "factors", "items", "weights"):
            assert getattr(alone, name)[0].tobytes() == getattr(together, name)[row].tobytes()


def test_a_fitted_item_has_its_own_factor(model):
    """A publication that readers know is placed by them, not by its neighbours."""
    own = model.carry([NewItem(model.items[3], "", None, ())])
    assert own.factors[0] == pytest.approx(unit_rows(model.factors[3:4])[0])
    there = own.items[0] >= 0
    found = np.zeros(len(model.items))
    found[own.items[0][there]] = own.weights[0][there]
    assert found == pytest.approx(OWN_PART * model.columns.dense()[3], abs=1e-5)
    as_new = model.carry_as_new([item for item in made_up() if item.publication_id == model.items[3]])
    assert 3 not in as_new.items[0].tolist()
    assert [own.part.tolist(), as_new.part.tolist()] == [[pytest.approx(KNOWN_PART)], [1]]


def test_what_nothing_is_known_of_is_carried_to_zeros(model):
    """No vector, no known word, no known topic; a vector of another length is none."""
    for item in (NewItem("x", "", None, ()), NewItem("y", "zzz", b"\x01\x02", (("unheard", 1.0),))):
        carried = model.carry([item])
        assert not carried.vectors.any()
        assert not carried.factors.any()
        assert (carried.items == -1).all()
    assert len(model.carry([])) == 0


def test_readers_factors_are_the_fold_of_what_they_read(model):
    """Alone and in a batch, and zeros for who read nothing."""
    rng = np.random.default_rng(2)
    owner = np.sort(rng.integers(0, 300, 900))
    item, weight = rng.integers(0, len(model.items), 900), rng.random(900) + 0.1
    together = model.reader_factors(owner, item, weight, 300)
    for reader in range(300):
        mine = owner == reader
        alone = model.reader_factors(np.zeros(mine.sum(), dtype=np.int64), item[mine], weight[mine], 1)[0]
        assert alone.tobytes() == together[reader].tobytes()
        wanted = (np.minimum(weight[mine], 1) @ model.factors[item[mine]]) @ model.fold
        assert alone == pytest.approx(wanted / (np.linalg.norm(wanted) or 1), abs=1e-4)


def test_a_dumped_model_comes_back_equal(model):
    """Down to the bytes of its dump, and of what it says of a publication."""
    again = load(model.dump())
    assert again.dump() == model.dump()
    assert (again.version, again.vector_model, again.items, again.sigmas) == ("v1", "some-model", model.items, model.sigmas)
    assert again.carry(made_up(3)).weights.tobytes() == model.carry(made_up(3)).weights.tobytes()


def test_fitting_twice_gives_the_same_model(model):
    """Seeds are fixed."""
    assert fitted(made_up()).dump() == model.dump()


def test_a_model_of_nothing_is_a_model():
    """Nobody read anything, or there are no vectors and no topics."""
    nothing = np.zeros(0, dtype=np.int64)
    empty = load(fit("v0", None, made_up(5), nothing, nothing, nothing).dump())
    assert empty.items == ()
    assert not empty.carry(made_up(2)).factors.any()
    bare = [NewItem(str(place), "a title", None, ()) for place in range(5)]
    once = load(fit("v0", None, bare, np.array([0, 0, 1]), np.array([0, 1, 1]), np.ones(3)).dump())
    assert once.vector_model is None
    assert np.isfinite(once.carry(bare).weights).all()


def spoiled(model: Model, name: str, change) -> bytes:
    head, arrays = unpack(model.dump())
    if name in arrays:
        arrays[name] = change(arrays[name])
    else:
        head[name] = change(head[name])
    return pack(head, {key: value for key, value in arrays.items() if value is not None})


def with_nan(array: np.ndarray) -> np.ndarray:
    array.ravel()[0] = np.nan
    return array


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("format", lambda value: 99, "format 99"),
        ("factors", with_nan, "NaN"),
        ("mean", with_nan, "NaN"),
        ("word_weights", lambda array: array * np.float32(np.inf), "NaN or infinite"),
        ("columns.values", with_nan, "NaN"),
        ("vectors", lambda array: array[:, :-1], "vectors"),
        ("fold", lambda array: array[:-1], "factors"),
        ("projection", lambda array: array[:-1], "projection"),
        ("factors", lambda array: array.astype(np.float64), "float64"),
        ("items", lambda names: names[:-1], "not"),
        ("items", lambda names: [*names[:-1], names[0]], "twice"),
        ("item_words.columns", lambda array: array + np.int32(10_000), "outside"),
        ("item_topics.columns", lambda array: array - np.int32(1_000), "outside"),
        ("columns.starts", lambda array: array[::-1].copy(), "rows"),
        ("sigmas", lambda sigmas: {**sigmas, "factors": 0.0}, "sigma of factors"),
        ("sigmas", lambda sigmas: {"unheard": 1.0}, "lacks a part"),
        ("mean", lambda array: None, "lacks a part"),
    ],
)
def test_bad_models_are_refused(model, name, change, told):
    """With what is wrong."""
    with pytest.raises(ValueError, match=told):
        load(spoiled(model, name, change))


def test_bytes_that_are_no_model_are_refused():
    with pytest.raises(ValueError, match="no packed state"):
        load(b"something else")


def test_sigmas_must_be_numbers_above_zero():
    with pytest.raises(ValueError, match="meaning"):
        Sigmas(meaning=math.nan)


def test_words_are_folded_and_cut():
    """Ten megabytes cost no more than a title."""
    assert words_of("A Ökologie, of CELLS-2") == ["ökologie", "of", "cells"]
    assert len(words_of("word " * 2_000_000)) == 200
