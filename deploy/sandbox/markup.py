"""Slack's mrkdwn and Discord's markdown as safe HTML: everything is escaped, links go to http, https and mailto only."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

from markupsafe import Markup, escape

MARK: Final = "\x00"
SCHEMES: Final = ("http", "https", "mailto")
EMOJI: Final = {
    "rocket": "🚀", "warning": "⚠️", "rotating_light": "🚨", "bell": "🔔", "newspaper": "📰", "mag": "🔍", "link": "🔗",
    "bookmark": "🔖", "white_check_mark": "✅", "x": "❌", "+1": "👍", "thumbsup": "👍", "-1": "👎", "thumbsdown": "👎",
    "star": "⭐", "fire": "🔥", "bulb": "💡", "clock3": "🕒", "calendar": "📅", "mega": "📣", "eyes": "👀", "wave": "👋",
}  # fmt: skip


def link(url: str, label: str | Markup) -> Markup:
    """Return a link, or the label and the address as text when a browser must not open it."""
    try:
        good = isinstance(url, str) and MARK not in url and urlsplit(url).scheme.lower() in SCHEMES
    except ValueError:
        good = False
    if not good:
        return Markup("{} ({})").format(label, url) if str(label) != url else escape(label)
    return Markup('<a href="{}" target="_blank" rel="noopener noreferrer">{}</a>').format(url, label)


def moment(text: str) -> str:
    """Return an embed's timestamp as Discord shows one, in UTC: 22 November 2026 12:16 UTC; the text itself when it is none."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).strftime("%d %B %Y %H:%M UTC")
    except (TypeError, ValueError, OverflowError):
        return text


class _Pieces:
    """Finished HTML that is taken out of a text while the rest is worked on."""

    def __init__(self) -> None:
        self._pieces: list[Markup] = []

    def hide(self, piece: Markup) -> str:
        self._pieces.append(piece)
        return f"{MARK}{len(self._pieces) - 1}{MARK}"

    def show(self, text: str) -> str:
        while MARK in text:
            text = re.sub(f"{MARK}(\\d+){MARK}", lambda m: str(self._pieces[int(m[1])]), text)
        return text


def _code(pieces: _Pieces, text: str, clean: Callable[[str], str], language: str = "") -> str:
    def block(match: re.Match[str]) -> str:
        return pieces.hide(Markup("<pre>{}</pre>").format(clean(match[1])))

    def inline(match: re.Match[str]) -> str:
        return pieces.hide(Markup("<code>{}</code>").format(clean(match[1])))

    text = re.sub(rf"```{language}(.+?)```\n?", block, text, flags=re.DOTALL)
    return re.sub(r"`([^`\n]+)`", inline, text)


def _style(text: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


def _quotes(text: str, prefix: str) -> str:
    """Wrap runs of quoted lines in blockquote; other line ends become <br>."""
    out: list[str] = []
    quoted: list[str] = []
    for line in [*text.split("\n"), None]:
        if line is not None and line.startswith(prefix):
            quoted.append(line[len(prefix) :].strip())
            continue
        if quoted:
            out.append(f"<blockquote>{'<br>'.join(quoted)}</blockquote>")
            quoted = []
        if line is not None:
            out.append(line)
    joined = "<br>".join(out)
    return re.sub(r"(<br>)?(</?(?:blockquote|h[3-5]|pre|ul)>)(<br>)?", lambda m: m[2], joined)


SLACK_STYLES: Final = (
    (r"(?<![\w*])\*(?=\S)([^*\n]+?)(?<=\S)\*(?![\w*])", r"<strong>\1</strong>"),
    (r"(?<![\w_])_(?=\S)([^_\n]+?)(?<=\S)_(?![\w_])", r"<em>\1</em>"),
    (r"(?<![\w~])~(?=\S)([^~\n]+?)(?<=\S)~(?![\w~])", r"<s>\1</s>"),
)


def slack_markup(text: str) -> Markup:
    """Return Slack's mrkdwn as HTML."""
    pieces = _Pieces()

    def entity(match: re.Match[str]) -> str:
        target, _, label = match[1].partition("|")
        label = _slack_clean(label)
        if target.startswith("!date"):
            return pieces.hide(escape(label))
        if target.startswith(("@", "#", "!")):
            shown = label or target.lstrip("!@#")
            sign = "#" if target.startswith("#") else "@"
            return pieces.hide(Markup('<span class="mention">{}{}</span>').format(sign, shown.lstrip("@#")))
        target = _slack_clean(target)
        if not label and not urlsplit(target).scheme:
            return pieces.hide(escape(_slack_clean(match[0])))
        return pieces.hide(link(target, label or target))

    text = _code(pieces, text.replace(MARK, ""), _slack_clean)
    text = re.sub(r"<([^<>\n]+)>", entity, text)
    text = re.sub(r":([a-z0-9_+-]+):", lambda m: EMOJI.get(m[1], m[0]), _slack_clean(text))
    text = _style(str(escape(text)), SLACK_STYLES)
    return Markup(pieces.show(_quotes(text, "&gt;")))  # noqa: S704 - escaped above


def _slack_clean(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


LANGUAGE: Final = r"(?:[A-Za-z0-9_+-]*\n)?"
"""Name of a language that a Discord code block may begin with; it is not shown."""

DISCORD_STYLES: Final = (
    (r"\*\*\*(?=\S)(.+?)(?<=\S)\*\*\*", r"<strong><em>\1</em></strong>"),
    (r"\*\*(?=\S)(.+?)(?<=\S)\*\*", r"<strong>\1</strong>"),
    (r"__(?=\S)(.+?)(?<=\S)__", r"<u>\1</u>"),
    (r"~~(?=\S)(.+?)(?<=\S)~~", r"<s>\1</s>"),
    (r"\*(?=\S)([^*\n]+?)(?<=\S)\*", r"<em>\1</em>"),
    (r"(?<!\w)_(?=\S)([^_\n]+?)(?<=\S)_(?!\w)", r"<em>\1</em>"),
    (r"\|\|(.+?)\|\|", r'<span class="spoiler">\1</span>'),
    (r"(?m)^### (.+)$", r"<h5>\1</h5>"),
    (r"(?m)^## (.+)$", r"<h4>\1</h4>"),
    (r"(?m)^# (.+)$", r"<h3>\1</h3>"),
    (r"(?m)^-# (.+)$", r"<small>\1</small>"),
    (r"(?m)^\s*[-*] (.+)$", r"• \1"),
)


def discord_markup(text: str) -> Markup:
    """Return Discord's markdown as HTML."""
    pieces = _Pieces()

    def stamp(match: re.Match[str]) -> str:
        try:
            shown = datetime.fromtimestamp(int(match[1]), UTC).strftime("%d %B %Y %H:%M UTC")
        except (ValueError, OverflowError, OSError):
            shown = match[0]
        return pieces.hide(Markup('<span class="mention">{}</span>').format(shown))

    text = _code(pieces, text.replace(MARK, ""), str, LANGUAGE)
    text = re.sub(r"\\([\\*_~`|<>#\[\]().+-])", lambda m: pieces.hide(escape(m[1])), text)
    text = re.sub(r"<t:(-?\d{1,15})(?::[tTdDfFR])?>", stamp, text)
    text = re.sub(r"<[@#][!&]?(\d+)>", lambda m: pieces.hide(Markup('<span class="mention">@{}</span>').format(m[1])), text)
    text = re.sub(r"\[([^\[\]\n]+)\]\(<?(\S+?)>?\)", lambda m: pieces.hide(link(m[2], _inner(pieces, m[1]))), text)
    text = re.sub(r"<?(https?://[^\s<>]+[^\s<>.,:;!?)])>?", lambda m: pieces.hide(link(m[1], m[1])), text)
    text = _style(str(escape(text)), DISCORD_STYLES)
    return Markup(pieces.show(_quotes(text, "&gt; ")))  # noqa: S704 - escaped above


def _inner(pieces: _Pieces, label: str) -> Markup:
    """Return a link's label with its own bold and italics."""
    return Markup(_style(str(escape(label)), DISCORD_STYLES[:7]))  # noqa: S704 - escaped in this line
