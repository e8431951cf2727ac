"""`newswire schemas ...` as a person or a Makefile runs it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from core.errors import InputError
from runtime.output import Output
from schemas import catalogue_page, files, lock
from schemas.commands import schemas_group


def run(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(schemas_group, list(arguments), obj=Output(json_mode=True), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    answer: dict[str, object] = json.loads(result.output)
    return answer


def test_check_counts_what_it_looked_at() -> None:
    """All is well in this checkout."""
    answer = run("check")
    assert answer["events"] == len(files.event_names())


def test_check_refuses_a_stale_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make check` ends with the sentence that says what to run, and the page can be written."""
    monkeypatch.setattr(catalogue_page, "PAGE", tmp_path / "CATALOGUE.md")
    with pytest.raises(InputError, match="newswire schemas catalogue"):
        run("check")
    with pytest.raises(InputError, match="stale"):
        run("catalogue", "--check")
    assert run("catalogue")["changed"] is True
    assert run("catalogue", "--check")["changed"] is False
    run("check")


def test_lock_adds_what_is_new_and_refuses_what_was_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishing is a deliberate act; afterwards a file stays as it is."""
    path = tmp_path / "published.lock"
    monkeypatch.setattr(lock, "LOCK", path)
    assert len(run("lock")["added"]) == len(files.event_names())  # type: ignore[arg-type]
    assert run("lock")["added"] == []
    published = json.loads(path.read_text())
    published["AlertRaised"] = ["0" * 64]
    path.write_text(json.dumps(published))
    with pytest.raises(InputError, match=r"AlertRaised\.avsc is published and was edited"):
        run("lock")
    assert json.loads(path.read_text()) == published


def test_new_version_of_a_published_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second file is read as the newest version; a breaking one, one of documentation alone and a gap are refused."""
    for source in files.AVRO.glob("*.avsc"):
        (tmp_path / source.name).write_text(source.read_text())
    monkeypatch.setattr(files, "AVRO", tmp_path)
    published = lock.current()
    schema = json.loads((tmp_path / "ReactionAdded.avsc").read_text())

    def second(name: str = "ReactionAdded.v2.avsc", doc: str = "d", **field: object) -> list[str]:
        for cached in (files.versions, files.text, files.schema):
            cached.cache_clear()
        fields = [*schema["fields"], {"name": "device", "doc": "Where.", **field}] if field else schema["fields"]
        (tmp_path / name).write_text(json.dumps({**schema, "doc": doc, "fields": fields}))
        return lock.problems(lock=published)

    try:
        assert second(type=["null", "string"], default=None) == []
        assert len(lock.current()["ReactionAdded"]) == 2
        assert "device: was added without a default between versions 1 and 2" in second(type="string")[0]
        assert "differs in documentation alone" in second()[0]
        with pytest.raises(Exception, match="a version is missing"):
            second(name="ReactionAdded.v4.avsc")
        (tmp_path / "ReactionAdded.v4.avsc").rename(tmp_path / "reaction.avsc")
        with pytest.raises(Exception, match="no name of a schema"):
            second()
    finally:
        monkeypatch.undo()
        for cached in (files.versions, files.text, files.schema):
            cached.cache_clear()
