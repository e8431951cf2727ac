"""The command line: how errors and results are shown."""

import json
import subprocess
import sys
from datetime import UTC, datetime

import click
import pytest
from click.testing import CliRunner

from core.errors import EventRefused, InputError, NewswireError, SetupError, Unavailable
from runtime import commands
from runtime.output import Output


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (InputError("title: is empty"), 2, "error: title: is empty"),
        (EventRefused("AlertRaised", "title", "is empty"), 2, "error: AlertRaised.title: is empty"),
        (SetupError("mvn is missing: install Maven."), 3, "error: mvn is missing: install Maven."),
        (Unavailable("Kafka does not answer"), 4, "error: Kafka does not answer. Is the stack up? Start it with `make up`."),
    ],
)
def test_an_error_is_one_sentence_and_an_exit_code(error: NewswireError, code: int, text: str) -> None:
    """People get one line on standard error; programs get an object too."""

    @click.command("fail")
    def fail() -> None:
        raise error

    commands.main.add_command(fail)
    try:
        result = CliRunner().invoke(commands.main, ["fail"])
        assert (result.exit_code, result.stderr) == (code, text + "\n")
        result = CliRunner().invoke(commands.main, ["--json", "fail"])
        assert json.loads(result.stdout)["error"] == text.removeprefix("error: ")
    finally:
        del commands.main.commands["fail"]


def test_instants_end_with_a_z(capsys: pytest.CaptureFixture[str]) -> None:
    """For people and programs alike, alone, in lists and in tables."""
    at = datetime(2026, 11, 22, 9, tzinfo=UTC)
    Output().item({"at": at})
    Output(json_mode=True).item({"at": at, "all": [at], "keys": {at}})
    people, programs = capsys.readouterr().out.splitlines()
    assert people == "at  2026-11-22 09:00:00Z"
    text = "2026-11-22T09:00:00Z"
    assert json.loads(programs) == {"at": text, "all": [text], "keys": [text]}


def test_tables_are_for_people_or_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    """A row becomes a line of a table, or an object with the columns' names."""
    rows = [("email", 1200, None), ("[slack]", 3, True)]
    Output(json_mode=True).table("T", ["channel", "count", "ok"], rows)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"channel": "email", "count": 1200, "ok": None},
        {"channel": "[slack]", "count": 3, "ok": True},
    ]
    Output().table("T", ["channel", "count", "ok"], rows)
    shown = capsys.readouterr().out
    assert "1,200" in shown
    assert "[slack]" in shown
    Output().item({"name": "x", "long_name": 0.25})
    assert capsys.readouterr().out == "name       x\nlong_name  0.25\n"
    Output(json_mode=True).say("hello")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("columns", ["40", "150"])
def test_a_table_is_as_wide_as_columns_says_and_ids_stay_whole(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Text is folded to the width; an id stays on one line to be copied, and a number whole, though the table be wider then."""
    monkeypatch.setenv("COLUMNS", columns)
    one, slot = "0b5f8a3e-6f3e-4b64-9a39-0c8a3a6b0001", "daily@2026-11-22T09:00Z"
    Output().table("T", ["id", "source", "count", "detail"], [(one, slot, 123456, "many words " * 30)])
    lines = capsys.readouterr().out.splitlines()
    assert any(one in line and slot in line and "123,456" in line for line in lines)
    widths = {len(line) for line in lines[1:]}
    assert widths == ({150} if columns == "150" else {len(one) + len(slot) + len("123,456") + 12 + 4 * 3 + 1})


def test_progress_is_not_shown_to_programs(capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe gets results only."""
    with Output().progress(10, "Work") as done:
        done(10)
    assert capsys.readouterr() == ("", "")


def test_importing_the_commands_is_cheap() -> None:
    """The modules of the entry points load no client library: 18 processes start with them."""
    heavy = (
        "{'faust', 'aiokafka', 'confluent_kafka', 'psycopg', 'aiohttp', 'numpy', 'aiobotocore', 'hikari', 'slack_sdk', 'rich'}"
    )
    script = f"import sys; from runtime.commands import main; main._load(); print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert found.stdout == "[]\n"
