"""SES events by SNS through SQS, in batches: the way of an installation with much mail.

Consumes the SQS queue of NEWSWIRE_SES_QUEUE_URL, which is subscribed to the topic (raw delivery off); produces provider-events.
Order: none. Guarantee: a message is deleted only after its event is in Kafka; what comes twice gives the same event. The
signature is verified here as well, so that a queue whose policy lets others write brings nothing in. What can never be taken is
deleted and counted; when Kafka, the keys or a certificate are away the messages come back by themselves.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import aiohttp

from core.errors import SetupError, Unavailable
from edge.callbacks.compose import fetcher
from edge.callbacks.notice import Notice, Refused
from edge.callbacks.recording import Recorder
from edge.callbacks.ses import ses_notice
from edge.callbacks.sns import Fetch, Sns
from runtime import metrics
from runtime.clock import Clock, SystemClock
from runtime.keys import KeyStore
from runtime.producer import Producer
from runtime.retry import backoff
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.registry import RegistrySource
from schemas.topics import Topics

AT_ONCE: Final = 10
"""Most messages that SQS gives in one answer."""
RECEIVERS: Final = 4
"""Requests under way: 40 messages are recorded together, some thousands a second."""
WAIT_S: Final = 10
"""Long polling: an empty queue costs a request every 10 s and receiver."""
HIDDEN_S: Final = 30
"""How long a received message is not given to others."""
FETCHES: Final = 100
"""Most certificates asked for in a minute: only whom the queue's policy lets in gets this far."""
MAX_AGE: Final = timedelta(days=14)
"""Oldest message that is taken; SQS keeps none for longer."""

log = logging.getLogger(__name__)


class Queue:
    """The process that empties the queue."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None, fetch: Fetch | None = None) -> None:
        """SetupError when a setting is missing."""
        settings.require("ses_queue_url", "sns_topics", "receipt_key", "keys_database_url")
        self._settings, self._clock, self._fetch = settings, clock or SystemClock(), fetch
        self._receipt_key = bytes.fromhex(settings.receipt_key)
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        await self.work(self._stop)
        return 0

    async def work(self, stop: asyncio.Event) -> None:
        """Empty the queue until `stop` is set."""
        from aiobotocore.session import AioSession

        settings = self._settings
        topics, keys = Topics(settings.topic_prefix, settings.shards), KeyStore(settings, clock=self._clock)
        codec = Codec(topics, RegistrySource(settings.schema_registry_url), keys)
        producer = Producer(settings, f"{settings.topic_prefix}.ses-events")
        recorder = Recorder(producer, codec, topics, keys)
        endpoint = {"endpoint_url": settings.sqs_endpoint_url} if settings.sqs_endpoint_url else {}
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, keys.close)
            stack.push_async_callback(asyncio.to_thread, producer.close)
            session = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
            sns = Sns(settings, self._fetch or fetcher(session), self._clock, fetches=FETCHES)
            client = await stack.enter_async_context(
                AioSession().create_client("sqs", region_name=settings.ses_region, **endpoint)
            )
            metrics.serve(settings.metrics_port)
            log.info("ses-events runs")
            receivers = [asyncio.create_task(self._receive(client, sns, recorder, stop)) for _ in range(RECEIVERS)]
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait([*receivers, stopped], return_when=asyncio.FIRST_COMPLETED)
            for task in (*receivers, stopped):
                task.cancel()  # what is in hand is not deleted, so it comes back
            results = await asyncio.gather(*receivers, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result

    async def _receive(self, client: Any, sns: Sns, recorder: Recorder, stop: asyncio.Event) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        attempt = 0
        while not stop.is_set():
            try:
                answer = await client.receive_message(
                    QueueUrl=self._settings.ses_queue_url,
                    MaxNumberOfMessages=AT_ONCE,
                    WaitTimeSeconds=WAIT_S,
                    VisibilityTimeout=HIDDEN_S,
                )
                if done := await self.take(answer.get("Messages") or [], sns, recorder):
                    await client.delete_message_batch(QueueUrl=self._settings.ses_queue_url, Entries=done)
                attempt = 0
            except (BotoCoreError, ClientError, Unavailable, OSError) as error:
                if isinstance(error, ClientError) and "NonExistentQueue" in str(error.response.get("Error", {}).get("Code")):
                    raise SetupError("there is no such queue: correct NEWSWIRE_SES_QUEUE_URL.") from error
                attempt += 1
                metrics.CALLBACKS.labels("ses", "unavailable").inc()
                log.warning("ses-events waits: %s", error)
                await asyncio.sleep(backoff(attempt))

    async def take(self, messages: Sequence[Mapping[str, Any]], sns: Sns, recorder: Recorder) -> list[dict[str, str]]:
        """Record what messages say, and return the entries to delete; Unavailable when nothing could be recorded."""
        notices, done = list[Notice](), list[dict[str, str]]()
        for number, message in enumerate(messages):
            try:
                opened = await sns.open(str(message["Body"]).encode(), MAX_AGE)
                notice = ses_notice(opened["Message"], self._receipt_key) if opened["Type"] == "Notification" else None
                result = "taken" if notice else "ignored"
            except Refused as refused:
                log.warning("a message of the queue was refused: %s", refused)
                notice, result = None, refused.result
            except Unavailable as error:  # its certificate cannot be had just now: this one comes back, the others go on
                log.warning("a message of the queue waits: %s", error)
                metrics.CALLBACKS.labels("ses", "unavailable").inc()
                continue
            metrics.CALLBACKS.labels("ses", result).inc()
            done.append({"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]})
            if notice is not None:
                notices.append(notice)
        await recorder.record(notices)
        return done


def run(settings: Settings) -> int:
    """Run until SIGTERM; for the command."""
    import uvloop

    async def main() -> int:
        return await Queue(settings).run()

    return uvloop.run(main())
