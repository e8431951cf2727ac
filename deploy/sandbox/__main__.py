"""`python -m deploy.sandbox --port P --journal DIR`: runs until SIGTERM or SIGINT."""

import asyncio
import errno
import signal
from pathlib import Path

import click
import uvloop
from aiohttp import web

from deploy.sandbox.journal import JournalError
from deploy.sandbox.recorder import DEFAULT_KEEP, DEFAULT_KEEP_BYTES
from deploy.sandbox.server import Server, build
from runtime.collector import settle

EXIT_SETUP = 3
SHUTDOWN_S = 0.5


class SetupFailed(click.ClickException):
    """Something on this machine is missing or in use; one sentence that says what to do."""

    exit_code = EXIT_SETUP


async def _serve(server: Server, host: str, port: int) -> None:
    runner = web.AppRunner(server.app, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=512)
        try:
            await site.start()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise SetupFailed(f"port {port} on {host} is in use: stop what runs there, or give another --port.") from None
        bound = runner.addresses[0][1]
        click.echo(f"sandbox: listening on http://{host}:{bound}")
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await stop.wait()
    finally:
        await runner.cleanup()


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), required=True, help="Port to listen on; 0 takes a free one and prints it.")
@click.option("--journal", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of requests.jsonl.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--keep", type=click.IntRange(0), default=DEFAULT_KEEP, show_default=True, help="Messages whose bodies the inbox keeps."
)
@click.option(
    "--keep-bytes", type=click.IntRange(0), default=DEFAULT_KEEP_BYTES, show_default=True, help="Bytes of these at most."
)
@click.option("--seed", type=int, default=None, help="Seed of the faults' shares, to repeat a run.")
def main(port: int, journal: Path, host: str, keep: int, keep_bytes: int, seed: int | None) -> None:
    """Run the sandbox providers: SES, Slack, Discord, webhooks, scoring, and an inbox page at /."""
    try:
        server = build(journal, keep=keep, keep_bytes=keep_bytes, seed=seed)
    except JournalError as error:
        raise SetupFailed(str(error)) from None
    except OSError as error:
        raise SetupFailed(
            f"the journal in {journal} cannot be opened ({error.strerror}): give --journal another folder."
        ) from None
    settle()
    uvloop.run(_serve(server, host, port))


if __name__ == "__main__":
    main(prog_name="python -m deploy.sandbox")
