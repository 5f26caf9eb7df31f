"""Work in other threads, its results used here in order: nothing waits that need not."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeVar

from gen_worker.conversion.lazy.slab_memory import release_idle
from gen_worker.conversion.lazy.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from gen_worker.cancel import CancelToken

__all__ = ["pump"]

T = TypeVar("T")
_THREADS = 6
"""Most of them wait: a disk gives its best to several reads at once."""
_COMPUTING = 3
"""Two that compute on a small machine, and one that is ready."""
_MAX_COST_BYTES = 96 << 20


def pump(
    jobs: Iterable[tuple[int, Callable[[], T]]],
    use: Callable[[T], None],
    *,
    threads: int = _THREADS,
    max_cost_bytes: int = _MAX_COST_BYTES,
    token: CancelToken | None = None,
) -> None:
    """Run jobs in threads and hand their results to `use`, in order, in this thread; blocks.

    Args:
        jobs: What each holds in memory from its start until it was used, and what to call.
        use: Takes one result.
        threads: How many jobs run at once; fewer of them compute, others wait for the disk.
        max_cost_bytes: What jobs that are not used yet hold together; a larger one runs alone.
        token: Looked at before each result is used.

    Raises:
        CanceledError: The token was canceled.
        Exception: The first that a job, in their order, or `use` raised; no job runs after it.
    """
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(threads, "gen-worker-convert")
    turns = Turns(_COMPUTING)
    waiting: deque[tuple[int, Future[T]]] = deque()
    cost_bytes = 0

    def use_next() -> int:
        if token is not None:
            token.raise_if_canceled("the conversion was canceled")
        cost, future = waiting.popleft()
        use(future.result())
        return cost

    try:
        for cost, job in jobs:
            while waiting and cost_bytes + cost > max_cost_bytes:
                cost_bytes -= use_next()
            waiting.append((cost, pool.submit(turns.run, job)))
            cost_bytes += cost
        while waiting:
            use_next()
    finally:
        pool.shutdown(cancel_futures=True)
        release_idle()
