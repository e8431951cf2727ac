"""The command line of the runner; `python -m deploy.stack --help`."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from deploy.stack import artifacts, control, environment, servers, status, training
from deploy.stack.environment import OWNER
from deploy.stack.errors import StackError
from deploy.stack.layout import Layout, Remembered, read_env
from deploy.stack.lifecycle import Request, Up
from deploy.stack.ports import DEFAULTS
from deploy.stack.report import Report

ERROR, NOT_RUNNING = 3, 1
"""Exit codes: something is in the way; something that should run does not."""


class _Group(click.Group):
    """Shows a StackError as what it is."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StackError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(ERROR)
        except KeyboardInterrupt:
            click.echo("interrupted: `make up` completes what was begun, `make down` stops it", err=True)
            sys.exit(130)


def _home(ctx: click.Context, _: click.Parameter, value: Path | None) -> Path | None:
    if value is not None:
        ctx.find_root().obj = Layout.at(value)
    return value


def _home_option(function: Callable[..., None]) -> Callable[..., None]:
    option = click.option(
        "--home",
        type=click.Path(path_type=Path),
        callback=_home,
        expose_value=False,
        help="The stack's folder.  [default: .newswire]",
    )
    return option(function)


def _layout(ctx: click.Context) -> Layout:
    return ctx.find_root().obj or Layout.at(Path(".newswire"))


def _console() -> Console:
    return Console(soft_wrap=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@_home_option
def main() -> None:
    """Run the local stack: Kafka, registry, PostgreSQL, sandbox providers and every Newswire process."""


def _ports(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    fixed = {}
    for word in values:
        name, _sign, number = word.partition("=")
        if name not in DEFAULTS or not number.isdigit() or not 0 < int(number) < 65_536:
            raise click.BadParameter(f"{word!r}: write NAME=NUMBER with a NAME of {', '.join(DEFAULTS)}")
        fixed[name] = int(number)
    return fixed


_only = click.option(
    "--only", type=click.Choice(["infra", "all"]), default=None, help="Only the servers, without Newswire's processes."
)
_profile = click.option(
    "--profile",
    type=click.Choice(list(servers.PROFILES)),
    envvar="NEWSWIRE_STACK_PROFILE",
    help="Kept until another is given.  [default: demo]",
)
_nodes = click.option(
    "--nodes",
    type=click.Choice(["1", "3"]),
    callback=lambda _ctx, _param, value: int(value) if value else None,
    envvar="NEWSWIRE_STACK_NODES",
    help="Nodes of Kafka; with 3 any one of them may be lost.  [default: 1]",
)
_port = click.option(
    "--port",
    "fixed",
    multiple=True,
    callback=_ports,
    metavar="NAME=NUMBER",
    help=f"Insist on a port; NAME is one of {', '.join(DEFAULTS)}.",
)


@main.command()
@_home_option
@_only
@_profile
@_nodes
@_port
@click.pass_context
def up(ctx: click.Context, only: str | None, profile: str | None, nodes: int | None, fixed: dict[str, int]) -> None:
    """Start what does not run yet, and say where it is."""
    _up(_layout(ctx), Request(dict(os.environ), only, profile, fixed, nodes))


def _up(layout: Layout, request: Request) -> None:
    console, began = _console(), time.monotonic()
    with layout.locked(), Report(console) as report:
        Up(layout, request, report).run()
        found = artifacts.present(request.environ)
        if found is not None and training.needed(found):
            report.line("class caches", "made in the background, the next start takes half the time")
            training.start(layout, environment.supervised(request.environ))
    console.print(f"Up in {time.monotonic() - began:.1f} s.\n", highlight=False)
    _where(layout, console)


def _where(layout: Layout, console: Console) -> None:
    values = read_env(layout.stack_env)
    only_infra = Remembered.load(layout).only == "infra"
    shown = Path(os.path.relpath(layout.stack_env))
    home = "" if layout.home.name == ".newswire" else f"NEWSWIRE_HOME={os.path.relpath(layout.home)} "
    lines = [("messages", values["NEWSWIRE_INBOX_URL"])]
    if not only_infra:
        lines += [("read models", "make psql" if not home else f'. {shown} && psql "$DATABASE_URL"')]
    lines += [
        ("Kafka", f"{home}bin/kafka topics"),
        ("addresses", str(shown)),
    ]
    for name, text in lines:
        console.print(f"  {name:<16} {text}", highlight=False, markup=False, soft_wrap=True)


@main.command()
@_home_option
@click.pass_context
def down(ctx: click.Context) -> None:
    """Stop everything; data stays."""
    layout = _layout(ctx)
    if not layout.home.is_dir():
        click.echo(f"There is no stack in {layout.home}.")
        return
    with layout.locked(), Report(_console()) as report:
        control.down(layout, report)


@main.command()
@_home_option
@click.pass_context
def clean(ctx: click.Context) -> None:
    """Stop everything and remove the folder with all data, without asking."""
    with Report(_console()) as report:
        control.clean(_layout(ctx), report)


@main.command(name="status")
@_home_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def status_command(ctx: click.Context, as_json: bool) -> None:
    """Show what runs; exit code 1 when something does not."""
    layout = _layout(ctx)
    if as_json:
        found = status.as_json(layout)
        click.echo(json.dumps(found))
        sys.exit(0 if found["ok"] else NOT_RUNNING)
    sys.exit(0 if status.show(layout, Console()) else NOT_RUNNING)


@main.command()
@_home_option
@click.argument("name", required=False)
@click.pass_context
def logs(ctx: click.Context, name: str | None) -> None:
    """Follow the log of NAME, or of all."""
    sys.exit(control.follow(_layout(ctx), name))


@main.command()
@_home_option
@click.argument("name")
@click.pass_context
def stop(ctx: click.Context, name: str) -> None:
    """Stop NAME (a program, or newswire, infra, all) until it is started again."""
    layout = _layout(ctx)
    with layout.locked(), Report(_console()) as report:
        control.stop(layout, name, report)


@main.command()
@_home_option
@click.argument("name")
@click.pass_context
def start(ctx: click.Context, name: str) -> None:
    """Start NAME and wait until it is ready."""
    layout = _layout(ctx)
    with layout.locked(), Report(_console()) as report:
        control.start(layout, name, report)
        control.say_untaken(layout, os.environ, report)


@main.command()
@_home_option
@click.argument("name")
@click.pass_context
def restart(ctx: click.Context, name: str) -> None:
    """Stop NAME and start it again."""
    layout = _layout(ctx)
    with layout.locked(), Report(_console()) as report:
        control.stop(layout, name, report)
        control.start(layout, name, report)
        control.say_untaken(layout, os.environ, report)


@main.command(context_settings={"ignore_unknown_options": True})
@_home_option
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def psql(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Run psql as the read-only role; WORDS are its arguments."""
    sys.exit(control.psql(_layout(ctx), words))


def _variables(layout: Layout, everything: bool) -> dict[str, str]:
    clients, processes = read_env(layout.stack_env), read_env(layout.process_env)
    if not clients:
        raise StackError(f"there is no stack in {layout.home}: start one with `make up`.")
    chosen = processes if everything else {OWNER: processes[OWNER]}
    return {**clients, **chosen, "NEWSWIRE_HOME": str(layout.home)}


@main.command()
@_home_option
@click.option("--all", "everything", is_flag=True, help="The processes' settings too.")
@click.pass_context
def env(ctx: click.Context, everything: bool) -> None:
    """Print the addresses as lines for `eval`."""
    for name, value in _variables(_layout(ctx), everything).items():
        click.echo(f"export {name}={shlex.quote(value)}")


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@_home_option
@_only
@_profile
@_nodes
@_port
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def run(
    ctx: click.Context,
    only: str | None,
    profile: str | None,
    nodes: int | None,
    fixed: dict[str, int],
    words: tuple[str, ...],
) -> None:
    """Bring a stack up, run a command with its addresses, take the stack down; the exit code is the command's."""
    layout = _layout(ctx)
    try:
        _up(layout, Request(dict(os.environ), only, profile, fixed, nodes))
        try:
            code = subprocess.run(words, env={**os.environ, **_variables(layout, False)}, check=False).returncode  # noqa: S603 - no shell
        except OSError as error:
            raise StackError(f"{words[0]} cannot be run ({error.strerror}).") from error
    finally:
        with layout.locked(), Report(_console()) as report:
            control.down(layout, report)
    sys.exit(code)


if __name__ == "__main__":
    main(prog_name="python -m deploy.stack")
