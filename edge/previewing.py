"""`newswire preview`: a newsletter's issue as the sink would render it, from what is in the log; and the check of templates.

Needs Kafka and the registry only. Writes nothing to the log; with --inbox it hands the message to the sandbox's providers.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from core.errors import InputError
from core.names import CHANNELS
from edge.own_templates import OwnTemplates
from runtime.output import Output
from runtime.settings import Settings

if TYPE_CHECKING:
    from core.rendering.model import Issue, IssueItem
    from edge.writing import Log
    from schemas.records import Event

READ_PUBLICATIONS: Final = 20_000
"""Newest records of publications that are looked through, over all partitions; it takes a second."""
PREVIEW: Final = "preview"
"""Stands for the delivery and its unsubscribe token: the link of a preview unsubscribes nobody."""


@click.command(epilog="Example: newswire preview daily --language de --output daily.html")
@click.argument("newsletter", required=False)
@click.option("--subscriber", help="As this subscriber had it last, or would: language and topics are theirs.")
@click.option("--channel", type=click.Choice(CHANNELS), help="Channel; by default the subscriber's first one, else email.")
@click.option("--language", help="BCP 47 tag, such as de.")
@click.option("--variant", help="Variant of the newsletter's experiment.")
@click.option("--output", "file", type=click.Path(dir_okay=False), help="Write to FILE; the text of a mail goes beside it.")
@click.option("--inbox", is_flag=True, help="Send it to the sandbox's inbox page; nobody else gets it.")
@click.option("--check", is_flag=True, help="Check the mail templates instead, those of NEWSWIRE_TEMPLATES too.")
@click.pass_obj
def preview(
    output: Output, newsletter: str | None, subscriber: str | None, channel: str | None, language: str | None,
    variant: str | None, file: str | None, inbox: bool, check: bool,
) -> None:  # fmt: skip
    """Show what an issue of NEWSLETTER looks like, made of the newest publications in the log.

    With --subscriber it is the issue that they were given last, if there is one within 7 days, else the one that the ranking
    would give them now; what it is, is said. Without --output or --inbox the text part of a mail, or the JSON of another channel,
    is printed.
    """
    settings = Settings.load()
    if check:
        if not _check(output, settings):
            sys.exit(1)
        return
    if newsletter is None:
        raise InputError("name a newsletter, such as `newswire preview daily`; `newswire newsletter list` has them")
    _check_language(language)
    parts = _rendered(settings, newsletter, channel, subscriber, language, variant)
    channel, said = parts["channel"], {name: parts[name] for name in ("channel", "template", "shows")}
    if inbox:
        from edge.inbox import deliver

        output.item({**said, "inbox": deliver(settings, channel, parts)})
    if file:
        written = _write(Path(file), channel, parts)
        output.item({**said, "written": [str(path) for path in written]})
    if not inbox and not file:
        output.item(parts) if output.json_mode else output.say(_shown(channel, parts))
        if not output.json_mode:
            click.echo(f"This shows {parts['shows']}.", err=True)


def _check_language(language: str | None) -> None:
    from core.checks import language as check

    problem = check(language) if language is not None else None
    if problem is not None:
        raise InputError(f"language: {language!r} {problem}")


def _check(output: Output, settings: Settings) -> bool:
    """Print every template, its version and what is wrong with it; return whether all can be used."""
    from core.rendering.catalogue import ALERT, SHIPPED, SHIPPED_FILES, names_of
    from core.rendering.checking import problems_of
    from core.rendering.templating import MailTemplate
    from runtime.templates import read_folder

    own = read_folder(settings.templates)
    files, names = {**SHIPPED_FILES, **own}, names_of(own)
    rows = [
        (name, template.version, "shipped", "") for name, template in {**SHIPPED, "alert": ALERT}.items() if name not in names
    ]
    for name in names:
        problems = problems_of(name, files)
        version = "-" if problems else MailTemplate(name, files).version
        rows.append((name, version, "own", "; ".join(map(str, problems))))
    output.table("Templates", ["template", "version", "from", "problems"], sorted(rows))
    return not any(problems for *_, problems in rows)


def _rendered(
    settings: Settings, newsletter: str, asked: str | None, subscriber: str | None, language: str | None, variant: str | None
) -> dict[str, Any]:
    """Return what the sink of a channel would hand to its provider, and the template that made it."""
    from core.rendering import discord, slack, webhook
    from core.rendering.email import newsletter_email
    from edge.writing import Log
    from runtime.topic_names import load_topic_names

    templates, names = OwnTemplates(settings), load_topic_names(settings)
    with Log(settings) as log:
        issue, sender, channel, shows = _issue(log, templates, newsletter, asked, subscriber, language, variant)
        now = log.clock.now()
    templates.warn()
    issue = replace(issue, topic_names=names[issue.language])
    parts: dict[str, Any] = {"channel": channel, "template": issue.template.id, "shows": shows, "from_address": sender}
    if channel == "email":
        mail = newsletter_email(issue)
        return {**parts, "subject": mail.subject, "html": mail.html, "text": mail.text, "unsubscribe_url": issue.unsubscribe_url}
    if channel == "slack":
        text, blocks = slack.newsletter_blocks(issue)
        return {**parts, "body": {"text": text, "blocks": blocks}}
    if channel == "discord":
        return {**parts, "body": {"embeds": discord.newsletter_embeds(issue), "allowed_mentions": discord.ALLOWED_MENTIONS}}
    payload = webhook.newsletter_payload(issue, delivery_id=PREVIEW, source_id=f"{newsletter}@{PREVIEW}", timestamp=now)
    return {**parts, "payload": payload.decode()}


def _issue(
    log: "Log", templates: OwnTemplates, newsletter: str, asked: str | None, subscriber: str | None,
    language: str | None, variant: str | None,
) -> "tuple[Issue, str, str, str]":  # fmt: skip
    """Return the issue, the mail address that sends it, its channel, and what it shows.

    InputError says what there is instead of what was asked for.
    """
    from core.rendering.catalogue import look_of
    from core.rendering.model import Issue
    from core.rendering.phrases import language_of
    from edge.campaigns import definition_of
    from runtime.directory import read_subscriber_id

    definition = definition_of(log, newsletter)
    if variant is not None and variant not in [one["name"] for one in definition["variants"]]:
        raise InputError(f"variant: {newsletter} has none named {variant}")
    group, shows = f"{log.clock.now():%Y-%m-%dT%H:%M}", "the newest publications that it could contain, with samples of reasons"
    reads, channel, look, items = None, asked or "email", None, list["IssueItem"]()
    if subscriber:
        subscriber = read_subscriber_id(subscriber)
        reads, topics, channel = _reader(log, subscriber, asked)
        given = _given(log, definition, channel, subscriber)
        if given is not None and given.items:
            group, items, shows = given.group, given.items, f"the issue of {given.group} that they were given"
            variant, look = variant or given.variant, None if variant else given.look
        else:
            items, own, shows = _foreseen(log, definition, subscriber)
            variant = variant or own
    items = items or _newest(log, definition, topics if subscriber else [])
    if not items:
        raise InputError(
            f"newsletter: nothing that {newsletter} could contain was approved yet; publish something, and wait for its score"
        )
    if definition["variants"]:
        names = ", ".join(one["name"] for one in definition["variants"])
        shows += f", as variant {variant}" if variant else f", as none of its variants: --variant shows one of {names}"
    subject, name = look or look_of(definition, variant)
    issue = Issue(
        newsletter_id=newsletter,
        newsletter_name=definition["name"],
        subject=subject,
        language=language_of(*filter(None, (language, reads)), *definition["audience_languages"]),
        items=tuple(items),
        issue_group=group,
        from_name=definition["from_name"],
        postal_address=definition["postal_address"],
        unsubscribe_url=f"{log.settings.edge_url}/u/{PREVIEW}",
        template=templates.get("template", name),
        delivery_id=PREVIEW,
    )
    return issue, definition["from_address"], channel, shows


def _reader(log: "Log", subscriber: str, asked: str | None) -> tuple[str, list[str], str]:
    """Return language, declared topics and channel of a subscriber; InputError without them, or without an address there."""
    from core.subscribers import SubscriberTable
    from edge.foreseeing import channels_of

    language, topics, table = None, list[str](), SubscriberTable()
    for event in log.events_of(log.topics.subscribers, [subscriber]):
        table.apply(event)
        if event.name in ("SubscriberRegistered", "PreferencesChanged"):
            language = event.value.get("language") or language
            given = event.value.get("topics")
            topics = [topic["topic"] for topic in given] if given is not None else topics
    if language is None:
        raise InputError("subscriber: there is none with this id; `newswire subscribe` prints the ids that it gives")
    channels = channels_of(table, subscriber)
    if asked is not None and asked not in channels:
        has = f"they have {', '.join(channels)}" if channels else "they have none at all"
        raise InputError(f"channel: this subscriber has no verified address on {asked}; {has}")
    return language, topics, asked or (channels[0] if channels else "email")


def _foreseen(log: "Log", definition: Mapping[str, Any], subscriber: str) -> "tuple[list[IssueItem], str | None, str]":
    """Return what a subscriber would be given now, their variant, and in words what it is; no items when there are none."""
    from core.rendering.model import IssueItem, ItemContent
    from edge.foreseeing import foreseen

    would = foreseen(log, definition, subscriber)
    found = log.read_positions(log.topics.publications, [place for place, _ in would.items])
    items = [IssueItem(ItemContent.of(found[place].value), reason) for place, reason in would.items if place in found]
    obstacle = would.obstacle or "its publications are not in the log any more"
    missing = f"the newest publications, with samples of reasons, which are not chosen for them: {obstacle}"
    return items, would.variant, "what the ranking would give them now" if items else missing


class _Given(NamedTuple):
    """An issue that somebody was given; look is subject and template."""

    group: str
    items: "list[IssueItem]"
    variant: str | None
    look: tuple[str, str] | None


def _given(log: "Log", definition: Mapping[str, Any], channel: str, subscriber: str) -> _Given | None:
    """Return the newest issue of the newsletter that a subscriber was given on a channel, None when there is none.

    What was retracted since is left out, as a sink does.
    """
    from core.ids import is_test
    from core.rendering.model import IssueItem, ItemContent

    wanted = definition["newsletter_id"]
    last = None
    for event in log.events_of(log.topics.deliveries(channel, "bulk"), [subscriber]):
        if event.name == "DeliveryRequested" and event.value["newsletter_id"] == wanted and not is_test(event.value["source_id"]):
            last = event.value
    if last is None:
        return None
    places = [(item["content_partition"], item["content_offset"]) for item in last["items"]]
    found = log.read_positions(log.topics.publications, places)
    pairs = zip(last["items"], places, strict=True)
    withdrawn = {
        event.key
        for event in log.events_of(log.topics.publications, [item["publication_id"] for item in last["items"]])
        if event.name == "PublicationRetracted"
    }
    items = [
        IssueItem(ItemContent.of(found[place].value), item["reason"])
        for item, place in pairs
        if place in found and item["publication_id"] not in withdrawn
    ]
    look = (last["subject"], last["template"]) if last["subject"] and last["template"] else None
    return _Given(last["issue_group"] or "", items, last["variant"], look)


def _newest(log: "Log", definition: Mapping[str, Any], topics: list[str]) -> "list[IssueItem]":
    """Return the newest publications that the newsletter could contain, with reasons such as a reader would be given."""
    from core.rendering.model import IssueItem, ItemContent

    approved: dict[str, Event] = {}
    for event in log.read_newest(log.partitions(log.topics.publications), READ_PUBLICATIONS):
        if event.name == "PublicationApproved" and _fits(event.value, definition):
            approved[event.key] = event
        elif event.name == "PublicationRetracted":
            approved.pop(event.key, None)
    newest = sorted(approved.values(), key=lambda event: (event.time, event.key), reverse=True)[: definition["max_items"]]
    positions = [(event.value["content_partition"], event.value["content_offset"]) for event in newest]
    found = log.read_positions(log.topics.publications, positions)
    contents = [ItemContent.of(found[position].value) for position in positions if position in found]
    return [IssueItem(content, _reason(content.topics, topics, number)) for number, content in enumerate(contents)]


def _fits(value: Mapping[str, Any], definition: Mapping[str, Any]) -> bool:
    kinds = definition["content_types"]
    return value["quality"] > definition["min_quality"] and (not kinds or value["content_type"] in kinds)


def _reason(has: tuple[str, ...], follows: list[str], number: int) -> str:
    """Return a reason that a reader could be given; with no topics declared, each kind comes in turn."""
    followed = next((topic for topic in has if topic in follows), None)
    if followed or not has:
        return f"topic:{followed}" if followed else "fresh"
    return (f"new:{has[0]}", "popular", "explore")[number % 3]


def _write(file: Path, channel: str, parts: Mapping[str, Any]) -> list[Path]:
    """Write a mail as HTML and text, another channel's message as JSON; return the files."""
    texts = (
        {file: parts["html"], file.with_suffix(".txt"): parts["text"]} if channel == "email" else {file: _shown(channel, parts)}
    )
    try:
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"output: {file} cannot be written ({error.strerror}); name a file in a folder that exists") from None
    return list(texts)


def _shown(channel: str, parts: Mapping[str, Any]) -> str:
    import orjson

    if channel == "email":
        return f"Subject: {parts['subject']}\n\n{parts['text']}"
    body = parts["body"] if "body" in parts else orjson.loads(parts["payload"])
    return orjson.dumps(body, option=orjson.OPT_INDENT_2).decode()
