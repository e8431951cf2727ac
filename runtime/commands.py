"""The command `newswire`: the group that every folder adds its commands to, and how their errors are shown.

A folder lists a module in the entry point group `newswire.commands`; its value is a list of click commands. Every such
module is imported at each start of any process, so importing one must be cheap: click, core.names and runtime.settings
at the top, everything else (Kafka, Faust, PostgreSQL, HTTP clients) inside the command that needs it.
Processes are commands of `run_group`, shown as `newswire run NAME`.
"""

import logging
import sys
from importlib.metadata import entry_points
from typing import Any

import click

from core.errors import InputError, NewswireError, SetupError, Unavailable
from runtime.letter_commands import dlq
from runtime.output import Output
from runtime.settings import Settings

EXIT_CODES: dict[type[NewswireError], int] = {InputError: 2, SetupError: 3, Unavailable: 4}
"""Exit code of a command by the kind of its error; 1 is every other error."""


def exit_code(error: NewswireError) -> int:
    """Return the exit code of an error that is shown as one sentence."""
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)


def sentence(error: NewswireError) -> str:
    """Return what a person is told: the message, and for a silent dependency what to do about it."""
    text = str(error) or type(error).__name__
    if isinstance(error, Unavailable) and "make up" not in text:
        return f"{text.rstrip('.')}. Is the stack up? Start it with `make up`."
    return text


class _Commands(click.Group):
    """A group that loads the folders' commands and shows Newswire's errors as one sentence."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._loaded = False

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for point in sorted(entry_points(group="newswire.commands"), key=lambda p: p.name):
            try:
                found = point.load()
            except ModuleNotFoundError as error:
                if error.name is None or not point.module.startswith(error.name):
                    raise
                continue  # a folder that is left out of this installation
            for command in found:
                self.add_command(command)

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._load()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        self._load()
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except NewswireError as error:
            output: Output = ctx.obj
            if output is not None and output.json_mode:
                output.item({"error": sentence(error), "kind": type(error).__name__})
            click.echo(f"error: {sentence(error)}", err=True)
            sys.exit(exit_code(error))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--json", "json_mode", is_flag=True, help="Print one JSON object a line, for programs.")
@click.version_option(package_name="newswire", prog_name="newswire")
@click.pass_context
def main(ctx: click.Context, json_mode: bool) -> None:
    """Newswire: publish research, deliver it, and prove what happened to every delivery.

    Addresses come from the environment, else from the stack's own files (`make up` writes them).
    """
    # What client libraries say while they try again is for the logs of processes, which put handlers of their own here.
    logging.getLogger().addHandler(logging.NullHandler())
    ctx.obj = Output(json_mode)


class _Processes(click.Group):
    """A group whose commands take nothing but their name, so that all have the same example."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        cmd.epilog = cmd.epilog or f"Example: newswire run {name or cmd.name}"
        super().add_command(cmd, name)


@click.group("run", cls=_Processes)
@click.pass_context
def run_group(ctx: click.Context) -> None:
    """Run one process in the foreground until SIGTERM; the local stack runs them all."""


@click.command(epilog="Example: newswire migrate")
@click.pass_obj
def migrate(output: Output) -> None:
    """Create databases and roles, and apply the migrations that are missing."""
    from runtime.postgres import migrate as apply_all

    applied = apply_all(Settings.load())
    output.table("Migrations", ["database", "applied"], [(database, len(files)) for database, files in applied.items()])


@click.command(epilog="Example: newswire health --timeout 10")
@click.option("--timeout", "timeout_s", default=5.0, show_default=True, help="Longest wait for each server, in seconds.")
@click.pass_obj
def health(output: Output, timeout_s: float) -> None:
    """Check Kafka, the registry, the databases, consumer groups and the stack's processes.

    The exit code is 1 when something is down.
    """
    from runtime.health import check_groups, check_servers, check_stack

    settings = Settings.load()
    servers = check_servers(settings, timeout_s)
    output.table("Servers", ["server", "ok", "detail"], [(c.name, c.ok, c.detail) for c in servers])
    groups = check_groups(settings, timeout_s) if servers[0].ok else []
    if groups:
        output.table(
            "Consumer groups", ["group", "state", "members", "lag"], [(g.name, g.state, g.members, g.lag) for g in groups]
        )
    processes = check_stack()
    if processes:
        output.table("Processes", ["process", "ok", "state"], [(c.name, c.ok, c.detail) for c in processes])
    down = [c.name for c in (*servers, *processes) if not c.ok]
    if down:
        output.say(f"Down: {', '.join(down)}. Is the stack up? `make up` starts it, `make status` shows its processes.")
        sys.exit(1)


@click.command(epilog="Example: newswire lag newsletters fanout-bulk")
@click.argument("stages", nargs=-1)
@click.pass_obj
def lag(output: Output, stages: tuple[str, ...]) -> None:
    """Print how many records each consumer group is behind, and how many members it has.

    STAGES are groups without the topic prefix; none means all.
    """
    from runtime.health import check_groups
    from runtime.reach import require_kafka

    settings = Settings.load()
    require_kafka(settings.kafka_bootstrap_servers)
    groups = check_groups(settings)
    known = {group.name.removeprefix(f"{settings.topic_prefix}."): group for group in groups}
    if not known:
        raise Unavailable(f"Kafka at {settings.kafka_bootstrap_servers} named no consumer group of {settings.topic_prefix}")
    if unknown := set(stages) - set(known):
        raise InputError(f"{min(unknown)} is no consumer group; there are {', '.join(sorted(known))}")
    rows = [(name, g.state, g.members, g.lag) for name, g in known.items() if not stages or name in stages]
    output.table("Consumer groups", ["group", "state", "members", "lag"], rows)


commands: list[click.Command] = [run_group, migrate, health, lag, dlq]
