"""The envelope around an encrypted field: version, key id, nonce, ciphertext and tag.

`b"\\x01" | key id, 4 bytes big-endian | nonce, 12 bytes | AES-256-GCM ciphertext and 16-byte tag`
"""

from typing import Final

VERSION: Final = b"\x01"
HEADER_BYTES: Final = 1 + 4 + 12
TAG_BYTES: Final = 16
MIN_BYTES: Final = HEADER_BYTES + TAG_BYTES


def is_encrypted(data: bytes) -> bool:
    """Return whether the bytes carry the envelope's header and are long enough to be one; nothing is decrypted."""
    return len(data) >= MIN_BYTES and data[:1] == VERSION
