"""Commands about newsletters: define and list them.

A definition is checked before it is written, and one that changes nothing writes nothing.
"""

import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from core.errors import InputError
from core.folding import first_difference
from core.newsletters import INCIDENTAL
from edge.advice import say, unknown_topics
from edge.own_templates import OwnTemplates
from edge.publishing import read_event
from runtime.output import Output, plain
from runtime.settings import Settings

if TYPE_CHECKING:
    from datetime import datetime

    from core.newsletters import Definitions
    from edge.writing import Log, NewEvent
    from runtime.documents import Document


@click.group()
def newsletter() -> None:
    """Define newsletters, and list them."""


NEWSLETTER_DEFAULTS: dict[str, Any] = {
    "subject": "{newsletter}: {title}",
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

    Needed are newsletter_id, name, from_address and postal_address; deploy/samples/newsletter.json is an example, and
    schemas/CATALOGUE.md says what each field means. The revision is the next one when it is left out; the same definition
    again changes nothing. One that is wrong, and none of the file is defined. What a newsletter gave a subscriber, no
    newsletter gives them again; previews and test sends do not look at that.
    """
    from edge.writing import Log
    from runtime.documents import read_documents, refuse_all

    documents = read_documents(file, sys.stdin)
    settings = Settings.load()
    templates = OwnTemplates(settings)
    with Log(settings) as log:
        known = defined_newsletters(log)
        defaults = {**NEWSLETTER_DEFAULTS, "defined_at": log.clock.now()}
        defined, faults = list[_Defined](), list[InputError]()
        for document in documents:
            one, wrong = _read(log, templates, known, document, defaults)
            if not wrong and any(one.event.key == other.event.key for other in defined):
                twice = InputError(f"newsletter_id: {one.event.key} is defined twice here; keep one of them")
                wrong = [document.refuse(twice)]
            defined.append(one)
            faults += wrong
        refuse_all(faults)
        strange = [unknown_topics(log, one.event.value["audience_topics"]) for one in defined]  # before anything is written
        for one, unknown in zip(defined, strange, strict=True):
            if one.changed:
                log.write_one(one.event._replace(value={**one.event.value, "revision": one.revision}))
            shown = {"changes": one.changes} if output.json_mode and one.changes else {}
            output.item({"newsletter_id": one.event.key, "revision": one.revision, "changed": one.changed, **shown})
            for field, (old, new) in one.changes.items():
                output.say(f"  {field}: {plain(old)} → {plain(new)}")
            say(output, {"unknown_topics": unknown})
    templates.warn()


class _Defined(NamedTuple):
    """One newsletter of a file, the revision that it is to be, and by field what is changed."""

    event: "NewEvent"
    revision: int
    changed: bool
    changes: dict[str, tuple[Any, Any]]


def _read(
    log: "Log", templates: OwnTemplates, known: "Definitions", document: "Document", defaults: Mapping[str, Any]
) -> tuple[_Defined, list[InputError]]:
    """Return the newsletter of a document as far as it can be read, and all that is wrong with it."""
    fields = document.fields
    earlier = known.newest(str(fields.get("newsletter_id")))
    before = earlier["revision"] if earlier else 0
    filled = {**defaults, "from_name": str(fields.get("name") or "?"), "revision": max(before, 1), **fields}
    event, wrong = read_event("NewsletterDefined", "newsletter_id", log.topics.newsletters, document, filled)
    for field, name in _templates_of(event.value):
        try:
            templates.get(field, name)
        except InputError as error:
            wrong.append(document.refuse(error))
    if wrong:
        return _Defined(event, before, False, {}), wrong
    try:
        revision = _revision_of(document, event, earlier, given="revision" in fields)
    except InputError as error:
        return _Defined(event, before, False, {}), [error]
    return _Defined(event, revision, revision != before, _changes(earlier, event.value)), []


def _changes(earlier: Mapping[str, Any] | None, value: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return by field what a newsletter had and has; nothing for one that is new."""
    if earlier is None:
        return {}
    fields = [name for name in value if name not in INCIDENTAL and value[name] != earlier.get(name)]
    return {name: (_told(name, earlier.get(name)), _told(name, value[name])) for name in fields}


def _told(field: str, value: Any) -> Any:
    """Return the value of a field as people say it."""
    from core.cadence import day_bits, days_text, minute_text

    if field == "variants":
        return _variants(value)
    if field == "days":
        return days_text(day_bits(value))
    return minute_text(value) if field == "local_minute" else value


def _variants(variants: Sequence[Mapping[str, Any]] | None) -> str | None:
    """Return variants in words: their share, and what they have that the newsletter has not."""
    words = []
    for one in variants or ():
        fields = {name: given for name, given in one.items() if name not in ("name", "weight") and given is not None}
        own = [f"{name} {_told(name, given)}" for name, given in fields.items()]
        words.append(f"{one['name']} {one['weight']:.0%}" + (f" ({', '.join(own)})" if own else ""))
    return "; ".join(words) or None


def _templates_of(value: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return field and name of each template that a newsletter or a variant of it names."""
    places = [("template", value.get("template")), *(("variants.template", one["template"]) for one in value.get("variants", ()))]
    return [(field, name) for field, name in places if name is not None]


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


_ZONE = click.option(
    "--time-zone", "zone", default="UTC", show_default=True, help="IANA zone in which the next issue is looked for."
)


@newsletter.command("list", epilog="Example: newswire newsletter list --time-zone Europe/Berlin")
@_ZONE
@click.pass_obj
def newsletter_list(output: Output, zone: str) -> None:
    """List the newsletters as they are defined now, with how they come and when next, for who chose no time of their own."""
    from edge.writing import Log

    _check_zone(zone)
    with Log(Settings.load()) as log:
        rows = []
        for value in defined_newsletters(log).all():
            comes, ((_, local),) = _ahead(value, zone, log.clock.now(), 1)
            rows.append({**value, "comes": comes, "next_local": local, "variants": _variants(value["variants"])})
    named = ("newsletter_id", "revision", "name", "comes", "next_local", "subject")
    usual = {"template": NEWSLETTER_DEFAULTS["template"], "variants": None}
    unusual = [name for name, value in usual.items() if any(row[name] != value for row in rows)]
    columns = [*named, *usual, "max_items", "from_address"] if output.json_mode else [*named, *unusual]
    output.table("Newsletters", columns, [[row[name] for name in columns] for row in rows])


@newsletter.command("next", epilog="Example: newswire newsletter next daily --time-zone Europe/Berlin --count 7")
@click.argument("newsletter_id", metavar="NEWSLETTER")
@_ZONE
@click.option("--count", type=click.IntRange(1, 366), default=5, show_default=True, help="How many.")
@click.pass_obj
def newsletter_next(output: Output, newsletter_id: str, zone: str, count: int) -> None:
    """Show when the next issues of NEWSLETTER come in a zone, for who chose no time and no days of their own."""
    from edge.writing import Log

    _check_zone(zone)
    with Log(Settings.load()) as log:
        known = defined_newsletters(log)
        value = known.newest(newsletter_id)
        if value is None:
            names = ", ".join(definition["newsletter_id"] for definition in known.all()) or "none is defined"
            raise InputError(f"There is no newsletter {newsletter_id!r}. Known: {names}.")
        comes, slots = _ahead(value, zone, log.clock.now(), count)
    output.table(f"{newsletter_id}: {comes}", ["slot", "local"], slots)


def _check_zone(zone: str) -> None:
    from core.checks import time_zone

    problem = time_zone(zone)
    if problem is not None:
        raise InputError(f"time_zone: {zone!r} {problem}")


def _ahead(value: Mapping[str, Any], zone: str, now: "datetime", count: int) -> tuple[str, list[tuple["datetime", str]]]:
    """Return a newsletter's cadence in words, and its next slots: in UTC, and as the wall clock of a zone shows them."""
    from core.cadence import Schedule, nominal_text
    from core.schedule import next_slots

    schedule = Schedule.of(value)
    slots = islice(next_slots(schedule, zone, now), count)
    return schedule.in_words(), [(at, nominal_text(nominal)) for at, nominal in slots]
