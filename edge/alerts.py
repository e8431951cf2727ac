"""Commands about alerts: alert and alert-cancel.

An alert that would reach nobody is refused, and so is another one under a known id; the same one again writes nothing.
"""

import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from core.errors import InputError
from core.folding import first_difference
from core.names import POLICIES, PRIORITIES
from edge.publishing import known_publication, one_event, parse_topics, read_events
from runtime.output import Output
from runtime.settings import Settings

if TYPE_CHECKING:
    from edge.writing import Log, NewEvent
    from runtime.documents import Document


@click.command(
    epilog="""\b
Examples:
  newswire alert --title "Release withdrawn" --body "Do not use it." --priority critical --quality 0.95
  newswire alert --file alerts.jsonl, with lines such as {"title": "Release withdrawn", "body": "", "quality": 0.95}"""
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
@click.option("--quality", type=float, help="Above 0.9, at most 1; with --publication its quality counts when this is left out.")
@click.option("--publication", "publication_id", help="The publication it is about.")
@click.option("--dedup-key", help="Alerts with the same key within a day reach a subscriber once.")
@click.option("--expires-at", help="When it stops being worth sending, such as 2026-11-22T18:00:00Z; 24 h from now by default.")
@click.option(
    "--on-unknown", type=click.Choice(POLICIES), help="What becomes of a delivery whose outcome stays unknown; resend by default."
)
@click.option("--alert-id", help="UUID; a random one by default. The same id again with the same content changes nothing.")
@click.pass_obj
def alert(output: Output, /, file: str | None, file_option: str | None, topics: str | None, **options: Any) -> None:
    """Raise an alert from options, or the alerts of FILE (JSON or JSONL in the form of AlertRaised, - for standard input).

    Only a quality above 0.9 is sent to anybody: an alert without one is refused.
    """
    from edge.writing import Log
    from runtime.documents import Document, read_documents

    name = file or file_option
    if (name is None) == (options["title"] is None):
        raise InputError("title: expected either --title or a FILE")
    with Log(Settings.load()) as log:
        if name is not None:
            documents = read_documents(name, sys.stdin)
        else:
            fields = {field: value for field, value in options.items() if value is not None}
            documents = [Document({**fields, "topics": parse_topics(topics or "")}, "alert")]
        ids = [str(uuid.uuid4()) if d.fields.get("alert_id") is None else d.fields["alert_id"] for d in documents]
        named = [Document({**d.fields, "alert_id": id_}, d.place) for d, id_ in zip(documents, ids, strict=True)]
        defaults = {"topics": [], "priority": "normal", "language": "en", "raised_at": log.clock.now()}
        events = read_events("AlertRaised", "alert_id", log.topics.alerts, named, defaults)
        for document, event in zip(documents, events, strict=True):
            _refuse_unread(log, document, event.value)
        fresh = _new_alerts(log, documents, events)
        with output.progress(len(fresh), "raising alerts") as done:
            for count in log.write(list(fresh.values())):
                done(count)
    for event in dict(zip((e.key for e in events), events, strict=True)).values():
        raised = event.key in fresh
        title, priority = event.value["title"], event.value["priority"]
        output.item({"alert_id": event.key, "title": title, "priority": priority, "raised": raised})
        if not raised:
            output.say("This alert was raised before with the same content: nothing was changed.")
        elif len(events) == 1:
            output.say(f"`newswire accounting {event.key}` shows what comes of it.")


def _refuse_unread(log: "Log", document: "Document", value: Mapping[str, Any]) -> None:
    """Raise InputError when the deciders would gate the alert for everybody, or its publication is not known."""
    from core.content import ALERT_QUALITY

    quality, publication_id = value["quality"], value["publication_id"]
    publication = None if publication_id is None else known_publication(log, publication_id)
    nobody = f"the alert would reach nobody; give a quality above {ALERT_QUALITY:g}, such as --quality 0.95"
    if publication_id is not None and publication is None:
        raise document.refuse(InputError(f"publication_id: there is no publication {publication_id}; correct it or leave it out"))
    if quality is None and publication is None:
        raise document.refuse(InputError(f"quality: is missing, and {nobody}, or --publication ID to take that of a publication"))
    if quality is None and publication is not None:
        quality = publication.quality
        if quality is None:
            raise document.refuse(InputError(f"quality: publication {publication_id} is not scored yet, and {nobody}"))
    if not quality > ALERT_QUALITY:
        raise document.refuse(InputError(f"quality: {quality:g} is too low, and {nobody}"))


def _new_alerts(log: "Log", documents: "Sequence[Document]", events: "Sequence[NewEvent]") -> "dict[str, NewEvent]":
    """Return the alerts that were not raised before, by id; InputError for other content under a known id."""
    from core.rules import obeys

    given = [event.key for document, event in zip(documents, events, strict=True) if document.fields.get("alert_id")]
    known: dict[str, Mapping[str, Any]] = {}
    for event in log.events_of(log.topics.alerts, given) if given else ():
        if event.name == "AlertRaised" and obeys(event.name, event.value):
            known.setdefault(event.key, event.value)
    fresh: dict[str, NewEvent] = {}
    at = log.clock.now()
    for document, new in zip(documents, events, strict=True):
        value = log.codec.decode_value(new.topic, log.encode(new, at).value)[1]
        first = known.setdefault(new.key, value)
        if first is value:
            fresh[new.key] = new
            continue
        different = first_difference(value, first, ("raised_at",))
        if different is not None:
            text = f"{different}: alert {new.key} was raised with another one; cancel it with `newswire alert-cancel`, or leave"
            raise document.refuse(InputError(f"{text} alert_id out for a new alert"))
    return fresh


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
        event = one_event("AlertCancelled", "alert_id", log.topics.alerts, fields)
        if not any(known.name == "AlertRaised" for known in log.events_of(log.topics.alerts, [alert_id])):
            raise InputError(f"alert_id: no alert {alert_id} was raised; `newswire accounting` lists those of the last days")
        log.write_one(event)
    output.item({"alert_id": alert_id, "state": "cancelled"})
    output.say(f"`newswire recalls {alert_id}` shows what becomes of it.")
