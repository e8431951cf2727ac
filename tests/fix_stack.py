"""The stack that tests run on: real Kafka, registry and PostgreSQL, from the environment or started by `make test`."""

import os
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Stack:
    """Addresses of the servers."""

    kafka: str
    registry_url: str
    postgres_url: str


@pytest.fixture(scope="session")
def stack() -> Stack:
    """The servers named by the environment; the test is skipped from `make unit` and fails when they are missing."""
    try:
        return Stack(
            os.environ["KAFKA_BOOTSTRAP_SERVERS"], os.environ["SCHEMA_REGISTRY_URL"], os.environ["NEWSWIRE_OWNER_DATABASE_URL"]
        )
    except KeyError as missing:
        pytest.fail(f"{missing} is not set: run these tests with `make test`, which starts a stack of its own")
