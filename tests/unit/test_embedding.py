"""Tests of the embedding model: what it thinks is alike, the same bytes alone and beside others, and files not its own."""

import shutil

import numpy as np
import pytest

from core.errors import SetupError
from core.vectors import to_int8
from runtime import embedding


@pytest.fixture(scope="module")
def embedder() -> embedding.Embedder:
    return embedding.load()


def test_similar_titles_are_closer_than_others(embedder):
    """Without a word in common, too."""
    rows = embedder.embed(
        ["How to train a dog", "Teaching puppies to obey", "Interest rates rise again", "Central bank tightens policy"]
    )
    likeness = rows @ rows.T
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-5
    assert likeness[0, 1] > max(likeness[0, 2], likeness[0, 3]) + 0.2
    assert likeness[2, 3] > max(likeness[2, 0], likeness[2, 1]) + 0.2


def test_alone_and_beside_others_a_text_has_the_same_bytes(embedder):
    """Whatever the length of the others."""
    texts = ["A title", "Another, a good deal longer, about something else altogether", "日本語の見出し", "x" * 5_000]
    together = to_int8(embedder.embed(texts))
    for row, text in enumerate(texts):
        assert to_int8(embedder.embed([text]))[0].tobytes() == together[row].tobytes()


def test_no_text_is_no_vector(embedder):
    """And ten megabytes are cut."""
    assert embedder.embed([]).shape == (0, embedding.DIMENSIONS)
    assert not embedder.embed(["", " \n"]).any()
    assert embedder.embed(["word " * 2_000_000]).any()


def test_other_files_are_refused(tmp_path):
    """With the file and what to do."""
    with pytest.raises(SetupError, match=r"model\.onnx cannot be read.*NEWSWIRE_EMBEDDING_MODEL"):
        embedding.load(str(tmp_path))
    for name in ("model.onnx", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(SetupError, match="not the one"):
        embedding.load(str(tmp_path))


def test_a_folder_with_the_files_will_do(tmp_path, embedder):
    """The same vectors."""
    for file in embedding.FILES:
        shutil.copy(embedding.installed(file), tmp_path / file.name)
    assert embedding.load(str(tmp_path)).embed(["A title"]).tobytes() == embedder.embed(["A title"]).tobytes()
