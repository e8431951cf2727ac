"""Every command explains itself."""

import click
import pytest
from click.testing import CliRunner

from core.errors import InputError
from edge.commands import commands
from edge.people import read_preferences
from edge.publishing import parse_topics
from runtime.commands import main

LEAVES = [
    (*path, command)
    for top in commands
    for path, command in (
        [((top.name or "",), top)]
        if not isinstance(top, click.Group)
        else [((top.name or "", name), below) for name, below in top.commands.items()]
    )
]


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: " ".join(str(part) for part in leaf[:-1]))
def test_help_has_a_sentence_an_example_and_words_for_each_option(leaf: tuple[object, ...]) -> None:
    """A person can use a command from its help alone."""
    *path, command = leaf
    assert isinstance(command, click.Command)
    text = CliRunner().invoke(main, [*map(str, path), "--help"]).output
    assert "Example" in text
    assert "newswire " + " ".join(map(str, path)) in text
    assert command.help
    for option in command.params:
        assert isinstance(option, click.Argument) or option.help, option.name  # type: ignore[attr-defined]


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
