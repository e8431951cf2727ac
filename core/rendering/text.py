"""Text that is safe where it goes: cleaned, shortened at a word, escaped for its channel. Nothing here refuses a text.

Lengths are in UTF-16 code units, the largest of the ways in which providers count, unless a name says bytes.
"""

import html
import re
import unicodedata
from collections.abc import Callable
from urllib.parse import urlsplit

ELLIPSIS = "…"
ZERO_WIDTH_SPACE = "\u200b"

READ_LIMIT = 100_000
"""Characters of a text that are looked at: five times the longest that is shown, so that a huge one costs no more."""

_SPACES = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"\n\s*\n+")
_DROPPED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufff9-\ufffb]")
"""Controls, overrides of the writing direction (they would turn the text that follows around) and lone surrogates."""

_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~/=&?#%+,;:@!$*-]*)?")
"""Most addresses: nothing in them has to be taken out or escaped."""

_TOUCHING_BRACES = re.compile(r"(\{(?=\{)|\}(?=\}))")

_JOINERS = frozenset("\u200d\ufe0e\ufe0f\u20e3")
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_REGIONAL = range(0x1F1E6, 0x1F200)


def one_line(text: str) -> str:
    """Return the text as one clean line: no controls, single spaces, no space around it."""
    return " ".join(_DROPPED.sub("", text[:READ_LIMIT].replace("\x85", " ")).split())


def paragraphs(text: str) -> str:
    """Return the text with clean lines; empty lines are kept as one."""
    text = text[:READ_LIMIT]
    lines = _DROPPED.sub("", text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n\n"))
    tidy = "\n".join(_SPACES.sub(" ", line).strip() for line in lines.split("\n"))
    return _BLANK_LINES.sub("\n\n", tidy).strip()


def units(text: str) -> int:
    """Return the length in UTF-16 code units."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def shorten(text: str, limit: int, *, measure: Callable[[str], int] = units) -> str:
    """Return the text, or its longest beginning up to a word's end with an ellipsis, at most `limit` long by `measure`.

    A word that is too long by itself is cut, but never inside a character made of several code points (emoji, accents).
    """
    if measure(text) <= limit:
        return text
    if limit < measure(ELLIPSIS):
        return ""
    low, high = 0, min(len(text), max(limit, 0))
    while low < high:
        middle = (low + high + 1) // 2
        if measure(text[:middle] + ELLIPSIS) <= limit:
            low = middle
        else:
            high = middle - 1
    kept = _at_word(text, low)
    while kept and measure(kept + ELLIPSIS) > limit:
        kept = _at_word(text, len(kept) - 1)
    return kept + ELLIPSIS


def _at_word(text: str, end: int) -> str:
    if not text[end : end + 1].isspace():
        space = max(text.rfind(" ", 0, end), text.rfind("\n", 0, end))
        if space > end * 2 // 3:
            end = space
    while end and _continues(text, end):
        end -= 1
    return text[:end].rstrip().rstrip(".,;:–—-(")


def _continues(text: str, at: int) -> bool:
    """Return whether a cut before text[at] would fall inside one visible character."""
    if at >= len(text):
        return False
    following, before = text[at], text[at - 1]
    if following in _JOINERS or before == "\u200d" or unicodedata.combining(following) or ord(following) in _SKIN_TONES:
        return True
    if ord(following) in _REGIONAL and ord(before) in _REGIONAL:
        run = 0
        while run < at and ord(text[at - 1 - run]) in _REGIONAL:
            run += 1
        return run % 2 == 1
    return False


def fitted(text: str, limit: int, escape: Callable[[str], str]) -> str:
    """Return the escaped text, shortened before escaping so that the result is at most `limit` code units."""
    return escape(shorten(text, limit, measure=lambda part: units(escape(part))))


def header_value(text: str, limit: int = 200) -> str:
    """Return the text for a mail header: one line, so that no other header can be smuggled in, and short."""
    return shorten(one_line(text), limit)


def safe_url(url: str | None) -> str:
    """Return an http or https address with nothing in it that ends an attribute or a link; empty for any other."""
    if not url:
        return ""
    if _PLAIN_URL.fullmatch(url):
        return url
    clean = _DROPPED.sub("", url).strip()
    try:
        parts = urlsplit(clean)
    except ValueError:
        return ""
    if parts.scheme.lower() not in ("http", "https") or not parts.netloc:
        return ""
    return re.sub(r"[\s\"'<>|\\^`{}()]", lambda m: "".join(f"%{byte:02X}" for byte in m[0].encode()), clean)


def html_text(text: str) -> str:
    """Return the text for HTML content or a quoted attribute; braces too, so that SES finds no placeholder in it."""
    return html.escape(text, quote=True).replace("{", "&#123;").replace("}", "&#125;")


def plain_text(text: str) -> str:
    """Return the text for a plain-text template of SES: no placeholder can be read in it, because no two equal braces touch."""
    return _TOUCHING_BRACES.sub(r"\1 ", text)


_SLACK_MARKS = re.compile(r"(?<!\w)([*_~`])(?=\S)")


def slack_text(text: str) -> str:
    """Return the text for Slack's mrkdwn: &, < and > as entities, so no mention or link; formatting marks inert."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SLACK_MARKS.sub(f"{ZERO_WIDTH_SPACE}\\1{ZERO_WIDTH_SPACE}", escaped)


def slack_link(url: str, label: str) -> str:
    """Return a link in mrkdwn of an address from safe_url and an escaped label; the label alone without an address."""
    return f"<{url.replace('&', '&amp;')}|{label}>" if url else label


_DISCORD_MARKS = re.compile(r"([\\*_~`|<>\[\]()#])")
_DISCORD_MENTIONS = re.compile(r"@(?=everyone|here)", re.IGNORECASE)
_DISCORD_LINE_MARKS = re.compile(r"^(\s*)([-+]|\d+\.)(?=\s)", re.MULTILINE)


def discord_text(text: str) -> str:
    """Return the text for Discord's markdown: marks escaped, @everyone, @here and mentions inert."""
    escaped = _DISCORD_MARKS.sub(r"\\\1", text)
    escaped = _DISCORD_LINE_MARKS.sub(lambda m: f"{m[1]}{m[2][:-1]}\\{m[2][-1]}", escaped)
    return _DISCORD_MENTIONS.sub(f"@{ZERO_WIDTH_SPACE}", escaped)


def discord_link(url: str, label: str) -> str:
    """Return a link in Discord's markdown; the label alone without an address."""
    return f"[{label}]({url})" if url else label
