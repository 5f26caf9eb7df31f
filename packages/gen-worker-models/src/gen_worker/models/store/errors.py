"""How the content store fails, as data: what is missing, damaged, in use or full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.errors import ArtifactTransferError, ResourceError

if TYPE_CHECKING:
    from gen_worker.models.snapshot import SnapshotFile

__all__ = [
    "BlobNotFoundError",
    "DamagedBlobError",
    "DiskFullError",
    "MissingBlobsError",
    "ReadOnlyStoreError",
    "SnapshotInUseError",
    "SnapshotNotFoundError",
]


class DiskFullError(ResourceError):
    """The disk, or the part of it that models may take, has no room; nothing was evicted."""

    def __init__(
        self, message: str, *, needed_bytes: int = 0, free_bytes: int = 0, path: str = ""
    ) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes
        self.path = path


class ReadOnlyStoreError(ResourceError):
    """The store's directory cannot be written."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class BlobNotFoundError(ArtifactTransferError, FileNotFoundError):
    """The content store has no blob of this digest."""


class DamagedBlobError(ArtifactTransferError):
    """A blob's bytes do not have its digest; it was removed, so that it is fetched again."""

    def __init__(self, message: str, *, digest: str) -> None:
        super().__init__(message, phase="verify", retryable=True)
        self.digest = digest


class MissingBlobsError(ArtifactTransferError):
    """A snapshot cannot be built yet: fetch `files` first."""

    def __init__(self, message: str, *, files: tuple[SnapshotFile, ...]) -> None:
        super().__init__(message, phase="build", retryable=True)
        self.files = files


class SnapshotNotFoundError(ArtifactTransferError, FileNotFoundError):
    """A snapshot is not here, or no longer."""

    def __init__(self, message: str, *, digest: str) -> None:
        super().__init__(message, phase="lookup", retryable=True)
        self.digest = digest


class SnapshotInUseError(ResourceError):
    """A process uses the snapshot, so it stays."""

    def __init__(self, message: str, *, digest: str) -> None:
        super().__init__(message)
        self.digest = digest
