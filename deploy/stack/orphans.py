"""Processes of a stack whose supervisord is gone (killed, say): they are found by their environment and stopped.

supervisord gives each child NEWSWIRE_HOME and SUPERVISOR_PROCESS_NAME. Nothing else has both, so a shell or a test in
which NEWSWIRE_HOME is set is never taken for one. PostgreSQL overwrites its environment with its title: it is known by
its pid file.
"""

import os
import signal
import time
from collections.abc import Collection
from pathlib import Path

from deploy.stack.layout import Layout

TERM_S = 8.0
"""Longest wait after SIGTERM, then SIGKILL."""


def find(layout: Layout) -> dict[int, str]:
    """Return the leftover processes of this home by pid, with their name; empty while its supervisord runs."""
    supervisor = _supervisor(layout)
    found = {pid: name for pid, name in _marked(layout).items() if pid != os.getpid()}
    postmaster = _postmaster(layout)
    if postmaster is not None:
        found[postmaster] = "postgres"
    if supervisor is not None:
        found = {pid: name for pid, name in found.items() if not _descends(pid, supervisor)}
    return found


def stop(layout: Layout) -> list[str]:
    """Stop the leftover processes of this home and return their names; call it only when supervisord does not answer.

    A supervisord that hangs is killed first, or it would start them again.
    """
    supervisor = _supervisor(layout)
    if supervisor is not None:
        _signal(supervisor, signal.SIGKILL)
        _wait_for_end({supervisor})
    found = find(layout)
    for pid, name in found.items():
        _signal(pid, signal.SIGINT if name == "postgres" else signal.SIGTERM)
    _wait_for_end(found)
    for pid, name in found.items():
        if _runs(pid):
            _signal(pid, signal.SIGQUIT if name == "postgres" else signal.SIGKILL)
    _wait_for_end(found)
    return sorted(set(found.values()))


def _wait_for_end(pids: Collection[int]) -> None:
    deadline = time.monotonic() + TERM_S
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)


def _supervisor(layout: Layout) -> int | None:
    try:
        pid = int(layout.supervisor_pid.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return pid if _runs(pid) and str(layout.supervisor_conf).encode() in _read(pid, "cmdline").split(b"\0") else None


def _marked(layout: Layout) -> dict[int, str]:
    home = b"NEWSWIRE_HOME=" + os.fsencode(layout.home)
    mark = b"SUPERVISOR_PROCESS_NAME="
    found: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        entries = _read(pid, "environ").split(b"\0")
        if home in entries:
            name = next((entry[len(mark) :].decode() for entry in entries if entry.startswith(mark)), None)
            if name is not None and _runs(pid):
                found[pid] = name
    return found


def _postmaster(layout: Layout) -> int | None:
    for root in (layout.postgres, layout.postgres_elsewhere):
        try:
            pid = int((root / "data" / "postmaster.pid").read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            continue
        if os.fsencode((root / "data").resolve()) in _read(pid, "cmdline"):
            return pid
    return None


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name: state, parent and so on; empty when the process is gone."""
    text = _read(pid, "stat").decode(errors="replace")
    return text.rpartition(")")[2].split()


def _runs(pid: int) -> bool:
    fields = _stat(pid)
    return bool(fields) and fields[0] not in ("Z", "X")


def _descends(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        fields = _stat(pid)
        pid = int(fields[1]) if fields else 0
    return False


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def tree(pid: int) -> list[int]:
    """Return a process and its descendants."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(folder.name))
        if fields:
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += children.get(one, [])
    return found


def memory_bytes(pid: int) -> int:
    """Return the memory of a process and its descendants, pages that they share counted once; 0 when it is gone."""
    pids = tree(pid)
    if len(pids) == 1:
        return _kilobytes(pid, "status", "VmRSS:")
    return sum(_kilobytes(one, "smaps_rollup", "Pss:") or _kilobytes(one, "status", "VmRSS:") for one in pids)


def _kilobytes(pid: int, file: str, field: str) -> int:
    for line in _read(pid, file).decode(errors="replace").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0
