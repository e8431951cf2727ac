"""The mail templates that a command names: judged one by one, so that what is wrong with another one is a warning only."""

from typing import TYPE_CHECKING

import click

from core.errors import InputError
from runtime.settings import Settings

if TYPE_CHECKING:
    from core.rendering.templating import MailTemplate


class OwnTemplates:
    """Those of NEWSWIRE_TEMPLATES, with the shipped ones that they do not replace."""

    def __init__(self, settings: Settings) -> None:
        """SetupError when the folder cannot be read."""
        from runtime.templates import judged, read_folder

        self._folder = settings.templates
        self._sound, self._broken = judged(read_folder(settings.templates))

    def get(self, field: str, name: str) -> "MailTemplate":
        """Return a template; InputError says what is wrong with it, or which there are."""
        from runtime.templates import in_words

        if problems := self._broken.pop(name, None):
            raise InputError(f"{field}: {name} cannot be used. {in_words(problems)}. `newswire preview --check` checks them all")
        if name not in self._sound:
            raise InputError(f"{field}: there is no template {name}; there are {', '.join(sorted(self._sound))}")
        return self._sound[name]

    def warn(self) -> None:
        """Say on standard error what is wrong with the templates that nobody asked for."""
        from runtime.templates import unusable

        if self._broken:
            what = "They are not used here, but no sink of newsletters starts while they are so."
            click.echo(f"Warning: {unusable(self._folder, self._broken)}. {what}", err=True)
