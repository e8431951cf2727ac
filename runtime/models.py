"""Fitted models in the log: reads what was published and activated, and loads a version that is whole.

Consumes the `models` topic with a plain consumer, from its beginning to its end at that moment, each time it is asked. Produces
nothing. State: none. Blocks; for threads.
"""

from core.errors import CodecError, InputError
from core.model import Model, load
from core.model_parts import Activation, Published
from runtime.clock import Clock
from runtime.reading import admin_client, end_offsets, partitions_of, read_range, start_offsets
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.topics import Topics


class ModelLog:
    """The models topic."""

    def __init__(self, settings: Settings, codec: Codec, topics: Topics, clock: Clock) -> None:
        self._settings, self._codec, self._topic, self._clock = settings, codec, topics.models, clock
        self._admin = admin_client(settings)

    def read(self) -> tuple[dict[str, Published], list[Activation]]:
        """Return every version that is in the log and was not dropped, and the activations in their order."""
        published: dict[str, Published] = {}
        activations: list[Activation] = []
        places = partitions_of(self._admin, [self._topic])
        starts, ends = start_offsets(self._admin, places), end_offsets(self._admin, places)
        for raw in read_range(self._settings, starts, ends, clock=self._clock):
            if self._codec.is_tombstone(raw):
                version, _, part = (raw.key or b"").decode().rpartition("/")
                if version in published and published[version].drop(int(part)):
                    del published[version]
                continue
            try:
                event = self._codec.decode(raw)
            except CodecError:
                continue  # its dead letter is written by the audience stage
            value = event.value
            if event.name == "ModelActivated":
                names = ("model_version", "previous_version", "activated_by", "activated_at")
                activations.append(Activation(*(value[name] for name in names)))
            else:
                published.setdefault(value["model_version"], Published(value["model_version"])).take(value)
        return published, activations

    def load(self, version: str) -> Model:
        """Return a version; InputError says why it cannot be used."""
        published, _ = self.read()
        if version not in published:
            known = ", ".join(sorted(published)) or "none"
            raise InputError(f"Model {version} cannot be used: it was never published, or was dropped since. Published: {known}.")
        return opened(published[version])


def opened(published: Published) -> Model:
    """Return a version that was read; InputError says what is wrong with it."""
    try:
        return load(published.joined())
    except ValueError as error:
        raise InputError(f"Model {published.version} cannot be used: {error}.") from error
