"""Tokens in links: what was signed is read back, anything else is refused with its reason."""

import base64
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import SetupError
from runtime.tokens import (
    BadToken,
    TokenClaims,
    TokenKeys,
    make_unsubscribe_token,
    names_delivery,
    read_token,
    unverified_claims,
)

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
KEYS = TokenKeys.parse(f"k1:{'ab' * 32}, k0:{'cd' * 32}")
SUBSCRIBER = "0b5f8a3e-6f3e-4b64-9a39-0c8a3a6b0001"
DELIVERY = "20261123-0b5f8a3e-6f3e-4b64-9a39-0c8a3a6b0002"


def token(keys: TokenKeys = KEYS, **fields: object) -> str:
    values = {
        "subscriber_id": SUBSCRIBER,
        "delivery_id": DELIVERY,
        "kind": "newsletter",
        "newsletter_id": "arxiv-daily",
        "expires_at": NOW + timedelta(days=90),
    }
    return make_unsubscribe_token(keys, **{**values, **fields})  # type: ignore[arg-type]


@given(
    st.uuids(),
    st.none() | st.tuples(st.dates(), st.uuids()),
    st.from_regex(r"[A-Za-z0-9-]{1,64}", fullmatch=True),
    st.integers(1, 80_000),
)
def test_reads_back_what_was_signed(
    subscriber: UUID, delivery: tuple[datetime, UUID] | None, newsletter: str, minutes: int
) -> None:
    """Every claim comes back as it was, for newsletters and for alerts."""
    delivery_id = f"{delivery[0]:%Y}".zfill(4) + f"{delivery[0]:%m%d}-{delivery[1]}" if delivery else None
    expires_at = NOW + timedelta(minutes=minutes)
    for kind, newsletter_id in (("newsletter", newsletter), ("alert", None)):
        made = token(
            subscriber_id=str(subscriber), delivery_id=delivery_id, kind=kind, newsletter_id=newsletter_id, expires_at=expires_at
        )
        assert read_token(KEYS, made, NOW) == TokenClaims(str(subscriber), delivery_id, kind, newsletter_id, expires_at, "k1")


def test_is_short_and_fits_a_url() -> None:
    """A List-Unsubscribe header has room for it, and no character needs quoting."""
    made = token()
    assert len(made) <= 110
    assert made.replace("-", "").replace("_", "").isalnum()


def test_old_keys_verify_until_they_are_taken_away() -> None:
    """The first key signs; a token of a retired key is read while the key is listed."""
    old = token(TokenKeys.parse(f"k0:{'cd' * 32}"))
    assert isinstance(read_token(KEYS, old, NOW), TokenClaims)
    assert read_token(TokenKeys.parse(f"k1:{'ab' * 32}"), old, NOW) == BadToken("unknown_key")


def test_expires() -> None:
    """At its expiry a token is refused, a second before it is not."""
    made = token(expires_at=NOW)
    assert read_token(KEYS, made, NOW) == BadToken("expired")
    assert isinstance(read_token(KEYS, made, NOW - timedelta(seconds=1)), TokenClaims)


@given(st.data())
def test_any_changed_character_is_refused(data: st.DataObject) -> None:
    """There is one text for each token: no other reads as the same claims or as other ones."""
    made = token()
    at = data.draw(st.integers(0, len(made) - 1))
    other = data.draw(st.sampled_from("ABCDEFghijklm012345-_").filter(lambda c: c != made[at]))
    assert isinstance(read_token(KEYS, made[:at] + other + made[at + 1 :], NOW), BadToken)


def test_wrong_key_with_the_same_id_is_a_bad_signature() -> None:
    """An id is no secret."""
    forged = token(TokenKeys.parse(f"k1:{'ee' * 32}"))
    assert read_token(KEYS, forged, NOW) == BadToken("bad_signature")


@given(st.text(max_size=600))
def test_any_text_is_read_without_an_exception(text: str) -> None:
    """What comes from the internet is a value, never an error."""
    assert isinstance(read_token(KEYS, text, NOW), BadToken)


@given(st.binary(max_size=120))
def test_any_bytes_are_read_without_an_exception(data: bytes) -> None:
    """The same for well-formed base64."""
    import base64

    text = base64.urlsafe_b64encode(b"\x01\x01" + data).rstrip(b"=").decode()
    assert isinstance(read_token(KEYS, text, NOW), BadToken)


@pytest.mark.parametrize("wrong", ["", "k1", "k1:zz", "k1:abcd", f":{'ab' * 32}", f"{'k' * 17}:{'ab' * 32}"])
def test_wrong_keys_are_named_without_showing_them(wrong: str) -> None:
    """The message names the setting, not its value."""
    with pytest.raises(SetupError, match="NEWSWIRE_TOKEN_KEYS") as caught:
        TokenKeys.parse(wrong)
    assert "abab" not in str(caught.value)


def test_a_newsletter_token_names_its_newsletter() -> None:
    """Kind and newsletter_id belong together; anything else is a programming error."""
    with pytest.raises(ValueError, match="newsletter"):
        token(newsletter_id=None)
    with pytest.raises(ValueError, match="alert"):
        token(kind="alert")


def test_a_message_is_known_by_the_link_in_it() -> None:
    """By this delivery's link, by any link of ours, and by nothing else; whatever key signed it."""
    other = "20261123-0b5f8a3e-6f3e-4b64-9a39-0c8a3a6b0003"
    text = f"You get this because [Unsubscribe](https://edge.example/u/{token()}) and so on"
    assert names_delivery(text, DELIVERY)
    assert names_delivery(text, None)
    assert not names_delivery(text, other)
    for nothing in ("", "https://edge.example/u/short", "https://edge.example/u/" + "!" * 90, token()):
        assert not names_delivery(nothing, DELIVERY)
        assert not names_delivery(nothing, None)


def test_says_what_a_link_is_of_without_a_key() -> None:
    """The same claims as with the key, whoever signed it; a text without a link of ours, or with half of one, says nothing."""
    text = f"[Unsubscribe](https://edge.example/u/{token()}) and so on"
    assert unverified_claims(text) == read_token(KEYS, token(), NOW)
    alert = f"/u/{'A' * 80} https://edge.example/u/{token(kind='alert', newsletter_id=None, delivery_id=None)}"
    found = unverified_claims(alert)
    assert found is not None
    assert (found.kind, found.newsletter_id, found.delivery_id) == ("alert", None, None)
    assert unverified_claims(token()) is None
    assert unverified_claims(f"/u/{token()[:64]}") is None


@given(st.binary(max_size=120))
def test_no_forged_link_is_an_error(payload: bytes) -> None:
    """Whatever follows the first bytes of a link, it says something or nothing."""
    forged = base64.urlsafe_b64encode(b"\x01\x01" + payload).rstrip(b"=").decode()
    unverified_claims(f"https://edge.example/u/{forged}")
