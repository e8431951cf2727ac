"""Messages drawn as HTML: what is styled, what is linked, and that hostile text stays text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.sandbox.markup import discord_markup, slack_markup

TAG = re.compile(r"<[^>]*>")
ALLOWED = re.compile(
    r'</?(strong|em|s|u|code|pre|blockquote|br|h3|h4|h5|small)>|</?span( class="(mention|spoiler)")?>|</a>'
    r'|<a href="(https?|mailto):[^"<>]*" target="_blank" rel="noopener noreferrer">',
    re.IGNORECASE,
)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("*bold* _it_ ~old~", "<strong>bold</strong> <em>it</em> <s>old</s>"),
        ("snake_case_name and 2*3*4", "snake_case_name and 2*3*4"),
        ("a &amp; b &lt;script&gt;", "a &amp; b &lt;script&gt;"),
        ("<script>", "&lt;script&gt;"),
        ("&gt; quoted\nafter", "<blockquote>quoted</blockquote>after"),
        ("`*no*`", "<code>*no*</code>"),
        ("```a\nb```", "<pre>a\nb</pre>"),
        (
            "<@U1> <#C1|news> <!here>",
            '<span class="mention">@U1</span> <span class="mention">#news</span> <span class="mention">@here</span>',
        ),
        ("<javascript:alert(1)|x>", "x (javascript:alert(1))"),
        (
            "<https://e.org/?a=1&amp;b=2|x>",
            '<a href="https://e.org/?a=1&amp;b=2" target="_blank" rel="noopener noreferrer">x</a>',
        ),
        ("<!date^1^{date}|1 May>", "1 May"),
    ],
)
def test_draws_slack(text: str, html: str) -> None:
    """Slack's mrkdwn."""
    assert str(slack_markup(text)) == html


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**b** *i* __u__ ~~s~~ ||x||", '<strong>b</strong> <em>i</em> <u>u</u> <s>s</s> <span class="spoiler">x</span>'),
        ("# Title\ntext", "<h3>Title</h3>text"),
        ("> quoted\nafter", "<blockquote>quoted</blockquote>after"),
        (r"\*not\*", "*not*"),
        ("[**b**](https://e.org)", '<a href="https://e.org" target="_blank" rel="noopener noreferrer"><strong>b</strong></a>'),
        ("[x](javascript:alert(1))", "x (javascript:alert(1))"),
        ("see https://e.org/a.", 'see <a href="https://e.org/a" target="_blank" rel="noopener noreferrer">https://e.org/a</a>.'),
        ("<t:0:F>", '<span class="mention">01 January 1970 00:00 UTC</span>'),
        ("<b>", "&lt;b&gt;"),
        ("```py\ncode```", "<pre>code</pre>"),
        ("https://e.org/`<`", "https://e.org/<code>&lt;</code>"),
    ],
)
def test_draws_discord(text: str, html: str) -> None:
    """Discord's markdown."""
    assert str(discord_markup(text)) == html


PIECES = st.sampled_from(
    [
        *("<", ">", '"', "'", "&", "*", "_", "~", "`", "```", "|", "[", "](", ")", "\n", "\\", " ", "a", "\x00", "\x000\x00"),
        *("https://e.org/", "javascript:", "<script>", "onerror=", "# ", "> ", "<t:1:R>", "<@1>", "&lt;", "&amp;"),
    ]
)


@given(st.lists(PIECES, max_size=24).map("".join))
def test_lets_no_markup_of_the_message_through(text: str) -> None:
    """Whatever the text is, every tag in the result is one of ours with one of our attributes."""
    for html in (str(slack_markup(text)), str(discord_markup(text))):
        for tag in TAG.findall(html):
            assert ALLOWED.fullmatch(tag), (tag, html)
