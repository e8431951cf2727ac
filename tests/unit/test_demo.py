"""What the demo does when its input is not as it left it."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from core.names import PREVIEW_RECIPIENTS
from deploy import demo, readers
from deploy.client import StepFailed
from deploy.sandbox.recorder import hash_text
from runtime.settings import Settings


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


class Sandboxed:
    """A sandbox that accepted two deliveries, three previews and `strays` others."""

    def __init__(self, strays: int) -> None:
        self._unnamed = [*(PREVIEW_RECIPIENTS[channel] for channel in ("email", "slack")), *(f"C{n}" for n in range(strays))]

    def sandbox(self, path: str) -> Any:
        if path.startswith("/control/counts"):
            return {"ses": 2, "slack": len(self._unnamed), "webhook": 1}
        return {"requests": [{"destination_hash": hash_text(name)} for name in self._unnamed]}

    def received(self) -> dict[tuple[str, str], int]:
        return {("ses", "a"): 1, ("ses", "b"): 1, ("webhook", "preview-1"): 1}

    def messages(self) -> dict[str, tuple[str, str]]:
        return {"a": ("ses", "a"), "b": ("ses", "b")}


@pytest.mark.parametrize("strays", [0, 2])
def test_a_preview_is_no_stray_message(strays: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was looked at in the inbox is no delivery; what else is none is counted."""
    monkeypatch.setattr(demo, "POLL_S", 0)
    assert demo.unknown_messages(Sandboxed(strays)) == strays  # type: ignore[arg-type]


class Mailed:
    """Read models in which these people got the newsletter as a mail; the last two have items because of what they read."""

    def __init__(self, *ids: str) -> None:
        self._ids = ids

    def query(self, sql: str, *parameters: Any) -> list[tuple[str]]:
        assert "channel = 'email'" in sql
        return [(one,) for one in self._ids]

    def command(self, word: str, source: str, subscriber: str) -> list[Any]:
        reason = "Because you read “X”" if subscriber in self._ids[-2:] else "New in a"
        return [{"because": ["Subscribed.", *(f"{n}. Title: {reason}." for n in range(1, 9))]}]


def test_the_readers_that_are_shown_have_a_mail_and_say_why(tmp_path: Path) -> None:
    """Two with the same topics, of those whose issue was a mail and who have read something, in whose issues it is seen."""
    (tmp_path / "names").write_text('{"a": {"en": "Algebra", "de": "Algebra"}}')
    people = [
        {"subscriber_id": str(n), "name": f"N{n}", "topics": {"a": 1.0}, "channels": {"email": f"{n}@x.org"}} for n in range(40)
    ]
    found = readers.two_readers(Mailed("4", "5", "12", "24", "36"), "daily@x", people)  # type: ignore[arg-type]
    assert [(one.person["subscriber_id"], len(one.because)) for one in found] == [("24", 5), ("36", 5)]
    table = readers.side_by_side(found, Settings.load({"NEWSWIRE_TOPIC_NAMES": str(tmp_path / "names"), "NEWSWIRE_HOME": "none"}))
    assert [column.header for column in table.columns] == ["N24, 24@x.org", "N36, 36@x.org"]
    assert "who follow Algebra, and" in str(table.title)
