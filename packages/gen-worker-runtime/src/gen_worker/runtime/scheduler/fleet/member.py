"""One worker: what it says, what it was given, and how placement sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gen_worker.runtime.scheduler.fleet.holdings import Holdings
from gen_worker.runtime.scheduler.fleet.said import hardware_of, unavailable_in
from gen_worker.runtime.scheduler.snapshots import (
    DeviceState,
    Hardware,
    WorkerState,
    nearby,
    overload_backoff_s,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.runtime.scheduler.decisions import Policy
    from gen_worker.runtime.scheduler.fleet.job import Job
    from gen_worker.runtime.scheduler.fleet.pool import Pool
    from gen_worker.runtime.scheduler.gateway import Session
    from gen_worker.runtime.scheduler.snapshots import Nearby
    from gen_worker.runtime.wire import FunctionCapabilities, Resources

__all__ = ["DrainOrder", "Member"]

_LIMIT_S = 60.0
"""For which a worker gets no more jobs at once than it ran when it refused one."""
_FULL = 1 << 30


class DrainOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A drain that a worker was told of."""

    reason: str
    ends_at: float
    """Unix time; 0 has no end."""


class Member:
    """One worker, through all its connections. Changed by the dispatcher, on its loop."""

    def __init__(self, worker_id: str, now: float, *, processor_slots: int) -> None:
        self.worker_id = worker_id
        self.release_id = ""
        self.session: Session | None = None
        self.is_connected = False
        self.connection = 0
        """The session's, when it registered last."""
        self.functions: frozenset[str] = frozenset()
        self.loading: frozenset[str] = frozenset()
        self.hardware = Hardware()
        self.gpus: list[Holdings] = []
        self.processor = Holdings(0)
        self.nearby: Mapping[str, Nearby] = {}
        self.jobs: dict[str, Job] = {}
        """By request id, what it was given and has not answered."""
        self.drain: DrainOrder | None = None
        self.is_leaving = False
        """It said itself that it takes nothing more."""
        self.heard_at = self.joined_at = now
        self.told_at = now
        """When it was sent something last."""
        self.unwritten_bytes = 0
        """Of what it said and is not on disk yet."""
        self._processor_slots = processor_slots
        self._unavailable: dict[str, str] = {}
        self._refused_functions: dict[str, str] = {}
        self._refused_until = 0.0
        self._refusals = 0
        self._limit = 0
        """Jobs at once; 0 is not known."""
        self._limit_until = 0.0
        self._states: dict[int, WorkerState] = {}
        self.pool: Pool | None = None
        """Of its release; told of every change."""

    def __repr__(self) -> str:
        state = "connected" if self.is_connected else "gone"
        return f"<Member {self.worker_id!r}, {state}, {len(self.jobs)} jobs>"

    # -- what it says ------------------------------------------------------------------------------

    def registered(self, session: Session, now: float) -> None:
        """Take in a worker that has connected, or says anew who it is; `reported` follows."""
        if session.connection != self.connection or not self.is_connected:
            self.joined_at = now
            self._unavailable, self._refused_functions = {}, {}
            self._refusals, self._refused_until, self._limit_until = 0, 0.0, 0.0
            self.is_leaving = False
        self.session, self.connection, self.is_connected = session, session.connection, True
        self.release_id = session.release_id

    def reported(self, resources: Resources, sizes: Mapping[str, int], now: float) -> bool:
        """Take its word on what it has; return whether more is possible than before."""
        before = (self.functions - self.loading, *map(len, self._places()))
        self.heard_at = now
        self.functions = frozenset(resources.available_functions)
        self.loading = frozenset(resources.loading_functions)
        hardware = hardware_of(resources)
        if hardware is not self.hardware and self.pool is not None:
            self.pool.reorder()
        self.hardware = hardware
        self._resize(resources)
        self._correct(resources, sizes, now)
        for function in self.functions & self._unavailable.keys():
            del self._unavailable[function]
        self.touch()
        return (self.functions - self.loading, *map(len, self._places())) != before

    def _places(self) -> tuple[Mapping[str, object], ...]:
        return (self.nearby, self.processor.models, *(gpu.models for gpu in self.gpus))

    def _resize(self, resources: Resources) -> None:
        count = max(0, resources.gpu_count)
        del self.gpus[count:]
        for index in range(len(self.gpus), count):
            self.gpus.append(Holdings(index, resources.gpu_memory_bytes))

    def _correct(self, resources: Resources, sizes: Mapping[str, int], now: float) -> None:
        self.nearby = nearby(ram=resources.ram_models, disk=resources.disk_models)
        vram, ram = frozenset(resources.vram_models), frozenset(resources.ram_models)
        self.processor.correct(ram, self._used(None), now, sizes, None)
        known = {ref: gpu.index for gpu in self.gpus for ref in gpu.models if ref in vram}
        for gpu in self.gpus:
            # Which GPU has a model nobody gave it is not said: it counts for the first.
            own = frozenset(ref for ref in vram if known.get(ref, 0) == gpu.index)
            is_counted = gpu.index == 0 and resources.gpu_memory_bytes > 0
            free_bytes = resources.gpu_memory_free_bytes if is_counted else None
            gpu.correct(own, self._used(gpu.index), now, sizes, free_bytes)

    def _used(self, gpu_index: int | None) -> set[str]:
        return {ref for job in self.jobs.values() if job.gpu_index == gpu_index for ref in job.refs}

    def capable(self, capabilities: FunctionCapabilities) -> None:
        """Take its word on what it can never run."""
        self._unavailable = unavailable_in(capabilities)
        self.touch()

    def cannot_run(self, function: str, why: str) -> None:
        """Note that it says it can never run a function."""
        self._unavailable[function] = why or "it is unavailable there"
        self.touch()

    def refused_function(self, function: str, why: str) -> None:
        """Note that it refused a request for a function that it offers, until it connects anew."""
        self._refused_functions[function] = why or "it is unavailable there"
        self.touch()

    def arrived(self, ref: str, now: float, size_bytes: int) -> None:
        """Note that a model is in GPU memory, or in the host's where there is no GPU."""
        holders = [gpu for gpu in self.gpus if ref in gpu.models] or self.gpus[:1]
        for holdings in holders or [self.processor]:
            holdings.arrived(ref, now, size_bytes)
        self.touch()

    def departed(self, ref: str) -> None:
        """Note that a model is in memory no more."""
        for holdings in (*self.gpus, self.processor):
            holdings.unload((ref,))
        self.touch()

    def gone(self) -> None:
        """Note that it takes no more commands."""
        self.is_connected = False
        self.touch()

    # -- what it was given -------------------------------------------------------------------------

    def add(self, job: Job, ready_at: float, sizes: Mapping[str, int], now: float) -> None:
        """Count a job as its own."""
        self.jobs[job.request_id] = job
        self._device(job.gpu_index).use(job.refs, now, ready_at, sizes)
        self.touch()

    def remove(self, job: Job) -> None:
        """Count a job no more."""
        if self.jobs.get(job.request_id) is job:
            del self.jobs[job.request_id]
            self.touch()

    def make_room(self, gpu_index: int | None, refs: tuple[str, ...]) -> None:
        """Note that models were told to go."""
        self._device(gpu_index).unload(refs)
        self.touch()

    def _device(self, gpu_index: int | None) -> Holdings:
        if gpu_index is None or gpu_index >= len(self.gpus):
            return self.processor
        return self.gpus[gpu_index]

    # -- refusals ----------------------------------------------------------------------------------

    def refused(self, now: float) -> float:
        """Give it nothing for a while, longer each time, and fewer at once; return until when."""
        self._refusals += 1
        self._refused_until = now + overload_backoff_s(self._refusals)
        self._limit, self._limit_until = max(1, len(self.jobs)), now + _LIMIT_S
        self.touch()
        return self._refused_until

    def has_run(self, job: Job, now: float, sizes: Mapping[str, int]) -> None:
        """Note that it did what it was given: it takes jobs, and has the models of this one."""
        self._refusals = 0
        holdings = self._device(job.gpu_index)
        for ref in job.refs:
            holdings.arrived(ref, now, sizes.get(ref, 0))

    # -- how placement sees it ---------------------------------------------------------------------

    @property
    def is_draining(self) -> bool:
        return self.drain is not None or self.is_leaving

    def touch(self) -> None:
        """Have its state made anew."""
        self._states.clear()
        if self.pool is not None:
            self.pool.touched(self)

    def state(self, width: int = 1) -> WorkerState:
        """Return what it is now.

        Args:
            width: Calls that one run of the function takes together.
        """
        state = self._states.get(width)
        if state is None:
            state = self._states[width] = self._state(width)
        return state

    def _state(self, width: int) -> WorkerState:
        refused = self._refused_functions
        unavailable = {**self._unavailable, **refused} if refused else self._unavailable
        return WorkerState(
            worker_id=self.worker_id,
            release_id=self.release_id,
            functions=self.functions - refused.keys() if refused else self.functions,
            loading=self.loading,
            unavailable=dict(unavailable),
            hardware=self.hardware,
            gpus=tuple(self._device_state(gpu, gpu.index, width) for gpu in self.gpus),
            processors=(
                self._device_state(self.processor, None, max(width, self._processor_slots)),
            ),
            nearby=self.nearby,
            is_connected=self.is_connected,
            is_draining=self.is_draining,
            heard_at=self.heard_at,
            joined_at=self.joined_at,
            refused_until=self._refused_until,
        )

    def _device_state(self, holdings: Holdings, gpu_index: int | None, slots: int) -> DeviceState:
        limit = self._limit if self._limit_until > self.heard_at else 0
        device = DeviceState.of(
            holdings.index,
            slots=min(slots, limit) if limit else slots,
            ends_at=tuple(
                [job.ends_at for job in self.jobs.values() if job.gpu_index == gpu_index]
            ),
            models=dict(holdings.models),
            free_bytes=holdings.free_bytes,
        )
        if limit and len(self.jobs) >= limit:  # it would refuse what waits for it
            free_at = device.free_at or min(job.ends_at for job in self.jobs.values())
            device = msgspec.structs.replace(device, free_at=free_at, outstanding=_FULL)
        return device

    def has_room(self, width: int, now: float, policy: Policy) -> bool:
        """Tell whether some device of it may take another job now."""
        state = self.state(width)
        if not state.open_for or state.refused_until > now:
            return False
        most = 1 + policy.max_prefetched
        return any(
            not one.free_at
            or (one.free_at <= now + policy.prefetch_s and one.outstanding < one.slots * most)
            for one in (*state.gpus, *state.processors)
        )

    def free_at(self, width: int) -> float:
        """Return when one of its devices is expected to be free; 0 when one is."""
        state = self.state(width)
        return min(one.free_at for one in (*state.gpus, *state.processors))

    @property
    def word(self) -> str:
        """What it is doing, in a word for people."""
        if not self.is_connected:
            return "disconnected"
        if self.is_draining:
            return "draining"
        return "ready" if self.functions - self.loading else "starting"

    @property
    def refused_until(self) -> float:
        return self._refused_until

    @property
    def unavailable(self) -> dict[str, str]:
        """Why functions cannot run there."""
        return {**self._unavailable, **self._refused_functions}
