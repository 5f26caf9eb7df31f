"""What refs meant when their provider last answered, kept beside the content store.

With it a machine that was cut off goes on with what it has, and an offline one knows its tags.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from gen_worker.models.sources.replacing import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.models.store import ContentStore

__all__ = ["KnownFile", "Resolutions", "Resolved"]


class KnownFile(msgspec.Struct, frozen=True, array_like=True):
    """One file as it was when all of them were verified."""

    path: str
    size_bytes: int


class Resolved(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one key meant."""

    key: str
    digest: str
    attributes: Mapping[str, str] = {}
    root: str = ""
    """Where the files are, when that is not in the content store."""
    files: tuple[KnownFile, ...] = ()
    """Every file of the model; all of them being there makes it complete."""

    def is_complete_in(self, root: str) -> bool:
        """Tell whether all files are in `root`, and as long as they were."""
        return self.root == root and bool(self.files) and all(map(self._is_here, self.files))

    def _is_here(self, file: KnownFile) -> bool:
        try:
            found = os.stat(os.path.join(self.root, *file.path.split("/")))
        except OSError:
            return False
        return found.st_size == file.size_bytes


class Resolutions:
    """A directory of small files, each written whole or not at all. Thread- and process-safe."""

    def __init__(self, store: ContentStore) -> None:
        self._directory = os.path.join(store.root, "state", "resolved")

    def get(self, key: str) -> Resolved | None:
        """Return what `key` meant; None when it was never asked, or nothing readable was kept."""
        try:
            with open(self._path(key), "rb") as file:
                found = msgspec.json.decode(file.read(), type=Resolved)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return found if found.key == key else None

    def put(self, resolved: Resolved) -> None:
        """Keep it, if the directory can be written: knowing it later is a convenience."""
        if self.get(resolved.key) == resolved:
            return
        with (
            suppress(OSError),
            replacing(self._path(resolved.key)) as draft,
            open(draft, "xb") as file,
        ):
            file.write(msgspec.json.encode(resolved))
            file.flush()
            os.fsync(file.fileno())

    def all(self) -> Iterator[Resolved]:
        """Yield everything that is kept, in no order."""
        try:
            names = os.listdir(self._directory)
        except OSError:
            return
        for name in names:
            try:
                with open(os.path.join(self._directory, name), "rb") as file:
                    yield msgspec.json.decode(file.read(), type=Resolved)
            except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
                continue

    def forget(self, digest: str) -> None:
        """Keep no longer what keys meant that meant this."""
        for resolved in list(self.all()):
            if resolved.digest == digest:
                _discard(self._path(resolved.key))

    def _path(self, key: str) -> str:
        from blake3 import blake3

        return os.path.join(self._directory, f"{blake3(key.encode()).hexdigest()}.json")


def _discard(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        return
