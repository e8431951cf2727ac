"""Deterministic ids and the ledger's key."""

import uuid
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ids import NAMESPACE, day_text, deterministic_id, deterministic_text, ledger_key, split_delivery_id

UID = "0b5f8a3e-6f3e-5b64-9a39-0c8a3a6b0001"


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_the_short_way_makes_the_same_uuid(parts: list[str]) -> None:
    """RFC 9562's UUIDv5 as the standard library makes it."""
    parts = [part.encode("utf-8", "replace").decode() for part in parts]
    assert deterministic_text(*parts) == str(deterministic_id(*parts)) == str(uuid.uuid5(NAMESPACE, "\x1f".join(parts)))


def test_the_key_of_a_delivery_has_one_spelling() -> None:
    """However its UUID is written, it is the same row; two notices about it in one batch are about one delivery."""
    assert ledger_key(f"20261123-{UID}") == (date(2026, 11, 23), UID)
    assert ledger_key(f"20261123-{UID.upper()}") == ledger_key(f"20261123-{{{UID}}}") == (date(2026, 11, 23), UID)
    assert split_delivery_id(f"20261123-{UID}") == (date(2026, 11, 23), uuid.UUID(UID))
    assert f"{day_text(date(2026, 11, 23))}-{UID}" == f"20261123-{UID}"


@pytest.mark.parametrize(
    "given", ["", "nonsense", UID, f"20261323-{UID}", f"2026-11-23-{UID}", f"20261123-{UID[:-1]}", f"20261123{UID}"]
)
def test_what_is_no_key_says_what_is_expected(given: str) -> None:
    """Neither day nor UUID is guessed."""
    with pytest.raises(ValueError, match="is no delivery id: expected YYYYMMDD-uuid"):
        ledger_key(given)
