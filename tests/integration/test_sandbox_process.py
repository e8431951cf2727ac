"""The sandbox as a process: its command, its control API, and its memory of what reached it."""

import json
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from tests import fix_sandbox
from tests.fix_sandbox import ROOT, SandboxProcess

sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "deploy.sandbox", *words], cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
    )


def test_says_when_its_port_or_journal_is_taken(sandbox: SandboxProcess, tmp_path: Path) -> None:
    """One sentence, and exit code 3."""
    port = sandbox.url.rsplit(":", 1)[1]
    taken = run("--port", port, "--journal", str(tmp_path))
    assert taken.returncode == 3
    assert f"port {port} on 127.0.0.1 is in use" in taken.stderr
    shared = run("--port", "0", "--journal", str(sandbox.journal))
    assert shared.returncode == 3
    assert "another sandbox" in shared.stderr
    unusable = run("--port", "0", "--journal", "/proc/nowhere")
    assert unusable.returncode == 3
    assert "--journal" in unusable.stderr


def test_health_and_graceful_end(tmp_path: Path) -> None:
    """It answers as soon as it says that it listens, and ends at once with 0."""
    process = SandboxProcess(tmp_path)
    assert process.ask("/health")["status"] == "ok"
    assert process.stop() == 0


def test_control_explains_what_it_does_not_understand(sandbox: SandboxProcess) -> None:
    """400 with a sentence that names the field."""
    for path, document in (
        ("/control/faults", {"provider": "sms", "kind": "error"}),
        ("/control/limits", {"provider": "sms"}),
        ("/control/hooks/a", {"secret": "whsec_short"}),
        ("/control/hooks/a", {"secret": "x"}),
        ("/control/counts?by=source", None),
        ("/control/counts?outcome=lost", None),
        ("/control/counts?provider=sms", None),
        ("/control/requests?limit=x", None),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            sandbox.ask(path, document)
        assert refused.value.code == 400
        assert len(refused.value.read()) > 20


def test_lists_and_clears_faults(sandbox: SandboxProcess) -> None:
    """All, those of a provider, or one."""
    first = sandbox.fault("ses", "throttle")
    sandbox.fault("slack", "error")
    assert [f["provider"] for f in sandbox.ask("/control/faults")["faults"]] == ["ses", "slack"]
    assert sandbox.ask(f"/control/faults/{first['id']}", method="DELETE") == {"cleared": 1}
    assert sandbox.ask("/control/faults?provider=slack", method="DELETE") == {"cleared": 1}
    assert sandbox.ask("/control/faults", method="DELETE") == {"cleared": 0}


def test_requests_are_listed_and_forgotten(sandbox: SandboxProcess) -> None:
    """The journal can be asked by provider and delivery id; a reset leaves faults alone unless it is asked for all."""
    for number in range(3):
        sandbox.ask("/score", {"publication_id": f"p{number}", "revision": 1, "title": "A title"})
    found = sandbox.ask("/control/requests?provider=score&delivery_id=p1@1")
    assert [(r["n"], r["request"], r["accepted"], r["status"]) for r in found["requests"]] == [(2, 2, True, 200)]
    assert sandbox.ask("/control/requests?limit=1")["total"] == 3
    sandbox.fault("ses", "throttle")
    sandbox.ask("/control/reset", {})
    assert sandbox.ask("/control/requests")["total"] == 0
    assert len(sandbox.ask("/control/faults")["faults"]) == 1
    assert sandbox.lines() == []


def test_keeps_as_many_bodies_as_it_is_told(tmp_path: Path) -> None:
    """Older ones are counted only."""
    process = SandboxProcess(tmp_path, "--keep", "2")
    for number in range(4):
        form = urllib.parse.urlencode({"token": "x", "channel": "C1", "text": f"m{number}"}).encode()
        with urllib.request.urlopen(process.url + "/slack/api/chat.postMessage", data=form) as answer:
            assert json.load(answer)["ok"]
    assert process.ask("/inbox/messages")["total"] == 2
    assert process.counts()["slack"] == 4
    assert "the newest 2 of 4 accepted messages" in process.text("/")
    assert "not kept any more" in process.text("/?m=1")
    process.stop()
