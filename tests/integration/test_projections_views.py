"""The views of the read models, on PostgreSQL: what a person who asks SQL is told."""

from datetime import timedelta
from uuid import UUID

import pytest

from projections.deliveries import DELIVERIES
from projections.publications import PUBLICATIONS
from projections.subscribers import SUBSCRIBERS
from tests.projections_kit import (
    ALERT,
    AT,
    SOURCE,
    TOPICS,
    Scratch,
    database,
    decided,
    event,
    id_of,
    requested,
    status,
    subscriber,
)

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def url(stack):
    with database(stack.postgres_url) as made:
        yield made


@pytest.fixture
def scratch(url, request):
    made = Scratch(url, request.param)
    yield made
    made.close()


deliveries = pytest.mark.parametrize("scratch", [DELIVERIES], indirect=True)
publications = pytest.mark.parametrize("scratch", [PUBLICATIONS], indirect=True)
subscribers = pytest.mark.parametrize("scratch", [SUBSCRIBERS], indirect=True)


@deliveries
def test_accounting_counts_every_state_apart(scratch):
    """Seven deliveries in seven states: each column counts one, and the balance is 0."""
    scratch.apply([decided([(n, "email") for n in range(7)], [(8, "email", "cap")], population=10)])
    scratch.apply([requested(n, "email") for n in range(1, 7)])
    scratch.apply(
        [
            status("DeliveryUnknown", 2, "email", reason="answer_lost"),
            status("DeliverySent", 3, "email"),
            status("DeliverySuppressed", 4, "email", reason="unsubscribed"),
            status("DeliverySent", 5, "email"),
            status("DeliveryConfirmed", 5, "email", after_s=2),
            status("DeliverySent", 6, "email"),
            status("DeliveryFailed", 6, "email", after_s=9, reason="bounced"),
        ]
    )
    (row,) = scratch.view("accounting")
    assert row == {
        "source_id": SOURCE, "source_kind": "newsletter", "channel": "email", "complete": True, "population": 10, "chosen": 7,
        "gated": 1, "not_concerned": 2, "not_fanned_out": 1, "pending": 1, "unknown": 1, "sent": 1, "confirmed": 1, "failed": 1,
        "suppressed": 1, "balance": 0,
    }  # fmt: skip
    states = {r["delivery_id"]: r["state"] for r in scratch.view("deliveries")}
    assert [states[id_of(n, "email")] for n in range(7)] == [
        "not_fanned_out", "pending", "unknown", "sent", "suppressed", "confirmed", "failed",
    ]  # fmt: skip
    skips = {(s["stage"], s["reason"]): s["count"] for s in scratch.view("skips")}
    assert skips.pop(("fanout", "expired"), 1) == 1  # there once the source is past its not_after
    assert skips == {("decision", "cap"): 1, ("sink", "unsubscribed"): 1, ("provider", "bounced"): 1}
    assert scratch.view("gated") == [
        {"source_id": SOURCE, "subscriber_id": UUID(subscriber(8)), "channel": "email", "reason": "cap"}
    ]


@deliveries
def test_the_outcome_of_a_later_attempt_counts(scratch):
    """What failed and was given back by hand is what it then came to, in whatever order the reports are read."""
    failed = status("DeliveryFailed", 1, "email", reason="rejected", after_s=1)
    sent = status("DeliverySent", 1, "email", after_s=60, attempt=3)
    suppressed = status("DeliverySuppressed", 1, "email", reason="unsubscribed", after_s=30, attempt=2)
    for reports in ([failed, suppressed, sent], [sent, failed, suppressed]):
        scratch.empty()
        scratch.apply([decided([(1, "email")], [], population=1)])
        for report in reports:
            scratch.apply([report])
        (row,) = scratch.view("accounting")
        assert (row["sent"], row["failed"], row["suppressed"], row["balance"]) == (1, 0, 0, 0)
        (delivery,) = scratch.view("deliveries")
        assert (delivery["state"], delivery["reason"]) == ("sent", None)


@deliveries
def test_a_delivery_shows_the_variant_it_was_decided_with(scratch):
    """Also when its report was read before the decision; null without an experiment."""
    scratch.apply([status("DeliverySent", 2, "email")])
    scratch.apply([decided([(n, "email") for n in range(3)], variants={0: "control", 2: "short"})])
    shown = {r["delivery_id"]: r["variant"] for r in scratch.view("deliveries")}
    assert [shown[id_of(n, "email")] for n in range(3)] == ["control", None, "short"]


@deliveries
def test_a_delivery_shows_the_template_of_its_last_attempt(scratch):
    """Whichever report comes first; null until one was made."""
    retried = [status("DeliveryFailed", 1, "email", attempt=1, template="old@1"), status("DeliverySent", 1, "email", attempt=3)]
    for reports in (retried, retried[::-1]):
        scratch.empty()
        scratch.apply([decided([(n, "email") for n in range(2)])])
        for report in reports:
            scratch.apply([report])
        shown = {r["delivery_id"]: r["template"] for r in scratch.view("deliveries")}
        assert [shown[id_of(n, "email")] for n in range(2)] == [None, "newsletter@1a2b3c4d"]


@deliveries
def test_what_was_never_fanned_out_is_a_skip_once_it_has_expired(scratch):
    """Nobody sends it any more, so it counts as expired at the stage fanout; the balance still holds."""
    scratch.apply([decided([(1, "email"), (2, "email")])])
    scratch.connection.execute("update sources set not_after = now() + interval '1 hour'")
    assert scratch.view("skips") == []
    assert scratch.view("sources")[0]["finished"] is False
    scratch.connection.execute("update sources set not_after = now() - interval '1 second'")
    assert scratch.view("skips") == [
        {"source_id": SOURCE, "channel": "email", "stage": "fanout", "reason": "expired", "count": 2}
    ]
    assert scratch.view("sources")[0]["finished"] is True


@deliveries
def test_a_missing_chunk_makes_a_source_incomplete(scratch):
    """Two shards with two chunks each: complete with the fourth, and only then."""
    parts = [(shard, chunk) for shard in (0, 1) for chunk in (0, 1)]
    for number, (shard, chunk) in enumerate(parts):
        assert not any(r["complete"] for r in scratch.view("accounting"))
        scratch.apply([decided([(number, "email")], shard=shard, chunk=chunk, shards=2, chunks=2, population=5)])
    (row,) = scratch.view("accounting")
    assert (row["complete"], row["population"], row["chosen"], row["not_concerned"]) == (True, 20, 4, 16)
    assert scratch.view("sources")[0]["finished"] is False


@deliveries
def test_every_channel_of_a_source_has_a_row_that_adds_up(scratch):
    """Population is chosen, gated and not concerned in each row; all three are counted, so a chunk's own mistake shows."""
    scratch.apply([decided([(1, "email"), (1, "slack"), (2, "email")], [(3, "none", "no_channel")], shards=2, population=6)])
    scratch.apply([decided([(7, "webhook")], shards=2, shard=1, population=4)])
    rows = {r["channel"]: r for r in scratch.view("accounting")}
    assert set(rows) == {"email", "slack", "webhook", "none"}
    for row in rows.values():
        assert row["population"] == 10 == row["chosen"] + row["gated"] + row["not_concerned"]
    assert (rows["none"]["gated"], rows["none"]["chosen"]) == (1, 0)


@deliveries
@pytest.mark.parametrize(("chosen", "counted"), [([(7, "webhook")], {"webhook": 2, "none": 4}), ([], {"none": 3})])
def test_a_decision_whose_counts_do_not_add_up_does_not_balance(scratch, chosen, counted):
    """Nothing is worked out from the rest: one subscriber who was neither chosen, gated nor counted apart is missing."""
    scratch.apply([decided(chosen, population=4, not_concerned=counted), *(requested(n, c) for n, c in chosen)])
    (row,) = scratch.view("accounting")
    assert (row["population"], row["chosen"] + row["gated"] + row["not_concerned"], row["balance"]) == (4, 3, 1)


@deliveries
def test_a_source_that_chose_nobody_has_a_row(scratch):
    """Its channel is none."""
    scratch.apply([decided([], population=4)])
    (row,) = scratch.view("accounting")
    assert (row["channel"], row["population"], row["not_concerned"], row["chosen"], row["balance"]) == ("none", 4, 4, 0, 0)
    assert scratch.view("sources")[0]["finished"] is True


@deliveries
def test_a_delivery_that_nobody_decided_shows_in_the_balance(scratch):
    """Statuses of a delivery that no decision names make the balance negative."""
    scratch.apply([decided([(1, "email")]), requested(1, "email"), requested(2, "email")])
    assert scratch.view("accounting")[0]["balance"] == -1


@deliveries
def test_a_chosen_delivery_that_vanished_shows_in_the_balance(scratch):
    """Chosen is counted from the decision, so a lost row cannot hide."""
    scratch.apply([decided([(1, "email"), (2, "email")])])
    scratch.connection.execute("delete from deliveries where subscriber_id = %s", [subscriber(2)])
    assert scratch.view("accounting")[0]["balance"] == 1


@deliveries
def test_only_the_first_copy_of_a_chunk_counts(scratch):
    """A later copy gives no delivery, no gate and no count, whenever it comes; it is counted as dropped."""
    scratch.apply([decided([(1, "email")], [(2, "email", "cap")], offset=5)])
    expected = scratch.rows()
    scratch.apply([decided([(3, "email"), (1, "email")], [(4, "email", "cap")], offset=8, at=AT + timedelta(minutes=1))])
    found = scratch.rows()
    assert found.pop("dropped_copies") == [(SOURCE, 0, 0, 8)]
    expected.pop("dropped_copies")
    assert found == expected
    assert scratch.view("sources")[0]["dropped_copies"] == 1


@deliveries
def test_a_status_that_comes_before_its_decision_is_kept(scratch):
    """Topics are read in any order."""
    scratch.apply([status("DeliverySent", 1, "email", source_id=ALERT)])
    row = scratch.view("accounting")[0]
    assert (row["complete"], row["chosen"], row["sent"], row["balance"]) == (False, 0, 1, -1)
    scratch.apply([decided([(1, "email")], source_id=ALERT)])
    row = scratch.view("accounting")[0]
    assert (row["complete"], row["chosen"], row["sent"], row["balance"]) == (True, 1, 1, 0)
    assert scratch.view("deliveries")[0]["decided_at"] == AT
    assert scratch.view("deliveries")[0]["lane"] == "urgent"


def _publication(name, offset, revision=1, number=1, **fields):
    value = {"publication_id": subscriber(number), "revision": revision}
    if name in ("PublicationSubmitted", "PublicationApproved"):
        value |= {"title": f"title {revision}", "content_type": "article", "language": "en"}
        value["topics"] = [{"topic": "hep-ph", "weight": 0.5}]
    if name == "PublicationApproved":
        value |= {"quality": 0.93, "content_partition": 0, "content_offset": 0, "approved_at": AT}
    if name == "PublicationRejected":
        value |= {"reason": "low_quality", "quality": None}
    if name == "PublicationScored":
        value |= {"quality": 0.5}
    if name == "PublicationRetracted":
        value = {"publication_id": subscriber(number), "reason": "withdrawn", "retracted_at": AT}
    return event(name, value | fields, TOPICS.publications, offset)


@publications
def test_a_publication_goes_through_its_states(scratch):
    """Submitted, scored, approved, retracted; the content is found at its position."""
    for number, (name, state) in enumerate(
        [
            ("PublicationSubmitted", "submitted"),
            ("PublicationScored", "scored"),
            ("PublicationApproved", "approved"),
            ("PublicationRetracted", "retracted"),
        ]
    ):
        scratch.apply([_publication(name, number)])
        assert scratch.view("publications")[0]["state"] == state
    (row,) = scratch.view("publications")
    assert (row["revision"], row["quality"], row["reason"]) == (1, 0.93, "withdrawn")
    assert row["topics"] == {"hep-ph": 0.5}
    assert (row["submitted_at"], row["approved_at"], row["retracted_at"]) == (AT, AT, AT)
    assert (row["content_partition"], row["content_offset"]) == (0, 0)


@publications
def test_a_duplicate_with_other_content_changes_nothing(scratch):
    """It is refused by approval; the read model keeps the first."""
    scratch.apply([_publication("PublicationSubmitted", 0), _publication("PublicationSubmitted", 1, title="other")])
    scratch.apply([_publication("PublicationSubmitted", 2, title="other")])
    assert scratch.view("publications")[0]["title"] == "title 1"


@publications
def test_a_higher_revision_counts_when_approval_takes_it_up(scratch):
    """Until then, and if it is refused for good, the approved revision stays."""
    scratch.apply([_publication("PublicationSubmitted", 0), _publication("PublicationApproved", 1)])
    scratch.apply([_publication("PublicationSubmitted", 2, 2)])
    assert [(r["revision"], r["state"]) for r in scratch.view("publications")] == [(1, "approved")]
    scratch.apply([_publication("PublicationRevised", 3, 2)])
    assert [(r["revision"], r["state"]) for r in scratch.view("publications")] == [(2, "submitted")]
    scratch.apply([_publication("PublicationRejected", 4, 2, quality=0.3)])
    (row,) = scratch.view("publications")
    assert (row["revision"], row["state"], row["reason"], row["quality"]) == (2, "rejected", "low_quality", 0.3)


@publications
def test_a_title_that_postgresql_cannot_store_is_stored_with_a_replacement(scratch):
    """U+0000 comes from outside; it must not stop the projection."""
    scratch.apply([_publication("PublicationSubmitted", 0, title='a\x00b "c" \\ {d},')])
    assert scratch.view("publications")[0]["title"] == 'a\ufffdb "c" \\ {d},'


def _subscriber(name, offset, number=1, **fields):
    value = {"subscriber_id": subscriber(number)}
    if name == "SubscriberRegistered":
        value |= {"time_zone": "Europe/Berlin", "language": "de", "tags": ["staff"], "name": None, "registered_at": AT}
    if name == "PreferencesChanged":
        value |= dict.fromkeys(
            ("time_zone", "language", "topics", "channels", "urgent_channels", "newsletters", "alerts", "quiet_hours",
             "paused_until", "local_minute", "days", "alerts_a_day", "tags")
        ) | {"changed_at": AT}  # fmt: skip
    if name == "SubscriberUnsubscribed":
        value |= {"newsletter_id": None, "via": "cli", "delivery_id": None, "unsubscribed_at": AT}
    if name == "SubscriberErased":
        value |= {"requested_by": "subscriber", "erased_at": AT}
    if name.startswith("Channel"):
        value |= {"channel": "email", "address": b"encrypted"}
    return event(name, value | fields, TOPICS.subscribers, offset)


@subscribers
def test_preferences_are_patches(scratch):
    """A field that is null stays; another replaces the whole field."""
    scratch.apply([_subscriber("SubscriberRegistered", 0)])
    scratch.apply([_subscriber("PreferencesChanged", 1, newsletters=["daily", "weekly"], alerts=True)])
    scratch.apply([_subscriber("PreferencesChanged", 2, topics=[{"topic": "hep-ph", "weight": 1.0}], language="fr")])
    (row,) = scratch.view("subscribers")
    assert (row["newsletters"], row["alerts"], row["topics"]) == (["daily", "weekly"], True, {"hep-ph": 1.0})
    assert (row["time_zone"], row["language"], row["registered_at"], row["unsubscribed"]) == ("Europe/Berlin", "fr", AT, False)


@subscribers
def test_when_newsletters_come_is_shown_as_it_was_chosen(scratch):
    """A time of their own, when they usually read, or as the newsletters say; with their weekdays."""
    scratch.apply([_subscriber("SubscriberRegistered", 0)])
    seen = []
    for number, (minute, days) in enumerate([(None, None), (450, [1, 5]), (-2, None), (0, None), (-1, [])], 1):
        scratch.apply([_subscriber("PreferencesChanged", number, local_minute=minute, days=days)])
        (row,) = scratch.view("subscribers")
        seen.append((row["newsletter_time"], row["days"]))
    assert seen == [("default", []), ("07:30", [1, 5]), ("usual", [1, 5]), ("00:00", [1, 5]), ("default", [])]


@subscribers
def test_a_channel_is_verified_only_while_it_is_linked(scratch):
    """Verifying without linking does nothing, linking again needs verifying again, unlinking removes it."""
    steps = [
        ("SubscriberRegistered", {}),
        ("ChannelVerified", {}),
        ("ChannelLinked", {"email": False}),
        ("ChannelVerified", {"email": True}),
        ("ChannelLinked", {"email": False}),
        ("ChannelUnlinked", {}),
        ("ChannelVerified", {}),
    ]
    for number, (name, expected) in enumerate(steps):
        scratch.apply([_subscriber(name, number)])
        assert scratch.view("subscribers")[0]["channels"] == expected


@subscribers
def test_unsubscribing_removes_what_it_names(scratch):
    """One newsletter, the alerts, then everything; choosing again ends the flag."""
    scratch.apply(
        [_subscriber("SubscriberRegistered", 0), _subscriber("PreferencesChanged", 1, newsletters=["a", "b"], alerts=True)]
    )
    scratch.apply([_subscriber("SubscriberUnsubscribed", 2, kind="newsletter", newsletter_id="a")])
    assert scratch.view("subscribers")[0]["newsletters"] == ["b"]
    scratch.apply([_subscriber("SubscriberUnsubscribed", 3, kind="alerts")])
    assert scratch.view("subscribers")[0]["alerts"] is False
    scratch.apply([_subscriber("SubscriberUnsubscribed", 4, kind="all")])
    row = scratch.view("subscribers")[0]
    assert (row["newsletters"], row["unsubscribed"]) == ([], True)
    scratch.apply([_subscriber("PreferencesChanged", 5, newsletters=["a"])])
    row = scratch.view("subscribers")[0]
    assert (row["newsletters"], row["unsubscribed"]) == (["a"], False)


@subscribers
def test_erasure_clears_the_row_for_good(scratch):
    """Only the fact is left, and later events change nothing."""
    scratch.apply([_subscriber("SubscriberRegistered", 0), _subscriber("PreferencesChanged", 1, newsletters=["a"])])
    scratch.apply([_subscriber("SubscriberErased", 2), _subscriber("PreferencesChanged", 3, newsletters=["b"])])
    scratch.apply([_subscriber("SubscriberRegistered", 4)])
    (row,) = scratch.view("subscribers")
    assert (row["erased"], row["newsletters"], row["time_zone"], row["registered_at"]) == (True, [], None, None)


@subscribers
def test_an_event_that_breaks_a_rule_changes_nothing(scratch):
    """As in the shards' state: an unknown zone, an id that is no UUID."""
    scratch.apply([_subscriber("SubscriberRegistered", 0)])
    scratch.apply([_subscriber("PreferencesChanged", 1, time_zone="Mars/Olympus", alerts=True)])
    scratch.apply([_subscriber("PreferencesChanged", 2, subscriber_id="nobody")])
    (row,) = scratch.view("subscribers")
    assert (row["time_zone"], row["alerts"]) == ("Europe/Berlin", False)


@deliveries
def test_accounting_of_one_source_among_many_reads_only_its_rows(scratch):
    """The condition on the source reaches the tables through the view: no scan of all deliveries."""
    for number in range(40):
        source = f"daily@2026-11-22T09:{number:02d}Z"
        scratch.apply([decided([(n, "email") for n in range(number * 100, number * 100 + 100)], source_id=source)])
    scratch.connection.execute("analyze")
    plan = "\n".join(
        row[0]
        for row in scratch.connection.execute("explain select * from api.accounting where source_id = 'daily@2026-11-22T09:07Z'")
    )
    assert "deliveries_source" in plan
    assert "Seq Scan on deliveries" not in plan
