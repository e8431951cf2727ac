"""From a claimed delivery to a message: address, content, newsletter, unsubscribe link. What cannot become one is an outcome.

Consumes deliveries; reads the keys database (one statement a batch, in a thread) and content by position (cached).
Guarantees: subject and template's name are those that were decided, in each attempt; a retracted item is left out, a destroyed
key ends in Skipped(erased); nothing personal is logged or kept.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime
from email.utils import parseaddr
from typing import Any, Final

from core.errors import KeyDestroyed, WrongType
from core.ids import is_test
from core.names import NOTICE
from core.outcomes import Dead, Outcome, Skipped
from core.rendering.catalogue import ALERT, DEFAULT
from core.rendering.latex import readable
from core.rendering.model import AlertMessage, Issue, IssueItem, ItemContent, Retraction
from core.rendering.phrases import language_of, phrases_for
from core.rendering.templating import MailTemplate
from runtime.content import ContentReader
from runtime.keys import KeyStore
from runtime.settings import Settings
from runtime.tokens import LIFETIME, TokenKeys, make_unsubscribe_token
from runtime.topic_names import TopicNames
from schemas.records import Event
from schemas.topics import Topics
from sinks.delivery import Delivery
from sinks.knowledge import Knowledge
from sinks.provider import Message, Sender
from sinks.suppression import Suppressed

TEST_MARK: Final = "[Test] "
"""Before the subject of a test send, and before the newsletter's name, which is what chats show."""
ITEMS_KEPT: Final = 20_000
"""Publications kept in the form that is rendered, about 3 kB each."""

_Position = tuple[str, int, int]

log = logging.getLogger(__name__)


class Composer:
    """Makes messages for one channel."""

    def __init__(
        self, settings: Settings, topics: Topics, keys: KeyStore, reader: ContentReader, knowledge: Knowledge,
        suppressed: Suppressed, templates: Mapping[str, MailTemplate], topic_names: TopicNames,
    ) -> None:  # fmt: skip
        self._settings, self._topics, self._keys, self._reader, self._knowledge = settings, topics, keys, reader, knowledge
        self._suppressed, self._publications = suppressed, topics.publications
        self._tokens = TokenKeys.load(settings)
        self._alert_from = parseaddr(settings.alert_from)
        self._items: OrderedDict[_Position, ItemContent] = OrderedDict()
        self._templates, self._topic_names = templates, topic_names
        self._not_there: set[str] = set()
        log.info("mail templates: %s", ", ".join(template.id for template in self._templates.values()))

    async def compose(self, deliveries: Sequence[Delivery]) -> list[Message | Outcome]:
        """Return a message or an outcome for each delivery, in order; Unavailable when keys or content cannot be asked for."""
        _, contents = await asyncio.gather(
            asyncio.to_thread(self._keys.prefetch, {d.subscriber_id for d in deliveries}),
            self._reader.get_many(self._unknown(deliveries)),
        )
        return [self._one(d, contents) for d in deliveries]

    async def retractions(self, deliveries: Sequence[tuple[Delivery, datetime]]) -> list[tuple[str, Retraction] | Outcome]:
        """Return address and retraction for each delivery and the time of its recall, in order; the errors are compose's."""
        _, contents = await asyncio.gather(
            asyncio.to_thread(self._keys.prefetch, {d.subscriber_id for d, _ in deliveries}),
            self._reader.get_many(self._unknown([d for d, _ in deliveries])),
        )
        return [self._retraction(d, retracted_at, contents) for d, retracted_at in deliveries]

    def _retraction(
        self, delivery: Delivery, retracted_at: datetime, contents: dict[_Position, Event | None]
    ) -> tuple[str, Retraction] | Outcome:
        made = self._message(delivery, contents)
        if not isinstance(made, Message):
            return made
        content, address = made.content, made.address
        gone: list[ItemContent] = []
        if isinstance(content, Issue):
            items = zip(delivery.request["items"], self._positions(delivery), strict=True)
            places = [(i, place) for i, place in items if self._knowledge.bars.retracted(i["publication_id"])]
            gone = [item for i, place in places if (item := self._item(i, place, contents)) is not None]
        about = content.publication_id if isinstance(content, AlertMessage) else None
        retraction = Retraction(
            titles=(content.title,) if isinstance(content, AlertMessage) else tuple(item.title for item in gone),
            publication_ids=(about,) if about else tuple(item.publication_id for item in gone),
            language=content.language,
            retracted_at=retracted_at,
            unsubscribe_url=content.unsubscribe_url,
            rest=content if isinstance(content, Issue) and content.items else None,
            alert_id=content.alert_id if isinstance(content, AlertMessage) else None,
            from_name=content.from_name,
            postal_address=content.postal_address,
        )
        return address, retraction

    def _unknown(self, deliveries: Sequence[Delivery]) -> set[_Position]:
        """Return where the contents are that have to be read."""
        return {place for d in deliveries for place in self._positions(d) if place not in self._items}

    def _positions(self, delivery: Delivery) -> list[_Position]:
        if delivery.source_kind == "newsletter":
            topic = self._publications
            return [(topic, item["content_partition"], item["content_offset"]) for item in delivery.request["items"]]
        partition, offset = delivery.request["alert_partition"], delivery.request["alert_offset"]
        return [] if partition is None or offset is None else [(self._topics.alerts, partition, offset)]

    def _one(self, delivery: Delivery, contents: dict[_Position, Event | None]) -> Message | Outcome:
        made = self._message(delivery, contents)
        if isinstance(made, Message):
            if isinstance(made.content, Issue) and not made.content.items:
                return Skipped("empty_issue")
            delivery.template = self.template_id(delivery)
        return made

    def _message(self, delivery: Delivery, contents: dict[_Position, Event | None]) -> Message | Outcome:
        try:
            plain = self._keys.decrypt(delivery.subscriber_id, f"address.{delivery.channel}", delivery.request["address"])
        except KeyDestroyed:
            return Skipped("erased")
        except WrongType:
            return Dead("invalid_address")  # written for somebody else: it must not be used
        address = plain.decode("utf-8", "replace")
        if self._suppressed.bars(delivery.channel, address):
            return Skipped("suppressed_address")
        made = self._content(delivery, contents)
        if not isinstance(made, tuple):
            return made
        content, sender = made
        return Message(delivery, address, content, sender)

    def _content(
        self, delivery: Delivery, contents: dict[_Position, Event | None]
    ) -> tuple[Issue | AlertMessage, Sender] | Outcome:
        if delivery.source_kind == "newsletter":
            return self._issue(delivery, contents)
        return self._notice(delivery) if delivery.source_kind == NOTICE else self._alert(delivery, contents)

    def _notice(self, delivery: Delivery) -> tuple[AlertMessage, Sender]:
        """Return what its owner is told about a disabled endpoint (sinks/owners.py)."""
        phrases = phrases_for(delivery.request["language"])
        name, mail = self._alert_from
        message = AlertMessage(
            alert_id=delivery.request["cause_id"],
            title=phrases.endpoint_disabled,
            body=phrases.endpoint_disabled_why,
            url=None,
            priority=delivery.request["priority"],
            language=delivery.request["language"],
            unsubscribe_url=self._unsubscribe_url(delivery),
            raised_at=delivery.request["decided_at"],
            from_name=name,
            postal_address=self._settings.alert_postal_address,
        )
        return message, Sender(name, mail)

    def _issue(self, delivery: Delivery, contents: dict[_Position, Event | None]) -> tuple[Issue, Sender] | Outcome:
        """Return an issue as it was decided, from the newsletter as it is now: who sends, where from, and what it is called."""
        assert delivery.newsletter_id is not None
        definition = self._knowledge.newsletter(delivery.newsletter_id)
        if definition is None or not delivery.request["subject"]:
            return Dead("content_missing")
        items, retracted = [], self._knowledge.bars.retracted
        for item, place in zip(delivery.request["items"], self._positions(delivery), strict=True):
            if retracted(item["publication_id"]):
                continue
            content = self._item(item, place, contents)
            if content is None:
                return Dead("content_missing")
            items.append(IssueItem(content, item["reason"]))
        subject, template = delivery.request["subject"], self._template(delivery.request["template"])
        mark = TEST_MARK if is_test(delivery.source_id) else ""
        language = language_of(delivery.request["language"], *definition["audience_languages"])
        issue = Issue(
            newsletter_id=delivery.newsletter_id,
            newsletter_name=mark + definition["name"],
            subject=mark + subject.replace("{newsletter}", definition["name"]),
            language=language,
            items=tuple(items),
            issue_group=delivery.request["issue_group"] or "",
            from_name=definition["from_name"],
            postal_address=definition["postal_address"],
            unsubscribe_url=self._unsubscribe_url(delivery),
            template=template,
            topic_names=self._topic_names[language],
            delivery_id=delivery.delivery_id,
        )
        return issue, Sender(definition["from_name"], definition["from_address"], definition["reply_to"])

    def template_id(self, delivery: Delivery) -> str:
        """Return name and version of the template that its message is made with, as the templates are now."""
        return self._template(delivery.request["template"]).id if delivery.source_kind == "newsletter" else ALERT.id

    def _template(self, name: str) -> MailTemplate:
        template = self._templates.get(name)
        if template is None and name not in self._not_there:
            self._not_there.add(name)
            log.warning("there is no template %s, so its newsletters are sent with %s", name, DEFAULT)
        return template or self._templates[DEFAULT]

    def _item(self, item: dict[str, Any], place: _Position, contents: dict[_Position, Event | None]) -> ItemContent | None:
        known = self._items.get(place)
        if known is None:
            event = contents.get(place)
            if event is None or event.name != "PublicationSubmitted":
                return None
            known = self._items[place] = ItemContent.of(event.value)
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
            title=readable(text["title"]),
            body=readable(text["body"]),
            url=text["url"],
            priority=raised["priority"],
            language=delivery.request["language"],
            unsubscribe_url=self._unsubscribe_url(delivery),
            raised_at=raised["raised_at"],
            publication_id=raised["publication_id"],
            from_name=name,
            postal_address=self._settings.alert_postal_address,
        )
        return message, Sender(name, mail)

    def _unsubscribe_url(self, delivery: Delivery) -> str:
        token = make_unsubscribe_token(
            self._tokens,
            subscriber_id=delivery.subscriber_id,
            delivery_id=delivery.delivery_id,
            kind="newsletter" if delivery.newsletter_id else "alert",
            newsletter_id=delivery.newsletter_id,
            expires_at=delivery.not_after + LIFETIME,
        )
        return f"{self._settings.edge_url}/u/{token}"
