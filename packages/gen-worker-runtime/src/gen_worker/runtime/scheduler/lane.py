"""A thread that works for the loop, in batches: what comes while it is busy is its next batch.

The batch forms by itself, so nobody waits for a timer, and the loop is woken once for each.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gen_worker.errors import RetryableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Lane"]

T = TypeVar("T")
_PATIENCE_S = 1.0
"""Without work, before the thread may relax."""


class Lane(Generic[T]):
    """Work for one thread. Used on the loop that made it."""

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[T]], Sequence[object]],
        *,
        max_batch: int,
        relax: Callable[[], float | None] = lambda: None,
    ) -> None:
        """Start the thread.

        Args:
            name: Of the thread.
            work: Called there with what was put, in that order; returns what each came to, an
                exception where it failed.
            max_batch: How many it is given at once.
            relax: Called there when nothing is to be done; returns after how many seconds to call
                it again, None for not before there was work.
        """
        self._loop = asyncio.get_running_loop()
        self._work = work
        self._max_batch = max_batch
        self._relax = relax
        self._items: deque[tuple[T, asyncio.Future[Any] | None]] = deque()
        self._sleep = threading.Lock()
        """The thread sleeps in acquiring it; an `Event` takes a third longer to wake it."""
        self._sleep.acquire()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closing = False
        self._ended = self._loop.create_future()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def __len__(self) -> int:
        """Return how much waits to be begun."""
        return len(self._items)

    def put(self, item: T) -> asyncio.Future[Any]:
        """Give the thread something to do; it is done also when nobody waits for it any more.

        Raises:
            RetryableError: `close` was called.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        self._add(item, future)
        self._wake()
        return future

    def put_behind(self, item: T, within_s: float) -> None:
        """Give it something that nobody waits for: done with what is put next, or after a while."""
        self._add(item, None)
        if self._timer is None:
            self._timer = self._loop.call_later(within_s, self._hurry)

    async def close(self) -> None:
        """Have everything done that was put, and end the thread."""
        self._is_closing = True
        self._hurry()
        await asyncio.shield(self._ended)

    def _add(self, item: T, future: asyncio.Future[Any] | None) -> None:
        if self._is_closing:
            raise RetryableError("the scheduler is stopping: ask again once it is back")
        self._items.append((item, future))

    def _hurry(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake()

    def _wake(self) -> None:
        if self._sleep.locked():
            self._sleep.release()

    # -- in the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        patience_s: float | None = _PATIENCE_S
        while True:
            is_woken = self._sleep.acquire(timeout=-1 if patience_s is None else patience_s)
            if self._items:
                while self._items:
                    if not self._do_batch():
                        return
                patience_s = _PATIENCE_S
            elif not is_woken:
                patience_s = self._relax()
            if self._is_closing and not self._items:
                break
        self._tell([(self._ended, None)])

    def _do_batch(self) -> bool:
        """Return whether somebody is left to work for."""
        count = min(len(self._items), self._max_batch)
        batch = [self._items.popleft() for _ in range(count)]
        try:
            outcomes = self._work([item for item, _ in batch])
        except Exception as error:  # the thread goes on; who waits is told
            outcomes = [error] * count
        settled = [
            (future, outcome)
            for (_, future), outcome in zip(batch, outcomes, strict=True)
            if future is not None
        ]
        return not settled or self._tell(settled)

    def _tell(self, settled: Sequence[tuple[asyncio.Future[Any], object]]) -> bool:
        try:
            self._loop.call_soon_threadsafe(_settle, settled)
        except RuntimeError:  # the loop is closed
            if not self._loop.is_closed():
                raise
            return False
        return True


def _settle(settled: Sequence[tuple[asyncio.Future[Any], object]]) -> None:
    for future, outcome in settled:
        if future.done():
            continue
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
