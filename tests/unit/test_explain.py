"""The answer of `newswire why`, in words."""

from datetime import UTC, datetime
from typing import Any

import pytest

from core.explain import answer
from core.names import FAILURE_REASONS, GATE_REASONS, SKIP_REASONS, STATE_RANK, UNKNOWN_REASONS

AT = datetime(2026, 11, 22, 9, tzinfo=UTC)


def delivery(state: str, reason: str | None = None, sent_at: datetime | None = None) -> dict[str, Any]:
    return {"channel": "email", "state": state, "reason": reason, "sent_at": sent_at}


@pytest.mark.parametrize(
    ("decided", "deliveries", "says"),
    [
        (("not_concerned", None, []), [], "It was not for them, so nothing was sent."),
        (("gated", "paused", ["email"]), [], "It was for them, and was stopped: the subscriber paused newsletters."),
        (
            ("chosen", None, ["email", "slack"]),
            [],
            "It was decided to go by email and slack; what became of it is not known here yet.",
        ),
        (("chosen", None, ["email"]), [delivery("sent", None, AT)], "It was sent by email at 2026-11-22 09:00:00Z."),
        (
            ("chosen", None, ["email"]),
            [delivery("failed", "bounced"), {**delivery("pending"), "channel": "slack"}],
            "It was decided to go by email, and failed: the message came back. It is on its way by slack.",
        ),
        (("chosen", None, ["email"]), [delivery("failed", "their_own")], "It was decided to go by email, and failed: their_own."),
    ],
)
def test_says_what_became_of_it(decided: tuple[str, str | None, list[str]], deliveries: list[dict[str, Any]], says: str) -> None:
    """Decided, stopped, sent or failed, with the reason in words where there are some."""
    assert answer(*decided, deliveries) == says


def test_has_words_for_every_state_and_reason() -> None:
    """What the read models and decisions can hold."""
    for state in ("not_fanned_out", "pending", *STATE_RANK):
        assert answer("chosen", None, ["email"], [delivery(state)]).endswith(".")
    for words in (SKIP_REASONS, FAILURE_REASONS, UNKNOWN_REASONS):
        assert all(words[one] in answer("chosen", None, ["email"], [delivery("unknown", one)]) for one in words)
    assert all(words in answer("gated", one, ["email"], []) for one, words in GATE_REASONS.items())
