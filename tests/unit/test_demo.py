"""What the demo does when its input is not as it left it."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from deploy import demo
from deploy.client import StepFailed


class RetractedStack:
    """A stack on which one article of the demo was retracted; it has no servers."""

    def step(self, name: str) -> Any:
        return nullcontext()

    def command(self, *words: str) -> list[Any]:
        return []

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return [(199, "6f1d4f0e-4c0b-4a53-9f0f-6f9e2a6f3a11")]

    def wait(self, title: str, total: int, done: Any) -> None:
        assert done() >= total

    def runner(self, word: str) -> str:
        return f"make {word}"


def test_stops_at_once_when_an_article_was_retracted() -> None:
    """It names the article and how to begin anew; nothing would end the wait."""
    given = demo.Given([{"publication_id": str(n)} for n in range(200)], [], [], "", [], 0, Path())
    with pytest.raises(StepFailed, match=r"6f1d4f0e-4c0b-4a53-9f0f-6f9e2a6f3a11 was retracted.*make clean"):
        demo.wait_scored(RetractedStack(), given)  # type: ignore[arg-type]
