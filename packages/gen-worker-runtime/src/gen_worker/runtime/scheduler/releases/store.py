"""Releases on disk: immutable folders that appear by one rename and share their equal files.

    releases/<release_id>/source/…        what workers run, read-only
    releases/<release_id>/endpoint.lock
    releases/<release_id>/release.json    the contents, of which the id is a digest
    blobs/<digest>.<mode>                 a second name of every file, for the next release
    work/                                 what is being made, or is being removed

A release needs nothing but its own folder; a blob that has no other name is of no use any more.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from gen_worker.manifest import manifest_of, parse_lock
from gen_worker.models.store.durable import fsync_directory, hash_file
from gen_worker.runtime.scheduler.releases.copying import (
    copied,
    make_durable,
    remove,
    require_stillness,
    write_new,
)
from gen_worker.runtime.scheduler.releases.errors import (
    DamagedReleaseError,
    RefusedReleaseError,
    ReleaseWriteError,
)
from gen_worker.runtime.scheduler.releases.project import lock_problems, scan
from gen_worker.runtime.scheduler.releases.values import (
    Contents,
    ReleaseLimits,
    StoredFile,
    StoredLink,
    StoredRelease,
)
from gen_worker.runtime.scheduler.releases.verification import (
    CONTENTS_NAME,
    LOCK_NAME,
    SOURCE_NAME,
    id_of,
    verified,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from gen_worker.manifest import Manifest

__all__ = ["ReleaseStore"]

_LIMITS = ReleaseLimits()


class ReleaseStore:
    """The folder of releases. Blocking; only the process that has the ledger writes to it."""

    def __init__(self, folder: str | os.PathLike[str], limits: ReleaseLimits = _LIMITS) -> None:
        """Make the folder where there is none.

        Args:
            folder: Private to the user.
            limits: How large a release may be.

        Raises:
            ReleaseWriteError: It cannot be written.
        """
        self.folder = os.path.abspath(folder)
        self._limits = limits
        self._releases, self._blobs, self._work = (
            os.path.join(self.folder, name) for name in ("releases", "blobs", "work")
        )
        with _writing(self.folder):
            for path in (self._releases, self._blobs, self._work):
                os.makedirs(path, mode=0o700, exist_ok=True)

    def put(
        self, project: str | os.PathLike[str], *, lock: bytes, environment: str
    ) -> tuple[StoredRelease, Manifest]:
        """Store a project as a release; one with the same contents is the same release.

        Args:
            project: Its folder.
            lock: Its endpoint.lock.
            environment: Name of the environment its workers run in.

        Returns:
            The release, and its lock.

        Raises:
            RefusedReleaseError: Something in the project or its lock cannot be published.
            ProjectChangedError: A file changed meanwhile.
            LockError: The lock is none.
            ReleaseWriteError: The disk is full, or cannot be written.
        """
        root = os.path.abspath(project)
        with _writing(self.folder), self._scratch() as scratch:
            lock_copy = os.path.join(scratch, LOCK_NAME)
            write_new(lock_copy, lock)
            manifest = manifest_of(parse_lock(lock_copy))
            if problems := tuple(lock_problems(manifest)):
                raise RefusedReleaseError(root, problems)
            found = scan(root, self._limits, own_folder=self.folder)
            copies = {
                one.path: copied(root, one, os.path.join(scratch, str(number)))
                for number, one in enumerate(found)
                if not one.target
            }
            require_stillness(found, scan(root, self._limits, own_folder=self.folder))
            contents = Contents(
                environment=environment,
                lock_blake3=hash_file(lock_copy),
                files=tuple(file for file, _ in copies.values()),
                links=tuple(StoredLink(one.path, one.target) for one in found if one.target),
            )
            draft = os.path.join(scratch, "draft")
            self._fill(draft, contents, {path: copy for path, (_, copy) in copies.items()})
            os.rename(lock_copy, os.path.join(draft, LOCK_NAME))
            release_id = id_of(_write_contents(draft, contents))
            self._move_in(draft, release_id)
            return self._stored(release_id, contents), manifest

    def open(self, release_id: str) -> StoredRelease:
        """Return a release, every byte of which was looked at.

        Raises:
            DamagedReleaseError: It is not what was published, or is gone.
        """
        return self._stored(release_id, verified(self._release(release_id), release_id))

    def ids(self) -> tuple[str, ...]:
        """Return the releases there are."""
        return tuple(sorted(os.listdir(self._releases)))

    def remove(self, release_id: str) -> None:
        """Take a release away, and what only it had; it is gone as a whole or not at all."""
        with _writing(self.folder):
            self._set_aside(release_id)
            self._sweep_blobs()

    def sweep(self, wanted: Collection[str]) -> tuple[str, ...]:
        """Remove what a crash left: half releases, and those that nobody wants.

        Returns:
            The whole releases that were removed.
        """
        with _writing(self.folder):
            for name in os.listdir(self._work):
                remove(os.path.join(self._work, name))
            orphans = tuple(one for one in self.ids() if one not in wanted)
            for orphan in orphans:
                self._set_aside(orphan)
            self._sweep_blobs()
        return orphans

    def _release(self, release_id: str) -> str:
        return os.path.join(self._releases, release_id)

    def _stored(self, release_id: str, contents: Contents) -> StoredRelease:
        folder = self._release(release_id)
        source, lock = os.path.join(folder, SOURCE_NAME), os.path.join(folder, LOCK_NAME)
        return StoredRelease(release_id, source, lock, contents)

    @contextmanager
    def _scratch(self) -> Iterator[str]:
        path = os.path.join(self._work, os.urandom(8).hex())
        os.mkdir(path)
        try:
            yield path
        finally:
            remove(path)

    def _fill(self, draft: str, contents: Contents, copies: dict[str, str]) -> None:
        """Make the tree of a release out of private copies, durable and read-only."""
        source = os.path.join(draft, SOURCE_NAME)
        folders = {draft, source}
        os.makedirs(source)
        entries: tuple[StoredFile | StoredLink, ...] = (*contents.files, *contents.links)
        for entry in entries:
            target = os.path.join(source, *entry.path.split("/"))
            folder = os.path.dirname(target)
            while folder not in folders:
                folders.add(folder)
                folder = os.path.dirname(folder)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if isinstance(entry, StoredFile):
                self._place(copies[entry.path], target, entry)
            else:
                os.symlink(entry.target, target)
        for folder in sorted(folders - {draft}, reverse=True):
            fsync_directory(folder)
            os.chmod(folder, 0o555)

    def _place(self, copy: str, target: str, file: StoredFile) -> None:
        """Give a file its place: as a second name of the same bytes, where they are here."""
        mode = 0o555 if file.is_executable else 0o444
        blob = os.path.join(self._blobs, f"{file.blake3}.{mode:o}")
        try:
            os.link(blob, target)
        except OSError:  # there is none, it has too many names, or this disk has no links
            pass
        else:
            if hash_file(target) == file.blake3:
                os.chmod(target, mode)
                os.unlink(copy)
                return
            os.unlink(target)
        os.chmod(copy, mode)
        make_durable(copy)
        os.rename(copy, target)
        with suppress(OSError):
            os.link(target, copy)
            os.replace(copy, blob)

    def _move_in(self, draft: str, release_id: str) -> None:
        """Make a release visible; the same one that is there stays, unless it is damaged."""
        fsync_directory(draft)
        while True:
            try:
                os.rename(draft, self._release(release_id))
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                break
            try:
                verified(self._release(release_id), release_id)
            except DamagedReleaseError:
                self._set_aside(release_id)
            else:
                break
        fsync_directory(self._releases)

    def _set_aside(self, release_id: str) -> None:
        aside = os.path.join(self._work, os.urandom(8).hex())
        with suppress(FileNotFoundError):
            os.rename(self._release(release_id), aside)
            fsync_directory(self._releases)
            remove(aside)

    def _sweep_blobs(self) -> None:
        with os.scandir(self._blobs) as blobs:
            for blob in blobs:
                if blob.stat(follow_symlinks=False).st_nlink == 1:
                    os.unlink(blob.path)


@contextmanager
def _writing(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "make room on its disk" if is_full else "let the scheduler's user write it"
        raise ReleaseWriteError(
            f"the releases in {folder!r} cannot be changed ({error}): {remedy}"
        ) from error


def _write_contents(draft: str, contents: Contents) -> bytes:
    content = msgspec.json.encode(contents)
    write_new(os.path.join(draft, CONTENTS_NAME), content)
    return content
