"""The templates of this folder, compiled once at import.

Their marks are [[ value ]] and [% statement %], because {{name}} in them is for SES, which fills it in later and escapes
nothing. HTML templates escape by themselves; `brace` keeps data from looking like a placeholder.
"""

import re
from collections.abc import Mapping
from importlib.resources import files

from jinja2 import DictLoader, Environment, StrictUndefined, Template, select_autoescape
from markupsafe import Markup

from core.rendering.text import html_text

_FOLDER = files("core.rendering").joinpath("templates")


def _environment() -> Environment:
    sources = {f.name: f.read_text(encoding="utf-8") for f in _FOLDER.iterdir() if f.name.endswith(".j2")}
    environment = Environment(
        loader=DictLoader(sources),
        autoescape=select_autoescape(enabled_extensions=("html.j2",), default=True, disabled_extensions=("txt.j2",)),
        undefined=StrictUndefined,
        variable_start_string="[[",
        variable_end_string="]]",
        block_start_string="[%",
        block_end_string="%]",
        comment_start_string="[#",
        comment_end_string="#]",
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["brace"] = lambda text: Markup(html_text(text))  # noqa: S704 - html_text escapes
    return environment


ENVIRONMENT = _environment()

_PLACEHOLDER = re.compile(r"\{\{([a-z_]+)\}\}")


def template(name: str) -> Template:
    """Return a compiled template."""
    return ENVIRONMENT.get_template(name)


def squeeze(markup: str) -> str:
    """Return HTML without indentation: it is sent for every email, and Gmail cuts messages off at 102 kB."""
    return "".join(
        line.strip() + ("\n" if line.rstrip().endswith(("}", "->")) else " ") for line in markup.splitlines() if line.strip()
    ).replace("> <", "><")


def fill(text: str, data: Mapping[str, str]) -> str:
    """Return the text with its {{placeholders}} filled in once, as SES does; KeyError when one has no value."""
    return _PLACEHOLDER.sub(lambda match: data[match[1]], text)
