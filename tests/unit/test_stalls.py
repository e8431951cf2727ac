"""When a partition counts as stalled."""

from runtime.stalls import Progress

A, B = ("a", 0), ("b", 0)


def test_a_partition_that_stands_still_with_events_behind_it_is_stalled() -> None:
    progress = Progress(10.0)
    assert progress.look(0.0, {A: 5, B: 5}, {A: 6, B: 5}, handling=False) == []
    assert progress.look(9.0, {A: 5, B: 5}, {A: 7, B: 5}, handling=False) == []
    assert progress.look(10.0, {A: 5, B: 5}, {A: 7, B: 6}, handling=False) == [A]


def test_progress_and_handling_begin_the_wait_anew() -> None:
    progress = Progress(10.0)
    progress.look(0.0, {A: 5}, {A: 9}, handling=False)
    assert progress.look(12.0, {A: 6}, {A: 9}, handling=False) == []
    assert progress.look(21.0, {A: 6}, {A: 9}, handling=True) == []
    assert progress.look(23.0, {A: 6}, {A: 9}, handling=False) == []
    assert progress.look(33.0, {A: 6}, {A: 9}, handling=False) == [A]


def test_a_partition_that_went_away_or_caught_up_is_forgotten() -> None:
    progress = Progress(10.0)
    progress.look(0.0, {A: 5}, {A: 9}, handling=False)
    progress.look(5.0, {A: 9}, {A: 9}, handling=False)
    assert progress.look(11.0, {A: 9}, {A: 10}, handling=False) == []
    progress.look(12.0, {}, {}, handling=False)
    assert progress.look(22.0, {A: 9}, {A: 10}, handling=False) == []
