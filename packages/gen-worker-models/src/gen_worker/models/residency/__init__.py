"""Where models are kept: GPU, RAM, disk; who uses them; and what has to leave for another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.models.residency.budgets import Budgets, Limits
    from gen_worker.models.residency.cache import ModelCache, ModelCacheStats, ModelLocation
    from gen_worker.models.residency.gpu_memory import Gpus
    from gen_worker.models.residency.movers import Movers, TorchMovers
    from gen_worker.models.residency.planner import plan
    from gen_worker.models.residency.records import (
        Inventory,
        Lease,
        ModelInUseError,
        TierChange,
    )
    from gen_worker.models.residency.residency import Residency
    from gen_worker.models.residency.values import (
        Copy,
        Facts,
        Fit,
        Free,
        Move,
        Part,
        Plan,
        Room,
        Trim,
    )

__all__ = [
    "Budgets",
    "Copy",
    "Facts",
    "Fit",
    "Free",
    "Gpus",
    "Inventory",
    "Lease",
    "Limits",
    "ModelCache",
    "ModelCacheStats",
    "ModelInUseError",
    "ModelLocation",
    "Move",
    "Movers",
    "Part",
    "Plan",
    "Residency",
    "Room",
    "TierChange",
    "TorchMovers",
    "Trim",
    "plan",
]

_MODULES = {
    "budgets": ("Budgets", "Limits"),
    "cache": ("ModelCache", "ModelCacheStats", "ModelLocation"),
    "gpu_memory": ("Gpus",),
    "movers": ("Movers", "TorchMovers"),
    "planner": ("plan",),
    "records": ("Inventory", "Lease", "ModelInUseError", "TierChange"),
    "residency": ("Residency",),
    "values": (
        "Copy",
        "Facts",
        "Fit",
        "Free",
        "Move",
        "Part",
        "Plan",
        "Room",
        "Trim",
    ),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
