"""The feedback process: what providers report becomes states of the ledger, delivery-status, and suppressed addresses.

Consumes provider-events as the group <prefix>.sink.feedback; produces delivery-status, and ChannelUnlinked on subscribers.
State: the ledger. Order: none is needed, because states are compared by rank. What happens to a batch, in this order:

1. addresses of permanent bounces and complaints go on the suppression list, which every sink reads every second;
2. their subscribers' channels are unlinked, so that streams and consent learn it, and the owners of disabled endpoints are told
   on another channel; this is noted in the list;
3. deliveries are raised to the state that the notice means, by rank;
4. that is reported in delivery-status and noted as reported; 5. the offsets are committed.

Guarantee: each step may be done again. After a crash the batch is read again: what was announced is not announced anew, what
has its state keeps it, and what was not reported is reported by the sweepers of its sinks. Beside it, addresses are put on the
provider's own list; a provider that does not answer holds nothing else up.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

from confluent_kafka import Consumer, KafkaException, Message

from core.errors import CodecError, EventRefused, KeyDestroyed, NewswireError, SetupError, Unavailable, WrongType
from core.feedback import Effect, effect_of, stronger
from core.ids import event_id, ledger_key
from runtime import metrics
from runtime.clock import Clock, SystemClock
from runtime.deadletters import dead_letter
from runtime.failpoints import hit_async
from runtime.kafka import ensure_first_offsets, is_passing, make_consumer, membership, take, to_raw
from runtime.keys import KeyStore
from runtime.producer import Producer
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.records import Event, Raw, Record
from schemas.registry import RegistrySource
from schemas.topics import Topics
from sinks.feedback_book import FeedbackBook, Key, Moved, Suppression
from sinks.ledger import open_pool
from sinks.owners import notices
from sinks.provider import Provider
from sinks.registry import PROVIDERS
from sinks.settle import persist, status_record

BATCH: Final = 500
"""Most notices in one round."""
BUSY_WAIT_S: Final = 0.05
"""Wait before a row is tried again that a sink was writing."""
MIRROR_EVERY_S: Final = 2.0
"""How often the provider's own list is brought up to date."""
EXIT_CODE: Final = 70
SOURCE: Final = "/newswire/sinks/feedback"
_POLL_S: Final = 0.2

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Notice:
    """An event of provider-events."""

    event: Event
    effect: Effect
    key: Key | None
    """The delivery that it names; it may name none."""

    @classmethod
    def of(cls, event: Event) -> Self:
        """Return what an event means; EventRefused when its delivery_id cannot be the ledger's key."""
        delivery_id = event.value["delivery_id"]
        try:
            key = None if delivery_id is None else ledger_key(delivery_id)
        except ValueError as error:
            raise EventRefused(event.name, "delivery_id", str(error)) from None
        return cls(event, effect_of(event.name, event.value), key)


class Feedback:
    """The feedback process, put together."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        """SetupError when a setting is missing."""
        settings.require("ledger_database_url", "keys_database_url", "receipt_key")
        self._settings, self._clock = settings, clock or SystemClock()
        self._topics = Topics(settings.topic_prefix, settings.shards)
        self._keys = KeyStore(settings, clock=self._clock)
        self._codec = Codec(self._topics, RegistrySource(settings.schema_registry_url), self._keys)
        self._topic, self._group = self._topics.provider_events, f"{settings.topic_prefix}.sink.feedback"
        self._stop = asyncio.Event()
        self._email: Provider | None = None
        with contextlib.suppress(SetupError):  # nobody to tell when no mail can be sent
            self._email = PROVIDERS["email"](settings)

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT; return the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        async with contextlib.AsyncExitStack() as stack:
            pool = open_pool(self._settings.ledger_database_url, 2)
            await pool.open()
            stack.push_async_callback(pool.close)
            self._book = FeedbackBook(pool)
            self._producer = Producer(self._settings, self._group)
            stack.push_async_callback(asyncio.to_thread, self._producer.close)
            stack.callback(self._keys.close)
            if self._email is not None:
                stack.push_async_callback(self._email.close)
            await asyncio.to_thread(ensure_first_offsets, self._settings, self._group, [self._topic])
            metrics.serve(self._settings.metrics_port)
            consumer = make_consumer(self._settings, self._group, **membership(self._settings, self._group))
            consumer.subscribe([self._topic])
            mirror = asyncio.create_task(self._mirror())
            mirror.add_done_callback(_die)
            log.info("feedback runs")
            try:
                while not self._stop.is_set():
                    await self._round(consumer)
            finally:
                mirror.remove_done_callback(_die)
                mirror.cancel()
                await asyncio.to_thread(consumer.close)
        log.info("feedback has stopped")
        return 0

    async def _round(self, consumer: Consumer) -> None:
        messages = []
        for message in await asyncio.to_thread(take, consumer, _POLL_S, BATCH):
            error = message.error()
            if error is None:
                messages.append(message)
            elif not is_passing(error):
                raise KafkaException(error)
        if not messages:
            return
        noticed, refused = await persist("decode", partial(self._decoded, [to_raw(message) for message in messages]))
        for raw, error in refused:
            now = self._clock.now()
            await dead_letter(self._producer, self._topics, raw, error, attempts=1, first_at=now, last_at=now)
        await self._suppress([(one.event, one.effect) for one in noticed if one.effect.suppress])
        await hit_async("feedback.after_suppress")
        await self._raise_states(noticed)
        await asyncio.to_thread(self._commit, consumer, messages)

    async def _decoded(self, raws: Sequence[Raw]) -> tuple[list[Notice], list[tuple[Raw, NewswireError]]]:
        """Return the notices, and the records that are none with the reason; Unavailable when a schema cannot be asked for."""
        noticed, refused = list[Notice](), list[tuple[Raw, NewswireError]]()
        for raw in raws:
            try:
                noticed.append(Notice.of(self._codec.decode(raw)))
            except (CodecError, EventRefused) as error:
                refused.append((raw, error))
        return noticed, refused

    def _commit(self, consumer: Consumer, messages: Sequence[Message]) -> None:
        """Commit what was handled; when the group is rebalancing its next owner does it all again."""
        try:
            for last in {message.partition(): message for message in messages}.values():
                consumer.commit(message=last, asynchronous=False)
        except KafkaException as error:
            log.warning("%s: offsets were not committed: %s", self._group, error.args[0].str())

    # -- addresses --------------------------------------------------------------------------------------------------

    async def _suppress(self, found: Sequence[tuple[Event, Effect]]) -> None:
        """Steps 1 and 2."""
        if not found:
            return
        opened = [(e, effect, await persist("keys", partial(self._opened, e))) for e, effect in found]
        entries = [
            Suppression(
                self._keys.address_hash(e.value["channel"], plain), e.value["channel"], e.value["subscriber_id"],
                str(effect.suppress), e.value["occurred_at"], e.id, e.value["address"],
            )
            for e, effect, plain in opened if plain is not None
        ]  # fmt: skip
        entries = list({entry.address_hash: entry for entry in reversed(entries)}.values())
        hashes = [entry.address_hash for entry in entries]
        new = set[bytes]()
        if entries:
            await persist("suppressions", partial(self._book.suppress, entries))
            new = await persist("suppressions", partial(self._book.unannounced, hashes))
        records: dict[str, Record] = {}
        disabled: dict[str, Event] = {}
        for event, effect, plain in opened:
            address_hash = None if plain is None else self._keys.address_hash(event.value["channel"], plain)
            if address_hash is None or address_hash in new:
                holders = await persist("keys", partial(self._holders, event, plain, address_hash))
                records |= {f"{subject}/{event.value['channel']}": self._unlinked(event, effect, subject) for subject in holders}
                if event.name == "EndpointDisabled":
                    disabled |= dict.fromkeys(holders, event)
        await persist("subscribers", partial(self._producer.send, list(records.values())))
        await self._tell_owners(disabled)
        if new:
            await persist("suppressions", partial(self._book.announced, new))

    async def _tell_owners(self, disabled: dict[str, Event]) -> None:
        if not disabled:
            return

        async def requests() -> list[Record]:
            return await asyncio.to_thread(notices, self._settings, self._topics, self._codec, disabled)

        await persist("deliveries", partial(self._producer.send, await persist("owners", requests)))

    async def _opened(self, event: Event) -> str | None:
        """Return the address in the clear; None when there is none in the event, or its key is gone."""
        value = event.value
        if value["address"] is None:
            return None
        try:
            plain = await asyncio.to_thread(
                self._keys.decrypt, value["subscriber_id"], f"address.{value['channel']}", value["address"]
            )
        except (KeyDestroyed, WrongType):
            return None
        return plain.decode("utf-8", "replace")

    async def _holders(self, event: Event, plain: str | None, address_hash: bytes | None) -> set[str]:
        """Return whose channel is to be unlinked: all who have this address now, but not somebody who has another by now."""
        subscriber, channel = event.value["subscriber_id"], event.value["channel"]
        current = await asyncio.to_thread(self._keys.addresses_of, subscriber, channel)
        holders = set() if plain is None else set(await asyncio.to_thread(self._keys.find_by_address, channel, plain))
        return holders | ({subscriber} if not current or address_hash is None else set())

    def _unlinked(self, event: Event, effect: Effect, subscriber_id: str) -> Record:
        channel, at = event.value["channel"], event.value["occurred_at"]
        value = {"subscriber_id": subscriber_id, "channel": channel, "reason": effect.suppress, "unlinked_at": at}
        return self._codec.encode(
            self._topics.subscribers, "ChannelUnlinked", value, key=subscriber_id, time=at, source=SOURCE,
            id=event_id("unlinked", event.id, subscriber_id, channel), causation_id=event.value["delivery_id"],
        )  # fmt: skip

    async def _mirror(self) -> None:
        """Put suppressed addresses on the provider's own list, for ever. Its client is made for the first of them."""
        opened = False
        while True:
            after = 0
            while rows := await persist("suppressions", partial(self._book.to_mirror, after)):
                after = rows[-1].number
                for row in rows:
                    try:
                        if row.channel == "email" and row.reason != "disabled" and self._email is not None:
                            if not opened:
                                await self._email.open()
                                opened = True
                            plain = await asyncio.to_thread(self._keys.decrypt, row.subscriber_id, "address.email", row.address)
                            await self._email.suppress(plain.decode(), row.reason)
                    except (KeyDestroyed, WrongType):
                        log.info("suppression %s is not mirrored: its address cannot be read any more", row.number)
                    except Unavailable as error:
                        log.warning("suppression %s is mirrored later: %s", row.number, error)
                        continue
                    await persist("suppressions", partial(self._book.mirrored, row.number))
            await asyncio.sleep(MIRROR_EVERY_S)

    # -- states -----------------------------------------------------------------------------------------------------

    async def _raise_states(self, noticed: Sequence[Notice]) -> None:
        """Steps 3 and 4."""
        effects: dict[Key, tuple[Effect, bytes | None]] = {}
        counted = Counter[tuple[str, str]]()
        for one in noticed:
            if one.effect.state is None or one.key is None:
                counted[one.event.name, "kept"] += 1
                continue
            counted[one.event.name, "state"] += 1
            receipt_hash = one.event.value["provider_receipt_hash"]
            if one.key in effects:
                known, known_hash = effects[one.key]
                effects[one.key] = stronger(known, one.effect), known_hash or receipt_hash
            else:
                effects[one.key] = one.effect, receipt_hash
        for labels, count in counted.items():
            metrics.FEEDBACK.labels(*labels).inc(count)
        while effects:
            moved, busy = await persist("ledger", partial(self._book.apply, effects))
            await hit_async("feedback.after_states")
            await self._report(moved)
            effects = {key: effects[key] for key in busy}
            if effects:
                await asyncio.sleep(BUSY_WAIT_S)

    async def _report(self, moved: Sequence[Moved]) -> None:
        if not moved:
            return
        records = [status_record(self._codec, self._topics, m.settled, channel=m.channel, lane=m.lane) for m in moved]
        await persist("delivery-status", partial(self._producer.send, records))
        await persist("reported", partial(self._book.mark_reported, [m.settled for m in moved]))
        metrics.FEEDBACK.labels("*", "moved").inc(len(moved))


def _die(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("the feedback process ends: %s", error, exc_info=error)
        logging.shutdown()
        os._exit(EXIT_CODE)


def run(settings: Settings) -> int:
    """Run the feedback process until SIGTERM; for the command."""
    import uvloop

    async def main() -> int:
        return await Feedback(settings).run()

    return uvloop.run(main())
