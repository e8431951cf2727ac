"""Migrations on a real server: databases, roles, grants, and what they refuse."""

import dataclasses
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from core.errors import SetupError, Unavailable
from runtime import postgres
from runtime.postgres import connect, migrate
from runtime.settings import Settings
from tests.fix_stack import Stack

pytestmark = pytest.mark.stack


@pytest.fixture
def settings(stack: Stack) -> Iterator[Settings]:
    """Settings with databases and roles of their own, dropped afterwards."""
    mark = f"rt{uuid.uuid4().hex[:8]}"
    server = conninfo_to_dict(stack.postgres_url)

    def url(role: str, database: str) -> str:
        return f"postgresql://{mark}_{role}:secret@{server['host']}:{server['port']}/{mark}_{database}"

    made = Settings(
        owner_database_url=stack.postgres_url,
        database_url=url("analytics", "main"),
        ledger_database_url=url("ledger", "main"),
        streams_database_url=url("streams", "main"),
        projections_database_url=url("projections", "main"),
        keys_database_url=url("keys", "keys"),
    )
    yield made
    with connect(stack.postgres_url, autocommit=True) as owner:
        for database in (f"{mark}_main", f"{mark}_keys"):
            owner.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))
        for (role,) in owner.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE %s", [f"{mark}%"]).fetchall():
            owner.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def test_migrate_creates_everything_once(settings: Settings) -> None:
    """Databases, roles and schemas exist, every file was applied by the role that owns its schema, and only once."""
    applied = migrate(settings)
    assert sum(map(len, applied.values())) == sum(len(postgres._files(folder)) for folder in postgres.FOLDERS) >= 3
    assert all(not files for files in migrate(settings).values())
    for folder in postgres.FOLDERS:
        url = getattr(settings, folder.url_setting)
        with connect(url) as connection:
            owners = connection.execute(
                "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = %s", [folder.schema]
            ).fetchall()
            assert owners == [(conninfo_to_dict(url)["user"],)]


def test_the_reader_sees_views_and_nothing_else(settings: Settings) -> None:
    """What the projections create in api can be read at once; nothing can be written, and no other schema be seen."""
    migrate(settings)
    with connect(settings.projections_database_url) as writer:
        writer.execute("CREATE TABLE api.things AS SELECT 1 AS one")
    with connect(settings.database_url, autocommit=True) as reader:
        assert reader.execute("SELECT one FROM api.things").fetchone() == (1,)
        for statement in (
            "INSERT INTO api.things VALUES (2)",
            "CREATE TABLE api.mine (a int)",
            "CREATE TABLE public.mine (a int)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(statement)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("SELECT * FROM newswire_migrations.applied")


def test_an_edited_migration_is_refused(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was applied must not change; a new one is applied."""
    file = tmp_path / "001_first.sql"
    file.write_text("CREATE TABLE first (a int)")
    monkeypatch.setattr(postgres, "FOLDERS", (postgres.Folder("runtime", str(tmp_path), "streams_database_url", "streams"),))
    database = conninfo_to_dict(settings.streams_database_url)["dbname"]
    assert migrate(settings)[str(database)] == ["001_first.sql"]
    (tmp_path / "002_second.sql").write_text("ALTER TABLE first ADD b int")
    assert migrate(settings)[str(database)] == ["002_second.sql"]
    file.write_text("CREATE TABLE first (a bigint)")
    with pytest.raises(SetupError, match=r"001_first\.sql was edited"):
        migrate(settings)


def test_errors_say_what_to_do(settings: Settings) -> None:
    """A missing database, a role that may not create, no server: each is one sentence with the next step."""
    with pytest.raises(SetupError, match="newswire migrate"):
        connect(settings.owner_database_url.rsplit("/", 1)[0] + "/nothing_of_that_name")
    with pytest.raises(Unavailable, match="make up"):
        connect("postgresql://someone@127.0.0.1:9/nothing")
    migrate(settings)
    with pytest.raises(SetupError, match="CREATEDB CREATEROLE"):
        migrate(Settings(owner_database_url=settings.streams_database_url))
    with pytest.raises(SetupError, match="NEWSWIRE_OWNER_DATABASE_URL"):
        migrate(Settings())


def test_urls_of_two_servers_are_refused_before_anything_is_created(settings: Settings) -> None:
    """A role's URL of another server than the owner's is named; neither database nor role is made."""
    port = conninfo_to_dict(settings.keys_database_url)["port"]
    elsewhere = settings.keys_database_url.replace(f":{port}/", ":1/")
    with pytest.raises(SetupError, match="NEWSWIRE_KEYS_DATABASE_URL names the server"):
        migrate(dataclasses.replace(settings, keys_database_url=elsewhere))
    with connect(settings.owner_database_url) as owner:
        role = conninfo_to_dict(settings.ledger_database_url)["user"]
        assert owner.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone() is None


def test_an_owner_needs_no_superuser(settings: Settings) -> None:
    """CREATEDB and CREATEROLE are enough, on the first run and on the next."""
    main = conninfo_to_dict(settings.database_url)
    name = f"{str(main['user']).rpartition('_')[0]}_owner"
    with connect(settings.owner_database_url, autocommit=True) as owner:
        owner.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEDB CREATEROLE PASSWORD 'secret'").format(sql.Identifier(name)))
    url = f"postgresql://{name}:secret@{main['host']}:{main['port']}/postgres"
    plain = dataclasses.replace(settings, owner_database_url=url)
    assert sum(map(len, migrate(plain).values())) >= 3
    assert all(not files for files in migrate(plain).values())
