"""Tests of the fitting against slow, obvious references: EASE one column at a time, a reader's factor, and the sigmas."""

import math
from statistics import pstdev

import numpy as np
import pytest

from core.model import COLUMN_ENTRIES, Model, NewItem
from core.vectors import to_int8
from streams.fitting import EASE_LAMBDA, REGULARIZATION, fit

ITEMS, READERS = 30, 60


@pytest.fixture(scope="module")
def reads() -> list[tuple[int, int, float]]:
    """Reader, item and weight; some items are read together more often than others, and some pairs occur twice."""
    rng = np.random.default_rng(4)
    found = []
    for reader in range(READERS):
        for _ in range(8):
            item = int(rng.integers(0, ITEMS // 2)) * 2 + reader % 2
            found.append((reader, item, float(rng.integers(1, 5))))
    return found


@pytest.fixture(scope="module")
def items() -> list[NewItem]:
    rng = np.random.default_rng(5)
    vectors = to_int8(rng.normal(size=(ITEMS, 8)))
    words = ["ocean", "graph", "cell", "price", "kernel"]
    return [
        NewItem(f"pub-{n:02d}", " ".join(rng.choice(words, 3)), vectors[n].tobytes(), ((f"topic-{n % 4}", 1.0), ("all", 0.5)))
        for n in range(ITEMS)
    ]


@pytest.fixture(scope="module")
def model(items, reads) -> Model:
    reader, item, weight = (np.array(column) for column in zip(*reads, strict=True))
    return fit("v1", "some-model", items, reader, item, weight)


def test_reading_columns_are_those_of_ease(model, reads):
    """Each is the ridge regression of who read an item on who read the others (Steck 2019), whatever the weight."""
    who = np.zeros((READERS, ITEMS))
    for reader, item, _ in reads:
        who[reader, item] = 1
    assert ITEMS < COLUMN_ENTRIES, "nothing is cut"
    for item in range(ITEMS):
        others = [other for other in range(ITEMS) if other != item]
        left = who[:, others].T @ who[:, others] + EASE_LAMBDA * np.eye(len(others))
        wanted = np.zeros(ITEMS)
        wanted[others] = np.linalg.solve(left, who[:, others].T @ who[:, item])
        assert model.columns.dense()[item] == pytest.approx(wanted, abs=1e-5)


def test_a_readers_factor_is_the_ridge_regression_on_the_items_factors(model):
    """(YᵀY + λI) x = Σ weight·y, solved for each reader; a weight above 1 counts 1."""
    table = model.factors.astype(float)
    left = table.T @ table + REGULARIZATION * np.eye(table.shape[1])
    for history in ([(3, 1.0)], [(0, 0.5), (7, 4.0), (8, 0.25)]):
        right = sum(min(weight, 1) * table[item] for item, weight in history)
        wanted = np.linalg.solve(left, right)
        item, weight = (np.array(column) for column in zip(*history, strict=True))
        found = model.reader_factors(np.zeros(len(item), dtype=np.int64), item, weight, 1)[0]
        assert found == pytest.approx(wanted / np.linalg.norm(wanted), abs=1e-3)


def test_sigmas_are_the_spread_of_each_component(model, items, reads):
    """Over all pairs of these few readers and items, the items placed as if nobody had read them; topics count half."""
    carried = model.carry_as_new(items)
    topics = model.item_topics.dense().astype(float)
    vectors = model.locate(model.vectors).astype(float)
    spread: dict[str, list[float]] = {"meaning": [], "topics": [], "factors": [], "reading": []}
    for reader in range(READERS):
        weights: dict[int, float] = {}
        for who, item, weight in reads:
            if who == reader:
                weights[item] = weights.get(item, 0) + weight
        meant = sum(weight * vectors[item] for item, weight in weights.items())
        wanted = sum(weight * topics[item] for item, weight in weights.items())
        capped = {item: min(weight, 1) for item, weight in weights.items()}
        length = math.sqrt(sum(weight**2 for weight in capped.values()))
        history = np.array(list(weights)), np.array(list(weights.values()))
        factor = model.reader_factors(np.zeros(len(weights), dtype=np.int64), *history, 1)[0]
        for item in range(ITEMS):
            column = dict(zip(carried.items[item].tolist(), carried.weights[item].tolist(), strict=True))
            spread["meaning"].append(meant @ carried.vectors[item] / np.linalg.norm(meant))
            spread["topics"].append(2 * (wanted @ topics[item]) / np.linalg.norm(wanted))
            spread["factors"].append(float(factor @ carried.factors[item]))
            read_now = sum(weight * column.get(read, 0) for read, weight in capped.items())
            spread["reading"].append(0.75 * read_now / length**0.25)
    for name, values in spread.items():
        assert getattr(model.sigmas, name) == pytest.approx(pstdev(map(float, values)), rel=2e-3)
