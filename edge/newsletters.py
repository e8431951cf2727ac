"""Commands about newsletters: define and list them.

A definition is checked before it is written, and one that changes nothing writes nothing.
"""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from core.errors import InputError
from core.folding import first_difference
from core.newsletters import INCIDENTAL
from edge.publishing import read_events
from runtime.output import Output
from runtime.settings import Settings

if TYPE_CHECKING:
    from core.newsletters import Definitions
    from edge.writing import Log, NewEvent
    from runtime.documents import Document


@click.group()
def newsletter() -> None:
    """Define newsletters, and list them."""


NEWSLETTER_DEFAULTS: dict[str, Any] = {
    "subject": "{title}",
    "days": [1, 2, 3, 4, 5, 6, 7],
    "local_minute": 540,
    "audience_topics": [],
    "audience_languages": [],
    "audience_tags": [],
    "audience_channels": [],
    "content_types": [],
    "max_age_h": 72,
    "min_quality": 0.8,
    "max_items": 10,
    "half_life_h": 24.0,
    "template": "newsletter",
    "canary_share": 0.0,
    "canary_hold_min": 30,
    "on_unknown": "hold",
}
"""What a definition may leave out: every day at 9:00 local time, for everybody who subscribed, the 10 best of 3 days."""


@newsletter.command("define", epilog="Example: newswire newsletter define daily.json")
@click.argument("file")
@click.pass_obj
def newsletter_define(output: Output, file: str) -> None:
    """Define the newsletters of FILE: JSON or JSONL in the form of NewsletterDefined, - for standard input.

    Needed are newsletter_id, name, from_address and postal_address. The revision is the next one when it is left out; the
    same definition again changes nothing.
    """
    from edge.writing import Log
    from runtime.documents import read_documents

    documents = read_documents(file, sys.stdin)
    with Log(Settings.load()) as log:
        known = defined_newsletters(log)
        defaults = {**NEWSLETTER_DEFAULTS, "defined_at": log.clock.now()}
        written = []
        for document in documents:
            fields = document.fields
            earlier = known.newest(str(fields.get("newsletter_id")))
            before = earlier["revision"] if earlier else 0
            filled = {**defaults, "from_name": fields.get("name"), "revision": max(before, 1), **fields}
            event = read_events("NewsletterDefined", "newsletter_id", log.topics.newsletters, [document], filled)[0]
            revision = _revision_of(document, event, earlier, given="revision" in fields)
            written.append((event.key, revision, revision != before))
            if revision != before:
                log.write_one(event._replace(value={**event.value, "revision": revision}))
    for key, revision, changed in written:
        output.item({"newsletter_id": key, "revision": revision, "changed": changed})


def _revision_of(document: "Document", event: "NewEvent", earlier: Mapping[str, Any] | None, *, given: bool) -> int:
    """Return the revision to write, that of the known definition when nothing changed; InputError for a wrong one."""
    asked: int = event.value["revision"]
    if earlier is None:
        return asked if given else 1
    before: int = earlier["revision"]
    different = first_difference(event.value, earlier, INCIDENTAL)
    if not given:
        return before if different is None else before + 1
    if asked < before or (asked == before and different is not None):
        field = "revision" if asked < before else different
        raise document.refuse(
            InputError(f"{field}: revision {before} is defined already; give {before + 1}, or leave revision out")
        )
    return asked


def defined_newsletters(log: "Log") -> "Definitions":
    """Return the newsletters as they are defined now."""
    from core.newsletters import Definitions

    known = Definitions()
    for event in log.read_all(log.partitions(log.topics.newsletters)):
        known.apply(event, event.offset)
    return known


@newsletter.command("list", epilog="Example: newswire newsletter list")
@click.pass_obj
def newsletter_list(output: Output) -> None:
    """List the newsletters as they are defined now."""
    from edge.writing import Log

    days = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    with Log(Settings.load()) as log:
        rows = [
            (
                v["newsletter_id"],
                v["revision"],
                v["name"],
                "daily" if len(set(v["days"])) == 7 else " ".join(days[d - 1] for d in v["days"]),
                f"{v['local_minute'] // 60:02d}:{v['local_minute'] % 60:02d}",
                v["max_items"],
                v["from_address"],
            )
            for v in defined_newsletters(log).all()
        ]
    output.table("Newsletters", ["newsletter_id", "revision", "name", "days", "local_time", "max_items", "from_address"], rows)
