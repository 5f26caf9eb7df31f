"""One output on its way to disk: written aside, then put in its place whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from gen_worker.context.incomplete import create_incomplete
from gen_worker.context.media import HEAD_BYTES, media_type
from gen_worker.errors import ArtifactTransferError, ResourceError, ValidationError, WorkerError

if TYPE_CHECKING:
    from gen_worker.ports import SaveOptions
    from gen_worker.types import Asset, Tensors

__all__ = ["Digest", "FileStream", "LocalStream", "exists_already", "stored_record", "write_error"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Digest(NamedTuple):
    """The digest of a file, and what it was computed for."""

    identity: tuple[int, int, int]
    sha256: str


class FileStream:
    """An output in the making: a file aside, counted and hashed as it is written.

    Whoever begins it decides where the file is, and what becomes of it once it is whole.
    """

    def __init__(self, ref: str, options: SaveOptions, path: str, file: BinaryIO) -> None:
        """Begin.

        Args:
            ref: What the output is called.
            options: How it is stored.
            path: Where the file is until then.
            file: That file, empty.
        """
        from hashlib import sha256

        self.ref = ref
        self.bytes_written = 0
        self.bytes_uploaded = 0
        self.chunks_uploaded = 0
        self._options = options
        self._temporary = path
        self._file = file
        self._sha256 = sha256()
        self._head = b""

    @property
    def is_open(self) -> bool:
        return not self._file.closed

    def write(self, data: bytes | bytearray | memoryview) -> int:
        view = memoryview(data).cast("B")
        try:
            self._file.write(view)
        except OSError as error:
            raise write_error(f"output {self.ref!r}", error) from error
        self._sha256.update(view)
        if len(self._head) < HEAD_BYTES:
            self._head += bytes(view[: HEAD_BYTES - len(self._head)])
        self.bytes_written += len(view)
        return len(view)

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            raise write_error(f"output {self.ref!r}", error) from error

    def abort(self) -> None:
        try:
            self._file.close()
        except OSError:  # a full disk keeps what is buffered from being written; it is not wanted
            pass
        finally:
            if os.path.exists(self._temporary):
                os.unlink(self._temporary)


class LocalStream(FileStream):
    """A file in the making, on the disk where it will be."""

    stream_mode = "local_fallback"

    def __init__(
        self, root: str, path: str, ref: str, options: SaveOptions, digests: dict[str, Digest]
    ) -> None:
        """Start the file.

        Args:
            root: Directory of all outputs; below it no symbolic link is followed.
            path: Where the file will be.
            ref: Where that is in the author's terms.
            options: How it is stored.
            digests: Receives the digest of the finished file, by path.

        Raises:
            FileExistsError: It must be new and is not.
            ValidationError: Its place is taken by a directory, or lies below a file or a link.
            ResourceError: The disk is full.
            ArtifactTransferError: It cannot be written for another reason.
        """
        if options.must_create and os.path.lexists(path):
            raise exists_already(ref)
        try:
            _make_directory(root, path, ref)
            temporary, file = create_incomplete(root)
        except OSError as error:
            raise write_error(f"output {ref!r}", error) from error
        super().__init__(ref, options, temporary, file)
        self.path = path
        self._digests = digests

    def finalize(self) -> Asset | Tensors:
        """Put the file in its place, whole or not at all."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            # Asked of this file, not of its place, where another call may put one meanwhile.
            identity = _identity(os.fstat(self._file.fileno()))
            self._file.close()
            _publish(self._temporary, self.path, self.ref, must_create=self._options.must_create)
        except BaseException as error:
            self.abort()
            if isinstance(error, OSError) and not isinstance(error, FileExistsError):
                raise write_error(f"output {self.ref!r}", error) from error
            raise
        self.bytes_uploaded = self.bytes_written
        self.chunks_uploaded = 1
        digest = self._sha256.hexdigest()
        self._digests[self.path] = Digest(identity, digest)
        return _record(
            self.ref,
            self.path,
            self._options,
            size_bytes=self.bytes_written,
            digest=digest,
            head=self._head,
        )


def stored_record(
    ref: str, path: str, options: SaveOptions, known: Digest | None
) -> Asset | Tensors:
    """Describe a file that is in its place already; it is read only if its digest is not known."""
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
        if known is not None and known.identity == _identity(os.fstat(file.fileno())):
            digest = known.sha256
        else:
            from hashlib import file_digest

            file.seek(0)
            digest = file_digest(file, "sha256").hexdigest()
        size_bytes = file.seek(0, os.SEEK_END)
    return _record(ref, path, options, size_bytes=size_bytes, digest=digest, head=head)


def _make_directory(root: str, path: str, ref: str) -> None:
    directory = os.path.dirname(path)
    expected = os.path.join(os.path.realpath(root), os.path.relpath(directory, root))
    if os.path.realpath(directory) != os.path.normpath(expected):
        raise ValidationError(f"output {ref!r} lies behind a symbolic link: remove the link")
    try:
        os.makedirs(directory, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValidationError(f"output {ref!r} lies below a file: choose another name") from error
    if os.path.lexists(path) and stat.S_ISDIR(os.lstat(path).st_mode):
        raise ValidationError(f"output {ref!r} is a directory: choose another name")


def _publish(temporary: str, path: str, ref: str, *, must_create: bool) -> None:
    if not must_create:
        os.replace(temporary, path)
        return
    try:
        os.link(temporary, path)  # unlike a rename, this fails when another call was faster
    except FileExistsError:
        raise exists_already(ref) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise exists_already(ref) from None
        os.replace(temporary, path)
        return
    os.unlink(temporary)


def exists_already(ref: str) -> FileExistsError:
    return FileExistsError(f"output {ref!r} exists already")


def write_error(what: str, error: OSError) -> WorkerError:
    """Return what an operating system's refusal to write means."""
    reason = f"{what} cannot be stored: {error.strerror or error}"
    if error.errno in _FULL:
        return ResourceError(reason)
    return ArtifactTransferError(reason, phase="save")


def _identity(facts: os.stat_result) -> tuple[int, int, int]:
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _record(
    ref: str, path: str, options: SaveOptions, *, size_bytes: int, digest: str, head: bytes
) -> Asset | Tensors:
    from gen_worker.types import Asset, Tensors

    if options.checkpoint_format is not None:
        return Tensors(
            ref=ref,
            local_path=path,
            format=options.checkpoint_format,
            size_bytes=size_bytes,
            sha256=digest,
        )
    return Asset(
        ref=ref,
        local_path=path,
        mime_type=options.mime_type or media_type(head, ref),
        size_bytes=size_bytes,
        sha256=digest,
    )
