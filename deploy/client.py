"""A running stack as a program uses it: the command line, the read models, the sandbox's control API, and waiting."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from core.ids import discord_nonce
from deploy.stack.layout import Layout, read_env
from runtime.health import Group, check_groups
from runtime.settings import Settings

STEP_TIMEOUT_S = 180
"""Longest wait for one step of the demo; a healthy step takes seconds, so reaching this is a failure to report."""
POLL_S = 0.2
"""Between two looks at what a step waits for: short beside the seconds of a step, long beside the milliseconds of a look."""
SILENT_KAFKA_S = 20.0
"""Longest wait for Kafka to name the consumer groups; a group that starts is not listed for a moment."""

PROVIDERS = {"email": "ses", "slack": "slack", "discord": "discord", "webhook": "webhook"}
"""By channel, the sandbox's provider."""

MessageKey = tuple[str, str]
"""(provider, id) under which the sandbox counts a message: the delivery id, on Discord the nonce made of it."""


class StepFailed(Exception):
    """A step did not end as it must; the message is for the person who runs it."""


@dataclass
class StackClient:
    """The stack in `home`, once it is up."""

    home: Path
    console: Console
    env: dict[str, str] = field(default_factory=dict)
    """The stack's addresses for clients, from its stack.env."""
    patience_s: float = STEP_TIMEOUT_S
    """Longest wait for one step."""

    def up(self, *options: str) -> None:
        """Bring the stack up, with the runner's own output, and read where it is; StepFailed when it does not start."""
        command = [sys.executable, "-m", "deploy.stack", "up", "--home", str(self.home), *options]
        if subprocess.run(command, check=False).returncode != 0:  # noqa: S603 - our own program, no shell
            raise StepFailed("the local stack did not start; the lines above say why")
        self.env = read_env(Layout.at(self.home).stack_env)

    @cached_property
    def settings(self) -> Settings:
        """The stack's settings, from the files that `up` wrote."""
        return Settings.load({"NEWSWIRE_HOME": str(self.home.resolve())})

    def command(self, *words: str) -> list[dict[str, Any]]:
        """Run the newswire command line, return the JSON objects it printed; StepFailed shows what went wrong."""
        program = Path(sys.executable).with_name("newswire")
        # This stack's files say where it is; a shell that has read another stack's must not lead the command there.
        settings = {item.metadata["env"] for item in fields(Settings)}
        environ = {name: value for name, value in os.environ.items() if name not in settings}
        environ["NEWSWIRE_HOME"] = str(self.home.resolve())
        command = [str(program), "--json", *words]
        with self.console.status(f"newswire {words[0]} ..."):
            done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
        if done.returncode != 0:
            raise StepFailed(f"newswire {' '.join(words)} ended with {done.returncode}: {(done.stderr or done.stdout).strip()}")
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query of the read-only role."""
        with psycopg.connect(self.env["DATABASE_URL"]) as connection:
            return connection.execute(sql.encode(), parameters).fetchall()

    def sandbox(self, path: str) -> Any:
        """Return a JSON answer of the sandbox's control API."""
        url = self.env["NEWSWIRE_INBOX_URL"].rstrip("/") + path
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - our own server on loopback
            return json.load(answer)

    def messages(self, sources: list[str] | None = None) -> dict[str, MessageKey]:
        """Return by delivery id, of these sources or of all, under which key the sandbox counts it."""
        sql = "select channel, delivery_id from api.deliveries where %s::text[] is null or source_id = any(%s)"
        rows = self.query(sql, sources, sources)
        return {one: (PROVIDERS[channel], discord_nonce(one) if channel == "discord" else one) for channel, one in rows}

    def received(self) -> dict[MessageKey, int]:
        """Return by key how often the sandbox accepted a message."""
        paths = {provider: f"/control/counts?by=delivery_id&provider={provider}" for provider in PROVIDERS.values()}
        return {(provider, one): count for provider, path in paths.items() for one, count in self.sandbox(path).items()}

    def groups(self, *names: str) -> dict[str, Group]:
        """Return these consumer groups (all when none is named) by their name without the prefix.

        StepFailed when Kafka does not name one of them for SILENT_KAFKA_S: unknown is not zero.
        """
        deadline = time.monotonic() + SILENT_KAFKA_S
        while True:
            prefix = f"{self.settings.topic_prefix}."
            found = {group.name.removeprefix(prefix): group for group in check_groups(self.settings)}
            missing = set(names) - set(found)
            if found and not missing:
                return {name: found[name] for name in names or found}
            if time.monotonic() > deadline:
                raise StepFailed(f"Kafka knows no consumer group {', '.join(sorted(missing))}".rstrip())
            time.sleep(POLL_S)

    def lag(self, *names: str) -> int:
        """Return how many records these consumer groups (all when none is named) have not processed yet."""
        return sum(group.lag for group in self.groups(*names).values())

    def wait(self, title: str, total: int, done: Callable[[], int]) -> None:
        """Show progress until done() reaches total: a bar in a terminal, else a line; StepFailed when it takes too long."""
        began = time.monotonic()
        if not self.console.is_terminal:
            self._until(title, total, done, lambda _: None)
            took_s = time.monotonic() - began
            took = f"{took_s:>6.1f} s" if took_s >= POLL_S else "  by now"
            self.console.print(f"  {title:<31} {total:>6} {took}", highlight=False)
            return
        columns = (TextColumn("  {task.description:<31}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(title, total=total)
            self._until(title, total, done, lambda count: progress.update(task, completed=count))

    def _until(self, title: str, total: int, done: Callable[[], int], show: Callable[[int], None]) -> None:
        deadline = time.monotonic() + self.patience_s
        while (count := done()) < total:
            show(count)
            if time.monotonic() > deadline:
                raise StepFailed(
                    f"{title}: {count} of {total} after {self.patience_s:.0f} s; "
                    f"`{self.runner('status')}` and `{self.runner('logs')}` show why."
                )
            time.sleep(POLL_S)
        show(total)

    @property
    def is_default(self) -> bool:
        """Whether commands in this folder find the stack without being told where it is."""
        return self.home.resolve() == Path(".newswire").resolve()

    def prefixed(self, command: str) -> str:
        """Return a command for a person to type, which finds this stack."""
        return command if self.is_default else f"NEWSWIRE_HOME={self.home} {command}"

    def runner(self, word: str) -> str:
        """Return a command of the stack's runner for a person to type."""
        return f"make {word}" if self.is_default else f".venv/bin/python -m deploy.stack {word} --home {self.home}"
