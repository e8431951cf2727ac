"""Which addresses a webhook may connect to: never this machine, its networks, or anything else that is not public.

The address is judged when the socket for it is made, after the name was looked up for this connection: a name that gives
a public address first and a private one at the next look-up is caught as well, and so is an address in the URL itself.
Look-ups run in threads of their own, because the name servers of a stranger's domain can be as slow as they like.
"""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult

LOOKUPS: Final = 64
"""Look-ups under way at a time; one that its name server does not answer holds its thread for some 10 s."""
LOOKUP_S: Final = 1.0
"""Longest time for a look-up, the wait for a thread included: consent was looked at before it, and must not grow old."""

DENIED: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        # IPv4: this network, private, shared (CGN), loopback, link-local (cloud metadata), protocol assignments,
        # documentation, 6to4 relay, benchmarking, multicast, reserved and broadcast
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
        # IPv6: unspecified, loopback and IPv4-compatible, IPv4-mapped, IPv4-translated, NAT64 (both), discard, protocol
        # assignments with Teredo, documentation (both), 6to4, SRv6, unique local, link-local, site-local, multicast
        "::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23",
        "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    )
)  # fmt: skip
"""What is never connected to (IANA's special-purpose registries; ipaddress.is_global of 3.11 passes several of them)."""
LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))

DENIED_TEXT: Final = "address denied by newswire"
"""In the text of AddressDenied, which aiohttp may join with others into one."""
Lookup = Callable[..., list[Any]]
"""socket.getaddrinfo, or what a test has in its place."""


class AddressDenied(OSError):
    """The name resolves to an address that must not be connected to."""


def may_connect(address: str, *, loopback: bool) -> bool:
    """Return whether an IP address may be connected to: any public one, or with loopback=True only those of this machine."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if loopback:
        return any(ip in network for network in LOOPBACK)
    return not any(ip in network for network in DENIED)


def guarded_socket(*, loopback: bool) -> Callable[[tuple[Any, ...]], socket.socket]:
    """Return the socket factory of a connector; it raises AddressDenied for an address that may not be connected to."""

    def make(info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, where = info
        if not may_connect(str(where[0]), loopback=loopback):
            raise AddressDenied(DENIED_TEXT)
        return socket.socket(family=family, type=kind, proto=protocol)

    return make


class Resolver(AbstractResolver):
    """Looks a name up anew for every connection."""

    def __init__(self, lookup: Lookup = socket.getaddrinfo) -> None:
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(LOOKUPS, "webhook-lookup")

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """Return a name's addresses; OSError when it has none or they do not come in time, AddressDenied when it cannot be a
        name (an empty label, say)."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(LOOKUP_S):
                found = await loop.run_in_executor(
                    self._threads, lambda: self._lookup(host, port, family=family, type=socket.SOCK_STREAM)
                )
        except TimeoutError as error:
            raise OSError(errno.ETIMEDOUT, "the name server does not answer") from error
        except UnicodeError as error:
            raise AddressDenied(DENIED_TEXT) from error
        return [
            ResolveResult(hostname=host, host=where[0], port=where[1], family=kind, proto=protocol, flags=socket.AI_NUMERICHOST)
            for kind, _, protocol, _, where in found
        ]

    async def close(self) -> None:
        """Let the threads end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)
