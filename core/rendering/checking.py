"""What is wrong with a mail template, said before it is used: where, what, and what to write instead.

Consumes the texts of a template's files; returns problems, in order of file and line. A template without any renders every
issue: it is tried with the longest one that there can be.
"""

import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import chain
from typing import Final
from urllib.parse import urlsplit
from xml.parsers import expat

from jinja2 import TemplateError, TemplateSyntaxError, UndefinedError, nodes

from core.errors import RenderingFailed
from core.rendering.email import LEAD_SUMMARY_LIMIT, NAME_LIMIT, POSTAL_LIMIT, TITLE_LIMIT, EmailLayout, newsletter_email
from core.rendering.model import Issue, IssueItem, ItemContent
from core.rendering.phrases import Phrases
from core.rendering.templating import COMMENT, HTML, INCLUDE, TEXT, MailTemplate, compiled

MAX_HTML_BYTES: Final = 102_000
"""Gmail cuts a message off that is larger, and with it the unsubscribe link."""
_SHOWN: Final = {
    "title": "題", "url": "https://example.org/p", "postal_address": "址", "unsubscribe": "https://example.org/u/" + "u" * 300,
}  # fmt: skip
"""What the longest issue has in these places, and in no other."""
MAX_ITEMS: Final = 20
"""Most items of an issue (core/rules.py)."""

SYNTAX, UNKNOWN_VARIABLE, MISSING_VARIABLE = "syntax", "unknown_variable", "missing_variable"
NO_UNSUBSCRIBE, BROKEN_LINK, TOO_LARGE, MISSING_FILE = "no_unsubscribe", "broken_link", "too_large", "missing_file"

LAYOUT_VALUES: Final = frozenset(
    {"phrases", "locale", "padding", "name", "why", "unsubscribe", "from_name", "postal_address"}
)  # fmt: skip
ITEM_VALUES: Final = frozenset(
    {"phrases", "title", "summary", "meta", "authors", "published", "topics", "language", "url", "reason"}
)  # fmt: skip
PLACEHOLDERS: Final = {
    "mjml": frozenset({"preheader", "count", "date", "unsubscribe_url"}),
    "txt": frozenset({"count_text", "date_text", "unsubscribe_text"}),
}
"""What is filled in for each recipient, by part: in HTML it is HTML, in the text part plain text."""
BLOCKS: Final = ("lead", "item")
_PHRASES: Final = frozenset(field.name for field in fields(Phrases))

_ELEMENTS: Final = frozenset({
    "mj-accordion", "mj-accordion-element", "mj-accordion-text", "mj-accordion-title", "mj-all", "mj-attributes", "mj-body",
    "mj-breakpoint", "mj-button", "mj-carousel", "mj-carousel-image", "mj-class", "mj-column", "mj-divider", "mj-font",
    "mj-group", "mj-head", "mj-hero", "mj-image", "mj-include", "mj-navbar", "mj-navbar-link", "mj-preview", "mj-raw",
    "mj-section", "mj-social", "mj-social-element", "mj-spacer", "mj-style", "mj-table", "mj-text", "mj-title", "mj-wrapper",
})  # fmt: skip
_ANY_PLACEHOLDER: Final = re.compile(r"\{\{([^{}]*)\}\}")
"""Whatever stands in double braces: SES refuses a mail that it has no value for."""
_LINK: Final = re.compile(r"\b(?:href|src|background|background-url)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')", re.IGNORECASE)
_MARK: Final = re.compile(r"\[\[.*?\]\]|\[%.*?%\]|\[#.*?#\]", re.DOTALL)
_VOID: Final = frozenset({"br", "hr", "img", "meta", "link", "input", "col", "wbr"})
_VOID_TAG: Final = re.compile(rf"<({'|'.join(sorted(_VOID))})\b([^<>]*?)/?>")
_POSITION: Final = re.compile(r" at position (\d+):\d+")
"""In what the compiler says: bytes from the beginning."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong; `code` is its kind."""

    code: str
    file: str
    line: int | None
    what: str

    def __str__(self) -> str:
        """Return it as a person reads it."""
        return f"{self.file}{f', line {self.line}' if self.line else ''}: {self.what}"


def problems_of(name: str, files: Mapping[str, str]) -> list[Problem]:
    """Return what is wrong with the template of this name, nothing when it can be used."""
    wanted = (f"{name}.mjml", f"{name}.txt")
    absent = [Problem(MISSING_FILE, file, None, "is missing; a template has an MJML and a text file") for file in wanted
              if file not in files]  # fmt: skip
    if absent:
        return absent
    included = list(dict.fromkeys(match[1] for match in INCLUDE.finditer(files[wanted[0]])))
    for include in included:
        if include not in files or not include.startswith("_"):
            line = _line_of(files[wanted[0]], f'"{include}"')
            what = f"includes {include}; expected a file of the same folder whose name begins with _"
            return [Problem(MISSING_FILE, wanted[0], line, what)]
    sources = [*included, *wanted]
    found = list(chain.from_iterable(_of_file(file, files[file]) for file in sources))
    if any(problem.code == SYNTAX for problem in found):
        return found
    source = _Source(wanted[0], files)
    try:
        compiled(source.text)
    except (ValueError, TypeError) as error:
        return [*found, source.not_compiled(f"{error}")]
    found += _missing(name, files, [files[file] for file in included])
    found += chain.from_iterable(_links(file, files[file]) for file in sources if file.endswith(".mjml"))
    return found or list(_tried(name, files, source))


def _of_file(file: str, text: str) -> Iterator[Problem]:
    """Yield wrong syntax and unknown names of one file."""
    html = file.endswith(".mjml")
    environment = HTML if html else TEXT
    try:
        tree = environment.parse(text)
        environment.compile(text)  # finds filters that there are not
    except TemplateSyntaxError as error:
        yield Problem(SYNTAX, file, error.lineno, f"{error.message}")
        return
    if html:
        yield from _Elements(file, text).problems
    blocks = {id(node): block for block in tree.find_all(nodes.Block) for node in block.find_all(nodes.Name)}
    own = {node.name for node in tree.find_all(nodes.Name) if node.ctx != "load"}
    for node in tree.find_all(nodes.Name):
        inside = id(node) in blocks
        known = ITEM_VALUES if inside else LAYOUT_VALUES
        if node.name not in known | own:
            where = "in a block of items" if inside else "in the layout"
            yield _unknown(file, node.lineno, f"[[ {node.name} ]]", f"{where} there are {_list(known)}")
    for attribute in tree.find_all(nodes.Getattr):
        if isinstance(attribute.node, nodes.Name) and attribute.node.name == "phrases" and attribute.attr not in _PHRASES:
            yield _unknown(file, attribute.lineno, f"[[ phrases.{attribute.attr} ]]", f"there are {_list(_PHRASES)}")
    for block in tree.find_all(nodes.Block):
        if block.name not in BLOCKS:
            yield _unknown(file, block.lineno, f"[% block {block.name} %]", f"there are {_list(BLOCKS)}")
    placeholders = PLACEHOLDERS["mjml" if html else "txt"]
    for match in _ANY_PLACEHOLDER.finditer(text):
        if match[1] not in placeholders:
            line = text.count("\n", 0, match.start()) + 1
            yield _unknown(file, line, match[0], f"there are {_list(f'{{{{{name}}}}}' for name in placeholders)}")
    rest = _ANY_PLACEHOLDER.sub(lambda match: "\n" * match[0].count("\n"), text)
    if "{{" in rest:
        yield Problem(SYNTAX, file, _line_of(rest, "{{"), "{{ begins a placeholder that does not end; write one such as {{date}}")


def _unknown(file: str, line: int, what: str, known: str) -> Problem:
    return Problem(UNKNOWN_VARIABLE, file, line, f"there is no {what}; {known}")


def _missing(name: str, files: Mapping[str, str], included: list[str]) -> Iterator[Problem]:
    """Yield what every mail has to say and this one does not."""
    for file, footer in ((f"{name}.mjml", included), (f"{name}.txt", [])):
        html = file.endswith(".mjml")
        tree = (HTML if html else TEXT).parse("".join([*footer, files[file]]))
        in_blocks = {node.name for block in tree.find_all(nodes.Block) for node in block.find_all(nodes.Name)}
        everywhere = {node.name for node in tree.find_all(nodes.Name)}
        if not any(block.name == "item" for block in tree.find_all(nodes.Block)):
            yield Problem(MISSING_VARIABLE, file, None, "has no [% block item %] ... [% endblock %], so it would show no items")
        else:
            for value in sorted({"title", "url"} - in_blocks):
                yield Problem(MISSING_VARIABLE, file, None, f"has no [[ {value} ]] in its items")
        if "postal_address" not in everywhere:
            yield Problem(MISSING_VARIABLE, file, None, "has no [[ postal_address ]], which the law requires in many places")
        text = "".join([*footer, files[file]])
        if html and 'href="{{unsubscribe_url}}"' not in text:
            what = 'has no unsubscribe link; write one such as <a href="{{unsubscribe_url}}">[[ unsubscribe ]]</a>'
            yield Problem(NO_UNSUBSCRIBE, file, None, what)
        if not html and "{{unsubscribe_text}}" not in text:
            yield Problem(NO_UNSUBSCRIBE, file, None, "has no unsubscribe address; write [[ unsubscribe ]]: {{unsubscribe_text}}")


def _links(file: str, text: str) -> Iterator[Problem]:
    """Yield addresses that lead nowhere when they are opened from a mail."""
    for match in _LINK.finditer(text):
        address = (match[1] or match[2] or "").strip()
        if address.startswith(("[[", "{{")):
            continue
        try:
            parts = urlsplit(address)
            sound = (parts.scheme in ("http", "https") and bool(parts.hostname)) or (
                parts.scheme == "mailto" and "@" in parts.path
            )
        except ValueError:
            sound = False
        if not sound:
            line = text.count("\n", 0, match.start()) + 1
            what = f'the address "{address[:80]}" leads nowhere from a mail; write a whole one, such as https://example.org/'
            yield Problem(BROKEN_LINK, file, line, what)


def _tried(name: str, files: Mapping[str, str], source: "_Source") -> Iterator[Problem]:
    """Yield what goes wrong when the template is made and the longest issue rendered."""
    try:
        mail = newsletter_email(longest_issue(MailTemplate(name, files)))
    except RenderingFailed as error:
        known = isinstance(error.__cause__, UndefinedError)
        yield Problem(UNKNOWN_VARIABLE if known else SYNTAX, *_failing_at(name, files, source), f"{error}")
    except (ValueError, TypeError, TemplateError) as error:
        yield Problem(SYNTAX, source.file, None, f"cannot be compiled: {error}")
    else:
        yield from _not_said(name, mail)
        size = len(mail.html.encode())
        if size > MAX_HTML_BYTES:
            what = f"the longest issue ({MAX_ITEMS} items) has {size:,} bytes of HTML; Gmail cuts off after {MAX_HTML_BYTES:,}"
            yield Problem(TOO_LARGE, source.file, None, what)


def _not_said(name: str, mail: EmailLayout) -> Iterator[Problem]:
    """Yield what every mail has to say and the longest does not, although the template has it: in a comment, or under an if."""
    for file, text in ((f"{name}.mjml", mail.html), (f"{name}.txt", mail.text)):
        for value, mark in _SHOWN.items():
            if mark not in text:
                code = NO_UNSUBSCRIBE if value == "unsubscribe" else MISSING_VARIABLE
                what = "unsubscribe link" if value == "unsubscribe" else f"[[ {value} ]]"
                yield Problem(code, file, None, f"shows no {what} in the longest issue: it is in a comment, or conditional")


class _Source:
    """The MJML of a template with its includes in place and without comments, and where each line of it stands."""

    def __init__(self, file: str, files: Mapping[str, str]) -> None:
        self.file, whole, at = file, files[file], 0
        self._places, texts = [(file, 1)], list[str]()
        for match in [*INCLUDE.finditer(whole), None]:
            own = whole[at:] if match is None else whole[at : match.start()]
            self._places[-1:] = _lines(file, own, 1 + whole.count("\n", 0, at))
            texts.append(own)
            if match is not None:
                self._places[-1:] = _lines(match[1], files[match[1]], 1)
                texts.append(files[match[1]])
                at = match.end()
        self.text = COMMENT.sub(lambda comment: "\n" * comment[0].count("\n"), "".join(texts))

    def place(self, line: int) -> tuple[str, int]:
        """Return file and line of a line of the text."""
        return self._places[min(line, len(self._places)) - 1]

    def not_compiled(self, said: str) -> Problem:
        """Return the problem that the compiler had; it names a position at the most, so a parser of XML finds the line."""
        blank = _MARK.sub(lambda mark: re.sub(r"[^\n]", "x" if mark[0].startswith("[[") else " ", mark[0]), self.text)
        try:
            expat.ParserCreate().Parse(_VOID_TAG.sub(r"<\1\2/>", blank).replace("&", " ").encode(), True)
        except expat.ExpatError as error:
            return Problem(SYNTAX, *self.place(error.lineno), f"cannot be compiled: {expat.ErrorString(error.code)}")
        position = _POSITION.search(said)
        if position is None:
            return Problem(SYNTAX, self.file, None, f"cannot be compiled: {said}")
        line = 1 + self.text.encode()[: int(position[1])].count(b"\n")
        return Problem(SYNTAX, *self.place(line), f"cannot be compiled: {_POSITION.sub('', said)}")


def _lines(file: str, text: str, first: int) -> list[tuple[str, int]]:
    return [(file, first + number) for number in range(text.count("\n") + 1)]


def _failing_at(name: str, files: Mapping[str, str], source: _Source) -> tuple[str, int | None]:
    """Return file and line at which the longest issue cannot be rendered: with MJML as it stands, for HTML has other lines."""
    try:
        newsletter_email(longest_issue(MailTemplate(name, files, lambda _: source.text)))
    except RenderingFailed as error:
        for frame in reversed(traceback.extract_tb(error.__cause__.__traceback__ if error.__cause__ else None)):
            if frame.filename == source.file and frame.lineno:
                return source.place(frame.lineno)
            if frame.filename == f"{name}.txt":
                return frame.filename, frame.lineno
    return source.file, None


def longest_issue(template: MailTemplate) -> Issue:
    """Return an issue that is as long as one can be, in a script of three bytes a character."""
    content = ItemContent(
        publication_id="00000000-0000-4000-8000-000000000000", revision=1, title=_SHOWN["title"] * TITLE_LIMIT,
        summary="語" * LEAD_SUMMARY_LIMIT, url=_SHOWN["url"] + "p" * 180, authors=("語" * 200,), language="ja",
        published_at=datetime(2026, 11, 22, tzinfo=UTC), topics=("語" * 100,),
    )  # fmt: skip
    return Issue(
        newsletter_id="longest", newsletter_name="語" * NAME_LIMIT, subject="{title}", language="de",
        items=(IssueItem(content, "read:" + "語" * 200),) * MAX_ITEMS, issue_group="2026-11-22T09:00",
        from_name="語" * NAME_LIMIT, postal_address=_SHOWN["postal_address"] * POSTAL_LIMIT,
        unsubscribe_url=_SHOWN["unsubscribe"], template=template,
    )  # fmt: skip


class _Elements(HTMLParser):
    """Finds elements that are not closed, for which the compiler names no line, and those of MJML that do not exist."""

    def __init__(self, file: str, text: str) -> None:
        super().__init__(convert_charrefs=False)
        self.problems: list[Problem] = []
        self._file, self._open = file, list[tuple[str, int]]()
        self.feed(text)
        self.close()
        for tag, line in self._open:
            self._wrong(line, f"<{tag}> is not closed")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open an element."""
        self._known(tag)
        if tag not in _VOID:
            self._open.append((tag, self.getpos()[0]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at an element without content."""
        self._known(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close an element."""
        line = self.getpos()[0]
        if self._open and self._open[-1][0] == tag:
            self._open.pop()
        elif any(tag == other for other, _ in self._open):
            while self._open[-1][0] != tag:
                inner, begun = self._open.pop()
                self._wrong(begun, f"<{inner}> is not closed before </{tag}> in line {line}")
            self._open.pop()
        elif tag not in _VOID:
            self._wrong(line, f"</{tag}> closes what was not opened")

    def _known(self, tag: str) -> None:
        if tag.startswith("mj-") and tag not in _ELEMENTS:
            self._wrong(self.getpos()[0], f"<{tag}> is no element of MJML")

    def _wrong(self, line: int, what: str) -> None:
        self.problems.append(Problem(SYNTAX, self._file, line, what))


def _line_of(text: str, part: str) -> int:
    return text.count("\n", 0, text.find(part)) + 1


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
