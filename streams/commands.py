"""Commands of the streams: `newswire run <stage>`, `newswire tick` and `newswire why`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from core.errors import InputError
from core.names import LANES
from runtime.clock import SystemClock
from runtime.commands import run_group
from runtime.options import parse_slot
from runtime.output import Output
from runtime.settings import Settings
from streams.model_commands import model

if TYPE_CHECKING:
    from schemas.codec import Codec
    from schemas.records import Event


@run_group.command("approval")
def run_approval() -> None:
    """Score publications and approve or reject them."""
    from streams.approval import run

    raise SystemExit(run(Settings.load()))


@run_group.command("ticker")
def run_ticker() -> None:
    """Write one tick a UTC minute."""
    from streams.ticker import run

    raise SystemExit(run(Settings.load()))


@run_group.command("audience")
def run_audience() -> None:
    """Copy content, alerts and slots to every shard."""
    from streams.audience import run

    raise SystemExit(run(Settings.load()))


@run_group.command("alerts")
def run_alerts() -> None:
    """Decide who gets an alert."""
    from streams.alerts import run

    raise SystemExit(run(Settings.load()))


@run_group.command("newsletters")
def run_newsletters() -> None:
    """Decide who gets which issue of a newsletter."""
    from streams.newsletters import run

    raise SystemExit(run(Settings.load()))


@run_group.command("training")
def run_training() -> None:
    """Fit the ranking's model once a day."""
    from streams.training import run

    raise SystemExit(run(Settings.load()))


def _fanout(lane: str) -> click.Command:
    @click.command(f"fanout-{lane}", help=f"Turn decisions of the {lane} lane into deliveries.")
    def command() -> None:
        from streams.fanout import run

        raise SystemExit(run(Settings.load(), lane))

    return command


for _lane in LANES:
    run_group.add_command(_fanout(_lane))


@click.command(epilog="Example: newswire tick daily --slot 2026-11-22T09:00Z")
@click.argument("newsletter")
@click.option("--slot", help="UTC minute, such as 2026-11-22T09:00Z; the current one by default.")
@click.option("--at-any-time", is_flag=True, help="Allow a slot more than 24 hours ahead or 120 hours ago.")
@click.pass_obj
def tick(output: Output, newsletter: str, slot: str | None, at_any_time: bool) -> None:
    """Make all subscribers of NEWSLETTER due for one slot, whatever their local time: who has something new to read gets it.

    A slot that was taken before, by the clock on one of the newsletter's days or by this command, is decided once: the same
    slot again sends nothing. A slot that lies in the past and was not taken, because nothing ran then, is sent now.
    """
    from core.ids import newsletter_source_id
    from runtime.kafka import Producer
    from runtime.reach import require_kafka
    from schemas.codec import Codec
    from schemas.registry import RegistrySource
    from schemas.topics import Topics
    from streams.ticker import tick_record

    settings, now = Settings.load(), SystemClock().now()
    minute = parse_slot(slot, now, at_any_time)
    require_kafka(settings.kafka_bootstrap_servers)
    topics = Topics(settings.topic_prefix, settings.shards)
    codec = Codec(topics, RegistrySource(settings.schema_registry_url))
    _refuse_unknown(settings, codec, topics.newsletters, newsletter)
    source_id = newsletter_source_id(newsletter, minute)
    taken = _is_taken(settings, codec, topics.audience_newsletters, source_id)
    record = tick_record(codec, topics.ticks, minute, now, newsletter, settings.actor)
    producer = Producer(settings, "newswire-tick")
    try:
        producer.send_sync([record])
    finally:
        producer.close()
    output.item({"source_id": source_id, "newsletter": newsletter, "slot": minute, "taken_before": taken})
    if taken:
        output.say("This slot was taken before, by the clock or by this command: it is decided once, and nothing more is sent.")
    else:
        output.say(f"Every subscriber is due now; `newswire accounting {source_id}` shows what comes of it.")


def _refuse_unknown(settings: Settings, codec: "Codec", topic: str, newsletter: str) -> None:
    """Raise InputError, with those that exist, when a newsletter is not defined."""
    from core.newsletters import Definitions

    known = Definitions()
    for event in _events(settings, codec, topic):
        known.apply(event, event.offset)
    if known.newest(newsletter) is None:
        names = ", ".join(definition["newsletter_id"] for definition in known.all()) or "none is defined"
        raise InputError(f"There is no newsletter {newsletter!r}. Known: {names}.")


def _is_taken(settings: Settings, codec: "Codec", topic: str, source_id: str) -> bool:
    """Return whether a slot was copied to the shards before; they have the same slots, so one of them is read."""
    found = (event.name == "SlotDue" and event.value["source_id"] == source_id for event in _events(settings, codec, topic, 0))
    return any(found)


def _events(settings: Settings, codec: "Codec", topic: str, partition: int | None = None) -> "Iterator[Event]":
    """Yield every event that is in a topic now, or in one partition of it."""
    from core.errors import CodecError
    from runtime.kafka import admin_client, end_offsets, partitions_of, read_range, start_offsets

    admin = admin_client(settings)
    places = [place for place in partitions_of(admin, [topic]) if partition in (None, place[1])]
    for raw in read_range(settings, start_offsets(admin, places), end_offsets(admin, places)):
        try:
            yield codec.decode(raw)
        except CodecError:
            continue  # dead-lettered by those whose input it is


@click.command(epilog="Example: newswire why daily 0b5f8a3e-6f3e-4b64-9a39-0c8a3a6b0001")
@click.argument("source")
@click.argument("subscriber")
@click.pass_obj
def why(output: Output, source: str, subscriber: str) -> None:
    """Say why SUBSCRIBER got, or did not get, what SOURCE sent.

    SOURCE is an alert_id, a newsletter's slot such as daily@2026-11-22T09:00Z, or a newsletter: then its newest slot that
    concerned SUBSCRIBER.
    """
    from runtime.directory import read_subscriber_id
    from streams.explaining import Asker

    subscriber_id = read_subscriber_id(subscriber)
    asker = Asker(Settings.load())
    asker.refuse_unknown(subscriber_id)
    source = asker.source_of(source, subscriber_id)
    found = asker.why(source, subscriber_id)
    if not output.json_mode:
        output.say(f"{found.answer}\n\nBecause:\n" + "\n".join(f"  {sentence}" for sentence in found.because) + "\n")
        if found.deliveries:
            columns = list(found.deliveries[0])
            output.table("Deliveries", columns, [[row[column] for column in columns] for row in found.deliveries])
        output.say("How it was decided")
    because = {"answer": found.answer, "because": found.because} if output.json_mode else {}
    about = {"source_id": source, "subscriber_id": subscriber_id, "verdict": found.verdict, "reason": found.reason}
    output.item({**about, "channels": found.channels, **because, **found.decided})


commands: list[click.Command] = [tick, why, model]
