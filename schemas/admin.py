"""Topics on the broker: created from the catalogue, checked when they exist."""

from collections.abc import Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from core.errors import InputError, Unavailable
from schemas import clients
from schemas.topics import ClusterSettings, Topics, TopicSpec

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

TIMEOUT_S: Final = 30.0
"""Longest wait for one answer of the broker; creating 48 topics takes about 2 s on one node."""
CONNECT_TIMEOUT_S: Final = 5.0
"""Longest wait for a broker to answer at all."""
_CHECKED: Final = ("cleanup.policy", "retention.ms", "max.message.bytes")
_COPIES_FOR_MIN_ISR: Final = 3
"""From this replication factor on, two copies must acknowledge a write."""


@dataclass(frozen=True, slots=True)
class TopicsReport:
    """What was created, and how many were there already as they should be."""

    created: tuple[str, ...]
    existing: int


def ensure_topics(settings: ClusterSettings, *, check_only: bool = False) -> TopicsReport:
    """Create the topics that are missing with one call and check the others.

    Raises InputError, one line a problem: a shard topic with another number of partitions, another cleanup policy or
    retention, and with check_only a missing topic. Raises Unavailable when the broker does not answer.
    """
    admin = _admin(settings.kafka_bootstrap_servers)
    present = _listed(admin, settings.kafka_bootstrap_servers)
    specs = Topics.of(settings).specs()
    missing = [spec for spec in specs if spec.name not in present]
    existing = [spec for spec in specs if spec.name in present]
    problems = _partition_problems(existing, present)
    problems += _config_problems(admin, existing)
    if check_only:
        problems += [f"{spec.name} does not exist; run `make schemas`." for spec in missing]
    if problems:
        raise InputError("\n".join(problems))
    _create(admin, missing, settings.replication_factor)
    return TopicsReport(tuple(spec.name for spec in missing), len(existing))


def _admin(bootstrap_servers: str) -> "AdminClient":
    clients.load()
    from confluent_kafka.admin import AdminClient

    return AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 2, "socket.timeout.ms": 10_000})


def _listed(admin: "AdminClient", bootstrap_servers: str) -> dict[str, int]:
    """Return the number of partitions of every topic; Unavailable when no broker answers."""
    from confluent_kafka import KafkaException

    try:
        metadata = admin.list_topics(timeout=CONNECT_TIMEOUT_S)
    except KafkaException:
        raise Unavailable(
            f"no Kafka broker answers at {bootstrap_servers}: start one with `make up`, or set KAFKA_BOOTSTRAP_SERVERS."
        ) from None
    return {name: len(topic.partitions) for name, topic in metadata.topics.items()}


def _partition_problems(specs: list[TopicSpec], present: Mapping[str, int]) -> list[str]:
    wrong: dict[int, list[TopicSpec]] = {}
    problems = []
    for spec in specs:
        partitions = present[spec.name]
        if partitions != spec.partitions and spec.sharded:
            wrong.setdefault(partitions, []).append(spec)
        elif partitions != spec.partitions:
            what = f"{spec.name} has {partitions} partitions instead of {spec.partitions}"
            problems.append(f"{what}: delete it while it is empty, then run `make schemas`.")
    for partitions, affected in wrong.items():
        more = f" and {len(affected) - 1} others" if len(affected) > 1 else ""
        problems.append(
            f"{affected[0].name}{more}: there are {partitions} partitions and {affected[0].partitions} shards: set "
            f"NEWSWIRE_SHARDS={partitions}, or delete such a topic while it is empty; one with data is never repartitioned, "
            "since its keys would move."
        )
    return problems


def _config_problems(admin: "AdminClient", specs: list[TopicSpec]) -> list[str]:
    from confluent_kafka.admin import ConfigResource, ResourceType

    if not specs:
        return []
    asked = admin.describe_configs([ConfigResource(ResourceType.TOPIC, spec.name) for spec in specs], request_timeout=TIMEOUT_S)
    found = {resource.name: _result(future) for resource, future in asked.items()}
    problems = []
    for spec in specs:
        for name in _CHECKED:
            value = found[spec.name][name].value
            if value != spec.config[name]:
                problems.append(
                    f"{spec.name} has {name}={value} instead of {spec.config[name]}: set it with `bin/kafka configs --alter "
                    f"--entity-type topics --entity-name {spec.name} --add-config {name}={spec.config[name]}`."
                )
    return problems


def _create(admin: "AdminClient", specs: list[TopicSpec], replication_factor: int) -> None:
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import NewTopic

    if not specs:
        return
    extra = {"min.insync.replicas": "2"} if replication_factor >= _COPIES_FOR_MIN_ISR else {}
    new = [NewTopic(spec.name, spec.partitions, replication_factor, config={**spec.config, **extra}) for spec in specs]
    for name, future in admin.create_topics(new, operation_timeout=TIMEOUT_S, request_timeout=TIMEOUT_S).items():
        try:
            future.result(TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise InputError(f"{name} cannot be created: {error.args[0].str()}") from None


def _result(future: "Future[Any]") -> Any:
    from confluent_kafka import KafkaException

    wait([future], TIMEOUT_S)
    try:
        return future.result(0)
    except TimeoutError:
        raise Unavailable("the Kafka broker does not answer in time.") from None
    except KafkaException as error:
        if error.args[0].retriable():
            raise Unavailable(f"the Kafka broker refuses for now: {error.args[0].str()}") from None
        raise InputError(f"the Kafka broker refuses: {error.args[0].str()}") from None
