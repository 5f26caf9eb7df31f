"""Releases: what was published of endpoints, kept as it was, and the tags that point to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.runtime.scheduler.releases.errors import (
        DamagedReleaseError,
        NoOtherReleaseError,
        ProjectChangedError,
        RefusedReleaseError,
        ReleaseInUseError,
        ReleaseWriteError,
        UnknownReleaseError,
    )
    from gen_worker.runtime.scheduler.releases.releases import Releases
    from gen_worker.runtime.scheduler.releases.store import ReleaseStore
    from gen_worker.runtime.scheduler.releases.tags import Tags
    from gen_worker.runtime.scheduler.releases.values import (
        DEFAULT_TAG,
        Move,
        Published,
        ReleaseLimits,
        ReleaseRecord,
        ResolvedFunction,
        StoredRelease,
        TagAction,
        TagChange,
        TagTarget,
    )

__all__ = [
    "DEFAULT_TAG",
    "DamagedReleaseError",
    "Move",
    "NoOtherReleaseError",
    "ProjectChangedError",
    "Published",
    "RefusedReleaseError",
    "ReleaseInUseError",
    "ReleaseLimits",
    "ReleaseRecord",
    "ReleaseStore",
    "ReleaseWriteError",
    "Releases",
    "ResolvedFunction",
    "StoredRelease",
    "TagAction",
    "TagChange",
    "TagTarget",
    "Tags",
    "UnknownReleaseError",
]

_MODULES = {
    "errors": (
        "DamagedReleaseError",
        "NoOtherReleaseError",
        "ProjectChangedError",
        "RefusedReleaseError",
        "ReleaseInUseError",
        "ReleaseWriteError",
        "UnknownReleaseError",
    ),
    "releases": ("Releases",),
    "store": ("ReleaseStore",),
    "tags": ("Tags",),
    "values": (
        "DEFAULT_TAG",
        "Move",
        "Published",
        "ReleaseLimits",
        "ReleaseRecord",
        "ResolvedFunction",
        "StoredRelease",
        "TagAction",
        "TagChange",
        "TagTarget",
    ),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
