"""Every setting, its default and its reason; the only module that reads the environment.

A process is configured by environment variables. What is missing there is read from the stack's own files,
`.newswire/stack.env` and `.newswire/process.env`, found in NEWSWIRE_HOME or in the nearest parent of the working
directory that has a `.newswire` folder, so that `newswire ...` works in a checkout whose stack is up.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from core.errors import SetupError


def _setting(env: str, default: Any, doc: str) -> Any:
    return field(default=default, metadata={"env": env, "doc": doc})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Immutable settings of one process; `Settings.load()` reads them."""

    kafka_bootstrap_servers: str = _setting("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092", "Brokers, host:port, comma-separated.")
    schema_registry_url: str = _setting(
        "SCHEMA_REGISTRY_URL", "http://127.0.0.1:8081/apis/ccompat/v7", "Confluent-compatible registry."
    )
    database_url: str = _setting("DATABASE_URL", "", "PostgreSQL with the read-only role, for api.* views.")
    owner_database_url: str = _setting(
        "NEWSWIRE_OWNER_DATABASE_URL", "", "PostgreSQL role that may create databases and roles; migrations only."
    )
    ledger_database_url: str = _setting("NEWSWIRE_LEDGER_DATABASE_URL", "", "Role of the sinks: ledger and consent.")
    streams_database_url: str = _setting(
        "NEWSWIRE_STREAMS_DATABASE_URL", "", "Role of the streams: chunks that fan-out has expanded."
    )
    projections_database_url: str = _setting("NEWSWIRE_PROJECTIONS_DATABASE_URL", "", "Role of the projections.")
    keys_database_url: str = _setting("NEWSWIRE_KEYS_DATABASE_URL", "", "Database of the subjects' data keys; one of its own.")
    master_key_file: str = _setting(
        "NEWSWIRE_MASTER_KEY_FILE", "", "File with the local master key (32 bytes in hex) that wraps the key-encryption keys."
    )
    token_keys: str = _setting(
        "NEWSWIRE_TOKEN_KEYS", "", "Keys of link tokens, id:hex, comma-separated; the first signs, all verify."
    )
    receipt_key: str = _setting("NEWSWIRE_RECEIPT_KEY", "", "Key in hex of the hashes of provider receipts and addresses.")
    edge_url: str = _setting("NEWSWIRE_EDGE_URL", "http://127.0.0.1:8090", "Public address of the edge, in unsubscribe links.")
    edge_port: int = _setting("NEWSWIRE_EDGE_PORT", 8090, "Port that the edge listens on.")
    edge_host: str = _setting("NEWSWIRE_EDGE_HOST", "127.0.0.1", "Address that the edge listens on.")
    inbox_url: str = _setting("NEWSWIRE_INBOX_URL", "", "The sandbox providers' inbox page.")
    scoring_url: str = _setting("NEWSWIRE_SCORING_URL", "", "Scoring service; POST JSON, see streams/scoring.py.")
    scoring_timeout_s: float = _setting("NEWSWIRE_SCORING_TIMEOUT_S", 2.0, "Longest wait for one score.")
    ses_endpoint_url: str = _setting("NEWSWIRE_SES_ENDPOINT_URL", "", "SES endpoint; empty means Amazon's own, which needs live.")
    ses_region: str = _setting("NEWSWIRE_SES_REGION", "eu-west-1", "SES region.")
    ses_configuration_set: str = _setting(
        "NEWSWIRE_SES_CONFIGURATION_SET", "newswire", "Configuration set that publishes SES events."
    )
    slack_base_url: str = _setting("NEWSWIRE_SLACK_BASE_URL", "", "Slack Web API; empty means Slack's own, which needs live.")
    slack_token: str = _setting("NEWSWIRE_SLACK_TOKEN", "", "Slack bot token.")
    discord_base_url: str = _setting(
        "NEWSWIRE_DISCORD_BASE_URL", "", "Discord REST API; empty means Discord's own, which needs live."
    )
    discord_token: str = _setting("NEWSWIRE_DISCORD_TOKEN", "", "Discord bot token.")
    webhook_allow_http_loopback: bool = _setting(
        "NEWSWIRE_WEBHOOK_ALLOW_HTTP_LOOPBACK", False, "Allow http webhooks on loopback: sandbox only."
    )
    sns_topics: str = _setting(
        "NEWSWIRE_SNS_TOPICS", "", "ARNs of the SNS topics whose SES events are taken, comma-separated; none takes none."
    )
    sns_sandbox_url: str = _setting(
        "NEWSWIRE_SNS_SANDBOX_URL", "", "Beginning of a sandbox's SNS addresses, taken beside Amazon's; refused with live."
    )
    ses_queue_url: str = _setting("NEWSWIRE_SES_QUEUE_URL", "", "SQS queue that is subscribed to the topic of SES events.")
    sqs_endpoint_url: str = _setting("NEWSWIRE_SQS_ENDPOINT_URL", "", "SQS endpoint; empty means Amazon's own.")
    slack_signing_secret: str = _setting(
        "NEWSWIRE_SLACK_SIGNING_SECRET", "", "Verifies what Slack sends to the edge; with it messages have buttons."
    )
    discord_public_key: str = _setting(
        "NEWSWIRE_DISCORD_PUBLIC_KEY", "", "Key in hex that verifies Discord's interactions; with it messages have buttons."
    )
    unknown_window_s: float = _setting(
        "NEWSWIRE_UNKNOWN_WINDOW_S", 0.0, "How long an unknown delivery may take to be resolved; 0 is the provider's own time."
    )
    alert_on_unknown: str = _setting(
        "NEWSWIRE_ALERT_ON_UNKNOWN",
        "resend",
        "What becomes of an alert that stays unknown and has no on_unknown of its own: resend or hold.",
    )
    live: bool = _setting("NEWSWIRE_LIVE", False, "Speak to real providers.")
    allow_list: str = _setting(
        "NEWSWIRE_ALLOW_LIST", "", "With live: recipients that may be sent to, comma-separated; * lifts it."
    )
    rates: str = _setting("NEWSWIRE_RATES", "auto", "Rates of the providers, core/flow/rates.py: on, off, or auto: with live.")
    warmup: str = _setting(
        "NEWSWIRE_WARMUP", "", "Sender domains to be warmed up and their first day, domain=YYYY-MM-DD, comma-separated."
    )
    topic_prefix: str = _setting("NEWSWIRE_TOPIC_PREFIX", "newswire", "What every topic and consumer group begins with.")
    shards: int = _setting("NEWSWIRE_SHARDS", 12, "Partitions of the topics keyed by subscriber; never changed once data exists.")
    replication_factor: int = _setting(
        "NEWSWIRE_REPLICATION_FACTOR", 1, "Of topics that `newswire schemas` creates; 3 in production."
    )
    newsletter_chunks: int = _setting(
        "NEWSWIRE_NEWSLETTER_CHUNKS", 4, "Chunks a shard of a newsletter's slot; at most 2,500 subscribers in each."
    )
    alert_chunks: int = _setting("NEWSWIRE_ALERT_CHUNKS", 1, "Chunks a shard of an alert; at most 2,500 subscribers in each.")
    lease_s: float = _setting("NEWSWIRE_LEASE_S", 45.0, "A claim's lease; longer than the provider's timeout.")
    provider_timeout_s: float = _setting("NEWSWIRE_PROVIDER_TIMEOUT_S", 15.0, "Longest wait for one answer of a provider.")
    consent_lag_s: float = _setting(
        "NEWSWIRE_CONSENT_LAG_S", 2.0, "A sink sends nothing while consent is further behind the log."
    )
    sweep_interval_s: float = _setting(
        "NEWSWIRE_SWEEP_INTERVAL_S", 2.0, "How often a sink looks for ended leases, due retries and unreported outcomes."
    )
    alert_from: str = _setting("NEWSWIRE_ALERT_FROM", "Newswire alerts <alerts@newswire.example>", "Sender of alerts by mail.")
    embedding_model: str = _setting(
        "NEWSWIRE_EMBEDDING_MODEL",
        "",
        "Folder with the embedding model's files; empty means the installed packages, off means no content vectors.",
    )
    training_interval_h: float = _setting("NEWSWIRE_TRAINING_INTERVAL_H", 24.0, "How often the ranking model is fitted anew.")
    training_margin: float = _setting(
        "NEWSWIRE_TRAINING_MARGIN", 0.01, "NDCG@10 that a fitted model may lose against the one in use before it is refused."
    )
    alert_postal_address: str = _setting(
        "NEWSWIRE_ALERT_POSTAL_ADDRESS", "", "Postal address under alerts, required by law in many places."
    )
    templates: str = _setting(
        "NEWSWIRE_TEMPLATES",
        "",
        "Folder (absolute) with mail templates of one's own, name.mjml and name.txt; followed while running.",
    )
    topic_names: str = _setting(
        "NEWSWIRE_TOPIC_NAMES", "", "JSON file (absolute) with the names of topics that readers see, see runtime/topic_names.py."
    )
    snapshot_interval_s: float = _setting("NEWSWIRE_SNAPSHOT_INTERVAL_S", 30.0, "Shortest time between two snapshots of a shard.")
    readership_interval_s: float = _setting(
        "NEWSWIRE_READERSHIP_INTERVAL_S", 5.0, "Shortest time between two counts of how much a shard's subscribers read."
    )
    instance_id: str = _setting("NEWSWIRE_INSTANCE_ID", "", "Static group membership when set; empty is dynamic.")
    session_timeout_s: float = _setting(
        "NEWSWIRE_SESSION_TIMEOUT_S", 15.0, "Partitions of a killed worker go to others after this; brokers allow 6 and more."
    )
    stalled_s: float = _setting(
        "NEWSWIRE_STALLED_S", 120.0, "A stream that leaves events lying for so long starts anew; longer than a rebalance."
    )
    state_dir: str = _setting("NEWSWIRE_STATE_DIR", ".newswire/state", "Folder for Faust's own files.")
    metrics_port: int = _setting("NEWSWIRE_METRICS_PORT", 0, "Port of /metrics and /health on loopback; 0 is none.")
    failpoints: str = _setting("NEWSWIRE_FAILPOINTS", "", "Tests only: name=action, see runtime/failpoints.py.")
    log_level: str = _setting("NEWSWIRE_LOG_LEVEL", "INFO", "Least severe level that is logged.")
    actor: str = _setting("NEWSWIRE_ACTOR", "cli", "Who acts, recorded with what the CLI does.")

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Return the settings of this process; SetupError names a variable whose value cannot be read."""
        real = os.environ if environ is None else environ
        merged = {**_stack_files(real), **real}
        values: dict[str, Any] = {}
        for item in fields(cls):
            env = item.metadata["env"]
            if env in merged:
                values[item.name] = _parse(env, merged[env], item.default)
        return cls(**values)

    def require(self, *names: str) -> None:
        """Raise SetupError when one of these settings is empty; it names the variable to set."""
        for item in fields(self):
            if item.name in names and not getattr(self, item.name):
                raise SetupError(
                    f"{item.metadata['env']} is not set ({item.metadata['doc']}) Start the stack with `make up`, or set it."
                )


def _parse(env: str, text: str, default: Any) -> Any:
    try:
        if isinstance(default, bool):
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}[
                text.strip().lower()
            ]
        return type(default)(text)
    except (KeyError, ValueError):
        raise SetupError(f"{env}={text!r} cannot be read as {type(default).__name__}; correct it or unset it.") from None


def stack_home(environ: Mapping[str, str] | None = None) -> Path | None:
    """Return the nearest `.newswire` folder (NEWSWIRE_HOME, else upwards from the working directory), or None."""
    real = os.environ if environ is None else environ
    if real.get("NEWSWIRE_HOME"):
        return Path(real["NEWSWIRE_HOME"])
    here = Path.cwd()
    return next((p / ".newswire" for p in (here, *here.parents) if (p / ".newswire" / "stack.env").is_file()), None)


def _stack_files(environ: Mapping[str, str]) -> dict[str, str]:
    home = stack_home(environ)
    values: dict[str, str] = {}
    for name in ("stack.env", "process.env"):
        path = home / name if home else None
        if path and path.is_file() and os.access(path, os.R_OK):
            for line in path.read_text().splitlines():
                key, sign, value = line.removeprefix("export ").partition("=")
                if sign and not key.startswith("#"):
                    values[key.strip()] = value.strip().strip("'\"")
    return values
