"""The process `newswire run projections`: an engine a projection, each in a thread of its own.

When one of them ends with an error the process ends with it (code 70), so that the supervisor starts it again.
"""

import logging
import signal
import threading
from collections.abc import Sequence

from projections.catalogue import PROJECTIONS, projection
from projections.engine import Engine
from projections.model import Projection
from runtime import collector, failpoints, metrics
from runtime.logs import configure
from runtime.producer import EXIT_CODE
from runtime.settings import Settings
from schemas.codec import SchemaSource

log = logging.getLogger(__name__)


def run(settings: Settings, names: Sequence[str] = (), *, source: SchemaSource | None = None) -> int:
    """Run until SIGTERM or SIGINT and return the exit code; InputError names an unknown projection."""
    chosen = [projection(name) for name in names] or list(PROJECTIONS)
    configure(settings, "projections")
    failpoints.configure(settings.failpoints, "projections")
    metrics.serve(settings.metrics_port)
    collector.settle()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    failed: list[str] = []
    threads = [
        threading.Thread(target=_follow, args=(item, settings, source, stop, failed), name=f"projection-{item.name}")
        for item in chosen
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():  # with a timeout, so that signals are handled meanwhile
            thread.join(0.5)
    return EXIT_CODE if failed else 0


def _follow(item: Projection, settings: Settings, source: SchemaSource | None, stop: threading.Event, failed: list[str]) -> None:
    try:
        Engine(item, settings, source=source).run(stop)
    except BaseException:
        failed.append(item.name)
        log.critical("projection %s ends, and the process with it", item.name, exc_info=True)
        raise
    finally:
        stop.set()
