"""Where everything of a content store lies below its root.

`blobs` and `snapshots` are the layout that other workers share; `state` is this SDK's own.
"""

from __future__ import annotations

import os
import re

from gen_worker.errors import ValidationError

__all__ = ["Places", "hex_of", "is_hex"]

_DIGEST = re.compile(r"(?:blake3:|sha256:)?([0-9a-f]{64})")


def hex_of(digest: str) -> str:
    """Return the 64 hex digits of a digest; what it becomes part of is a path.

    Raises:
        ValidationError: It is something else.
    """
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise ValidationError(f"{digest!r:.120} is no digest such as 'blake3:<64 hex digits>'")
    return match[1]


def is_hex(name: str) -> bool:
    """Return whether a file name is a bare digest."""
    return len(name) == 64 and _DIGEST.fullmatch(name) is not None


class Places:
    """Paths only; every argument is 64 hex digits that `hex_of` has seen."""

    __slots__ = ("blobs", "leases", "pins", "records", "root", "snapshots", "work")

    def __init__(self, root: str | os.PathLike[str]) -> None:
        if not os.fspath(root):
            raise ValidationError("a content store needs a directory; an empty path names none")
        self.root = os.path.abspath(root)
        self.blobs = os.path.join(self.root, "blobs", "blake3")
        self.snapshots = os.path.join(self.root, "snapshots")
        state = os.path.join(self.root, "state")
        self.leases = os.path.join(state, "leases")
        self.pins = os.path.join(state, "pins")
        self.records = os.path.join(state, "records")
        self.work = os.path.join(state, "work")

    def blob(self, digest: str) -> str:
        return f"{self.blobs}/{digest[:2]}/{digest[2:4]}/{digest}"

    def snapshot(self, digest: str) -> str:
        return f"{self.snapshots}/{digest}"

    def record(self, digest: str) -> str:
        """What the snapshot consists of; touched at each use."""
        return f"{self.records}/{digest}"

    def damaged(self, digest: str) -> str:
        """Exists while the snapshot must be rebuilt."""
        return f"{self.records}/{digest}.damaged"

    def pin(self, digest: str) -> str:
        return f"{self.pins}/{digest}"

    def leases_of(self, digest: str) -> str:
        return f"{self.leases}/{digest}"
