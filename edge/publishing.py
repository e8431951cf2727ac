"""Commands about content: publish, retract, alert and alert-cancel.

Everything is checked before anything is produced: one wrong line of a file, and nothing of it is written.
"""

import sys
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from core.errors import EventRefused, InputError, SetupError, Unavailable
from core.names import PRIORITIES
from runtime.output import Output
from runtime.settings import Settings

if TYPE_CHECKING:
    from edge.writing import Log, NewEvent
    from runtime.documents import Document


def read_events(event: str, key: str, topic: str, documents: "list[Document]", defaults: Mapping[str, Any]) -> "list[NewEvent]":
    """Return one event a document, checked; InputError names the place and the field."""
    from core.ids import event_id
    from edge.writing import NewEvent
    from runtime.documents import event_value

    found = []
    for document in documents:
        try:
            value = event_value(event, {**defaults, **document.fields})
        except EventRefused as error:
            raise document.refuse(InputError(f"{error.field}: {error.reason}")) from None
        found.append(
            NewEvent(topic, event, value, str(value[key]), event_id(event, str(value[key]), str(value.get("revision", ""))))
        )
    return found


def first_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Return the name of the first field in which two values differ, or None."""
    return next((name for name in one if one[name] != other.get(name)), None)


@click.command(epilog="Example: newswire publish papers.jsonl")
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
    known = _known_publications(log, [event.key for event in events])
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


def _known_publications(log: "Log", ids: list[str]) -> dict[str, dict[str, Any]] | None:
    """Return the newest submitted values by publication_id; None when the database does not answer or has no read model."""
    import psycopg

    from runtime.postgres import connect

    if not log.settings.database_url:
        return None
    sql = """select publication_id, content_partition, content_offset from api.publications
             where publication_id::text = any(%s) and content_offset is not null"""
    try:
        with connect(log.settings.database_url) as connection:
            rows = connection.execute(sql, [ids]).fetchall()
    except (Unavailable, SetupError, psycopg.Error):
        return None
    events = log.read_positions(log.topics.publications, [(partition, offset) for _, partition, offset in rows])
    return {event.key: event.value for event in events.values()}


@click.command(epilog='Example: newswire retract 6f1d4f0e-4c0b-4a53-9f0f-6f9e2a6f3a11 --reason "The data were wrong"')
@click.argument("publication")
@click.option("--reason", required=True, help="Why, for people.")
@click.pass_obj
def retract(output: Output, publication: str, reason: str) -> None:
    """Retract PUBLICATION: no revision of it is sent any more.

    What was sent of it is changed on Slack and Discord, and webhooks are told; `newswire recalls` shows what became of it.
    """
    from edge.writing import Log

    with Log(Settings.load()) as log:
        fields = {
            "publication_id": publication,
            "reason": reason,
            "retracted_by": log.settings.actor,
            "retracted_at": log.clock.now(),
        }
        log.write_one(one_event("PublicationRetracted", "publication_id", log.topics.publications, fields))
    output.item({"publication_id": publication, "state": "retracted"})


def one_event(event: str, key: str, topic: str, fields: Mapping[str, Any]) -> "NewEvent":
    """Return one event from options; InputError names the field."""
    from edge.writing import NewEvent
    from runtime.documents import event_value

    try:
        value = event_value(event, fields)
    except EventRefused as error:
        raise InputError(f"{error.field}: {error.reason}") from None
    return NewEvent(topic, event, value, str(value[key]))


@click.command(
    epilog='Example: newswire alert --title "Release withdrawn" --body "Do not use it." --priority critical --quality 0.95'
)
@click.argument("file", required=False)
@click.option("--file", "file_option", help="The same as FILE.")
@click.option("--title", help="Title, at most 500 characters.")
@click.option("--body", default="", help="Text.")
@click.option("--url", help="Address of more.")
@click.option("--topics", help="Whom it concerns, such as hep-ph,hep-th:0.5; nobody named means everybody who takes alerts.")
@click.option(
    "--priority", type=click.Choice(PRIORITIES), default="normal", show_default=True, help="critical passes quiet hours and caps."
)
@click.option("--language", default="en", show_default=True, help="BCP 47 tag of the text.")
@click.option("--quality", type=float, help="0 to 1; without it that of the publication counts.")
@click.option("--publication", "publication_id", help="The publication it is about.")
@click.option("--dedup-key", help="Alerts with the same key within a day reach a subscriber once.")
@click.option("--expires-at", help="When it stops being worth sending, such as 2026-11-22T18:00:00Z; 24 h from now by default.")
@click.option("--alert-id", help="UUID; a random one by default. The same id again is the same alert.")
@click.pass_obj
def alert(output: Output, /, file: str | None, file_option: str | None, topics: str | None, **options: Any) -> None:
    """Raise an alert from options, or the alerts of FILE (JSON or JSONL in the form of AlertRaised, - for standard input)."""
    from edge.writing import Log
    from runtime.documents import Document, read_documents

    name = file or file_option
    if (name is None) == (options["title"] is None):
        raise InputError("title: expected either --title or a FILE")
    with Log(Settings.load()) as log:
        now = log.clock.now()
        if name is not None:
            documents = read_documents(name, sys.stdin)
        else:
            fields = {field: value for field, value in options.items() if value is not None}
            documents = [Document({**fields, "topics": parse_topics(topics or "")}, "alert")]
        named = [Document({"alert_id": str(uuid.uuid4()), **d.fields}, d.place) for d in documents]
        defaults = {"topics": [], "priority": "normal", "language": "en", "raised_at": now}
        events = read_events("AlertRaised", "alert_id", log.topics.alerts, named, defaults)
        with output.progress(len(events), "raising alerts") as done:
            for count in log.write(events):
                done(count)
    for event in events:
        output.item({"alert_id": event.key, "title": event.value["title"], "priority": event.value["priority"]})


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


@click.command(
    "alert-cancel", epilog='Example: newswire alert-cancel 0b5f8a3e-6f3e-4b64-9a39-0c8a3a6b0001 --reason "False alarm"'
)
@click.argument("alert_id")
@click.option("--reason", required=True, help="Why, for people.")
@click.pass_obj
def alert_cancel(output: Output, alert_id: str, reason: str) -> None:
    """Cancel an alert: what was not sent yet stays unsent, and what was is changed where the channel can."""
    from edge.writing import Log

    with Log(Settings.load()) as log:
        fields = {"alert_id": alert_id, "reason": reason, "cancelled_at": log.clock.now()}
        log.write_one(one_event("AlertCancelled", "alert_id", log.topics.alerts, fields))
    output.item({"alert_id": alert_id, "state": "cancelled"})
