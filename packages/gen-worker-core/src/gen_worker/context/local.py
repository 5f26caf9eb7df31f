"""Outputs as files below one directory: what a context does without a host, and a laptop's host.

Nothing here waits for an event loop, so the same code serves a plain test, `gen-worker run` and,
through a thread, `gen-worker serve`.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol, TypeVar

from gen_worker.context.media import HEAD_BYTES, media_type
from gen_worker.ports import drive

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from gen_worker.ports import OutputStream, SaveOptions
    from gen_worker.types import Asset, Tensors

__all__ = [
    "LocalOutputs",
    "LocalStream",
    "OutputFiles",
    "off_loop",
    "run_blocking",
]

T = TypeVar("T")

_CHUNK_BYTES = 1024 * 1024


class OutputFiles(Protocol):
    """The part of the `Files` port that a context needs to store outputs."""

    async def save(
        self, ref: str, source: bytes | Path, options: SaveOptions, *, request_id: str
    ) -> Asset | Tensors: ...
    async def open_output(
        self, ref: str, options: SaveOptions, *, request_id: str
    ) -> OutputStream: ...


class _Thread(threading.local):
    is_blocking = False


_thread = _Thread()


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in this thread, even one whose thread runs an event loop.

    The `Ports.run` of hosts whose ports block: `off_loop` then stays in the thread, so an `async`
    handler may call `ctx.save_bytes`, which holds up its loop for that long.
    """
    was_blocking, _thread.is_blocking = _thread.is_blocking, True
    try:
        return drive(coroutine)
    finally:
        _thread.is_blocking = was_blocking


async def off_loop(function: Callable[..., T], *args: Any) -> T:
    """Call a blocking function: in a thread if an event loop would wait for it, else right here."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or _thread.is_blocking or asyncio._get_running_loop() is None:
        return function(*args)
    result: T = await asyncio.to_thread(function, *args)
    return result


class _Digest(NamedTuple):
    """The digest of a file, and what it was computed for."""

    identity: tuple[int, int, int]
    sha256: str


class LocalStream:
    """A file in the making, next to where it will be."""

    stream_mode = "local_fallback"

    def __init__(
        self, path: str, ref: str, options: SaveOptions, digests: dict[str, _Digest]
    ) -> None:
        """Start the file; `FileExistsError` when it must be new and is not.

        Args:
            path: Where it will be.
            ref: Where that is in the author's terms.
            options: How it is stored.
            digests: Receives the digest of the finished file, by path.
        """
        from hashlib import sha256

        self.ref = ref
        self.path = path
        self.bytes_written = 0
        self.bytes_uploaded = 0
        self.chunks_uploaded = 0
        self._options = options
        self._digests = digests
        self._hash = sha256()
        self._head = b""
        if options.must_create and os.path.lexists(path):
            raise FileExistsError(f"output {ref!r} exists already")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self._temporary = _temporary_name(path)
        self._file: BinaryIO = open(self._temporary, "xb")

    def write(self, data: bytes | bytearray | memoryview) -> int:
        taken = self._file.write(data)
        self._hash.update(data)
        if len(self._head) < HEAD_BYTES:
            self._head += bytes(memoryview(data).cast("B")[: HEAD_BYTES - len(self._head)])
        self.bytes_written += taken
        return taken

    def flush(self) -> None:
        self._file.flush()

    def finalize(self) -> Asset | Tensors:
        """Put the file in its place, whole or not at all."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            _publish(self._temporary, self.path, must_create=self._options.must_create)
        except BaseException:
            self.abort()
            raise
        self.bytes_uploaded = self.bytes_written
        self.chunks_uploaded = 1
        digest = self._hash.hexdigest()
        self._digests[self.path] = _Digest(_identity(self.path), digest)
        return _record(
            self.ref,
            self.path,
            self._options,
            size_bytes=self.bytes_written,
            digest=digest,
            head=self._head,
        )

    def abort(self) -> None:
        self._file.close()
        if os.path.exists(self._temporary):
            os.unlink(self._temporary)

    @property
    def is_open(self) -> bool:
        return not self._file.closed


class LocalOutputs:
    """Outputs below one directory, each at `<root>/<ref>`."""

    def __init__(self, root: str | None = None) -> None:
        """Store below `root`, which is made when the first file is stored.

        Args:
            root: Default `GEN_WORKER_LOCAL_OUTPUT_DIR`, else `./.gen-worker-run/outputs`.
        """
        self._root = None if root is None else os.path.abspath(root)
        self._digests: dict[str, dict[str, _Digest]] = {}

    @property
    def root(self) -> str:
        if self._root is None:
            from gen_worker.settings import load_settings

            self._root = os.path.abspath(load_settings().local_output_dir)
        return self._root

    def path_of(self, ref: str) -> str:
        """Return where the file of a canonical ref is, or will be."""
        from gen_worker.paths import safe_join

        return str(safe_join(self.root, ref))

    async def save(
        self, ref: str, source: bytes | Path, options: SaveOptions, *, request_id: str
    ) -> Asset | Tensors:
        return await off_loop(self._save, ref, source, options, request_id)

    async def open_output(self, ref: str, options: SaveOptions, *, request_id: str) -> LocalStream:
        return LocalStream(self.path_of(ref), ref, options, self._digests_of(request_id))

    async def release(self, request_id: str) -> None:
        """Forget the digests of a request's outputs; the outputs stay."""
        self._digests.pop(request_id, None)

    def _digests_of(self, request_id: str) -> dict[str, _Digest]:
        """Return what is known of a request's outputs: a handler returns what it just stored."""
        return self._digests.setdefault(request_id, {})

    def _save(
        self, ref: str, source: bytes | Path, options: SaveOptions, request_id: str
    ) -> Asset | Tensors:
        path, digests = self.path_of(ref), self._digests_of(request_id)
        if not isinstance(source, bytes) and _is_same_file(source, path):
            if options.must_create:
                raise FileExistsError(f"output {ref!r} exists already")
            return _record_in_place(ref, path, options, digests.get(path))
        stream = LocalStream(path, ref, options, digests)
        try:
            for chunk in _chunks(source):
                stream.write(chunk)
        except BaseException:
            stream.abort()
            raise
        return stream.finalize()


def _temporary_name(path: str) -> str:
    # Short, so that a name of the longest allowed length still has a temporary one beside it.
    return os.path.join(os.path.dirname(path), f".{os.urandom(8).hex()}.part")


def _publish(temporary: str, path: str, *, must_create: bool) -> None:
    if not must_create:
        os.replace(temporary, path)
        return
    try:
        os.link(temporary, path)  # unlike a rename, this fails when another call was faster
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        os.replace(temporary, path)
        return
    os.unlink(temporary)


def _is_same_file(source: Path, path: str) -> bool:
    return os.path.exists(path) and os.path.samefile(source, path)


def _identity(path: str) -> tuple[int, int, int]:
    facts = os.stat(path)
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _record_in_place(
    ref: str, path: str, options: SaveOptions, known: _Digest | None
) -> Asset | Tensors:
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
        if known is not None and known.identity == _identity(path):
            digest = known.sha256
        else:
            from hashlib import file_digest

            file.seek(0)
            digest = file_digest(file, "sha256").hexdigest()
        size_bytes = file.seek(0, os.SEEK_END)
    return _record(ref, path, options, size_bytes=size_bytes, digest=digest, head=head)


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


def _chunks(source: bytes | Path) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with open(source, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
