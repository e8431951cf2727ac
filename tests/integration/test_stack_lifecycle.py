"""The local stack's life, on real servers: up, up again, a killed broker, stop and start, a killed supervisor, down, clean."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from deploy.stack import artifacts, orphans, tools, training
from deploy.stack.layout import Layout, read_env
from deploy.stack.supervision import Supervisor

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
OWN_SERVERS = ("KAFKA_BOOTSTRAP_SERVERS", "SCHEMA_REGISTRY_URL", "NEWSWIRE_OWNER_DATABASE_URL", "NEWSWIRE_HOME")


class Home:
    """A stack of this test's own, driven by its command line."""

    def __init__(self, path: Path) -> None:
        self.layout = Layout.at(path)
        self.environ = {name: value for name, value in os.environ.items() if name not in OWN_SERVERS}

    def run(self, *words: str, code: int = 0) -> str:
        """Run a command of the runner, check its exit code and return what it printed."""
        command = [sys.executable, "-m", "deploy.stack", *words, "--home", str(self.layout.home)]
        done = subprocess.run(command, env=self.environ, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def status(self) -> dict[str, dict[str, Any]]:
        """Return each program's row by its name."""
        command = [sys.executable, "-m", "deploy.stack", "status", "--json", "--home", str(self.layout.home)]
        done = subprocess.run(command, env=self.environ, cwd=ROOT, capture_output=True, text=True, check=False, timeout=180)
        return {row["name"]: row for row in json.loads(done.stdout)["processes"]}

    def pids(self) -> dict[str, int]:
        """Return the programs' pids."""
        return {name: row["pid"] for name, row in self.status().items()}

    def address(self, name: str) -> str:
        """Return a variable of the env files."""
        return {**read_env(self.layout.stack_env), **read_env(self.layout.process_env)}[name]

    def topics(self) -> set[str]:
        """Return the broker's topics."""
        return set(AdminClient({"bootstrap.servers": self.address("KAFKA_BOOTSTRAP_SERVERS")}).list_topics(timeout=20).topics)


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 60) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain for {what}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """An infra-only stack that has just come up; removed at the end whatever happens."""
    made = Home(tmp_path_factory.mktemp("stack") / "home")
    try:
        made.run("up", "--only", "infra", "--profile", "test")
        yield made
    finally:
        made.run("clean")


def test_servers_answer_where_the_env_files_say(home: Home) -> None:
    """Kafka takes a topic, PostgreSQL lets its owner in with the password and nobody without one."""
    admin = AdminClient({"bootstrap.servers": home.address("KAFKA_BOOTSTRAP_SERVERS")})
    admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(20)
    owner = home.address("NEWSWIRE_OWNER_DATABASE_URL")
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("CREATE DATABASE kept")
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
    without = owner.replace(owner.split("//")[1].split("@")[0], "postgres")
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(without)


def test_second_up_finds_what_runs(home: Home) -> None:
    """Nothing is started again, and each server is named as running."""
    before = home.pids()
    printed = home.run("up", "--only", "infra")
    assert home.pids() == before
    assert printed.count("already running") == 4


def test_addresses_of_the_stack_itself_are_no_own_servers(home: Home) -> None:
    """`up` in a shell that has read stack.env still runs its own servers."""
    home.environ |= read_env(home.layout.stack_env)
    try:
        assert "own server" not in home.run("up", "--only", "infra")
    finally:
        home.environ = {name: value for name, value in home.environ.items() if name not in OWN_SERVERS}


def test_dump_prints_what_is_on_disk(home: Home) -> None:
    """`bin/kafka dump TOPIC PARTITION` reads the segments of this stack's own broker."""
    producer = Producer({"bootstrap.servers": home.address("KAFKA_BOOTSTRAP_SERVERS")})
    producer.produce("kept", b"as it lies on disk")
    assert producer.flush(60) == 0
    environ = home.environ | {"NEWSWIRE_HOME": str(home.layout.home)}
    command = [ROOT / "bin" / "kafka", "dump", "kept", "0"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert "as it lies on disk" in done.stdout, done.stderr


def test_killed_broker_comes_back_with_its_topics(home: Home) -> None:
    """kill -9 of Kafka: supervisord starts it again, and status counts it."""
    before = home.pids()["kafka"]
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: home.pids()["kafka"] not in (0, before), "another Kafka")
    home.run("up", "--only", "infra")
    wait_for(lambda: "kept" in home.topics(), "the topic")
    assert home.status()["kafka"]["restarts"] == 1


def test_stop_keeps_one_program_stopped_until_start(home: Home) -> None:
    """`stop` and `start` act on one program only, and `status` says by its exit code that one is missing."""
    before = home.pids()
    home.run("stop", "registry")
    assert "Not running: registry" in home.run("status", code=1)
    home.run("start", "registry")
    after = home.pids()
    assert after.pop("registry") not in (0, before.pop("registry"))
    assert after == before
    assert "there is no alert in this stack" in home.run("stop", "alert", code=3)


def test_leftovers_of_a_killed_supervisor_are_replaced(home: Home) -> None:
    """After kill -9 of supervisord its programs still run; the next `up` stops them and has the data again."""
    before = home.pids()
    os.kill(int(home.layout.supervisor_pid.read_text()), signal.SIGKILL)
    wait_for(lambda: not Supervisor(home.layout).alive(), "the supervisor's end")
    assert set(orphans.find(home.layout).values()) >= {"kafka", "registry", "postgres", "sandbox"}
    assert "stopped kafka, postgres, registry, sandbox" in home.run("up", "--only", "infra")
    assert not set(before.values()) & set(home.pids().values())
    assert "kept" in home.topics()


def test_down_leaves_no_process_and_keeps_data(home: Home) -> None:
    """`down` ends everything; the next `up` has the same ports and data."""
    ports = json.loads((home.layout.home / "stack.json").read_text())["ports"]
    pids = home.pids()
    home.run("down")
    assert not [pid for pid in pids.values() if Path(f"/proc/{pid}").exists()]
    assert orphans.find(home.layout) == {}
    assert not home.layout.supervisor_pid.exists()
    home.run("up", "--only", "infra")
    assert json.loads((home.layout.home / "stack.json").read_text())["ports"] == ports
    with psycopg.connect(home.address("NEWSWIRE_OWNER_DATABASE_URL"), dbname="kept"):
        assert "kept" in home.topics()


def test_kafkas_own_tools_reach_the_stack(home: Home) -> None:
    """`bin/kafka` finds the stack by NEWSWIRE_HOME."""
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "NEWSWIRE_HOME": str(home.layout.home)}
    tool = subprocess.run(
        [ROOT / "bin" / "kafka", "topics"], env=environ, capture_output=True, text=True, check=True, timeout=180
    )
    assert "kept" in tool.stdout.split()


def test_clean_removes_everything(home: Home) -> None:
    """Processes, the home, and what is outside of it are gone; a folder that is no stack's is refused."""
    elsewhere = home.layout.postgres_elsewhere
    pids = home.pids()
    home.run("clean")
    assert not home.layout.home.exists()
    assert not elsewhere.exists()
    assert not [pid for pid in pids.values() if Path(f"/proc/{pid}").exists()]
    home.layout.home.mkdir()
    (home.layout.home / "precious").touch()
    assert "is not the folder of a stack" in home.run("clean", code=3)
    (home.layout.home / "precious").unlink()


def test_class_cache_of_kafka_is_made_and_accepted(tmp_path: Path) -> None:
    """The training leaves a cache that the same Java takes (it would refuse to start otherwise), and nothing else."""
    real = artifacts.ensure(os.environ)
    cache = tmp_path / "newswire" / real.folder.name
    cache.mkdir(parents=True)
    for name in ("kafka", "registry"):
        (cache / name).symlink_to(real.folder / name)
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    training.train(environ, ("kafka",))
    found = artifacts.present(environ)
    assert found is not None
    assert {path.name for path in cache.iterdir()} == {"kafka", "registry", found.class_cache("kafka").name}
    words = tools.command(["topics", "--version"], "127.0.0.1:1", None, found)
    done = subprocess.run([words[0], "-XX:AOTMode=on", *words[1:]], capture_output=True, text=True, check=False, timeout=180)
    assert "4.3.1" in done.stdout, done.stderr
