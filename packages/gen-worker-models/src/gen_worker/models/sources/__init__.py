"""Where models come from: a choice becomes files on this machine, each verified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = __import__(f"{__name__}.{home}", fromlist=(name,))
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
