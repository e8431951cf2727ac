"""Commands about subscribers: subscribe, prefer, link, unlink, unsubscribe."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from core.errors import EventRefused, InputError
from core.names import CHANNELS, USUAL_HOUR
from edge.advice import fields_of, of_changes, of_profiles, refuse_undefined, say, unknown_newsletters, usual_hours
from edge.publishing import parse_topics
from runtime.output import Output
from runtime.settings import Settings

if TYPE_CHECKING:
    from runtime.directory import Profile

Command = Callable[..., Any]

_PREFERENCE_OPTIONS = (
    click.option("--time-zone", help="IANA zone name, such as Europe/Berlin."),
    click.option("--language", help="BCP 47 tag, such as en."),
    click.option("--topics", help="Topics with weights, such as hep-ph,hep-th:0.5."),
    click.option("--newsletters", help="Newsletter ids, comma-separated; an empty text means none."),
    click.option("--allow-undefined", is_flag=True, help="Take newsletters that are not defined yet; else they are refused."),
    click.option("--alerts/--no-alerts", default=None, help="Whether alerts are wanted."),
    click.option("--channels", help="Channels, most wanted first, such as slack,email."),
    click.option("--urgent-channels", help="Channels for alerts, all of them used; an empty text means as for newsletters."),
    click.option("--quiet-hours", help="Local hours without alerts, such as 22:00-07:00; an empty text removes them."),
    click.option(
        "--paused-until", help="No newsletters before this time, such as 2026-12-01T00:00:00Z; a past one ends a pause."
    ),
    click.option(
        "--newsletter-time",
        help="Local time of newsletters, such as 07:30 (a quarter hour); `usual` means when they usually read, `default` as the"
        " newsletters say.",
    ),
    click.option("--days", help="Weekdays of newsletters, such as mon-fri or tue,sat; `all` means as they say."),
    click.option("--alerts-a-day", type=int, help="Most alerts in 24 hours; -1 means no cap."),
    click.option("--tags", help="Labels that newsletters may select on, comma-separated."),
)


def _preference_options(command: Command) -> Command:
    for option in reversed(_PREFERENCE_OPTIONS):
        command = option(command)
    return command


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _minute(text: str, field: str) -> int:
    hour, _, minute = text.strip().partition(":")
    if not (hour.isdigit() and minute.isdigit() and int(hour) < 24 and int(minute) < 60):
        raise InputError(f"{field}: {text!r} is no time of day; expected such as 07:30")
    return int(hour) * 60 + int(minute)


def _newsletter_time(text: str) -> int:
    from core.cadence import DAY_MIN, minute_text
    from core.zones import SLOT_MIN

    named = {"default": -1, "usual": USUAL_HOUR}
    minute = named[text] if text in named else _minute(text, "newsletter_time")
    if minute > 0 and minute % SLOT_MIN:
        earlier, later = minute_text(minute - minute % SLOT_MIN), minute_text((minute // SLOT_MIN + 1) * SLOT_MIN % DAY_MIN)
        raise InputError(f"newsletter_time: {text!r} is no quarter hour; the nearest are {earlier} and {later}")
    return minute


def _days(text: str) -> list[int]:
    """Return ISO weekdays of a text such as mon-fri,sun; none for `all`."""
    if text.strip() == "all":
        return []
    names, found = ("mon", "tue", "wed", "thu", "fri", "sat", "sun"), set()
    for part in _names(text.lower()):
        first, dash, last = part.partition("-")
        if first not in names or (dash and last not in names):
            raise InputError(f"days: {part!r} is no weekday; expected such as mon-fri or tue,sat")
        start, end = names.index(first), names.index(last if dash else first)
        found |= {(start + step) % 7 + 1 for step in range((end - start) % 7 + 1)}
    if not found:
        raise InputError("days: is empty; expected such as mon-fri, or all")
    return sorted(found)


def _quiet_hours(text: str) -> list[dict[str, int]]:
    found = []
    for part in _names(text):
        start, _, end = part.partition("-")
        found.append({"start_minute": _minute(start, "quiet_hours"), "end_minute": _minute(end, "quiet_hours")})
    return found


_READ: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "time_zone": ("time_zone", str),
    "language": ("language", str),
    "topics": ("topics", parse_topics),
    "newsletters": ("newsletters", _names),
    "alerts": ("alerts", bool),
    "channels": ("channels", _names),
    "urgent_channels": ("urgent_channels", _names),
    "quiet_hours": ("quiet_hours", _quiet_hours),
    "paused_until": ("paused_until", str),
    "newsletter_time": ("local_minute", _newsletter_time),
    "days": ("days", _days),
    "alerts_a_day": ("alerts_a_day", int),
    "tags": ("tags", _names),
}
"""Option, field of PreferencesChanged, and how the one becomes the other."""


def read_preferences(options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of PreferencesChanged that the options name; InputError names an option that cannot be read."""
    return {_READ[name][0]: _READ[name][1](given) for name, given in options.items() if name in _READ and given is not None}


@click.command(
    epilog="""\b
Examples:
  newswire subscribe --email reader@example.org --topics hep-ph --newsletters daily --alerts
  newswire subscribe --file subscribers.jsonl"""
)
@click.option("--file", help="JSON or JSONL with one subscriber each, - for standard input; other options are not used then.")
@click.option("--subscriber-id", help="UUID; by default a random one, or that of somebody who has one of the addresses.")
@click.option("--name", help="Display name; stored encrypted.")
@click.option("--email", help="Mail address.")
@click.option("--slack", help="Slack channel or user id.")
@click.option("--discord", help="Discord channel or user id.")
@click.option("--webhook-url", help="Address that takes webhooks.")
@click.option("--webhook-secret", help="Its secret, whsec_ and base64; a random one by default, which is printed.")
@click.option("--unverified", is_flag=True, help="Do not mark the addresses as verified: nothing is sent to them.")
@_preference_options
@click.pass_obj
def subscribe(output: Output, /, file: str | None, allow_undefined: bool, **options: Any) -> None:
    """Register a subscriber by options, or many from --file.

    Somebody who is known already (by subscriber_id, else by an address) is left alone; `newswire prefer` changes them.
    A line of the file is an object such as {"name": "Ada", "time_zone": "Europe/Berlin", "language": "en", "topics":
    {"hep-ph": 1.0}, "newsletters": ["daily"], "alerts": true, "channels": {"email": "ada@example.org", "slack": "C024BE91L"}};
    the order of channels is the preference, and "verified": false leaves the addresses unverified.
    """
    from edge.writing import Log
    from runtime.directory import BATCH, Directory

    documents, secret = ([], None) if file is not None else _from_options(options)
    profiles = _profiles(file, documents)
    new = 0
    settings = Settings.load()
    with Log(settings) as log:
        wanted = [profile.preferences for profile in profiles]
        if not allow_undefined:
            refuse_undefined(log, wanted)
        advice = of_profiles(log, wanted)
    with Directory(settings) as directory, output.progress(len(profiles), "registering") as done:
        for start in range(0, len(profiles), BATCH):
            answers = directory.register(profiles[start : start + BATCH])
            new += sum(answer.new for answer in answers)
            done(len(answers))
    if file is None:
        subscriber_id, (profile,) = answers[0].subscriber_id, profiles
        made = _registered(profile, secret) if new else {}
        output.item({"subscriber_id": subscriber_id, "new": bool(new), **made, **fields_of(output, advice)})
        if not new:
            output.say(
                "They are known and were left unchanged: `newswire prefer` changes preferences, `newswire link` addresses."
            )
    else:
        output.item({"registered": new, "known": len(profiles) - new, **fields_of(output, advice)})
    say(output, advice)


def _registered(profile: "Profile", secret: str | None) -> dict[str, Any]:
    """Return what counts for a new subscriber; a secret that was made is shown this once."""
    wanted = profile.preferences
    shown = {"time_zone": profile.registered["time_zone"], "newsletters": wanted.get("newsletters") or []}
    shown |= {"alerts": bool(wanted.get("alerts")), "channels": wanted["channels"], "verified": profile.verified}
    return shown if secret is None else {**shown, "webhook_secret": secret}


def _profiles(file: str | None, documents: list[dict[str, Any]]) -> "list[Profile]":
    """Return the checked profiles of a file or of options; InputError names every line that is wrong, and its field."""
    from runtime.directory import read_profile
    from runtime.documents import read_documents, refuse_all

    if file is None:
        return [read_profile(document) for document in documents]
    found, faults = [], []
    for document in read_documents(file, sys.stdin):
        try:
            found.append(read_profile(document.fields))
        except InputError as error:
            faults.append(document.refuse(error))
    refuse_all(faults)
    return found


def _from_options(options: dict[str, Any]) -> tuple[list[dict[str, Any]], str | None]:
    """Return the document of the options, and the webhook secret that was made for it."""
    import base64
    import secrets

    given = {channel: options[channel] for channel in ("email", "slack", "discord") if options[channel] is not None}
    made = None
    if options["webhook_url"] is not None:
        if options["webhook_secret"] is None:
            made = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        given["webhook"] = {"url": options["webhook_url"], "secret": options["webhook_secret"] or made}
    if not given:
        raise InputError("channels: expected at least one of --email, --slack, --discord, --webhook-url, or --file")
    fields = read_preferences(options)
    order = fields.pop("channels", list(given))
    strange = next((channel for channel in order if channel not in given), None)
    if strange is not None:
        raise InputError(f"channels: {strange!r} has no address; give it with its option")
    document = {"time_zone": "UTC", "language": "en", **fields}
    document["channels"] = {channel: given[channel] for channel in dict.fromkeys([*order, *given])}
    document["verified"] = not options["unverified"]
    document.update({name: options[name] for name in ("subscriber_id", "name") if options[name] is not None})
    return [document], made


@click.command(epilog="Example: newswire prefer 0b5f8a3e-6f3e-4b64-9a39-0c8a3a6b0001 --topics hep-ph,hep-th:0.5 --no-alerts")
@click.argument("subscriber")
@_preference_options
@click.pass_obj
def prefer(output: Output, /, subscriber: str, allow_undefined: bool, **options: Any) -> None:
    """Change preferences of SUBSCRIBER: what is named replaces that field, the rest stays as it is."""
    from edge.writing import Log
    from runtime.directory import Directory, read_subscriber_id
    from runtime.topic_names import load_topic_names

    changes, subscriber_id = read_preferences(options), read_subscriber_id(subscriber)
    if not changes:
        raise InputError("preferences: expected at least one option, such as --topics hep-ph")
    settings = Settings.load()
    load_topic_names(settings)  # what is wrong with it is said before anything is written
    if "newsletters" in changes and not allow_undefined:
        with Log(settings) as log:
            refuse_undefined(log, [changes])
    with Directory(settings) as directory:
        try:
            directory.prefer(subscriber_id, changes)
        except EventRefused as error:
            raise InputError(f"{error.field}: {error.reason}") from None
    shown = {name: given for name, given in options.items() if name in _READ and given is not None}
    with Log(settings) as log:
        advice = of_changes(log, subscriber_id, changes)
        hours = usual_hours(log, subscriber_id) if changes.get("local_minute") == USUAL_HOUR else []
    hour = {"usual_hour": hours} if output.json_mode and hours else {}
    output.item({"subscriber_id": subscriber_id, "changed": sorted(shown), **shown, **fields_of(output, advice), **hour})
    for sentence in hours:
        output.say(sentence)
    say(output, advice)


@click.command(
    epilog="Example: newswire link 0b5f8a3e-6f3e-4b64-9a39-0c8a3a6b0001 --channel slack --address C024BE91L --verified"
)
@click.argument("subscriber")
@click.option("--channel", required=True, type=click.Choice(CHANNELS), help="Channel.")
@click.option("--address", required=True, help="Address; for a webhook its URL.")
@click.option("--secret", help="For a webhook: its secret, whsec_ and base64.")
@click.option(
    "--previous-secret", help="For a webhook: the secret before this one; messages are signed with both until it is gone."
)
@click.option("--verified", is_flag=True, help="You have seen that it belongs to them; without it nothing is sent there.")
@click.pass_obj
def link(
    output: Output, subscriber: str, channel: str, address: str, secret: str | None, previous_secret: str | None, verified: bool
) -> None:
    """Give SUBSCRIBER an address on a channel, in place of an earlier one there."""
    from runtime.directory import Directory, read_subscriber_id

    subscriber_id = read_subscriber_id(subscriber)
    given: Any = {"url": address, "secret": secret or ""} if channel == "webhook" else address
    if channel == "webhook" and previous_secret:
        given["previous_secret"] = previous_secret
    with Directory(Settings.load()) as directory:
        directory.link(subscriber_id, channel, given, verified=verified)
    output.item({"subscriber_id": subscriber_id, "channel": channel, "linked": True, "verified": verified})


@click.command(epilog="Example: newswire unlink 0b5f8a3e-6f3e-4b64-9a39-0c8a3a6b0001 --channel slack")
@click.argument("subscriber")
@click.option("--channel", required=True, type=click.Choice(CHANNELS), help="Channel.")
@click.pass_obj
def unlink(output: Output, subscriber: str, channel: str) -> None:
    """Take the address of SUBSCRIBER on a channel out of use."""
    from runtime.directory import Directory, read_subscriber_id

    subscriber_id = read_subscriber_id(subscriber)
    with Directory(Settings.load()) as directory:
        directory.unlink(subscriber_id, channel)
    output.item({"subscriber_id": subscriber_id, "channel": channel, "linked": False})


@click.command(epilog="Example: newswire unsubscribe 0b5f8a3e-6f3e-4b64-9a39-0c8a3a6b0001 --newsletter daily")
@click.argument("subscriber")
@click.option("--newsletter", help="From this newsletter.")
@click.option("--alerts", is_flag=True, help="From alerts.")
@click.option("--all", "everything", is_flag=True, help="From everything.")
@click.pass_obj
def unsubscribe(output: Output, subscriber: str, newsletter: str | None, alerts: bool, everything: bool) -> None:
    """Unsubscribe SUBSCRIBER from one newsletter, from alerts, or from everything; it holds before the next send."""
    from edge.writing import Log
    from runtime.directory import Directory, read_subscriber_id

    subscriber_id = read_subscriber_id(subscriber)
    if sum((newsletter is not None, alerts, everything)) != 1:
        raise InputError("kind: expected one of --newsletter ID, --alerts and --all")
    kind = "newsletter" if newsletter is not None else "alerts" if alerts else "all"
    settings = Settings.load()
    with Log(settings) as log:
        advice = unknown_newsletters(log, [] if newsletter is None else [newsletter])
    with Directory(settings) as directory:
        directory.unsubscribe(subscriber_id, kind, newsletter)
    output.item({"subscriber_id": subscriber_id, "kind": kind, "newsletter_id": newsletter, **fields_of(output, advice)})
    say(output, advice)
