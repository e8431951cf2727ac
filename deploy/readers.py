"""The demo's readers with a history: what they read before, written into the log, and two of their issues side by side."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from deploy import population
from deploy.client import StackClient
from runtime.kafka import Producer
from schemas.codec import Codec
from schemas.registry import RegistrySource
from schemas.topics import Topics

SHOWN = 5
"""Items of an issue that are shown."""


def write_reading(demo: StackClient, reading: Sequence[dict[str, Any]]) -> None:
    """Write what was read before into the log, as the edge does when a link is followed; a second time it counts once."""
    topics, now = Topics.of(demo.settings), datetime.now(UTC)
    codec, producer = Codec(topics, RegistrySource(demo.settings.schema_registry_url)), Producer(demo.settings, "newswire-demo")
    more = {"delivery_id": None, "channel": None, "link": 0, "evidence": "api"}
    try:
        producer.send_sync(
            [
                codec.encode(topics.engagements, "ContentClicked", one | more, key=one["subscriber_id"], time=now)
                for one in reading
            ]
        )
    finally:
        producer.close()


def side_by_side(demo: StackClient, source: str, subscribers: Sequence[dict[str, Any]]) -> Table:
    """Return the issues of two readers who declared the same topics and read different things, with the reason of each item."""
    got = {row[0] for row in demo.query("select subscriber_id::text from api.deliveries where source_id = %s", source)}
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for person in subscribers[:: population.READS_EVERY]:
        if person["subscriber_id"] in got:
            alike.setdefault(tuple(person["topics"]), []).append(person)
    topics = min(alike, key=lambda names: (-min(len(alike[names]), 2), len(names), names))
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left")
    table.title = f"Two readers who follow {' and '.join(topics)}, and have read different things"
    columns = []
    for person in alike[topics][:2]:
        because = demo.command("why", source, person["subscriber_id"])[0]["because"]
        columns.append([line for line in because if line[0].isdigit()][:SHOWN])
        table.add_column(f"{person['name']}, {next(iter(person['channels']))}", ratio=1)
    for lines in zip_longest(*columns, fillvalue=""):
        table.add_row(*lines)
    return table
