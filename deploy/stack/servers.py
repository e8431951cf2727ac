"""How Kafka and the registry are configured and started: the arguments of their Java machines, and Kafka's first format."""

import base64
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.stack.artifacts import HERE, Artifacts
from deploy.stack.errors import StackError
from deploy.stack.layout import Layout, write_file

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


PROFILES: Mapping[str, Profile] = {
    "demo": Profile(),
    "test": Profile(first_step=10),
    "bench": Profile(kafka_heap_mb=1024, java=(), first_step=20),
}


def kafka_properties(data: Path, port: int, controller_port: int) -> str:
    """Return the configuration of a single node that is broker and controller."""
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
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
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        # After kill -9 a broker is let in again only when its old session is over, 9 s by default.
        "broker.session.timeout.ms": 3_000,
        "broker.heartbeat.interval.ms": 500,
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


def format_kafka(layout: Layout, artifacts: Artifacts, properties: Path) -> bool:
    """Prepare Kafka's data folder once; return whether it was done now. StackError when it cannot be."""
    if (layout.kafka / "meta.properties").is_file():
        return False
    shutil.rmtree(layout.kafka, ignore_errors=True)
    profile = PROFILES["demo"]
    quiet = f"-Dlog4j2.configurationFile={HERE / 'log4j2-tools.properties'}"
    tool = ["-Xmx128m", *_java(artifacts, profile, "kafka"), quiet, "-cp", artifacts.kafka_classpath, "kafka.tools.StorageTool"]
    _java_tool(artifacts, [*tool, "format", "-t", _cluster_id(), "-c", str(properties)])
    return True


def _cluster_id() -> str:
    """Return a random id as Kafka's random-uuid makes them: 16 bytes in base64url, without a leading minus."""
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
    """Write Kafka's configuration and both argument files into the home."""
    properties = layout.run / "kafka.properties"
    write_file(properties, kafka_properties(layout.kafka, ports["kafka"], ports["kafka-controller"]))
    write_file(layout.run / "kafka.args", argument_file(kafka_arguments(artifacts, profile, properties)))
    database = layout.registry / "registry"
    registry = registry_arguments(artifacts, profile, database, ports["registry"], ports["registry-management"])
    write_file(layout.run / "registry.args", argument_file(registry))
