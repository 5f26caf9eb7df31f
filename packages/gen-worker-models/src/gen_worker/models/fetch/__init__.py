"""Fetching files from URLs: parallel, resumable across processes, verified while they arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gen_worker.models.fetch.backoff import Backoff, RetryLimits
    from gen_worker.models.fetch.errors import (
        DigestMismatchError,
        DiskError,
        NoSpaceError,
        SizeMismatchError,
        StalledError,
    )
    from gen_worker.models.fetch.fetcher import Fetcher
    from gen_worker.models.fetch.limits import BandwidthLimit, ConnectionLimit
    from gen_worker.models.fetch.progress import DownloadProgress, ProgressThrottle
    from gen_worker.models.fetch.values import (
        CHUNK_BYTES,
        FetchedFile,
        FetchProgress,
        FetchReport,
        FileToFetch,
        Location,
    )

__all__ = [
    "CHUNK_BYTES",
    "Backoff",
    "BandwidthLimit",
    "ConnectionLimit",
    "DigestMismatchError",
    "DiskError",
    "DownloadProgress",
    "FetchProgress",
    "FetchReport",
    "FetchedFile",
    "Fetcher",
    "FileToFetch",
    "Location",
    "NoSpaceError",
    "ProgressThrottle",
    "RetryLimits",
    "SizeMismatchError",
    "StalledError",
]

_MODULES = {
    "backoff": ("Backoff", "RetryLimits"),
    "errors": (
        "DigestMismatchError",
        "DiskError",
        "NoSpaceError",
        "SizeMismatchError",
        "StalledError",
    ),
    "fetcher": ("Fetcher",),
    "limits": ("BandwidthLimit", "ConnectionLimit"),
    "progress": ("DownloadProgress", "ProgressThrottle"),
    "values": (
        "CHUNK_BYTES",
        "FetchProgress",
        "FetchReport",
        "FetchedFile",
        "FileToFetch",
        "Location",
    ),
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
