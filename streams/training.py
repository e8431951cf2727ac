"""Training: fits the ranking's item side from the log, judges it, publishes it, and puts it to use when it is good enough.

Consumes `publications`, `subscribers` and `engagements` from their beginning with plain consumers, in batch, each time. Produces
`models` (ModelPublished in parts, then ModelActivated, and tombstones of versions that nothing needs any more). State: none.
Guarantee: a version is activated only after all its parts are in the log, and only when it is not worse, by more than a margin,
than the one in use, on engagement that neither has seen: the newest tenth, as far as it came after that one was fitted. Otherwise
it stays published, with its figures, and is not used. A version that a slot may still name is never dropped.
"""

import logging
import signal
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np

from core.errors import CodecError, InputError, NewswireError
from core.folding import StateEvent
from core.histories import Histories
from core.model import Model, NewItem
from core.model_parts import cut, superseded
from core.newsletter_state import NewsletterState
from runtime import logs
from runtime.clock import SystemClock
from runtime.kafka import Producer, admin_client, end_offsets, partitions_of, read_range, start_offsets
from runtime.models import ModelLog, opened
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.records import Tombstone
from schemas.registry import RegistrySource
from schemas.topics import Topics
from streams.judging import Judge

LEAST: Final = 50
"""Readers to judge by: with fewer the figures say nothing, and nothing is fitted."""

FIRST_LOOK_S: Final = 600.0
"""How long after the start of the process a model may be fitted: a stack that starts has other work."""

LOOK_S: Final = 60.0
"""How often it is looked whether a model is due."""

log = logging.getLogger("training")


@dataclass(frozen=True, slots=True)
class Copied:
    """PublicationApproved and PublicationRetracted as what the audience stage makes of them."""

    name: str
    value: dict[str, Any]
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model that was fitted, and what it is measured against."""

    model: Model
    ndcg: float
    before: float
    """Of the model in use, or of ranking without one."""
    in_use: str | None
    readers: int


class Trainer:
    """Fits models from the log."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._clock = settings, SystemClock()
        self._topics = Topics.of(settings)
        self._codec = Codec(self._topics, RegistrySource(settings.schema_registry_url))
        self.models = ModelLog(settings, self._codec, self._topics, self._clock)

    def fit(self) -> Fitted:
        """Fit a model of all that is in the log, and judge one that was not shown the newest; InputError with too little."""
        state, in_use = self._read(), self.in_use()
        used, seen_until = self._usable(in_use)
        everything, judge = state.histories, Judge(state, seen_until)
        if judge.readers < LEAST:
            since = "in the newest tenth" if seen_until is None else f"since model {in_use} was fitted, which knows the rest"
            raise InputError(
                f"There is too little new engagement to judge a model by: {judge.readers} readers who had read something read "
                f"something else {since}, and it takes {LEAST}. Ranking goes on as it is."
            )
        version = f"{self._clock.now():%Y%m%d-%H%M%S}"
        before, found = judge.ndcg(used), judge.ndcg(_fitted(version, state, state.histories))
        return Fitted(_fitted(version, state, everything), found, before, in_use, judge.readers)

    def in_use(self) -> str | None:
        """Return the version that was activated last; None when there is none, or ranking without one was."""
        _, activations = self.models.read()
        return activations[-1].version if activations else None

    def _usable(self, version: str | None) -> tuple[Model | None, datetime | None]:
        """Return the model in use and when it was fitted; nothing when there is none that can be used."""
        published, _ = self.models.read()
        if version is None or version not in published:
            return None, None
        try:
            return opened(published[version]), published[version].fitted_at
        except InputError as error:
            log.warning("%s It is judged against no model.", error)
            return None, None

    def publish(self, fitted: Fitted) -> str | None:
        """Publish a model, and put it to use unless it is worse than the one in use; return why it is not, else None."""
        now, model = self._clock.now(), fitted.model
        metrics = dict(model.metrics) | {
            "ndcg@10": f"{fitted.ndcg:.4f}",
            "ndcg@10 before": f"{fitted.before:.4f}",
            "before": fitted.in_use or "no model",
            "readers judged by": str(fitted.readers),
        }
        parts = cut(model.version, model.dump(), metrics, now)
        producer = Producer(self._settings, "newswire-training")
        try:
            for value in parts:
                key = f"{model.version}/{value['part']}"
                producer.send_sync([self._codec.encode(self._topics.models, "ModelPublished", value, key=key, time=now)])
        finally:
            producer.close()
        if fitted.ndcg < fitted.before - self._settings.training_margin:
            return (
                f"Model {model.version} is refused: NDCG@10 is {fitted.ndcg:.4f}, against {fitted.before:.4f} of "
                f"{fitted.in_use or 'ranking without a model'}, with {fitted.readers} readers; it may lose "
                f"{self._settings.training_margin:g} (NEWSWIRE_TRAINING_MARGIN). It stays published and is not used."
            )
        self.activate(model.version, "training")
        return None

    def drop_superseded(self) -> list[str]:
        """Take versions that nothing needs any more out of the log; return them."""
        published, activations = self.models.read()
        dropped = superseded(published, activations, self._clock.now())
        producer = Producer(self._settings, "newswire-training")
        try:
            for version in dropped:
                keys = [f"{version}/{part}".encode() for part in published[version].data]
                producer.send_sync([Tombstone(self._topics.models, key, 0) for key in keys])
        finally:
            producer.close()
        return dropped

    def activate(self, version: str | None, by: str) -> None:
        """Put a published version to use, or none; InputError when it cannot be used."""
        if version is not None:
            self.models.load(version)
        now = self._clock.now()
        value = {"model_version": version, "previous_version": self.in_use(), "activated_by": by, "activated_at": now}
        producer = Producer(self._settings, "newswire-training")
        try:
            producer.send_sync([self._codec.encode(self._topics.models, "ModelActivated", value, key="active", time=now)])
        finally:
            producer.close()

    def before(self, version: str | None) -> str | None:
        """Return the newest version that can be used and was fitted before another, None when there is none."""
        if version is None:
            raise InputError("No model is in use, so there is nothing to go back from: `newswire model list` shows all.")
        published, _ = self.models.read()
        earlier = [name for name in sorted(published) if name < version]
        for name in reversed(earlier):
            try:
                opened(published[name])
            except InputError as error:
                log.warning("%s", error)
                continue
            return name
        return None

    def last_fitted_at(self) -> datetime | None:
        """Return when the newest model was fitted."""
        published, _ = self.models.read()
        return max((one.fitted_at for one in published.values() if one.fitted_at is not None), default=None)

    # ---- the log ----

    def _read(self) -> NewsletterState:
        """Return everything as one shard's state."""
        state, topics = NewsletterState(), self._topics
        admin = admin_client(self._settings)
        for topic in (topics.publications, topics.subscribers, topics.engagements):
            places = partitions_of(admin, [topic])
            for raw in read_range(self._settings, start_offsets(admin, places), end_offsets(admin, places), clock=self._clock):
                try:
                    event = self._codec.decode(raw)
                except CodecError:
                    continue  # dead-lettered by those whose input it is
                known = _copied(event) if topic == topics.publications else event
                if known is not None:
                    state.apply(known)
        return state


def _copied(event: StateEvent) -> StateEvent | None:
    if event.name == "PublicationApproved" and event.value["newsletters"]:
        return Copied("ContentAvailable", dict(event.value), event.timestamp_ms)
    if event.name == "PublicationRetracted":
        value = {"publication_id": event.value["publication_id"], "reason": "retracted"}
        return Copied("ContentWithdrawn", value, event.timestamp_ms)
    return None


def _fitted(version: str, state: NewsletterState, histories: Histories) -> Model:
    """Return a model of what these histories hold."""
    from threadpoolctl import threadpool_limits

    from streams.fitting import fit

    content = state.content
    rows = np.arange(len(content.items))
    name = content.vector_model(rows)
    vectors = content.vectors(name, rows)
    items = [
        NewItem(item.publication_id, item.title, vector.tobytes() if vector.any() else None, item.topics)
        for item, vector in zip(content.items, vectors, strict=True)
    ]
    reader, entries = histories.of_all(histories.keys())
    known = np.array([item.revision > 0 for item in content.items], dtype=np.bool_)[entries["publication"]]
    publication, weight = entries["publication"][known].astype(np.int64), entries["weight"][known]
    with threadpool_limits(1, "blas"):  # more threads only wait for each other
        return fit(version, name, items, reader[known], publication, weight)


def run(settings: Settings) -> int:
    """Fit a model whenever one is due, until SIGTERM; return the exit code."""
    logs.configure(settings, "training")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    trainer, clock, tried = Trainer(settings), SystemClock(), None
    interval = timedelta(hours=settings.training_interval_h)
    wait_s = FIRST_LOOK_S
    while not stop.wait(min(wait_s, settings.training_interval_h * 3600)):
        wait_s = LOOK_S
        try:
            last = max((at for at in (trainer.last_fitted_at(), tried) if at is not None), default=None)
            if last is None or clock.now() >= last + interval:
                tried = clock.now()
                fitted = trainer.fit()
                refused = trainer.publish(fitted)
                log.info("%s", refused or f"model {fitted.model.version} is in use: NDCG@10 {fitted.ndcg:.4f}")
                if dropped := trainer.drop_superseded():
                    log.info("dropped from the log: %s", ", ".join(dropped))
        except NewswireError as error:
            log.warning("no model was fitted: %s", error)
    return 0
