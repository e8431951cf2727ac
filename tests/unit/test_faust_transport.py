"""Tests of what the mended Faust driver decides; how it behaves is tested on a broker."""

from types import SimpleNamespace

import pytest

from runtime.faust_transport import names_all


@pytest.mark.parametrize(
    ("unread", "positioned", "paused", "expected"),
    [([], True, False, True), (["one"], True, False, False), ([], False, False, False), ([], True, True, False)],
)
def test_a_fetch_waits_long_only_when_it_names_every_partition(unread, positioned, paused, expected):
    """One that leaves a partition out must end soon, because that partition's events wait for the next."""
    states = {
        "one": SimpleNamespace(has_valid_position=positioned, paused=paused),
        "two": SimpleNamespace(has_valid_position=True, paused=False),
    }
    assignment = SimpleNamespace(tps=tuple(states), state_value=states.__getitem__)
    assert names_all(SimpleNamespace(_records=dict.fromkeys(unread)), assignment) is expected
