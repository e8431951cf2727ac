"""`newswire channels`: how each channel is sent to now, and when what it did not take is tried again."""

from collections.abc import Sequence
from typing import Any

import click

from core.flow.rates import RATES
from core.flow.retries import SCHEDULES, Schedule
from core.names import CHANNELS, LANES
from runtime.output import Output
from runtime.settings import Settings

BREAKER_COLUMNS = ("channel", "destination", "breaker", "since", "because")
RATE_COLUMNS = ("channel", "of", "per_second", "burst", "now", "held_for_s", "source")
RETRY_COLUMNS = ("channel", "lane", "in_the_process_s", "in_the_ledger_s", "jitter")

_Rows = list[Sequence[Any]]


@click.command("channels", epilog="Example: newswire channels --channel slack")
@click.option("--channel", type=click.Choice(CHANNELS), help="Only this channel.")
@click.pass_obj
def channels(output: Output, channel: str | None) -> None:
    """Show the breakers, rates and retry schedules of the channels.

    `now` is the speed that all processes of a channel share; it is below per_second for a while after the provider said
    that it was asked too fast. A destination is shown as its keyed hash, and a breaker as the process finds it
    that finds it worst. A call that was refused for a passing reason is made again in the process, after what the provider
    asks for (at most 2 s) and a wait up to the one shown; then the delivery is parked, each time for the next
    step and never for less than the provider asks, until it expires.
    """
    settings = Settings.load()
    settings.require("ledger_database_url")
    wanted = [channel] if channel else list(CHANNELS)
    breakers, rates = _state(settings, wanted)
    output.table("Breakers", BREAKER_COLUMNS, breakers)
    output.table("Rates", RATE_COLUMNS, rates)
    rows = [(name, lane, *_schedule(SCHEDULES[name, lane])) for name in wanted for lane in LANES]
    title = "Retries: waits before the calls that are made again at once, then steps when it is parked for the 1st, 2nd, ... time"
    output.table(title, RETRY_COLUMNS, rows)


def _state(settings: Settings, wanted: list[str]) -> tuple[_Rows, _Rows]:
    """Return the rows of breakers and of rates."""
    from core.errors import SetupError
    from runtime.postgres import connect
    from sinks.flow import rates_apply
    from sinks.flow_store import NOTED, Noted, read_bucket
    from sinks.ledger import NOT_MIGRATED

    breakers: _Rows = []
    rates: _Rows = []
    apply = rates_apply(settings)
    with connect(settings.ledger_database_url, autocommit=True) as connection:
        try:
            noted = [Noted(*row) for row in connection.execute(NOTED, [wanted])]
            buckets = {name: read_bucket(connection, name) for name in wanted}
        except NOT_MIGRATED as error:
            raise SetupError(f"the ledger has no schema ({str(error).splitlines()[0]}): run `newswire migrate`.") from error
    for name in wanted:
        own = [one for one in noted if one.channel == name]
        table = RATES[name]
        if table.breaker == "provider" and not any(one.destination == "" for one in own):
            breakers.append((name, "provider", "closed", None, None))
        breakers += [(name, one.destination or "provider", one.state, one.changed_at, one.reason) for one in own]
        if table.provider is not None:
            rate, now, held_s = (table.provider.per_s, table.provider.burst), None, None
            if (found := buckets[name]) is not None:
                bucket, at_s = found
                rate, now = (bucket.speed.ceiling, bucket.burst), bucket.speed.at(at_s)
                held_s = max(0.0, bucket.held_until_s - at_s)
            rates.append((name, "provider", *rate, now if apply else "off", held_s, table.source))
        source = table.source if table.provider is None else None
        each = table.destination
        rates.append((name, "each destination", each.per_s, each.burst, None if apply else "off", None, source))
        for destination, one in table.destinations.items():
            rates.append((name, destination, one.per_s, one.burst, None if apply else "off", None, None))
    return breakers, rates


def _schedule(schedule: Schedule) -> tuple[list[float], list[float], str]:
    low, high = schedule.jitter
    return list(schedule.short_s), list(schedule.long_s), f"{low:.0%} to {high:.0%}"


commands: list[click.Command] = [channels]
