"""`make bench-ranking`: how well the pipeline's own ranking code ranks, on real reading.

`--data DIR` is a folder in CiteULike's format, or one with folders `citeulike-a` and `deskdrop` (the default: the evaluation data
beside the repository; it is read there, and nothing but vectors of titles is kept, under .newswire). The constants of the ranking
were chosen on the split that `--inside` measures: the last training items are the cold ones then, and no test item is there.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.choosing import POOL, choose, draws
from core.errors import SetupError
from core.ranking import best, freshness
from core.relevance import relevance
from runtime.embedding import VECTOR_MODEL
from tests.benchmarks import ranking_daily, ranking_data, ranking_papers
from tests.benchmarks.ranking_papers import Figures, Ranking

DATA = Path("../shared/data")
COLD = 2_000
"""Newest items that are new; an eighth of a small data set."""

TESTS_FROM, VALIDATED_FROM = 0.6, 0.3
"""Shares of the events after which mornings are tested, and validated."""


@dataclass(frozen=True)
class Row:
    """One line of the table: what a study of this recipe reached on CiteULike-a and Deskdrop, and what was measured."""

    test: str
    reference: tuple[str, str, str]
    baseline: str
    ours: str


def figures(found: Figures) -> str:
    """Return two figures as the table has them."""
    return f"{found.first:.3f} / {found.second:.3f}"


def cold_rows(papers: ranking_data.Papers, inside: bool) -> Iterator[Row]:
    """Yield the tests on new publications."""
    end = len(papers.items)
    size = min(COLD, end // 8)
    end -= size if inside else 0
    bare = papers.without_topics()
    train, case = ranking_papers.cold_case(bare, end - size, end)
    plain = Ranking(ranking_papers.fitted(train, VECTOR_MODEL), bare, case)
    text = ranking_papers.text_columns(plain, [bare.items[place] for place in case.candidates.tolist()])
    baseline = ranking_papers.evaluated(case, plain.by_reading(text))
    ours = ranking_papers.evaluated(case, plain.scores())
    references = ".464 / .168", ".60 / .23", ".64 / .255"
    yield Row(f"new, titles only: R@100 / NDCG@10 ({case.readers:,} readers)", references, figures(baseline), figures(ours))
    train, case = ranking_papers.cold_case(papers, end - size, end)
    model = ranking_papers.fitted(train, VECTOR_MODEL)
    whole = Ranking(model, papers, case)
    baseline = ranking_papers.evaluated(case, whole.by_topics())
    ours = ranking_papers.evaluated(case, whole.scores())
    references = ".508 / .177", ".64 / .24", ".67 / .255"
    yield Row("new, titles and topics: R@100 / NDCG@10", references, figures(baseline), figures(ours))
    _, everybody = ranking_papers.cold_case(papers, end - size, end, everybody=True)
    alerts = Ranking(model, papers, everybody)
    baseline = ranking_papers.evaluated_alerts(everybody, alerts.by_topics())
    ours = ranking_papers.evaluated_alerts(everybody, alerts.scores())
    references = ".391 / .861", ".52 / .940", ".55 / .950"
    yield Row(f"alerts: R@100 of {everybody.readers:,} readers / AUC", references, figures(baseline), figures(ours))
    told(f"  CPU per subscriber, {size:,} candidates, {len(model.items):,} fitted items: {speed(whole)}")


def speed(ranking: Ranking) -> str:
    """Return what a subscriber costs, from the history to the ten items, in CPU time of one thread."""
    rng = np.random.default_rng(0)
    candidates = len(ranking.case.candidates)
    fresh = freshness(rng.random(candidates) * 9, rng.random(candidates) * 48, 24.0)
    strongest = ranking.topics.argmax(axis=1)
    started, spent = time.process_time(), 0.0
    for _, readers in ranking.batches():
        prepared = time.process_time()
        rows = len(readers.interests)
        drawn = draws("bench", [b"%016d" % row for row in range(rows)])
        ranked = best(relevance(readers, ranking.shelf), fresh, np.zeros((rows, candidates), dtype=np.bool_), POOL)
        choose(ranked, strongest, 10, 0.4, 0.1, drawn)
        spent += time.process_time() - prepared
    whole, count = time.process_time() - started, ranking.case.readers
    whole_us, ranking_us = whole / count * 1e6, spent / count * 1e6
    return f"{whole_us:.0f} µs, of which {ranking_us:.0f} µs ranking; {count / whole:,.0f} issues a second a core"


def warm_row(papers: ranking_data.Papers, inside: bool) -> Row:
    """Return the test on a fifth of each reader's saves; inside, on a fifth of what is left without them."""
    rng = np.random.default_rng(0)
    train, case = ranking_papers.warm_case(papers, rng)
    if inside:
        train, case = ranking_papers.warm_case(train, rng)
    ranking = Ranking(ranking_papers.fitted(train, VECTOR_MODEL), papers, case)
    baseline = ranking_papers.evaluated(case, ranking.by_reading(ranking.own_columns()), hide=True)
    ours = ranking_papers.evaluated(case, ranking.scores(), hide=True)
    references = ".533 / .253", ".55 / .255", ".566 / .259"
    return Row("known (a fifth held out): R@100 / NDCG@10", references, figures(baseline), figures(ours))


def mixed_row(papers: ranking_data.Papers, inside: bool) -> Row:
    """Return the test on known and new publications in one list; its baseline is meaning alone."""
    end = len(papers.items)
    size = min(COLD, end // 8)
    end -= size if inside else 0
    train, case = ranking_papers.mixed_case(papers, end - size, end, np.random.default_rng(0))
    ranking = Ranking(ranking_papers.fitted(train, VECTOR_MODEL), papers, case)
    baseline = ranking_papers.evaluated(case, ranking.by_meaning(), hide=True)
    ours = ranking_papers.evaluated(case, ranking.scores(), hide=True)
    listed, wanted = ranking_papers.share_of_new(case, ranking.scores(), end - size)
    told(f"  known and new in one list: {listed:.0%} of the best hundred are new, {wanted:.0%} of what is relevant")
    return Row(f"known and new: R@100 / NDCG@10 ({case.readers:,} readers)", ("-", "-", "-"), figures(baseline), figures(ours))


def daily_row(log: ranking_data.Events, inside: bool) -> Row:
    """Return the test on daily newsletters."""
    plain, ours, sends = ranking_daily.evaluated(log, *((VALIDATED_FROM, TESTS_FROM) if inside else (TESTS_FROM, 1.0)))
    return Row(f"daily newsletter: NDCG@10 ({sends:,} sends)", (".474", ".50", ".52"), f"{plain:.3f}", f"{ours:.3f}")


def told(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="make bench-ranking", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder with the data (default {DATA})")
    parser.add_argument("--inside", action="store_true", help="measure on the split inside the training data")
    parser.add_argument("--only", choices=("new", "known", "mixed", "daily"), help="one kind of test")
    options = parser.parse_args()
    folder = options.data
    alone = any((folder / name).is_file() for name in ("users.dat", "users.dat.gz"))
    places = (folder, None) if alone else (folder / "citeulike-a", folder / "deskdrop")
    papers_in, events_in = (place if place and place.is_dir() else None for place in places)
    if papers_in is None and events_in is None:
        told(
            f"error: {folder} has no data: give --data a folder in CiteULike's format, or one with citeulike-a or deskdrop in it."
        )
        return 3
    told(
        "Weights were chosen inside the training data, never on the test split"
        + (": this is that split." if options.inside else ".")
    )
    steps: list[Callable[[], Iterator[Row]]] = []
    try:
        if papers_in and options.only != "daily":
            papers = ranking_data.papers(papers_in, embed=True)
            readers = len(np.unique(papers.reader))
            told(f"{papers_in}: {len(papers.items):,} items, {readers:,} readers, {len(papers.item):,} saves.")
            if options.only in (None, "new"):
                steps.append(lambda: cold_rows(papers, options.inside))
            if options.only in (None, "known"):
                steps.append(lambda: iter([warm_row(papers, options.inside)]))
            if options.only in (None, "mixed"):
                steps.append(lambda: iter([mixed_row(papers, options.inside)]))
        if events_in and options.only in (None, "daily"):
            log = ranking_data.events(events_in)
            told(f"{events_in}: {len(log.at_ms):,} events.")
            steps.append(lambda: iter([daily_row(log, options.inside)]))
    except SetupError as error:
        told(f"error: {error}")
        return 3
    told("Baseline, pass and strong in brackets are of a study of this recipe on CiteULike-a and Deskdrop.")
    told(f"{'test':<58} {'baseline':>13} {'ours':>13}   [{'baseline':>11} {'pass':>10} {'strong':>11}]")
    for step in steps:
        for row in step():
            first, second, third = row.reference
            told(f"{row.test:<58} {row.baseline:>13} {row.ours:>13}   [{first:>11} {second:>10} {third:>11}]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
