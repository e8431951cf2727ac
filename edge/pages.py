"""The unsubscribe page as HTML, and the headers that go with it. It has no script, no cookie and loads nothing."""

import base64
import hashlib
from importlib.resources import files
from typing import Final

from aiohttp import web
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from edge.phrases import PageText
from runtime.tokens import TokenClaims

_FOLDER = files("edge").joinpath("templates")
_STYLE = _FOLDER.joinpath("page.css").read_text(encoding="utf-8")
_PAGE = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
    _FOLDER.joinpath("page.html.j2").read_text(encoding="utf-8")
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Robots-Tag": "noindex, nofollow",
    "Permissions-Policy": "interest-cohort=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Strict-Transport-Security": "max-age=31536000",
    "Server": "Newswire",
}
"""Sent with every answer. Browsers ignore Strict-Transport-Security over plain http, as on the local stack."""

Choice = tuple[str, str, str]
"""(value of the form's field scope, label, hint)."""


def _page(
    text: PageText, title: str, lines: tuple[str, ...], tone: str, *, choices: tuple[Choice, ...] = (), again: str = ""
) -> str:
    style = Markup(_STYLE)  # noqa: S704 - a file of our own, with a hash in the policy
    return _PAGE.render(text=text, title=title, lines=lines, tone=tone, choices=choices, again=again, style=style)


def ask_page(text: PageText, claims: TokenClaims, name: str) -> web.Response:
    """Return the page that asks what should stop; seeing it changes nothing."""
    everything = ("all", text.everything, text.everything_hint)
    if claims.kind == "newsletter":
        title, intro = text.from_newsletter.format(name=name), text.intro_newsletter.format(name=name)
        first = ("newsletter", text.this_newsletter.format(name=name), text.this_newsletter_hint)
    else:
        title, intro, first = text.from_alerts, text.intro_alerts, ("alerts", text.alerts, text.alerts_hint)
    return _answer(text, _page(text, title, (intro,), "ask", choices=(first, everything)))


def done_page(text: PageText, kind: str, name: str) -> web.Response:
    """Return the page after it was recorded; kind is that of the event."""
    said = {"newsletter": text.done_newsletter.format(name=name), "alerts": text.done_alerts, "all": text.done_all}[kind]
    return _answer(text, _page(text, text.done, (said, text.on_its_way), "done", again="" if kind == "all" else "all"))


def problem_page(text: PageText, problem: str, status: int, *, again: str = "") -> web.Response:
    """Return a page that says what went wrong and what to do; `again` is the scope of a button that tries it again."""
    title, lines = text.problems[problem]
    return _answer(text, _page(text, title, lines, "bad", again=again), status)


def _answer(text: PageText, body: str, status: int = 200) -> web.Response:
    headers = {"Content-Language": text.locale, "Vary": "Accept-Language"}
    return web.Response(text=body, status=status, content_type="text/html", charset="utf-8", headers=headers)
