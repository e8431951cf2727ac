"""Imports confluent_kafka so that several threads may need it first.

Two modules of it import each other: when two threads import parts of the package for the first time at once, one of them
sees a half-imported module and fails. `make up` asks the registry and the broker in parallel, so both go through here.
"""

import threading

_IMPORTING = threading.Lock()


def load() -> None:
    """Import the package itself, once; what is imported from it afterwards is safe in any thread."""
    with _IMPORTING:
        import confluent_kafka  # noqa: F401
