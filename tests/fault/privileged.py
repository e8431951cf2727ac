"""Faults of a machine: a clock that is wrong, and, as root on Linux, a full disk, too little memory, a cut network.

Each is a context: it is on inside and taken back at the end, whatever happens. `missing` says what a machine lacks.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tests.fault.patience import wait_until
from tests.fault.stack import Stack

CGROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
MEMORY_BYTES = 2_000_000
"""What a process may take more than it has; the kernel kills it at its next batch."""
DISK_BYTES = 96_000_000
"""Room that Kafka's log has on the small disk beyond what it holds already."""
NAMESPACE, HERE, THERE = "newswire-fault", "10.213.7.1", "10.213.7.2"
NOWHERE = "02:00:00:00:00:01"
"""A hardware address that nobody has: what is sent there is dropped without a word."""


def missing(kind: str) -> str:
    """Return what this machine lacks for a kind of fault; empty when nothing."""
    if kind == "clock":
        return ""
    if os.geteuid() != 0:
        return "root"
    if kind == "disk" and shutil.which("mount") is None:
        return "mount"
    if kind == "network" and shutil.which("ip") is None:
        return "ip (`apt-get install iproute2`)"
    if kind == "memory" and _limit_file() is None:
        return "a memory controller of control groups"
    return ""


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


def clock(stack: Stack, process: str, offset_s: int) -> contextlib.AbstractContextManager[None]:
    """Replace one process of the stack by a worker whose clock is off by so many seconds."""
    return stack.replaced(process, "tests.fault.off_clock", str(offset_s))


@contextlib.contextmanager
def disk(stack: Stack) -> Iterator[Path]:
    """Put Kafka's log on a disk of some 100 MB, and yield the folder to be filled."""
    home, aside = stack.layout.kafka, stack.layout.home / "kafka.aside"
    state = stack.supervisor.states()["kafka"]
    stack.supervisor.stop([state], 10.0)
    home.rename(aside)
    home.mkdir()
    used = int(subprocess.run(["du", "-s", "-B1", str(aside)], check=True, capture_output=True, text=True).stdout.split()[0])
    _run("mount", "-t", "tmpfs", "-o", f"size={used + DISK_BYTES}", "newswire-fault", str(home))
    try:
        _run("cp", "-a", "--sparse=always", f"{aside}/.", str(home))
        stack.start("kafka")
        yield home
    finally:
        stack.supervisor.stop([stack.supervisor.states()["kafka"]], 10.0)
        shutil.rmtree(aside)
        _run("cp", "-a", "--sparse=always", f"{home}/.", str(aside))
        _run("umount", str(home))
        home.rmdir()
        aside.rename(home)
        stack.start("kafka")


def fill(folder: Path) -> Path:
    """Write until the disk is full; return the file to be removed."""
    path = folder / "filler"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1_000_000))
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return path


def _limit_file() -> tuple[Path, str] | None:
    """Return the folder in which a group can be made and the name of its limit."""
    old, new = CGROUPS
    if (old / "memory.limit_in_bytes").exists():
        return old, "memory.limit_in_bytes"
    if "memory" in (new / "cgroup.controllers").read_text().split() if (new / "cgroup.controllers").exists() else False:
        return new, "memory.max"
    return None


@contextlib.contextmanager
def memory(stack: Stack, process: str) -> Iterator[None]:
    """Let the kernel kill a process because it has no memory left."""
    found = _limit_file()
    assert found is not None
    group = found[0] / f"newswire-fault-{os.getpid()}"
    group.mkdir()
    try:
        (group / found[1]).write_text(str(MEMORY_BYTES))
        (group / "cgroup.procs").write_text(str(stack.pid(process)))
        yield
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        wait_until(lambda: not (group / "cgroup.procs").read_text().strip(), "the kernel to end the process")
        group.rmdir()


@contextlib.contextmanager
def network(stack: Stack, process: str) -> Iterator["Link"]:
    """Replace one process of the stack by a worker on a host of its own: a namespace behind a link that can be cut."""
    settings = stack.settings
    urls = (settings.schema_registry_url, settings.inbox_url, settings.ledger_database_url)
    ports = {*(int(one.rpartition(":")[2]) for one in settings.kafka_bootstrap_servers.split(","))}
    ports |= {urlsplit(url).port or 0 for url in urls}
    ports |= {urlsplit(settings.ses_endpoint_url).port or 0}
    link = Link()
    link.up()
    relays = [_relay(["ip", "netns", "exec", NAMESPACE], "127.0.0.1", HERE, ports), _relay([], HERE, "127.0.0.1", ports)]
    try:
        with stack.replaced(process, prefix=("ip", "netns", "exec", NAMESPACE)):
            try:
                yield link
            finally:
                link.mend()
    finally:
        for relay in relays:
            relay.kill()
            relay.wait()
        link.down()


class Link:
    """A pair of virtual interfaces between this host and a namespace."""

    def up(self) -> None:
        """Make the namespace and the link."""
        self.down()
        _run("ip", "netns", "add", NAMESPACE)
        _run("ip", "link", "add", "nwfault0", "type", "veth", "peer", "name", "nwfault1", "netns", NAMESPACE)
        _run("ip", "addr", "add", f"{HERE}/30", "dev", "nwfault0")
        _run("ip", "link", "set", "nwfault0", "up")
        for words in (
            ["addr", "add", f"{THERE}/30", "dev", "nwfault1"],
            ["link", "set", "nwfault1", "up"],
            ["link", "set", "lo", "up"],
        ):
            _run("ip", "-n", NAMESPACE, *words)

    def cut(self) -> None:
        """Drop everything, both ways, without an error to anybody."""
        _run("ip", "neigh", "replace", THERE, "lladdr", NOWHERE, "dev", "nwfault0", "nud", "permanent")
        _run("ip", "-n", NAMESPACE, "neigh", "replace", HERE, "lladdr", NOWHERE, "dev", "nwfault1", "nud", "permanent")

    def mend(self) -> None:
        """Let everything through again."""
        for words in (["neigh", "del", THERE, "dev", "nwfault0"], ["-n", NAMESPACE, "neigh", "del", HERE, "dev", "nwfault1"]):
            subprocess.run(["ip", *words], check=False, capture_output=True)

    def down(self) -> None:
        """Remove what is there."""
        subprocess.run(["ip", "netns", "del", NAMESPACE], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", "nwfault0"], check=False, capture_output=True)


def _relay(prefix: list[str], listen: str, to: str, ports: set[int]) -> subprocess.Popen[bytes]:
    command = [*prefix, sys.executable, "-m", "tests.fault.relay", listen, to, *map(str, sorted(ports))]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2])
