"""Where models are kept: GPU, RAM, disk; who uses them; and what has to leave for another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gen_worker.models.low_vram import apply_low_vram_config, with_oom_retry
    from gen_worker.models.residency.budgets import Budgets, Limits
    from gen_worker.models.residency.cache import ModelCache, ModelCacheStats, ModelLocation
    from gen_worker.models.residency.gpu_memory import Gpus, is_out_of_memory
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
    "apply_low_vram_config",
    "is_out_of_memory",
    "plan",
    "with_oom_retry",
]

_PACKAGE = "gen_worker.models.residency"
_MODULES = {
    f"{_PACKAGE}.budgets": ("Budgets", "Limits"),
    f"{_PACKAGE}.cache": ("ModelCache", "ModelCacheStats", "ModelLocation"),
    f"{_PACKAGE}.gpu_memory": ("Gpus", "is_out_of_memory"),
    f"{_PACKAGE}.movers": ("Movers", "TorchMovers"),
    f"{_PACKAGE}.planner": ("plan",),
    f"{_PACKAGE}.records": ("Inventory", "Lease", "ModelInUseError", "TierChange"),
    f"{_PACKAGE}.residency": ("Residency",),
    f"{_PACKAGE}.values": (
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
    "gen_worker.models.low_vram": ("apply_low_vram_config", "with_oom_retry"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(__import__(home, fromlist=(name,)), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
