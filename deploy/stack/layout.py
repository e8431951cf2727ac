"""Where a stack keeps its things, and what it remembers between two `up`s.

The home holds `stack.json` (profile, ports, own addresses), `secrets.json` and `master.key` (mode 0600), `stack.env` and
`process.env` for clients and processes, `run/` (generated configuration), `logs/`, and the servers' data. Nothing
outside the home belongs to one stack, except PostgreSQL's folder when the home cannot be reached by PostgreSQL's user
(see database.py) and a socket in the temporary folder when the home's path is too long for one.
"""

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.stack.errors import StackError

SOCKET_PATH_BYTES = 90
"""Longest path for a Unix socket; the kernel's limit is 107, and supervisor appends its pid while it makes one."""

CHECKOUT = Path(__file__).resolve().parents[2]
"""Root of the code that this runner belongs to; the working directory of every process."""


@dataclass(frozen=True)
class Layout:
    """Paths of one stack; `home` is absolute and resolved."""

    home: Path

    @classmethod
    def at(cls, home: Path) -> "Layout":
        """Return the layout of a home; StackError when its path cannot be written into configuration files."""
        resolved = home.expanduser().resolve()
        if any(mark in str(resolved) for mark in ("\n", '"', "\\", " ;", " #", ":", "'")):
            raise StackError(
                f"the folder {resolved} has a character in its path that configuration files cannot hold: choose another."
            )
        return cls(resolved)

    @property
    def digest(self) -> str:
        """Short name of this home, unique on the machine."""
        return hashlib.sha256(str(self.home).encode()).hexdigest()[:12]

    @property
    def logs(self) -> Path:
        """Folder of the log files, one a process."""
        return self.home / "logs"

    @property
    def run(self) -> Path:
        """Folder of generated configuration."""
        return self.home / "run"

    @property
    def state(self) -> Path:
        """Folder for the processes' own files."""
        return self.home / "state"

    @property
    def kafka(self) -> Path:
        """Kafka's log directory."""
        return self.kafka_of("kafka")

    def kafka_of(self, broker: str) -> Path:
        """Return the log directory of one of Kafka's nodes."""
        return self.home / broker

    @property
    def registry(self) -> Path:
        """Folder of the registry's database."""
        return self.home / "registry"

    @property
    def postgres(self) -> Path:
        """PostgreSQL's folder, or a link to it."""
        return self.home / "postgres"

    @property
    def postgres_elsewhere(self) -> Path:
        """PostgreSQL's folder when its user cannot reach the home."""
        return Path("/var/tmp") / f"newswire-{self.digest}"  # noqa: S108 - created with mode 0700, its owner is checked

    @property
    def sandbox(self) -> Path:
        """Folder of the sandbox providers' journal."""
        return self.home / "sandbox"

    @property
    def stack_env(self) -> Path:
        """Addresses for clients."""
        return self.home / "stack.env"

    @property
    def process_env(self) -> Path:
        """Settings of the processes, secrets included; mode 0600."""
        return self.home / "process.env"

    @property
    def master_key(self) -> Path:
        """The local master key that wraps the key-encryption keys."""
        return self.home / "master.key"

    @property
    def failpoints(self) -> Path:
        """File with which tests arm failpoints."""
        return self.home / "failpoints"

    @property
    def supervisor_conf(self) -> Path:
        """Generated configuration of supervisord."""
        return self.run / "supervisord.conf"

    @property
    def supervisor_pid(self) -> Path:
        """File with supervisord's pid."""
        return self.run / "supervisord.pid"

    @property
    def supervisor_log(self) -> Path:
        """supervisord's own log: each start and end of a process."""
        return self.logs / "supervisord.log"

    @property
    def supervisor_socket(self) -> Path:
        """Unix socket of supervisord."""
        here = self.run / "supervisor.sock"
        if len(os.fsencode(here)) <= SOCKET_PATH_BYTES:
            return here
        return Path(tempfile.gettempdir()) / f"newswire-{os.getuid()}-{self.digest}" / "supervisor.sock"

    def log(self, name: str) -> Path:
        """Return the log file of a process."""
        return self.logs / f"{name}.log"

    def exists(self) -> bool:
        """Whether a stack was ever made here."""
        return (self.home / "stack.json").is_file()

    def make_folders(self) -> None:
        """Create the folders that every stack has; StackError when that is impossible."""
        try:
            for folder in (self.home, self.logs, self.run, self.state, self.sandbox, self.registry):
                folder.mkdir(parents=True, exist_ok=True)
            socket_folder = self.supervisor_socket.parent
            socket_folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StackError(f"{self.home} cannot be created ({error.strerror}): choose another folder with --home.") from error
        if socket_folder.stat().st_uid != os.getuid():
            raise StackError(f"{socket_folder} belongs to another user: remove it, or choose a home with a shorter path.")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this home alone, so that two commands that change the stack wait for each other."""
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def nested(self) -> "list[Layout]":
        """Return the stacks whose homes are folders of this one, such as that of the tests."""
        return [Layout(path.parent) for path in sorted(self.home.glob("*/stack.json"))]


@dataclass
class Remembered:
    """What a stack keeps between two `up`s; see `stack.json`."""

    profile: str = "demo"
    only: str = "all"
    nodes: int = 1
    """How many nodes Kafka has; it stays so while the home has data."""
    ports: dict[str, int] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    """By environment variable, the address of each server that this stack runs itself."""
    contracts: str = ""
    """Digest of the schema files that were registered last, and where; empty before the first time."""
    subjects: int = 0
    """How many subjects the registry had then."""

    @classmethod
    def load(cls, layout: Layout) -> "Remembered":
        """Return what was remembered, or the defaults; StackError when the file is damaged."""
        path = layout.home / "stack.json"
        if not path.is_file():
            return cls()
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise StackError(f"{path} is damaged: run `make clean` to begin anew (that removes the stack's data).") from None

    def save(self, layout: Layout) -> None:
        """Write it down for the next `up`."""
        write_file(layout.home / "stack.json", json.dumps(self.__dict__, indent=2) + "\n")


def write_file(path: Path, text: str, mode: int = 0o644) -> bool:
    """Replace a file at once, never readable beyond `mode`; return whether its text changed."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        path.chmod(mode)
        return False
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StackError(
            f"{path} cannot be written ({error.strerror}): make room or correct the folder's rights, then run it again."
        ) from error
    return True


def read_env(path: Path) -> dict[str, str]:
    """Return the variables of a file of NAME=value lines; empty when there is none."""
    if not path.is_file():
        return {}
    pairs: list[Any] = [line.partition("=") for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {name: value for name, sign, value in pairs if sign}
