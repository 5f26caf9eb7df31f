"""Many calls at a time, in threads."""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.client.windows import Window, output_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    Make = Callable[[Any, threading.Event], "Pending"]

__all__ = ["Pending", "mapped"]


class Pending(NamedTuple):
    """A call that is about to be made."""

    run: Callable[[], Any]
    leave: Callable[[], None]
    """Cancels it, from another thread."""


def mapped(
    make: Make,
    payloads: Iterable[Any],
    *,
    concurrency: int,
    ordered: bool,
    return_errors: bool,
) -> Generator[Any]:
    """Iterate over the outputs of calls; see `Client.map`.

    Args:
        make: Makes a call of a payload, and of an event after which nobody waits for it.
        payloads: One for each call.
        concurrency: How many calls run at a time.
        ordered: Give outputs in the order of the payloads.
        return_errors: Give a `CallError` in the place of an output.

    Raises:
        ValueError: No call would run.
    """
    window: Window[Future[Any]] = Window(concurrency, ordered)
    return _mapped(make, iter(payloads), window, concurrency, return_errors)


def _mapped(
    make: Make,
    payloads: Iterator[Any],
    window: Window[Future[Any]],
    concurrency: int,
    return_errors: bool,
) -> Generator[Any]:
    stop = threading.Event()
    pending: dict[Future[Any], Pending] = {}
    pool = ThreadPoolExecutor(concurrency, "gen-worker-map")
    is_exhausted = False
    try:
        while True:
            for future in window.take():
                del pending[future]
                yield output_of(future, return_errors)
            if window.has_room and not is_exhausted:
                try:
                    call = make(next(payloads), stop)
                except StopIteration:
                    is_exhausted = True
                else:
                    future = pool.submit(call.run)
                    pending[future] = call
                    window.calls.append(future)
            elif window.calls:
                wait(window.running, return_when=FIRST_COMPLETED)
            else:
                return
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        for future, call in pending.items():
            if not future.done():
                call.leave()
