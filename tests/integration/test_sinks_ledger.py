"""The ledger on a real PostgreSQL: claims, fences, outcomes, the sweeper's queries."""

import asyncio
import re
import uuid
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from core.errors import Unavailable
from runtime.settings import Settings
from sinks.consent import address_mark
from sinks.ledger import Ledger, Pool, Result, open_pool
from sinks.recall import HURRY
from sinks.statements import BEGIN, DUE, EXPIRE, GIVE_BACK, KEEP, REPORTED, UNREPORTED, WRITE
from sinks.unknown import RESEND, TAKE
from tests import fix_ledger
from tests.fix_ledger import Database, claimed, make
from tests.sinks_samples import delivery

pytestmark = pytest.mark.stack


settings, database, pool, ledger = fix_ledger.settings, fix_ledger.database, fix_ledger.pool, fix_ledger.ledger


async def test_gives_a_delivery_to_one_of_two_processes(ledger: Ledger, pool: Pool, database: Database) -> None:
    """Two claims at once: one gets all, the other leaves all alone."""
    other, batch = make(pool), [delivery() for _ in range(50)]
    first, second = await asyncio.gather(ledger.claim(batch, 0.0), other.claim(list(reversed(batch)), 0.0))
    assert first is not None
    assert second is not None
    assert len(first.claimed) + len(second.claimed) == 50
    assert len(first.left) + len(second.left) == 50
    assert database.run("SELECT count(*) FROM ledger.deliveries WHERE state = 'claimed' AND attempt = 1") == [(50,)]


async def test_claims_nothing_while_consent_is_behind(ledger: Ledger, database: Database) -> None:
    """More than the allowed lag, or no progress known at all: refused as a whole, and nothing is written."""
    database.current(behind_s=70)
    assert await ledger.claim([delivery()], 0.0) is None
    database.run("DELETE FROM ledger.consent_progress")
    assert await ledger.claim([delivery()], 0.0) is None
    assert database.run("SELECT count(*) FROM ledger.deliveries") == [(0,)]


async def test_suppresses_whoever_is_barred_without_a_claim(ledger: Ledger, database: Database) -> None:
    """Each subject bars what it names; the strongest reason is the one that counts; attempts are 0."""
    erased, left, listed, kept, unlinked, free = (delivery() for _ in range(6))
    database.bar(f"sub:{erased.subscriber_id}", "erased")
    database.bar(f"sub:{erased.subscriber_id}/nl:daily")
    database.bar(f"sub:{left.subscriber_id}/nl:daily")
    database.bar(f"sub:{listed.subscriber_id}/nl", except_for=["weekly"])
    database.bar(f"sub:{kept.subscriber_id}/nl", except_for=["weekly", "daily"])
    database.bar(f"sub:{unlinked.subscriber_id}/ch:email", "unlinked")
    claims = await ledger.claim([erased, left, listed, kept, unlinked, free], 0.0)
    assert claims is not None
    assert {d.uuid for d in claims.claimed} == {kept.uuid, free.uuid}
    reasons = {s.delivery_id: (s.state, s.reason, s.attempt) for s in claims.settled}
    assert reasons == {
        erased.delivery_id: ("suppressed", "erased", 0),
        left.delivery_id: ("suppressed", "unsubscribed", 0),
        listed.delivery_id: ("suppressed", "unsubscribed", 0),
        unlinked.delivery_id: ("suppressed", "unlinked", 0),
    }


async def test_suppresses_an_alert_by_its_own_subjects(ledger: Ledger, database: Database) -> None:
    """A cancelled alert; a stopped source is claimed, to be parked, and a newsletter is not touched by pub:."""
    cancelled, stopped = (delivery(source_kind="alert", source_id=str(uuid.uuid4()), newsletter_id=None) for _ in range(2))
    newsletter = delivery(items=[{"publication_id": "p1"}])
    database.bar(f"alert:{cancelled.source_id}", "retracted")
    database.bar("pub:p1", "retracted")
    database.bar(f"stop:src:{stopped.source_id}", "stopped")
    claims = await ledger.claim([cancelled, stopped, newsletter], 0.0)
    assert claims is not None
    assert {s.uuid: s.reason for s in claims.settled} == {cancelled.uuid: "retracted"}
    assert {d.uuid for d in claims.claimed} == {stopped.uuid, newsletter.uuid}


async def test_an_address_linked_since_the_unlinking_is_not_barred(ledger: Ledger, database: Database) -> None:
    """Deliveries that carry the old address stay suppressed."""
    subscriber = str(uuid.uuid4())
    old, new = (delivery(subscriber, address=b"\x01" + bytes([n]) * 40) for n in (1, 2))
    database.bar(f"sub:{subscriber}/ch:email", "unlinked", except_for=[address_mark(new.request["address"])])
    claims = await ledger.claim([old, new], 0.0)
    assert claims is not None
    assert {s.uuid: s.reason for s in claims.settled} == {old.uuid: "unlinked"}
    assert [d.uuid for d in claims.claimed] == [new.uuid]


async def test_suppresses_what_is_past_not_after(ledger: Ledger) -> None:
    """What is not worth sending any more is settled as expired, whatever offset brought it; old days get a partition."""
    old = delivery(not_after=datetime.now(UTC) - timedelta(days=4))
    claims = await ledger.claim([old], 0.0)
    assert claims is not None
    assert [(s.state, s.reason, s.attempt) for s in claims.settled] == [("suppressed", "expired", 0)]


async def test_reports_a_settled_delivery_again_instead_of_sending_it(ledger: Ledger, pool: Pool) -> None:
    """Read again after its end, a delivery comes back with everything its event was made of."""
    one = delivery()
    await claimed(ledger, one)
    (first,) = await ledger.write_outcomes([Result(one, "sent", None, b"h" * 32, b"sealed")])
    again = await make(pool).claim([one], 0.0)
    assert again is not None
    assert again.settled == [first]
    assert not again.claimed


async def test_takes_its_own_claim_back_after_a_lost_answer(ledger: Ledger, pool: Pool) -> None:
    """The same owner claims again: it is its own, and nobody else's; the lease is renewed before it is used."""
    one = delivery()
    await claimed(ledger, one)
    assert [d.uuid for d in await claimed(ledger, one)] == [one.uuid]
    assert one.lease_ends_s == 0.0
    other = await make(pool).claim([one], 0.0)
    assert other is not None
    assert [d.uuid for d in other.left] == [one.uuid]


async def test_writes_an_outcome_only_for_the_owner_and_its_attempt(ledger: Ledger, pool: Pool, database: Database) -> None:
    """Another owner, or another attempt of the same one, changes nothing."""
    one = delivery()
    await claimed(ledger, one)
    assert await make(pool).write_outcomes([Result(one, "failed", "rejected")]) == []
    one.attempt = 2
    assert await ledger.write_outcomes([Result(one, "failed", "rejected")]) == []
    assert database.row(one)["state"] == "claimed"
    one.attempt = 1
    (settled,) = await ledger.write_outcomes([Result(one, "failed", "rejected")])
    assert (settled.state, settled.reason, settled.attempt) == ("failed", "rejected", 1)


async def test_recognises_an_outcome_that_it_has_written(ledger: Ledger) -> None:
    """Written again after a lost answer: the same result, no second change."""
    one = delivery()
    await claimed(ledger, one)
    result = Result(one, "suppressed", "unsubscribed", uncalled=True)
    (first,) = await ledger.write_outcomes([result])
    assert first.attempt == 0
    assert await ledger.write_outcomes([result]) == [first]


async def test_turns_an_ended_lease_into_unknown_and_a_late_outcome_replaces_it(
    ledger: Ledger, pool: Pool, database: Database
) -> None:
    """unknown(lease_expired) is recorded once; the owner's late answer is of a higher rank, a late unknown is not."""
    short = make(pool, lease_s=-1.0)
    sent, lost = delivery(), delivery()
    sent.template = lost.template = "newsletter@1a2b3c4d"
    await claimed(short, sent, lost)
    ended = await ledger.expire_leases(10)
    assert {s.template for s in ended} == {"newsletter@1a2b3c4d"}, "also of what nobody had an answer to"
    assert {(s.uuid, s.state, s.reason, s.attempt) for s in ended} == {
        (d.uuid, "unknown", "lease_expired", 1) for d in (sent, lost)
    }
    assert await ledger.expire_leases(10) == []
    await ledger.mark_reported(ended)
    settled = await short.write_outcomes([Result(sent, "sent", None, b"h" * 32), Result(lost, "unknown", "answer_lost")])
    assert {(s.uuid, s.state, s.reason) for s in settled} == {(sent.uuid, "sent", None), (lost.uuid, "unknown", "lease_expired")}
    assert database.row(sent)["state"] == "sent"
    assert database.row(sent)["reported_at"] is None
    (before,) = database.row(sent)["history"]
    assert (before["state"], before["reason"], before["attempt"]) == ("unknown", "lease_expired", 1)
    assert before["template"] == "newsletter@1a2b3c4d"
    assert before["reported_at"]
    assert database.row(lost)["reason"] == "lease_expired"


async def test_does_not_send_again_what_is_unknown(ledger: Ledger, pool: Pool) -> None:
    """An unknown delivery is left alone however often it is read."""
    short, one = make(pool, lease_s=-1.0), delivery()
    await claimed(short, one)
    await ledger.expire_leases(10)
    claims = await ledger.claim([one], 0.0)
    assert claims is not None
    assert [d.uuid for d in claims.left] == [one.uuid]


async def test_parks_and_claims_again_when_due(ledger: Ledger, pool: Pool, database: Database) -> None:
    """A parked delivery keeps its request, is left alone by claims, and is claimed once, as one more attempt."""
    one = delivery()
    await claimed(ledger, one)
    assert await ledger.write_outcomes([Result(one, "retry", "throttled", after_s=0.0)]) == []
    assert database.row(one)["request"] == b"request"
    claims = await ledger.claim([one], 0.0)
    assert claims is not None
    assert [d.uuid for d in claims.left] == [one.uuid]
    first, second = await asyncio.gather(ledger.claim_due(10), make(pool).claim_due(10))
    assert [(p.raw, p.attempt) for p in (*first, *second)] == [(b"request", 2)]


async def test_leaves_parked_deliveries_while_consent_is_behind_or_they_are_not_due(ledger: Ledger, database: Database) -> None:
    """Neither before their time nor while nobody knows whether they are still wanted."""
    due, later = delivery(), delivery()
    await claimed(ledger, due, later)
    await ledger.write_outcomes([Result(due, "retry", "throttled"), Result(later, "retry", "throttled", after_s=60.0)])
    database.current(behind_s=70)
    assert await ledger.claim_due(10) == []
    database.current()
    assert len(await ledger.claim_due(10)) == 1


async def test_counts_how_often_a_delivery_was_parked_after_a_call(ledger: Ledger, database: Database) -> None:
    """Neither calls that are made again at once nor what was not called for count; given back by hand, it begins anew."""
    one = delivery()
    await claimed(ledger, one)
    rounds = []
    for uncalled in (False, True, False):
        one.attempt = database.row(one)["attempt"]
        if not uncalled:
            await ledger.begin_attempt([one], 100.0, again=True)
        await ledger.write_outcomes([Result(one, "retry", "throttled", uncalled=uncalled)])
        rounds += [p.rounds for p in await ledger.claim_due(10)]
    assert rounds == [1, 1, 2]
    one.attempt = database.row(one)["attempt"]
    await ledger.write_outcomes([Result(one, "failed", "attempts_exhausted")])
    values = {
        "days": [one.day], "ids": [one.uuid], "attempts": [one.attempt], "states": ["failed"], "requests": [b"request"],
        "by": "x", "why": "x",
    }  # fmt: skip
    assert len(await ledger.rows(GIVE_BACK, values)) == 1
    assert [p.rounds for p in await ledger.claim_due(10)] == [0]


async def test_gives_a_claim_back_without_counting_an_attempt(ledger: Ledger) -> None:
    """Released before any call: due at once, and the next claim is the first attempt."""
    one = delivery()
    await claimed(ledger, one)
    await ledger.write_outcomes([Result(one, "retry", "released", uncalled=True)])
    assert [p.attempt for p in await ledger.claim_due(10)] == [1]


async def test_renews_a_lease_and_begins_another_attempt_only_while_it_holds(
    ledger: Ledger, pool: Pool, database: Database
) -> None:
    """Renewing keeps the attempt, trying again raises it; what was taken for unknown is not held any more."""
    one, lost = delivery(), delivery()
    await claimed(ledger, one)
    assert [d.attempt for d in await ledger.begin_attempt([one], 100.0, again=False)] == [1]
    assert one.lease_ends_s == 130.0
    assert [d.attempt for d in await ledger.begin_attempt([one], 100.0, again=True)] == [2]
    one.attempt = 1  # as if the answer had been lost
    assert [d.attempt for d in await ledger.begin_attempt([one], 100.0, again=True)] == [2]
    assert [(h["state"], h["attempt"]) for h in database.row(one)["history"]] == [("retry", 1)], "noted once"
    short = make(pool, lease_s=-1.0)
    await claimed(short, lost)
    await ledger.expire_leases(10)
    assert await short.begin_attempt([lost], 0.0, again=True) == []


async def test_finds_outcomes_that_nobody_reported(ledger: Ledger) -> None:
    """Only old enough ones, and not after they were reported."""
    one = delivery()
    await claimed(ledger, one)
    settled = await ledger.write_outcomes([Result(one, "sent", None, b"h" * 32)])
    assert await ledger.unreported(30.0, 10) == []
    assert await ledger.unreported(-1.0, 10) == settled
    await ledger.mark_reported(settled)
    assert await ledger.unreported(-1.0, 10) == []


async def test_makes_partitions_once_however_many_ask(pool: Pool, ledger: Ledger, database: Database) -> None:
    """Processes that start together do not get in each other's way."""
    today = datetime.now(UTC).date() + timedelta(days=40)
    await asyncio.gather(*(make(pool).ensure_days(today) for _ in range(3)))
    assert database.run("SELECT to_regclass(%s) IS NOT NULL", f"ledger.deliveries_{today:%Y%m%d}") == [(True,)]


async def test_says_unavailable_when_the_database_does_not_answer(ledger: Ledger, settings: Settings) -> None:
    """A database that is away is no programming error."""
    name = settings.ledger_database_url.rsplit("/", 1)[1]
    away = open_pool(f"postgresql://postgres@127.0.0.1:1/{name}", 1)
    away.timeout = 0.5
    await away.open()
    try:
        with pytest.raises(Unavailable):
            await make(away).unreported(0.0, 1)
    finally:
        await away.close()


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a{b},c", "NULL", "", "ü\x1f✓"])
async def test_keeps_any_text_as_it_is(ledger: Ledger, database: Database, text: str) -> None:
    """Source ids are upstream's; no character in one can move a value to another delivery."""
    one = delivery(source_id=text, newsletter_id=text)
    await claimed(ledger, one, delivery())
    assert (database.row(one)["source_id"], database.row(one)["newsletter_id"]) == (text, text)


@pytest.mark.parametrize(
    ("statement", "bound"),
    [(EXPIRE, "lease_until < "), (UNREPORTED, "outcome_at < "), (DUE, "next_attempt_at <= "), (TAKE, "<= $")],
    ids=["ended leases", "unreported", "due", "unknown"],
)
async def test_a_sweep_reads_only_what_its_time_has_come_for(
    ledger: Ledger, settings: Settings, statement: str, bound: str
) -> None:
    """The time bounds the index: what is held for days, however much it is, costs the sweeps of every two seconds nothing."""
    await ledger.ensure_days(datetime.now(UTC).date())
    values = {
        "channel": "email", "lane": "bulk", "limit": 500, "older_than_s": 6.0, "owner": uuid.uuid4(), "lease_s": 9.0,
        "lag_s": 2.0, "again_s": 30.0, "settled_s": 15.0,
    }  # fmt: skip
    with psycopg.connect(settings.ledger_database_url, cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute("SET enable_seqscan = off")
        plan = [line for (line,) in connection.execute(f"EXPLAIN (COSTS OFF) {statement}".encode(), values)]
    conditions = [line for line in plan if "Index Cond" in line and "channel = " in line]
    assert conditions
    assert all(bound in line for line in conditions), conditions[0]


@pytest.mark.parametrize(
    "statement",
    [WRITE, BEGIN, REPORTED, KEEP, GIVE_BACK, HURRY, RESEND],
    ids=["outcomes", "attempts", "reported", "requests", "given back", "hurried", "sent again"],
)
async def test_a_key_is_one_look_up_however_many_are_in_a_state(ledger: Ledger, database: Database, statement: str) -> None:
    """Planned while nothing is claimed, parked or unknown, a statement must not go through all that is later, for every key."""
    await ledger.ensure_days(datetime.now(UTC).date())
    database.run("""
        INSERT INTO ledger.deliveries (
            day, delivery_id, channel, lane, source_id, source_kind, subscriber_id, newsletter_id, not_after, claimed_at, state,
            attempt, outcome_at, reported_at
        )
        SELECT current_date, gen_random_uuid(), 'email', 'bulk', 's', 'newsletter', gen_random_uuid(), 'n', now(), now(), 'sent',
               1, now(), now()
        FROM generate_series(1, 3000)
    """)
    database.run("ANALYZE ledger.deliveries")
    names = dict.fromkeys(re.findall(r"%\((\w+)\)s", statement))
    given = {"owner": uuid.uuid4(), "id": uuid.uuid4(), "lease_s": 9.0, "more": 0, "attempt": 1, "day": datetime.now(UTC).date()}
    values = {name: given.get(name, "why" if name in ("why", "by") else "{}") for name in names}
    plan = database.plan(statement, values)
    assert [line for line in plan if "_pkey on deliveries_" in line]
    assert not [line for line in plan if "Scan" in line and "deliveries_" in line and "_pkey on" not in line], plan
