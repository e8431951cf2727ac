"""Addresses, secrets and settings: what goes into `stack.env` (clients) and `process.env` (the processes).

Own servers are named by KAFKA_BOOTSTRAP_SERVERS, SCHEMA_REGISTRY_URL and NEWSWIRE_OWNER_DATABASE_URL in the environment
of `up`; that part of the stack is then not started. An address that a stack of this checkout serves itself counts as
unset, so that a shell which has read a stack.env can start stacks as well.
"""

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from deploy.stack.errors import StackError
from deploy.stack.layout import Layout, Remembered, write_file
from deploy.stack.ports import brokers

KAFKA, REGISTRY, OWNER = "KAFKA_BOOTSTRAP_SERVERS", "SCHEMA_REGISTRY_URL", "NEWSWIRE_OWNER_DATABASE_URL"
SERVERS: Mapping[str, str] = {KAFKA: "kafka", REGISTRY: "registry", OWNER: "postgres"}
"""Variable that names an own server, and the program that is then not started."""

ROLES = ("newswire_sinks", "newswire_streams", "newswire_projections", "newswire_keys", "newswire_analytics")

ARXIV_TOPICS = Path(__file__).resolve().parent.parent / "samples" / "arxiv-topics.json"
"""What the topics of the demo's articles are called; another file, or none, by NEWSWIRE_TOPIC_NAMES."""

TUNABLE = (
    "NEWSWIRE_ALERT_CHUNKS",
    "NEWSWIRE_CONSENT_LAG_S",
    "NEWSWIRE_INSTANCE_ID",
    "NEWSWIRE_LEASE_S",
    "NEWSWIRE_LOG_LEVEL",
    "NEWSWIRE_NEWSLETTER_CHUNKS",
    "NEWSWIRE_PROVIDER_TIMEOUT_S",
    "NEWSWIRE_READERSHIP_INTERVAL_S",
    "NEWSWIRE_SCORING_TIMEOUT_S",
    "NEWSWIRE_SESSION_TIMEOUT_S",
    "NEWSWIRE_SHARDS",
    "NEWSWIRE_SNAPSHOT_INTERVAL_S",
    "NEWSWIRE_SWEEP_INTERVAL_S",
    "NEWSWIRE_TEMPLATES",
    "NEWSWIRE_TOPIC_NAMES",
)
"""Settings that `up` takes over from its profile, and before that from its environment. Addresses and secrets are not
among them: a shell that has read another stack's files must not lead this one there."""


@dataclass(frozen=True)
class Secrets:
    """What is generated once and kept in the home."""

    superuser_password: str
    role_passwords: Mapping[str, str]
    token_keys: str
    receipt_key: str

    @classmethod
    def of(cls, layout: Layout) -> "Secrets":
        """Return the home's secrets, made on first use; StackError when the file is damaged."""
        path = layout.home / "secrets.json"
        if not layout.master_key.is_file():
            write_file(layout.master_key, secrets.token_hex(32) + "\n", 0o600)
        if not path.is_file():
            passwords = {role: secrets.token_hex(16) for role in ROLES}
            made = cls(secrets.token_hex(16), passwords, f"k1:{secrets.token_hex(32)}", secrets.token_hex(32))
            write_file(path, json.dumps(made.__dict__, indent=2) + "\n", 0o600)
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise StackError(
                f"{path} is damaged: restore it, or run `make clean` to begin anew (that removes the stack's data)."
            ) from None


def own_servers(environ: Mapping[str, str], stacks: Iterable[Remembered]) -> dict[str, str]:
    """Return the own servers by their variable, without addresses that one of these stacks serves itself."""
    served = {(name, endpoint(value)) for stack in stacks for name, value in stack.addresses.items()}
    return {name: environ[name] for name in SERVERS if environ.get(name) and (name, endpoint(environ[name])) not in served}


def endpoint(address: str) -> str:
    """Return host and port of an address, so that the same server under another role or path is recognised."""
    return urlsplit(address).netloc.rpartition("@")[2] if "://" in address else address


def addresses(ports: Mapping[str, int], own: Mapping[str, str], password: str) -> dict[str, str]:
    """Return the three servers' addresses, own ones where they are given."""
    return {
        KAFKA: ",".join(f"127.0.0.1:{ports[name]}" for name in brokers(ports)),
        REGISTRY: f"http://127.0.0.1:{ports['registry']}/apis/ccompat/v7",
        OWNER: f"postgresql://postgres:{password}@127.0.0.1:{ports['postgres']}/postgres",
        **own,
    }


def _role_url(owner_url: str, role: str, password: str, database: str) -> str:
    server = urlsplit(owner_url)
    if server.scheme not in ("postgresql", "postgres") or not server.hostname:
        raise StackError(f"{OWNER} must look like postgresql://role:password@host:port/database.")
    query = f"?{server.query}" if server.query else ""
    return f"postgresql://{role}:{quote(password)}@{endpoint(owner_url)}/{database}{query}"


def stack_env(servers: Mapping[str, str], ports: Mapping[str, int], secret: Secrets, database: str) -> dict[str, str]:
    """Return what a client needs: brokers, registry, the read-only database role, the inbox page."""
    return {
        KAFKA: servers[KAFKA],
        REGISTRY: servers[REGISTRY],
        "DATABASE_URL": _role_url(servers[OWNER], "newswire_analytics", secret.role_passwords["newswire_analytics"], database),
        "NEWSWIRE_INBOX_URL": f"http://127.0.0.1:{ports['sandbox']}/",
    }


def process_env(
    layout: Layout,
    servers: Mapping[str, str],
    ports: Mapping[str, int],
    secret: Secrets,
    database: str,
    environ: Mapping[str, str],
) -> dict[str, str]:
    """Return every other setting of the processes; providers are the sandbox, whatever the environment says."""
    owner, passwords = servers[OWNER], secret.role_passwords
    sandbox = f"http://127.0.0.1:{ports['sandbox']}"
    values = {
        OWNER: owner,
        "NEWSWIRE_LEDGER_DATABASE_URL": _role_url(owner, "newswire_sinks", passwords["newswire_sinks"], database),
        "NEWSWIRE_STREAMS_DATABASE_URL": _role_url(owner, "newswire_streams", passwords["newswire_streams"], database),
        "NEWSWIRE_PROJECTIONS_DATABASE_URL": _role_url(
            owner, "newswire_projections", passwords["newswire_projections"], database
        ),
        "NEWSWIRE_KEYS_DATABASE_URL": _role_url(owner, "newswire_keys", passwords["newswire_keys"], f"{database}_keys"),
        "NEWSWIRE_MASTER_KEY_FILE": str(layout.master_key),
        "NEWSWIRE_TOKEN_KEYS": secret.token_keys,
        "NEWSWIRE_RECEIPT_KEY": secret.receipt_key,
        "NEWSWIRE_EDGE_URL": f"http://127.0.0.1:{ports['edge']}",
        "NEWSWIRE_EDGE_PORT": str(ports["edge"]),
        "NEWSWIRE_SCORING_URL": f"{sandbox}/score",
        "NEWSWIRE_SES_ENDPOINT_URL": f"{sandbox}/ses",
        "NEWSWIRE_SNS_TOPICS": "arn:aws:sns:eu-west-1:000000000000:newswire-ses",
        "NEWSWIRE_SNS_SANDBOX_URL": f"{sandbox}/ses/",
        "NEWSWIRE_SLACK_BASE_URL": f"{sandbox}/slack/api/",
        "NEWSWIRE_SLACK_TOKEN": "xoxb-sandbox",
        "NEWSWIRE_DISCORD_BASE_URL": f"{sandbox}/discord/api/v10",
        "NEWSWIRE_DISCORD_TOKEN": "sandbox",
        "NEWSWIRE_TOPIC_NAMES": str(ARXIV_TOPICS),
        "NEWSWIRE_WEBHOOK_ALLOW_HTTP_LOOPBACK": "true",
        "NEWSWIRE_LIVE": "false",
        "NEWSWIRE_STATE_DIR": str(layout.state),
    }
    if len(brokers(ports)) > 1:
        values["NEWSWIRE_REPLICATION_FACTOR"] = str(len(brokers(ports)))
    if layout.failpoints.is_file():
        values["NEWSWIRE_FAILPOINTS"] = f"@{layout.failpoints}"
    return {**values, **{name: environ[name] for name in TUNABLE if environ.get(name)}}


def database_name(profile: str) -> str:
    """Return the database of a profile; tests keep to one of their own on an own server too."""
    return "newswire" if profile == "demo" else f"newswire_{profile}"


def as_text(values: Mapping[str, str]) -> str:
    """Return the lines of an env file; values are written as they are, because its readers unquote nothing."""
    return "".join(f"{name}={value}\n" for name, value in values.items())


def write_files(layout: Layout, for_clients: Mapping[str, str], for_processes: Mapping[str, str]) -> bool:
    """Write both files, readable by this user only; return whether one of them changed."""
    changed = [
        write_file(layout.stack_env, as_text(for_clients), 0o600),
        write_file(layout.process_env, as_text(for_processes), 0o600),
    ]
    return any(changed)


def supervised(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that the supervised processes inherit: nothing that could change what they do.

    Settings come from the two files; proxies, provider credentials and the like are left out, because all that these
    processes speak to is on this machine or named in the settings.
    """
    kept = (
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "TMPDIR",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "LD_LIBRARY_PATH",
        "XDG_CACHE_HOME",
    )
    values = {name: value for name, value in environ.items() if name in kept or name.startswith("LC_")}
    return {
        **values,
        "TZ": "UTC",
        "PYTHONUNBUFFERED": "1",
        # One BLAS thread: scores are the same each time, and 18 processes do not fight for two cores.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
        # Whatever credentials this user has for Amazon, the sandbox is not to see them.
        "AWS_ACCESS_KEY_ID": "sandbox",
        "AWS_SECRET_ACCESS_KEY": "sandbox",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
