"""Runs pipelines that do not fit their GPU, slower: the ladder, its decisions and its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.models.low_vram.configure import apply_low_vram_config
    from gen_worker.models.low_vram.facts import (
        estimate_pipeline_size_gb,
        flush_memory,
        get_available_ram_gb,
        get_available_vram_gb,
        get_total_vram_gb,
        select_auto_mode,
    )
    from gen_worker.models.low_vram.hooks import without_hooks
    from gen_worker.models.low_vram.ladder import LADDER, Ladder, Mode
    from gen_worker.models.low_vram.locks import lock_for_pipeline
    from gen_worker.models.low_vram.placement import Placement, escalate, place
    from gen_worker.models.low_vram.retry import with_oom_retry

__all__ = [
    "LADDER",
    "Ladder",
    "Mode",
    "Placement",
    "apply_low_vram_config",
    "escalate",
    "estimate_pipeline_size_gb",
    "flush_memory",
    "get_available_ram_gb",
    "get_available_vram_gb",
    "get_total_vram_gb",
    "lock_for_pipeline",
    "place",
    "select_auto_mode",
    "with_oom_retry",
    "without_hooks",
]

_MODULES = {
    "configure": ("apply_low_vram_config",),
    "facts": (
        "estimate_pipeline_size_gb",
        "flush_memory",
        "get_available_ram_gb",
        "get_available_vram_gb",
        "get_total_vram_gb",
        "select_auto_mode",
    ),
    "hooks": ("without_hooks",),
    "ladder": ("LADDER", "Ladder", "Mode"),
    "locks": ("lock_for_pipeline",),
    "placement": ("Placement", "escalate", "place"),
    "retry": ("with_oom_retry",),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
