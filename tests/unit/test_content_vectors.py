"""Tests of content vectors: once a content, none without a model, and never one of another model."""

import logging
from collections.abc import Sequence

import numpy as np
import pytest

from core.errors import SetupError
from streams.vectors import ContentVectors

LOG = logging.getLogger("test")
SUBMITTED = {"title": "Title", "summary": "Summary"}


class Fake:
    """An embedder that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        return np.array([[0.6, -0.8]] * len(texts), dtype=np.float32)


async def test_the_same_content_is_embedded_once() -> None:
    """Title and summary; the second time, and for what the log holds, the vector is there already."""
    fake = Fake()
    vectors = ContentVectors(fake, "fake:1")
    first = await vectors.of(SUBMITTED, b"a")
    assert first == (np.array([95, -127], dtype=np.int8).tobytes(), "fake:1")
    assert await vectors.of(SUBMITTED, b"a") == first
    assert fake.asked == ["Title\nSummary"]
    vectors.remember(b"b", b"\x01\x02", "fake:1")
    assert await vectors.of(SUBMITTED, b"b") == (b"\x01\x02", "fake:1")


async def test_a_vector_of_another_model_is_made_anew() -> None:
    """After the model was changed the log holds vectors that mean nothing here."""
    fake = Fake()
    vectors = ContentVectors(fake, "fake:2")
    vectors.remember(b"a", b"\x01\x02", "fake:1")
    vectors.remember(b"b", None, None)
    assert (await vectors.of(SUBMITTED, b"a"))[1] == "fake:2"
    await vectors.of(SUBMITTED, b"b")
    assert len(fake.asked) == 2


async def test_without_a_model_there_are_no_vectors(caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, at the start."""
    caplog.set_level(logging.INFO)
    vectors = ContentVectors.of_setting("off", LOG)
    assert await vectors.of(SUBMITTED, b"a") == (None, None)
    assert "content gets no vectors" in caplog.text


def test_a_model_that_was_asked_for_must_be_there() -> None:
    """A folder without the files is a mistake of the setup."""
    with pytest.raises(SetupError, match="NEWSWIRE_EMBEDDING_MODEL"):
        ContentVectors.of_setting("/nowhere", LOG)
