"""The checker alone, over journals made by hand: what holds is left in peace, and each broken promise has its sentence."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.ids import discord_nonce
from schemas.records import Raw
from tests.fault import plan
from tests.fault.checker import check
from tests.fault.commits import read_commits
from tests.fault.journal import (
    Act,
    Claim,
    Commit,
    Decision,
    Early,
    Expected,
    Hit,
    Journal,
    Letter,
    Poison,
    Rebalance,
    Requested,
    Row,
    Status,
)

AT = datetime(2026, 11, 22, 9, tzinfo=UTC)
ONE = "20261123-00000000-0000-5000-8000-000000000001"
SOURCE, PERSON = "daily@2026-11-22T09:00Z", "00000000-0000-4000-8000-00000000000a"


def at(seconds: float) -> datetime:
    return AT + timedelta(seconds=seconds)


def journal(channel: str = "email") -> Journal:
    """One delivery that was decided, requested, sent and reported as it should be."""
    provider, key = ("discord", discord_nonce(ONE)) if channel == "discord" else ("ses", ONE)
    counts = {"pending": 0, "unknown": 0, "sent": 1, "confirmed": 0, "failed": 0, "suppressed": 0}
    return Journal(
        expected=[Expected(SOURCE, PERSON, channel)],
        decisions=[Decision(SOURCE, 0, 0, 1, 1, 7, 1, 0, {ONE: (PERSON, channel)}, {})],
        requests=[Requested(ONE, PERSON, channel, "bulk", SOURCE, 0, 5, "digest")],
        rows=[Row(ONE, "sent", None, 1, True)],
        statuses=[Status("s1", ONE, "sent", None, 1, at(1))],
        hits=[Hit(1, at(1), provider, key, "accepted")],
        accounting=[
            {"source_id": SOURCE, "channel": channel, "complete": True, "balance": 0, "not_fanned_out": 0, "population": 1}
            | {"chosen": 1, **counts}
        ],
    )


def broken(one: Journal) -> str:
    return "\n".join(problem for verdict in check(one).broken for problem in verdict.problems)


@pytest.mark.parametrize("channel", ["email", "discord"])
def test_a_good_run_holds(channel: str) -> None:
    """Nothing is found, and each message says why it holds."""
    report = check(journal(channel))
    assert not report.broken, str(report)
    assert "requested 1x; ledger: sent, attempt 1; provider: accepted; reported: sent" in str(report)


def test_what_is_done_again_without_effect_holds() -> None:
    """A request, a decision and a report that stand in the log twice are one."""
    one = journal()
    one.requests.append(replace(one.requests[0], offset=9))
    one.statuses.append(one.statuses[0])
    assert one.decisions is not None
    one.decisions.append(replace(one.decisions[0], offset=9, chosen={}))
    assert not broken(one)


def test_a_second_send_holds_only_after_a_recorded_unknown() -> None:
    """Twice is a breach, unless it was unknown before the second call."""
    one = journal()
    one.hits.append(replace(one.hits[0], n=2, at=at(20)))
    one.rows[0] = replace(one.rows[0], attempt=2)
    assert "twice" in broken(one)
    one.statuses.insert(0, Status("s0", ONE, "unknown", "lease_expired", 1, at(10)))
    assert not broken(one)
    one.statuses[0] = replace(one.statuses[0], at=at(30))
    assert "twice" in broken(one)


def test_every_loss_has_its_sentence() -> None:
    """Decided but not requested, requested but not in the ledger, sent but with nobody, expected but not decided."""
    one = journal()
    one.requests.clear()
    assert "never requested: lost" in broken(one)
    one = journal()
    one.rows.clear()
    assert "the ledger does not know it: lost" in broken(one)
    one = journal()
    one.hits.clear()
    assert "no provider has it: lost" in broken(one)
    one = journal()
    one.expected.append(Expected(SOURCE, PERSON.replace("a", "b"), "email"))
    assert "nothing was decided for them: lost" in broken(one)


def test_a_call_needs_a_claim_of_its_own() -> None:
    """No row, or more calls than attempts."""
    one = journal()
    one.rows.clear()
    assert "called without a claim" in broken(one)
    one = journal()
    one.hits.append(replace(one.hits[0], n=2, outcome="refused"))
    assert "2 calls, but the ledger counts 1 attempts" in broken(one)


def test_what_a_client_waits_for_within_a_call_is_no_call_of_its_own() -> None:
    """Discord's client asks again by itself after a short rate limit; anybody else's refusal is a call."""
    for channel, found in (("discord", ""), ("email", "2 calls, but the ledger counts 1 attempts")):
        one = journal(channel)
        one.hits.append(replace(one.hits[0], n=2, outcome="refused", status=429))
        assert found in broken(one)
        assert bool(found) == bool(broken(one))


def test_who_must_be_left_out_is() -> None:
    """For the reason that was expected: nobody is chosen, and nobody is left out for another one."""
    one = journal()
    one.expected[0] = replace(one.expected[0], gate="cap")
    assert "they were to be left out: cap" in broken(one)
    one.decisions = [Decision(SOURCE, 0, 0, 1, 1, 7, 1, 0, {}, {(PERSON, "email"): "quiet_hours"})]
    for witnessed in (one.requests, one.rows, one.statuses, one.hits, one.accounting):
        witnessed.clear()
    assert "gated: quiet_hours" in broken(one)
    one.decisions = [replace(one.decisions[0], gated={(PERSON, "email"): "cap"})]
    assert not broken(one)


def test_unfinished_or_contradicting_outcomes_are_found() -> None:
    """Still claimed, never reported, reported otherwise, and a message that a provider has although it is suppressed."""
    for row, sentence in (
        (Row(ONE, "claimed", None, 1, False), "still claimed"),
        (Row(ONE, "sent", None, 1, False), "never reported"),
        (Row(ONE, "unknown", "lease_expired", 1, True), "the ledger says unknown, delivery-status sent"),
        (Row(ONE, "suppressed", "unsubscribed", 1, True), "a provider has it, and the ledger says suppressed"),
    ):
        one = journal()
        one.rows[0] = row
        assert sentence in broken(one)


def test_an_unknown_may_or_may_not_have_arrived() -> None:
    """Both are what unknown means."""
    one = journal()
    one.rows[0], one.statuses[0] = (
        Row(ONE, "unknown", "answer_lost", 1, True),
        Status("s1", ONE, "unknown", "answer_lost", 1, at(1)),
    )
    one.accounting[0] |= {"sent": 0, "unknown": 1}
    assert not broken(one)
    one.hits.clear()
    assert not broken(one)


def test_an_early_offset_is_found() -> None:
    """The offset was committed and the ledger knew nothing."""
    one = journal()
    one.early.append(Early(ONE, 6))
    assert "the offset 6 was committed while the ledger knew nothing of it" in broken(one)
    one.early[0] = Early(ONE, 6, "claimed")
    assert "the offset 6 was committed while it was claimed without an outcome" in broken(one)


def called(one: Row, *claims: tuple[float, int | None]) -> Row:
    """The row with these claims: when, and how many milliseconds the call took."""
    return replace(one, claims=tuple(Claim(at(seconds), call_ms) for seconds, call_ms in claims))


def test_no_call_begins_2_s_after_an_unsubscribe() -> None:
    """A call may arrive late, but must have begun: its claim and its length say when, and nothing is allowed beyond 2 s."""
    one = journal()  # noted by the provider at 1 s
    one.acts.append(Act(at(-1.1), "their unsubscribe", PERSON))
    one.rows[0] = called(one.rows[0], (-5, 200))
    assert not broken(one), "it took 200 ms, so it may have begun at 0.8 s"
    one.rows[0] = called(one.rows[0], (-5, 50))
    assert "called 2.05 s or more after their unsubscribe was acknowledged" in broken(one)
    one.acts[0] = replace(one.acts[0], until=at(0.9))
    assert not broken(one), "what was stopped is resumed"
    one.acts[0] = replace(one.acts[0], until=None, subscriber_id="another")
    assert not broken(one)


def test_a_call_is_not_judged_by_what_nobody_lived_to_note() -> None:
    """Without its length a call began after its claim; and an earlier one of that kind may have come later than the next."""
    one = journal()
    one.acts.append(Act(at(-1.5), "their unsubscribe", PERSON))
    one.rows[0] = called(one.rows[0], (-5, None))
    assert not broken(one)
    one.rows[0] = called(one.rows[0], (0.7, None))
    assert "called 2.20 s or more after" in broken(one)
    one.rows[0] = called(replace(one.rows[0], attempt=2), (-5, None), (0.7, 10))
    assert not broken(one)
    one.rows[0] = called(one.rows[0], (-5, 10), (0.7, 10))
    assert "called 2.49 s or more after" in broken(one)


def test_order_of_a_subscriber_is_judged_by_what_was_there_before_a_call_began() -> None:
    """Two calls may overlap and arrive either way round; what had arrived before the earlier one began is out of order."""
    one = journal()
    other = ONE[:-1] + "2"
    one.decisions = None
    one.rows[0] = called(one.rows[0], (0, 300))
    one.requests.append(replace(one.requests[0], delivery_id=other, offset=6))
    one.rows.append(replace(called(one.rows[0], (0, 300)), delivery_id=other))
    one.statuses.append(replace(one.statuses[0], id="s2", delivery_id=other))
    one.hits.append(replace(one.hits[0], n=2, key=other, at=at(0.75)))
    assert not broken(one)
    one.hits[1] = replace(one.hits[1], at=at(0.65))
    assert f"{other} was sent 48 ms before the call for {ONE} began" in broken(one)
    one.rows[0] = called(one.rows[0], (0, None), (0, 300))
    assert not broken(one), "it was parked in between"


def test_an_offset_is_not_committed_before_the_outcome() -> None:
    """By the times of Kafka and of the ledger; a change of members in between explains it."""
    one = journal()
    one.requests[0] = replace(one.requests[0], topic="t")
    one.rows[0] = replace(called(one.rows[0], (0, 10)), outcome_at=at(1))
    one.commits = [Commit("t", 0, 5, at(0.2)), Commit("t", 0, 6, at(1.5)), Commit("other", 0, 9, at(0.5))]
    assert not broken(one)
    one.commits.append(Commit("t", 0, 7, at(0.4)))
    assert "the offset 7 was committed 600 ms before there was an outcome" in broken(one)
    one.rebalances.append(Rebalance("t", at(0.3)))
    assert not broken(one)
    one.rebalances[0] = Rebalance("t", at(0.6))
    assert "600 ms before" in broken(one)


def test_accounting_is_compared_with_counts_of_our_own() -> None:
    """The read model's row must agree with the log and the ledger, and every chunk must be there."""
    one = journal()
    one.accounting[0]["sent"] = 0
    assert "api.accounting says email sent=0, it is 1" in broken(one)
    one = journal()
    assert one.decisions is not None
    one.decisions[0] = replace(one.decisions[0], chunks=2)
    assert "1 chunks are decided of 2" in broken(one)


def test_kafkas_own_records_of_commits_are_read() -> None:
    """Offsets of the sinks' topics and changes of their groups; not those of other groups, nor what was removed."""

    def text(of: str) -> bytes:
        return len(of).to_bytes(2, "big") + of.encode()

    def raw(key: bytes, value: bytes | None) -> Raw:
        return Raw("__consumer_offsets", 0, 0, key, value, (), 1_700_000_000_500)

    offset = b"\0\4" + (77).to_bytes(8, "big") + b"whatever follows"
    key = b"\0\1" + text("g") + text("t") + (3).to_bytes(4, "big")
    other = b"\0\1" + text("h") + text("t") + (3).to_bytes(4, "big")
    raws = [raw(key, offset), raw(other, offset), raw(key, None), raw(b"\0\2" + text("g"), b"members")]
    commits, rebalances = read_commits(raws, {"t": "g"})
    when = datetime(2023, 11, 14, 22, 13, 20, 500_000, UTC)
    assert commits == [Commit("t", 3, 77, when)]
    assert rebalances == [Rebalance("t", when)]


def test_poison_must_be_a_dead_letter_with_its_bytes_and_nothing_else() -> None:
    """Missing, changed, or a letter of a record that nobody spoiled."""
    one = journal()
    one.poison.append(Poison("t", 0, 3, b"x", "garbage"))
    assert "it is in no dead letter" in broken(one)
    one.letters.append(Letter("t", 0, 3, b"y", "truncated"))
    assert "other bytes" in broken(one)
    one.letters[0] = replace(one.letters[0], value=b"x")
    assert not broken(one)
    one.letters.append(Letter("t", 0, 4, b"x", "truncated"))
    assert not broken(one), "sent again, because its acknowledgement was lost"
    one.letters[1] = replace(one.letters[1], value=b"z")
    assert "nobody spoiled" in broken(one)


def test_a_seed_gives_the_same_plan_every_time() -> None:
    """Replaying a failure means the same faults; different seeds differ."""
    assert [plan.plan_of(seed) for seed in range(50)] == [plan.plan_of(seed) for seed in range(50)]
    assert len({str(plan.plan_of(seed)) for seed in range(1, 200)}) > 150


def test_two_hundred_seeds_meet_every_process_and_every_kind_of_fault() -> None:
    """The long run leaves out no stage, no point, no provider fault and no server."""
    plans = [plan.plan_of(seed) for seed in range(1, 201)]
    armed = {line.split("=")[0] for one in plans for line in one.points}
    assert {line.split(":")[0] for line in armed} == set(plan.POINTS)
    assert {line.split(":")[1] for line in armed} == {point for points in plan.POINTS.values() for point in points}
    kinds = {one.kind for each in plans for one in each.timed}
    assert kinds == {"kill", "freeze", "join", "postgres", "registry", "sandbox"}
    assert {fault["kind"] for one in plans for fault in one.providers} == set(plan.PROVIDER_KINDS)


def test_every_failpoint_of_the_code_is_in_the_plan() -> None:
    """Who adds a failpoint adds it to the matrix."""
    root = Path(__file__).parents[2]
    folders = ("runtime", "streams", "sinks", "projections", "edge")
    found = {
        name
        for folder in folders
        for path in (root / folder).rglob("*.py")
        for name in re.findall(r"\bhit(?:_async)?\(\"([a-z_.]+)\"\)", path.read_text())
    }
    assert found == {point for points in plan.POINTS.values() for point in points}
