"""The mail templates of a process: those that are shipped, and those of the folder NEWSWIRE_TEMPLATES, each found sound.

A running sink looks at its folder every few seconds and takes what changed when all of it is sound; else it keeps what it has and
says why. What is gone from the folder stays until the process ends, so that an emptied one changes no newsletter. A template that
changed has another version, which stands with every attempt in the ledger.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

from core.errors import SetupError
from core.rendering.catalogue import ALERT_NAME, SHIPPED, SHIPPED_FILES, names_of
from core.rendering.checking import Problem, problems_of
from core.rendering.templating import MailTemplate
from runtime.settings import Settings

LOOK_EVERY_S = 2.0
"""How often the folder is looked at. What changed must have been the same at two looks: files are written one after the other."""
MAX_SHOWN = 10
"""Problems that one error names; the others show when these are mended."""


log = logging.getLogger(__name__)


def load_templates(settings: Settings) -> Mapping[str, MailTemplate]:
    """Return the templates by name; SetupError says what is wrong with which file of the folder, and in which line."""
    return checked(settings.templates, read_folder(settings.templates))


def checked(folder: str, own: Mapping[str, str]) -> Mapping[str, MailTemplate]:
    """Return the templates by name, given the files of a folder; the error is that of load_templates."""
    sound, broken = judged(own)
    if broken:
        raise SetupError(unusable(folder, broken))
    return sound


def judged(own: Mapping[str, str]) -> tuple[dict[str, MailTemplate], dict[str, list[Problem]]]:
    """Return the templates that can be used, and what is wrong with the others, by name, given the files of a folder."""
    names, files = names_of(own), {**SHIPPED_FILES, **own}
    broken = {name: problems for name in names if (problems := problems_of(name, files))}
    if ALERT_NAME in names:
        broken[ALERT_NAME] = [
            Problem("reserved", f"{ALERT_NAME}.mjml", None, "is the template of alerts; give yours another name")
        ]
    shipped = {name: template for name, template in SHIPPED.items() if name not in names}
    return {**shipped, **{name: MailTemplate(name, files) for name in names if name not in broken}}, broken


def unusable(folder: str, broken: Mapping[str, Iterable[Problem]]) -> str:
    """Return the sentence about the templates of a folder that cannot be used."""
    return f"NEWSWIRE_TEMPLATES={folder} has templates that cannot be used. {in_words(chain.from_iterable(broken.values()))}"


class Templates:
    """The templates of a sink's lane, kept as the folder has them.

    Alerts have one of their own, so that lane looks at no folder: a newsletter's template that is broken does not stop them.
    """

    def __init__(self, settings: Settings, lane: str) -> None:
        """SetupError when the folder cannot be used."""
        self._folder = "" if lane == "urgent" else settings.templates
        files = read_folder(self._folder)
        self._used: Mapping[str, str] | str = files
        self._seen: Mapping[str, str] | str = files
        self.by_name = dict(checked(self._folder, files))
        """The same object for ever, changed between two steps of the event loop."""

    async def follow(self) -> None:
        """Look at the folder for ever."""
        while self._folder:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Take what is new in the folder, if it was there at the look before as well and is sound; else keep what there is."""
        found: Mapping[str, str] | str
        try:
            found = await asyncio.to_thread(read_folder, self._folder)
        except SetupError as error:
            found = str(error)
        before, self._seen = self._seen, found
        if found == self._used or found != before:
            return
        self._used = found  # sound or not: the same is judged and logged once
        try:
            if isinstance(found, str):
                raise SetupError(found)
            templates = await asyncio.to_thread(checked, self._folder, found)
        except SetupError as error:
            log.error("the templates stay as they were: %s", error)
            return
        changed = [templates[name] for name in names_of(found)]
        self.by_name.update((template.name, template) for template in changed)
        log.info("mail templates of the folder now: %s", ", ".join(template.id for template in changed))


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
