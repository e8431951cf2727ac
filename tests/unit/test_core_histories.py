"""Tests of what subscribers engaged with: weights, scanners, what was taken back, any order of arrival, and bounds."""

import itertools
from datetime import timedelta

import numpy as np
import pytest

from core.evidence import SCAN_LINKS, SCAN_MS, engagement_weight, scanned
from core.histories import MAX_ENTRIES
from core.newsletter_state import NewsletterState
from core.profiles import TopicLists, read_by
from core.subscribers import subscriber_key
from tests.unit.deciding_samples import NOW, Sample, available, erased, fold, person, publication, reader

ANNA = person(1)
KEY = subscriber_key(ANNA)
DELIVERY = "20261123-00000000-0000-0000-0000-00000000000a"


def clicked(number: int, after_s: float = 0, delivery: str | None = DELIVERY, link: int | None = None, **more) -> Sample:
    at = NOW + timedelta(seconds=after_s)
    value = {"subscriber_id": ANNA, "publication_id": publication(number), "occurred_at": at, "evidence": "click"}
    return Sample("ContentClicked", value | {"delivery_id": delivery, "link": number if link is None else link} | more)


def opened(number: int, after_s: float = 0, evidence: str = "pixel") -> Sample:
    at = NOW + timedelta(seconds=after_s)
    value = {"subscriber_id": ANNA, "publication_id": publication(number), "occurred_at": at, "evidence": evidence}
    return Sample("ContentOpened", value)


def reacted(number: int, after_s: float = 0, name: str = "ReactionAdded", reaction: str = "like") -> Sample:
    at = NOW + timedelta(seconds=after_s)
    return Sample(name, {"subscriber_id": ANNA, "publication_id": publication(number), "occurred_at": at, "reaction": reaction})


def counted(*events) -> dict[int, float]:
    """By publication, the weight that counts after these events came in this order."""
    state = fold(NewsletterState(), *events)
    _, entries = state.histories.of_all([KEY])
    found: dict[int, float] = {}
    for entry in entries:
        number = int(state.content.items[entry["publication"]].publication_id[-4:], 16)
        found[number] = found.get(number, 0) + float(entry["weight"])
    return found


@pytest.mark.parametrize(
    ("name", "value", "weight"),
    [
        ("ContentOpened", {"evidence": "pixel"}, 1),
        ("ContentOpened", {"evidence": "pixel_proxy"}, 0),
        ("ContentClicked", {"evidence": "click"}, 2),
        ("ContentClicked", {"evidence": "scanner"}, 0),
        ("ReactionAdded", {"reaction": "bookmark"}, 2.5),
        ("ReactionAdded", {"reaction": "follow"}, 3),
        ("ReactionAdded", {"reaction": "comment"}, 4),
        ("ReactionAdded", {"reaction": ":tada:"}, 2),
    ],
)
def test_engagement_weights(name, value, weight):
    """What a machine did weighs nothing."""
    assert engagement_weight(name, value) == weight


def test_a_burst_of_clicks_is_a_scanners_and_its_first_clicks_are_taken_back():
    """One less than the limit counts; with the next one none of them does, and a later click by a person does again."""
    burst = [clicked(number, after_s=number) for number in range(SCAN_LINKS)]
    assert counted(burst[:-1]) == dict.fromkeys(range(SCAN_LINKS - 1), 2.0)
    assert counted(burst) == {}
    assert counted(burst, clicked(0, after_s=3600)) == {0: 2.0}


def test_two_links_at_once_are_a_scanners_in_the_shortest_issue():
    """Within a third of a second; twice the same link, or a second later, is a person."""
    assert counted(clicked(1), clicked(2, after_s=0.3)) == {}
    assert counted(clicked(1), clicked(1, after_s=0.2)) == {1: 2.0}
    assert counted(clicked(1), clicked(2, after_s=1)) == {1: 2.0, 2: 2.0}
    assert counted(clicked(1), clicked(2, after_s=0.1), clicked(2, after_s=60)) == {2: 2.0}


def test_many_clicks_on_one_link_or_over_several_deliveries_or_slowly_are_a_persons():
    """What makes a scanner is many links of one delivery at once."""
    count = SCAN_LINKS + 2
    assert counted([clicked(1, after_s=second) for second in range(count)]) == {1: 2.0}
    assert counted([clicked(number, delivery=f"{DELIVERY}{number}") for number in range(count)]) == dict.fromkeys(
        range(count), 2.0
    )
    assert counted([clicked(number, delivery=None) for number in range(count)]) == dict.fromkeys(range(count), 2.0)
    slowly = [clicked(number, after_s=number * (SCAN_MS / 1000)) for number in range(count)]
    assert counted(slowly) == dict.fromkeys(range(count), 2.0)


def test_what_counts_does_not_depend_on_the_order_of_arrival():
    """Every order of a burst, a person's click, a like, its removal, and copies of all."""
    events = [clicked(number, after_s=number) for number in range(SCAN_LINKS)]
    events += [clicked(9, after_s=500), reacted(7), reacted(7, 5, "ReactionRemoved")]
    orders = itertools.islice(itertools.permutations(events), 0, None, 37)
    assert {frozenset(counted(*order, *order[:2]).items()) for order in orders} == {frozenset({(9, 2.0)})}


def test_scanned_marks_every_click_of_any_window():
    """A burst within a longer history, given in a shuffled order."""
    at_ms = np.array([0, 100_000, 101_000, 102_000, 103_000, 200_000], dtype=np.int64)
    links = np.array([1, 2, 3, 4, 5, 6])
    order = np.array([5, 2, 0, 4, 1, 3])
    assert scanned(links[order], at_ms[order]).tolist() == [False, True, False, True, True, True]


def test_an_unlike_takes_back_a_like_even_when_it_comes_first():
    """The newest of the two counts, and of one instant the removal; another like later counts again."""
    assert counted(reacted(1), reacted(1, 1, "ReactionRemoved")) == {}
    assert counted(reacted(1, 1, "ReactionRemoved"), reacted(1)) == {}
    assert counted(reacted(1), reacted(1, 0, "ReactionRemoved")) == {}
    assert counted(reacted(1, 1, "ReactionRemoved"), reacted(1), reacted(1, 2)) == {1: 2.0}
    assert counted(reacted(1), reacted(1, reaction="bookmark"), reacted(1, 1, "ReactionRemoved")) == {1: 2.5}


def test_opens_and_copies_count_once():
    """A proxy's open counts never."""
    assert counted(opened(1), opened(1), opened(1, 60), opened(2, evidence="pixel_proxy")) == {1: 1.0}
    assert counted(clicked(1), clicked(1), clicked(1, 60), reacted(1)) == {1: 4.0}


def test_engagement_with_an_unknown_publication_counts_from_when_it_is_known():
    """Nothing is lost when engagement is read before content."""
    state = fold(NewsletterState(), reader(ANNA), reacted(1))
    now_ms = int(NOW.timestamp() * 1000)
    assert read_by(state.histories, state.content, [KEY], now_ms).share.tolist() == []
    fold(state, available(1, "art"))
    read = read_by(state.histories, state.content, [KEY], now_ms)
    assert TopicLists.of(state.content, read.rows, {"art": 0}).sums(read, 1)[0].tolist() == [[2.0]]


def test_what_a_scanner_does_with_every_issue_pushes_no_reading_out():
    """Fifty days of ten links each, all followed at once; what was liked before is still known."""
    likes = [reacted(number, after_s=number) for number in range(300)]
    bursts = [
        clicked(1_000 + number, after_s=86_400 * (day + 1) + number * 0.1, delivery=f"{DELIVERY}{day}")
        for day in range(50)
        for number in range(10)
    ]
    assert counted(likes, bursts) == dict.fromkeys(range(300), 2.0)


def test_a_subscriber_with_100_000_events_stays_bounded():
    """The newest are kept."""
    state = NewsletterState()
    for number in range(100_000):
        state.apply(clicked(number % 5_000, after_s=number * 60, delivery=f"d{number}"))
    assert len(state.histories.of(KEY)) == MAX_ENTRIES
    assert state.histories.of(KEY)["at_ms"].min() == int((NOW + timedelta(minutes=100_000 - MAX_ENTRIES)).timestamp() * 1000)


def test_an_erased_subscriber_has_no_history_in_any_order():
    """Erasure removes what was read, and nothing is added afterwards."""
    before = fold(NewsletterState(), reader(ANNA), reacted(1), erased(ANNA))
    after = fold(NewsletterState(), reader(ANNA), erased(ANNA), reacted(1))
    assert before.histories.keys() == after.histories.keys() == []
    assert before.dump() == after.dump()
