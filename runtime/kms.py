"""The key management service behind the data keys: who wraps the keys that wrap them."""

import os
import stat
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.errors import SetupError

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
_PURPOSE: Final = b"newswire key-encryption key"


class Kms(Protocol):
    """Wraps and unwraps key-encryption keys; a process asks once for each of them."""

    name: str
    """What is recorded with a wrapped key, so that a person knows where to unwrap it."""

    def wrap(self, key: bytes) -> bytes:
        """Return a key wrapped by the master key."""

    def unwrap(self, wrapped: bytes) -> bytes:
        """Return the key; SetupError when the master key is not the one that wrapped it."""


class LocalKms:
    """A master key in a file: for a local stack, and for installations that guard the file themselves."""

    name = "local"

    def __init__(self, master_key_file: str) -> None:
        self._file = master_key_file
        self._master = AESGCM(_read(master_key_file))

    def wrap(self, key: bytes) -> bytes:
        """Return nonce, ciphertext and tag."""
        return seal(self._master, key, _PURPOSE)

    def unwrap(self, wrapped: bytes) -> bytes:
        """Return the key; SetupError when the file holds another master key."""
        try:
            return unseal(self._master, wrapped, _PURPOSE)
        except InvalidTag:
            raise SetupError(
                f"{self._file} is not the master key that the data keys were wrapped with; set NEWSWIRE_MASTER_KEY_FILE."
            ) from None


def seal(cipher: AESGCM, plaintext: bytes, associated: bytes) -> bytes:
    """Return nonce, ciphertext and tag under a fresh nonce."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, plaintext, associated)


def unseal(cipher: AESGCM, sealed: bytes, associated: bytes) -> bytes:
    """Return the plaintext; InvalidTag when key, bytes or associated data are others."""
    return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], associated)


def create_master_key(path: Path) -> None:
    """Write a new random master key that only its owner may read; an existing file stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(os.urandom(KEY_BYTES).hex() + "\n")


def _read(master_key_file: str) -> bytes:
    try:
        key = bytes.fromhex(Path(master_key_file).read_text(encoding="ascii").strip())
    except OSError as error:
        raise SetupError(
            f"the master key {master_key_file!r} cannot be read ({error.strerror}); set NEWSWIRE_MASTER_KEY_FILE."
        ) from None
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise SetupError(f"the master key in {master_key_file} is not {KEY_BYTES} bytes in hex; restore it from its backup.")
    return key
