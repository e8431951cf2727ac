"""The local stack's configuration: what is generated, chosen and remembered, without starting anything."""

import configparser
import hashlib
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.stack import artifacts, database, environment, ports, programs, servers, supervision
from deploy.stack.errors import StackError
from deploy.stack.layout import Layout, Remembered, read_env, write_file
from deploy.stack.lifecycle import contracts_digest
from runtime.settings import Settings

PORTS = dict(ports.DEFAULTS)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A home with its folders."""
    made = Layout.at(tmp_path / "home")
    made.make_folders()
    return made


def files(
    layout: Layout, own: dict[str, str] | None = None, environ: dict[str, str] | None = None
) -> tuple[dict[str, str], dict[str, str]]:
    """Return what the two env files of a home would hold."""
    secret = environment.Secrets.of(layout)
    addresses = {**environment.addresses(PORTS, {}, secret.superuser_password), **(own or {})}
    clients = environment.stack_env(addresses, PORTS, secret, "newswire")
    return clients, environment.process_env(layout, addresses, PORTS, secret, "newswire", environ or {})


@pytest.mark.parametrize("target", ["status", "down", "psql"])
def test_a_checkout_that_is_not_installed_yet_says_so(target: str, tmp_path: Path) -> None:
    """In a sentence, also while `make` is installing in another window: the interpreter is there before its packages."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    makefile = Path(__file__).parents[2] / "Makefile"
    words, environ = ["make", "-f", str(makefile), target], {"PATH": os.environ["PATH"]}
    done = subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: nothing is installed in .venv yet: run 'make install', or wait")


def test_kafka_is_one_node_on_loopback_that_creates_no_topics_by_itself(layout: Layout) -> None:
    """The properties name loopback only, and topics come from the catalogue."""
    text = servers.kafka_properties(layout.kafka, 9192, 9193)
    values = dict(line.split("=", 1) for line in text.splitlines())
    assert values["listeners"] == "PLAINTEXT://127.0.0.1:9192,CONTROLLER://127.0.0.1:9193"
    assert values["controller.quorum.voters"] == "1@127.0.0.1:9193"
    assert values["auto.create.topics.enable"] == "false"
    assert values["offsets.retention.minutes"] == "525600"
    assert values["message.max.bytes"] == "2097152"


def test_class_cache_is_used_only_when_it_is_there(tmp_path: Path) -> None:
    """A machine that has not made the cache yet starts without it."""
    found = artifacts.Artifacts(tmp_path, tmp_path / "bin" / "java")
    plain = servers.kafka_arguments(found, servers.PROFILES["demo"], tmp_path / "kafka.properties")
    found.class_cache("kafka").touch()
    cached = servers.kafka_arguments(found, servers.PROFILES["demo"], tmp_path / "kafka.properties")
    assert [word for word in cached if word not in plain] == [f"-XX:AOTCache={found.class_cache('kafka')}"]


def test_benchmarks_use_the_full_compiler(tmp_path: Path) -> None:
    """Only the profile for benchmarks leaves the quick compiler out."""
    found = artifacts.Artifacts(tmp_path, tmp_path / "bin" / "java")
    level = "-XX:TieredStopAtLevel=1"
    assert level in servers.kafka_arguments(found, servers.PROFILES["demo"], tmp_path)
    assert level not in servers.kafka_arguments(found, servers.PROFILES["bench"], tmp_path)


def test_supervisor_starts_nothing_by_itself_and_keeps_everything_running(layout: Layout) -> None:
    """Every program is in its group, restarted for ever, and knows its home."""
    wanted = [*programs.infra(layout, PORTS, None, None, []), *programs.newswire(layout, {})]
    parser = configparser.RawConfigParser()
    parser.read_string(supervision.configuration(layout, wanted))
    assert parser["group:newswire"]["programs"].split(",") == [process.name for process in programs.PROCESSES]
    for program in wanted:
        section = parser[f"program:{program.name}"]
        assert (section["autostart"], section["autorestart"]) == ("false", "true")
        assert f'NEWSWIRE_HOME="{layout.home}"' in section["environment"]
        assert section["stdout_logfile"] == str(layout.log(program.name))


def test_percent_signs_in_paths_are_escaped(tmp_path: Path) -> None:
    """supervisor would expand them."""
    layout = Layout.at(tmp_path / "100%sure")
    text = supervision.configuration(layout, programs.newswire(layout, {}))
    assert "100%%sure" in text
    assert "100%s" not in text.replace("%%", "")


def test_refuses_a_home_that_configuration_files_cannot_hold(tmp_path: Path) -> None:
    """A quotation mark in the path is said before anything is written."""
    with pytest.raises(StackError, match="choose another"):
        Layout.at(tmp_path / 'a"b')


def test_long_home_has_its_socket_elsewhere(tmp_path: Path) -> None:
    """A Unix socket's path is limited to 107 bytes."""
    long = Layout.at(tmp_path / ("x" * 100))
    assert len(os.fsencode(long.supervisor_socket)) <= 90
    assert Layout.at(Path("/srv/a")).supervisor_socket == Path("/srv/a/run/supervisor.sock")


def test_urgent_processes_are_started_first_and_never_yield() -> None:
    """Nice levels rise along the order of starting, so that bulk comes last."""
    levels = [process.nice for process in programs.PROCESSES]
    assert levels == sorted(levels)
    assert {process.nice for process in programs.PROCESSES if process.name.endswith("-urgent")} == {programs.URGENT}
    assert {process.nice for process in programs.PROCESSES if process.name.endswith("-bulk")} == {programs.BULK}


def test_env_files_configure_a_process_completely(layout: Layout) -> None:
    """A process that knows its home alone finds servers, roles with passwords, keys and the sandbox."""
    environment.write_files(layout, *files(layout))
    settings = Settings.load({"NEWSWIRE_HOME": str(layout.home)})
    assert settings.kafka_bootstrap_servers == "127.0.0.1:9092"
    assert settings.schema_registry_url == "http://127.0.0.1:8081/apis/ccompat/v7"
    assert settings.database_url.startswith("postgresql://newswire_analytics:")
    assert settings.ses_endpoint_url == "http://127.0.0.1:8025/ses"
    assert settings.inbox_url == "http://127.0.0.1:8025/"
    assert settings.webhook_allow_http_loopback
    assert not settings.live
    assert len(bytes.fromhex(Path(settings.master_key_file).read_text().strip())) == 32
    roles = (
        settings.ledger_database_url,
        settings.streams_database_url,
        settings.projections_database_url,
        settings.keys_database_url,
    )
    assert len({url.split("@")[0] for url in roles}) == 4
    assert settings.keys_database_url.endswith("/newswire_keys")
    settings.require(
        "owner_database_url", "token_keys", "receipt_key", "scoring_url", "slack_token", "discord_token", "state_dir"
    )


def test_secrets_are_made_once_and_are_readable_by_their_owner_only(layout: Layout) -> None:
    """A second `up` keeps passwords and keys."""
    first, second = files(layout), files(layout)
    assert first == second
    environment.write_files(layout, *first)
    for path in (layout.process_env, layout.stack_env, layout.master_key, layout.home / "secrets.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_writing_the_same_settings_again_is_no_change(layout: Layout) -> None:
    """Processes are started again only for settings that differ."""
    assert environment.write_files(layout, *files(layout))
    assert not environment.write_files(layout, *files(layout))
    assert environment.write_files(layout, *files(layout, environ={"NEWSWIRE_LOG_LEVEL": "DEBUG"}))


def test_addresses_in_the_environment_never_reach_the_processes(layout: Layout) -> None:
    """A shell that has read another stack's files must not lead this one to that one's databases or to real providers."""
    _, processes = files(layout, environ={"NEWSWIRE_LEDGER_DATABASE_URL": "postgresql://x@elsewhere/x", "NEWSWIRE_LIVE": "true"})
    assert "elsewhere" not in processes["NEWSWIRE_LEDGER_DATABASE_URL"]
    assert processes["NEWSWIRE_LIVE"] == "false"


def test_failpoints_are_armed_only_where_a_test_asked_for_them(layout: Layout) -> None:
    """The file in the home switches them on."""
    assert "NEWSWIRE_FAILPOINTS" not in files(layout)[1]
    layout.failpoints.touch()
    assert files(layout)[1]["NEWSWIRE_FAILPOINTS"] == f"@{layout.failpoints}"


def test_own_servers_are_used_and_roles_are_made_on_them(layout: Layout) -> None:
    """The roles' URLs keep the own server's host, port and parameters."""
    own = {
        environment.OWNER: "postgresql://admin:pw@db.example:6432/postgres?sslmode=require",
        environment.KAFKA: "k1:9092,k2:9092",
    }
    clients, processes = files(layout, own)
    assert clients[environment.KAFKA] == "k1:9092,k2:9092"
    assert "@db.example:6432/newswire?sslmode=require" in clients["DATABASE_URL"]
    assert "@db.example:6432/newswire_keys?sslmode=require" in processes["NEWSWIRE_KEYS_DATABASE_URL"]


def test_address_that_a_stack_serves_itself_counts_as_unset() -> None:
    """A shell that has read stack.env can run `make up` and `make test`."""
    served = environment.addresses(PORTS, {}, "secret")
    stack = Remembered(addresses=served)
    assert environment.own_servers(served, [stack]) == {}
    other_role = {environment.OWNER: "postgresql://someone:else@127.0.0.1:5432/other"}
    assert environment.own_servers(other_role, [stack]) == {}
    elsewhere = {environment.KAFKA: "broker.example:9092", environment.REGISTRY: ""}
    assert environment.own_servers(elsewhere, [stack]) == {environment.KAFKA: "broker.example:9092"}


def test_own_server_is_not_started(layout: Layout) -> None:
    """What is named by the environment is left out of the programs."""
    found = artifacts.Artifacts(layout.home, layout.home / "java")
    postgres = database.Postgres(layout.home, 17, None)
    names = [program.name for program in programs.infra(layout, PORTS, found, postgres, ["kafka", "postgres"])]
    assert names == ["registry", "sandbox"]


def test_owner_url_that_names_no_server_is_refused(layout: Layout) -> None:
    """The message names the variable."""
    with pytest.raises(StackError, match="NEWSWIRE_OWNER_DATABASE_URL must look like"):
        files(layout, {environment.OWNER: "localhost"})


def test_supervised_processes_do_not_inherit_credentials_or_settings() -> None:
    """Neither proxies nor real provider credentials nor another stack's settings are passed on."""
    environ = {"PATH": "/bin", "HTTP_PROXY": "http://p", "AWS_SECRET_ACCESS_KEY": "real", "NEWSWIRE_LIVE": "true"}
    passed = environment.supervised(environ)
    assert passed["PATH"] == "/bin"
    assert passed["AWS_SECRET_ACCESS_KEY"] == "sandbox"
    assert not {"HTTP_PROXY", "NEWSWIRE_LIVE"} & set(passed)


def choose(
    tmp_path: Path, remembered: dict[str, int] | None = None, fixed: dict[str, int] | None = None, **more: object
) -> ports.Choice:
    """Choose ports for a stack."""
    options = {"reservations": tmp_path / "ports.json", "owner": "me", "first_step": 150, **more}
    keep = options.pop("keep", ())
    return ports.choose(remembered or {}, fixed or {}, keep, **options)  # type: ignore[arg-type]


def test_taken_port_is_replaced_by_a_free_one_and_said(tmp_path: Path) -> None:
    """The note names the taken port and the chosen one."""
    usual = choose(tmp_path).ports["sandbox"]
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", usual))
        holder.listen()
        choice = choose(tmp_path)
    assert choice.ports["sandbox"] != usual
    assert choice.notes == [f"port {usual} is taken, sandbox gets {choice.ports['sandbox']}"]


def test_chosen_ports_are_kept(tmp_path: Path) -> None:
    """A restart finds the ports of before, without a word."""
    first = choose(tmp_path)
    assert choose(tmp_path, first.ports) == ports.Choice(first.ports, [])


def test_ports_of_running_servers_stay_theirs(tmp_path: Path) -> None:
    """A port that is taken by the stack itself is not replaced."""
    first = choose(tmp_path).ports
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", first["kafka"]))
        holder.listen()
        assert choose(tmp_path, first, keep={"kafka"}).ports == first


def test_demanded_port_that_is_in_use_is_an_error(tmp_path: Path) -> None:
    """The message says how to find out who has it."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(StackError, match=rf"port {port} that you gave kafka is in use.*ss -ltnp"):
            choose(tmp_path, fixed={"kafka": port})


def test_two_stacks_that_start_together_choose_different_ports(tmp_path: Path) -> None:
    """What one has chosen is reserved, though nothing listens there yet."""
    mine, yours = choose(tmp_path), choose(tmp_path, owner="you")
    assert not set(mine.ports.values()) & set(yours.ports.values())


def test_checksum_mismatch_names_the_file(tmp_path: Path) -> None:
    """A jar that is not the pinned one is refused."""
    (tmp_path / "kafka.jar").write_bytes(b"other")
    with pytest.raises(StackError, match=r"kafka\.jar has the checksum"):
        artifacts.check(tmp_path, {"kafka.jar": hashlib.sha256(b"pinned").hexdigest()})


@pytest.mark.parametrize(
    ("there", "pinned", "message"),
    [(["a.jar"], [], "is not in deploy/stack/jars.sha256"), ([], ["a.jar"], "did not deliver a.jar")],
)
def test_missing_or_unknown_jar_is_refused(tmp_path: Path, there: list[str], pinned: list[str], message: str) -> None:
    """The set of files is pinned, not only their content."""
    for name in there:
        (tmp_path / name).touch()
    with pytest.raises(StackError, match=message):
        artifacts.check(tmp_path, {name: hashlib.sha256(b"").hexdigest() for name in pinned})


def test_every_pinned_file_is_a_sha256() -> None:
    """The committed list is complete and well-formed."""
    pinned = artifacts.wanted()
    assert artifacts.REGISTRY_ARCHIVE in pinned
    assert "kafka_2.13-4.3.1.jar" in pinned
    assert all(len(bytes.fromhex(digest)) == 32 for digest in pinned.values())


def test_missing_maven_is_one_sentence(tmp_path: Path) -> None:
    """It says what is missing, what for and how to get it."""
    with pytest.raises(StackError, match=r"Maven is missing.*apt-get install maven"):
        artifacts.ensure({"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)})


def test_maven_without_network_is_one_sentence(tmp_path: Path) -> None:
    """The message is about the network, not Maven's stack trace; nothing is left in the cache."""
    maven = tmp_path / "mvn"
    maven.write_text("#!/bin/sh\necho '[ERROR] Could not transfer artifact x from/to central: Network is unreachable'\nexit 1\n")
    maven.chmod(0o755)
    with pytest.raises(StackError, match="Maven cannot reach its repository"):
        artifacts.ensure({"PATH": f"{tmp_path}:/bin:/usr/bin", "XDG_CACHE_HOME": str(tmp_path)})
    assert not list((tmp_path / "newswire").glob("download-*/"))


def test_missing_postgres_is_one_sentence(layout: Layout) -> None:
    """It says what is missing and how to get it."""
    with pytest.raises(StackError, match=r"initdb and postgres, 15 or newer.*apt-get install postgresql"):
        database.find(layout, [layout.home])


def test_data_of_another_postgres_is_not_touched(layout: Layout) -> None:
    """Data that an absent version made is reported, not started with another one."""
    (layout.postgres / "data").mkdir(parents=True)
    (layout.postgres / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(StackError, match="was made by PostgreSQL 9, but only"):
        database.find(layout)


def test_remembered_state_survives(layout: Layout) -> None:
    """Ports and profile are read back; a damaged file is said."""
    Remembered("test", "infra", {"kafka": 1}, {"A": "b"}).save(layout)
    assert Remembered.load(layout) == Remembered("test", "infra", {"kafka": 1}, {"A": "b"})
    (layout.home / "stack.json").write_text("{")
    with pytest.raises(StackError, match="is damaged"):
        Remembered.load(layout)


def test_files_are_replaced_at_once_with_their_mode(tmp_path: Path) -> None:
    """A reader never sees half a file, and a secret is never readable by others."""
    path = tmp_path / "secret"
    assert write_file(path, "A=1\n", 0o600)
    assert not write_file(path, "A=1\n", 0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_env(path) == {"A": "1"}
    assert list(tmp_path.iterdir()) == [path]


def test_runbook_names_every_process() -> None:
    """The runbook's table is complete and says what the runner knows."""
    text = (Path(__file__).parents[2] / "deploy" / "RUNBOOK.md").read_text(encoding="utf-8")
    missing = [process.name for process in programs.PROCESSES if f"`{process.name}`" not in text or process.does not in text]
    assert missing == []


def test_changed_schema_or_registry_is_noticed(tmp_path: Path) -> None:
    """`up` asks the registry about every schema only when a file, the registry or the prefix is another."""
    folder = tmp_path / "schemas"
    (folder / "avro").mkdir(parents=True)
    (folder / "avro" / "A.avsc").write_text("1")
    before = contracts_digest(folder, "http://r", "newswire")
    assert contracts_digest(folder, "http://r", "newswire") == before
    (folder / "avro" / "A.avsc").write_text("2")
    after = contracts_digest(folder, "http://r", "newswire")
    assert (
        len({before, after, contracts_digest(folder, "http://s", "newswire"), contracts_digest(folder, "http://r", "test")}) == 4
    )
