"""How Kafka and the registry are configured and started: the arguments of their Java machines, and Kafka's first format."""

import base64
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.stack.artifacts import HERE, Artifacts
from deploy.stack.errors import StackError
from deploy.stack.layout import Layout, write_file
from deploy.stack.ports import brokers, controller_of

COMMON = (
    "-XX:+UseSerialGC",
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
)
"""Small heaps need no parallel collector; warnings of the class cache are of no use to anybody here."""
QUICK = ("-XX:TieredStopAtLevel=1",)
"""Only the quick compiler: the servers start sooner and use less memory; left out in the profile `bench`."""


@dataclass(frozen=True)
class Profile:
    """What differs between a demo, tests and benchmarks."""

    kafka_heap_mb: int = 384
    java: tuple[str, ...] = QUICK
    first_step: int = 0
    """Steps above the default ports, so that a stack of tests leaves those free."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings of the processes that differ from their defaults."""
    failpoints: bool = False
    """Whether the processes read the home's file of failpoints."""


IMPATIENT = {
    "NEWSWIRE_INSTANCE_ID": "only",  # a process that is killed and comes back keeps its partitions, nobody waits for a session
    "NEWSWIRE_LEASE_S": "4",
    "NEWSWIRE_NEWSLETTER_CHUNKS": "1",
    "NEWSWIRE_PROVIDER_TIMEOUT_S": "1.5",
    "NEWSWIRE_READERSHIP_INTERVAL_S": "2",
    "NEWSWIRE_SESSION_TIMEOUT_S": "6",
    "NEWSWIRE_SHARDS": "4",
    "NEWSWIRE_SNAPSHOT_INTERVAL_S": "2",
    "NEWSWIRE_SWEEP_INTERVAL_S": "0.3",
}
"""What a process waits for when another has died is made short, so that a run with faults takes seconds."""

OF_TESTS = {
    "NEWSWIRE_LEASE_S": "10",
    "NEWSWIRE_NEWSLETTER_CHUNKS": "1",
    "NEWSWIRE_PROVIDER_TIMEOUT_S": "5",
    "NEWSWIRE_SESSION_TIMEOUT_S": "6",
}
"""What a test that kills a process waits for; members are dynamic, so that a group that was stopped can be reset at once."""

PROFILES: Mapping[str, Profile] = {
    "demo": Profile(),
    "test": Profile(kafka_heap_mb=1024, first_step=10, settings=OF_TESTS, failpoints=True),
    "fault": Profile(first_step=30, settings=IMPATIENT, failpoints=True),
    "bench": Profile(kafka_heap_mb=1024, java=(), first_step=20),
}


def kafka_properties(data: Path, port: int, controller_port: int, node: int = 1, voters: Sequence[int] = ()) -> str:
    """Return the configuration of a node that is broker and controller; `voters` are the controllers' ports of all nodes.

    With three nodes every record is on all of them and acknowledged by two, so that one may be lost.
    """
    voters = voters or (controller_port,)
    copies, acknowledged = (3, 2) if len(voters) > 1 else (1, 1)
    settings = {
        "process.roles": "broker,controller",
        "node.id": node,
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": ",".join(f"{number}@127.0.0.1:{one}" for number, one in enumerate(voters, 1)),
        "log.dirs": data,
        # Topics are made from the catalogue only.
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": 0,
        # Groups are not forgotten while a stack is down for some weeks.
        "offsets.retention.minutes": 525_600,
        "message.max.bytes": 2_097_152,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.num.partitions": 1,
        "min.insync.replicas": acknowledged,
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": acknowledged,
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": acknowledged,
        # After kill -9 a broker is let in again only when its old session is over, 9 s by default.
        "broker.session.timeout.ms": 3_000,
        "broker.heartbeat.interval.ms": 500,
        # The controller writes to its log twice a second by default, only to show that it lives.
        "metadata.max.idle.interval.ms": 10_000,
        # 128 MB by default, a third of the heap, for compacting topics of some megabytes.
        "log.cleaner.dedupe.buffer.size": 16_777_216,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def kafka_arguments(artifacts: Artifacts, profile: Profile, properties: Path) -> list[str]:
    """Return the arguments of the Java machine that is Kafka."""
    memory = [f"-Xms{min(256, profile.kafka_heap_mb)}m", f"-Xmx{profile.kafka_heap_mb}m"]
    logging = f"-Dlog4j2.configurationFile={HERE / 'log4j2-server.properties'}"
    return [
        *memory,
        *_java(artifacts, profile, "kafka"),
        logging,
        "-cp",
        artifacts.kafka_classpath,
        "kafka.Kafka",
        str(properties),
    ]


def registry_arguments(artifacts: Artifacts, profile: Profile, database: Path, port: int, management_port: int) -> list[str]:
    """Return the arguments of the Java machine that is the registry.

    Schemas are kept in a database file of its own, written through at each commit: their ids are in every record of
    Kafka's log, so losing them would make the log unreadable.
    """
    return [
        "-Xms128m",
        "-Xmx384m",
        *_java(artifacts, profile, "registry"),
        "--add-opens=java.base/java.lang=ALL-UNNAMED",
        "-Djava.util.logging.manager=org.jboss.logmanager.LogManager",
        "-Dquarkus.http.host=127.0.0.1",
        f"-Dquarkus.http.port={port}",
        "-Dquarkus.management.host=127.0.0.1",
        f"-Dquarkus.management.port={management_port}",
        "-Dquarkus.http.access-log.enabled=false",
        f"-Dapicurio.datasource.url=jdbc:h2:file:{database};WRITE_DELAY=0",
        "-cp",
        artifacts.registry_classpath,
        "io.quarkus.runner.GeneratedMain",
    ]


def _java(artifacts: Artifacts, profile: Profile, server: str) -> list[str]:
    cache = artifacts.class_cache(server)
    return [*COMMON, *profile.java, *([f"-XX:AOTCache={cache}"] if cache.is_file() else [])]


def argument_file(arguments: list[str]) -> str:
    """Return the text of a Java argument file, one quoted argument a line; a class path of 300 jars stays out of `ps`."""
    return "".join('"' + argument.replace("\\", "\\\\").replace('"', '\\"') + '"\n' for argument in arguments)


def format_kafka(layout: Layout, artifacts: Artifacts, properties: Path, broker: str = "kafka") -> bool:
    """Prepare a node's data folder once; return whether it was done now. StackError when it cannot be."""
    data = layout.kafka_of(broker)
    if (data / "meta.properties").is_file():
        return False
    if any(data.glob("*")):
        shutil.rmtree(data, ignore_errors=True)
    profile = PROFILES["demo"]
    quiet = f"-Dlog4j2.configurationFile={HERE / 'log4j2-tools.properties'}"
    tool = ["-Xmx128m", *_java(artifacts, profile, "kafka"), quiet, "-cp", artifacts.kafka_classpath, "kafka.tools.StorageTool"]
    _java_tool(artifacts, [*tool, "format", "-t", _cluster_id(layout), "-c", str(properties)])
    return True


def _cluster_id(layout: Layout) -> str:
    """Return the cluster's id: that of the first node, else a random one as Kafka's random-uuid makes them.

    Those are 16 bytes in base64url, without a leading minus.
    """
    first = layout.kafka / "meta.properties"
    if first.is_file():
        return next(line.partition("=")[2] for line in first.read_text().splitlines() if line.startswith("cluster.id="))
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def _java_tool(artifacts: Artifacts, arguments: list[str]) -> None:
    done = subprocess.run([str(artifacts.java), *arguments], capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise StackError(
            f"Kafka's storage could not be prepared ({lines[-1] if lines else 'no message'}): run `make clean`, then `make up`."
        )


def write_argument_files(layout: Layout, artifacts: Artifacts, profile: Profile, ports: Mapping[str, int]) -> None:
    """Write the configuration and the argument files of Kafka's nodes and the registry into the home."""
    nodes = brokers(ports)
    voters = [ports[controller_of(name)] for name in nodes]
    for number, name in enumerate(nodes, 1):
        properties = layout.run / f"{name}.properties"
        data = layout.kafka_of(name)
        write_file(properties, kafka_properties(data, ports[name], voters[number - 1], number, voters))
        write_file(layout.run / f"{name}.args", argument_file(kafka_arguments(artifacts, profile, properties)))
    database = layout.registry / "registry"
    registry = registry_arguments(artifacts, profile, database, ports["registry"], ports["registry-management"])
    write_file(layout.run / "registry.args", argument_file(registry))
