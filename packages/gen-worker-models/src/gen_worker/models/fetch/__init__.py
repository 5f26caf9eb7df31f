"""Fetching files from URLs: parallel, resumable across processes, verified while they arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

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
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
