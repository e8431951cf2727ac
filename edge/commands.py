"""The edge's commands: its process, and the command line that people use."""

import click

from edge.alerts import alert, alert_cancel
from edge.campaigns import dry_run, test_send
from edge.controls import resume, stop, stops
from edge.newsletters import newsletter
from edge.people import link, prefer, subscribe, unlink, unsubscribe
from edge.previewing import preview
from edge.publishing import publish, retract
from edge.watching import show, watch
from runtime.commands import run_group
from runtime.settings import Settings


@run_group.command("edge")
def run_edge() -> None:
    """The HTTP edge: unsubscribe pages and one-click unsubscribes.

    Listens on NEWSWIRE_EDGE_HOST and NEWSWIRE_EDGE_PORT. TLS, and limits on connections, belong to the proxy before it.
    """
    import asyncio

    from edge.server import serve
    from runtime import failpoints
    from runtime.logs import configure

    settings = Settings.load()
    configure(settings, "edge")
    failpoints.configure(settings.failpoints, "edge")
    asyncio.run(serve(settings))


@run_group.command("ses-events")
def run_ses_events() -> None:
    """Take the SES events that SNS puts into the SQS queue of NEWSWIRE_SES_QUEUE_URL.

    A small installation needs no queue: SNS can call the edge at /callbacks/ses instead.
    """
    import sys

    from edge.callbacks.queue import run
    from runtime.logs import configure

    settings = Settings.load()
    configure(settings, "ses-events")
    sys.exit(run(settings))


newsletter.add_command(dry_run)
newsletter.add_command(test_send)

commands: list[click.Command] = [
    publish,
    retract,
    alert,
    alert_cancel,
    newsletter,
    preview,
    subscribe,
    prefer,
    link,
    unlink,
    unsubscribe,
    watch,
    show,
    stop,
    stops,
    resume,
]
