"""The command line: how errors and results are shown."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import click
import pytest
from click.testing import CliRunner

from core.errors import EventRefused, InputError, NewswireError, SetupError, Unavailable
from projections.operations import ACCOUNTING_COLUMNS
from runtime import commands
from runtime.output import Output
from sinks.delivery_commands import BRIEF

ID, AT = "0b5f8a3e-6f3e-4b64-9a39-0c8a3a6b0001", datetime(2026, 11, 22, 9, tzinfo=UTC)


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


@pytest.mark.parametrize("columns", ["40", "120"])
def test_a_table_is_as_wide_as_columns_says_and_ids_stay_whole(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Text is folded to the width; ids are there to be copied, so each stays on one line though there is no room for it."""
    monkeypatch.setenv("COLUMNS", columns)
    ids = ("research-of-the-week", ID, "daily@2026-11-22T09:00Z")
    Output().table("T", ["newsletter_id", "id", "source", "count", "detail"], [(*ids, 123456, "many words " * 30)])
    lines = capsys.readouterr().out.splitlines()
    assert any(all(one in line for one in (*ids, "123,456")) for line in lines)
    assert max(map(len, lines)) <= max(int(columns), sum(map(len, ids)) + len("123,456") + 10 + 5 * 2 + 1)


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ([*ACCOUNTING_COLUMNS[2:3], *ACCOUNTING_COLUMNS[5:]], ("email", *[99999] * 11)),
        (BRIEF, (f"20261123-{ID}", "webhook", ID, "answer_lost", AT)),
        (["id", "original", "refused_by", "reason", "attempts", "first_at", "last_at", "state", "detail"],
         ("deliveries.email.bulk/0/17", "deliveries.email.bulk/0@17", "ses-bulk", "wrong_type", 1, AT, AT, "open", "x " * 99)),
        (["newsletter_id", "revision", "name", "comes", "next_local", "template", "subject", "variants"],
         ("arxiv-daily", 12, "Daily research", "each day at 09:00", "2026-11-23 09:00", "newsletter", "{title}", "a 50%; b 50%")),
    ],
)  # fmt: skip
def test_tables_fit_where_nobody_says_how_wide_it_is(
    columns: list[str], row: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a pipe, and in a terminal of that width; nothing is cut off."""
    monkeypatch.delenv("COLUMNS", raising=False)
    Output().table("T", columns, [row])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 120
    assert "…" not in shown
    assert str(row[0]) in shown


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
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout == "[]\n"
