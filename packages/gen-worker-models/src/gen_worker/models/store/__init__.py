"""The content store: what was downloaded, kept once, verified, shared and evicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.models.store.content_store import ContentStore
    from gen_worker.models.store.errors import (
        BlobNotFoundError,
        DamagedBlobError,
        DiskFullError,
        MissingBlobsError,
        ReadOnlyStoreError,
        SnapshotInUseError,
        SnapshotNotFoundError,
    )
    from gen_worker.models.store.inventory import StoredSnapshot
    from gen_worker.models.store.local_copies import LocalModelCache
    from gen_worker.models.store.localizing import Localized, localize
    from gen_worker.models.store.mounts import Volume, read_mountinfo, volume_of
    from gen_worker.models.store.space import Collection, Usage
    from gen_worker.models.store.verification import Damage

__all__ = [
    "BlobNotFoundError",
    "Collection",
    "ContentStore",
    "Damage",
    "DamagedBlobError",
    "DiskFullError",
    "LocalModelCache",
    "Localized",
    "MissingBlobsError",
    "ReadOnlyStoreError",
    "SnapshotInUseError",
    "SnapshotNotFoundError",
    "StoredSnapshot",
    "Usage",
    "Volume",
    "localize",
    "read_mountinfo",
    "volume_of",
]

_MODULES = {
    "content_store": ("ContentStore",),
    "errors": (
        "BlobNotFoundError",
        "DamagedBlobError",
        "DiskFullError",
        "MissingBlobsError",
        "ReadOnlyStoreError",
        "SnapshotInUseError",
        "SnapshotNotFoundError",
    ),
    "inventory": ("StoredSnapshot",),
    "local_copies": ("LocalModelCache",),
    "localizing": ("Localized", "localize"),
    "mounts": ("Volume", "read_mountinfo", "volume_of"),
    "space": ("Collection", "Usage"),
    "verification": ("Damage",),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
