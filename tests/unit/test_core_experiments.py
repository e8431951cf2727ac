"""The assignment to variants, against GrowthBook's own library."""

import uuid

import growthbook.core as reference
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.experiments import BUCKETS, assigned, buckets, rules_of, variants_of

IDS = [uuid.UUID(int=(number * 0x9E3779B97F4A7C15F39CC0605CEDC834) % 2**128).bytes for number in range(2_000)]
SEEDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(SEEDS, st.lists(st.uuids(), min_size=1, max_size=20))
def test_hashes_as_growthbook_does(seed: str, ids: list[uuid.UUID]) -> None:
    """Any seed, any subscriber: version 2 of its hash, to the bucket."""
    wanted = [round((reference.gbhash(seed, str(one), 2) or 0.0) * BUCKETS) for one in ids]
    assert buckets(seed, [one.bytes for one in ids]).tolist() == wanted


@given(SEEDS, st.lists(st.integers(1, 50), min_size=2, max_size=20))
def test_assigns_as_growthbook_does(seed: str, parts: list[int]) -> None:
    """Its ranges of the hash are ours."""
    shares = [part / sum(parts) for part in parts]
    ranges = reference.getBucketRanges(len(shares), 1, shares)
    some = IDS[:50]
    wanted = [reference.chooseVariation(reference.gbhash(seed, str(uuid.UUID(bytes=one)), 2) or 0.0, ranges) for one in some]
    ours = assigned(seed, some, shares).tolist()
    # rounding may let its last range end below the last bucket, which then has no variant there
    assert [mine for mine, theirs in zip(ours, wanted, strict=True) if theirs >= 0] == [one for one in wanted if one >= 0]
    assert all(mine == len(shares) - 1 for mine, theirs in zip(ours, wanted, strict=True) if theirs < 0)


def test_shares_are_kept_and_a_seed_of_its_own_divides_anew() -> None:
    """Ten thousand times a tenth is about a tenth; two experiments do not divide people in the same way."""
    first, second = assigned("one", IDS, [0.1, 0.9]), assigned("two", IDS, [0.1, 0.9])
    assert 150 < np.count_nonzero(first == 0) < 250
    assert 5 < np.count_nonzero((first == 0) & (second == 0)) < 40


VARIANTS = [
    {"name": "control", "weight": 0.5, "subject": None, "template": None, "ranking": None, "local_minute": None},
    {"name": "short", "weight": 0.5, "subject": "News", "template": None, "ranking": "recent", "local_minute": 0},
]
RULES = {
    "variants": VARIANTS, "seed": "", "subject": "{title}", "template": "newsletter", "ranking": "blend", "local_minute": 540,
}  # fmt: skip


def test_a_variant_says_what_is_different() -> None:
    """What it leaves open is as the newsletter says, also when what it names is 0."""
    assert rules_of(RULES, 0) == RULES
    own = rules_of(RULES, 1)
    assert (own["subject"], own["template"], own["ranking"], own["local_minute"]) == ("News", "newsletter", "recent", 0)


@pytest.mark.parametrize(("seed", "as_if"), [("", "daily"), ("spring", "spring")])
def test_the_newsletters_id_is_the_seed_of_a_definition_without_one(seed: str, as_if: str) -> None:
    """So that two newsletters with an experiment divide people differently by themselves."""
    found = variants_of("daily", {**RULES, "seed": seed}, IDS)
    assert found.tolist() == assigned(as_if, IDS, [0.5, 0.5]).tolist()
    assert set(variants_of("daily", {**RULES, "variants": []}, IDS).tolist()) == {-1}
