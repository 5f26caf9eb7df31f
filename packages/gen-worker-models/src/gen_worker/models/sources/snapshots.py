"""Getting a snapshot's missing blobs into the content store, and building it there."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gen_worker.errors import ArtifactTransferError, AuthError, ModelResolutionError
from gen_worker.models.fetch.values import FetchProgress, FileToFetch, Location
from gen_worker.models.formats.components import component_names
from gen_worker.models.sources.errors import naming
from gen_worker.models.sources.facts import INDEX
from gen_worker.models.sources.grants import grant_location
from gen_worker.models.sources.safety import refuse_unsafe
from gen_worker.models.store.errors import DamagedBlobError, MissingBlobsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gen_worker.models.hub.client import HubClient
    from gen_worker.models.snapshot import Snapshot, SnapshotFile
    from gen_worker.models.sources.surroundings import Surroundings
    from gen_worker.models.sources.values import Request

__all__ = ["Built", "fetch_snapshot"]

_MAX_INDEX_BYTES = 16_000_000
_ROUNDS = 3
"""A blob may turn out damaged, or be removed by a program that ignores claims; not again and
again."""


class Built(NamedTuple):
    """A snapshot that is here now."""

    path: str
    bytes_downloaded: int
    was_cached: bool


def fetch_snapshot(
    around: Surroundings,
    request: Request,
    snapshot: Snapshot,
    *,
    hub: HubClient | None,
    renew: Callable[[], Snapshot | None] | None,
) -> Built:
    """Fetch what is missing of a snapshot and build it; the caller reserved its room.

    Args:
        around: The store and the fetcher.
        request: Whose token ends it, and whose report is told.
        snapshot: What to have.
        hub: Gives blobs that have no URL, and the hashes of their chunks.
        renew: Returns the same snapshot with new URLs; None when there are none.

    Raises:
        UnsafeFileFormat: The list of its files shows that it must not be loaded.
        ArtifactTransferError: It could not be fetched.
        ResourceError: The disk is full.
        OfflineMissError: Blobs are missing, and nothing may be fetched.
    """
    ref = request.report.model_id
    sizes = {file.path: file.size_bytes for file in snapshot.files}
    refuse_unsafe(sizes, ref, request.choice.provider)
    files = _Files(around, request, snapshot, hub, renew)
    downloaded, was_cached = 0, True
    for left in reversed(range(_ROUNDS)):
        missing = around.store.missing(snapshot)
        if missing:
            was_cached = False
            with naming(ref, request.choice.provider), around.downloads.hold(request.token):
                downloaded += files.fetch(missing)
        try:
            return Built(around.store.build(snapshot, token=request.token), downloaded, was_cached)
        except (MissingBlobsError, DamagedBlobError):
            if not left:
                raise
    raise AssertionError("the last round returns or raises")


class _Files:
    """Fetches blobs of one snapshot to their places."""

    def __init__(
        self,
        around: Surroundings,
        request: Request,
        snapshot: Snapshot,
        hub: HubClient | None,
        renew: Callable[[], Snapshot | None] | None,
    ) -> None:
        self._around = around
        self._request = request
        self._snapshot = snapshot
        self._hub = hub
        self._renew = renew
        self._newest = {file.blake3: file for file in snapshot.files}
        self._renewals = 0
        self._seen: dict[str, int] = {}
        """How many renewals each blob's location has seen."""
        self._renewing = threading.Lock()

    def fetch(self, missing: Sequence[SnapshotFile]) -> int:
        """Fetch blobs; return the bytes that came over the network."""
        report, total = self._request.report, sum(file.size_bytes for file in missing)
        index = [file for file in missing if file.path == INDEX]
        rest = [file for file in missing if file.path != INDEX]
        done = FetchProgress(0, total, 0, len(missing))
        with report.running(total):
            count = self._fetch(index, done) if index else 0
            self._check_components()
            size = sum(file.size_bytes for file in index)
            done = done._replace(bytes_done=size, files_done=len(index))
            return count + (self._fetch(rest, done) if rest else 0)

    def _fetch(self, files: Sequence[SnapshotFile], before: FetchProgress) -> int:
        """Fetch some of the blobs; the progress is that of all."""

        def tell(state: FetchProgress) -> None:
            self._request.report.progress(
                before._replace(
                    bytes_done=before.bytes_done + state.bytes_done,
                    files_done=before.files_done + state.files_done,
                )
            )

        report = self._around.fetcher.fetch(
            [self._wanted(file) for file in files], token=self._request.token, progress=tell
        )
        for file in files:
            # Verified by the fetcher: what is read-only is not hashed again.
            with suppress(FileNotFoundError):
                os.chmod(self._around.store.blob_path(file.blake3), 0o444)
        return report.bytes_fetched

    def _wanted(self, file: SnapshotFile) -> FileToFetch:
        return FileToFetch(
            destination=self._around.store.blob_path(file.blake3),
            size_bytes=file.size_bytes or None,
            digest=f"blake3:{file.blake3}",
            locations=(self._newest_location(file),),
            refresh=lambda status: self._refreshed(file),
            chunk_hashes=lambda: self._chunk_hashes(file),
        )

    def _location(self, file: SnapshotFile) -> Location:
        """Return where a blob is: by grant, by its URL, or by the hub's own route."""
        if file.transfer_grant is not None:
            granted = grant_location(file.transfer_grant, is_optional=bool(file.url))
            if granted is not None:
                return granted
        if file.url:
            return Location(file.url)
        if self._hub is None:
            raise ModelResolutionError(
                f"file {file.path!r} of model {self._request.report.model_id!r} came without a "
                "URL, and no hub is configured to ask for it: set TENSORHUB_URL",
                provider=self._request.choice.provider,
                phase="resolve",
            )
        headers = tuple(self._hub.connection.headers().items())
        return Location(self._hub.blob_url(file.blake3), headers)

    def _newest_location(self, file: SnapshotFile) -> Location:
        self._seen[file.blake3] = self._renewals
        return self._location(self._newest[file.blake3])

    def _refreshed(self, file: SnapshotFile) -> tuple[Location, ...]:
        """Return a new location of a blob whose URL was refused; ask once for all of them."""
        with self._renewing:
            if self._seen[file.blake3] == self._renewals:
                self._ask_again()
            is_new = self._seen[file.blake3] < self._renewals
            return (self._newest_location(file),) if is_new else ()

    def _ask_again(self) -> None:
        self._request.report.event("model.url_refresh")
        renewed = self._renew() if self._renew is not None else None
        if renewed is not None and renewed.digest == self._snapshot.digest:
            known = {file.blake3: file for file in renewed.files}
            self._newest = {name: known.get(name, old) for name, old in self._newest.items()}
            self._renewals += 1

    def _chunk_hashes(self, file: SnapshotFile) -> Sequence[str] | None:
        if self._hub is None:
            return None
        try:
            return self._hub.chunk_hashes(file.blake3)
        except (ArtifactTransferError, AuthError, ValueError):  # then the file is fetched whole
            return None

    def _check_components(self) -> None:
        """Refuse, before the weights move, a component that has none in a safe format."""
        index = next((x for x in self._snapshot.files if x.path == INDEX), None)
        if index is None or index.size_bytes > _MAX_INDEX_BYTES:
            return
        try:
            with open(self._around.store.blob_path(index.blake3), "rb") as file:
                folders = component_names(msgspec.json.decode(file.read()))
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return  # loading tells what is wrong with it
        sizes = {file.path: file.size_bytes for file in self._snapshot.files}
        refuse_unsafe(sizes, self._request.report.model_id, self._request.choice.provider, folders)
