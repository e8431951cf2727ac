"""Commands that look: watch (delivery-status as it comes) and show (one publication)."""

from collections.abc import Iterator, Mapping
from datetime import UTC
from typing import TYPE_CHECKING, Any

import click

from core.errors import InputError, SetupError, Unavailable
from core.names import CHANNELS, LANES, STATUS_EVENTS
from runtime.output import Output
from runtime.settings import Settings

if TYPE_CHECKING:
    from edge.writing import Log
    from schemas.records import Event

_MARKS = {"sent": "→", "confirmed": "✓", "failed": "✗", "suppressed": "–", "unknown": "?"}


@click.command(epilog="Example: newswire watch --from-beginning --source daily@2026-11-22T09:00Z")
@click.option("--from-beginning", is_flag=True, help="Begin with the first status that is kept, not with the next one.")
@click.option("--source", "source_id", help="Only this alert_id, or newsletter_id@minute.")
@click.option("--channel", type=click.Choice(CHANNELS), help="Only this channel.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), help="End after so many seconds without a status."
)
@click.pass_obj
def watch(
    output: Output, from_beginning: bool, source_id: str | None, channel: str | None, count: int | None, timeout_s: float | None
) -> None:
    """Show what becomes of deliveries, as it is reported; with --json one object a line. Ends with Ctrl-C."""
    shown = 0
    try:
        for event in _statuses(Settings.load(), from_beginning, timeout_s):
            value = event.value
            if source_id not in (None, value["source_id"]) or channel not in (None, value["channel"]):
                continue
            _show_status(output, event)
            shown += 1
            if shown == count:
                break
    except KeyboardInterrupt:
        output.say("")


def _statuses(settings: Settings, from_beginning: bool, timeout_s: float | None) -> "Iterator[Event]":
    """Yield decoded status events for ever, or until nothing came for timeout_s."""
    from core.errors import CodecError
    from edge.writing import Log
    from runtime.kafka import (
        admin_client,
        assign,
        end_offsets,
        is_passing,
        make_consumer,
        start_offsets,
        take,
        to_raw,
    )

    log = Log(settings)
    admin = admin_client(settings)
    partitions = log.partitions(log.topics.delivery_status)
    offsets = start_offsets(admin, partitions) if from_beginning else end_offsets(admin, partitions)
    consumer = make_consumer(settings, None, auto_offset_reset="earliest")
    try:
        assign(consumer, offsets)
        last = log.clock.monotonic()
        while timeout_s is None or log.clock.monotonic() - last < timeout_s:
            for message in take(consumer, 0.2):
                error = message.error()
                if error is not None:
                    if not is_passing(error):
                        raise Unavailable(f"Kafka does not answer: {error.str()}")
                    continue
                try:
                    event = log.codec.decode(to_raw(message))
                except CodecError as problem:
                    raise InputError(f"delivery-status holds a record that is no event ({problem})") from None
                last = log.clock.monotonic()
                yield event
    finally:
        consumer.close()


def _show_status(output: Output, event: "Event") -> None:
    value, state = event.value, STATUS_EVENTS[event.name]
    if output.json_mode:
        output.item({"event": event.name, "id": event.id, "state": state, **value})
        return
    at = value["occurred_at"].astimezone(UTC).strftime("%H:%M:%S")
    reason = f" ({value['reason']})" if value["reason"] else ""
    attempt = f", attempt {value['attempt']}" if value["attempt"] > 1 else ""
    what = f"{_MARKS[state]} {state + reason:<28} {value['channel']:<8}"
    output.say(f"{at}  {what} {value['source_id']}  {value['subscriber_id']}{attempt}")


READ_DELIVERIES = 50_000
"""Delivery requests that `show` reads unasked; it takes a second or two."""


@click.command(epilog="Example: newswire show 6f1d4f0e-4c0b-4a53-9f0f-6f9e2a6f3a11")
@click.argument("publication")
@click.option(
    "--deliveries/--no-deliveries", default=None, help="Read the delivery topics, or not; by default when they are small."
)
@click.pass_obj
def show(output: Output, publication: str, deliveries: bool | None) -> None:
    """Show a publication: its state, quality and topics, its history in the log, and its deliveries by channel.

    Deliveries are found in the delivery topics, which are kept for 7 days, and their states in api.deliveries.
    """
    from edge.writing import Log

    settings = Settings.load()
    settings.require("database_url")
    publication = publication.strip().lower()
    rows = _query(settings, "select * from api.publications where publication_id::text = %s", publication)
    if not rows:
        raise InputError(f"publication: there is none with the id {publication} in api.publications, or not yet")
    with Log(settings) as log:
        events = list(log.events_of(log.topics.publications, [publication]))
        counts = _deliveries(log, settings, publication, deliveries)
    if output.json_mode:
        history = [{"at": e.time, "event": e.name, "revision": e.value.get("revision")} for e in events]
        output.item({**rows[0], "history": history, "deliveries": counts})
        return
    output.item({name: _words(value) for name, value in rows[0].items() if value is not None})
    lines = [(e.time, e.name, e.value.get("revision"), _detail(e.value)) for e in events]
    output.say("")
    output.table("History", ["at", "event", "revision", "detail"], lines)
    if counts is None:
        output.say("The delivery topics are large: --deliveries reads them.")
    elif counts:
        columns = ["source", "channel", "state", "count"]
        output.table("Deliveries", columns, [tuple(line[name] for name in columns) for line in counts])
    else:
        output.say("No delivery with it was requested within the last 7 days.")


def _query(settings: Settings, sql: str, *parameters: Any) -> list[dict[str, Any]]:
    """Return the rows of a query of the read-only role, as dicts."""
    import psycopg

    from runtime.postgres import connect

    try:
        with connect(settings.database_url) as connection:
            cursor = connection.execute(sql.encode(), parameters)
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        raise SetupError("the read models are not there yet; start the projections with `make up`.") from None
    except psycopg.OperationalError as error:
        raise Unavailable(f"PostgreSQL does not answer ({type(error).__name__})") from None


def _words(value: Any) -> Any:
    return ", ".join(f"{name} {weight:g}" for name, weight in value.items()) if isinstance(value, dict) else value


def _detail(value: Mapping[str, Any]) -> str:
    named = (("quality", "quality {:.2f}"), ("reason", "{}"), ("scorer", "by {}"), ("detail", "{}"))
    return ", ".join(text.format(value[name]) for name, text in named if value.get(name) is not None)


def _deliveries(log: "Log", settings: Settings, publication: str, wanted: bool | None) -> list[dict[str, Any]] | None:
    """Return how many deliveries contain the publication, by source, channel and state; None when that was not looked for."""
    topics = [log.topics.deliveries(channel, lane) for lane in LANES for channel in CHANNELS]
    places = [place for topic in topics for place in log.partitions(topic)]
    if wanted is False or (wanted is None and log.size(places) > READ_DELIVERIES):
        return None
    ids = [
        event.value["delivery_id"]
        for event in log.read_all(places)
        if any(item["publication_id"] == publication for item in event.value["items"])
    ]
    sql = """select source_id as source, channel, state, count(*) as count from api.deliveries
             where delivery_id = any(%s) group by 1, 2, 3 order by 1, 2, 3"""
    return _query(settings, sql, ids) if ids else []
