"""How many issues one core decides a second, and in how much memory: `make bench-deciding`.

Twelve shards in one process, as a newsletters worker has them: every subscriber is due, declared topics, and read some of the
publications of the last month; content vectors of 384 dimensions. CPU time of core.deciding alone, by stages of what is known:
without vectors, with them, and with a fitted model.
"""

import argparse
import resource
import time
import uuid
from datetime import timedelta

import numpy as np

from core.deciding import decide_newsletter
from core.histories import ENTRY
from core.model import Model, Sigmas, unit_sparse
from core.newsletter_state import NewsletterState
from core.space import Space
from core.sparse import sparse_rows
from core.vectors import from_int8, to_int8, unit_rows
from core.verdicts import Place
from runtime import collector
from tests.unit.deciding_samples import NOW, available, fold, publication, reader, slot, topics

SHARDS, CHUNKS, DIMENSIONS, COMPONENTS, TOPICS, FACTORS, CLUSTERS = 12, 4, 384, 128, 150, 128, 40
VECTOR_MODEL = "benchmark"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subscribers", type=int, default=100_000)
    parser.add_argument("--candidates", type=int, default=2_000)
    parser.add_argument("--read", type=int, default=20, help="Publications that each subscriber read.")
    parser.add_argument("--fitted", type=int, default=5_000, help="Publications of the fitted model: those that were read.")
    parser.add_argument("--only", choices=("topics", "vectors", "model"), help="One of the three, for its memory.")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    vectors = vectors_of(rng, given.candidates + given.fitted)
    fit = fitted(rng, given.candidates, vectors[given.candidates :])
    for kind, name, with_vectors, model in (
        ("topics", "topics only (B)", False, None),
        ("vectors", "with content vectors (A, B)", True, None),
        ("model", "with a fitted model (A, B, E, Z)", True, fit),
    ):
        if given.only not in (None, kind):
            continue
        states = [shard_of(np.random.default_rng(number), given, vectors if with_vectors else None) for number in range(SHARDS)]
        collector.settle()
        measure(name, states, Space(model), given.subscribers)
        del states


def vectors_of(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return int8 vectors around a few centres, as those of real titles are."""
    centres = rng.normal(size=(CLUSTERS, DIMENSIONS))
    return to_int8(centres[rng.integers(CLUSTERS, size=count)] + rng.normal(size=(count, DIMENSIONS)))


def shard_of(rng: np.random.Generator, given: argparse.Namespace, vectors: np.ndarray | None) -> NewsletterState:
    """Return a shard's state: candidates of the last two days, what was read in the month before, subscribers and histories."""
    state = NewsletterState()
    mine = np.random.default_rng(99)  # the same content in every shard
    for number in range(given.candidates + given.fitted):
        hours = mine.uniform(1, 47) if number < given.candidates else mine.uniform(100, 700)
        names = {f"t{place}" for place in mine.zipf(1.5, size=2) % TOPICS}
        vector = None if vectors is None else vectors[number].tobytes()
        more = {"vector": vector, "vector_model": VECTOR_MODEL if vector else None, "title": f"A study of number {number}"}
        fold(state, available(number, *sorted(names), approved_at=NOW - timedelta(hours=hours), **more))
    ids = [uuid.UUID(bytes=rng.bytes(16)) for _ in range(given.subscribers // SHARDS)]
    for who in ids:
        fold(state, reader(str(who), topics=topics(*{f"t{place}" for place in rng.zipf(1.5, size=3) % TOPICS})))
    read = np.zeros(len(ids) * given.read, dtype=ENTRY)
    read["publication"] = given.candidates + rng.integers(given.fitted, size=len(read))
    read["at_ms"] = int(NOW.timestamp() * 1000) - rng.integers(3_600_000, 25 * 86_400_000, size=len(read))
    read["weight"], read["counts"] = 2.0, 1
    keys = np.frombuffer(b"".join(sorted(who.bytes for who in ids)), dtype=np.uint8)
    lengths = np.full(len(ids), given.read, dtype=np.int32)
    state.histories.load(keys, lengths, np.frombuffer(read.tobytes(), dtype=np.uint8))
    return state


def fitted(rng: np.random.Generator, first: int, vectors: np.ndarray) -> Model:
    """Return a fitted model of the publications that were read, of made-up numbers in the shape of real ones."""
    items = len(vectors)
    rows = np.repeat(np.arange(items), 200)
    columns = rng.integers(items, size=len(rows))
    cells = np.unique(rows * items + columns)
    return Model(
        version="benchmark",
        vector_model=VECTOR_MODEL,
        items=tuple(publication(first + number) for number in range(items)),
        mean=from_int8(vectors).mean(axis=0),
        projection=np.eye(DIMENSIONS, COMPONENTS, dtype=np.float32),
        vectors=vectors,
        words=("study", "number"),
        word_weights=np.ones(2, dtype=np.float32),
        item_words=unit_sparse([[("study", 1.0)]] * items, {"study": 0, "number": 1}),
        topics=("t1",),
        item_topics=unit_sparse([[("t1", 1.0)]] * items, {"t1": 0}),
        factors=unit_rows(rng.normal(size=(items, FACTORS))),
        fold=np.eye(FACTORS, dtype=np.float32),
        columns=sparse_rows(cells // items, cells % items, rng.random(len(cells)) * 0.02, (items, items)),
        sigmas=Sigmas(),
        metrics={},
    )


def measure(name: str, states: list[NewsletterState], space: Space, subscribers: int) -> None:
    """Decide a slot in every chunk of every shard, and print what it took."""
    version = space.model.version if space.model is not None else None
    what = slot(chunks=CHUNKS, topic_share=0.5, exploration=0.1) | {"model_version": version}
    began, chosen, slowest = time.process_time(), 0, 0.0
    for shard, state in enumerate(states):
        for chunk in range(CHUNKS):
            before = time.process_time()
            value = decide_newsletter(state, what, Place(shard, SHARDS, chunk, {}), NOW, space)
            slowest = max(slowest, time.process_time() - before)
            chosen += len(value["chosen"])
    took_s, memory_mb = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{name:<34} {chosen / took_s:>8,.0f} issues/s of CPU {took_s / chosen * 1e6:>6.1f} µs each, "
        f"slowest chunk {slowest * 1000:.0f} ms, {memory_mb:.0f} MB at most so far ({chosen:,} of {subscribers:,})",
        flush=True,
    )


if __name__ == "__main__":
    main()
