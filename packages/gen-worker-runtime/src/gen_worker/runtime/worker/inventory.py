"""What the worker has at the moment, as its registrations and heartbeats say it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gen_worker.runtime.wire import Registration, Resources
from gen_worker.runtime.worker.availability import installed_libraries
from gen_worker.runtime.worker.gpus import free_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gen_worker.runtime.worker.availability import Availability
    from gen_worker.runtime.worker.gpus import GpuFacts
    from gen_worker.runtime.worker.identity import Identity
    from gen_worker.runtime.worker.jobs import Jobs
    from gen_worker.runtime.worker.outbox import Role

__all__ = ["Inventory", "ModelPlaces"]


class ModelPlaces(NamedTuple):
    """Refs by the fastest place each is in."""

    vram: tuple[str, ...] = ()
    ram: tuple[str, ...] = ()
    disk: tuple[str, ...] = ()
    """Those in RAM are here, too."""


class Inventory:
    """Makes registrations. For the loop's thread."""

    def __init__(
        self,
        identity: Callable[[], Identity],
        availability: Availability,
        jobs: Jobs,
        *,
        gpus: Sequence[GpuFacts],
        models: Callable[[], ModelPlaces],
        splits: bool,
    ) -> None:
        """Gather what is told.

        Args:
            identity: Says who the worker is.
            availability: Says which functions run.
            jobs: Those that are under way.
            gpus: Of this machine.
            models: Says which models are where.
            splits: Whether results and events may have streams of their own.
        """
        self._identity = identity
        self._availability = availability
        self._jobs = jobs
        self._gpus = tuple(gpus)
        self._models = models
        self._splits = splits
        self._libraries: tuple[str, ...] | None = None

    def registration(
        self,
        *,
        role: Role,
        is_heartbeat: bool,
        stream_started_unix_ms: int,
        unsent: Sequence[str],
    ) -> Registration:
        """Return the first message of a stream, or a heartbeat.

        Args:
            role: Of the stream.
            is_heartbeat: False registers anew.
            stream_started_unix_ms: When the connection opened.
            unsent: Requests whose result the other end may not have.
        """
        in_flight = () if is_heartbeat else tuple(dict.fromkeys((*self._jobs.active, *unsent)))
        return Registration(
            resources=self._resources() if role == "control" else self._name(),
            is_heartbeat=is_heartbeat,
            in_flight_request_ids=in_flight,
            stream_started_unix_ms=stream_started_unix_ms,
            supports_split_streams=self._splits,
            stream_role=role,
        )

    def _name(self) -> Resources:
        worker_id, release_id, pod_id = self._identity()
        return Resources(worker_id=worker_id, release_id=release_id, runpod_pod_id=pod_id)

    def _resources(self) -> Resources:
        worker_id, release_id, pod_id = self._identity()
        if self._libraries is None:
            self._libraries = installed_libraries()
        models, first = self._models(), self._gpus[0] if self._gpus else None
        return Resources(
            worker_id=worker_id,
            release_id=release_id,
            runpod_pod_id=pod_id,
            gpu_count=len(self._gpus),
            gpu_memory_bytes=first.memory_bytes if first else 0,
            gpu_memory_free_bytes=free_bytes(first) if first else 0,
            gpu_name=first.name if first else "",
            gpu_sm=first.sm if first else "",
            gpu_is_busy=self._jobs.uses_gpu,
            available_functions=self._availability.available,
            loading_functions=self._availability.loading,
            vram_models=models.vram,
            ram_models=models.ram,
            disk_models=models.disk,
            installed_libs=self._libraries,
        )
