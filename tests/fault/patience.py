"""Patience: what is tried again while a server is away, and waiting for a condition."""

import time
from collections.abc import Callable
from typing import Any

import psycopg
from confluent_kafka import KafkaException

from core.errors import Unavailable

Places = dict[tuple[str, int], int]
PASSING = (Unavailable, KafkaException, psycopg.OperationalError, psycopg.InterfaceError, OSError, TimeoutError)
"""What reading raises while a server is away."""


def insist(action: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """Return what the action returns, tried again while a server is away; at last its error passes."""
    until = time.monotonic() + timeout_s
    while True:
        try:
            return action()
        except PASSING:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def now_or_later(condition: Callable[[], Any]) -> Any:
    """Return what a condition that is asked again and again says, None while a server is away."""
    try:
        return condition()
    except PASSING:
        return None


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Wait for a condition; TimeoutError says what did not come."""
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"waited {timeout_s:.0f} s in vain for {what}")
        time.sleep(0.1)
