"""Makes a snapshot's directory out of blobs: first in private, then visible by one rename."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from gen_worker.errors import ValidationError
from gen_worker.models.store.blobs import discard, has_blob, settle
from gen_worker.models.store.durable import (
    READ_ONLY,
    copy_into,
    fsync_directory,
    link_or_copy,
    opened_new,
    private_directory,
)
from gen_worker.models.store.errors import DamagedBlobError, MissingBlobsError
from gen_worker.models.store.records import Record, RecordedFile, mark_damaged, write_record
from gen_worker.models.store.trees import lay_out
from gen_worker.paths import safe_join

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gen_worker.cancel import CancelToken
    from gen_worker.models.snapshot import Snapshot, SnapshotFile
    from gen_worker.models.store.places import Places
    from gen_worker.models.store.trees import Joined, Linked, Tree, Written

__all__ = ["build_tree", "missing_blobs"]

_EMPTY = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
"""BLAKE3 of nothing."""


def missing_blobs(places: Places, snapshot: Snapshot) -> tuple[SnapshotFile, ...]:
    """Return one file for each blob that is not here, largest first.

    Raises:
        ValidationError: The snapshot gives one blob two sizes.
    """
    distinct: dict[str, SnapshotFile] = {}
    for file in snapshot.files:
        other = distinct.setdefault(file.blake3, file)
        if file.size_bytes != other.size_bytes:
            raise ValidationError(
                f"snapshot {snapshot.digest} gives {file.path!r} {file.size_bytes} bytes and "
                f"{other.path!r}, the same blob, {other.size_bytes}: publish it again"
            )
    absent = [file for file in distinct.values() if not _is_here(places, file)]
    return tuple(sorted(absent, key=lambda file: (-file.size_bytes, file.path)))


def _is_here(places: Places, file: SnapshotFile) -> bool:
    if file.size_bytes == 0 and file.blake3 != _EMPTY:  # some senders leave sizes out
        return os.path.isfile(places.blob(file.blake3))
    return has_blob(places, file.blake3, file.size_bytes)


def build_tree(
    places: Places,
    snapshot: Snapshot,
    generated: Mapping[str, bytes],
    token: CancelToken | None,
) -> str:
    """Build the directory of a snapshot that is not here, or repair it.

    The caller claimed its blobs, so that nobody removes them meanwhile.
    """
    _require_blobs(places, snapshot)
    for digest in {file.blake3 for file in snapshot.files}:
        _cancelable(token)
        settle(places, digest, token)
    tree = lay_out(snapshot, lambda file: _content(places, file), generated)
    with private_directory(places) as scratch:
        draft = os.path.join(scratch, "tree")
        try:
            files = tuple(_filled(places, tree, draft, places.snapshot(snapshot.digest), token))
        except FileNotFoundError as error:
            raise _missing(places, snapshot) from error
        record = Record(digest=snapshot.digest, files=files)
        _publish(places, record, draft)
    _require_blobs_of(places, record)
    return places.snapshot(snapshot.digest)


def _require_blobs(places: Places, snapshot: Snapshot) -> None:
    if missing_blobs(places, snapshot):
        raise _missing(places, snapshot)


def _missing(places: Places, snapshot: Snapshot) -> MissingBlobsError:
    files = missing_blobs(places, snapshot)
    size = sum(file.size_bytes for file in files)
    return MissingBlobsError(
        f"snapshot {snapshot.digest} lacks {len(files)} blobs of {size} bytes in "
        f"{places.root!r}: fetch them and build it again",
        files=files,
    )


def _content(places: Places, file: SnapshotFile) -> bytes:
    with open(places.blob(file.blake3), "rb") as blob:
        return blob.read()


def _cancelable(token: CancelToken | None) -> None:
    if token is not None:
        token.raise_if_canceled()


def _filled(
    places: Places, tree: Tree, draft: str, final_root: str, token: CancelToken | None
) -> Iterator[RecordedFile]:
    """Make the files of a tree, durable; yield what each is."""
    os.makedirs(draft)
    for path in sorted({os.path.dirname(x.path) for group in tree for x in group} - {""}):
        os.makedirs(safe_join(draft, path), exist_ok=True)
    for linked in tree.linked:
        _cancelable(token)
        final = os.path.dirname(safe_join(final_root, linked.path))
        yield _link(places, linked, safe_join(draft, linked.path), final)
    for joined in tree.joined:
        yield _join(places, joined, safe_join(draft, joined.path), token)
    for given in tree.written:
        yield _write(given, safe_join(draft, given.path))
    for directory, _, _ in os.walk(draft, topdown=False):
        fsync_directory(directory)


def _link(places: Places, entry: Linked, target: str, final_directory: str) -> RecordedFile:
    blob = places.blob(entry.blake3)
    is_shared = link_or_copy(blob, target, final_directory=final_directory)
    size = os.stat(blob).st_size
    return RecordedFile(path=entry.path, size_bytes=size, blake3=entry.blake3, is_own=not is_shared)


def _join(places: Places, entry: Joined, target: str, token: CancelToken | None) -> RecordedFile:
    from blake3 import blake3

    whole = blake3(max_threads=blake3.AUTO)
    with opened_new(target) as writer:
        for digest, size in entry.parts:
            path = places.blob(digest)
            with open(path, "rb", buffering=0) as reader:
                found = copy_into(writer, reader, token, whole)
            if found != (digest, size):
                discard(path)
                raise DamagedBlobError(
                    f"part {digest} of {entry.path!r} did not have the bytes of its digest and "
                    "was removed: fetch it again",
                    digest=digest,
                )
        os.fsync(writer.fileno())
    os.chmod(target, READ_ONLY)
    return RecordedFile(
        path=entry.path, size_bytes=entry.size_bytes, blake3=whole.hexdigest(), is_own=True
    )


def _write(entry: Written, target: str) -> RecordedFile:
    from blake3 import blake3

    with opened_new(target) as file:
        file.write(entry.content)
        os.fsync(file.fileno())
    os.chmod(target, READ_ONLY)
    return RecordedFile(
        path=entry.path,
        size_bytes=len(entry.content),
        blake3=blake3(entry.content).hexdigest(),
        is_own=True,
    )


def _publish(places: Places, record: Record, draft: str) -> None:
    target = places.snapshot(record.digest)
    os.makedirs(places.snapshots, exist_ok=True)
    write_record(places, record)  # first, so that no tree of ours is without
    try:
        os.rename(draft, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        # Another process was faster, or this one is here to repair it: readers keep their files.
        if not os.path.exists(places.damaged(record.digest)):
            return
        _replace_files(record, draft, target)
    fsync_directory(places.snapshots)
    discard(places.damaged(record.digest))


def _replace_files(record: Record, draft: str, target: str) -> None:
    for file in record.files:
        path = safe_join(target, file.path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # Moving one name of an inode over another does nothing, and that is fine too.
        os.replace(safe_join(draft, file.path), path)
    for directory, _, _ in os.walk(target, topdown=False):
        fsync_directory(directory)


def _require_blobs_of(places: Places, record: Record) -> None:
    """Look again: a tree of symbolic links must not point to a blob that was just removed."""
    for file in record.files:
        path = safe_join(places.snapshot(record.digest), file.path)
        if os.path.islink(path) and not os.path.exists(path):
            mark_damaged(places, record.digest)
            raise DamagedBlobError(
                f"blob {file.blake3} was removed while snapshot {record.digest} was built: "
                "fetch it again",
                digest=file.blake3,
            )
