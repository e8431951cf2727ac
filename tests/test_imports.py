"""The folder table of ARCHITECTURE: who may import whom, who may read the environment, who may read the wall clock.

The sources are parsed, not imported, so that imports inside functions count too.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("core", "schemas", "runtime", "streams", "sinks", "projections", "edge", "deploy")

MAY_IMPORT = {
    "core": {"core"},
    "schemas": {"schemas", "core"},
    "runtime": {"runtime", "core", "schemas"},
    "streams": {"streams", "core", "schemas", "runtime"},
    "sinks": {"sinks", "core", "schemas", "runtime"},
    "projections": {"projections", "core", "schemas", "runtime"},
    "edge": {"edge", "core", "schemas", "runtime"},
    "deploy": {"deploy", "core", "schemas", "runtime"},
}
"""Folder to the folders of ours that it may import; `deploy` meets `core` through runtime and schemas anyway."""

EXCEPTIONS = {("schemas/commands.py", "runtime")}
"""Commands are given their settings where they run: the only place where contracts meet the runtime."""

CORE_THIRD_PARTY = {"numpy", "jinja2", "markupsafe", "babel", "mjml"}
"""What core may use beside the standard library; markupsafe is Jinja's own text type, mjml a compiler of text to text."""

CORE_NO_STDLIB = {
    "asyncio", "concurrent", "ctypes", "fcntl", "ftplib", "getpass", "http", "io", "logging", "mmap", "multiprocessing", "os",
    "pathlib", "queue", "random", "sched", "secrets", "select", "selectors", "shelve", "shutil", "signal", "smtplib", "socket",
    "socketserver", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "urllib.request",
}  # fmt: skip
"""Standard modules that do I/O, start threads, read a clock or make up randomness: core is given these as arguments."""

ENVIRONMENT_IN = "runtime/settings.py"
CLOCK_IN = "runtime/clock.py"
FREE = ("deploy",)
"""Folders that run processes on this machine, and so may read its environment and clock."""

ENVIRONMENT = {("os", "environ"), ("os", "getenv"), ("os", "environb"), ("os", "putenv")}
_TIME = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "localtime", "gmtime")
CLOCK = {("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today")} | {
    ("time", name) for name in _TIME
}


class Breach(NamedTuple):
    """One line that breaks a rule."""

    path: str
    line: int
    what: str


def imports_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything that is imported, `from a import b` as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide the folder they come from"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def folder_breaches(path: str, source: str) -> list[Breach]:
    """Return the imports of a file that the folder table forbids."""
    tree = ast.parse(source)
    folder = path.split("/", 1)[0]
    found = []
    for line, name in imports_of(tree):
        top = name.split(".", 1)[0]
        if top in (*FOLDERS, "tests") and top not in MAY_IMPORT[folder] and (path, top) not in EXCEPTIONS:
            found.append(Breach(path, line, f"{folder} imports {name}"))
        elif folder == "core" and top not in FOLDERS and not _allowed_in_core(name):
            found.append(Breach(path, line, f"core imports {name}"))
    return found


def _allowed_in_core(name: str) -> bool:
    top = name.split(".", 1)[0]
    if top in CORE_THIRD_PARTY:
        return True
    return top in sys.stdlib_module_names and not any(name == bad or name.startswith(f"{bad}.") for bad in CORE_NO_STDLIB)


def use_breaches(path: str, source: str, names: set[tuple[str, str]], what: str) -> list[Breach]:
    """Return the places where one of these (module or class, attribute) is used, under whatever name it was imported."""
    tree = ast.parse(source)
    aliases: dict[str, str] = {}
    direct: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname or alias.name: alias.name.rsplit(".", 1)[-1] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                aliases[alias.asname or alias.name] = alias.name
                direct[alias.asname or alias.name] = (str(node.module).rsplit(".", 1)[-1], alias.name)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value
            base = (
                aliases.get(owner.id, owner.id)
                if isinstance(owner, ast.Name)
                else owner.attr
                if isinstance(owner, ast.Attribute)
                else ""
            )
            if (base, node.attr) in names:
                found.append(Breach(path, node.lineno, f"{what}: {base}.{node.attr}"))
        elif isinstance(node, ast.Name) and direct.get(node.id) in names:
            found.append(Breach(path, node.lineno, f"{what}: {node.id}"))
    return found


def sources() -> list[tuple[str, str]]:
    """Return path and text of every module of the packages."""
    paths = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    assert paths
    return [(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


def _told(breaches: list[Breach]) -> str:
    return "\n".join(f"{b.path}:{b.line}: {b.what}" for b in breaches)


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_import_only_what_the_table_allows(folder):
    """Streams, sinks, projections and edge never import each other, and core does no I/O."""
    breaches = [b for path, text in sources() if path.startswith(f"{folder}/") for b in folder_breaches(path, text)]
    assert not breaches, _told(breaches)


def test_the_environment_is_read_in_one_place():
    """Every setting has one name, one default and one reason, in runtime/settings.py."""
    checked = [(path, text) for path, text in sources() if path != ENVIRONMENT_IN and not path.startswith(FREE)]
    breaches = [b for path, text in checked for b in use_breaches(path, text, ENVIRONMENT, "reads the environment")]
    assert not breaches, _told(breaches)


def test_the_wall_clock_is_read_in_one_place():
    """Everything else is given a Clock, so that tests can turn it and replays do not depend on it."""
    checked = [(path, text) for path, text in sources() if path != CLOCK_IN and not path.startswith(FREE)]
    breaches = [b for path, text in checked for b in use_breaches(path, text, CLOCK, "reads the clock")]
    assert not breaches, _told(breaches)


def test_core_opens_nothing():
    """Pure functions take what they need; only importlib.resources reads the package's own templates."""
    found = [
        f"{path}:{node.lineno}"
        for path, text in sources()
        if path.startswith("core/")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("open", "input", "print", "exec", "eval")
    ]
    assert not found, "\n".join(found)


def test_every_folder_is_in_the_table():
    """A new package at the root needs a line in the table."""
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == set(FOLDERS) == set(MAY_IMPORT)
