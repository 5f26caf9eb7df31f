"""What workers say of models: where they are, how large, how long they took to load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from gen_worker.runtime.scheduler.decisions import Tier
    from gen_worker.runtime.scheduler.dispatcher.core import Core
    from gen_worker.runtime.scheduler.fleet.member import Member
    from gen_worker.runtime.wire import (
        LoadModelResult,
        ModelReady,
        UnloadModelResult,
        WorkerEvent,
    )

__all__ = ["Models"]

_TIERS: dict[str, Tier] = {"cold_remote": "cold", "warm_disk": "disk"}
"""By `cache_state`; what was in GPU memory was not loaded."""


class _Model(msgspec.Struct):
    model_id: str
    cache_state: str = ""
    download_ms: int = 0


class _JobMetrics(msgspec.Struct):
    """Of the event `metrics.job`, what is of use here."""

    models: list[_Model] = []
    gpu_load_ms: int | None = None
    pipeline_init_ms: int | None = None


_decode = msgspec.json.Decoder(_JobMetrics).decode


class Models:
    """Keeps the fleet's view of models true between heartbeats. On the loop."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def ready(self, member: Member, signal: ModelReady) -> None:
        """Take note of a model that can be used."""
        if signal.kind == "ready":
            ref = signal.model_id.partition("\t")[0]
            member.arrived(ref, self._core.clock(), self._core.fleet.sizes.get(ref, 0))
            self._core.freed(member)

    def loaded(self, member: Member, result: LoadModelResult) -> None:
        """Take the answer to a load; of a download it says nothing of memory."""
        if result.success and result.size_bytes > 0:
            self._core.fleet.measured(result.model_id, result.size_bytes)
            member.arrived(result.model_id, self._core.clock(), result.size_bytes)
            self._core.freed(member)

    def unloaded(self, member: Member, result: UnloadModelResult) -> None:
        """Take the answer to an unload; one that is refused leaves the model where it was."""
        if result.success:
            member.departed(result.model_id)
            self._core.freed(member)
        elif any(result.model_id in job.refs for job in member.jobs.values()):
            member.arrived(result.model_id, self._core.clock(), 0)

    def measured(self, member: Member, event: WorkerEvent) -> None:
        """Learn how long the models of a request took to load."""
        try:
            metrics = _decode(event.payload_json)
        except msgspec.MsgspecError:
            return
        moved = [model for model in metrics.models if model.cache_state in _TIERS]
        if not moved:
            return
        into_memory_ms = (metrics.gpu_load_ms or 0) + (metrics.pipeline_init_ms or 0)
        job = member.jobs.get(event.request_id)
        for model in moved:
            tier = _TIERS[model.cache_state]
            if tier == "disk" and job is not None and job.tier == "ram":
                tier = "ram"
            seconds = (model.download_ms + into_memory_ms / len(moved)) / 1000
            size_bytes = self._core.fleet.sizes.get(model.model_id, 0)
            self._core.learning.loaded(model.model_id, tier, seconds, size_bytes)
