"""Texts are cleaned, shortened at a word and escaped, and nothing is ever refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.rendering.text import (
    discord_text,
    fitted,
    header_value,
    html_text,
    one_line,
    paragraphs,
    plain_text,
    safe_url,
    shorten,
    slack_link,
    slack_text,
    units,
)
from tests.rendering_samples import texts, urls


@given(texts, st.integers(0, 300))
def test_shortening_keeps_the_limit_and_says_that_it_cut(text: str, limit: int) -> None:
    """What is too long ends with an ellipsis within the limit; what fits stays as it is."""
    cut = shorten(text, limit)
    assert units(cut) <= limit
    if units(text) <= limit:
        assert cut == text
    elif limit >= 1:
        assert cut.endswith("…")


@given(texts, st.integers(0, 300), st.sampled_from([slack_text, discord_text, html_text]))
def test_escaped_text_fits_after_escaping(text: str, limit: int, escape: object) -> None:
    """The limit holds for what is transmitted, not for what was written."""
    assert units(fitted(text, limit, escape)) <= limit  # type: ignore[arg-type]


def test_shortens_at_a_word() -> None:
    """A cut falls between words, without a stray comma or full stop before the ellipsis."""
    assert shorten("one two, three four", 11) == "one two…"
    assert shorten("one two. Three four", 12) == "one two…"


@pytest.mark.parametrize("sign", ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "e\u0301"])
def test_never_cuts_inside_a_visible_character(sign: str) -> None:
    """Signs of several code points stay whole."""
    text = sign * 20
    for limit in range(1, units(text)):
        cut = shorten(text, limit).removesuffix("…")
        assert cut == sign * (len(cut) // len(sign))


@given(texts)
def test_header_is_one_line(text: str) -> None:
    """No header can be smuggled in through a subject."""
    value = header_value(text)
    assert not {"\r", "\n", "\0", "\u2028", "\x85"} & set(value)
    assert units(value) <= 200


def test_drops_overrides_of_the_writing_direction() -> None:
    """A title cannot turn the text after it around; right-to-left letters stay."""
    assert one_line("مرحبا\u202e abc\u2066") == "مرحبا abc"


def test_keeps_paragraphs() -> None:
    """Empty lines separate paragraphs, single ones lines."""
    assert paragraphs(" a  b\r\nc\n\n\n\nd \x00") == "a b\nc\n\nd"


@given(urls)
def test_addresses_are_http_and_end_nothing(url: str) -> None:
    """What comes out is no script and holds nothing that closes an attribute, a Slack link or a Markdown link."""
    safe = safe_url(url)
    assert safe == "" or safe.lower().startswith(("http://", "https://"))
    assert not set("\"'<>|\\^`{}() \n\r\t") & set(safe)


@given(texts)
def test_slack_text_has_no_control_sequence(text: str) -> None:
    """Mentions and links need an angle bracket; there is none."""
    assert not {"<", ">"} & set(slack_text(text))


def test_slack_link_escapes_ampersands() -> None:
    """Slack reads & in an address as the start of an entity."""
    assert slack_link("https://e.org/?a=1&b=2", "x") == "<https://e.org/?a=1&amp;b=2|x>"


@given(texts)
def test_discord_text_mentions_nobody(text: str) -> None:
    """@everyone and @here are broken up, and every markdown mark is escaped."""
    escaped = discord_text(text)
    assert "@everyone" not in escaped.lower()
    assert "@here" not in escaped.lower()
    bare = escaped.replace("\\\\", "")
    for mark in "*_~`|<>[]()#":
        assert bare.count(mark) == bare.count("\\" + mark)


@given(texts | st.text("{}a "))
def test_nothing_looks_like_a_placeholder_of_ses(text: str) -> None:
    """SES fills in {{name}}; data holds none."""
    assert "{" not in html_text(text)
    assert not re.search(r"\{\{|\}\}", plain_text(text))
