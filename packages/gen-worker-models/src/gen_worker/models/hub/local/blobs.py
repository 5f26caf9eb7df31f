"""The hub's blobs: a content store of its own, from which only the hub's collection removes."""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING

from gen_worker.models.store import ContentStore
from gen_worker.models.store.durable import publish

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Blobs"]


class Blobs:
    """Files named by the BLAKE3 of their bytes, each written under another name first."""

    def __init__(self, root: str) -> None:
        self._store = ContentStore(root)
        self._incoming = os.path.join(root, "incoming")
        os.makedirs(self._incoming, exist_ok=True)

    def path(self, digest: str) -> str:
        """Return where the blob of 64 hex digits is, or would be."""
        return self._store.blob_path(digest)

    def size(self, digest: str) -> int | None:
        """Return its size in bytes; None when it is not here."""
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            return None

    def adopt(self, source: str, digest: str) -> None:
        """Move a file whose digest was verified to its place. Durable on return."""
        publish(source, self.path(digest))

    def touch(self, digest: str) -> bool:
        """Make the blob as young as new, so that no collection takes it; False if not here."""
        try:
            os.utime(self.path(digest))
        except FileNotFoundError:
            return False
        return True

    def remove(self, digest: str) -> None:
        os.remove(self.path(digest))

    def all(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield every blob with its state."""
        for folder, _, names in os.walk(os.path.join(self._store.root, "blobs")):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    yield name, os.stat(os.path.join(folder, name))

    def new_temporary(self) -> str:
        """Return a name nobody else has, on the blobs' file system."""
        return os.path.join(self._incoming, secrets.token_hex(16))

    def drop_temporaries(self, *, older_than: float) -> None:
        """Remove what a hub that was killed left half written."""
        for entry in os.scandir(self._incoming):
            with contextlib.suppress(FileNotFoundError):
                if entry.stat().st_mtime < older_than:
                    os.remove(entry.path)
