"""Figures of a scheduler: for `/v1/status`, and for `/metrics` in the text format of Prometheus."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gen_worker.runtime.scheduler.api.worker_routes import Workers
    from gen_worker.runtime.scheduler.ledger import Ledger
    from gen_worker.runtime.scheduler.requests import Requests

__all__ = ["Figures"]

_PREFIX = "gen_worker_scheduler_"
_WORKER_STATES = ("ready", "starting", "draining", "overloaded", "silent", "disconnected")


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

    def exposition(self) -> bytes:
        """Return them as Prometheus reads them."""
        return "".join(f"{line}\n" for line in self._lines()).encode()

    def _lines(self) -> Iterator[str]:
        found = self.status()
        for name, kind, text, value in (
            ("requests_waiting", "gauge", "Requests that wait for a worker.", found["waiting"]),
            ("requests_running", "gauge", "Requests that a worker has.", found["running"]),
            ("requests_kept", "gauge", "Requests in the ledger.", found["kept"]),
            ("oldest_wait_seconds", "gauge", "How long the oldest waits.", found["oldest_wait_s"]),
            ("ended_bytes", "gauge", "Bytes of requests that ended.", found["kept_ended_bytes"]),
            ("unwritten_operations", "gauge", "Changes not on disk yet.", found["unwritten"]),
            ("batches_total", "counter", "Transactions of the ledger.", found["written_batches"]),
            ("failed_batches_total", "counter", "Those that failed.", found["failed_batches"]),
        ):
            yield f"# HELP {_PREFIX}{name} {text}"
            yield f"# TYPE {_PREFIX}{name} {kind}"
            yield f"{_PREFIX}{name} {value}"
        yield f"# HELP {_PREFIX}workers Workers by state."
        yield f"# TYPE {_PREFIX}workers gauge"
        for state in sorted({*_WORKER_STATES, *found["workers"]}):
            yield f'{_PREFIX}workers{{state="{state}"}} {found["workers"].get(state, 0)}'

    def _oldest_wait_s(self, queues: dict[str, int]) -> float:
        came = [self._requests.oldest(queue) for queue in queues]
        oldest = min((one for one in came if one is not None), default=None)
        return 0.0 if oldest is None else max(self._clock() - oldest, 0.0)
