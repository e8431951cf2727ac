"""Where the codec gets schemas and their ids from; `schemas.registry` has the one that asks the registry."""

from typing import Protocol

from core.errors import UnknownSchema, WrongTopic
from schemas import files
from schemas.files import Schema
from schemas.topics import Topics


class SchemaSource(Protocol):
    """Ids and schemas; both are cached by the source, because neither ever changes."""

    def id_of(self, topic: str, event: str) -> int:
        """Return the registered id of the newest version of our file under the subject of topic and event.

        Raises SetupError when it is not registered, Unavailable when the registry does not answer.
        """

    def schema_of(self, schema_id: int) -> Schema:
        """Return the writer's schema of an id; UnknownSchema when there is none, Unavailable when nobody answers."""


class FileSource:
    """The files alone: for tests without a registry, and for checking input before there is one.

    Its ids are taken from the fingerprints, so they are the same in every process and none is a registry's on purpose.
    """

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._by_id = {
            _invented_id(event, number): files.schema(event, number)
            for event, paths in files.versions().items()
            for number in range(1, len(paths) + 1)
        }

    def id_of(self, topic: str, event: str) -> int:
        """Return the id of the newest version; WrongTopic when the topic does not hold such events."""
        if event not in self._topics.spec(topic).events:
            raise WrongTopic(f"{event} does not belong to {topic}")
        return _invented_id(event, len(files.versions()[event]))

    def schema_of(self, schema_id: int) -> Schema:
        """Return the schema of an invented id."""
        try:
            return self._by_id[schema_id]
        except KeyError:
            raise UnknownSchema(f"no schema has the id {schema_id}") from None


def _invented_id(event: str, version: int) -> int:
    return int(files.fingerprint(files.schema(event, version))[:7], 16)


def subject_of(topic: str, event: str) -> str:
    """Return the registry's subject of an event in a topic (TopicRecordNameStrategy)."""
    return f"{topic}-{files.NAMESPACE}.{event}"
