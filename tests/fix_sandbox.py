"""The sandbox providers as a process of their own, spoken to over its socket.

A test module takes the fixture with `sandbox = fix_sandbox.sandbox`; every test starts with an empty sandbox.
"""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


class SandboxProcess:
    """A running sandbox; its journal outlives it."""

    def __init__(self, journal: Path, *options: str) -> None:
        self.journal, self._options = journal, options
        self.start()

    def start(self) -> None:
        """Start it on a free port and wait until it listens."""
        command = [
            sys.executable,
            "-m",
            "deploy.sandbox",
            "--port",
            "0",
            "--journal",
            str(self.journal),
            "--seed",
            "1",
            *self._options,
        ]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert "listening on " in line, f"the sandbox did not start: {line!r}"
        self.url = line.split("listening on ")[1].strip()

    def kill(self) -> None:
        """End it as the kernel does."""
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """Ask it to end; returns its exit code."""
        self._process.terminate()
        return self._process.wait(timeout=60)

    def ask(self, path: str, document: Any = None, method: str | None = None) -> Any:
        """Return a JSON answer; a document makes it a POST."""
        data = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=90) as answer:
            return json.load(answer)

    def text(self, path: str) -> str:
        """Return a page."""
        with urllib.request.urlopen(self.url + path, timeout=90) as answer:
            return str(answer.read().decode())

    def fault(self, provider: str, kind: str, **more: Any) -> Any:
        """Switch a fault on."""
        return self.ask("/control/faults", {"provider": provider, "kind": kind, **more})

    def counts(self, by: str = "provider", **more: str) -> Any:
        """Return the counts."""
        return self.ask("/control/counts?" + "&".join([f"by={by}", *(f"{k}={v}" for k, v in more.items())]))

    def lines(self) -> list[dict[str, Any]]:
        """Return the journal's lines."""
        return [json.loads(line) for line in (self.journal / "requests.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def sandbox_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    """One process for the tests of a module."""
    process = SandboxProcess(tmp_path_factory.mktemp("sandbox"))
    yield process
    process.stop()


@pytest.fixture
def sandbox(sandbox_process: SandboxProcess) -> SandboxProcess:
    """The module's process, with nothing in it."""
    sandbox_process.ask("/control/reset?all=1", {})
    return sandbox_process
