"""Faust's consumer, mended so that it neither loses nor repeats events over a rebalance (faust-streaming 0.15.3).

What is different from the stock driver, and why:

- on a revocation the flow stops, what is being handled ends and is committed, and then acknowledgements are cleared
  (stock clears first and commits nothing; committing first without stopping loses what is acknowledged meanwhile);
- streams resume only after the seek to the committed offsets (stock resumes before: what it fetches in between is
  handled twice);
- a fetch gets a copy of the set of active partitions (stock passes a live set; emptied meanwhile it means "all");
- the offset that is committed never passes an event that is still being handled;
- the stage hears of an assignment before its first event, whatever order Faust's signals come in;
- an error after which the member takes no more part in its group ends the process (stock never asks for it: the process
  stays up, and stays out of the group, for ever);
- a fetch waits at the broker for `IDLE_WAIT_MS` when it names every partition, so that nothing can come that it would not
  be answered with, else for the stage's `fetch_wait_ms` (stock: 1500 always);
- committed records only, no reset of lost offsets, own assignor (`runtime.assignor`).

How Faust treats events of a lost assignment (studied in 0.15.3): each message carries the generation that it was
fetched in. On a revocation the queues of all agents are cleared, the events being handled are waited for (as long as
the broker waits for the group) and committed. What is taken from a queue later with an older generation is skipped by
the compiled stream iterator without an acknowledgement (the Python one acknowledges it, so the compiled one is
required). An acknowledgement of an event of an older generation would still be recorded, and could be committed if the
partition came back: `runtime.stage` therefore acknowledges by hand and never for an older generation.

It uses private interfaces, so the versions are pinned and every property has a test on a real broker.
"""

import asyncio
from typing import Any

import aiokafka
from faust.transport.drivers import aiokafka as driver

from runtime import failpoints
from runtime.assignor import CopartitionAssignor

IDLE_WAIT_MS = 2000
"""How long the broker may hold a fetch of all partitions that finds nothing; each costs broker and client 1 ms of CPU."""

_WATCH_S = 1.0
"""How often the member's state in its group is looked at."""
_COMMITS = 5
"""Attempts to commit the last acknowledgements; what stays uncommitted is read again."""


def names_all(fetcher: Any, assignment: Any) -> bool:
    """Return whether a fetch that is made now names every partition: none is paused, sought, or full of unread records."""
    states = (assignment.state_value(tp) for tp in assignment.tps)
    return not fetcher._records and all(state.has_valid_position and not state.paused for state in states)


class _Client(aiokafka.AIOKafkaConsumer):  # type: ignore[misc, unused-ignore]
    """Chooses for each fetch how long it may wait."""

    async def start(self) -> None:
        """Start, and look at every fetch from then on."""
        await super().start()
        fetcher: Any = self._fetcher
        stock, short_ms, look_s = fetcher._get_actions_per_node, fetcher._fetch_max_wait_ms, fetcher._fetcher_timeout

        def actions(assignment: Any) -> Any:
            whole = names_all(fetcher, assignment)
            fetcher._fetch_max_wait_ms = IDLE_WAIT_MS if whole else short_ms
            fetcher._fetcher_timeout = IDLE_WAIT_MS / 1000 if whole else look_s
            return stock(assignment)

        fetcher._get_actions_per_node = actions


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc, unused-ignore]
    """The thread that talks to Kafka."""

    async def on_start(self) -> None:
        """Connect, and keep an eye on the member."""
        await super().on_start()
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        """End the process when aiokafka has given up the group: it waits for somebody to ask, and nobody else does."""
        coordinator = self._consumer._coordinator
        while not self.should_stop:
            try:
                coordinator.check_errors()
            except Exception as error:  # noqa: BLE001 - ends the process
                self.app.stage.die(error)
            await asyncio.sleep(_WATCH_S)

    def _create_worker_consumer(self, transport: Any) -> Any:
        conf = self.app.conf
        return _Client(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            partition_assignment_strategy=[CopartitionAssignor()],
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_poll_records=conf.broker_max_poll_records,
            max_poll_interval_ms=int(conf.broker_max_poll_interval * 1000.0),
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            fetch_max_wait_ms=self.app.stage.fetch_wait_ms,
            request_timeout_ms=int(conf.broker_request_timeout * 1000.0),
            session_timeout_ms=int(conf.broker_session_timeout * 1000.0),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000.0),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000.0),
            isolation_level="read_committed",
            metadata_max_age_ms=conf.consumer_metadata_max_age_ms,
            connections_max_idle_ms=conf.consumer_connections_max_idle_ms,
            **driver.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
        )


class Consumer(driver.Consumer):  # type: ignore[misc, unused-ignore]
    """The consumer in the event loop of the app."""

    _held: frozenset[Any] = frozenset()
    """Stream partitions that wait for the seek."""

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        """Stop the flow, let what is being handled end, commit it, and only then let Faust clear the acknowledgements."""
        if not self.app.should_stop and self.assignment():
            self.stop_flow()
            self.app.flow_control.suspend()
            self.pause_partitions(self.assignment())
            self.app.flow_control.clear()
            await self.wait_empty()
        await super().on_partitions_revoked(revoked)

    async def wait_empty(self) -> None:
        """Wait until nothing is being handled, and commit all of it.

        A commit that meets another one under way only waits for that, which may be older than the last acknowledgement.
        """
        await super().wait_empty()
        for _ in range(_COMMITS):
            if not any(self._acked.values()):
                break
            await self.commit()

    async def on_partitions_assigned(self, assigned: set[Any], generation_id: int = 0) -> None:
        """Tell the stage, then let Faust go on to the first event."""
        if not self.app.should_stop:
            await self.app.stage.assigned({(tp.topic, tp.partition) for tp in assigned}, generation_id)
        await super().on_partitions_assigned(assigned, generation_id)

    def resume_partitions(self, tps: Any) -> None:
        """Hold the partitions of streams back until the seek is done."""
        held = frozenset(tp for tp in tps if not self._is_changelog_tp(tp))
        self._held |= held
        super().resume_partitions(set(tps) - held)

    def resume_flow(self) -> None:
        """Let the partitions go that were held back."""
        held, self._held = self._held, frozenset()
        super().resume_partitions(held & set(self.assignment()))
        super().resume_flow()

    async def _getmany(self, active_partitions: set[Any] | None, timeout: float) -> Any:
        if active_partitions is not None:
            active_partitions = set(active_partitions)
        return await super()._getmany(active_partitions=active_partitions, timeout=timeout)

    def _new_offset(self, tp: Any) -> int | None:
        """Return the next offset to commit: never past an event that is still being handled."""
        acked = self._acked[tp]
        if not acked:
            return None
        lowest = min((m.offset for m in list(self._unacked_messages) if m.tp == tp and not m.acked), default=None)
        done = [offset for offset in acked if lowest is None or offset < lowest]
        if not done:
            return None
        next_offset: int = max(done) + 1
        acked[:] = [offset for offset in acked if offset >= next_offset]
        self._acked_index[tp].difference_update(done)
        self._gap[tp].chop(0, next_offset)
        return next_offset

    async def _commit_offsets(self, offsets: Any, start_new_transaction: bool = True) -> bool:
        await failpoints.hit_async("stage.before_commit")
        done = bool(await super()._commit_offsets(offsets, start_new_transaction=start_new_transaction))
        await failpoints.hit_async("stage.after_commit")
        return done

    def abandon(self, message: Any) -> None:
        """Forget an event that was not handled and is not acknowledged: its partition's owner reads it again."""
        self._unacked_messages.discard(message)
        if self._waiting_for_ack is not None and not self._waiting_for_ack.done():
            self._waiting_for_ack.set_result(None)


class Transport(driver.Transport):  # type: ignore[misc, unused-ignore]
    """The transport that Stage gives its app."""

    Consumer = Consumer
