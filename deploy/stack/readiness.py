"""How one sees that a program is ready: each is asked what a client of it would ask."""

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from deploy.stack.environment import KAFKA, OWNER, REGISTRY
from deploy.stack.ports import BROKERS

TIMEOUT_S = 2
"""Longest wait for one answer; it is asked again until the program's own time is over."""

Probe = Callable[[], bool]


def infra_probes(servers: Mapping[str, str], inbox_url: str, nodes: int = 1) -> dict[str, Probe]:
    """Return by program the question whether a server answers; Kafka answers when all nodes of this stack are in it."""
    kafka = lambda: kafka_answers(servers[KAFKA], nodes)  # noqa: E731 - one question for all of its programs
    return {
        **dict.fromkeys(BROKERS[1:], kafka),
        "postgres": lambda: postgres_answers(servers[OWNER]),
        "kafka": kafka,
        "registry": lambda: http_answers(f"{servers[REGISTRY].rstrip('/')}/subjects", list),
        "sandbox": lambda: http_answers(f"{inbox_url.rstrip('/')}/health", object),
    }


def kafka_answers(bootstrap_servers: str, nodes: int = 1) -> bool:
    """Whether a broker tells its cluster's metadata, with at least so many brokers in it."""
    if not any(_connects(address) for address in bootstrap_servers.split(",")):
        return False
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
        return len(admin.list_topics(timeout=TIMEOUT_S).brokers) >= nodes
    except KafkaException:
        return False


def postgres_answers(url: str) -> bool:
    """Whether PostgreSQL lets its owner in and runs a statement."""
    where = urlsplit(url)
    return _connects(f"{where.hostname}:{where.port or 5432}") and database_says(url, "SELECT true")


def database_says(url: str, statement: str) -> bool:
    """Whether a statement gives true; False when the server refuses or what it asks about is not there yet."""
    import psycopg

    try:
        with psycopg.connect(url, connect_timeout=TIMEOUT_S, autocommit=True) as connection:
            row = connection.execute(statement.encode()).fetchone()
    except (psycopg.OperationalError, psycopg.ProgrammingError):
        return False
    return row is not None and row[0] is True


def http_answers(url: str, kind: type) -> bool:
    """Whether a server answers 200, with JSON of this kind when it is not `object`."""
    where = urlsplit(url)
    if not _connects(f"{where.hostname}:{where.port or 80}"):
        return False
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=TIMEOUT_S) as answer:
            body = answer.read()
        return kind is object or isinstance(json.loads(body), kind)
    except (OSError, ValueError, urllib.error.HTTPError):
        return False


def subjects_in(url: str) -> int:
    """Return how many subjects a registry has; OSError when it does not answer."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        f"{url.rstrip('/')}/subjects", timeout=TIMEOUT_S
    ) as answer:
        return len(json.load(answer))


def _connects(address: str) -> bool:
    host, _, port = address.strip().rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT_S):
            return True
    except (OSError, ValueError):
        return False


class Groups:
    """The consumer groups of one cluster: which of them have a member that has its partitions."""

    def __init__(self, bootstrap_servers: str) -> None:
        from confluent_kafka.admin import AdminClient

        self._admin: Any = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})

    def stable(self) -> set[str]:
        """Return the groups that are stable with at least one member; empty when the broker does not answer in time."""
        from confluent_kafka import ConsumerGroupState, KafkaException

        try:
            listed = self._admin.list_consumer_groups(request_timeout=TIMEOUT_S, states={ConsumerGroupState.STABLE}).result(
                TIMEOUT_S + 1
            )
        except (KafkaException, TimeoutError):
            return set()
        return {group.group_id for group in listed.valid}
