"""Outputs as files below one directory: what a context does without a host, and a laptop's host.

Nothing here waits for an event loop, so the same code serves a plain test, `gen-worker run` and,
through a thread, `gen-worker serve`.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from gen_worker.context.outputs import check_size, file_size
from gen_worker.ports import drive

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from concurrent.futures import Executor
    from pathlib import Path

    from gen_worker.context.local_stream import Digest, LocalStream
    from gen_worker.ports import OutputStream, SaveOptions
    from gen_worker.types import Asset, Tensors

__all__ = [
    "LocalOutputs",
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


async def off_loop(function: Callable[..., T], *args: Any, executor: Executor | None = None) -> T:
    """Call a blocking function: in a thread if an event loop would wait for it, else right here.

    Args:
        function: What is called.
        *args: What it is given.
        executor: Whose thread; None: the loop's own.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or _thread.is_blocking or asyncio._get_running_loop() is None:
        return function(*args)
    if executor is None:
        result: T = await asyncio.to_thread(function, *args)
    else:
        result = await asyncio.get_running_loop().run_in_executor(executor, function, *args)
    return result


class LocalOutputs:
    """Outputs below one directory, each at `<root>/<ref>`."""

    def __init__(self, root: str | None = None) -> None:
        """Store below `root`, which is made when the first file is stored.

        Args:
            root: Default `GEN_WORKER_LOCAL_OUTPUT_DIR`, else `./.gen-worker-run/outputs`.
        """
        self._root = None if root is None else os.path.abspath(root)
        self._digests: dict[str, dict[str, Digest]] = {}
        self._is_cleared = False

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
        # Late, here and below: every call may store files, but few do.
        from gen_worker.context.local_stream import LocalStream

        path, digests = self.path_of(ref), self._digests_of(request_id)
        self._clear_once()
        return LocalStream(self.root, path, ref, options, digests)

    async def release(self, request_id: str) -> None:
        """Forget the digests of a request's outputs; the outputs stay."""
        self._digests.pop(request_id, None)

    def _digests_of(self, request_id: str) -> dict[str, Digest]:
        """Return what is known of a request's outputs: a handler returns what it just stored."""
        return self._digests.setdefault(request_id, {})

    def _clear_once(self) -> None:
        """Remove what processes that were killed in the middle of a save left here."""
        if not self._is_cleared:
            from gen_worker.context.incomplete import remove_abandoned

            self._is_cleared = True
            remove_abandoned(self.root)

    def _save(
        self, ref: str, source: bytes | Path, options: SaveOptions, request_id: str
    ) -> Asset | Tensors:
        from gen_worker.context.local_stream import LocalStream, stored_record

        path, digests = self.path_of(ref), self._digests_of(request_id)
        if not isinstance(source, bytes) and _is_same_file(source, path):
            if options.must_create:
                raise FileExistsError(f"output {ref!r} exists already")
            return stored_record(ref, path, options, digests.get(path))
        self._clear_once()
        stream = LocalStream(self.root, path, ref, options, digests)
        try:
            for chunk in _chunks(source):
                stream.write(chunk)
        except BaseException:
            stream.abort()
            raise
        return stream.finalize()


def _is_same_file(source: Path, path: str) -> bool:
    # A link is not the file: what it leads to may change, or be anywhere.
    return os.path.exists(path) and not os.path.islink(path) and os.path.samefile(source, path)


def _chunks(source: bytes | Path) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    file_size(source)
    size_bytes = 0
    with open(source, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            size_bytes += len(chunk)
            check_size(size_bytes)  # it may grow while it is read
            yield chunk
