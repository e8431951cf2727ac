"""The folds of the read models under every order that Kafka allows: the rows come out the same.

Within a partition order is kept; across partitions and topics anything may come first, batches are cut anywhere, records
come twice, and whole batches are applied again.
"""

from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.cadence import day_bits
from core.names import CHANNELS
from core.subscribers import SubscriberTable
from projections.deliveries import DELIVERIES
from projections.publications import PUBLICATIONS
from projections.subscribers import SUBSCRIBERS
from tests.projections_kit import AT, TOPICS, Scratch, database, decided, event, requested, status, subscriber

pytestmark = pytest.mark.stack

SLOW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module")
def url(stack):
    with database(stack.postgres_url) as made:
        yield made


def _scratch(url, projection):
    made = Scratch(url, projection)
    yield made
    made.close()


@pytest.fixture(scope="module")
def deliveries(url):
    yield from _scratch(url, DELIVERIES)


@pytest.fixture(scope="module")
def publications(url):
    yield from _scratch(url, PUBLICATIONS)


@pytest.fixture(scope="module")
def subscribers(url):
    yield from _scratch(url, SUBSCRIBERS)


def _interleaved(data, lanes):
    """Return one order of all events that keeps the order inside each partition."""
    waiting = [list(lane) for lane in lanes if lane]
    merged = []
    while waiting:
        lane = data.draw(st.sampled_from(waiting))
        merged.append(lane.pop(0))
        waiting = [lane for lane in waiting if lane]
    return merged


def _cut(data, events):
    """Return batches, some of which are applied twice in a row."""
    batches = []
    while events:
        size = data.draw(st.integers(1, max(1, len(events))))
        batch, events = events[:size], events[size:]
        batches += [batch] * data.draw(st.sampled_from([1, 1, 2]))
    return batches


STATUSES = [("DeliveryUnknown", "answer_lost"), ("DeliverySent", None), ("DeliverySuppressed", "stopped"),
            ("DeliveryConfirmed", None), ("DeliveryFailed", "bounced"), ("DeliveryFailed", "complained")]  # fmt: skip


@st.composite
def _pipeline(draw):
    """Return the partitions of all topics for a few subscribers in two chunks, with later copies of a chunk."""
    lanes = defaultdict(list)
    people = draw(st.lists(st.integers(0, 5), min_size=1, max_size=5, unique=True))
    for shard in (0, 1):
        mine = [(n, draw(st.sampled_from(CHANNELS))) for n in people if n % 2 == shard]
        lanes["decisions", shard].append(decided(mine, [(90 + shard, "email", "cap")], shard=shard, shards=2, offset=0))
        for copy in range(draw(st.integers(0, 2))):
            other = [(n + 20, "email") for n, _ in mine]
            lanes["decisions", shard].append(decided(other, [(95, "none", "no_channel")], shard=shard, shards=2, offset=copy + 1))
        for number, channel in mine:
            if draw(st.booleans()):
                lanes["deliveries", channel].append(requested(number, channel))
            for after_s in range(draw(st.integers(0, 4))):
                (name, reason), later_s = draw(st.sampled_from(STATUSES)), draw(st.integers(0, 3))
                attempt = draw(st.integers(0, 3))
                lanes["status", number].append(
                    status(
                        name,
                        number,
                        channel,
                        after_s=later_s + after_s,
                        reason=reason,
                        attempt=attempt,
                        template=f"newsletter@{attempt}" if attempt else None,
                    )
                )
    return list(lanes.values())


@SLOW
@given(st.data())
def test_deliveries_do_not_depend_on_order_batches_or_duplicates(deliveries, data):
    """Any interleaving of the topics, cut into any batches, gives the rows of one batch in log order."""
    lanes = data.draw(_pipeline())
    deliveries.empty()
    deliveries.apply([e for lane in lanes for e in lane])
    expected, accounting = deliveries.rows(), deliveries.view("accounting")
    deliveries.empty()
    for batch in _cut(data, _interleaved(data, lanes)):
        deliveries.apply(batch)
    assert deliveries.rows() == expected
    assert deliveries.view("accounting") == accounting
    for row in accounting:
        assert row["complete"]
        assert row["balance"] == 0
        assert row["population"] == 20 == row["chosen"] + row["gated"] + row["not_concerned"]


PATCH = st.fixed_dictionaries(
    {},
    optional={
        "time_zone": st.sampled_from(["Europe/Berlin", "Asia/Tokyo", "Mars/Olympus"]),
        "language": st.sampled_from(["en", "de"]),
        "newsletters": st.lists(st.sampled_from("abc"), max_size=3, unique=True),
        "alerts": st.booleans(),
        "channels": st.lists(st.sampled_from(CHANNELS), max_size=4, unique=True),
        "urgent_channels": st.lists(st.sampled_from(CHANNELS), max_size=2, unique=True),
        "tags": st.lists(st.sampled_from(["x", 'y"', "z\\"]), max_size=2, unique=True),
        "topics": st.lists(st.sampled_from(["p", "q"]), max_size=2, unique=True).map(
            lambda names: [{"topic": name, "weight": 0.5} for name in names]
        ),
        "local_minute": st.sampled_from([-1, -2, 540]),
        "days": st.sampled_from([[], [1, 7], [3]]),
        "alerts_a_day": st.sampled_from([-1, 3]),
    },
)
BLANK = dict.fromkeys(("time_zone", "language", "topics", "channels", "urgent_channels", "newsletters", "alerts", "quiet_hours",
                       "paused_until", "local_minute", "days", "alerts_a_day", "tags"))  # fmt: skip


@st.composite
def _life(draw, number):
    """Return the events of one subscriber, not always registered first and now and then erased."""
    events = []
    for _ in range(draw(st.integers(1, 10))):
        name = draw(st.sampled_from(["SubscriberRegistered", "PreferencesChanged", "PreferencesChanged", "ChannelLinked",
                                     "ChannelLinked", "ChannelVerified", "ChannelVerified", "ChannelUnlinked",
                                     "SubscriberUnsubscribed", "SubscriberUnsubscribed", "SubscriberErased"]))  # fmt: skip
        value = {"subscriber_id": subscriber(number)}
        if name == "SubscriberRegistered":
            value |= {"time_zone": "Europe/Paris", "language": "fr", "tags": [], "name": None, "registered_at": AT}
        elif name == "PreferencesChanged":
            value |= BLANK | draw(PATCH) | {"changed_at": AT}
        elif name == "SubscriberUnsubscribed":
            kind = draw(st.sampled_from(["newsletter", "newsletter", "alerts", "all"]))
            value |= {
                "kind": kind,
                "newsletter_id": draw(st.sampled_from("abc")) if kind == "newsletter" else None,
                "unsubscribed_at": AT,
            }
        elif name == "SubscriberErased":
            value |= {"erased_at": AT} if draw(st.integers(0, 3)) == 0 else {}
            if "erased_at" not in value:
                continue
        else:
            value |= {"channel": draw(st.sampled_from(["email", "slack"])), "address": b"\x01" + bytes(40)}
        events.append((name, value))
    return events


@SLOW
@given(st.data())
def test_subscribers_equal_the_state_of_the_shards(subscribers, data):
    """However batches are cut, a row says what core.subscribers, on which decisions rest, says."""
    lives = [data.draw(_life(number)) for number in range(2)]
    ordered = _interleaved(data, [[(name, value) for name, value in life] for life in lives])
    events = [event(name, value, TOPICS.subscribers, offset) for offset, (name, value) in enumerate(ordered)]
    subscribers.empty()
    subscribers.apply(events)
    expected = subscribers.rows()
    subscribers.empty()
    for batch in _cut(data, events):
        subscribers.apply(batch)
    assert subscribers.rows() == expected
    table = SubscriberTable()
    for item in events:
        table.apply(item)
    rows = {str(row["subscriber_id"]): row for row in subscribers.view("subscribers")}
    for key, row in table.row_of.items():
        found = rows.get(f"{key.hex()[:8]}-{key.hex()[8:12]}-{key.hex()[12:16]}-{key.hex()[16:20]}-{key.hex()[20:]}")
        assert (found is not None) == bool(table.column("registered")[row] or table.column("erased")[row])
        if found is None:
            continue
        assert found["erased"] == bool(table.column("erased")[row])
        assert found["alerts"] == bool(table.column("alerts")[row])
        assert set(found["newsletters"]) == _flags(table, "newsletters", table.newsletters, row)
        assert set(found["tags"]) == _flags(table, "tags", table.tags, row)
        assert set(found["topics"]) == _flags(table, "topics", table.topics, row)
        linked = {
            CHANNELS[i]: bool(table.column("verified")[row, i]) for i, a in enumerate(table.addresses[row]) if a is not None
        }
        assert found["channels"] == linked
        if not found["erased"]:
            assert found["time_zone"] == table.zones.names[table.column("zone")[row]]
            assert day_bits(found["days"]) == table.column("days")[row]
            assert found["language"] == table.languages.names[table.column("language")[row]]
            assert found["channel_order"] == [CHANNELS[i] for i in table.column("order")[row] if i >= 0]


def _flags(table, name, vocabulary, row):
    column = table.column(name)
    return {item for item, place in vocabulary.index.items() if place < column.shape[1] and column[row, place]}


@st.composite
def _publication(draw, number):
    events = []
    for _ in range(draw(st.integers(1, 10))):
        revision = draw(st.integers(1, 3))
        name = draw(st.sampled_from(["PublicationSubmitted", "PublicationSubmitted", "PublicationRevised", "PublicationScored",
                                     "PublicationApproved", "PublicationRejected", "PublicationRetracted"]))  # fmt: skip
        value = {"publication_id": subscriber(number), "revision": revision}
        if name in ("PublicationSubmitted", "PublicationApproved"):
            title = draw(st.sampled_from(["one", 'two "\\', "three"]))
            value |= {"title": title, "content_type": "article", "language": "en", "topics": [{"topic": title, "weight": 1.0}]}
        if name == "PublicationApproved":
            value |= {"quality": 0.9, "content_partition": 0, "content_offset": 3, "approved_at": AT}
        elif name == "PublicationRejected":
            value |= {"reason": "low_quality", "quality": draw(st.sampled_from([None, 0.2]))}
        elif name == "PublicationScored":
            value |= {"quality": draw(st.sampled_from([0.2, 0.9]))}
        elif name == "PublicationRetracted":
            value = {"publication_id": subscriber(number), "reason": "withdrawn", "retracted_at": AT}
        events.append((name, value))
    return events


@SLOW
@given(st.data())
def test_publications_do_not_depend_on_batches(publications, data):
    """One batch, one event a batch, or any other cut: the same rows."""
    lives = [data.draw(_publication(number)) for number in range(2)]
    events = [event(n, v, TOPICS.publications, offset) for offset, (n, v) in enumerate(_interleaved(data, lives))]
    publications.empty()
    for item in events:
        publications.apply([item])
    expected = publications.rows()
    publications.empty()
    for batch in _cut(data, events):
        publications.apply(batch)
    assert publications.rows() == expected
