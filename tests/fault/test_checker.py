"""The checker alone, over journals made by hand: what holds is left in peace, and each broken promise has its sentence."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.ids import discord_nonce
from tests.fault import plan
from tests.fault.checker import check
from tests.fault.journal import Act, Decision, Early, Expected, Hit, Journal, Letter, Poison, Requested, Row, Status

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
    assert "the offset 6 was committed" in broken(one)


def test_nothing_is_called_2_s_after_an_unsubscribe() -> None:
    """A call may begin within 2 s of the acknowledgement, and be noted some time later; after that it is a breach."""
    one = journal()
    one.acts.append(Act(at(-3), "their unsubscribe", PERSON))
    assert not broken(one)
    one.acts[0] = replace(one.acts[0], at=at(-4))
    assert "called 5.0 s after their unsubscribe" in broken(one)
    one.acts[0] = replace(one.acts[0], subscriber_id="another")
    assert not broken(one)


def test_order_of_a_subscriber_is_judged_where_calls_did_not_overlap() -> None:
    """The later one arrived more than a second before the earlier one."""
    one = journal()
    other = ONE[:-1] + "2"
    one.decisions = None
    one.requests.append(replace(one.requests[0], delivery_id=other, offset=6))
    one.rows.append(replace(one.rows[0], delivery_id=other))
    one.statuses.append(replace(one.statuses[0], id="s2", delivery_id=other))
    one.hits.append(replace(one.hits[0], n=2, key=other, at=at(0.5)))
    assert not broken(one)
    one.hits[1] = replace(one.hits[1], at=at(-1))
    assert "was sent before" in broken(one)


def test_accounting_is_compared_with_counts_of_our_own() -> None:
    """The read model's row must agree with the log and the ledger, and every chunk must be there."""
    one = journal()
    one.accounting[0]["sent"] = 0
    assert "api.accounting says email sent=0, it is 1" in broken(one)
    one = journal()
    assert one.decisions is not None
    one.decisions[0] = replace(one.decisions[0], chunks=2)
    assert "1 chunks are decided of 2" in broken(one)


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
