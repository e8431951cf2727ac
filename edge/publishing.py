"""Commands about publications: publish and retract; and what commands that write events share.

Everything is checked before anything is produced: one wrong line of a file, and nothing of it is written.
"""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from core.errors import EventRefused, InputError, SetupError, Unavailable
from core.folding import first_difference
from runtime.output import Output
from runtime.settings import Settings

if TYPE_CHECKING:
    from edge.writing import Log, NewEvent
    from runtime.documents import Document

READ_MODEL: Final = "projection.publications"
"""Consumer group of the read model that says what is published, without the prefix."""


def read_events(event: str, key: str, topic: str, documents: "list[Document]", defaults: Mapping[str, Any]) -> "list[NewEvent]":
    """Return one event a document, checked; InputError names the place and the field of all that is wrong."""
    from runtime.documents import refuse_all

    found, faults = list["NewEvent"](), list[InputError]()
    for document in documents:
        made, wrong = read_event(event, key, topic, document, defaults)
        found.append(made)
        faults += wrong
    refuse_all(faults)
    return found


def read_event(
    event: str, key: str, topic: str, document: "Document", defaults: Mapping[str, Any]
) -> "tuple[NewEvent, list[InputError]]":
    """Return the event of a document as far as it can be read, and all that is wrong with it."""
    from core.ids import event_id
    from edge.writing import NewEvent
    from runtime.documents import read_value

    value, faults = read_value(event, {**defaults, **document.fields})
    named = str(value.get(key))
    wrong = [document.refuse(InputError(f"{fault.field}: {fault.reason}")) for fault in faults]
    return NewEvent(topic, event, value, named, event_id(event, named, str(value.get("revision", "")))), wrong


@click.command(
    epilog="""\b
Example: newswire publish papers.jsonl, with lines such as
  {"publication_id": "6f1d4f0e-4c0b-4a53-9f0f-6f9e2a6f3a11", "revision": 1, "content_type": "article", "title": "A paper",
   "summary": "What it says.", "url": "https://example.org/p", "authors": ["A. Author"], "topics": {"hep-ph": 1.0},
   "language": "en", "published_at": "2026-11-21T08:30:00Z"}"""
)
@click.argument("file")
@click.pass_obj
def publish(output: Output, file: str) -> None:
    """Publish the publications of FILE: JSON or JSONL in the form of PublicationSubmitted, - for standard input.

    A publication that is known with the same content is left alone; one that is known with other content is refused:
    raise its revision to change it. attributes.alert = "true" asks for an alert when the quality allows one.
    """
    from edge.writing import Log
    from runtime.documents import read_documents

    documents = read_documents(file, sys.stdin)
    with Log(Settings.load()) as log:
        events = read_events("PublicationSubmitted", "publication_id", log.topics.publications, documents, {})
        fresh, checked = _new_publications(log, documents, events)
        with output.progress(len(fresh), "publishing") as done:
            for count in log.write(fresh):
                done(count)
    if not checked:
        output.say(
            "The database does not answer, so nothing was compared with what is published; approval will refuse duplicates."
        )
    output.item({"published": len(fresh), "unchanged": len(events) - len(fresh)})


def _new_publications(log: "Log", documents: "list[Document]", events: "list[NewEvent]") -> "tuple[list[NewEvent], bool]":
    """Return what is not published yet, and whether that could be checked; InputError for other content under a known id."""
    known = _known_publications(log, {event.key for event in events})
    fresh: dict[tuple[str, int], NewEvent] = {}
    at = log.clock.now()
    for document, event in zip(documents, events, strict=True):
        record = log.encode(event, at)
        value = log.codec.decode_value(event.topic, record.value)[1]
        revision, earlier = value["revision"], fresh.get((event.key, value["revision"]))
        published = (known or {}).get(event.key)
        if published is not None and revision < published["revision"]:
            raise document.refuse(InputError(f"revision: {revision} is lower than {published['revision']}, which is published"))
        if published is not None and revision == published["revision"]:
            _refuse_other(document, value, published, "is published")
            continue
        if earlier is not None:
            _refuse_other(document, value, earlier.value, "stands in this file")
            continue
        fresh[event.key, revision] = event._replace(value=value)
    return list(fresh.values()), known is not None


def _refuse_other(document: "Document", value: Mapping[str, Any], other: Mapping[str, Any], where: str) -> None:
    different = first_difference(value, other)
    if different is not None:
        which = f"publication {value['publication_id']} revision {value['revision']}"
        raise document.refuse(InputError(f"{different}: {which} {where} with another one; raise revision to change it"))


def _known_publications(log: "Log", ids: set[str]) -> dict[str, Mapping[str, Any]] | None:
    """Return the newest submitted values by publication_id; None when the database does not answer or has no read model.

    What the read model does not have yet, because it came a moment ago, is read from the log.
    """
    import psycopg

    from core.rules import obeys
    from runtime.postgres import connect

    if not log.settings.database_url:
        return None
    sql = """select publication_id, content_partition, content_offset from api.publications
             where publication_id::text = any(%s) and content_offset is not null"""
    try:
        with connect(log.settings.database_url) as connection:
            rows = connection.execute(sql, [list(ids)]).fetchall()
    except (Unavailable, SetupError, psycopg.Error):
        return None
    events = log.read_positions(log.topics.publications, [(partition, offset) for _, partition, offset in rows])
    known: dict[str, Mapping[str, Any]] = {event.key: event.value for event in events.values()}
    for event in log.events_after(READ_MODEL, log.topics.publications, ids):
        newer = event.key not in known or event.value.get("revision", 0) > known[event.key]["revision"]
        if event.name == "PublicationSubmitted" and newer and obeys(event.name, event.value):
            known[event.key] = event.value
    return known


class Known(NamedTuple):
    """What is known of a publication."""

    retracted: bool
    quality: float | None


def known_publication(log: "Log", publication_id: str) -> Known | None:
    """Return what is known of a publication, None when it was never submitted.

    The read model answers at once, and what it does not have (yet) is looked for in the log.
    """
    import psycopg

    from runtime.postgres import connect

    sql = "select state = 'retracted', quality from api.publications where publication_id::text = %s"
    try:
        with connect(log.settings.database_url) as connection:
            row = connection.execute(sql, [publication_id]).fetchone()
    except (Unavailable, SetupError, psycopg.Error):
        row = None
    if row is not None and row[1] is not None:
        return Known(*row)
    submitted, retracted, quality = False, False, None
    for event in log.events_of(log.topics.publications, [publication_id]):
        submitted = submitted or event.name == "PublicationSubmitted"
        retracted = retracted or event.name == "PublicationRetracted"
        quality = event.value["quality"] if event.name == "PublicationScored" else quality
    return Known(retracted, quality) if submitted else None


@click.command(epilog='Example: newswire retract 6f1d4f0e-4c0b-4a53-9f0f-6f9e2a6f3a11 --reason "The data were wrong"')
@click.argument("publication")
@click.option("--reason", required=True, help="Why, for people.")
@click.pass_obj
def retract(output: Output, publication: str, reason: str) -> None:
    """Retract PUBLICATION: no revision of it is sent any more.

    What was sent of it is changed on Slack and Discord, and webhooks are told; `newswire recalls` shows what became of it.
    """
    from edge.writing import Log

    publication = publication.strip().lower()
    with Log(Settings.load()) as log:
        fields = {
            "publication_id": publication,
            "reason": reason,
            "retracted_by": log.settings.actor,
            "retracted_at": log.clock.now(),
        }
        event = one_event("PublicationRetracted", "publication_id", log.topics.publications, fields)
        known = known_publication(log, publication)
        if known is None:
            raise InputError(f"publication: there is none with the id {publication}; nothing was retracted")
        if not known.retracted:
            log.write_one(event)
    output.item({"publication_id": publication, "state": "retracted", "changed": not known.retracted})
    before = "It was retracted before: nothing was changed. " if known.retracted else ""
    output.say(f"{before}`newswire recalls {publication}` shows what becomes of what was sent of it.")


def one_event(event: str, key: str, topic: str, fields: Mapping[str, Any]) -> "NewEvent":
    """Return one event from options; InputError names the field."""
    from edge.writing import NewEvent
    from runtime.documents import event_value

    try:
        value = event_value(event, fields)
    except EventRefused as error:
        raise InputError(f"{error.field}: {error.reason}") from None
    return NewEvent(topic, event, value, str(value[key]))


def parse_topics(text: str) -> dict[str, float]:
    """Return weights by topic of a text such as hep-ph,hep-th:0.5; InputError for a weight that is none."""
    found = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        topic, _, weight = part.partition(":")
        try:
            found[topic.strip()] = float(weight) if weight else 1.0
        except ValueError:
            raise InputError(f"topics: {weight!r} is no weight; expected such as hep-ph,hep-th:0.5") from None
    return found
