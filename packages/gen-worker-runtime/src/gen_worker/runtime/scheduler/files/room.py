"""The files of clients: what they upload, and what their requests have made."""

from __future__ import annotations

import mimetypes
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.http.backend import StoredFile
from gen_worker.runtime.http.upload_refs import upload_ref
from gen_worker.runtime.scheduler.files.owners import owner_in_store

if TYPE_CHECKING:
    from gen_worker.models.hub import LocalHub
    from gen_worker.models.hub.local.media import Media

__all__ = ["SchedulerFiles"]

_PLAIN = "application/octet-stream"


class SchedulerFiles:
    """A `FileRoom` over the store that workers use, too. Blocking, thread-safe."""

    def __init__(self, store: LocalHub) -> None:
        self._media = store.media

    def find(self, ref: str, owner: str | None) -> StoredFile:
        row = self._media.find(ref, "" if owner is None else owner_in_store(owner))
        if row is None or row["ref"] != ref:
            raise Refusal(404, "file_not_found", "there is no such file")
        mime_type = row["mime_type"]
        return StoredFile(
            self._media.path(row),
            mime_type="" if mime_type == _PLAIN else mime_type,
            etag=row["blake3"],
        )

    def new_upload(self, name: str, owner: str | None) -> _NewUpload:
        return _NewUpload(self._media, upload_ref(name), owner_in_store(owner))


class _NewUpload:
    """Written under a name of its own, and taken into the store once it is whole."""

    def __init__(self, media: Media, ref: str, owner: str) -> None:
        self.ref = ref
        self.path = media.new_path()
        self._media = media
        self._owner = owner

    def keep(self) -> None:
        mime_type = mimetypes.guess_type(self.ref)[0] or _PLAIN
        self._media.keep(self.path, owner=self._owner, ref=self.ref, mime_type=mime_type)

    def discard(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.path)
