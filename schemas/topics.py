"""The topics: full names, partitions and configuration, read from `schemas/catalogue/*.yaml`.

A file there describes one topic, or a family such as `deliveries.{channel}.{lane}`, whose members are all combinations
of what `for` names. Every other part of the system asks this module, so that a name is spelled in one place only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, Final, Literal, Protocol, Self, cast

import yaml

from core.errors import SetupError
from core.names import CHANNELS, LANES
from schemas.files import FOLDER
from schemas.plans import plan_of

Check = Literal["key", "shard", "none"]

MAX_MESSAGE_BYTES: Final = 2 * 1024 * 1024
"""Largest record that topics and clients allow; a decision is asserted to stay below 512 kB."""

_DAY_MS: Final = 86_400_000
_FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {"channels": CHANNELS, "lanes": LANES}
_FIELDS: Final = {"topic", "doc", "producers", "consumers", "key", "check", "partitions", "events", "retention"}
_OPTIONAL: Final = {"for", "key_field", "cleanup", "config", "dead_letters"}


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic: what is in it, how it is keyed and how it is created."""

    name: str
    """Full name, prefix included."""
    base: str
    """Name without the prefix."""
    family: str
    """Name as its YAML file spells it, such as deliveries.{channel}.{lane}."""
    partitions: int
    sharded: bool
    """Whether it must have as many partitions as there are shards."""
    config: Mapping[str, str]
    """Configuration to create it with, except what depends on the size of the cluster."""
    key: str
    """What the key is, for people."""
    key_field: str | None
    """Field of the value whose text is the key."""
    check: Check
    """What is checked on decoding: the key's partition, that the record's shard is the partition, or nothing."""
    events: tuple[str, ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    doc: str
    retention: str
    dead_letters: str | None
    """Full name of its dead-letter topic."""

    @property
    def compacted(self) -> bool:
        """Whether only the newest record of a key is kept, so that a tombstone takes a key out."""
        return self.config["cleanup.policy"] == "compact"

    @property
    def personal(self) -> bool:
        """Whether an event of it has an encrypted field, so that a producer's mistake could put personal data in the clear."""
        return any(plan.encrypted or plan.encrypted_nested for plan in map(plan_of, self.events))


class ClusterSettings(Protocol):
    """What this package must know of the settings, which belong to another one."""

    @property
    def kafka_bootstrap_servers(self) -> str: ...  # noqa: D102
    @property
    def schema_registry_url(self) -> str: ...  # noqa: D102
    @property
    def topic_prefix(self) -> str: ...  # noqa: D102
    @property
    def shards(self) -> int: ...  # noqa: D102
    @property
    def replication_factor(self) -> int: ...  # noqa: D102


@cache
def catalogue() -> tuple[Mapping[str, Any], ...]:
    """Return the YAML documents in the order of their names; SetupError names a file and a field that is wrong."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    documents = []
    for path in sorted((FOLDER / "catalogue").glob("*.yaml")):
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506  (a safe loader, in C)
        strange, missing = sorted(set(document) - _FIELDS - _OPTIONAL), sorted(_FIELDS - set(document))
        if strange or missing:
            raise SetupError(f"schemas/catalogue/{path.name}: fields {strange} are unknown, fields {missing} are missing.")
        documents.append(document)
    return tuple(documents)


class Topics:
    """Full names and descriptions of all topics under one prefix."""

    publications: str
    alerts: str
    ticks: str
    subscribers: str
    engagements: str
    provider_events: str
    experiments: str
    newsletters: str
    controls: str
    models: str
    readership: str
    audience_alerts: str
    audience_newsletters: str
    decisions_urgent: str
    decisions_bulk: str
    delivery_status: str
    snapshots_alerts: str
    snapshots_newsletters: str

    def __init__(self, prefix: str = "newswire", shards: int = 12) -> None:
        self.prefix = prefix
        self.shards = shards
        self._specs: dict[str, TopicSpec] = {}
        dead: list[Mapping[str, Any]] = []
        for document in catalogue():
            if "topic" in document.get("for", {}):
                dead.append(document)
                continue
            for values in _members(document):
                self._add(_spec(document, values, prefix, shards))
        for document in dead:
            for source in [spec for spec in self._specs.values() if spec.dead_letters]:
                self._add(_spec(document, {"topic": source.base}, prefix, shards))
        for spec in self._specs.values():
            setattr(self, spec.base.replace(".", "_").replace("-", "_"), spec.name)

    @classmethod
    def of(cls, settings: ClusterSettings) -> Self:
        """Return the topics under the settings' prefix and number of shards."""
        return cls(settings.topic_prefix, settings.shards)

    def _add(self, spec: TopicSpec) -> None:
        assert spec.name not in self._specs, f"{spec.name} is described twice in schemas/catalogue"
        self._specs[spec.name] = spec

    def deliveries(self, channel: str, lane: str) -> str:
        """Return the topic of the deliveries of one channel and lane."""
        return self._known(f"deliveries.{channel}.{lane}")

    def decisions(self, lane: str) -> str:
        """Return the topic of the decisions of a lane."""
        return self._known(f"decisions.{lane}")

    def dead_letters(self, topic: str) -> str:
        """Return the dead-letter topic of a topic, given by its full name."""
        return f"{topic}.dlq"

    def specs(self) -> list[TopicSpec]:
        """Return every topic, those of dead letters included."""
        return list(self._specs.values())

    def spec(self, topic: str) -> TopicSpec:
        """Return the description of a topic, given by its full name; KeyError when there is none."""
        return self._specs[topic]

    def topics_of(self, event: str) -> list[str]:
        """Return the full names of the topics that an event may be in."""
        return [spec.name for spec in self._specs.values() if event in spec.events]

    def _known(self, base: str) -> str:
        name = f"{self.prefix}.{base}"
        if name not in self._specs:
            raise KeyError(f"there is no topic {name}")
        return name


def topic(base: str, prefix: str = "newswire") -> str:
    """Return the full name of a topic, such as newswire.publications."""
    return f"{prefix}.{base}"


def _members(document: Mapping[str, Any]) -> list[dict[str, str]]:
    parameters = document.get("for", {})
    choices = [_FAMILIES[family] for family in parameters.values()]
    return [dict(zip(parameters, values, strict=True)) for values in product(*choices)]


def _spec(document: Mapping[str, Any], values: Mapping[str, str], prefix: str, shards: int) -> TopicSpec:
    base = str(document["topic"]).format(**values)
    sharded = document["partitions"] == "shards"
    name = f"{prefix}.{base}"
    return TopicSpec(
        name=name,
        base=base,
        family=str(document["topic"]),
        partitions=shards if sharded else int(document["partitions"]),
        sharded=sharded,
        config={
            "cleanup.policy": document.get("cleanup", "delete"),
            "retention.ms": str(_retention_ms(str(document["retention"]))),
            "max.message.bytes": str(MAX_MESSAGE_BYTES),
            **document.get("config", {}),
        },
        key=str(document["key"]),
        key_field=document.get("key_field"),
        check=cast(Check, document["check"]),
        events=tuple(document["events"]),
        producers=tuple(document["producers"]),
        consumers=tuple(document["consumers"]),
        doc=str(document["doc"]),
        retention=str(document["retention"]),
        dead_letters=f"{name}.dlq" if document.get("dead_letters", False) else None,
    )


def _retention_ms(retention: str) -> int:
    if retention == "forever":
        return -1
    days, unit = retention.split()
    if unit != "days":
        raise SetupError(f"retention {retention!r} in schemas/catalogue: expected forever, or a number of days such as 90 days.")
    return int(days) * _DAY_MS
