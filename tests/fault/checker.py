"""The checker: reads a journal and says of each message, source and dead letter whether what was promised holds, and why.

Pure. It knows nothing of the code that it judges but the names of states. The promises (ARCHITECTURE.md, "What must
always hold"): nothing accepted is lost; nothing reaches a provider twice unless it was recorded as unknown first; an
offset is committed only when the outcome is durable; the accounting closes, from independent counts; no call begins
later than 2 s after an acknowledged unsubscribe or stop; order is kept per subscriber and lane.

Nothing is judged by a tolerance: what is said to be too late, too early or out of order is so by the witnesses' own times,
with the most that a slow machine can have put between them in favour of the sinks.
"""

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from core.names import STATE_RANK
from tests.fault.journal import Commit, Decision, Hit, Journal, Letter, Requested, Row, Status, key_at_provider

STOP_WITHIN = timedelta(seconds=2)
"""What is promised between the acknowledgement of an unsubscribe or stop and the last call that begins."""
CALL_TAKES = timedelta(seconds=2)
"""Longest way to a provider of a call whose caller did not live to note how long it took: the timeout of the stacks under
test, and a little more."""
WAITED_FOR = ("discord", 429)
"""A refusal that does not count as a call: its client waits for a short rate limit and asks again within the call."""
TICK = timedelta(milliseconds=1)
"""Times of calls, of their length and of commits are cut to milliseconds."""
PROVIDER_SAID_SO = ("bounced", "complained", "endpoint_disabled")
"""Reasons of a failure that the provider told after it had accepted the message."""


@dataclass(frozen=True)
class Verdict:
    """What is to be said of one message, source or dead letter; it holds when there are no problems."""

    about: str
    why: str
    problems: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"holds  {self.about}: {self.why}" if not self.problems else f"BROKEN {self.about}: {'; '.join(self.problems)}"


@dataclass(frozen=True)
class Report:
    """All verdicts of a run."""

    verdicts: list[Verdict]

    @property
    def broken(self) -> list[Verdict]:
        """Those that do not hold."""
        return [verdict for verdict in self.verdicts if verdict.problems]

    def __str__(self) -> str:
        return "\n".join(map(str, self.verdicts))


@dataclass
class _Message:
    """Everything about one delivery id."""

    delivery_id: str
    requests: list[Requested] = field(default_factory=list)
    row: Row | None = None
    statuses: list[Status] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)
    committed: Commit | None = None
    """The first commit past its first request."""

    @property
    def first(self) -> Requested:
        """The request that stands first in the log; all have the same key, and so the same partition."""
        return min(self.requests, key=lambda request: request.offset)

    @property
    def accepted(self) -> list[Hit]:
        return [hit for hit in self.hits if hit.outcome == "accepted"]


def check(journal: Journal) -> Report:
    """Return a verdict for each message, source, order of a subscriber, stray request and dead letter."""
    messages, strays = _messages(journal)
    verdicts = [_message(one, journal) for one in messages.values()]
    verdicts += [
        Verdict(f"{hit.provider} request {hit.n}", "", (f"it was sent under {hit.key}, an id that nobody requested",))
        for hit in strays
    ]
    verdicts += _order(messages.values())
    if journal.decisions is not None:
        first = _first_copies(journal.decisions)
        verdicts += _decided(journal, first, messages)
        verdicts += _sources(journal, first, messages)
    return Report(verdicts + _letters(journal))


def _messages(journal: Journal) -> tuple[dict[str, _Message], list[Hit]]:
    messages: dict[str, _Message] = {}
    keys: dict[tuple[str, str], str] = {}
    for request in journal.requests:
        messages.setdefault(request.delivery_id, _Message(request.delivery_id)).requests.append(request)
        keys[key_at_provider(request.delivery_id, request.channel)] = request.delivery_id
    for row in journal.rows:
        messages.setdefault(row.delivery_id, _Message(row.delivery_id)).row = row
    seen: dict[str, Status] = {}
    for status in journal.statuses:
        if seen.setdefault(status.id, status) is status:
            messages.setdefault(status.delivery_id, _Message(status.delivery_id)).statuses.append(status)
    strays = []
    for hit in journal.hits:
        if (hit.provider, hit.key) in keys:
            messages[keys[hit.provider, hit.key]].hits.append(hit)
        elif (hit.provider, hit.key) not in journal.others:
            strays.append(hit)
    advances = _advances(journal.commits)
    for one in messages.values():
        if one.requests:
            offsets, commits = advances.get((one.first.topic, one.first.partition), ([], []))
            number = bisect.bisect_right(offsets, one.first.offset)
            one.committed = commits[number] if number < len(commits) else None
    return messages, strays


def _advances(commits: list[Commit]) -> dict[tuple[str, int], tuple[list[int], list[Commit]]]:
    """Return by topic and partition the commits that went further than all before, and their offsets, which rise."""
    found: dict[tuple[str, int], tuple[list[int], list[Commit]]] = defaultdict(lambda: ([], []))
    for commit in sorted(commits, key=lambda one: one.at):
        offsets, advancing = found[commit.topic, commit.partition]
        if not offsets or commit.offset > offsets[-1]:
            offsets.append(commit.offset)
            advancing.append(commit)
    return found


def _message(one: _Message, journal: Journal) -> Verdict:
    problems = [*_request_problems(one), *_ledger_problems(one, journal), *_call_problems(one), *_stop_problems(one, journal)]
    row = one.row
    where = f"{one.requests[0].channel}.{one.requests[0].lane} " if one.requests else ""
    state = f"{row.state}{f' ({row.reason})' if row.reason else ''}, attempt {row.attempt}" if row else "no row"
    reports = ", ".join(status.state for status in one.statuses) or "nothing"
    calls = ", ".join(hit.outcome for hit in one.hits) or "nothing"
    why = f"{where}requested {len(one.requests)}x; ledger: {state}; provider: {calls}; reported: {reports}"
    return Verdict(one.delivery_id, why, tuple(f"{problem} [{why}]" if n == 0 else problem for n, problem in enumerate(problems)))


def _request_problems(one: _Message) -> list[str]:
    if not one.requests:
        return ["there is an outcome, but nobody requested it"]
    if len({request.digest for request in one.requests}) > 1:
        return ["fan-out made different bytes of the same decision"]
    return []


def _ledger_problems(one: _Message, journal: Journal) -> list[str]:
    problems = [
        f"the offset {early.committed} was committed while "
        + (f"it was {early.state} without an outcome" if early.state else "the ledger knew nothing of it")
        for early in journal.early
        if early.delivery_id == one.delivery_id
    ]
    row = one.row
    if row is None:
        return [*problems, "it was requested and the ledger does not know it: lost"]
    problems += _commit_problems(one, row, journal)
    if row.state in ("claimed", "retry"):
        return [*problems, f"it is still {'claimed' if row.state == 'claimed' else 'parked'}"]
    if not row.reported:
        problems.append("its outcome was never reported")
    if not one.statuses:
        return [*problems, "delivery-status has nothing of it"]
    highest = max(one.statuses, key=lambda status: STATE_RANK[status.state]).state
    if highest != row.state:
        problems.append(f"the ledger says {row.state}, delivery-status {highest}")
    return problems


def _commit_problems(one: _Message, row: Row, journal: Journal) -> list[str]:
    """Compare Kafka's time of the commit with the ledger's time of the outcome.

    Only of deliveries with one claim, whose first outcome is the last, and whose sink kept its members in between: who finds
    a claim of somebody else may let go of the record, because the request is in the ledger then.
    """
    commit, outcome_at = one.committed, row.outcome_at
    if commit is None or outcome_at is None or len(row.claims) != 1 or row.state == "unknown" or commit.at + TICK >= outcome_at:
        return []
    since = row.claims[0].at - TICK
    if any(turn.topic == commit.topic and since <= turn.at <= commit.at + TICK for turn in journal.rebalances):
        return []
    early_ms = (outcome_at - commit.at).total_seconds() * 1000
    return [f"the offset {commit.offset} was committed {early_ms:.0f} ms before there was an outcome"]


def _begun_after(hit: Hit, row: Row | None) -> datetime:
    """Return a time before which the call that brought this to the provider cannot have begun.

    That is the claim's, and, because the provider noted it before it answered, the length of the call before its note. Where
    the caller noted no length, an earlier claim's call may have come as late.
    """
    claims = [claim for claim in (row.claims if row else ()) if claim.at <= hit.at + TICK]
    bounds = [
        max(claim.at, hit.at - (CALL_TAKES if claim.call_ms is None else timedelta(milliseconds=claim.call_ms) + TICK))
        for claim in claims
        if claim is claims[-1] or claim.call_ms is None
    ]
    return min(bounds, default=hit.at - CALL_TAKES)


def _call_problems(one: _Message) -> list[str]:
    row, accepted, problems = one.row, one.accepted, []
    if row is None:
        return ["a provider was called without a claim"] if one.hits else []
    unknown = sorted(status.at for status in one.statuses if status.state == "unknown")
    for number, hit in enumerate(accepted[1:], 1):
        if sum(at <= hit.at for at in unknown) < number:
            problems.append(f"sent again at {hit.at:%H:%M:%S.%f} without having been recorded as unknown first: twice")
    calls = sum((hit.provider, hit.status) != WAITED_FOR for hit in one.hits)
    if calls > row.attempt:
        problems.append(f"{calls} calls, but the ledger counts {row.attempt} attempts")
    if row.state in ("sent", "confirmed") and not accepted and not any(hit.outcome == "deduplicated" for hit in one.hits):
        problems.append(f"it is {row.state}, but no provider has it: lost")
    if accepted and (row.state == "suppressed" or (row.state == "failed" and row.reason not in PROVIDER_SAID_SO)):
        problems.append(f"a provider has it, and the ledger says {row.state}")
    return problems


def _stop_problems(one: _Message, journal: Journal) -> list[str]:
    if not one.requests:
        return []
    request, problems = one.requests[0], []
    for act in (act for act in journal.acts if act.bars(request.subscriber_id, request.source_id)):
        for hit in one.hits:
            late = _begun_after(hit, one.row) - act.at
            if late > STOP_WITHIN and (act.until is None or hit.at < act.until):
                problems.append(f"called {late.total_seconds():.2f} s or more after {act.reason} was acknowledged")
    return problems


def _order(messages: Iterable[_Message]) -> list[Verdict]:
    """Calls of a subscriber on a lane begin in the order of the log; what was parked or unknown in between does not count.

    Wrong is what had arrived at the provider before the call for something earlier in the log can have begun: calls begin in
    order but do not wait for each other.
    """
    lanes: dict[tuple[str, str, str, int], list[_Message]] = defaultdict(list)
    for one in messages:
        if one.requests and one.accepted and one.row is not None and len(one.row.claims) <= 1 and one.row.state == "sent":
            lanes[one.first.subscriber_id, one.first.channel, one.first.lane, one.first.partition].append(one)
    verdicts = []
    for (subscriber, channel, lane, _), calls in lanes.items():
        if len(calls) < 2:
            continue
        calls.sort(key=lambda one: one.first.offset)
        wrong, earlier = [], calls[0]
        for later in calls[1:]:
            begun = _begun_after(earlier.accepted[0], earlier.row)
            if (early_ms := (begun - later.accepted[0].at - TICK).total_seconds() * 1000) > 0:
                wrong.append(f"{later.delivery_id} was sent {early_ms:.0f} ms before the call for {earlier.delivery_id} began")
            if _begun_after(later.accepted[0], later.row) > begun:
                earlier = later
        verdicts.append(Verdict(f"order of {subscriber} on {channel}.{lane}", f"{len(calls)} in order", tuple(wrong)))
    return verdicts


def _first_copies(decisions: list[Decision]) -> dict[tuple[str, int, int], Decision]:
    first: dict[tuple[str, int, int], Decision] = {}
    for decision in sorted(decisions, key=lambda one: one.offset):
        first.setdefault((decision.source_id, decision.shard, decision.chunk), decision)
    return first


def _decided(journal: Journal, first: dict[tuple[str, int, int], Decision], messages: dict[str, _Message]) -> list[Verdict]:
    """Each expectation of the producer was decided on once, and what was chosen was requested, and nothing else was."""
    chosen = {
        (decision.source_id, subscriber, channel): one
        for decision in first.values()
        for one, (subscriber, channel) in decision.chosen.items()
    }
    gated = {
        (decision.source_id, subscriber): reason
        for decision in first.values()
        for (subscriber, _), reason in decision.gated.items()
    }
    wanted = {(one.source_id, one.subscriber_id, one.channel): one for one in journal.expected}
    verdicts = []
    for key, expected in wanted.items():
        about = f"{key[0]} for {key[1]} on {key[2]}"
        if key in chosen:
            missing = chosen[key] not in messages or not messages[chosen[key]].requests
            problems = (f"it was decided ({chosen[key]}) and never requested: lost",) if missing else ()
            if expected.gate:
                problems = (*problems, f"they were to be left out: {expected.gate}")
            verdicts.append(Verdict(about, f"decided, {chosen[key]}", problems))
        elif expected.may_be_left_out or (expected.gate and gated.get(key[:2]) == expected.gate):
            verdicts.append(Verdict(about, f"left out: {gated.get(key[:2], 'unsubscribed')}"))
        else:
            problem = f"gated: {gated[key[:2]]}" if key[:2] in gated else "nothing was decided for them: lost"
            verdicts.append(Verdict(about, "", (problem,)))
    verdicts += [
        Verdict(f"{key[0]} for {key[1]} on {key[2]}", "", ("it was decided although nobody asked for it",))
        for key in chosen
        if key not in wanted
    ]
    known = set(chosen.values())
    verdicts += [
        Verdict(one.delivery_id, "", ("it was requested, but no first copy of a decision has it",))
        for one in messages.values()
        if one.requests and one.delivery_id not in known
    ]
    return verdicts


def _sources(journal: Journal, first: dict[tuple[str, int, int], Decision], messages: dict[str, _Message]) -> list[Verdict]:
    """Each source is complete, and the read model's accounting equals counts from the log and the ledger."""
    verdicts = []
    for source_id in dict.fromkeys(one.source_id for one in journal.expected):
        mine = [decision for decision in first.values() if decision.source_id == source_id]
        states: Counter[tuple[str, str]] = Counter()
        chosen: Counter[str] = Counter()
        for decision in mine:
            for one, (_, channel) in decision.chosen.items():
                chosen[channel] += 1
                row = messages[one].row if one in messages else None
                states[channel, row.state if row else "pending"] += 1
        population = sum(decision.population for decision in mine)
        problems = []
        if not mine or len(mine) != mine[0].shards * mine[0].chunks:
            problems.append(f"{len(mine)} chunks are decided of {mine[0].shards * mine[0].chunks if mine else 'all'}")
        rows = {row["channel"]: row for row in journal.accounting if row["source_id"] == source_id}
        for channel, count in chosen.items():
            problems += _accounting(channel, count, states, population, rows.get(channel))
        verdicts.append(Verdict(source_id, f"{sum(chosen.values())} chosen of {population}, accounted for", tuple(problems)))
    return verdicts


def _accounting(
    channel: str, chosen: int, states: Counter[tuple[str, str]], population: int, row: "dict[str, object] | None"
) -> list[str]:
    if row is None:
        return [f"api.accounting has no row for {channel}"]
    counted = {name: states[channel, name] for name in ("pending", "unknown", "sent", "confirmed", "failed", "suppressed")}
    wanted = {"complete": True, "balance": 0, "not_fanned_out": 0, "population": population, "chosen": chosen, **counted}
    return [
        f"api.accounting says {channel} {name}={row[name]}, it is {value}" for name, value in wanted.items() if row[name] != value
    ]


def _letters(journal: Journal) -> list[Verdict]:
    """Each poison is in the dead letters with its bytes, at least once and always with the same reason; nothing else is."""
    found: dict[tuple[str, int, int], list[Letter]] = defaultdict(list)
    for letter in journal.letters:
        found[letter.topic, letter.partition, letter.offset].append(letter)
    verdicts = []
    for poison in journal.poison:
        letters = found.pop((poison.topic, poison.partition, poison.offset), [])
        about = f"{poison.what} at {poison.topic}/{poison.partition}@{poison.offset}"
        problems = []
        if not letters:
            problems.append("it is in no dead letter")
        if any(letter.value != poison.value for letter in letters):
            problems.append("its dead letter has other bytes")
        verdicts.append(Verdict(about, f"dead letter ({', '.join(sorted({one.reason for one in letters}))})", tuple(problems)))
    spoiled = {(poison.topic, poison.value) for poison in journal.poison}  # sent again, when its acknowledgement was lost
    verdicts += [
        Verdict(f"{topic}/{partition}@{offset}", "", (f"a record that nobody spoiled is a dead letter: {letters[0].reason}",))
        for (topic, partition, offset), letters in found.items()
        if (topic, letters[0].value) not in spoiled
    ]
    return verdicts
