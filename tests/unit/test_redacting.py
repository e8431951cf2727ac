"""What a provider said, as it is stored: the words stay, whatever names the recipient goes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.redacting import MAX_CHARACTERS, shown

ENDPOINT = '{"url": "https://hooks.ada-lovelace.example/in/5Zk2", "secret": "whsec_bmV3c3dpcmUtZGVtby1zZWNyZXQtb2YtMzItYnl0ZXM="}'


@pytest.mark.parametrize(
    ("said", "address", "kept"),
    [
        ("50035: Invalid Form Body; embeds.0.title Must be 256 or fewer in length.", "123456789012345678", None),
        ("invalid_blocks, [ERROR] must be less than 151 characters [json-pointer:/blocks/0/text/text]", "C0123456", None),
        ("FAILED: Attribute 'items_html' is not present in the rendering data.", "ada@example.org", None),
        ("MESSAGE_REJECTED: not verified in region EU-WEST-1", "ada@example.org", None),
        ("status 502", ENDPOINT, None),
        ("ClientConnectorError ECONNREFUSED", ENDPOINT, None),
        ("REJECTED: ada@example.org is on a list", "ada@example.org", "REJECTED: [...] is on a list"),
        ("Illegal address: 'ada b@x'", "ada b@x", "Illegal address: '[...]'"),
        ('for "Ada Lovelace" <ada+news@example.org>, and bob@example.net', "x@y.org", 'for "[...]" <[...]>, and [...]'),
        ("ADA-LOVELACE is no user", "ada-lovelace@example.org", "[...]-[...] is no user"),
        ("user U024BE7LH in 123456789012345678 at 10.0.12.7", "C0123456", "user [...] in [...] at [...]"),
        ("see https://hooks.ada-lovelace.example/in/5Zk2?token=1", ENDPOINT, "see [...]"),
        ("call +436601234567", "ada@example.org", "call +[...]"),
        ("one\x00two\nthree", "ada@example.org", "one two three"),
    ],
)
def test_keeps_what_helps_and_takes_out_who_it_is(said: str, address: str, kept: str | None) -> None:
    """None: as it was."""
    assert shown(said, [address]) == (kept or said)


@given(st.text(max_size=3_000), st.sampled_from(["ada@example.org", "U024BE7LH", "123456789012345678", ENDPOINT]))
def test_an_address_is_never_in_it_whatever_stands_around(text: str, address: str) -> None:
    """Bounded, on one line, and fit for PostgreSQL, with the address wherever it may be."""
    said = shown(f"{text} {address} {text}", [address])
    assert len(said) <= MAX_CHARACTERS
    assert said.isprintable()
    assert address.lower() not in said.lower()
    assert shown(said, [address]) == said or "[...]" in said
