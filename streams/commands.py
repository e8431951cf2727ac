"""Commands of the streams: `newswire run <stage>`, `newswire tick` and `newswire why`."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import click

from core.errors import InputError
from core.names import LANES
from runtime.clock import SystemClock
from runtime.commands import run_group
from runtime.output import Output
from runtime.settings import Settings

MAX_SLOT_DISTANCE: Final = timedelta(hours=24)
"""A slot further back is past not_after, and one further ahead is more likely a slip of the pen."""

_SLOT: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2})")


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


def _fanout(lane: str) -> click.Command:
    @click.command(f"fanout-{lane}", help=f"Turn decisions of the {lane} lane into deliveries.")
    def command() -> None:
        from streams.fanout import run

        raise SystemExit(run(Settings.load(), lane))

    return command


for _lane in LANES:
    run_group.add_command(_fanout(_lane))


def parse_slot(text: str | None, now: datetime, at_any_time: bool) -> datetime:
    """Return the UTC minute of a slot, the current one when none is given; InputError says what is wrong with it."""
    if text is None:
        return now.astimezone(UTC).replace(second=0, microsecond=0)
    if not _SLOT.fullmatch(text):
        raise InputError(f"--slot {text!r} is no time with a zone: write it as 2026-11-22T09:00Z.")
    try:
        slot = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InputError(f"--slot {text!r} is no time that exists: write it as 2026-11-22T09:00Z.") from None
    if slot.second or slot.microsecond:
        raise InputError(f"--slot {text!r} is not a whole minute.")
    if not at_any_time and abs(slot - now) > MAX_SLOT_DISTANCE:
        where = "ago: its issues would be past not_after" if slot < now else "ahead"
        raise InputError(f"--slot {text!r} is more than 24 hours {where}. For a replay use --at-any-time.")
    return slot


@click.command()
@click.argument("newsletter")
@click.option("--slot", help="UTC minute, such as 2026-11-22T09:00Z; the current one by default.")
@click.option("--at-any-time", is_flag=True, help="Allow a slot more than 24 hours away.")
@click.pass_obj
def tick(output: Output, newsletter: str, slot: str | None, at_any_time: bool) -> None:
    """Make all subscribers of NEWSLETTER due for one slot.

    The same slot again changes nothing. A slot that the clock has ticked already on one of the newsletter's days counts as
    the same.
    """
    from core.ids import newsletter_source_id
    from core.schedule import falls_somewhere
    from runtime.kafka import Producer
    from schemas.codec import Codec
    from schemas.registry import RegistrySource
    from schemas.topics import Topics
    from streams.ticker import tick_record

    settings, now = Settings.load(), SystemClock().now()
    minute = parse_slot(slot, now, at_any_time)
    topics = Topics(settings.topic_prefix, settings.shards)
    codec = Codec(topics, RegistrySource(settings.schema_registry_url))
    days = _days_of(settings, codec, topics.newsletters, newsletter)
    record = tick_record(codec, topics.ticks, minute, now, newsletter, settings.actor)
    producer = Producer(settings, "newswire-tick")
    try:
        producer.send_sync([record])
    finally:
        producer.close()
    source_id = newsletter_source_id(newsletter, minute)
    if falls_somewhere(days, minute) and minute <= now:
        output.say("The clock has a tick of its own for this minute: where it was decided already, this one changes nothing.")
    output.item({"source_id": source_id, "newsletter": newsletter, "slot": minute})


def _days_of(settings: Settings, codec: "object", topic: str, newsletter: str) -> list[int]:
    """Return the weekdays of a newsletter; InputError names those that exist when it does not."""
    from core.errors import CodecError
    from runtime.kafka import admin_client, end_offsets, partitions_of, read_range, start_offsets
    from schemas.codec import Codec

    assert isinstance(codec, Codec)
    admin = admin_client(settings)
    places = partitions_of(admin, [topic])
    newest: dict[str, tuple[int, list[int]]] = {}
    for raw in read_range(settings, start_offsets(admin, places), end_offsets(admin, places)):
        try:
            value = codec.decode(raw).value
        except CodecError:
            continue
        if value["revision"] > newest.get(value["newsletter_id"], (0, []))[0]:
            newest[value["newsletter_id"]] = (value["revision"], value["days"])
    if newsletter not in newest:
        known = ", ".join(sorted(newest)) or "none is defined"
        raise InputError(f"There is no newsletter {newsletter!r}. Known: {known}.")
    return newest[newsletter][1]


@click.command()
@click.argument("source")
@click.argument("subscriber")
@click.pass_obj
def why(output: Output, source: str, subscriber: str) -> None:
    """Say why SUBSCRIBER got, or did not get, what SOURCE sent.

    SOURCE is an alert_id, or a newsletter's slot such as daily@2026-11-22T09:00Z.
    """
    from streams.explaining import Asker

    answer = Asker(Settings.load()).why(source, subscriber.lower())
    fields = {"source_id": source, "subscriber_id": subscriber.lower(), "verdict": answer.verdict, "reason": answer.reason}
    output.item(fields | {"channels": answer.channels, "because": answer.because} | answer.decided)
    if answer.deliveries and not output.json_mode:
        columns = list(answer.deliveries[0])
        output.table("Deliveries", columns, [[row[column] for column in columns] for row in answer.deliveries])


commands: list[click.Command] = [tick, why]
