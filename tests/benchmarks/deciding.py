"""How many issues one core decides a second, how long one reader takes, and in how much memory: `make bench-deciding`.

Twelve shards in one process, as a newsletters worker has them: every subscriber is due, declared topics, and read some of the
publications of the last month; content vectors of 384 dimensions. CPU time of core.deciding alone, by stages of what is known:
without vectors, with them, and with a fitted model; each in a process of its own, for its memory. Then what it costs as
subscribers and candidates grow.
"""

import argparse
import resource
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

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

SHARDS, CHUNKS, DIMENSIONS, COMPONENTS, TOPICS, FACTORS, CLUSTERS = 12, 4, 384, 96, 150, 128, 40
VECTOR_MODEL = "benchmark"
KINDS = {
    "topics": "topics only (B)",
    "vectors": "with content vectors (A, B)",
    "model": "with a fitted model (A, B, E, Z)",
}
CURVE_SUBSCRIBERS, CURVE_CANDIDATES = (10_000, 30_000, 100_000), (200, 1_000, 2_000, 5_000)
ALONE = 200
"""Readers who are decided one by one."""
NEWEST_H, OLDEST_H = 1.0, 47.0
"""Ages of the candidates."""
TARGET_ISSUES, TARGET_MS, TARGET_MB = 20_000, 5.0, 400


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subscribers", type=int, default=100_000)
    parser.add_argument("--candidates", type=int, default=2_000)
    parser.add_argument("--read", type=int, default=20, help="Publications that each subscriber read.")
    parser.add_argument("--fitted", type=int, default=5_000, help="Publications of the fitted model: those that were read.")
    parser.add_argument("--only", choices=(*KINDS, "curves"), help="One part, in this process.")
    given = parser.parse_args()
    if given.only == "curves":
        curves(given)
    elif given.only:
        states, space = built(given, given.only, given.subscribers, given.candidates)
        measure(KINDS[given.only], states, space)
    else:
        print(
            f"{given.subscribers:,} subscribers, {given.candidates:,} candidates. Targets: {TARGET_ISSUES:,} issues a second of "
            f"CPU; p99 of one reader below {TARGET_MS:.0f} ms; below {TARGET_MB} MB."
        )
        for part in (*KINDS, "curves"):
            subprocess.run([sys.executable, "-m", "tests.benchmarks.deciding", *sys.argv[1:], "--only", part], check=True)


def built(given: argparse.Namespace, kind: str, subscribers: int, candidates: int) -> tuple[list[NewsletterState], Space]:
    """Return the shards of a process, and the space of its model."""
    rng = np.random.default_rng(0)
    vectors = vectors_of(rng, candidates + given.fitted)
    model = fitted(rng, candidates, vectors[candidates:]) if kind == "model" else None
    states = [
        shard_of(np.random.default_rng(number), given, subscribers, candidates, None if kind == "topics" else vectors)
        for number in range(SHARDS)
    ]
    collector.settle()
    return states, Space(model)


def vectors_of(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return int8 vectors around a few centres, as those of real titles are."""
    centres = rng.normal(size=(CLUSTERS, DIMENSIONS))
    return to_int8(centres[rng.integers(CLUSTERS, size=count)] + rng.normal(size=(count, DIMENSIONS)))


def shard_of(
    rng: np.random.Generator, given: argparse.Namespace, subscribers: int, candidates: int, vectors: np.ndarray | None
) -> NewsletterState:
    """Return a shard's state: candidates of the last two days, what was read in the month before, subscribers and histories."""
    state = NewsletterState()
    mine = np.random.default_rng(99)  # the same content in every shard
    for number in range(candidates + given.fitted):
        hours = mine.uniform(NEWEST_H, OLDEST_H) if number < candidates else mine.uniform(100, 700)
        names = {f"t{place}" for place in mine.zipf(1.5, size=2) % TOPICS}
        vector = None if vectors is None else vectors[number].tobytes()
        more: dict[str, Any] = {
            "vector": vector,
            "vector_model": VECTOR_MODEL if vector else None,
            "title": f"A study of number {number}",
        }
        fold(state, available(number, *sorted(names), approved_at=NOW - timedelta(hours=hours), **more))
    ids = [uuid.UUID(bytes=rng.bytes(16)) for _ in range(subscribers // SHARDS)]
    for who in ids:
        fold(state, reader(str(who), topics=topics(*{f"t{place}" for place in rng.zipf(1.5, size=3) % TOPICS})))
    read = np.zeros(len(ids) * given.read, dtype=ENTRY)
    read["publication"] = candidates + rng.integers(given.fitted, size=len(read))
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


def slot_of(space: Space, **rules: Any) -> dict[str, Any]:
    """Return the slot that is decided."""
    version = space.model.version if space.model is not None else None
    return slot(chunks=CHUNKS, topic_share=0.5, exploration=0.1, **rules) | {"model_version": version}


def decided(states: list[NewsletterState], space: Space, what: Mapping[str, Any]) -> tuple[int, list[float]]:
    """Decide a slot in every chunk of every shard; return how many issues, and what each chunk took, in seconds of CPU."""
    chosen, took_s = 0, []
    for shard, state in enumerate(states):
        for chunk in range(CHUNKS):
            before = time.process_time()
            chosen += len(decide_newsletter(state, what, Place(shard, SHARDS, chunk, {}), NOW, space)["chosen"])
            took_s.append(time.process_time() - before)
    return chosen, took_s


def alone(state: NewsletterState, space: Space, what: Mapping[str, Any]) -> np.ndarray:
    """Return what it takes to decide for one reader at a time, as a test send does, in seconds of CPU."""
    took_s = []
    for key in state.table.ids[:ALONE]:
        one = {**what, "source_id": f"{what['source_id']}#test-{key.hex()}", "test_subscriber": str(uuid.UUID(bytes=key))}
        before = time.process_time()
        assert decide_newsletter(state, one, Place(0, SHARDS, 0, {}), NOW, space)["chosen"]
        took_s.append(time.process_time() - before)
    return np.array(took_s)


def measure(name: str, states: list[NewsletterState], space: Space) -> None:
    """Decide a slot and print what it took.

    The first chunk of the process also prepares what all shards share, such as carrying the candidates into the model.
    """
    what = slot_of(space)
    chosen, took_s = decided(states, space, what)
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    per_s, chunks, readers = chosen / sum(took_s), np.array(took_s[1:]), chosen / len(took_s)
    one_ms = alone(states[0], space, what) * 1000
    slowest_ms = float(np.quantile(one_ms, 0.99))
    print(f"{name}\n  {per_s:,.0f} issues/s {verdict(per_s >= TARGET_ISSUES)}; {readers / chunks.mean():,.0f} without")
    middle_ms, last_ms = (float(np.quantile(chunks, share)) * 1000 for share in (0.5, 0.99))
    within_ms, whole = last_ms / readers, f"{readers:,.0f} readers"
    print(f"  preparing what the shards share, {(took_s[0] - chunks.mean()) * 1000:,.0f} ms, once a publication")
    print(f"  a chunk of {whole} holds the process for {middle_ms:.0f} ms, p99 {last_ms:.0f} ms;")
    print(
        f"  one reader in it {middle_ms / readers * 1000:.0f} µs, p99 {within_ms * 1000:.0f} µs {verdict(within_ms < TARGET_MS)}"
    )
    print(f"  one reader alone {np.median(one_ms):.1f} ms, p99 {slowest_ms:.1f} ms {verdict(slowest_ms < TARGET_MS)}")
    print(f"  {memory_mb:.0f} MB at most {verdict(memory_mb < TARGET_MB)}", flush=True)


def verdict(met: bool) -> str:
    """Return a mark for a figure with a target."""
    return "(met)" if met else "(missed)"


def curves(given: argparse.Namespace) -> None:
    """Print what an issue costs as subscribers and candidates grow, with a fitted model."""
    print(f"µs of CPU an issue, {KINDS['model']}:")
    print(f"{'subscribers':>12} |" + "".join(f"{f'{count:,} candidates':>18}" for count in CURVE_CANDIDATES))
    largest = max(CURVE_CANDIDATES)
    for subscribers in CURVE_SUBSCRIBERS:
        states, space = built(given, "model", subscribers, largest)
        cells = []
        for candidates in CURVE_CANDIDATES:
            what = slot_of(space, max_age_h=NEWEST_H + (OLDEST_H - NEWEST_H) * candidates / largest)
            chosen, took_s = decided(states, Space(space.model), what)
            cells.append(f"{sum(took_s) / chosen * 1e6:>18.1f}")
        print(f"{subscribers:>12,} |" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
