"""The names of topics that readers see: the file NEWSWIRE_TOPIC_NAMES, read once, at start.

A JSON object: topic to name, or to an object of names by language, such as {"hep-ph": "High Energy Physics", "quant-ph": {"en":
"Quantum Physics", "de": "Quantenphysik"}}. A topic that is not in it is shown as it is.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from core.checks import language as language_problem
from core.errors import SetupError
from core.rendering.phrases import LANGUAGES
from runtime.settings import Settings

MAX_NAME_CHARACTERS: Final = 100
"""As long as a topic itself may be."""

TopicNames = Mapping[str, Mapping[str, str]]
"""By language that there are phrases for, then by topic."""


def load_topic_names(settings: Settings) -> TopicNames:
    """Return the names by language and topic, none without a file; SetupError says what is wrong with it."""
    file = settings.topic_names
    if not file:
        return {language: {} for language in LANGUAGES}
    try:
        given = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SetupError(f"NEWSWIRE_TOPIC_NAMES={file} cannot be read as JSON ({error}); mend it, or unset it.") from None
    for topic, names in given.items() if isinstance(given, dict) else [("the file", given)]:
        each, languages = (names.values(), names.keys()) if isinstance(names, dict) else ([names], ())
        strange = next((language for language in languages if language_problem(language) is not None), None)
        if strange is not None:
            raise SetupError(f"NEWSWIRE_TOPIC_NAMES={file}: {topic}: {strange!r} {language_problem(strange)}; mend it.")
        if not each or not all(isinstance(name, str) and 0 < len(name.strip()) <= MAX_NAME_CHARACTERS for name in each):
            raise SetupError(
                f"NEWSWIRE_TOPIC_NAMES={file}: {topic} has no usable name; expected an object such as "
                f'{{"hep-ph": "High Energy Physics"}}, each name of at most {MAX_NAME_CHARACTERS} characters.'
            )
    return {language: {topic: _name(names, language) for topic, names in given.items()} for language in LANGUAGES}


def topic_names_for(settings: Settings, lane: str) -> TopicNames:
    """Return the names for a sink's lane. Alerts name no topic: a file that is broken does not stop them."""
    return {language: {} for language in LANGUAGES} if lane == "urgent" else load_topic_names(settings)


def _name(names: Any, language: str) -> str:
    """Return a topic's name in a language, else in English, else in the first that it has."""
    if isinstance(names, str):
        return names
    found: str = names.get(language) or names.get("en") or next(iter(names.values()))
    return found
