"""How a download fails for good, as data."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from gen_worker.errors import ArtifactTransferError, ResourceError, WorkerError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "DigestMismatchError",
    "DiskError",
    "NoSpaceError",
    "SizeMismatchError",
    "StalledError",
    "disk_errors",
]


class DigestMismatchError(ArtifactTransferError, ValueError):
    """The bytes arrived, again and again, but are not the ones asked for."""

    def __init__(self, destination: str, *, expected: str, actual: str) -> None:
        super().__init__(
            f"the download of {destination!r} has the digest {actual!r}, expected {expected!r}: "
            "the source holds another file, ask for the ref again",
            phase="verify",
        )
        self.expected = expected
        self.actual = actual


class SizeMismatchError(ArtifactTransferError, ValueError):
    """The server's file is longer or shorter than the one asked for."""

    def __init__(self, destination: str, *, expected_bytes: int, actual_bytes: int) -> None:
        super().__init__(
            f"the source of {destination!r} has {actual_bytes} bytes, expected {expected_bytes}: "
            "it holds another file, ask for the ref again",
            phase="verify",
        )
        self.expected_bytes = expected_bytes
        self.actual_bytes = actual_bytes


class StalledError(ArtifactTransferError):
    """Bytes came too slowly for too long."""

    def __init__(self, place: str, *, window_s: float) -> None:
        super().__init__(
            f"{place} sent next to nothing for {window_s:g} s", phase="stall", retryable=True
        )


class NoSpaceError(ResourceError):
    """The disk is full."""

    def __init__(self, destination: str, *, size_bytes: int) -> None:
        super().__init__(
            f"no space left for {destination!r} ({size_bytes} bytes): free some, or let "
            "the cache have less of the disk"
        )
        self.size_bytes = size_bytes


class DiskError(ArtifactTransferError):
    """The file system refuses to hold the file."""

    def __init__(self, destination: str, error: OSError) -> None:
        super().__init__(
            f"{destination!r} cannot be written, {error.strerror or 'for an unknown reason'}: "
            "choose a directory this worker may write to",
            phase="disk",
            cause_type=type(error).__name__,
        )


@contextlib.contextmanager
def disk_errors(destination: str, size_bytes: int) -> Iterator[None]:
    """Translate what the file system raises inside.

    Raises:
        NoSpaceError: The disk, or a quota, is full.
        DiskError: Anything else that the system refuses.
    """
    try:
        yield
    except WorkerError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError(destination, size_bytes=size_bytes) from error
        raise DiskError(destination, error) from error
