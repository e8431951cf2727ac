"""Content vectors of publications: made once for each content, in a thread, when the embedding model is there.

The vector is that of title and summary. Without the model (`off`, or its packages are not installed) there are no vectors, and
everything that uses them works without.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from core.errors import SetupError
from core.vectors import Floats, to_int8

CACHED_VECTORS: Final = 20_000
"""Vectors kept in memory, 384 bytes each; the log holds all of them and fills the cache at start."""

OFF: Final = "off"
"""Value of NEWSWIRE_EMBEDDING_MODEL without the model."""


class Embeds(Protocol):
    """What makes vectors of texts; runtime.embedding.Embedder does."""

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return unit rows (texts, dimensions)."""


class ContentVectors:
    """Makes content vectors; belongs to one event loop."""

    def __init__(self, embedder: "Embeds | None", name: str | None) -> None:
        """Make them with an embedder, whose model has this name; none without one."""
        self._embedder, self.name = embedder, name
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="embedding")
        self._cache: OrderedDict[bytes, bytes] = OrderedDict()

    @staticmethod
    def of_setting(setting: str, log: logging.Logger) -> "ContentVectors":
        """Load the model that NEWSWIRE_EMBEDDING_MODEL asks for; SetupError when one was asked for and is not there."""
        if setting == OFF:
            log.info("no embedding model: content gets no vectors (NEWSWIRE_EMBEDDING_MODEL is off)")
            return ContentVectors(None, None)
        try:
            from runtime.embedding import VECTOR_MODEL, load

            return ContentVectors(load(setting), VECTOR_MODEL)
        except (SetupError, ImportError) as error:
            if setting:
                raise
            log.warning("no embedding model: content gets no vectors. %s", error)
            return ContentVectors(None, None)

    def remember(self, content_sha256: bytes, vector: bytes | None, vector_model: str | None) -> None:
        """Keep a vector that the log holds, unless another model made it."""
        if vector is not None and vector_model == self.name:
            self._cache[content_sha256] = vector
            self._cache.move_to_end(content_sha256)
            if len(self._cache) > CACHED_VECTORS:
                self._cache.popitem(last=False)

    async def of(self, submitted: Mapping[str, Any], content_sha256: bytes) -> tuple[bytes | None, str | None]:
        """Return the int8 vector of a PublicationSubmitted and the name of its model; nothing without a model."""
        if self._embedder is None:
            return None, None
        vector = self._cache.get(content_sha256)
        if vector is None:
            loop, text = asyncio.get_running_loop(), f"{submitted['title']}\n{submitted['summary']}"
            row = await loop.run_in_executor(self._pool, self._embedder.embed, [text])
            vector = to_int8(row)[0].tobytes()
            self.remember(content_sha256, vector, self.name)
        return vector, self.name
