"""What `newswire health` looks at: servers, consumer groups with their lag, and the local stack's processes."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from core.errors import NewswireError
from runtime.settings import Settings, stack_home

BY_HAND = "assigned by hand"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is up or not."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group; lag is how many records its committed offsets are behind the logs.

    The state of a group whose process assigns its partitions itself is BY_HAND: Kafka knows its offsets only, no members.
    """

    name: str
    state: str
    members: int | None
    lag: int


def check_servers(settings: Settings, timeout_s: float = 5.0) -> list[Check]:
    """Ask Kafka, the registry and each database; Kafka is the first of the list."""
    with ThreadPoolExecutor(3) as pool:
        kafka = pool.submit(_kafka, settings, timeout_s)
        registry = pool.submit(_registry, settings, timeout_s)
        databases = pool.submit(_databases, settings)
        return [kafka.result(), registry.result(), *databases.result()]


def _kafka(settings: Settings, timeout_s: float) -> Check:
    from confluent_kafka import KafkaException

    from runtime.reading import admin_client

    try:
        found = admin_client(settings).list_topics(timeout=timeout_s)
    except KafkaException as error:
        return Check("Kafka", False, f"{settings.kafka_bootstrap_servers}: {error.args[0].str()}")
    ours = [name for name in found.topics if name.startswith(f"{settings.topic_prefix}.")]
    if not ours:
        return Check("Kafka", False, f"{len(found.brokers)} brokers, but no topic {settings.topic_prefix}.*: run `make schemas`")
    return Check("Kafka", True, f"{settings.kafka_bootstrap_servers}: {len(found.brokers)} brokers, {len(ours)} topics")


def _registry(settings: Settings, timeout_s: float) -> Check:
    import httpx

    url = settings.schema_registry_url
    try:
        answer = httpx.get(f"{url.rstrip('/')}/subjects", timeout=timeout_s)
        answer.raise_for_status()
        prefix = f"{settings.topic_prefix}."
        return Check("registry", True, f"{url}: {sum(s.startswith(prefix) for s in answer.json())} subjects")
    except (httpx.HTTPError, ValueError) as error:
        return Check("registry", False, f"{url}: {error or type(error).__name__}")


def _databases(settings: Settings) -> list[Check]:
    from runtime.postgres import connect

    urls = {
        "database (read-only)": settings.database_url,
        "database (ledger)": settings.ledger_database_url,
        "database (streams)": settings.streams_database_url,
        "database (projections)": settings.projections_database_url,
        "database (keys)": settings.keys_database_url,
    }
    checks = []
    for name, url in urls.items():
        if not url:
            continue
        try:
            with connect(url) as connection:
                connection.execute("SELECT 1")
                where = f"{connection.info.host}:{connection.info.port}/{connection.info.dbname}"
                checks.append(Check(name, True, f"{where} as {connection.info.user}"))
        except NewswireError as error:
            checks.append(Check(name, False, str(error)))
    return checks or [Check("database", False, "DATABASE_URL is not set; `make up` writes it")]


def check_groups(settings: Settings, timeout_s: float = 5.0) -> list[Group]:
    """Return the groups whose names begin with the topic prefix; an empty list when Kafka does not say."""
    from confluent_kafka import KafkaException

    from runtime.reading import admin_client, committed_offsets, end_offsets

    admin = admin_client(settings)
    try:
        listed = admin.list_consumer_groups(request_timeout=timeout_s).result(timeout_s).valid
        names = sorted(g.group_id for g in listed if g.group_id.startswith(f"{settings.topic_prefix}."))
        if not names:
            return []
        described = {n: f.result(timeout_s) for n, f in admin.describe_consumer_groups(names, request_timeout=timeout_s).items()}
        committed = {name: committed_offsets(admin, name, timeout_s) for name in names}
        ends = end_offsets(admin, {tp for offsets in committed.values() for tp in offsets}, timeout_s)
    except (KafkaException, TimeoutError, NewswireError):
        return []
    return [Group(name, *_standing(described[name]), _lag(committed[name], ends)) for name in names]


def _standing(described: Any) -> tuple[str, int | None]:
    """Return a group's state and how many members it has, None when it can have none."""
    if described.is_simple_consumer_group and not described.members:
        return BY_HAND, None
    return described.state.name.lower(), len(described.members)


def _lag(committed: dict[tuple[str, int], int], ends: dict[tuple[str, int], int]) -> int:
    return sum(max(0, ends[tp] - offset) for tp, offset in committed.items())


def check_stack(timeout_s: float = 2.0) -> list[Check]:
    """Return the processes of the local stack as its supervisor sees them; an empty list when it does not run here."""
    import xmlrpc.client

    home = stack_home()
    socket = home / "run" / "supervisor.sock" if home else None
    if socket is None or not socket.is_socket():
        return []
    try:
        from supervisor.xmlrpc import SupervisorTransport

        proxy = xmlrpc.client.ServerProxy("http://localhost", transport=SupervisorTransport("", "", f"unix://{socket}"))
        found = proxy.supervisor.getAllProcessInfo()
    except (ImportError, OSError, xmlrpc.client.Error):
        return []
    return [Check(p["name"], p["statename"] == "RUNNING", f"{p['statename'].lower()}, {p['description']}") for p in found]  # type: ignore[index, call-overload, union-attr]
