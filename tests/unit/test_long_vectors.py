"""Content vectors of thousands of dimensions: what takes seconds is done beside the event loop, and decides the same."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from core import space as spaces
from core.deciding import decide_newsletter
from core.newsletter_state import NewsletterState
from core.space import LONG, PROJECTED_FROM, Space
from core.vectors import to_int8
from core.verdicts import Place
from streams import newsletters
from streams.newsletters import Newsletters
from tests.unit.deciding_samples import NOW, available, clicked, fold, person, reader, slot


@pytest.fixture(scope="module")
def state() -> NewsletterState:
    """As many publications as are compared in fewer dimensions."""
    raw = to_int8(np.random.default_rng(0).normal(size=(PROJECTED_FROM, LONG + 8)))
    content = [available(number, vector=line.tobytes(), vector_model="long:1") for number, line in enumerate(raw)]
    made: NewsletterState = fold(NewsletterState(), reader(person(1)), content, clicked(person(1), 7))
    return made


def decide(state: NewsletterState, space: Space) -> dict[str, Any]:
    return decide_newsletter(state, slot(), Place(0, 12, 0, {}), NOW, space)


async def find(state: NewsletterState, space: Space) -> None:
    await Newsletters._find_axes(cast(Any, SimpleNamespace(_reducing=asyncio.Lock())), state, slot(), space)


async def test_the_axes_are_found_by_a_thread_and_decide_the_same(state: NewsletterState, monkeypatch: Any) -> None:
    """Nothing is left to the event loop, and a slot that comes again finds them there."""
    threads, expected, space, work = [], decide(state, Space()), Space(), spaces.axes_of

    def noted(raw: Any) -> Any:
        threads.append(threading.current_thread())
        return work(raw)

    monkeypatch.setattr(newsletters, "axes_of", noted)
    monkeypatch.setattr(spaces, "axes_of", noted)
    await find(state, space)
    await find(state, space)
    assert decide(state, space) == expected
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


async def test_short_vectors_and_a_model_need_no_thread(state: NewsletterState) -> None:
    """With a model vectors are compared along its own axes."""
    short = fold(NewsletterState(), reader(person(1)), available(1, vector=b"\x01" * 8, vector_model="short:1"))
    assert not Space().may_take_long(short.content)
    assert not Space(cast(Any, SimpleNamespace())).may_take_long(state.content)
