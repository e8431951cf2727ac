"""Mail templates: from one MJML source and one text source to what is filled in for a call and for each item.

Consumes the texts of files (whoever reads them: core reads nothing); MJML is compiled once for each template, when it is
made. Three kinds of marks, so that none is mistaken for another: `[[ value ]]` and `[% statement %]` are Jinja's and are
filled in once for a newsletter and language, or in a block once for a publication and language; `{{name}}` is SES's and
is filled in for each recipient, and SES escapes nothing. A value is escaped for its part before it comes here.
"""

import hashlib
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from jinja2 import Environment, StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from mjml import mjml2html

from core.errors import RenderingFailed

TEXT_WIDTH: Final = 72
"""Columns of the plain-text part: what every reader shows without wrapping."""
VERSION_CHARACTERS: Final = 8
"""Of the hash of a template's sources in hex: enough to tell the versions of one template apart."""
PLACEHOLDER: Final = re.compile(r"\{\{([a-z_]+)\}\}")
INCLUDE: Final = re.compile(r"<mj-include\s+path=\"([^\"]*)\"\s*/>")

_SUMMARY: Final = re.compile(r"\[\[[^\]]*\bsummary\b")
COMMENT: Final = re.compile(r"<!--(?!\[).*?-->", re.DOTALL)
_INDENTATION: Final = re.compile(r"(?<=[>\]])\s*\n\s*(?=[<\[])")
_MARKS: Final = {
    "variable_start_string": "[[",
    "variable_end_string": "]]",
    "block_start_string": "[%",
    "block_end_string": "%]",
    "comment_start_string": "[#",
    "comment_end_string": "#]",
}


def wrapped(text: str, width: int = TEXT_WIDTH) -> str:
    """Return the text in lines of at most `width` columns; a word that is longer than a line is not broken."""
    return "\n".join(textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) for line in text.split("\n"))


def _environment(*, html: bool) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        autoescape=html, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **_MARKS
    )
    environment.filters["wrap"] = wrapped
    return environment


HTML, TEXT = _environment(html=True), _environment(html=False)


class MailTemplate:
    """A template by name: two layouts, and blocks that stand in them once for each item (or button).

    Equal only to itself, so that it can be a part of a key; `id` names it and its version in what is recorded. Other channels
    have no templates, but leave the summaries out where a mail does.
    """

    def __init__(self, name: str, files: Mapping[str, str], html_of: Callable[[str], str] | None = None) -> None:
        """files: text by file name, the two of this name and what they include; html_of makes HTML of MJML, `compiled` if None.

        KeyError names a file that is missing; ValueError is MJML's, jinja2.TemplateError Jinja's: checking.py tells where.
        """
        self.name = name
        mjml, text = files[f"{name}.mjml"], files[f"{name}.txt"]
        included = expand(mjml, files)
        self.version = hashlib.sha256(f"{included}\0{text}".encode()).hexdigest()[:VERSION_CHARACTERS]
        self.id = f"{name}@{self.version}"
        html = (html_of or compiled)(included)
        self._parts = {"html": _named(HTML, html, f"{name}.mjml"), "text": _named(TEXT, text, f"{name}.txt")}
        self.shows_summaries = bool(_SUMMARY.search(mjml))
        self.lead = "lead" if "lead" in self._parts["html"].blocks else "item"
        self._layouts = {part: _without_blocks(base, part) for part, base in self._parts.items()}

    def layout(self, part: str, values: Mapping[str, Any]) -> str:
        """Return the layout of "html" or "text", with a placeholder such as {{items_html}} in the place of its blocks.

        RenderingFailed says what it could not do with these values.
        """
        with _failing():
            return self._layouts[part].render(values, base=self._parts[part])

    def block(self, part: str, name: str, values: Mapping[str, Any]) -> str:
        """Return a block of "html" or "text"; a text without a lead of its own shows it as an item. The error is layout's."""
        template = self._parts[part]
        block = template.blocks.get(name) or template.blocks["item"]
        with _failing():
            try:
                return "".join(block(template.new_context(dict(values))))
            except Exception:  # noqa: BLE001 - none is kept
                template.environment.handle_exception()  # raises it again, with the lines of the source


def _named(environment: Environment, source: str, file: str) -> Template:
    """Return a template whose errors name its file."""
    code = environment.compile(source, filename=file)
    return environment.template_class.from_code(environment, code, environment.make_globals(None))


@contextmanager
def _failing() -> Iterator[None]:
    """Make RenderingFailed of whatever a template's own expressions raise."""
    try:
        yield
    except TemplateError as error:
        raise RenderingFailed(str(error)) from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise RenderingFailed(f"{type(error).__name__}: {error}") from error


def _without_blocks(base: Template, part: str) -> Template:
    """Return a template whose blocks are placeholders: the items where the block `item` stands, nothing for `lead`."""
    places = {"item": f"{{{{items_{part}}}}}", "button": f"{{{{button_{part}}}}}", "lead": ""}
    environment = HTML if part == "html" else TEXT
    blocks = (f"[% block {name} %]{place}[% endblock %]" for name, place in places.items() if name in base.blocks)
    return environment.from_string(f"[% extends base %]{''.join(blocks)}")


def expand(mjml: str, files: Mapping[str, str]) -> str:
    """Return MJML with its includes in place and without comments; KeyError names a file that is missing.

    An include is read from the given files only, and includes nothing itself.
    """

    def included(match: re.Match[str]) -> str:
        return files[match[1]]

    return COMMENT.sub("", INCLUDE.sub(included, mjml))


def compiled(mjml: str) -> str:
    """Return the HTML of MJML without indentation, because it is sent for every mail; ValueError when it is none."""
    return _INDENTATION.sub("", mjml2html(mjml, fonts={}))


def fill(text: str, data: Mapping[str, str]) -> str:
    """Return the text with its {{placeholders}} filled in once, as SES does; KeyError when one has no value."""
    return PLACEHOLDER.sub(lambda match: data[match[1]], text)
