"""Which ports a stack listens on: the defaults, or free ones when those are taken; remembered in the home.

Two stacks that start at the same moment must not choose the same port: what was chosen is reserved for two minutes, long
enough for the servers to bind it, in a file that all stacks of this user share.
"""

import fcntl
import json
import socket
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.stack.errors import StackError

DEFAULTS: Mapping[str, int] = {
    "kafka": 9092,
    "kafka-controller": 9093,
    "registry": 8081,
    "registry-management": 8082,
    "postgres": 5432,
    "sandbox": 8025,
    "edge": 8090,
}
"""Usual port of each server; each tries its own plus 100, 200 and so on when it is taken."""

MORE_NODES: Mapping[str, int] = {
    "kafka-2": 9094,
    "kafka-controller-2": 9095,
    "kafka-3": 9096,
    "kafka-controller-3": 9097,
}
"""The same of the second and third node of Kafka, in a stack that has three."""

BROKERS = ("kafka", "kafka-2", "kafka-3")
"""Programs that are Kafka; a stack has the first of them, or all."""

STEP = 100
HIGHEST = 32_000
"""Ports above it are handed to outgoing connections by the kernel, so a server might not get its port back."""
RESERVED_S = 120


@dataclass(frozen=True)
class Choice:
    """The ports by server, and sentences about those that are not what was expected."""

    ports: dict[str, int]
    notes: list[str]


def brokers(ports: Collection[str]) -> list[str]:
    """Return the nodes of Kafka that a stack with these ports has."""
    return [name for name in BROKERS if name in ports]


def controller_of(broker: str) -> str:
    """Return the name of the port of a node's controller."""
    return broker.replace("kafka", "kafka-controller", 1)


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def choose(
    remembered: Mapping[str, int],
    fixed: Mapping[str, int],
    keep: Collection[str],
    *,
    reservations: Path,
    owner: str,
    first_step: int = 0,
    nodes: int = 1,
) -> Choice:
    """Return a port for each server of DEFAULTS, and with three nodes for each of MORE_NODES.

    `fixed` are demanded ports: StackError when one is taken. `keep` names servers that run now, whose ports are theirs.
    Else a remembered port is used while it is free, else the first free one, beginning `first_step` steps above the default.
    """
    ports: dict[str, int] = {}
    notes: list[str] = []
    reservations.parent.mkdir(parents=True, exist_ok=True)
    with reservations.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        others = _others(file.read(), owner)
        wanted = {**DEFAULTS, **(MORE_NODES if nodes > 1 else {})}
        for name, default in wanted.items():
            if name in keep and name in remembered:
                if name in fixed and fixed[name] != remembered[name]:
                    raise StackError(
                        f"{name} runs on port {remembered[name]}: run `make down` before giving it port {fixed[name]}."
                    )
                ports[name] = remembered[name]
                continue
            taken = {*ports.values(), *others, *(port for other, port in fixed.items() if other != name)}
            ports[name] = _one(name, default, remembered.get(name), fixed.get(name), taken, first_step, notes)
        now = time.time()
        file.seek(0)
        file.truncate()
        json.dump({**others, **{port: [owner, now] for port in ports.values()}}, file)
    return Choice(ports, notes)


def _one(
    name: str, default: int, before: int | None, wanted: int | None, taken: set[int], first_step: int, notes: list[str]
) -> int:
    if wanted is not None:
        if not is_free(wanted):
            raise StackError(
                f"port {wanted} that you gave {name} is in use: "
                f"stop what listens there (`ss -ltnp 'sport = :{wanted}'` shows it), or give another."
            )
        return wanted
    if before is not None and is_free(before) and before not in taken:
        return before
    start = default + first_step * STEP
    for port in range(start, HIGHEST, STEP):
        if port not in taken and is_free(port):
            if before is not None:
                notes.append(f"port {before} of {name} is taken now, it gets {port}")
            elif port != start:
                notes.append(f"port {start} is taken, {name} gets {port}")
            return port
    raise StackError(
        f"no port is free for {name} (tried {start}, {start + STEP} and so on): give it one with --port {name}=NUMBER."
    )


def _others(text: str, owner: str) -> dict[int, list[object]]:
    """Return the reservations of other stacks that still hold."""
    try:
        known = json.loads(text or "{}")
        return {int(port): [who, at] for port, (who, at) in known.items() if who != owner and 0 <= time.time() - at < RESERVED_S}
    except (ValueError, TypeError):
        return {}
