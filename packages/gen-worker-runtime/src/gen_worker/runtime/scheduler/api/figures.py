"""Figures of a scheduler, for `/v1/status`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.runtime.scheduler.api.worker_routes import Workers
    from gen_worker.runtime.scheduler.ledger import Ledger
    from gen_worker.runtime.scheduler.requests import Requests

__all__ = ["Figures"]


class Figures:
    """Counts what there is at this moment."""

    def __init__(
        self,
        ledger: Ledger,
        requests: Requests,
        workers: Workers,
        clock: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._requests = requests
        self._workers = workers
        self._clock = clock

    def status(self) -> dict[str, Any]:
        """Return them by name."""
        kept = self._ledger.statistics()
        queues = self._requests.queues()
        return {
            "waiting": sum(queues.values()),
            "running": sum(1 for _ in self._requests.running()),
            "unfinished": len(self._requests),
            "oldest_wait_s": self._oldest_wait_s(queues),
            "kept": kept.requests,
            "kept_ended_bytes": kept.ended_bytes,
            "unwritten": kept.pending,
            "written_batches": kept.batches,
            "failed_batches": kept.failed_batches,
            "workers": dict(Counter(view.state for view in self._workers.workers())),
        }

    def _oldest_wait_s(self, queues: dict[str, int]) -> float:
        came = [self._requests.oldest(queue) for queue in queues]
        oldest = min((one for one in came if one is not None), default=None)
        return 0.0 if oldest is None else max(self._clock() - oldest, 0.0)
