"""The projection engine: keeps one read model equal to its topics.

One step of a generation:
1. take a batch of records from its stored offsets on, and decode it;
2. in one transaction write the rows and move the stored offsets, which must still be what this process believes; what
   could not be decoded or stored is acknowledged as a dead letter before the commit;
3. every few seconds commit the same offsets for the consumer group, so that Kafka's tools see the lag.
A crash after 1 or inside 2 leaves nothing; after 2 the stored offsets say where to go on; before 3 the group lags behind,
which nothing reads but people: PostgreSQL's offsets are the truth.

A new generation is built beside the live one when the group's offsets were set back with Kafka's tools (they are lower
than what the group is known to have committed), when the projection's code or SQL changed, when a rebuild was asked for,
or when the log is shorter than what was read of it (another log). The live one goes on meanwhile; when the new one has
caught up with it, the views are pointed at it in one transaction, and the old schema is dropped.

Passing errors of PostgreSQL, Kafka and the registry are retried for ever, from the stored offsets; all others end the
process before anything is acknowledged.
"""

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
from confluent_kafka import KafkaException

from core.errors import CodecError, EventRefused, Unavailable
from projections.decoding import Decoder
from projections.log import Log, Reader
from projections.model import Projection, Statement
from projections.store import Generation, Offsets, Position, Store, Writer
from runtime import failpoints, metrics
from runtime.clock import Clock, SystemClock
from runtime.deadletters import dead_letter_sync
from runtime.kafka import Producer, is_passing
from runtime.retry import backoff
from runtime.settings import Settings
from schemas.codec import SchemaSource
from schemas.records import Event, Raw
from schemas.registry import RegistrySource
from schemas.topics import Topics

IDLE_S = 1.0
"""Longest wait for the first record of a batch, and how much longer a stop may take for it; a record ends it at once."""
GROUP_COMMIT_S = 2.0
"""Shortest time between two commits for the group, look-ups of requests and tries to drop old generations: together they cost
Kafka and PostgreSQL more than a batch of statuses."""
BUILD_STEPS = 4
"""Steps of a building generation for each step of the live one."""
NEAR_EVENTS = 5000
"""Distance to the live generation at which that one waits, so that the building one catches up for certain."""

_Refused = tuple[Raw, CodecError | EventRefused]

log = logging.getLogger(__name__)


def group_of(settings: Settings, projection: Projection) -> str:
    """Return the consumer group of a projection."""
    return f"{settings.topic_prefix}.projection.{projection.name}"


@dataclass(slots=True)
class Follower:
    """One generation that is being written: where it reads and where it writes."""

    generation: Generation
    reader: Reader
    writer: Writer
    letters_from: Offsets
    """Offsets below these were read by an earlier generation, which wrote their dead letters."""

    def close(self) -> None:
        """Close both ends."""
        self.reader.close()
        self.writer.close()


class Engine:
    """Runs one projection in the calling thread."""

    def __init__(
        self,
        projection: Projection,
        settings: Settings,
        *,
        source: SchemaSource | None = None,
        clock: Clock | None = None,
    ) -> None:
        settings.require("projections_database_url")
        self.projection, self.settings = projection, settings
        self.topics = Topics(settings.topic_prefix, settings.shards)
        self.group = group_of(settings, projection)
        self._decoder = Decoder(self.topics, source or RegistrySource(settings.schema_registry_url), projection.prefixes)
        self._clock: Clock = clock or SystemClock()
        self._log = Log(settings, self.group, projection.topics(self.topics))
        self._producer: Producer | None = None
        self._ticked_at_s = 0.0
        self._switch_from_s = 0.0
        self._moved = False

    def run(self, stop: threading.Event) -> None:
        """Follow the topics until `stop` is set; passing errors are retried, any other propagates."""
        attempt = 0
        try:
            while not stop.is_set():
                try:
                    self._session(stop)
                except (psycopg.OperationalError, Unavailable, KafkaException) as error:
                    if isinstance(error, KafkaException) and not is_passing(error.args[0]):
                        raise
                    attempt = 1 if self._moved else attempt + 1
                    self._moved = False
                    pause_s = backoff(attempt)
                    log.warning("%s waits %.1f s and goes on from its stored offsets: %s", self.group, pause_s, _line(error))
                    stop.wait(pause_s)
        finally:
            if self._producer is not None:
                self._producer.close()

    def _session(self, stop: threading.Event) -> None:
        """Work with one set of connections until stopped, or until a generation begins or goes live."""
        fingerprint = self.projection.fingerprint(self.topics)
        store = Store(self.settings.projections_database_url, self.projection, fingerprint, self.settings.database_url)
        followers: list[Follower] = []
        try:
            store.bootstrap()
            while not store.own():
                if stop.wait(1.0):
                    return
            self._follow(store, followers, stop)
        finally:
            for follower in followers:
                follower.close()
            store.close()

    # ---- which generations there are ----

    def _follow(self, store: Store, followers: list[Follower], stop: threading.Event) -> None:
        starts, ends = self._log.starts(), self._log.ends()
        live, building = store.generation("live"), store.generation("building")
        reason = self._reason_to_rebuild(store, live, building, ends)
        if reason is not None:
            log.info("%s begins a new generation: %s", self.group, reason)
            begun = store.begin(reason, starts)
            live, building = (begun, None) if live is None else (live, begun)
        assert live is not None
        frozen = live.fingerprint != store.fingerprint or self._beyond(live, ends)
        if not frozen:
            followers.append(self._follower(live, {}))
        if building is not None:
            followers.append(self._follower(building, dict(live.offsets)))
        self._loop(store, followers, live, {p: min(o, ends.get(p, 0)) for p, o in live.offsets.items()} if frozen else None, stop)

    def _reason_to_rebuild(self, store: Store, live: Generation | None, building: Generation | None, ends: Offsets) -> str | None:
        current = building or live
        if current is None:
            return "first start"
        if current.fingerprint != store.fingerprint:
            return "the projection changed"
        if self._beyond(current, ends) or set(current.offsets) != set(ends):
            return "the log is another one"
        if building is None and store.rebuild_requested():
            return "asked for"
        return "the group was reset" if _set_back(self._log.committed(), current.grouped) else None

    @staticmethod
    def _beyond(generation: Generation, ends: Offsets) -> bool:
        return any(offset > ends.get(position, 0) for position, offset in generation.offsets.items())

    def _follower(self, generation: Generation, letters_from: Offsets) -> Follower:
        writer = Writer(self.settings.projections_database_url, generation)
        return Follower(generation, self._log.read(generation.offsets), writer, letters_from)

    # ---- the loop ----

    def _loop(
        self, store: Store, followers: list[Follower], live: Generation, target: Offsets | None, stop: threading.Event
    ) -> None:
        """Step all followers; the newest one commits for the group. `target` is fixed when the live one is frozen.

        Close to the end the live generation waits, so that the switch comes; it goes on while readers hold the views.
        """
        committing = followers[-1]
        building = committing if committing.generation is not live else None
        following = followers[0] if followers[0] is not building else None
        while not stop.is_set():
            if building is None:
                self._step(committing, IDLE_S)
            else:
                held = self._clock.monotonic() < self._switch_from_s
                if following is not None and (held or _distance(building.generation.offsets, live.offsets) > NEAR_EVENTS):
                    self._step(following, 0.0)
                self._build(building)
                if _distance(building.generation.offsets, target or live.offsets) == 0 and self._switch(
                    store, building.generation
                ):
                    break
            if self._tick(store, committing, building is not None):
                return
        self._commit(committing)

    def _build(self, building: Follower) -> None:
        for _ in range(BUILD_STEPS):
            if not self._step(building, 0.05):
                return

    def _switch(self, store: Store, generation: Generation) -> bool:
        """Point the views at a generation that has caught up; every GROUP_COMMIT_S while readers hold them."""
        if self._clock.monotonic() < self._switch_from_s:
            return False
        self._switch_from_s = self._clock.monotonic() + GROUP_COMMIT_S
        if not store.switch(generation):
            return False
        log.info("%s: generation %s is live", self.group, generation.number)
        return True

    def _tick(self, store: Store, committing: Follower, is_building: bool) -> bool:
        """Every GROUP_COMMIT_S commit and look around; True when a new generation has begun."""
        now_s = self._clock.monotonic()
        if now_s - self._ticked_at_s < GROUP_COMMIT_S:
            return False
        self._ticked_at_s = now_s
        store.drop_retired()
        if not self._commit(committing):
            reason = "the group was reset"
        elif not is_building and store.rebuild_requested():
            reason = "asked for"
        else:
            return False
        log.info("%s begins a new generation: %s", self.group, reason)
        store.begin(reason, self._log.starts())
        return True

    def _commit(self, follower: Follower) -> bool:
        """Commit for the group what is stored, then remember that it was; False, and no commit, when it was set back."""
        generation = follower.generation
        if _set_back(self._log.committed(generation.offsets), generation.grouped):
            return False
        behind = {p: o for p, o in generation.offsets.items() if generation.grouped.get(p) != o}
        if behind:
            follower.reader.commit(behind)
            failpoints.hit("projection.after_group_commit")
            follower.writer.write((), {}, behind)
        return True

    # ---- one step ----

    def _step(self, follower: Follower, wait_s: float) -> int:
        """Apply one batch and return how many records it had."""
        raws = follower.reader.batch(wait_s)
        if not raws:
            return 0
        began_s = self._clock.monotonic()
        events: list[tuple[Event, Raw]] = []
        refused: list[_Refused] = []
        for raw in raws:
            try:
                events.append((self._decoder.decode(raw), raw))
            except CodecError as error:
                refused.append((raw, error))
        offsets: Offsets = {}
        for raw in raws:
            offsets[raw.topic, raw.partition] = raw.offset + 1
        try:
            self._write(follower, [event for event, _ in events], offsets, refused)
        except (psycopg.DataError, psycopg.IntegrityError):
            kept, unstorable = self._storable(follower, events)
            self._write(follower, kept, offsets, [*refused, *unstorable])
        for (topic, name), count in Counter((event.topic, event.name) for event, _ in events).items():
            metrics.EVENTS.labels(topic, name).inc(count)
        self._moved = True
        metrics.STEP_SECONDS.labels("projections", self.projection.name).observe(self._clock.monotonic() - began_s)
        return len(raws)

    def _write(self, follower: Follower, events: Sequence[Event], offsets: Offsets, refused: Sequence[_Refused]) -> None:
        """Rows and offsets in one transaction; the dead letters are acknowledged right before it commits."""
        letters = [(r, e) for r, e in refused if r.offset >= follower.letters_from.get((r.topic, r.partition), 0)]
        follower.writer.write(self._statements(events), offsets, last=lambda: self._dead_letters(letters))

    def _statements(self, events: Sequence[Event]) -> list[Statement]:
        return self.projection.apply(events) if events else []

    def _storable(self, follower: Follower, events: Sequence[tuple[Event, Raw]]) -> tuple[list[Event], list[_Refused]]:
        """Return the events whose values PostgreSQL can store, tried one by one, and the others with their reason."""
        kept: list[Event] = []
        refused: list[_Refused] = []
        for event, raw in events:
            error = follower.writer.writable(self._statements([event]))
            if error is None:
                kept.append(event)
            else:
                text = f"cannot be stored by the projection {self.projection.name}: {type(error).__name__}"
                refused.append((raw, EventRefused(event.name, "value", text)))
        return kept, refused

    def _dead_letters(self, refused: Sequence[_Refused]) -> None:
        if refused and self._producer is None:
            self._producer = Producer(self.settings, self.group)
        for raw, error in refused:
            assert self._producer is not None
            now = self._clock.now()
            dead_letter_sync(self._producer, self.topics, raw, error, attempts=1, first_at=now, last_at=now)


def _set_back(committed: Mapping[Position, int], known: Mapping[Position, int]) -> bool:
    """Return whether the group stands lower than this projection has seen it: somebody asked for a replay."""
    return any(committed[position] < offset for position, offset in known.items() if position in committed)


def _distance(offsets: Mapping[Position, int], target: Mapping[Position, int]) -> int:
    """Return how many offsets are missing until the target is reached in every partition."""
    return sum(max(0, offset - offsets.get(position, 0)) for position, offset in target.items())


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
