"""What happens in a run: a pure function of its seed. The same seed gives the same faults in the same order."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SINK = (
    "after_poll",
    "after_claim",
    "before_call",
    "after_call",
    "after_outcome",
    "after_status",
    "after_reported",
    "after_commit",
)
_DECIDE = ("decide.before_produce", "decide.after_produce", "decide.after_state")
_FANOUT = ("fanout.after_first_copy", "fanout.before_produce", "fanout.after_produce", "fanout.after_mark")
_COMMIT = ("stage.before_commit", "stage.after_commit")
_SINKS = tuple(f"{channel}-{lane}" for channel in ("ses", "slack", "discord", "webhook") for lane in ("urgent", "bulk"))

POINTS: Mapping[str, tuple[str, ...]] = {
    "approval": ("approval.after_scored", "approval.after_approved", "approval.after_alert", *_COMMIT),
    "audience": ("audience.before_produce", "audience.after_produce", *_COMMIT),
    "alerts": (*_DECIDE, *_COMMIT),
    "newsletters": (*_DECIDE, *_COMMIT),
    "fanout-urgent": (*_FANOUT, *_COMMIT),
    "fanout-bulk": (*_FANOUT, *_COMMIT),
    "ticker": ("ticker.before_produce", "ticker.after_produce"),
    "consent": ("consent.before_commit", "consent.after_commit"),
    "edge": ("edge.before_produce", "edge.after_produce"),
    "feedback": ("feedback.after_suppress", "feedback.after_states"),
    "projections": ("projection.before_commit", "projection.after_commit", "projection.after_group_commit"),
    **{sink: tuple(f"sink.{point}" for point in _SINK) for sink in _SINKS},
}
"""Every failpoint by the process that has it: before and after claim, call, outcome, produce and commit."""

PROCESSES = (*POINTS, "guard")
"""Every process that is killed from outside."""
STREAMS = ("approval", "audience", "alerts", "newsletters", "fanout-urgent", "fanout-bulk")
PROVIDERS = ("ses", "slack", "discord", "webhook")
PROVIDER_KINDS = ("throttle", "error", "drop_before_accept", "drop_after_accept", "timeout", "slow_body", "partial")
INPUT_S = 3.0
"""Length of the time in which faults begin; a run without faults takes some 5 s."""


@dataclass(frozen=True)
class Timed:
    """A fault from outside, so many seconds after the input began."""

    at_s: float
    kind: str
    target: str
    for_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.at_s:.1f}s {self.kind} {self.target}{f' for {self.for_s:.1f}s' if self.for_s else ''}"


@dataclass(frozen=True)
class Plan:
    """The faults of one run."""

    seed: int
    points: tuple[str, ...]
    """Lines of the failpoints' file."""
    timed: tuple[Timed, ...]
    providers: tuple[Mapping[str, Any], ...]
    """Bodies for the sandbox's /control/faults."""
    copies: int
    """How often each input event is produced."""
    poison: int
    """How many records that are no events go into the input topics."""
    unsubscribe_at_s: float
    """When somebody leaves, after the sources were produced."""
    rounds: int = 0
    """How many alerts follow, one every two seconds, while faults go on."""

    def __str__(self) -> str:
        providers = [f"{one['provider']}:{one['kind']}x{one['count']}" for one in self.providers]
        input_ = [f"{self.copies} copies"] * (self.copies > 1) + [f"{self.poison} poisoned"] * (self.poison > 0)
        return ", ".join([*self.points, *map(str, self.timed), *providers, *input_]) or "no faults"


def plan_of(seed: int) -> Plan:
    """Return the faults of a seed; seed 0 has none, to tell a broken stack from a broken promise."""
    if seed == 0:
        return Plan(0, (), (), (), 1, 0, 1.0)
    dice = random.Random(seed)
    points: dict[str, str] = {}
    for _ in range(dice.choice((1, 2, 2, 3))):
        process = dice.choice(tuple(POINTS))
        points.setdefault(process, f"{process}:{dice.choice(POINTS[process])}=kill{dice.choice(('', '', '@2', '@3'))}")
    timed = [_timed(dice) for _ in range(dice.choice((0, 1, 1, 2)))]
    providers = [_provider_fault(dice) for _ in range(dice.choice((0, 1, 2)))]
    return Plan(
        seed,
        tuple(points.values()),
        tuple(sorted(timed, key=lambda one: one.at_s)),
        tuple(providers),
        dice.choice((1, 1, 1, 3)),
        dice.choice((0, 0, 4)),
        round(dice.uniform(0.0, 2.0), 2),
    )


def _timed(dice: random.Random) -> Timed:
    at_s = round(dice.uniform(0.2, INPUT_S), 2)
    kind = dice.choice(("kill", "kill", "freeze", "join", "postgres", "registry", "sandbox"))  # a broker's loss: see rows
    if kind == "kill":
        return Timed(at_s, kind, dice.choice(PROCESSES))
    if kind == "freeze":
        return Timed(at_s, kind, dice.choice(PROCESSES), round(dice.uniform(1.0, 4.0), 1))
    if kind == "join":
        return Timed(at_s, kind, dice.choice((*STREAMS, *_SINKS)), round(dice.uniform(2.0, 4.0), 1))
    return Timed(at_s, kind, "", round(dice.uniform(1.0, 3.0), 1) if kind == "registry" else 0.0)


def _provider_fault(dice: random.Random) -> Mapping[str, Any]:
    provider = dice.choice(PROVIDERS)
    kind = dice.choice(PROVIDER_KINDS if provider == "ses" else PROVIDER_KINDS[:-1])
    fault: dict[str, Any] = {"provider": provider, "kind": kind, "count": dice.randint(1, 2)}
    if kind == "timeout":
        fault |= {"delay_s": 3.0, "accept": dice.random() < 0.5}
    if kind == "slow_body":
        fault |= {"delay_s": dice.choice((0.5, 3.0))}
    if kind == "partial":
        fault |= {"status": "TRANSIENT_FAILURE"}
    return fault
