"""What of the data keys needs no database: the local master key, the envelope and the form of addresses."""

import stat
from pathlib import Path

import pytest

from core.errors import SetupError
from runtime.keys import address_hash, create_master_key, is_encrypted, normalise_address
from runtime.kms import LocalKms
from runtime.settings import Settings

SETTINGS = Settings(receipt_key="aa" * 32)


def test_master_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    """A second start must not make the first keys unreadable."""
    path = tmp_path / "keys" / "master.key"
    create_master_key(path)
    before = path.read_text()
    create_master_key(path)
    assert path.read_text() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert LocalKms(str(path)).unwrap(LocalKms(str(path)).wrap(b"k" * 32)) == b"k" * 32


def test_another_master_key_says_what_to_do(tmp_path: Path) -> None:
    """A wrong file is a mistake of the installation, not of the data."""
    create_master_key(tmp_path / "one")
    create_master_key(tmp_path / "two")
    wrapped = LocalKms(str(tmp_path / "one")).wrap(b"k" * 32)
    with pytest.raises(SetupError, match="NEWSWIRE_MASTER_KEY_FILE"):
        LocalKms(str(tmp_path / "two")).unwrap(wrapped)


@pytest.mark.parametrize("text", [None, "", "not hex", "abcd"])
def test_master_key_that_cannot_be_used_is_a_setup_error(tmp_path: Path, text: str | None) -> None:
    """Missing, empty, no hex, too short."""
    if text is not None:
        (tmp_path / "key").write_text(text)
    with pytest.raises(SetupError):
        LocalKms(str(tmp_path / "key"))


def test_address_hash_ignores_case_of_mail_and_secret_of_webhook_but_not_the_channel() -> None:
    """The blind index finds a person however the address was typed."""
    mail = address_hash(SETTINGS, "email", "Reader@Example.org ")
    assert mail == address_hash(SETTINGS, "email", "reader@example.org")
    assert mail != address_hash(SETTINGS, "slack", "reader@example.org")
    assert mail != address_hash(Settings(receipt_key="bb" * 32), "email", "reader@example.org")
    assert len(mail) == 32
    assert normalise_address("webhook", '{"url": "https://example.org/h", "secret": "s"}') == "https://example.org/h"
    assert normalise_address("slack", "C0AbC") == "C0AbC"


def test_envelope_is_told_from_plaintext() -> None:
    """Version byte and length; nothing is decrypted."""
    assert is_encrypted(b"\x01" + bytes(32))
    assert not is_encrypted(b"\x01" + bytes(31))
    assert not is_encrypted(b"reader@example.org and some more text to be long enough")
