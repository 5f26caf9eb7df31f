"""All workers, by id and by the release they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.runtime.scheduler.fleet.member import Member
from gen_worker.runtime.scheduler.fleet.pool import Pool
from gen_worker.runtime.scheduler.fleet.views import DeviceView, ModelView, WorkerView

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gen_worker.runtime.scheduler.costs import GpuClass
    from gen_worker.runtime.scheduler.fleet.holdings import Holdings
    from gen_worker.runtime.scheduler.gateway import Session
    from gen_worker.runtime.scheduler.snapshots import WorkerState
    from gen_worker.runtime.wire import Registration, Resources

__all__ = ["Fleet"]

_MAX_SIZES = 10_000


class Fleet:
    """The workers of one scheduler. On its loop."""

    def __init__(self, *, processor_slots: int = 8) -> None:
        """Begin with none.

        Args:
            processor_slots: Calls without a GPU that a worker runs at the same time.
        """
        self._processor_slots = processor_slots
        self._members: dict[str, Member] = {}
        self._pools: dict[str, Pool] = {}
        """By release, those that are there or may be back."""
        self.sizes: dict[str, int] = {}
        """By ref, bytes of models in memory as workers measured them."""

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members.values()))

    def __repr__(self) -> str:
        return f"<Fleet of {len(self._members)}>"

    def find(self, worker_id: str) -> Member | None:
        return self._members.get(worker_id)

    def expect(self, worker_id: str, now: float) -> Member:
        """Return a worker, one that has yet to come if it is not known."""
        member = self._members.get(worker_id)
        if member is None:
            member = Member(worker_id, now, processor_slots=self._processor_slots)
            self._members[worker_id] = member
        return member

    def register(self, session: Session, registration: Registration, now: float) -> Member:
        """Take in a worker that has connected, or says anew who it is."""
        member = self.expect(session.worker_id, now)
        before = member.release_id
        member.registered(session, now)
        if before != member.release_id:
            self._leave_pool(member, before)
        pool = self._pools.get(member.release_id)
        if pool is None:
            pool = self._pools[member.release_id] = Pool()
        pool.add(member)
        member.reported(registration.resources, self.sizes, now)
        return member

    def report(self, member: Member, resources: Resources, now: float) -> bool:
        """Take a worker's word on what it has; return whether more is possible than before."""
        return member.reported(resources, self.sizes, now)

    def measured(self, ref: str, size_bytes: int) -> None:
        """Note how large a model is in memory."""
        if size_bytes > 0:
            self.sizes.pop(ref, None)
            self.sizes[ref] = size_bytes
            if len(self.sizes) > _MAX_SIZES:
                del self.sizes[next(iter(self.sizes))]

    def forget(self, member: Member) -> None:
        """Know a worker no more."""
        if self._members.get(member.worker_id) is member:
            del self._members[member.worker_id]
            self._leave_pool(member, member.release_id)

    def _leave_pool(self, member: Member, release_id: str) -> None:
        pool = self._pools.get(release_id)
        if pool is not None:
            pool.discard(member)
            if not len(pool):
                del self._pools[release_id]

    # -- for placement -----------------------------------------------------------------------------

    def states(self, release_id: str, width: int = 1) -> Sequence[WorkerState]:
        """Return the workers of a release."""
        pool = self._pools.get(release_id)
        return () if pool is None else pool.states(width)

    def classes(self, release_id: str) -> tuple[GpuClass, ...]:
        """Return the kinds of GPU that a release's workers have, once each."""
        pool = self._pools.get(release_id)
        return () if pool is None else pool.classes()

    # -- for people --------------------------------------------------------------------------------

    def workers(self, now: float, silent_s: float) -> tuple[WorkerView, ...]:
        """Return every worker, by id."""
        ordered = sorted(self._members.values(), key=lambda one: one.worker_id)
        return tuple(_view(member, now, silent_s) for member in ordered)

    def models(self) -> tuple[ModelView, ...]:
        """Return every model that some worker has, by ref."""
        found: dict[str, dict[str, str]] = {}
        for member in self._members.values():
            if member.is_connected:
                for ref, place in _places(member).items():
                    found.setdefault(ref, {})[member.worker_id] = place
        return tuple(
            ModelView(ref=ref, size_bytes=self.sizes.get(ref, 0), workers=workers)
            for ref, workers in sorted(found.items())
        )


def _view(member: Member, now: float, silent_s: float) -> WorkerView:
    word = member.word
    if word == "ready" and member.heard_at < now - silent_s:
        word = "silent"
    elif word == "ready" and member.refused_until > now:
        word = "overloaded"
    return WorkerView(
        id=member.worker_id,
        release_id=member.release_id,
        state=word,
        functions=tuple(sorted(member.functions)),
        loading=tuple(sorted(member.loading)),
        unavailable=member.unavailable,
        devices=_devices(member),
        running=tuple(job.request_id for job in member.jobs.values() if not job.is_over),
        models=_places(member),
        heard_at=member.heard_at,
        joined_at=member.joined_at,
        peer=member.session.peer if member.session is not None else "",
    )


def _devices(member: Member) -> tuple[DeviceView, ...]:
    state, hardware = member.state(), member.hardware
    running = [job.gpu_index for job in member.jobs.values()]

    def view(holdings: Holdings, gpu_index: int | None, slots: int) -> DeviceView:
        is_gpu = gpu_index is not None
        return DeviceView(
            kind="gpu" if is_gpu else "cpu",
            index=holdings.index,
            name=hardware.gpu_class if is_gpu else "",
            memory_bytes=holdings.total_bytes,
            free_bytes=holdings.free_bytes,
            slots=slots,
            running=running.count(gpu_index),
            models=tuple(sorted(holdings.models)),
        )

    gpus = [
        view(gpu, gpu.index, one.slots) for gpu, one in zip(member.gpus, state.gpus, strict=True)
    ]
    return (*gpus, view(member.processor, None, state.processors[0].slots))


def _places(member: Member) -> dict[str, str]:
    """Return where a worker's models are, by ref: the fastest place of each."""
    found: dict[str, str] = dict(member.nearby)
    found.update(dict.fromkeys(member.processor.models, "ram"))
    for gpu in member.gpus:
        found.update(dict.fromkeys(gpu.models, "vram"))
    return dict(sorted(found.items()))
