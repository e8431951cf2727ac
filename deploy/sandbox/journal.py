"""The append-only file of everything that reached a provider: one JSON line a message, one write a request.

A line is in the file (in the kernel's hands, so it survives a kill -9 of this process) before the request is answered.
Lines hold no personal data: a destination is a hash, a body is a digest.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

FILE_NAME = "requests.jsonl"


class JournalError(Exception):
    """The journal cannot be used; the message is shown to a person as it is."""


class Journal:
    """One process's journal; the file is locked, so that two sandboxes never count into the same one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE_NAME
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise JournalError(f"{self.path} is in use by another sandbox: stop it, or give --journal another folder.") from None

    def replay(self) -> Iterator[dict[str, Any]]:
        """Yield every line written before; an unfinished last line is cut off; JournalError when one before it is damaged."""
        good_bytes = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    yield orjson.loads(line)
                except orjson.JSONDecodeError:
                    raise JournalError(
                        f"{self.path} is damaged in line {number}: move the file away to count from zero."
                    ) from None
                good_bytes += len(line)
        os.ftruncate(self._fd, good_bytes)

    def append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write the lines with one write; OSError when the disk refuses them."""
        data = b"".join([orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines])
        written = os.write(self._fd, data)
        while written < len(data):
            written += os.write(self._fd, data[written:])

    def reset(self) -> None:
        """Forget everything."""
        os.ftruncate(self._fd, 0)

    def close(self) -> None:
        """Release the file."""
        os.close(self._fd)
