"""From a claimed delivery to a message: address, content, newsletter, unsubscribe link. What cannot become one is an outcome.

Consumes deliveries; reads the keys database (one statement a batch, in a thread) and content by position (cached).
Guarantee: a retracted item is left out, a destroyed key ends in Skipped(erased); nothing personal is logged or kept.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from email.utils import parseaddr
from typing import Any, Final

from core.errors import KeyDestroyed, WrongType
from core.outcomes import Dead, Outcome, Skipped
from core.rendering.model import AlertMessage, Issue, IssueItem, ItemContent
from runtime.content import ContentReader
from runtime.keys import KeyStore
from runtime.settings import Settings
from runtime.tokens import LIFETIME, TokenKeys, make_unsubscribe_token
from schemas.records import Event
from schemas.topics import Topics
from sinks.delivery import Delivery
from sinks.knowledge import Knowledge
from sinks.provider import Message, Sender

ITEMS_KEPT: Final = 20_000
"""Publications kept in the form that is rendered, about 3 kB each."""

_Position = tuple[str, int, int]


class Composer:
    """Makes messages for one channel."""

    def __init__(self, settings: Settings, topics: Topics, keys: KeyStore, reader: ContentReader, knowledge: Knowledge) -> None:
        self._settings, self._topics, self._keys, self._reader, self._knowledge = settings, topics, keys, reader, knowledge
        self._tokens = TokenKeys.load(settings)
        self._alert_from = parseaddr(settings.alert_from)
        self._items: OrderedDict[_Position, ItemContent] = OrderedDict()

    async def compose(self, deliveries: Sequence[Delivery]) -> list[Message | Outcome]:
        """Return a message or an outcome for each delivery, in order; Unavailable when keys or content cannot be asked for."""
        positions = {position for d in deliveries for position in self._positions(d)} - self._items.keys()
        _, contents = await asyncio.gather(
            asyncio.to_thread(self._keys.prefetch, {d.subscriber_id for d in deliveries}), self._reader.get_many(positions)
        )
        return [self._one(d, contents) for d in deliveries]

    def _positions(self, delivery: Delivery) -> list[_Position]:
        if delivery.source_kind == "newsletter":
            return [self._place(item) for item in delivery.request["items"]]
        partition, offset = delivery.request["alert_partition"], delivery.request["alert_offset"]
        return [] if partition is None or offset is None else [(self._topics.alerts, partition, offset)]

    def _place(self, item: dict[str, Any]) -> _Position:
        return self._topics.publications, item["content_partition"], item["content_offset"]

    def _one(self, delivery: Delivery, contents: dict[_Position, Event | None]) -> Message | Outcome:
        try:
            plain = self._keys.decrypt(delivery.subscriber_id, f"address.{delivery.channel}", delivery.request["address"])
        except KeyDestroyed:
            return Skipped("erased")
        except WrongType:
            return Dead("invalid_address")  # written for somebody else: it must not be used
        address = plain.decode("utf-8", "replace")
        made = self._issue(delivery, contents) if delivery.source_kind == "newsletter" else self._alert(delivery, contents)
        if not isinstance(made, tuple):
            return made
        content, sender = made
        return Message(delivery, address, content, sender)

    def _issue(self, delivery: Delivery, contents: dict[_Position, Event | None]) -> tuple[Issue, Sender] | Outcome:
        assert delivery.newsletter_id is not None
        definition = self._knowledge.newsletter(delivery.newsletter_id)
        if definition is None:
            return Dead("content_missing")
        items = []
        for item in delivery.request["items"]:
            if self._knowledge.bars.retracted(item["publication_id"]):
                continue
            content = self._item(item, contents)
            if content is None:
                return Dead("content_missing")
            items.append(IssueItem(content, item["reason"]))
        if not items:
            return Skipped("empty_issue")
        issue = Issue(
            newsletter_id=delivery.newsletter_id,
            newsletter_name=definition["name"],
            subject=definition["subject"],
            language=delivery.request["language"],
            items=tuple(items),
            issue_group=delivery.request["issue_group"] or "",
            from_name=definition["from_name"],
            postal_address=definition["postal_address"],
            unsubscribe_url=self._unsubscribe_url(delivery),
        )
        return issue, Sender(definition["from_name"], definition["from_address"], definition["reply_to"])

    def _item(self, item: dict[str, Any], contents: dict[_Position, Event | None]) -> ItemContent | None:
        place = self._place(item)
        known = self._items.get(place)
        if known is None:
            event = contents.get(place)
            if event is None or event.name != "PublicationSubmitted":
                return None
            known = self._items[place] = _item_content(event.value)
            if len(self._items) > ITEMS_KEPT:
                self._items.popitem(last=False)
        else:
            self._items.move_to_end(place)
        return known if known.publication_id == item["publication_id"] else None

    def _alert(self, delivery: Delivery, contents: dict[_Position, Event | None]) -> tuple[AlertMessage, Sender] | Outcome:
        place = self._positions(delivery)
        event = contents.get(place[0]) if place else None
        if event is None or event.name != "AlertRaised" or event.value["alert_id"] != delivery.source_id:
            return Dead("content_missing")
        raised = event.value
        text = self._knowledge.alert_update(delivery.source_id) or raised
        name, mail = self._alert_from
        message = AlertMessage(
            alert_id=raised["alert_id"],
            title=text["title"],
            body=text["body"],
            url=text["url"],
            priority=raised["priority"],
            language=delivery.request["language"],
            unsubscribe_url=self._unsubscribe_url(delivery),
            raised_at=raised["raised_at"],
            from_name=name,
            postal_address=self._settings.alert_postal_address,
        )
        return message, Sender(name, mail)

    def _unsubscribe_url(self, delivery: Delivery) -> str:
        token = make_unsubscribe_token(
            self._tokens,
            subscriber_id=delivery.subscriber_id,
            delivery_id=delivery.delivery_id,
            kind=delivery.source_kind,
            newsletter_id=delivery.newsletter_id,
            expires_at=delivery.not_after + LIFETIME,
        )
        return f"{self._settings.edge_url}/u/{token}"


def _item_content(value: dict[str, Any]) -> ItemContent:
    return ItemContent(
        publication_id=value["publication_id"],
        revision=value["revision"],
        title=value["title"],
        summary=value["summary"],
        url=value["url"],
        authors=tuple(value["authors"]),
        language=value["language"],
        published_at=value["published_at"],
        topics=tuple(topic["topic"] for topic in value["topics"]),
    )
