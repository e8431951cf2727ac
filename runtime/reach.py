"""Whether Kafka can be reached at all, asked before a command waits for it.

A client library tries again for half a minute or more, which is right for a process and wrong for a person.
"""

import socket
from contextlib import closing
from typing import Final

from core.errors import Unavailable

PROBE_TIMEOUT_S: Final = 2.0
"""Longest wait for one address; loopback answers within a millisecond, another continent within half a second."""


def require_kafka(bootstrap_servers: str) -> None:
    """Return when one of these addresses takes a connection; Unavailable says which do not and why."""
    reasons = []
    for address in filter(None, (one.strip() for one in bootstrap_servers.split(","))):
        host, _, port = address.rpartition("://")[2].rpartition(":")
        try:
            with closing(socket.create_connection((host.strip("[]"), int(port)), PROBE_TIMEOUT_S)):
                return
        except (OSError, ValueError) as error:
            reasons.append(f"{address} ({getattr(error, 'strerror', None) or error})")
    raise Unavailable(f"Kafka cannot be reached at {', '.join(reasons) or 'no address'}")
