"""The mail templates of a process: those that are shipped, and those of the folder NEWSWIRE_TEMPLATES, each found sound.

Read once, at start: a template that changed is used by processes that start afterwards, and has another version.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from core.errors import SetupError
from core.rendering.catalogue import ALERT_NAME, SHIPPED, SHIPPED_FILES, names_of
from core.rendering.checking import Problem, problems_of
from core.rendering.templating import MailTemplate
from runtime.settings import Settings

MAX_SHOWN = 10
"""Problems that one error names; the others show when these are mended."""


def load_templates(settings: Settings) -> Mapping[str, MailTemplate]:
    """Return the templates by name; SetupError says what is wrong with which file of the folder, and in which line."""
    own = read_folder(settings.templates)
    names, files = names_of(own), {**SHIPPED_FILES, **own}
    problems = [problem for name in names for problem in problems_of(name, files)]
    if ALERT_NAME in names:
        problems.append(Problem("reserved", f"{ALERT_NAME}.mjml", None, "is the template of alerts; give yours another name"))
    if problems:
        raise SetupError(f"NEWSWIRE_TEMPLATES={settings.templates} has templates that cannot be used. {in_words(problems)}")
    return {**SHIPPED, **{name: MailTemplate(name, files) for name in names}}


def templates_for(settings: Settings, lane: str) -> Mapping[str, MailTemplate]:
    """Return the templates of a sink's lane. Alerts have one of their own: a newsletter's that is broken does not stop them."""
    return SHIPPED if lane == "urgent" else load_templates(settings)


def read_folder(folder: str) -> dict[str, str]:
    """Return the MJML and text files of a folder by name, none without a folder; SetupError when one cannot be read."""
    if not folder:
        return {}
    try:
        paths = [path for path in sorted(Path(folder).iterdir()) if path.suffix in (".mjml", ".txt")]
        return {path.name: path.read_text(encoding="utf-8") for path in paths}
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(
            f"NEWSWIRE_TEMPLATES={folder} cannot be read ({error}); name a folder of name.mjml and name.txt, or unset it."
        ) from None


def in_words(problems: Iterable[Problem]) -> str:
    """Return problems as one text."""
    each = [str(problem) for problem in problems]
    more = f"; and {len(each) - MAX_SHOWN} more" if len(each) > MAX_SHOWN else ""
    return "; ".join(each[:MAX_SHOWN]) + more
