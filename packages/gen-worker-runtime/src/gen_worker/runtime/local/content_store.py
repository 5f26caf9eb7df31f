"""Where the content store of this machine keeps blobs and snapshots."""

from __future__ import annotations

import os
import re
from typing import Any

from gen_worker.errors import ArtifactTransferError, ValidationError

__all__ = ["BlobNotFoundError", "ContentStore", "new_blake3"]

_DIGEST = r"(blake3|sha256):([0-9a-f]{64})"  # compiled at its first use


class BlobNotFoundError(ArtifactTransferError, FileNotFoundError):
    """The content store has no blob of this digest."""


class ContentStore:
    """A directory of blobs and snapshots that are named by their digests; read only here."""

    def __init__(self, root: str | None = None) -> None:
        """Read below `root`; by default where the settings say.

        Args:
            root: Default `TENSORHUB_CAS_DIR`, else `cas` below `TENSORHUB_CACHE_DIR`.
        """
        self._root = root

    @property
    def root(self) -> str:
        if self._root is None:
            from gen_worker.settings import load_settings

            self._root = load_settings().cas_dir
        return self._root

    def snapshot(self, digest: str) -> str | None:
        """Return the directory of a snapshot, `<algorithm>:<hex>`; None when it is not here."""
        for name in (_parts(digest)[1], digest):
            path = os.path.join(self.root, "snapshots", name)
            if os.path.isdir(path):
                return path
        return None

    def blob(self, digest: str) -> str:
        """Return the file of a blob, `<algorithm>:<hex>`, its content verified.

        A blake3 digest is verified where the blake3 package is installed.

        Raises:
            ValidationError: This is no digest.
            BlobNotFoundError: It is not here.
            ArtifactTransferError: Its content is damaged.
        """
        algorithm, name = _parts(digest)
        blobs = os.path.join(self.root, "blobs")
        places = (
            os.path.join(blobs, algorithm, name[:2], name[2:4], name),
            os.path.join(blobs, name),
        )
        path = next(filter(os.path.isfile, places), None)
        if path is None:
            raise BlobNotFoundError(
                f"blob {digest} is not in the content store {self.root!r}", phase="lookup"
            )
        if _digest_of(path, algorithm) not in (name, None):
            raise ArtifactTransferError(
                f"blob {digest} is damaged: delete it and fetch it again", phase="verify"
            )
        return path


def _parts(digest: str) -> tuple[str, str]:
    """Take a digest apart; what it becomes part of is a path, so nothing else may pass."""
    match = re.fullmatch(_DIGEST, digest)
    if match is None:
        raise ValidationError(f"{digest!r} is no digest such as 'blake3:<64 hex digits>'")
    return match[1], match[2]


def new_blake3() -> Any:
    """Return a new BLAKE3 hash; None where the blake3 package is not installed."""
    try:
        from blake3 import blake3  # type: ignore[import-not-found,unused-ignore]  # optional here
    except ImportError:
        return None
    return blake3()


def _digest_of(path: str, algorithm: str) -> str | None:
    """Return the digest of a file in hex; None where it cannot be computed."""
    if algorithm == "sha256":
        from hashlib import file_digest

        with open(path, "rb") as file:
            return file_digest(file, "sha256").hexdigest()
    blake3 = new_blake3()
    return None if blake3 is None else str(blake3.update_mmap(path).hexdigest())
