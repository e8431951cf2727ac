"""The demo's readers with a history: what they read before, written into the log, and two of their issues side by side."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table

from deploy import population
from deploy.client import StackClient
from runtime.kafka import Producer
from runtime.settings import Settings
from runtime.topic_names import load_topic_names
from schemas.codec import Codec
from schemas.registry import RegistrySource
from schemas.topics import Topics

SHOWN = 5
"""Items of an issue that are shown."""
LOOKED_AT, PLAIN = 6, 2
"""Readers that are looked at, a second each, until two have so many items because of what they read."""


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


class Shown(NamedTuple):
    """A reader, and the items of their issue with the reason of each."""

    person: dict[str, Any]
    because: list[str]

    @property
    def by_reading(self) -> int:
        """How many of the items are there because of what they read."""
        return sum("Because you read" in line for line in self.because)


def two_readers(demo: StackClient, source: str, subscribers: Sequence[dict[str, Any]]) -> list[Shown]:
    """Return two readers who got a mail, declared the same topics and read different things: of a few where it shows most."""
    sql = "select subscriber_id::text from api.deliveries where source_id = %s and channel = 'email'"
    got = {row[0] for row in demo.query(sql, source)}
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for person in subscribers[:: population.READS_EVERY]:
        if person["subscriber_id"] in got:
            alike.setdefault(tuple(person["topics"]), []).append(person)
    topics = min(alike, key=lambda names: (-min(len(alike[names]), 2), len(names), names))
    shown: list[Shown] = []
    for person in alike[topics][:LOOKED_AT]:
        shown.append(Shown(person, _because(demo, source, person)))
        if sum(one.by_reading >= PLAIN for one in shown) == 2:
            break
    return sorted(shown, key=lambda one: -one.by_reading)[:2]


def _because(demo: StackClient, source: str, person: dict[str, Any]) -> list[str]:
    because = demo.command("why", source, person["subscriber_id"])[0]["because"]
    return [line for line in because if line[0].isdigit()][:SHOWN]


def side_by_side(readers: Sequence[Shown], settings: Settings) -> Table:
    """Return the issues of these readers beside each other, with the reason of each item; topics as their mails name them."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left")
    topic_names = load_topic_names(settings)["en"]
    follow = " and ".join(topic_names.get(topic, topic) for topic in readers[0].person["topics"])
    table.title = f"Two readers who follow {follow}, and have read different things"
    for one in readers:
        table.add_column(f"{one.person['name']}, {one.person['channels']['email']}", ratio=1)
    for lines in zip_longest(*(one.because for one in readers), fillvalue=""):
        table.add_row(*lines)
    return table
