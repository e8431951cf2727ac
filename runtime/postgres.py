"""PostgreSQL: connections, pools, and the migrations of what cannot be rebuilt.

Databases, roles and passwords are read from the URLs in the settings; the owner's URL is used here only. Numbered SQL
files are applied once each, in one transaction a file, and never change afterwards: their SHA-256 is checked.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from core.errors import SetupError, Unavailable
from runtime.settings import Settings

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

CONNECT_TIMEOUT_S = 5
"""Longest wait for a connection; a local server answers in milliseconds, a remote one that takes longer is down."""
_LOCK = 0x6E657773
"""Advisory lock of migrations ('news'), so that two of them wait for each other."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Folder:
    """Where migrations are, which setting's database they belong to, and which setting's role owns the schema."""

    package: str
    path: str
    url_setting: str
    schema: str


FOLDERS = (
    Folder("runtime", "sql/keys", "keys_database_url", "keys"),
    Folder("streams", "sql", "streams_database_url", "streams"),
    Folder("sinks", "sql", "ledger_database_url", "ledger"),
)
"""The migrations of each package; projections build their own schemas, because read models are rebuilt."""


def connect(url: str, *, autocommit: bool = False, **parameters: Any) -> psycopg.Connection:
    """Return a connection; Unavailable when the server does not answer, SetupError when it refuses."""
    try:
        return psycopg.connect(url, autocommit=autocommit, connect_timeout=CONNECT_TIMEOUT_S, **parameters)
    except psycopg.OperationalError as error:
        raise _explain(url, error) from error


def async_pool(url: str, min_size: int = 1, max_size: int = 4) -> "AsyncConnectionPool[psycopg.AsyncConnection]":
    """Return an unopened pool of autocommit-off connections; open it with `await pool.open(wait=True, timeout=...)`."""
    from psycopg_pool import AsyncConnectionPool

    return AsyncConnectionPool(
        url,
        min_size=min_size,
        max_size=max_size,
        open=False,
        kwargs={"connect_timeout": CONNECT_TIMEOUT_S},
        check=AsyncConnectionPool.check_connection,
    )


def _explain(url: str, error: psycopg.OperationalError) -> SetupError | Unavailable:
    where = conninfo_to_dict(url)
    place = f"{where.get('host', 'localhost')}:{where.get('port', 5432)}/{where.get('dbname', '')}"
    text = " ".join(str(error).split())
    if any(word in text for word in ("does not exist", "authentication failed", "no pg_hba", "permission denied")):
        why = text.rsplit("FATAL:", 1)[-1].strip()
        return SetupError(f"PostgreSQL at {place} refuses {where.get('user', '')}: {why}; run `newswire migrate`.")
    return Unavailable(f"PostgreSQL at {place} does not answer; is the stack up? Start it with `make up`")


def migrate(settings: Settings) -> dict[str, list[str]]:
    """Create what is missing (roles, databases, schemas, grants), apply new migrations, and return those by database.

    SetupError when the owner's role may not do that, or when a migration that was applied has been edited.
    """
    settings.require("owner_database_url")
    _same_server(settings)
    roles = _roles(settings)
    applied: dict[str, list[str]] = {}
    with connect(settings.owner_database_url, autocommit=True) as owner, _locked(owner):
        _may_create(owner)
        for name, password in roles.items():
            _ensure_role(owner, name, password)
        for database in dict.fromkeys(_database(url) for url in _urls(settings).values()):
            _ensure_database(owner, database)
            applied[database] = []
    for folder in FOLDERS:
        url = getattr(settings, folder.url_setting)
        if url:
            with connect(_owner_of(settings, url), autocommit=True) as connection, _locked(connection):
                _ensure_schema(connection, folder.schema, _user(url))
                applied[_database(url)] += _apply_folder(connection, folder, _user(url))
    _ensure_projections(settings)
    return applied


def _urls(settings: Settings) -> dict[str, str]:
    names = ("database_url", "ledger_database_url", "streams_database_url", "projections_database_url", "keys_database_url")
    return {name: url for name in names if (url := getattr(settings, name))}


def _server(url: str) -> str:
    parts = conninfo_to_dict(url)
    host = str(parts.get("host") or "localhost").replace("localhost", "127.0.0.1")
    return f"{host}:{parts.get('port') or 5432}"


def _same_server(settings: Settings) -> None:
    """Refuse URLs of several servers: the owner would create the databases of one server on another."""
    envs = {item.name: item.metadata["env"] for item in fields(settings)}
    for name, url in _urls(settings).items():
        if _server(url) != _server(settings.owner_database_url):
            raise SetupError(
                f"{envs[name]} names the server {_server(url)}, but NEWSWIRE_OWNER_DATABASE_URL names "
                f"{_server(settings.owner_database_url)}: set them all for one server (unset ones come from `.newswire/`)."
            )


def _user(url: str) -> str:
    return str(conninfo_to_dict(url).get("user") or "")


def _database(url: str) -> str:
    parts = conninfo_to_dict(url)
    return str(parts.get("dbname") or parts.get("user") or "")


def _owner_of(settings: Settings, url: str) -> str:
    return make_conninfo(settings.owner_database_url, dbname=_database(url))


def _roles(settings: Settings) -> dict[str, str | None]:
    owner = _user(settings.owner_database_url)
    roles: dict[str, str | None] = {}
    for name, url in _urls(settings).items():
        if not _user(url):
            raise SetupError(f"{name} names no role: write it as postgresql://role:password@host:port/database.")
        if _user(url) != owner:
            roles[_user(url)] = conninfo_to_dict(url).get("password")  # type: ignore[assignment]
    return roles


@contextmanager
def _locked(connection: psycopg.Connection) -> Iterator[None]:
    connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
    try:
        yield
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])


def _may_create(connection: psycopg.Connection) -> None:
    row = connection.execute(
        "SELECT rolcreatedb OR rolsuper, rolcreaterole OR rolsuper, rolname FROM pg_roles WHERE rolname = current_user"
    ).fetchone()
    assert row is not None
    if not (row[0] and row[1]):
        raise SetupError(
            f"role {row[2]} of NEWSWIRE_OWNER_DATABASE_URL may not create databases and roles: "
            f"give it both (`ALTER ROLE {row[2]} CREATEDB CREATEROLE`), or name a role that may."
        )


def _ensure_role(connection: psycopg.Connection, name: str, password: str | None) -> None:
    known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone()
    statement = sql.SQL("ALTER ROLE {} LOGIN" if known else "CREATE ROLE {} LOGIN").format(sql.Identifier(name))
    if password:
        statement += sql.SQL(" PASSWORD {}").format(sql.Literal(password))
    connection.execute(statement)
    connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(name)))


def _ensure_database(connection: psycopg.Connection, name: str) -> None:
    if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(sql.Identifier(name)))
        connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))


def _ensure_schema(connection: psycopg.Connection, schema: str, role: str) -> None:
    database = connection.info.dbname
    connection.execute(
        sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO {}").format(sql.Identifier(database), sql.Identifier(role))
    )
    if connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [schema]).fetchone() is None:
        connection.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(sql.Identifier(schema), sql.Identifier(role)))


def _files(folder: Folder) -> list[Path]:
    spec = find_spec(folder.package)
    if spec is None or not spec.submodule_search_locations:
        return []
    found = sorted((Path(spec.submodule_search_locations[0]) / folder.path).glob("[0-9]*.sql"))
    numbers = [path.name.split("_")[0] for path in found]
    assert len(numbers) == len(set(numbers)), f"two migrations of {folder.package}/{folder.path} have the same number"
    return found


def _apply_folder(connection: psycopg.Connection, folder: Folder, role: str) -> list[str]:
    """Apply the new files of a folder as the role that owns its schema, and return their names."""
    connection.execute("CREATE SCHEMA IF NOT EXISTS newswire_migrations")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS newswire_migrations.applied (schema text, file text, sha256 text NOT NULL, "
        "at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (schema, file))"
    )
    rows = connection.execute("SELECT file, sha256 FROM newswire_migrations.applied WHERE schema = %s", [folder.schema])
    known: Mapping[str, str] = dict(rows.fetchall())
    applied = []
    for path in _files(folder):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if path.name in known:
            if known[path.name] != digest:
                name = f"{folder.package}/{folder.path}/{path.name}"
                raise SetupError(f"{name} was edited after it had been applied: restore it, and add a new file.")
            continue
        with connection.transaction():
            connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
            connection.execute(sql.SQL("SET LOCAL search_path TO {}").format(sql.Identifier(folder.schema)))
            connection.execute(path.read_text(encoding="utf-8").encode())
            connection.execute("RESET ROLE")
            connection.execute(
                "INSERT INTO newswire_migrations.applied (schema, file, sha256) VALUES (%s, %s, %s)",
                [folder.schema, path.name, digest],
            )
        log.info("applied %s/%s/%s", folder.package, folder.path, path.name)
        applied.append(path.name)
    return applied


def _ensure_projections(settings: Settings) -> None:
    """Give the projections a database to build schemas in, and the analytics role the right to read schema api."""
    if not settings.projections_database_url:
        return
    role = _user(settings.projections_database_url)
    with connect(_owner_of(settings, settings.projections_database_url), autocommit=True) as connection, _locked(connection):
        database = sql.Identifier(connection.info.dbname)
        connection.execute(
            sql.SQL("GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {} TO {}").format(database, sql.Identifier(role))
        )
        _ensure_schema(connection, "api", role)
        _ensure_schema(connection, "projections", role)
        if settings.database_url and _user(settings.database_url) != role:
            reader, owner = sql.Identifier(_user(settings.database_url)), sql.Identifier(role)
            connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, reader))
            with connection.transaction():
                connection.execute(sql.SQL("SET LOCAL ROLE {}").format(owner))
                connection.execute(sql.SQL("GRANT USAGE ON SCHEMA api TO {}").format(reader))
                connection.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA api TO {}").format(reader))
                connection.execute(sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA api GRANT SELECT ON TABLES TO {}").format(reader))
