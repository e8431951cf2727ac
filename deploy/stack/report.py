"""What a person sees while the stack comes up: a line for each step with the time it took, then where things are."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from deploy.stack.errors import StackError
from deploy.stack.layout import Layout

TAIL_LINES = 15


class Report:
    """Prints steps; threads may use it at the same time."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.took_s: dict[str, float] = {}
        self._lock = threading.Lock()
        self._running: list[str] = []
        self._status = console.status("")

    def __enter__(self) -> "Report":
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def line(self, name: str, text: str, took_s: float | None = None) -> None:
        """Print one finished step."""
        took = "" if took_s is None else f"{took_s:.1f} s"
        with self._lock:
            if took_s is not None:
                self.took_s[name] = took_s
            self.console.print(f"  {name:<16} {text:<58} [dim]{took:>7}[/dim]", highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, name: str, text: str) -> Iterator[None]:
        """Show a step as running, and print it with its time when it ends well."""
        began = time.monotonic()
        self._show(add=name)
        try:
            yield
        finally:
            self._show(remove=name)
        self.line(name, text, time.monotonic() - began)

    def _show(self, add: str | None = None, remove: str | None = None) -> None:
        with self._lock:
            if add:
                self._running.append(add)
            if remove:
                self._running.remove(remove)
            self._status.update(f"[dim]{', '.join(self._running)} ...[/dim]")


def tail(path: Path, lines: int = TAIL_LINES) -> list[str]:
    """Return the last lines of a log; empty when there is none."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 20_000))
        return file.read().decode(errors="replace").splitlines()[-lines:]


def died(layout: Layout, name: str, how: str) -> StackError:
    """Return the error about a program that keeps ending: what is wrong if its log tells, and its last lines."""
    lines = tail(layout.log(name))
    text = "\n".join(lines).lower()
    if "no space left" in text or "disk full" in text:
        advice = f"the disk is full: make room (`df -h {layout.home}`), then run `make up` again"
    elif "address already in use" in text or "failed to bind" in text:
        advice = "its port was taken meanwhile: run `make up` again, it chooses another"
    elif "outofmemory" in text or "cannot allocate memory" in text:
        advice = "there is too little memory (about 3 GB is needed): end other programs, then run `make up` again"
    elif "supported class" in text or "unsupportedclassversion" in text:
        advice = "its Java is too old: run `make install`"
    else:
        advice = f"mend what its log says, then run `make start P={name}`"
    shown = "\n".join(f"    {line}" for line in lines) or "    (its log is empty)"
    return StackError(f"{name} {how}; {advice}.\n  The end of {layout.log(name)}:\n{shown}")
