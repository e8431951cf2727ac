"""The sandbox's parts on their own: journal, recorder, faults, rates, templates and scores."""

from pathlib import Path
from typing import Any

import pytest

from deploy.sandbox.emails import BadTemplate, TemplateCache, missing_names, substitute
from deploy.sandbox.faults import BadControl, FaultBook
from deploy.sandbox.journal import Journal, JournalError
from deploy.sandbox.limits import Limits
from deploy.sandbox.recorder import Message, Recorder
from deploy.sandbox.scoring import quality_of


class Words:
    """A body."""

    def subject(self) -> str:
        return "words"

    def document(self) -> dict[str, Any]:
        return {}


def message(delivery_id: str = "d", outcome: str = "accepted", size_bytes: int = 10) -> Message:
    """A webhook message."""
    return Message("webhook", delivery_id, "a", "0", Words(), size_bytes, outcome=outcome, status=200)


def test_journal_cuts_off_an_unfinished_line(tmp_path: Path) -> None:
    """A kill in the middle of a write costs the line that was not finished, and the next one stands on its own."""
    journal = Journal(tmp_path)
    journal.append([{"n": 1}, {"n": 2}])
    with journal.path.open("ab") as file:
        file.write(b'{"n": 3')
    assert list(journal.replay()) == [{"n": 1}, {"n": 2}]
    journal.append([{"n": 3}])
    assert list(journal.replay()) == [{"n": 1}, {"n": 2}, {"n": 3}]
    journal.close()


def test_journal_refuses_damage_in_its_middle(tmp_path: Path) -> None:
    """A damaged line that others follow is not skipped: counts would be wrong."""
    journal = Journal(tmp_path)
    journal.path.write_bytes(b'{"n": 1}\nnonsense\n{"n": 2}\n')
    with pytest.raises(JournalError, match="line 2"):
        list(journal.replay())
    journal.close()


def test_journal_belongs_to_one_process(tmp_path: Path) -> None:
    """Two sandboxes cannot count into the same file."""
    journal = Journal(tmp_path)
    with pytest.raises(JournalError, match="another sandbox"):
        Journal(tmp_path)
    journal.close()
    Journal(tmp_path).close()


def test_recorder_keeps_the_newest_bodies(tmp_path: Path) -> None:
    """Counts go on when bodies are forgotten, by number and by size."""
    recorder = Recorder(Journal(tmp_path), keep=3, keep_bytes=100)
    for number in range(5):
        recorder.record([message(str(number))])
    assert list(recorder.messages) == [3, 4, 5]
    recorder.record([message("big", size_bytes=95)])
    assert list(recorder.messages) == [6]
    assert recorder.by_provider("accepted")["webhook"] == 6


def test_recorder_counts_by_outcome(tmp_path: Path) -> None:
    """Only what was accepted twice is a duplicate."""
    recorder = Recorder(Journal(tmp_path))
    recorder.record([message("a"), message("b"), message("b", "refused"), message("c"), message("c")])
    assert recorder.duplicates() == {"c": 2}
    assert recorder.by_delivery("refused") == {"b": 1}
    again = Recorder(Journal(tmp_path / "other"))
    assert again.by_delivery("accepted") == {}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "JSON object"),
        ({"provider": "sms", "kind": "error"}, "provider is 'sms'"),
        ({"provider": "ses", "kind": "explode"}, "kind is 'explode'"),
        ({"provider": "slack", "kind": "partial"}, "for ses only"),
        ({"provider": "ses", "kind": "error", "share": 2}, "share is 2"),
        ({"provider": "ses", "kind": "error", "count": 0}, "count is 0"),
        ({"provider": "ses", "kind": "error", "status": 200}, "status is 200"),
        ({"provider": "ses", "kind": "error", "often": 1}, "often is no field"),
        ({"provider": "ses", "kind": "error", "count": True}, "count cannot be True"),
        ({"provider": "ses", "kind": "error", "delay_s": -1}, "seconds from 0"),
        ({"provider": "discord", "kind": "throttle", "scope": "all"}, "scope is 'all'"),
    ],
)
def test_faults_say_what_is_wrong(document: Any, words: str) -> None:
    """A fault that cannot be understood is refused with the field's name."""
    with pytest.raises(BadControl, match=words):
        FaultBook().add(document)


def test_faults_happen_as_often_as_they_say() -> None:
    """Count ends a fault, only chooses its victims, and the first that fits happens."""
    book = FaultBook(seed=1)
    book.add({"provider": "webhook", "kind": "error", "count": 2, "only": "special"})
    book.add({"provider": "webhook", "kind": "throttle"})
    kinds = [fault.kind for i in ("x", "special-1", "special-2", "special-3") if (fault := book.pick("webhook", [message(i)]))]
    assert kinds == ["throttle", "error", "error", "throttle"]
    assert [f["hits"] for f in book.documents()] == [2, 2]
    assert book.pick("slack", [message()]) is None
    assert book.clear(provider="webhook") == 2


def test_limits_are_off_until_they_are_switched_on() -> None:
    """Off takes everything; on keeps to the burst and names the wait; a destination has its own bucket."""
    limits = Limits()
    assert all(limits.take("slack", "C1") == 0 for _ in range(100))
    limits.set({"provider": "slack", "per_second": 0.5, "burst": 2})
    assert [limits.take("slack", "C1") for _ in range(2)] == [0, 0]
    assert 1.5 < limits.take("slack", "C1") <= 2
    assert limits.take("slack", "C2") == 0
    limits.set({"provider": "slack", "on": False})
    assert limits.take("slack", "C1") == 0
    for bad in (
        {"provider": "x"},
        {"provider": "ses", "per_second": 0},
        {"provider": "ses", "scope": "y"},
        {"provider": "ses", "z": 1},
    ):
        with pytest.raises(BadControl):
            limits.set(bad)


def test_templates_are_checked_and_filled() -> None:
    """Simple names are replaced, nothing is escaped, a missing one stays; anything cleverer is refused."""
    cache = TemplateCache()
    template = cache.get("{{a}}", "", "<p>{{ b }}</p>{{c.d}}")
    assert cache.get("{{a}}", "", "<p>{{ b }}</p>{{c.d}}") is template
    assert template.names == {"a", "b", "c.d"}
    data = {"a": "<", "c": {"d": 3}}
    assert missing_names(template, data, {}) == ["b"]
    assert missing_names(template, data, {"b": ""}) == []
    assert substitute(template.html, data, {}) == "<p>{{ b }}</p>3"
    assert substitute(template.html, data, {"b": "x"}) == "<p>x</p>3"
    for bad in ("{{#if a}}b{{/if}}", "{{> part}}", "{{{a}}}", "{{a"):
        with pytest.raises(BadTemplate):
            cache.get("s", "", bad)


def test_scores_are_spread_as_promised() -> None:
    """Of many titles 70 % are above 0.8 and 30 % above 0.9; white space in a title does not matter."""
    qualities = [quality_of(f"Title number {number}") for number in range(5_000)]
    assert 0.68 < sum(q > 0.8 for q in qualities) / 5_000 < 0.72
    assert 0.28 < sum(q > 0.9 for q in qualities) / 5_000 < 0.32
    assert all(0.3 <= q < 1 for q in qualities)
    assert quality_of("A\n  title") == quality_of("A title")
    assert quality_of("A title", {"quality": "0.5"}) == 0.5
    with pytest.raises(ValueError, match="0 to 1"):
        quality_of("A title", {"quality": "2"})
