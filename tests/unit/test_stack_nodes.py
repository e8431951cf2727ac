"""A stack with three nodes of Kafka: what is configured for them, without starting anything."""

from pathlib import Path

import pytest

from deploy.stack import artifacts, environment, ports, programs, readiness, servers
from deploy.stack.errors import StackError
from deploy.stack.layout import Layout, Remembered
from deploy.stack.lifecycle import Request, Up
from deploy.stack.report import Report

THREE = {**ports.DEFAULTS, **ports.MORE_NODES}


def properties(path: Path) -> dict[str, str]:
    """Return a configuration file's values."""
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


def test_three_nodes_keep_every_record_three_times_and_acknowledge_it_twice(tmp_path: Path) -> None:
    """Each node has its own ports and data, all vote, and two copies must be there before a record counts."""
    layout = Layout.at(tmp_path)
    layout.make_folders()
    found = artifacts.Artifacts(tmp_path, tmp_path / "bin" / "java")
    servers.write_argument_files(layout, found, servers.PROFILES["fault"], THREE)
    nodes = [properties(layout.run / f"{name}.properties") for name in ports.BROKERS]
    assert [node["node.id"] for node in nodes] == ["1", "2", "3"]
    assert len({node["log.dirs"] for node in nodes}) == len({node["listeners"] for node in nodes}) == 3
    assert {node["controller.quorum.voters"] for node in nodes} == {"1@127.0.0.1:9093,2@127.0.0.1:9095,3@127.0.0.1:9097"}
    for node in nodes:
        assert (node["offsets.topic.replication.factor"], node["min.insync.replicas"]) == ("3", "2")


def test_clients_and_topics_of_a_stack_with_three_nodes_use_all_of_them(tmp_path: Path) -> None:
    """All brokers are named to clients, and topics are made with three replicas."""
    layout = Layout.at(tmp_path)
    layout.make_folders()
    secret = environment.Secrets.of(layout)
    addresses = environment.addresses(THREE, {}, secret.superuser_password)
    assert addresses[environment.KAFKA] == "127.0.0.1:9092,127.0.0.1:9094,127.0.0.1:9096"
    values = environment.process_env(layout, addresses, THREE, secret, "newswire", {})
    assert values["NEWSWIRE_REPLICATION_FACTOR"] == "3"
    found = artifacts.Artifacts(tmp_path, tmp_path / "bin" / "java")
    names = [program.name for program in programs.infra(layout, THREE, found, None, [])]
    assert names == ["kafka", "kafka-2", "kafka-3", "registry", "sandbox"]
    assert set(names) <= set(readiness.infra_probes(addresses, "http://127.0.0.1:1/", 3))


def test_one_node_stays_the_default(tmp_path: Path) -> None:
    """Without being asked a stack has one node, and reserves no ports for more."""
    choice = ports.choose({}, {}, (), reservations=tmp_path / "ports.json", owner="me")
    assert ports.brokers(choice.ports) == ["kafka"]
    assert set(ports.choose({}, {}, (), reservations=tmp_path / "ports.json", owner="me", nodes=3).ports) == set(THREE)


def test_number_of_nodes_does_not_change_while_there_is_data(tmp_path: Path) -> None:
    """Data of one node is not turned into a cluster of three: the error says what to do."""
    layout = Layout.at(tmp_path / "home")
    layout.make_folders()
    Remembered(nodes=1).save(layout)
    layout.kafka.mkdir(exist_ok=True)
    (layout.kafka / "meta.properties").write_text("cluster.id=x\n")
    from rich.console import Console

    with pytest.raises(StackError, match="make clean"), Report(Console(quiet=True)) as report:
        Up(layout, Request({}, nodes=3), report).run()


def test_profile_for_faults_waits_for_nobody_long() -> None:
    """A lease is longer than a call and short enough for a run of seconds; members are static."""
    settings = servers.PROFILES["fault"].settings
    assert float(settings["NEWSWIRE_PROVIDER_TIMEOUT_S"]) + 0.5 < float(settings["NEWSWIRE_LEASE_S"]) <= 5
    assert settings["NEWSWIRE_INSTANCE_ID"]
    assert set(settings) <= set(environment.TUNABLE)
