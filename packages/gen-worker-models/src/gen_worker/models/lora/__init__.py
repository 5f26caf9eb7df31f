"""Adapters over a pipeline for the length of one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.models.lora.adapters import Adapter, adapter_file, read_adapter
    from gen_worker.models.lora.attaching import LoraNotReadyError, attached, load_loras
    from gen_worker.models.lora.fitting import check_fits
    from gen_worker.models.lora.overlays import attach_overlays, overlay_names

__all__ = [
    "Adapter",
    "LoraNotReadyError",
    "adapter_file",
    "attach_overlays",
    "attached",
    "check_fits",
    "load_loras",
    "overlay_names",
    "read_adapter",
]

_MODULES = {
    "adapters": ("Adapter", "adapter_file", "read_adapter"),
    "attaching": ("LoraNotReadyError", "attached", "load_loras"),
    "fitting": ("check_fits",),
    "overlays": ("attach_overlays", "overlay_names"),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
