"""Which workers leave first when there are too many: those that are missed the least."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Set

    from gen_worker.runtime.scheduler.snapshots import WorkerState

__all__ = ["drain_order"]


def drain_order(workers: Iterable[WorkerState], needed: Set[str] = frozenset()) -> tuple[str, ...]:
    """Return the ids of the workers in the order in which to drain them.

    First those that run nothing yet, then by what they have to do; then those that hold the only
    copy of fewer needed models, that hold fewer models, that were used longest ago. Those that
    drain already are left out.

    Args:
        workers: In any order.
        needed: Refs that waiting requests need.
    """
    staying = [worker for worker in workers if not worker.is_draining]
    copies = Counter(ref for worker in staying for ref in _loaded(worker))

    def rank(worker: WorkerState) -> tuple[bool, int, int, int, float, float, str]:
        loaded = _loaded(worker)
        return (
            bool(worker.functions),
            worker.outstanding,
            sum(ref in needed and copies[ref] == 1 for ref in loaded),
            len(loaded),
            max((used_at for used_at in loaded.values()), default=0.0),
            -worker.joined_at,
            worker.worker_id,
        )

    return tuple(worker.worker_id for worker in sorted(staying, key=rank))


def _loaded(worker: WorkerState) -> dict[str, float]:
    """Return the models that are loaded, and when each was used last."""
    found: dict[str, float] = {}
    for device in (*worker.gpus, *worker.processors):
        for ref, resident in device.models.items():
            found[ref] = max(resident.used_at, found.get(ref, 0.0))
    return found
