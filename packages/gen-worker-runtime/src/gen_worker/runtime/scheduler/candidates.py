"""The one pass over all devices that finds the best for a request.

It is written for speed: about half a microsecond for each worker. What is costly (the machine's
fitness, what has to make room) is judged once for a machine, or only for what would be the best.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from gen_worker.runtime.scheduler.gates import lasting_gap
from gen_worker.runtime.scheduler.snapshots import InOrder

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence, Set

    from gen_worker.runtime.scheduler.decisions import ModelNeed, Needs, Policy
    from gen_worker.runtime.scheduler.snapshots import DeviceState, Hardware, WorkerState

__all__ = ["Candidate", "Found", "find", "missing_room"]

_OVERDUE = 0.5
"""A job that should have ended is expected to take this much of its delay in addition."""
_Glance = tuple[Any, ...]
"""What a device looks like before it is judged, and never worse than it is.

The first five are those of `Candidate`, then what `consider` takes.
"""
_IS_READY = 8
_NOBODY: Final[Any] = (float("inf"),)


class Candidate(NamedTuple):
    """A device that could run the request. The least is the best."""

    done_at: float
    """When the request would end, and later for a worker that has just joined."""
    displaced_at: float
    """When the model was used that has to make room; 0 when none has to."""
    outstanding: int
    worker_id: str
    gpu_index: int
    start_at: float
    load_s: float
    run_s: float
    worker: WorkerState
    device: DeviceState


class Found(NamedTuple):
    """The best of each sort."""

    warm: Candidate | None
    """Whose models are there, or on their way."""
    any: Candidate | None
    now: Candidate | None
    """Who can be given it now."""
    warm_slots: int
    """Of all devices that are warm."""
    crowded: int
    """Devices whose models are all needed by requests that wait, so that none can make room."""


class _Search:
    """The best so far, as tuples in the order of `Candidate`."""

    __slots__ = (
        "_judged",
        "_needed",
        "_needs",
        "_now",
        "_patience_s",
        "_policy",
        "best",
        "crowded",
        "ready",
        "warm",
    )

    def __init__(self, needs: Needs, needed: Set[str], now: float, policy: Policy) -> None:
        self._needs, self._needed, self._now, self._policy = needs, needed, now, policy
        since = needs.deferred_since
        self._patience_s = -1.0 if since is None else now - since - policy.patience_s
        self._judged: dict[int, tuple[float, int] | None] = {}
        """By machine, how long it runs there and the bytes it takes besides its models."""
        self.warm = self.best = self.ready = _NOBODY
        self.crowded = 0

    def settle(self, glances: list[_Glance], sort: Literal["warm", "best"]) -> None:
        """Judge devices, those that look best first, until no other can be better.

        Args:
            glances: At warm devices or at others; they are used up.
            sort: Which of the bests is looked for besides the one that is ready.
        """
        if not glances:
            return
        # Mostly the first is the best, and to make a heap of all would take longer than the rest.
        first = min(glances)
        if self._is_settled(first, sort):
            return
        self.consider(*first[5:])
        if self._is_settled(first, sort):
            return
        glances.remove(first)
        heapq.heapify(glances)
        ready_left = sum([glance[_IS_READY] for glance in glances])
        while glances:
            glance = heapq.heappop(glances)
            key, is_ready = glance[:4], glance[_IS_READY]
            best = self.warm if sort == "warm" else self.best
            is_beaten = key >= best[:4]
            if is_beaten and (not ready_left or key >= self.ready[:4]):
                return
            ready_left -= is_ready
            if is_ready or not is_beaten:
                self.consider(*glance[5:])

    def _is_settled(self, least: _Glance, sort: Literal["warm", "best"]) -> bool:
        """Tell whether neither the least of the glances nor any other can be better."""
        best = self.warm if sort == "warm" else self.best
        return bool(least[:4] >= best[:4] and least[:4] >= self.ready[:4])

    def consider(
        self,
        start_at: float,
        load_s: float,
        missing_bytes: int | None,
        is_ready: bool,
        worker: WorkerState,
        device: DeviceState,
    ) -> None:
        """Judge one device.

        Args:
            start_at: When it has a free slot.
            load_s: What loading takes.
            missing_bytes: Of the models that are not here; None when all are.
            is_ready: Whether it can be given a job.
            worker: Open for the function.
            device: Of it.
        """
        policy, now = self._policy, self._now
        judged = self._judge(worker.hardware)
        if judged is None or worker.heard_at < now - policy.silent_s:
            return
        run_s, activation_bytes = judged
        done_at = start_at + load_s + run_s
        if worker.unsettled_until > now - policy.settle_s:
            if worker.refused_until > now:
                start_at, is_ready = max(start_at, worker.refused_until), False
            done_at = start_at + load_s + run_s
            if worker.joined_at > now - policy.settle_s:
                done_at += policy.settle_s
        displaced_at, size_bytes = 0.0, 0
        if missing_bytes is not None and device.free_bytes is not None:
            size_bytes = missing_bytes + activation_bytes
            if size_bytes > device.free_bytes:
                displaced_at = device.coldest_at
            else:
                size_bytes = 0
        where = (worker.worker_id, device.index, start_at, load_s, run_s, worker, device)
        found = (done_at, displaced_at, device.outstanding, *where)
        if size_bytes and self._is_crowded(device, size_bytes, load_s):
            self.crowded += 1
            return
        if found < self.best:
            self.best = found
        if missing_bytes is None and found < self.warm:
            self.warm = found
        if is_ready and found < self.ready:
            self.ready = found

    def free(self, workers: Iterable[WorkerState]) -> Candidate | None:
        """Return a free device that has the models and that no other can be better than.

        None: there is none, and all devices have to be compared.
        """
        needs, policy, now = self._needs, self._policy, self._now
        function, release_id = needs.function, needs.release_id
        needs_gpu = needs.resources.needs_gpu
        quickest_s = min(_run_times(needs, policy).values())
        heard_since, settled_until = now - policy.silent_s, now - policy.settle_s
        refs, is_in_order = [one.ref for one in needs.models], isinstance(workers, InOrder)
        least = found = None
        for worker in workers:
            if function not in worker.open_for or worker.release_id != release_id:
                continue
            for device in worker.gpus if needs_gpu else worker.processors:
                if device.free_at or (refs and refs[0] not in device.models):
                    continue
                if found is not None and device.outstanding > found.outstanding:
                    continue
                key = (device.outstanding, worker.worker_id, device.index)
                if (least is not None and key > least) or worker.heard_at < heard_since:
                    continue
                if refs and not _is_warm(device, refs, now):
                    continue
                if worker.refused_until > now or worker.joined_at > settled_until:
                    continue
                judged = self._judge(worker.hardware)
                if judged is None or judged[0] != quickest_s:
                    continue
                done_at = now + quickest_s
                least = key
                found = Candidate(done_at, 0.0, *key, now, 0.0, quickest_s, worker, device)
                if is_in_order and not device.outstanding:
                    return found
        return found

    def _judge(self, hardware: Hardware) -> tuple[float, int] | None:
        key = id(hardware)
        if key not in self._judged:
            self._judged[key] = _judge(self._needs, hardware, self._policy)
        return self._judged[key]

    def _is_crowded(self, device: DeviceState, size_bytes: int, load_s: float) -> bool:
        """Tell whether only what waiting requests need could make room."""
        if not device.models or self._patience_s > load_s:
            return False
        if device.models.keys() <= self._needed:
            return True
        leaving = _leaving(device, size_bytes, self._needs.models, self._needed)
        return not self._needed.isdisjoint(leaving)


def find(
    needs: Needs, workers: Iterable[WorkerState], needed: Set[str], now: float, policy: Policy
) -> Found:
    """Look at every device once.

    Args:
        needs: Of the request.
        workers: In any order.
        needed: Refs that other waiting requests need.
        now: The time.
        policy: How to weigh.
    """
    search = _Search(needs, needed, now, policy)
    free = search.free(workers)
    if free is not None:
        return Found(free, free, free, free.device.slots, 0)
    warm, others, warm_slots = _glance(needs, workers, now, policy)
    search.settle(warm, "warm")
    search.settle(others, "best")
    bests = (search.warm, search.best, search.ready)
    warmest, any_, ready = (None if one is _NOBODY else Candidate(*one) for one in bests)
    return Found(warmest, any_, ready, warm_slots, search.crowded)


def _glance(
    needs: Needs, workers: Iterable[WorkerState], now: float, policy: Policy
) -> tuple[list[_Glance], list[_Glance], int]:
    """Return a first, hopeful look at all devices: warm ones, others, and the slots of the warm."""
    function, release_id, needs_gpu = needs.function, needs.release_id, needs.resources.needs_gpu
    models = [
        (one.ref, one.size_bytes, {"ram": one.ram_s, "disk": one.disk_s, None: one.cold_s})
        for one in needs.models
    ]
    quickest_s = min(_run_times(needs, policy).values())
    prefetch_until, per_slot = now + policy.prefetch_s, 1 + policy.max_prefetched
    warm: list[_Glance] = []
    others: list[_Glance] = []
    warm_slots = 0
    for worker in workers:
        if function not in worker.open_for or worker.release_id != release_id:
            continue
        for device in worker.gpus if needs_gpu else worker.processors:
            start_at = device.free_at
            outstanding = device.outstanding
            if not start_at:
                start_at, is_ready = now, True
            else:
                if start_at < now:
                    start_at = now + (now - start_at) * _OVERDUE
                is_ready = start_at <= prefetch_until and outstanding < device.slots * per_slot
            residents, load_s, missing_bytes = device.models, 0.0, None
            for ref, size_bytes, seconds in models:
                resident = residents.get(ref)
                if resident is None:
                    missing_bytes = (missing_bytes or 0) + size_bytes
                    load_s += seconds[worker.nearby.get(ref)]
                elif resident.ready_at > start_at + load_s:
                    load_s = resident.ready_at - start_at
            done_at, displaced_at, found = start_at + load_s + quickest_s, 0.0, warm
            if missing_bytes is None:
                warm_slots += device.slots
            else:
                found, free_bytes = others, device.free_bytes
                if free_bytes is not None and missing_bytes > free_bytes:
                    displaced_at = device.coldest_at
            glance = (  # in one piece: to put it together from parts takes three times as long
                done_at,
                displaced_at,
                outstanding,
                worker.worker_id,
                device.index,
                start_at,
                load_s,
                missing_bytes,
                is_ready,
                worker,
                device,
            )
            found.append(glance)
    return warm, others, warm_slots


def missing_room(candidate: Candidate, needs: Needs, needed: Set[str]) -> tuple[str, ...]:
    """Return what has to leave the device, the coldest first; what others need comes last."""
    device = candidate.device
    size_bytes = sum(one.size_bytes for one in needs.models if one.ref not in device.models)
    size_bytes += _activation_bytes(needs, candidate.worker.hardware)
    return _leaving(device, size_bytes, needs.models, needed)


def _leaving(
    device: DeviceState, size_bytes: int, models: Sequence[ModelNeed], needed: Set[str]
) -> tuple[str, ...]:
    free_bytes = device.free_bytes
    if free_bytes is None:
        return ()
    own = {model.ref for model in models}
    others = sorted(
        (ref in needed, resident.used_at, ref, resident.size_bytes)
        for ref, resident in device.models.items()
        if ref not in own
    )
    leaving = []
    for _, _, ref, held_bytes in others:
        if free_bytes >= size_bytes:
            break
        leaving.append(ref)
        free_bytes += held_bytes or size_bytes  # of unknown size: taken for large enough
    return tuple(leaving)


def _is_warm(device: DeviceState, refs: Iterable[str], now: float) -> bool:
    """Tell whether models are there by now."""
    residents = device.models
    for ref in refs:
        resident = residents.get(ref)
        if resident is None or resident.ready_at > now:
            return False
    return True


def _judge(needs: Needs, hardware: Hardware, policy: Policy) -> tuple[float, int] | None:
    """Return how long it runs on a machine and its bytes besides its models; None: it cannot."""
    if lasting_gap(needs, hardware):
        return None
    run_s = _run_times(needs, policy).get(hardware.gpu_class)
    usual_s = _run_times(needs, policy)[None]
    return usual_s if run_s is None else run_s, _activation_bytes(needs, hardware)


def _run_times(needs: Needs, policy: Policy) -> dict[str | None, float]:
    """Return how long it runs by GPU class; under None, for classes nothing is known of."""
    known: dict[str | None, float] = {
        name: one.run_s for name, one in needs.predictions.items() if one.run_s is not None
    }
    known[None] = sum(known.values()) / len(known) if known else policy.usual_run_s
    return known


def _activation_bytes(needs: Needs, hardware: Hardware) -> int:
    """Return the bytes it takes besides its models."""
    prediction = needs.predictions.get(hardware.gpu_class)
    of_models = sum(model.size_bytes for model in needs.models)
    return 0 if prediction is None else max(0, prediction.vram_bytes - of_models)
