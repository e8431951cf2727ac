"""Commands that try a newsletter before it goes out: the dry run, which counts, and the test send, to one person.

The dry run loads each shard of the subscribers as a decider does, one after the other, with plain consumers and in no group, and
works out every chunk by the code that decides; it writes nothing. The test send is a tick of its own, and takes the whole way.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from core.errors import InputError
from edge.newsletters import defined_newsletters
from runtime.options import parse_slot
from runtime.output import Output
from runtime.settings import Settings

if TYPE_CHECKING:
    from datetime import datetime

    from core.campaigns import DryRun
    from core.model import Model
    from core.newsletter_state import NewsletterState
    from edge.writing import Log

MOST_CHOSEN: Final = 10
"""Publications that a dry run names."""
NO_MODEL: Final = "none is in use: ranked by topics, by content and by what each one has read (`newswire model list`)"
"""What people are told in place of the version of a fitted model."""


def definition_of(log: "Log", newsletter_id: str) -> Mapping[str, Any]:
    """Return a newsletter as it is defined now; InputError names those that exist."""
    known = defined_newsletters(log)
    definition = known.newest(newsletter_id)
    if definition is None:
        names = ", ".join(one["newsletter_id"] for one in known.all()) or "none is defined"
        raise InputError(f"There is no newsletter {newsletter_id!r}. Known: {names}.")
    return definition


@click.command("dry-run", epilog="Example: newswire newsletter dry-run daily --slot 2026-11-23T08:00Z")
@click.argument("newsletter_id", metavar="NEWSLETTER")
@click.option("--slot", help="Count who is due at this UTC minute by their own clock; by default everybody is due now.")
@click.pass_obj
def dry_run(output: Output, newsletter_id: str, slot: str | None) -> None:
    """Print how many would get what of NEWSLETTER, and why others would not; nothing is sent or changed.

    What it says holds for this moment: later preferences and publications change it.
    """
    from core.schedule import is_slot
    from edge.writing import Log

    with Log(Settings.load()) as log:
        definition, now = definition_of(log, newsletter_id), log.clock.now()
        minute = parse_slot(slot, now, at_any_time=True)
        if slot is not None and not is_slot(minute):
            raise InputError(f"--slot {slot!r}: by the clock nobody is due then; issues come at whole quarter hours.")
        model = active_model(log)
        due = slot_of(log, definition, minute, model, forced=slot is None)
        found = count(log, due, None if model is None else model[1])
    show(output, due, found)


def slot_of(
    log: "Log", definition: Mapping[str, Any], at: "datetime", model: "tuple[str, Model] | None", *, forced: bool,
    subscriber_id: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the slot of a newsletter that would be decided then; for one subscriber as a test of it."""
    from core.ids import newsletter_source_id

    newsletter_id = definition["newsletter_id"]
    return {
        "source_id": newsletter_source_id(newsletter_id, at, subscriber_id),
        "chunks": log.settings.newsletter_chunks,
        "newsletter_id": newsletter_id,
        "slot_at": at,
        "forced": forced,
        "rules": definition,
        "model_version": model[0] if model else None,
        "test_subscriber": subscriber_id,
    }


def count(log: "Log", slot: Mapping[str, Any], model: "Model | None") -> "DryRun":
    """Return the counts of a slot over all shards, as if each was decided when its time comes, or now if that was earlier."""
    from core.campaigns import DryRun
    from core.space import Space

    at = max(log.clock.now(), slot["slot_at"])
    found, space = DryRun(), Space(model)
    for state in _shards(log, range(log.topics.shards)):
        for chunk in range(slot["chunks"]):
            found.add(state, slot, chunk, at, space)
    assert found.balance() == 0, f"{found.balance()} subscribers are neither chosen, stopped nor outside the audience"
    return found


def shard_of(log: "Log", subscriber_id: str) -> "NewsletterState":
    """Return the state of the shard that a subscriber is in, as a decider would have it now."""
    from schemas.partition import partition_for

    return next(_shards(log, [partition_for(subscriber_id.encode(), log.topics.shards)]))


def _shards(log: "Log", partitions: Iterable[int]) -> "Iterator[NewsletterState]":
    """Yield the state of shards, one after the other; the one before may be dropped then."""
    from core.newsletter_state import SNAPSHOT_FORMAT, NewsletterState
    from runtime.shard_loading import Folded, Loader, Logs

    topics = log.topics
    state_topics = (topics.subscribers, topics.engagements, topics.audience_newsletters)
    logs = Logs(state_topics, topics.decisions_bulk, topics.snapshots_newsletters)
    loader = Loader(log.settings, log.codec, logs, SNAPSHOT_FORMAT, log.clock)
    for partition in partitions:
        shard = Folded(partition, NewsletterState())
        loader.load({partition: shard}, lambda _: NewsletterState())
        yield shard.state


def active_model(log: "Log") -> "tuple[str, Model] | None":
    """Return version and content of the ranking model in use, None when there is none that can be used."""
    from runtime.models import ModelLog, opened

    published, activations = ModelLog(log.settings, log.codec, log.topics, log.clock).read()
    for version in (one.version for one in reversed(activations)):
        if version is None:
            return None
        try:
            return version, opened(published[version])
        except (InputError, KeyError):
            continue  # the audience stage refuses it as well, and keeps to the one before
    return None


def show(output: Output, slot: Mapping[str, Any], found: "DryRun") -> None:
    """Print the counts: as tables, or as one JSON object."""
    issues = [
        {"channel": channel, "language": language, "variant": variant or None, "issues": count, "items": found.items[key]}
        for key, count in sorted(found.chosen.items())
        for channel, language, variant in [key]
    ]
    why = list(_reasons(found))
    most = [
        {"publication_id": one, "title": found.titles[one], "issues": count}
        for one, count in sorted(found.publications.items(), key=lambda item: (-item[1], item[0]))[:MOST_CHOSEN]
    ]
    summary = {
        "newsletter": slot["newsletter_id"],
        "slot": slot["slot_at"],
        "due": "everybody" if slot["forced"] else "by their own clock",
        "model": slot["model_version"],
        "subscribers": found.population,
        "would_get_it": found.chosen.total(),
        "would_be_stopped": found.gated.total(),
        "not_concerned": found.not_concerned.total(),
    }
    if output.json_mode:
        output.item({**summary, "issues": issues, "others": why, "publications": most})
        return
    output.item({**summary, "model": slot["model_version"] or NO_MODEL})
    output.say("")
    for title, rows in (("Issues", issues), ("Why others get none", why), ("Most chosen", most)):
        if rows:
            output.table(title, list(rows[0]), [list(row.values()) for row in rows])
    output.say("Nothing was sent.")


def _reasons(found: "DryRun") -> Iterator[dict[str, Any]]:
    """Yield why who gets none: the gates, then the filters that they did not pass."""
    from core.campaigns import FILTERS
    from core.names import GATE_REASONS

    for reason, count in found.gated.most_common():
        yield {"kind": "stopped", "reason": reason, "subscribers": count, "meaning": GATE_REASONS[reason]}
    for name, meaning in FILTERS.items():
        if found.not_concerned[name]:
            yield {"kind": "not concerned", "reason": name, "subscribers": found.not_concerned[name], "meaning": meaning}


@click.command("test-send", epilog="Example: newswire newsletter test-send daily --to 0b5f8a3e-6f3e-4b64-9a39-0c8a3a6b0001")
@click.argument("newsletter_id", metavar="NEWSLETTER")
@click.option("--to", "subscriber", required=True, help="The subscriber_id of the one person who gets it.")
@click.pass_obj
def test_send(output: Output, newsletter_id: str, subscriber: str) -> None:
    """Send one person the issue of NEWSLETTER that they would get now, marked [Test].

    It takes the whole way, so consent and suppression hold: somebody who did not subscribe, or unsubscribed, is sent nothing.
    Audience, schedule and what they were given before do not count, and nothing of it is remembered: the real issue still
    comes. The same person again within the same minute is the same test.
    """
    from core.ids import minute_text, newsletter_source_id, tick_id
    from edge.writing import Log, NewEvent
    from runtime.directory import read_subscriber_id

    to = read_subscriber_id(subscriber)
    with Log(Settings.load()) as log:
        definition = definition_of(log, newsletter_id)
        refuse_who_gets_none(log, definition, to)
        minute = parse_slot(None, log.clock.now(), at_any_time=False)
        identity, source_id = tick_id(minute, newsletter_id, to), newsletter_source_id(newsletter_id, minute, to)
        value = {
            "tick_id": identity,
            "minute": minute,
            "newsletter_id": newsletter_id,
            "requested_by": log.settings.actor,
            "test_subscriber": to,
        }
        log.write_one(NewEvent(log.topics.ticks, "Tick", value, minute_text(minute), identity))
    output.item({"source_id": source_id, "newsletter": newsletter_id, "slot": minute, "to": to})
    output.say(f"`newswire why '{source_id}' {to}` says what comes of it, and `newswire accounting '{source_id}'` where it is.")


def refuse_who_gets_none(log: "Log", definition: Mapping[str, Any], subscriber_id: str) -> None:
    """Raise InputError, with what to do, when a test would not be sent to somebody as they are now."""
    from core.campaigns import obstacle_to_test
    from core.subscribers import SubscriberTable

    table = SubscriberTable()
    for event in log.events_of(log.topics.subscribers, [subscriber_id]):
        table.apply(event)
    obstacle = obstacle_to_test(table, definition, subscriber_id, log.clock.now())
    if obstacle is not None:
        raise InputError(f"No test is sent: {subscriber_id} {obstacle}.")
