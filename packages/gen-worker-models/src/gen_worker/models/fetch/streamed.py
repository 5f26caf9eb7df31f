"""A download whose size is unknown: one connection, from the start, again when it breaks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gen_worker.models.fetch.digests import Digest, new_hasher
from gen_worker.models.fetch.disk import write_at
from gen_worker.models.fetch.errors import disk_errors
from gen_worker.models.fetch.partials import Place
from gen_worker.models.net.errors import NetworkError

if TYPE_CHECKING:
    from gen_worker.models.fetch.digests import Hasher
    from gen_worker.models.fetch.values import FileToFetch

__all__ = ["StreamedDownload"]


class StreamedDownload:
    """Bytes appended to a partial, and their digest. Used by one thread."""

    def __init__(self, file: FileToFetch, digest: Digest) -> None:
        self._file = file
        self._digest = digest
        place = Place(file.destination)
        os.makedirs(place.directory, exist_ok=True)
        self.partial = place.create()
        self.size_bytes = 0
        self._hasher: Hasher = new_hasher("", 0)

    @property
    def digest(self) -> Digest:
        return Digest(self._digest.algorithm or "blake3", self._hasher.hexdigest())

    def begin(self, length: int | None) -> None:
        """Start from nothing.

        Args:
            length: What the server announces.

        Raises:
            NetworkError: Git's digest begins with a size, and there is none.
        """
        if self._digest.algorithm == "git-sha1" and length is None:
            raise NetworkError(
                f"the size of {self._file.destination!r} is unknown, and its digest needs it",
                retryable=False,
            )
        os.ftruncate(self.partial.fd, 0)
        self.size_bytes = 0
        self._hasher = new_hasher(self._digest.algorithm, length or 0)

    def write(self, view: memoryview) -> None:
        """Append bytes.

        Raises:
            NoSpaceError: The disk is full.
            DiskError: It refuses.
        """
        with disk_errors(self._file.destination, self.size_bytes + len(view)):
            write_at(self.partial.fd, view, self.size_bytes)
        self._hasher.update(view)
        self.size_bytes += len(view)
