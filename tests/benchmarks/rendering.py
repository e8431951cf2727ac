"""How many issues of ten items one core renders a second, by channel: `python -m tests.benchmarks.rendering`.

A population of issues over 300 publications, so that fragments are found in the cache as they are in a sink; CPU time.
"""

import random
import time
from collections.abc import Callable

from core.rendering.discord import newsletter_embeds
from core.rendering.email import newsletter_layout, newsletter_parts
from core.rendering.fragments import REASONED, FragmentCache
from core.rendering.model import Issue, IssueItem
from core.rendering.slack import newsletter_blocks
from core.rendering.webhook import newsletter_payload
from tests.rendering_samples import PUBLISHED, content, issue

ISSUES, PUBLICATIONS, ITEMS = 4_000, 300, 10


def issues() -> list[Issue]:
    """Return issues whose items and reasons differ."""
    chance = random.Random(1)
    publications = [content(number) for number in range(PUBLICATIONS)]
    reasons = [*(f"topic:hep-{number}" for number in range(40)), "history", "popular", "explore"]
    return [
        issue(
            items=tuple(IssueItem(one, chance.choice(reasons)) for one in chance.sample(publications, ITEMS)),
            unsubscribe_url=f"https://edge.example/u/{number:0120d}",
        )
        for number in range(ISSUES)
    ]


def rate(render: Callable[[Issue, FragmentCache], object], population: list[Issue]) -> float:
    """Return issues a second of CPU, the best of three rounds with a cache that is warm."""
    cache, best = FragmentCache(), float("inf")
    for _ in range(4):
        before = time.process_time()
        for one in population:
            render(one, cache)
        best = min(best, time.process_time() - before)
    return len(population) / best


def main() -> None:
    """Print the table."""
    population = issues()

    shown = FragmentCache(REASONED)

    def email(one: Issue, cache: FragmentCache) -> object:
        newsletter_layout(one)
        return newsletter_parts(one, cache, shown, str)

    def webhook(one: Issue, cache: FragmentCache) -> object:
        return newsletter_payload(one, delivery_id="20261123-x", source_id="daily@x", timestamp=PUBLISHED, cache=cache)

    for name, render in (("email", email), ("slack", newsletter_blocks), ("discord", newsletter_embeds), ("webhook", webhook)):
        print(f"{name:<8} {rate(render, population):>10,.0f} issues of {ITEMS} items a second of CPU")


if __name__ == "__main__":
    main()
