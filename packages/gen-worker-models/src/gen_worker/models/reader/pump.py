"""Several threads that work through one list of blocks; the caller sees what is finished."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gen_worker.cancel import CancelToken
    from gen_worker.models.reader.plan import Block

__all__ = ["Feed", "Worker", "pump"]


class Feed(NamedTuple):
    """What a worker is given."""

    take: Callable[[], Block | None]
    """Return the next block; None when there is no more, or the work is over."""
    put: Callable[[Block], None]
    """Hand over a finished block."""
    is_over: Callable[[], bool]
    """Tell whether waiting for something else is in vain."""


class Worker(Protocol):
    """Runs in a thread of its own until `take` returns None; what it raises ends the whole read."""

    def __call__(self, feed: Feed) -> None: ...


def pump(
    blocks: Iterable[Block],
    worker: Worker,
    finished: Callable[[Block], None],
    *,
    threads: int,
    token: CancelToken | None = None,
) -> None:
    """Run `worker` in threads and call `finished` here, for each block as it comes.

    Blocks begin in their order and are finished in any. When this returns or raises, no thread is
    left.

    Raises:
        CanceledError: The token was canceled; each thread ends the block it is at.
    """
    todo = iter(blocks)
    lock = threading.Lock()
    over = threading.Event()
    results: SimpleQueue[Block | BaseException | None] = SimpleQueue()

    def is_over() -> bool:
        return over.is_set() or (token is not None and token.is_canceled)

    def take() -> Block | None:
        with lock:
            return None if is_over() else next(todo, None)

    def run() -> None:
        try:
            worker(Feed(take, results.put, is_over))
        except BaseException as error:  # raised again in the caller's thread
            over.set()
            results.put(error)
        finally:
            results.put(None)

    crew = [threading.Thread(target=run, name="model-reader", daemon=True) for _ in range(threads)]
    try:
        for thread in crew:
            thread.start()
        _collect(results, threads, finished)
        if token is not None:
            token.raise_if_canceled("loading was canceled")
    finally:
        over.set()
        for thread in crew:
            if thread.ident is not None:
                thread.join()


def _collect(
    results: SimpleQueue[Block | BaseException | None],
    threads: int,
    finished: Callable[[Block], None],
) -> None:
    while threads:
        item = results.get()
        if item is None:
            threads -= 1
        elif isinstance(item, BaseException):
            raise item
        else:
            finished(item)
