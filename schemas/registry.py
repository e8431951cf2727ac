"""The schema registry: where a process asks for ids and schemas, and where `newswire schemas sync` registers the files.

Subjects follow TopicRecordNameStrategy, compatibility is FULL_TRANSITIVE. The client's own retries are off: a codec that
cannot reach the registry pauses its partition and asks again, where that can be seen.
"""

import http.client
import json
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from core.errors import InputError, SetupError, Unavailable, UnknownSchema
from schemas import clients, files, lock
from schemas.compat import ADVICE, changes, same
from schemas.files import Schema
from schemas.sources import subject_of
from schemas.topics import ClusterSettings, Topics

COMPATIBILITY: Final = "FULL_TRANSITIVE"
TIMEOUT_S: Final = 5.0
"""Longest wait for one answer; the client's own default is to wait for ever."""
PAGE: Final = 1000
"""Subjects asked for at once."""
SYNC_TIMEOUT_S: Final = 30.0
"""The same while registering, when a registry may have just been started."""
MEDIA_TYPE: Final = "application/vnd.schemaregistry.v1+json"
_WORKERS: Final = 8
"""Requests at once while registering: more do not make a registry with one core faster."""
_NOT_FOUND: Final = 404
_NOT_FOUND_CODES: Final = (40401, 40402, 40403)
"""Confluent's codes for an unknown subject, version and schema; a 404 without one comes from something else."""

T = TypeVar("T")


def _client(url: str, timeout_s: float) -> Any:
    clients.load()
    from confluent_kafka.schema_registry import SchemaRegistryClient  # 0.4 s

    try:
        return SchemaRegistryClient({"url": url, "timeout": timeout_s, "max.retries": 0})
    except ValueError:
        raise SetupError(f"{url!r} is no address of a schema registry; correct SCHEMA_REGISTRY_URL.") from None


def _ask(url: str, call: Callable[[], T]) -> T:
    """Return what a call to the registry gives.

    Raises _NotFound when the registry knows no such subject, version or id, Unavailable on 5xx and when nobody answers,
    SetupError when it is no registry that answers, InputError when it refuses.
    """
    import httpx2  # what the client itself is built on
    from confluent_kafka.schema_registry.error import SchemaRegistryError

    try:
        return call()
    except SchemaRegistryError as error:
        if error.error_code in _NOT_FOUND_CODES:
            raise _NotFound from None
        if error.http_status_code == _NOT_FOUND:
            raise SetupError(f"what answers at {url} is no schema registry; correct SCHEMA_REGISTRY_URL.") from None
        if error.http_status_code >= 500 or error.http_status_code in (408, 429):
            raise Unavailable(f"the schema registry at {url} answers {error.http_status_code}; see `make logs`.") from None
        raise InputError(f"the schema registry refused it ({error.http_status_code}): {error.error_message}") from None
    except httpx2.HTTPError as error:
        raise Unavailable(
            f"the schema registry at {url} does not answer ({type(error).__name__}): start it with `make up`, "
            "or set SCHEMA_REGISTRY_URL."
        ) from None
    except httpx2.InvalidURL:
        raise SetupError(f"{url!r} is no address of a schema registry; correct SCHEMA_REGISTRY_URL.") from None
    except json.JSONDecodeError:
        raise SetupError(f"what answers at {url} is no schema registry; correct SCHEMA_REGISTRY_URL.") from None


class _NotFound(Exception):
    """The registry has no such subject, version or id."""


def _find(url: str, call: Callable[[], T]) -> T | None:
    """Return what a call gives, None when the registry has no such thing; raises as _ask does."""
    try:
        return _ask(url, call)
    except _NotFound:
        return None


class RegistrySource:
    """A SchemaSource that asks the registry once for each id and each subject.

    It speaks plain HTTP: importing the registry's client costs 0.3 s of CPU, in each of a stack's 18 processes. A user and
    a password in the URL are sent as basic authentication. Making one asks nothing yet.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._ids: dict[tuple[str, str], int] = {}
        self._schemas: dict[int, Schema] = {}
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SetupError(f"{url!r} is no address of a schema registry; correct SCHEMA_REGISTRY_URL.")
        self._headers = {"Accept": MEDIA_TYPE, "Content-Type": MEDIA_TYPE}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        self._base = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")

    def id_of(self, topic: str, event: str) -> int:
        """Return the id of the newest version of our file; SetupError when it is not registered, else Unavailable."""
        known = self._ids.get((topic, event))
        if known is not None:
            return known
        body = {"schema": json.dumps(files.schema(event)), "schemaType": "AVRO"}
        found = self._ask(f"/subjects/{quote(subject_of(topic, event), safe='')}", body)
        if found is None:
            raise SetupError(f"{event} as it stands in schemas/avro is not registered for {topic}; run `make schemas`.")
        schema_id = self._ids[topic, event] = int(found["id"])
        return schema_id

    def schema_of(self, schema_id: int) -> Schema:
        """Return the schema of an id; UnknownSchema when the registry has none, Unavailable when it does not answer."""
        known = self._schemas.get(schema_id)
        if known is not None:
            return known
        found = self._ask(f"/schemas/ids/{schema_id}")
        if found is None:
            raise UnknownSchema(f"the registry has no schema with the id {schema_id}")
        try:
            schema: Schema = json.loads(found["schema"])
        except json.JSONDecodeError:
            raise UnknownSchema(f"the schema with the id {schema_id} is no Avro") from None
        self._schemas[schema_id] = schema
        return schema

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Return the answer; None when the registry knows no such subject, schema or id; raises as the module's `_ask`."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, self._headers)  # noqa: S310 - http or https, see __init__
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:  # noqa: S310
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            self._raise_unless_unknown(error)
            return None
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(
                f"the schema registry at {self._base} does not answer ({type(error).__name__}): start it with `make up`, "
                "or set SCHEMA_REGISTRY_URL."
            ) from None
        except ValueError:
            raise self._no_registry() from None
        if not isinstance(found, dict) or not {"schema", "id"} & set(found):
            raise self._no_registry()
        return found

    def _raise_unless_unknown(self, error: urllib.error.HTTPError) -> None:
        """Raise what a refusal means; return when it says that there is no such subject, schema or id."""
        try:
            answer = json.loads(error.read())
            code, message = answer["error_code"], answer.get("message")
        except (ValueError, KeyError, TypeError, OSError):
            code, message = 0, error.reason
        if code in _NOT_FOUND_CODES:
            return
        if error.code >= 500 or error.code in (408, 429):
            raise Unavailable(f"the schema registry at {self._base} answers {error.code}; see `make logs`.") from None
        if error.code == _NOT_FOUND:
            raise self._no_registry() from None
        raise InputError(f"the schema registry refused it ({error.code}): {message}") from None

    def _no_registry(self) -> SetupError:
        return SetupError(f"what answers at {self._base} is no schema registry; correct SCHEMA_REGISTRY_URL.")


@dataclass(frozen=True, slots=True)
class Synced:
    """What a sync found and did."""

    subjects: int
    registered: tuple[str, ...]
    """Subject and version of what was registered, such as newswire.alerts-newswire.AlertRaised v1."""


def _subjects(url: str, client: Any) -> set[str]:
    """Return the names of all subjects; a registry may answer at most so many at once (Apicurio: 1,000)."""
    found: set[str] = set()
    while True:
        page = _ask(url, partial(client.get_subjects, offset=len(found), limit=PAGE))
        found.update(page)
        if len(page) < PAGE:
            return found


def sync(settings: ClusterSettings, *, schemas: Callable[[str], list[Schema]] | None = None) -> Synced:
    """Set FULL_TRANSITIVE and register every version of every event of every topic; what is there already stays.

    schemas gives the versions of an event, oldest first; the files by default. Raises InputError, one line a problem,
    when a published schema was edited or a new version is incompatible: then nothing is registered. Raises Unavailable.
    """
    url, topics = settings.schema_registry_url, Topics.of(settings)
    if schemas is None:
        broken = lock.problems()
        if broken:
            raise InputError("\n".join(broken))
    versions = schemas or file_versions
    client = _client(url, SYNC_TIMEOUT_S)
    subjects = _subjects(url, client)
    _set_compatibility(url, client)
    wanted = [(subject_of(spec.name, event), event) for spec in topics.specs() for event in spec.events]
    sight = _Registry(url, client)
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="schemas") as pool:
        plans = list(pool.map(lambda one: sight.plan(one[0], one[1], versions(one[1]), one[0] in subjects), wanted))
        problems = [problem for plan in plans for problem in plan.problems]
        if problems:
            raise InputError("\n".join(dict.fromkeys(problems)))
        done = list(pool.map(sight.register, [plan for plan in plans if plan.missing]))
    return Synced(len(wanted), tuple(line for lines in done for line in lines))


def _set_compatibility(url: str, client: Any) -> None:
    if _find(url, client.get_compatibility) == COMPATIBILITY:
        return
    try:
        _ask(url, lambda: client.set_compatibility(level=COMPATIBILITY))
    except InputError:
        if _find(url, client.get_compatibility) != COMPATIBILITY:  # Apicurio refuses the second of two that set it at once
            raise


def file_versions(event: str) -> list[Schema]:
    """Return the versions of an event as they stand in its files, oldest first."""
    return [files.schema(event, number + 1) for number in range(len(files.versions()[event]))]


@dataclass(frozen=True, slots=True)
class _Plan:
    subject: str
    missing: tuple[tuple[int, Schema], ...]
    problems: tuple[str, ...]


class _Registry:
    """One registry as sync sees it; its methods run in several threads."""

    def __init__(self, url: str, client: Any) -> None:
        self._url = url
        self._client = client

    def plan(self, subject: str, event: str, versions: list[Schema], exists: bool) -> _Plan:
        """Return which versions are to be registered, and what stands against it.

        Texts are compared, one request for a subject that is as it should be: to look a schema up would be as fast, but
        Apicurio finds it although its documentation differs.
        """
        if not exists:
            return _Plan(subject, tuple(enumerate(versions, 1)), ())
        latest = _find(self._url, partial(self._client.get_latest_version, subject))
        if latest is not None and same(json.loads(latest.schema.schema_str), versions[-1]):
            return _Plan(subject, (), ())
        registered = self._registered(subject)
        missing = tuple(
            (number, one) for number, one in enumerate(versions, 1) if not any(same(one, known) for known in registered)
        )
        return _Plan(subject, missing, tuple(_objections(event, missing, registered)))

    def _registered(self, subject: str) -> list[Schema]:
        numbers = _ask(self._url, partial(self._client.get_versions, subject))
        answers = (_ask(self._url, partial(self._client.get_version, subject, number)) for number in sorted(numbers))
        return [json.loads(answer.schema.schema_str) for answer in answers]

    def register(self, plan: _Plan) -> list[str]:
        """Register what is missing, in order; InputError carries the registry's own words when it refuses."""
        lines = []
        for number, schema in plan.missing:
            try:
                _ask(self._url, partial(self._client.register_schema, plan.subject, _avro(schema)))
            except InputError as error:
                raise InputError(f"{plan.subject}, version {number}: {error}; {ADVICE}.") from None
            lines.append(f"{plan.subject} v{number}")
        return lines


def _objections(event: str, missing: Iterable[tuple[int, Schema]], registered: list[Schema]) -> Iterable[str]:
    for number, schema in missing:
        if number <= len(registered):
            differing = changes(registered[number - 1], schema)
            yield lock.edited(event, number, f" since it was registered ({'; '.join(map(str, differing))})")
            continue
        for earlier_number, earlier in enumerate(registered, 1):
            for change in changes(earlier, schema):
                if change.breaking:
                    path = f"{event}.{change.field}" if change.field else event
                    yield f"{path}: {change.what} between versions {earlier_number} and {number}: {ADVICE}."


def _avro(schema: Schema) -> Any:
    from confluent_kafka.schema_registry import Schema as RegistrySchema

    return RegistrySchema(json.dumps(schema), "AVRO")
