"""Collecting items into batches: full, or old enough, whichever comes first."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Batcher(Generic[T]):
    """Hands lists to `handle`, one at a time and in order; `add` waits while one is being handled (backpressure)."""

    def __init__(
        self,
        handle: Callable[[list[T]], Awaitable[None]],
        max_items: int,
        within_s: float,
        on_error: Callable[[BaseException], None],
    ) -> None:
        """`within_s` counts from the first item of a batch; `on_error` gets what `handle` raises in the background."""
        assert max_items >= 1
        self._handle, self._max, self._within_s, self._on_error = handle, max_items, within_s, on_error
        self._items: list[T] = []
        self._lock = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: set[asyncio.Task[None]] = set()

    async def add(self, item: T) -> None:
        """Add an item; handles the batch when it is full, and then raises what `handle` raises."""
        async with self._lock:
            self._items.append(item)
            if len(self._items) >= self._max:
                await self._flush()
            elif self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(self._within_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        task = asyncio.get_running_loop().create_task(self._flush_later())
        self._flushing.add(task)
        task.add_done_callback(self._flushing.discard)

    async def _flush_later(self) -> None:
        try:
            async with self._lock:
                await self._flush()
        except Exception as error:  # noqa: BLE001 - goes to on_error
            self._on_error(error)

    async def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        items, self._items = self._items, []
        if items:
            await self._handle(items)
