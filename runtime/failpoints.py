"""Named places where a test makes this process die, wait or fail; nothing happens unless the settings name one.

The setting (NEWSWIRE_FAILPOINTS) is a comma-separated list of `name=action`, or `@path`: then that file holds the list
(newlines count as commas), and it is read again whenever it changes, so that a test can arm a running process.
`process:name=action` holds only in the process of that name (`newsletters:decide.after_produce=kill`).

Actions: `kill` (SIGKILL to itself), `kill@3` (at the third hit), `exit` (os._exit(70)), `sleep:5` (seconds), `raise`
(FailpointError, which nobody classifies). An entry of a file is removed from it before it kills, so that the restarted
process passes; hits of `@n` are counted within one process.
"""

import asyncio
import os
import signal
import time
from pathlib import Path

from runtime.settings import Settings

_EXIT_CODE = 70


class FailpointError(RuntimeError):
    """Raised by the action `raise`; no code expects it."""


class _Points:
    """The armed points of this process and how often each was hit."""

    def __init__(self, spec: str, process: str) -> None:
        self.process = process
        self.path = Path(spec[1:]) if spec.startswith("@") else None
        self.hits: dict[str, int] = {}
        self._stamp: tuple[int, int] | None = None
        self._actions = {} if self.path else _parse(spec, process)

    def action(self, name: str) -> str | None:
        if self.path is not None:
            self._reread(self.path)
        return self._actions.get(name)

    def _reread(self, path: Path) -> None:
        try:
            found = path.stat()
        except FileNotFoundError:
            self._actions, self._stamp = {}, None
            return
        stamp = (found.st_mtime_ns, found.st_size)
        if stamp != self._stamp:
            self._stamp = stamp
            self._actions = _parse(path.read_text(), self.process)

    def disarm(self, name: str) -> None:
        """Remove the point from the file, so that the process that comes after this one does not die of it again."""
        if self.path is None or not self.path.exists():
            return
        kept = [e for e in _entries(self.path.read_text()) if name not in _parse(e, self.process)]
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        draft.write_text("\n".join(kept))
        draft.replace(self.path)


def _entries(text: str) -> list[str]:
    return [entry.strip() for entry in text.replace("\n", ",").split(",") if entry.strip()]


def _parse(text: str, process: str) -> dict[str, str]:
    actions: dict[str, str] = {}
    for entry in _entries(text):
        name, sign, action = entry.partition("=")
        scope, colon, inner = name.partition(":")
        if not sign:
            raise ValueError(f"failpoint {entry!r}: expected name=action")
        if colon and scope != process:
            continue
        actions[inner if colon else name] = action
    return actions


_points: _Points | None = None


def configure(spec: str, process: str = "") -> None:
    """Arm what the setting names for this process; an empty text disarms everything and forgets the counts."""
    global _points
    _points = _Points(spec, process) if spec else _Points("", process)


def _due(name: str) -> str | None:
    global _points
    if _points is None:
        _points = _Points(Settings.load().failpoints, "")
    points = _points
    action = points.action(name)
    if action is None:
        return None
    what, sign, nth = action.partition("@")
    points.hits[name] = points.hits.get(name, 0) + 1
    if sign and points.hits[name] != int(nth):
        return None
    if what in ("kill", "exit"):
        points.disarm(name)
    return what


def _act(name: str, what: str) -> None:
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # the signal is on its way; nothing after this point may run
    elif what == "exit":
        os._exit(_EXIT_CODE)
    elif what == "raise":
        raise FailpointError(name)
    elif what.startswith("sleep:"):
        time.sleep(float(what.removeprefix("sleep:")))
    else:
        raise ValueError(f"failpoint {name!r}: unknown action {what!r}")


def hit(name: str) -> None:
    """Do what is armed at this point; usually nothing."""
    what = _due(name)
    if what is not None:
        _act(name, what)


async def hit_async(name: str) -> None:
    """Do what is armed at this point without blocking the event loop while it sleeps."""
    what = _due(name)
    if what is None:
        return
    if what.startswith("sleep:"):
        await asyncio.sleep(float(what.removeprefix("sleep:")))
    else:
        _act(name, what)
