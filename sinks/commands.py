"""The sinks' processes: `newswire run consent`, `newswire run ses-urgent` and so on, one for each channel and lane."""

import sys

import click

from core.names import CHANNELS, LANES
from runtime.commands import run_group
from runtime.settings import Settings
from sinks.channel_commands import commands as channel_commands
from sinks.delivery_commands import commands as delivery_commands
from sinks.guard_commands import commands as guard_commands
from sinks.suppression_commands import suppression_group

PROCESS_OF_CHANNEL = {"email": "ses"}
"""Channel and the first part of its processes' names, where the provider's name says more."""


@run_group.command("consent")
def consent() -> None:
    """Keep the table of whom and what not to send to up to date; the sinks send nothing without it."""
    from runtime import failpoints, logs
    from sinks.applier import run

    settings = Settings.load()
    logs.configure(settings, "consent")
    failpoints.configure(settings.failpoints, "consent")
    sys.exit(run(settings))


@run_group.command("feedback")
def feedback() -> None:
    """Turn what providers report into states of deliveries, and suppress addresses that bounce or complain."""
    from runtime import failpoints, logs
    from sinks.feedback import run

    settings = Settings.load()
    logs.configure(settings, "feedback")
    failpoints.configure(settings.failpoints, "feedback")
    sys.exit(run(settings))


@run_group.command("guard")
def guard() -> None:
    """Brake sources that come back too often, let go what was held, and change what was sent and retracted since."""
    from runtime import failpoints, logs
    from sinks.guard import run

    settings = Settings.load()
    logs.configure(settings, "guard")
    failpoints.configure(settings.failpoints, "guard")
    sys.exit(run(settings))


def _sink_command(channel: str, lane: str) -> click.Command:
    process = f"{PROCESS_OF_CHANNEL.get(channel, channel)}-{lane}"

    @click.command(
        process, help=f"Send the {lane} deliveries of the channel {channel}.", short_help=f"Send {lane} {channel} deliveries."
    )
    def command() -> None:
        from runtime import failpoints, logs
        from sinks.loop import run

        settings = Settings.load()
        logs.configure(settings, process)
        failpoints.configure(settings.failpoints, process)
        sys.exit(run(settings, channel, lane))

    return command


for _channel in CHANNELS:
    for _lane in LANES:
        run_group.add_command(_sink_command(_channel, _lane))

commands: list[click.Command] = [*channel_commands, *delivery_commands, *guard_commands, suppression_group]
