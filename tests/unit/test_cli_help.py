"""Every command explains itself."""

import itertools
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from core.errors import InputError
from edge.people import read_preferences
from edge.publishing import parse_topics
from runtime.commands import main
from runtime.options import reason_for

ROOT = Path(__file__).parents[2]


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below a group, with its words."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


LEAVES = dict(leaves(main))


def words_of(line: str) -> list[str]:
    """The words after `newswire` of a line for a shell: up to a pipe, a comment, or where a sentence goes on."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words = list(itertools.takewhile(lambda word: word not in ("|", "&&", ";"), lexer))
    return words[words.index("--json") + 1 if words[1:2] == ["--json"] else 1 :]


def parsed(words: list[str]) -> tuple[str, ...]:
    """Parse the words as the command line does, and return the command's; UsageError or InputError says what is wrong."""
    path = next(path for path in (tuple(words[:n]) for n in range(1, len(words) + 1)) if path in LEAVES)
    given = LEAVES[path].make_context(" ".join(path), words[len(path) :]).params
    if {"reason", "dry_run"} <= given.keys():
        reason_for(given["reason"], given["dry_run"])
    return path


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_help_has_a_sentence_an_example_and_words_for_each_option(path: tuple[str, ...]) -> None:
    """A person can use a command from its help alone, and its examples are ones."""
    command = LEAVES[path]
    text = CliRunner().invoke(main, [*path, "--help"]).output
    assert "Example" in text
    examples = re.findall(r"newswire [^\n]*", command.epilog or "")
    assert examples
    for example in examples:
        assert parsed(words_of(example.partition(", with ")[0])) == path
    assert command.help
    for option in command.params:
        assert isinstance(option, click.Argument) or option.help, option.name  # type: ignore[attr-defined]


@pytest.mark.parametrize(("page", "least"), [("README.md", 15), ("deploy/RUNBOOK.md", 2)])
def test_every_line_of_a_page_can_be_copied(page: str, least: int) -> None:
    """The command is there with all that it needs; and all of them are written with the path that works."""
    text = (ROOT / page).read_text()
    fenced = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    blocks = [*fenced.findall(text), *re.findall(r"^    .*$", text, re.MULTILINE)]
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    assert not [line for line in lines if line.startswith("newswire ")]
    named = [" ".join(one.split()) for one in re.findall(r"`(bin/newswire [a-z-][^`]+)`", fenced.sub("", text))]
    assert not [one for one in re.findall(r"`newswire ([a-z-]+)", text) if one in {path[0] for path in LEAVES}]
    mine = [line for line in lines if line.startswith("bin/newswire")]
    assert len(mine) >= least
    assert named
    for line in mine + [one for one in named if tuple(words_of(one)) not in LEAVES and "--help" not in one]:
        parsed(words_of(line))


@pytest.mark.parametrize("words", ["dlq redrive publications/0/1", "dlq discard publications/0/1", "delivery retry x"])
def test_an_act_needs_a_reason(words: str) -> None:
    """One sentence asks for it, before anything is looked for."""
    answer = CliRunner().invoke(main, words.split())
    assert answer.exit_code == 2
    assert "--reason" in answer.stderr
    assert "--dry-run" in answer.stderr


def test_runs_from_anywhere() -> None:
    """bin/newswire is the command line of its checkout."""
    done = subprocess.run([ROOT / "bin/newswire", "--version"], cwd="/", capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("newswire, version"), done.stderr


@pytest.mark.parametrize("words", [["lag"], ["stops"], ["dlq", "list"], ["watch"], ["tick", "daily"]], ids=" ".join)
def test_a_silent_kafka_is_one_sentence_at_once(words: list[str]) -> None:
    """Nothing of what client libraries say while they try again."""
    with socket.socket() as taken:  # bound and not listening: refused
        taken.bind(("127.0.0.1", 0))
        environ = {"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{taken.getsockname()[1]}", "NEWSWIRE_HOME": "/nowhere"}
        answer = CliRunner().invoke(main, words, env=environ)
    assert answer.exit_code == 4
    assert re.fullmatch(
        r"error: Kafka cannot be reached at 127.0.0.1:\d+ \(Connection refused\)\. Is the stack up\?.*\n", answer.stderr
    )


def test_options_become_the_fields_of_preferences() -> None:
    """Only what is named is changed; an empty text empties a list."""
    options = {
        "topics": "hep-ph, hep-th:0.5",
        "quiet_hours": "22:00-07:00",
        "newsletter_time": "07:30",
        "newsletters": "",
        "alerts": False,
        "tags": None,
        "other": "x",
    }
    assert read_preferences(options) == {
        "topics": {"hep-ph": 1.0, "hep-th": 0.5},
        "quiet_hours": [{"start_minute": 1320, "end_minute": 420}],
        "local_minute": 450,
        "newsletters": [],
        "alerts": False,
    }
    assert read_preferences({"newsletter_time": "default"}) == {"local_minute": -1}
    assert read_preferences({"newsletter_time": "usual", "days": "all"}) == {"local_minute": -2, "days": []}


@pytest.mark.parametrize(
    ("text", "days"), [("mon-fri", [1, 2, 3, 4, 5]), ("Tue, sat", [2, 6]), ("sat-mon", [1, 6, 7]), ("sun,mon-tue", [1, 2, 7])]
)
def test_weekdays_are_named_or_spanned(text: str, days: list[int]) -> None:
    """Spans may cross Sunday."""
    assert read_preferences({"days": text}) == {"days": days}


@pytest.mark.parametrize("text", ["monday", "mon-", "", "1,2"])
def test_what_is_no_weekday_is_named(text: str) -> None:
    """And the form is shown."""
    with pytest.raises(InputError, match=r"days: .*mon-fri"):
        read_preferences({"days": text})


@pytest.mark.parametrize(
    ("options", "field"), [({"quiet_hours": "22-7"}, "quiet_hours"), ({"newsletter_time": "25:00"}, "newsletter_time")]
)
def test_wrong_times_name_their_option(options: dict[str, str], field: str) -> None:
    """And say how a time is written."""
    with pytest.raises(InputError, match=f"{field}.*07:30"):
        read_preferences(options)


def test_wrong_weights_are_named() -> None:
    """And the form is shown."""
    with pytest.raises(InputError, match="topics: 'much' is no weight"):
        parse_topics("a:much")
