"""SES templates and emails: parsed once a call, substituted only when somebody looks."""

import hashlib
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

NAME: Final = re.compile(r"\{\{([^{}]*)\}\}")
PLACEHOLDER: Final = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_.-]*)\s*")
TEMPLATE_MAX_BYTES: Final = 1_000_000
"""An inline template is at most 1 MB: subject, text and HTML together."""


class BadTemplate(Exception):
    """A template that SES would refuse; the message says why."""


@dataclass(frozen=True, slots=True)
class Template:
    """Subject, text and HTML with {{placeholders}}, the names of these, and a digest of the three."""

    subject: str
    text: str
    html: str
    names: frozenset[str]
    digest: bytes


class TemplateCache:
    """The templates of the last calls, so that the same layout is read once and not once a call."""

    SIZE = 64

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str, str], Template] = OrderedDict()

    def get(self, subject: str, text: str, html: str) -> Template:
        """Return the template; BadTemplate when SES would refuse it."""
        key = (subject, text, html)
        known = self._known.get(key)
        if known is None:
            digest = hashlib.sha256("\x1f".join(key).encode()).digest()
            known = self._known[key] = Template(subject, text, html, _names(subject, text, html), digest)
            if len(self._known) > self.SIZE:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return known


def _names(*parts: str) -> frozenset[str]:
    if sum(len(part.encode()) for part in parts) > TEMPLATE_MAX_BYTES:
        raise BadTemplate(f"TemplateContent is larger than {TEMPLATE_MAX_BYTES:,} bytes.")
    names = set()
    for part in parts:
        if "{{{" in part:
            raise BadTemplate("TemplateContent allows simple substitution only: {{{ is not supported.")
        for inner in NAME.findall(part):
            match = PLACEHOLDER.fullmatch(inner)
            if match is None:
                raise BadTemplate(f"TemplateContent allows simple substitution only: {{{{{inner}}}}} is not supported.")
            names.add(match[1])
        if "{{" in NAME.sub("", part):
            raise BadTemplate("TemplateContent has a {{ that is not closed by }}.")
    return frozenset(names)


def missing_names(template: Template, data: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    """Return the placeholders that have no value."""
    if template.names <= data.keys():
        return []
    return sorted(name for name in template.names if _lookup(name, data) is None and _lookup(name, defaults) is None)


def _lookup(name: str, data: dict[str, Any]) -> Any:
    if name in data:
        return "" if data[name] is None else data[name]
    value: Any = data
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return "" if value is None else value


def substitute(text: str, data: dict[str, Any], defaults: dict[str, Any]) -> str:
    """Fill the placeholders in; like SES it does not escape the values. A missing value stays as it was written."""

    def value(match: re.Match[str]) -> str:
        name = match[1].strip()
        found = _lookup(name, data)
        found = _lookup(name, defaults) if found is None else found
        if found is None:
            return match[0]
        return found if isinstance(found, str) else orjson.dumps(found).decode()

    return NAME.sub(value, text)


@dataclass(frozen=True, slots=True)
class Envelope:
    """What all entries of a call share."""

    template: Template
    from_address: str
    reply_to: tuple[str, ...]
    configuration_set: str
    headers: tuple[tuple[str, str], ...]
    tags: tuple[tuple[str, str], ...]
    defaults: dict[str, Any]


@dataclass(slots=True)
class EmailBody:
    """One email, not yet substituted."""

    envelope: Envelope
    to: tuple[str, ...]
    cc: tuple[str, ...]
    bcc: tuple[str, ...]
    data: bytes
    entry_headers: tuple[tuple[str, str], ...]
    entry_tags: tuple[tuple[str, str], ...]
    note: str = ""
    _subject: str | None = field(default=None)

    def values(self) -> dict[str, Any]:
        """Return the entry's replacement data."""
        values = orjson.loads(self.data) if self.data else {}
        return values if isinstance(values, dict) else {}

    def subject(self) -> str:
        """Return the subject, substituted once."""
        if self._subject is None:
            self._subject = substitute(self.envelope.template.subject, self.values(), self.envelope.defaults)
        return self._subject

    def html(self) -> str:
        """Return the HTML part, substituted."""
        return substitute(self.envelope.template.html, self.values(), self.envelope.defaults)

    def text(self) -> str:
        """Return the text part, substituted."""
        return substitute(self.envelope.template.text, self.values(), self.envelope.defaults)

    def headers(self) -> list[tuple[str, str]]:
        """Return the message's headers; an entry's replaces a default one of the same name."""
        own = {name.lower() for name, _ in self.entry_headers}
        fixed = [("From", self.envelope.from_address), ("To", ", ".join(self.to)), ("Subject", self.subject())]
        if self.cc:
            fixed.append(("Cc", ", ".join(self.cc)))
        if self.bcc:
            fixed.append(("Bcc (envelope only)", ", ".join(self.bcc)))
        if self.envelope.reply_to:
            fixed.append(("Reply-To", ", ".join(self.envelope.reply_to)))
        kept = [(name, value) for name, value in self.envelope.headers if name.lower() not in own]
        return fixed + kept + list(self.entry_headers)

    def tags(self) -> dict[str, str]:
        """Return the message's tags; an entry's replaces a default one of the same name."""
        return dict(self.envelope.tags) | dict(self.entry_tags)

    def document(self) -> dict[str, Any]:
        """Return the email as JSON, substituted."""
        return {
            "from": self.envelope.from_address,
            "to": list(self.to),
            "subject": self.subject(),
            "text": self.text(),
            "html": self.html(),
            "headers": [list(pair) for pair in self.headers()],
            "tags": self.tags(),
            "configuration_set": self.envelope.configuration_set,
            "template_data": self.values(),
            "note": self.note,
        }
