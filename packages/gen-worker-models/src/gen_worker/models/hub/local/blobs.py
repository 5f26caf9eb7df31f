"""The hub's blobs: files named by the BLAKE3 of their bytes, in a content store of its own."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Blobs", "hash_file"]


def hash_file(path: str) -> str:
    """Return the BLAKE3 of a file in hex, computed on all cores."""
    from blake3 import blake3

    return str(blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest())


class Blobs:
    """Files below `<root>/blobs/blake3/aa/bb/<hex>`, each written under another name first."""

    def __init__(self, root: str) -> None:
        self._root = os.path.join(root, "blobs", "blake3")
        os.makedirs(self._root, exist_ok=True)

    def path(self, digest: str) -> str:
        """Return where the blob of 64 hex digits is, or would be."""
        return os.path.join(self._root, digest[:2], digest[2:4], digest)

    def size(self, digest: str) -> int | None:
        """Return its size in bytes; None when it is not here."""
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            return None

    def adopt(self, source: str, digest: str) -> None:
        """Make a file of our own, whose digest was verified, the blob. Durable on return.

        The file has to be on the same file system; it is moved.
        """
        target = self.path(digest)
        with open(source, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(source, 0o444)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.replace(source, target)
        _sync_directory(os.path.dirname(target))

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
        for folder, _, names in os.walk(self._root):
            for name in names:
                try:
                    yield name, os.stat(os.path.join(folder, name))
                except FileNotFoundError:  # removed meanwhile
                    continue

    def new_temporary(self) -> str:
        """Return a name nobody else has, on the blobs' file system."""
        return os.path.join(self._root, f".{secrets.token_hex(16)}.tmp")


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
