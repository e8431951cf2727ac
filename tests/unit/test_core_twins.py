"""What is nearly the same is found by title and by meaning, and nothing else is."""

import numpy as np

from core.choosing import POOL, choose, pool_of
from core.ranking import Ranked
from core.twins import ALIKE, BLOCK_ROWS, twins
from core.vectors import to_int8


def groups(found: np.ndarray | None) -> set[tuple[int, ...]]:
    """The groups as places."""
    if found is None:
        return set()
    return {tuple(np.flatnonzero(found == number).tolist()) for number in set(found.tolist()) - {-1}}


def test_titles_are_the_same_but_for_case_accents_and_punctuation() -> None:
    """A title without a letter or digit is like no other."""
    none = np.zeros((7, 0), dtype=np.int8)
    assert groups(twins(["Café – I", "cafe: i", "Cafe II", "", " ", "—", "Cafe. II"], none)) == {(0, 1), (2, 6)}
    assert twins(["a", "b"], none[:2]) is None
    assert twins([], none[:0]) is None


def test_vectors_are_compared_with_all_others_however_many() -> None:
    """Against the obvious reference, over the borders of blocks; who has no vector is like nobody."""
    rng = np.random.default_rng(2)
    wide = rng.standard_normal((2 * BLOCK_ROWS + 10, 16))
    wide[-3], wide[7], wide[BLOCK_ROWS] = 2 * wide[4], wide[5] + 0.02, wide[4] + 0.01
    rows = to_int8(wide)
    rows[11] = rows[12] = 0
    unit = rows / np.maximum(np.linalg.norm(rows.astype(float), axis=1, keepdims=True), 1e-9)
    alike = np.argwhere(np.triu(unit @ unit.T > ALIKE, 1)).tolist()
    found = twins([f"title {'ab'[n % 2]}{chr(0x4E00 + n)}" for n in range(len(rows))], rows)
    assert found is not None
    assert {tuple(sorted(pair)) for pair in alike} <= {
        (one, other) for group in groups(found) for one in group for other in group if one < other
    }
    assert {4, BLOCK_ROWS, len(rows) - 3} in [set(group) for group in groups(found)]
    assert {place for group in groups(found) for place in group} == {place for pair in alike for place in pair}


def test_all_the_same_is_one_group() -> None:
    """Also where thousands are: nothing is compared in pairs one by one."""
    same = np.ones((3_000, 8), dtype=np.int8)
    assert groups(twins([chr(0x4E00 + n) for n in range(3_000)], same)) == {tuple(range(3_000))}


def test_parts_and_issues_of_a_series_are_not_the_same() -> None:
    """Their titles mean nearly the same, and their numbers tell them apart."""
    titles = ["Sources: Part I", "Sources, part II", "Report 12", "Report 13", "A report, no. 13"]
    assert groups(twins(titles, np.ones((5, 8), dtype=np.int8))) == {(3, 4)}
    assert twins(["Daily 1.12.2026", "Daily 11.2.2026"], np.zeros((2, 0), dtype=np.int8)) is None


def test_an_issue_is_full_although_hundreds_are_the_same() -> None:
    """As many more of the best are looked at as there are doubles, and POOL different ones are chosen from."""
    same = np.where(np.arange(POOL + 150) < POOL + 50, 0, -1)
    assert pool_of(None) == POOL
    assert pool_of(same) == POOL + POOL + 49
    score = np.arange(2 * POOL, 2 * POOL - len(same), -1)[None]
    ranked = Ranked(np.arange(len(same))[None], score)
    found = choose(ranked, np.full(len(same), -1), 10, 1.0, 0.0, np.zeros(1), same)
    assert found.candidate[0].tolist() == [0, *range(POOL + 50, POOL + 59)]


def test_the_best_of_a_group_is_chosen_by_each_reader() -> None:
    """And what is not left for one of them does not count."""
    ranked = Ranked(np.array([[0, 1, 2, 3], [1, 0, 3, 2], [1, 3, -1, -1]]), np.array([[9, 8, 7, 6], [9, 8, 7, 6], [9, 8, 0, 0]]))
    for exploration in (0.0, 0.5):
        found = choose(ranked, np.full(4, -1), 4, 1.0, exploration, np.zeros(3), np.array([5, 5, -1, 0]))
        assert [sorted(row[row >= 0].tolist()) for row in found.candidate] == [[0, 2, 3], [1, 2, 3], [1, 3]]
