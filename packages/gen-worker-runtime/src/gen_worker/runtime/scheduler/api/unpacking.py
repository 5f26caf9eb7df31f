"""A project out of a tar file that anybody may have made: files and links of its own, no more."""

from __future__ import annotations

import gzip
import io
import os
import posixpath
import tarfile
import zlib
from typing import TYPE_CHECKING, Any

from gen_worker.errors import ValidationError
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.paths import safe_join

if TYPE_CHECKING:
    from typing import BinaryIO

    from gen_worker.runtime.scheduler.releases import ReleaseLimits

__all__ = ["LOCK_PLACES", "unpack"]

LOCK_PLACES = (".tensorhub/endpoint.lock", "endpoint.lock")
"""Where a project's lock is in its tar file; the first that is there."""

_GZIP = b"\x1f\x8b"
_MAX_LOCK_BYTES = 16 * 1024**2
_MAX_READ_BYTES = 1024**2
"""At once: a header that says it is longer is no path."""
_MAX_HEADERS_BYTES = 64 * 1024**2
"""Of all that is no file's content."""
_MAX_TARGET_BYTES = 1024
_COPY_BYTES = 256 * 1024
_BROKEN = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, RecursionError, OverflowError)


def unpack(path: str, folder: str, limits: ReleaseLimits) -> bytes:
    """Write a project into a folder, and return its lock. Blocking.

    Args:
        path: A tar file, perhaps compressed with gzip.
        folder: Exists, and is empty.
        limits: How large the project may be; it is refused before more than that is written.

    Raises:
        Refusal: 400, it is no tar file, it lacks the lock, or has something that no project has;
            413, it is larger.
        OSError: The disk is full, or cannot be written.
    """
    with open(path, "rb") as file:
        is_compressed = file.read(2) == _GZIP
        file.seek(0)
        content: Any = gzip.GzipFile(fileobj=file) if is_compressed else file
        most = limits.max_bytes + _MAX_HEADERS_BYTES
        try:
            # A stream would gather a header of any length; what can be sought reads it at once.
            bounded: Any = _Bounded(content, most)
            with tarfile.open(fileobj=bounded, mode="r:", errorlevel=2) as tar:
                unpacking = _Unpacking(tar, folder, limits)
                unpacking.run()
        except _BROKEN as error:
            raise _refused(f"the body is no whole tar file ({type(error).__name__})") from error
        except ValueError as error:  # a number in a header that is none
            raise _refused("the body is no tar file") from error
    return unpacking.lock()


class _Bounded(io.RawIOBase):
    """A file of which no more than so much is read, and not too much at once."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file = file
        self._most = most

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_READ_BYTES:
            raise _refused("a header of the tar file is too long")
        data = self._file.read(size)
        self._check(self._file.tell())
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET:
            self._check(offset)
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def _check(self, position: int) -> None:
        if position > self._most:
            raise _too_large(f"unpacked it has more than {self._most} bytes")


class _Unpacking:
    """One tar file on its way into a folder."""

    def __init__(self, tar: tarfile.TarFile, folder: str, limits: ReleaseLimits) -> None:
        self._tar = tar
        self._folder = folder
        self._limits = limits
        self._links: dict[str, str] = {}
        self._lock = b""
        self._lock_place = ""
        self._bytes = 0

    def run(self) -> None:
        for count, member in enumerate(self._tar, 1):
            self._tar.members = []  # type: ignore[attr-defined]  # or all of them would be kept
            # Folders and the lock count as well, and are not of the project.
            if count > 2 * self._limits.max_files + len(LOCK_PLACES):
                raise _too_large(f"it has more than {self._limits.max_files} files and folders")
            self._take(member)
        # Only now, so that nothing was ever written through one.
        for name, target in self._links.items():
            self._link(name, target)

    def lock(self) -> bytes:
        if not self._lock_place:
            raise _refused(f"the tar file lacks the project's lock: add it as {LOCK_PLACES[0]!r}")
        return self._lock

    def _take(self, member: tarfile.TarInfo) -> None:
        name = member.name.rstrip("/").removeprefix("./")
        if member.isdir() and name in ("", "."):
            return
        try:
            path = safe_join(self._folder, name)
        except ValidationError as error:
            raise _refused(f"the tar file has {name!r:.300}: {error}") from error
        if member.issym():
            self._note_link(name, member.linkname)
        elif member.isdir():
            self._make_folder(path, name)
        elif member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse():
            self._write(member, path, name)
        else:
            raise _refused(
                f"the tar file has {name!r:.300}, which is neither a file, a folder nor a symbolic "
                "link: leave it out"
            )

    def _note_link(self, name: str, target: str) -> None:
        place = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
        leads_out = place == ".." or place.startswith(("../", "/"))
        if not target or target.startswith("/") or leads_out or _is_odd(target):
            raise _refused(
                f"link {name!r:.300} leads to {target!r:.300}, which is not in the project"
            )
        if name in self._links:
            raise _twice(name)
        self._links[name] = target

    def _make_folder(self, path: str, name: str) -> None:
        try:
            os.makedirs(path, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise _twice(name) from None

    def _write(self, member: tarfile.TarInfo, path: str, name: str) -> None:
        size = member.size
        self._bytes += size
        if size > self._limits.max_file_bytes or self._bytes > self._limits.max_bytes:
            raise _too_large(
                f"{name!r:.300} is too large: a file may have {self._limits.max_file_bytes} bytes, "
                f"a release {self._limits.max_bytes}; publish weights to the model hub"
            )
        source = self._tar.extractfile(member)
        assert source is not None, "it is a file"
        self._make_folder(os.path.dirname(path), name)
        mode = 0o755 if member.mode & 0o100 else 0o644
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            descriptor = os.open(path, flags, mode)
        except (FileExistsError, IsADirectoryError):
            raise _twice(name) from None
        with open(descriptor, "wb") as file:
            left = size
            while left:
                data = source.read(min(left, _COPY_BYTES))
                if not data:
                    raise _refused(f"the tar file ends in {name!r:.300}")
                file.write(data)
                left -= len(data)
        if name in LOCK_PLACES:
            self._note_lock(path, name, size)

    def _note_lock(self, path: str, name: str, size: int) -> None:
        if size > _MAX_LOCK_BYTES:
            raise _too_large(f"{name!r} has {size} bytes, at most {_MAX_LOCK_BYTES} are allowed")
        if not self._lock_place or LOCK_PLACES.index(name) < LOCK_PLACES.index(self._lock_place):
            with open(path, "rb") as file:
                self._lock, self._lock_place = file.read(), name

    def _link(self, name: str, target: str) -> None:
        path = safe_join(self._folder, name)
        self._make_folder(os.path.dirname(path), name)
        if os.path.realpath(os.path.dirname(path)) != os.path.abspath(os.path.dirname(path)):
            raise _refused(f"link {name!r:.300} is behind another link")
        try:
            os.symlink(target, path)
        except FileExistsError:
            raise _twice(name) from None


def _is_odd(target: str) -> bool:
    """Tell whether a link's target is none that every system could keep."""
    try:
        return "\0" in target or len(target.encode()) > _MAX_TARGET_BYTES
    except UnicodeEncodeError:  # bytes that are no UTF-8
        return True


def _refused(problem: str) -> Refusal:
    return Refusal(400, "invalid_tar", problem)


def _too_large(problem: str) -> Refusal:
    return Refusal(413, "release_too_large", problem)


def _twice(name: str) -> Refusal:
    return _refused(f"the tar file has {name!r:.300} twice, or within what is no folder")
