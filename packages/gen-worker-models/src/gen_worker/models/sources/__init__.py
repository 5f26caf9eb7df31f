"""Where models come from: a choice becomes files on this machine, each verified."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.models.sources.civitai.errors import CivitaiAccessError, CivitaiError
    from gen_worker.models.sources.errors import (
        DownloadFailedError,
        ModelAccessError,
        OfflineMissError,
        UnsupportedProviderError,
    )
    from gen_worker.models.sources.huggingface.options import HuggingFaceOptions
    from gen_worker.models.sources.opening import open_sources
    from gen_worker.models.sources.sources import Sources
    from gen_worker.models.sources.values import FetchPlan, LocalModel, PlannedFile

__all__ = [
    "CivitaiAccessError",
    "CivitaiError",
    "DownloadFailedError",
    "FetchPlan",
    "HuggingFaceOptions",
    "LocalModel",
    "ModelAccessError",
    "OfflineMissError",
    "PlannedFile",
    "Sources",
    "UnsupportedProviderError",
    "open_sources",
]

_MODULES = {
    "civitai.errors": ("CivitaiAccessError", "CivitaiError"),
    "errors": (
        "DownloadFailedError",
        "ModelAccessError",
        "OfflineMissError",
        "UnsupportedProviderError",
    ),
    "huggingface.options": ("HuggingFaceOptions",),
    "opening": ("open_sources",),
    "sources": ("Sources",),
    "values": ("FetchPlan", "LocalModel", "PlannedFile"),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
