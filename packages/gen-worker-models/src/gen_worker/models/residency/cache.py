"""`ModelCache`: what authors and older code know of the residency, in GiB and model ids."""

from __future__ import annotations

import logging
import os
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.models.residency.budgets import Budgets
from gen_worker.models.residency.gpu_memory import index_of
from gen_worker.models.residency.residency import Residency
from gen_worker.models.residency.values import GIB, RAM

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gen_worker.models.residency.records import Record

__all__ = ["ModelCache", "ModelCacheStats", "ModelLocation"]

_log = logging.getLogger("gen_worker.models")


class ModelLocation(StrEnum):
    """Where a model is."""

    VRAM = "vram"
    CPU = "cpu"
    DISK = "disk"
    DOWNLOADING = "downloading"


class ModelCacheStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a cache holds; sizes in GiB."""

    vram_models: list[str]
    disk_models: list[str]
    """Those in RAM included."""
    downloading_models: list[str]
    vram_used_gb: float
    vram_total_gb: float
    vram_available_gb: float
    total_models: int
    vram_model_count: int
    disk_model_count: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data, sizes rounded to two decimals."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return {
            key: round(value, 2) if key.endswith("_gb") else value for key, value in plain.items()
        }


class ModelCache:
    """Models by id, over the same book as the worker's own residency."""

    def __init__(
        self,
        max_vram_gb: float | None = None,
        vram_safety_margin_gb: float | None = None,
        model_cache_dir: str | os.PathLike[str] | None = None,
        *,
        residency: Residency | None = None,
    ) -> None:
        """Make an empty cache, or look at an existing residency.

        Args:
            max_vram_gb: GiB of one GPU that models may take; None: `WORKER_MAX_VRAM_GB`, else all
                but the margin.
            vram_safety_margin_gb: GiB kept free; None: `WORKER_VRAM_SAFETY_MARGIN_GB`.
            model_cache_dir: Directory of model files, created if it is missing; None: the content
                store's.
            residency: What to look at; the budget is then its own.
        """
        from gen_worker.models.settings import load_model_settings
        from gen_worker.settings import load_settings

        self._settings = load_model_settings(
            max_vram_gb=max_vram_gb, vram_margin_gb=vram_safety_margin_gb
        )
        self.residency = residency or Residency(Budgets.of(self._settings))
        self.model_cache_dir = os.fspath(model_cache_dir or load_settings().cas_dir)
        try:
            os.makedirs(self.model_cache_dir, exist_ok=True)
        except OSError as error:
            _log.warning("the model cache directory cannot be made: %s", error)

    # VRAM.

    def get_pipeline(self, model_id: str) -> Any:
        """Return a model's object in VRAM, moved up if it waits in RAM; None when it is in neither.

        The model counts as used now. On a machine without a GPU, RAM is where it is used.
        """
        found = self.residency.find(model_id)
        if found is None or found.tier not in ("vram", "ram"):
            return None
        if found.tier == "vram" or self.residency.limit_bytes("cuda:0") is None:
            return self.residency.value(model_id)

        def vanished() -> Any:
            raise LookupError(model_id)

        try:
            with self.residency.use(model_id, "cuda:0", vanished) as pipeline:
                return pipeline
        except LookupError:  # dropped by another thread meanwhile
            return None

    def is_in_vram(self, model_id: str) -> bool:
        return self.residency.tier(model_id) == "vram"

    def mark_loaded_to_vram(
        self, model_id: str, pipeline: Any, size_gb: float, *, pinned: bool = False
    ) -> None:
        """Record an object in VRAM; least recently used models leave first where it needs room.

        Args:
            model_id: Which model.
            pipeline: Its object.
            size_gb: Its size in GiB; 0 measures it.
            pinned: Whether it is never evicted.
        """
        self.residency.add(
            model_id,
            pipeline,
            _place_of(pipeline),
            size_bytes=int(size_gb * GIB) if size_gb > 0 else None,
            is_pinned=pinned,
        )

    def unload_from_vram(self, model_id: str) -> bool:
        """Give a model's object in VRAM up; False when it is not there or in use."""
        found = self.residency.find(model_id)
        if found is None or found.tier != "vram" or found.leases:
            return False
        return self.residency.unload(model_id)

    def evict_lru_vram_until_count(self, count: int) -> int:
        """Evict least recently used models until `count` are in VRAM; return how many have left."""
        evicted = 0
        for place in self.residency.gpus():
            evicted += self.residency.trim(place, count)
        for record in self._records():
            if record.tier == "cold" and record.progress is None:
                self.residency.forget(record.model_id)
        return evicted

    def can_fit_in_vram(self, size_gb: float) -> bool:
        """Tell whether a model of this size fits without another one leaving."""
        return size_gb <= self.vram_free_gb

    def pin(self, model_id: str, pinned: bool = True) -> None:
        """Never evict this model, or do so again."""
        self.residency.pin(model_id, pinned)

    def is_pinned(self, model_id: str) -> bool:
        found = self.residency.find(model_id)
        return found is not None and found.is_pinned

    def acquire_ref(self, model_id: str) -> int:
        """Keep a model where it is; return how many users it has now."""
        self.residency.hold(model_id)
        return self.refcount(model_id)

    def release_ref(self, model_id: str) -> int:
        """Give a reference back; return how many users are left."""
        if self.has_model(model_id):
            self.residency.hold(model_id, -1)
        return self.refcount(model_id)

    def refcount(self, model_id: str) -> int:
        found = self.residency.find(model_id)
        return found.leases if found else 0

    # Disk and downloads.

    def register_model(
        self, model_id: str, path: str | os.PathLike[str] | None = None, size_gb: float = 0.0
    ) -> None:
        """Record that a model may be asked for."""
        self.residency.know(
            model_id, path=os.fspath(path) if path else "", size_bytes=int(size_gb * GIB)
        )

    def mark_cached_to_disk(
        self, model_id: str, path: str | os.PathLike[str], size_gb: float = 0.0
    ) -> None:
        """Record a model's files and give its object up, unless a request uses it."""
        self.register_model(model_id, path, size_gb)
        found = self.residency.find(model_id)
        if found is not None and not found.leases:
            self.residency.unload(model_id)
            self.register_model(model_id, path, size_gb)

    def mark_downloading(self, model_id: str, progress: float = 0.0) -> None:
        """Record a download under way; a model that is loaded meanwhile stays so."""
        self.residency.downloading(model_id, progress)

    def update_download_progress(self, model_id: str, progress: float) -> None:
        """Record how far a download is, 0 to 1; unknown models are ignored."""
        if self.has_model(model_id):
            self.residency.downloading(model_id, progress)

    def get_download_progress(self, model_id: str) -> float | None:
        """Return how far a download is, 0 to 1; None when there is none."""
        found = self.residency.find(model_id)
        return found.progress if found else None

    def unload_model(self, model_id: str) -> bool:
        """Forget a model and its object; False when it is unknown or a request uses it."""
        found = self.residency.find(model_id)
        if found is None or found.leases:
            return False
        return self.residency.forget(model_id)

    def get_max_concurrent_downloads(self) -> int:
        return self._settings.max_downloads

    # Reading.

    def has_model(self, model_id: str) -> bool:
        return self.residency.find(model_id) is not None

    def is_on_disk(self, model_id: str) -> bool:
        return model_id in self.get_disk_models()

    def get_vram_models(self) -> list[str]:
        return list(self.residency.inventory().vram_models)

    def get_cpu_models(self) -> list[str]:
        return list(self.residency.inventory().ram_models)

    def get_disk_models(self) -> list[str]:
        """Return the models on disk and not in VRAM; those in RAM included."""
        return list(self.residency.inventory().disk_models)

    def get_downloading_models(self) -> list[str]:
        return list(self.residency.inventory().downloading_models)

    def get_all_models(self) -> list[str]:
        return [record.model_id for record in self._records()]

    def get_available_models(self) -> list[str]:
        """Return the models that need no download."""
        inventory = self.residency.inventory()
        return [*inventory.hot, *inventory.warm]

    def are_models_available(self, model_ids: Iterable[str]) -> bool:
        return set(model_ids) <= set(self.get_available_models())

    def residency_tier(self, model_id: str) -> str:
        """Return `VRAM`, `RAM`, `DISK`, `DOWNLOADING` or `ABSENT`."""
        found = self.residency.find(model_id)
        return "ABSENT" if found is None else _tier_name(found)

    def get_residency_map(self) -> dict[str, str]:
        return {record.model_id: _tier_name(record) for record in self._records()}

    @property
    def max_vram_gb(self) -> float:
        """The budget of one GPU; 0 when its size is unknown and no budget is set."""
        return (self.residency.limits.vram_bytes("cuda:0") or 0) / GIB

    @property
    def vram_used_gb(self) -> float:
        return sum(self.residency.used_bytes(place) for place in self.residency.gpus()) / GIB

    @property
    def vram_free_gb(self) -> float:
        places = max(1, len(self.residency.gpus()))
        return max(0.0, self.max_vram_gb * places - self.vram_used_gb)

    def get_stats(self) -> ModelCacheStats:
        inventory = self.residency.inventory()
        places = max(1, len(self.residency.gpus()))
        return ModelCacheStats(
            vram_models=list(inventory.vram_models),
            disk_models=list(inventory.disk_models),
            downloading_models=list(inventory.downloading_models),
            vram_used_gb=self.vram_used_gb,
            vram_total_gb=self.max_vram_gb * places,
            vram_available_gb=self.vram_free_gb,
            total_models=len(inventory.sizes_bytes),
            vram_model_count=len(inventory.vram_models),
            disk_model_count=len(inventory.disk_models),
        )

    def _records(self) -> list[Record]:
        return self.residency.records()


def _place_of(pipeline: Any) -> str:
    """Return the GPU an object says it is on; the first one if it names none."""
    index = index_of(getattr(pipeline, "device", RAM))
    return f"cuda:{index or 0}"


def _tier_name(record: Record) -> str:
    tier = record.tier
    if tier in ("vram", "ram"):
        return tier.upper()
    if record.progress is not None:
        return "DOWNLOADING"
    return "DISK" if tier == "disk" else "ABSENT"
