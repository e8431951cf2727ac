"""The templates that there are: those of this folder, and those of one's own that were handed in and found sound."""

from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

from core.rendering.templating import MailTemplate

DEFAULT: Final = "newsletter"
"""What a newsletter looks like that names no template, or one that is not there any more."""
ALERT_NAME: Final = "alert"
"""Template of alerts; no newsletter can have it."""

SHIPPED_FILES: Final[Mapping[str, str]] = MappingProxyType(
    {
        file.name: file.read_text(encoding="utf-8")
        for file in files("core.rendering").joinpath("templates").iterdir()
        if file.name.endswith((".mjml", ".txt"))
    }
)


def names_of(sources: Mapping[str, str]) -> list[str]:
    """Return the names of the templates among files: an MJML file whose name does not begin with _, which is included."""
    return sorted(name.removesuffix(".mjml") for name in sources if name.endswith(".mjml") and not name.startswith("_"))


def look_of(definition: Mapping[str, Any], variant: str | None) -> tuple[str, str]:
    """Return subject and template's name of a newsletter, or of a variant of it; what that leaves out is the newsletter's."""
    chosen = next((one for one in definition["variants"] if one["name"] == variant), None) or {}
    return chosen.get("subject") or definition["subject"], chosen.get("template") or definition["template"]


ALERT: Final = MailTemplate(ALERT_NAME, SHIPPED_FILES)
SHIPPED: Final[Mapping[str, MailTemplate]] = MappingProxyType(
    {name: MailTemplate(name, SHIPPED_FILES) for name in names_of(SHIPPED_FILES) if name != ALERT_NAME}
)
