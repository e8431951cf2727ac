"""The whole stack, every Newswire process included, in the test home; started once for all system tests."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deploy.client import POLL_S, StackClient
from deploy.stack.layout import Layout, read_env
from deploy.stack.supervision import Supervisor
from tests.fault.patience import now_or_later

WAIT_S = 120
"""Longest wait for one condition; what takes longest is that a lease of a killed sink ends, 10 s."""
STREAMS = ("approval", "audience", "newsletters", "alerts")
LOG_LINES = 150
"""Last lines of a process's log that a failure shows."""


@dataclass
class Whole(StackClient):
    """The running stack, and what tests do with it."""

    def stack(self, *words: str) -> None:
        """Run a command of the stack's runner; the test fails with its output when it does not end well."""
        command = [sys.executable, "-m", "deploy.stack", *words, "--home", str(self.home)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
        assert done.returncode == 0, f"deploy.stack {' '.join(words)}: {done.stdout[-3000:]}{done.stderr[-3000:]}"

    def pid(self, name: str) -> int:
        """Return the pid of one of the stack's processes, 0 while it does not run; it tells one life from the next."""
        return Supervisor(Layout.at(self.home)).states()[name].pid

    def set_failpoint(self, text: str) -> None:
        """Arm failpoints in every process of the stack (they read the file again); empty disarms."""
        (self.home / "failpoints").write_text(text)

    def wait_for(self, condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
        """Return the first true value of condition(); fail with `what` when it takes too long."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if value := now_or_later(condition):
                return value
            time.sleep(POLL_S)
        return pytest.fail(f"waited {timeout_s} s in vain for {what}\n{self.standing()}")

    def standing(self) -> str:
        """Return what may explain a wait in vain: the groups' lags, the processes, and what the lagging streams are doing."""
        late = {name: group for name, group in self.groups().items() if group.lag}
        states = Supervisor(Layout.at(self.home)).states()
        lines = [f"{name}: {one.state} since {int(time.time()) - one.started_at} s" for name, one in states.items()]
        lines += [f"{name}: {group.state}, {group.members} members, {group.lag} behind" for name, group in late.items()]
        for name in STREAMS:
            if name in late and states[name].pid:
                os.kill(states[name].pid, signal.SIGUSR2)
                time.sleep(1.0)  # what it writes, nobody announces
                lines += [f"== {name}", *Layout.at(self.home).log(name).read_text().splitlines()[-LOG_LINES:]]
        return "\n".join(lines)

    def quiesce(self) -> None:
        """Wait until the streams have processed all that was produced; one that stalls starts anew meanwhile."""
        self.wait_for(lambda: self.lag(*STREAMS) == 0, "the streams to catch up", 2 * WAIT_S)

    def register(self, count: int, **preferences: Any) -> list[str]:
        """Register subscribers with a mail address each and return their ids, once they are applied everywhere."""
        ids = [str(uuid.uuid4()) for _ in range(count)]
        documents = [
            {
                "subscriber_id": one,
                "time_zone": "Europe/Berlin",
                "language": "en",
                "topics": {"hep-ph": 1.0},
                "newsletters": [],
                "alerts": False,
                "channels": {"email": f"{one}@example.org"},
                **preferences,
            }
            for one in ids
        ]
        file = self.home / f"subscribers-{ids[0]}.jsonl"
        file.write_text("".join(json.dumps(d) + "\n" for d in documents))
        self.command("subscribe", "--file", str(file))
        self.wait_for(
            lambda: self.query("select count(*) from api.subscribers where subscriber_id = any(%s::uuid[])", ids)[0][0] == count,
            "the subscribers",
        )
        self.quiesce()
        return ids

    def define_newsletter(self, **fields: Any) -> str:
        """Define a newsletter of its own for a test; it is due only when ticked by hand."""
        newsletter_id = f"test-{uuid.uuid4().hex[:12]}"
        document = {
            "newsletter_id": newsletter_id,
            "revision": 1,
            "name": "A test",
            "subject": "{title}",
            "days": [(datetime.now(UTC) + timedelta(days=3)).isoweekday()],  # not today, in any time zone
            "local_minute": 540,
            "audience_topics": [],
            "audience_languages": [],
            "audience_tags": [],
            "audience_channels": [],
            "content_types": [],
            "max_age_h": 72,
            "min_quality": 0.8,
            "max_items": 5,
            "half_life_h": 24.0,
            "template": "newsletter",
            "from_name": "Test",
            "from_address": "test@newswire.example",
            "reply_to": None,
            "postal_address": "1 Example Street",
            **fields,
        }
        file = self.home / f"{newsletter_id}.json"
        file.write_text(json.dumps(document))
        self.command("newsletter", "define", str(file))
        return newsletter_id

    def publish(self, count: int = 3) -> list[str]:
        """Publish articles of high quality, return their ids once they are approved."""
        ids = [str(uuid.uuid4()) for _ in range(count)]
        documents = [
            {
                "publication_id": one,
                "revision": 1,
                "content_type": "article",
                "title": f"Result {one}",
                "summary": "A summary.",
                "url": f"https://example.org/{one}",
                "authors": ["A. Author"],
                "topics": [{"topic": "hep-ph", "weight": 1.0}],
                "language": "en",
                "published_at": "2026-11-01T00:00:00Z",
                "attributes": {"quality": "0.95"},
            }
            for one in ids
        ]
        file = self.home / f"publications-{ids[0]}.jsonl"
        file.write_text("".join(json.dumps(d) + "\n" for d in documents))
        self.command("publish", str(file))
        sql = "select count(*) from api.publications where publication_id = any(%s::uuid[]) and state = 'approved'"
        self.wait_for(lambda: self.query(sql, ids)[0][0] == count, "approval")
        self.quiesce()
        return ids

    def slot(self, minutes_ago: int = 1) -> str:
        """Return a recent slot."""
        return (datetime.now(UTC) - timedelta(minutes=minutes_ago)).strftime("%Y-%m-%dT%H:%MZ")

    def settled(self, source: str) -> bool:
        """Whether a source is complete and nothing of it is pending."""
        sql = """select coalesce(bool_and(complete) and sum(pending + not_fanned_out) = 0, false)
                 from api.accounting where source_id = %s"""
        return bool(self.query(sql, source)[0][0])

    def accounting(self, source: str) -> list[dict[str, Any]]:
        """Return the accounting rows of a source."""
        columns = [
            "channel",
            "complete",
            "population",
            "chosen",
            "gated",
            "not_concerned",
            "not_fanned_out",
            "pending",
            "unknown",
            "sent",
            "confirmed",
            "failed",
            "suppressed",
            "balance",
        ]
        rows = self.query(f"select {', '.join(columns)} from api.accounting where source_id = %s", source)
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def accepted_for(self, source: str) -> dict[str, int]:
        """Return how often the sandbox accepted each of a source's deliveries."""
        counts = self.received()
        return {one: counts.get(key, 0) for one, key in self.messages([source]).items()}


@pytest.fixture(scope="session")
def whole() -> Iterator[Whole]:
    """Every process of the stack, in the test home."""
    home = Path(os.environ.get("NEWSWIRE_TEST_HOME", ".newswire/test")).resolve()
    home.mkdir(parents=True, exist_ok=True)
    (home / "failpoints").write_text("")
    stack = Whole(home, Console(quiet=True))
    stack.stack("up", "--profile", "test")
    stack.env = read_env(Layout.at(home).stack_env)
    yield stack
    (home / "failpoints").write_text("")
