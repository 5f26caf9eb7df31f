"""Files of a publication that go to the hub while later ones are still being made."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gen_worker.context.refs import output_ref
from gen_worker.errors import CanceledError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future, ThreadPoolExecutor
    from pathlib import Path

    from gen_worker.context.producers import ProducerContext

__all__ = ["EarlyUploads", "uploads_of"]

_AT_ONCE = 2
_Signature = tuple[int, int, int, int]
"""Device, inode, size and time of change: of a file that was moved since, the same."""
Session = TypeVar("Session")
Facts = TypeVar("Facts")


class EarlyUploads(Generic[Session, Facts]):
    """The uploads of one publication that began before all of its files were there.

    Files stay on disk and are sent from there, so nothing is held in memory. They may be moved at
    any time: what is sent is another name of each. Two are sent at once, beside the work that makes
    the others.
    """

    def __init__(
        self,
        begin: Callable[[], Session],
        put: Callable[[Session, str, Path], Facts],
        folder: Callable[[], Path],
    ) -> None:
        """Say how files are sent; nothing is done before the first one.

        Args:
            begin: Returns the open revision, which it opens when it is called first. One call at a
                time, in a thread of the uploads.
            put: Sends a file to it; gets the end of the path that the file had, and where it is
                now. Blocks, in a thread of the uploads.
            folder: Makes a directory for the other names, best on the disk of the files.
        """
        self._begin = begin
        self._put = put
        self._folder = folder
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._sent: dict[_Signature, Future[Facts]] = {}
        self._names: Path | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._is_over = False

    def add(self, path: str | os.PathLike[str]) -> None:
        """Begin to send a finished file; never blocks.

        Raises:
            FileNotFoundError: There is no such file.
            CanceledError: No more are sent.
        """
        place = os.path.realpath(path)
        signature = _signature(place)
        with self._lock:
            if self._is_over:
                raise CanceledError("the call has ended")
            if signature in self._sent:
                return
            if self._executor is None:
                from concurrent.futures import ThreadPoolExecutor

                self._executor = ThreadPoolExecutor(_AT_ONCE, "gen-worker-early")
            name = "/".join(place.split(os.sep)[-2:])
            self._sent[signature] = self._executor.submit(self._send, name, self._named(place))

    def raise_failure(self) -> None:
        """Raise what an earlier file could not be sent for, if there is one; never blocks."""
        with self._lock:
            over = [sent for sent in self._sent.values() if sent.done()]
        for sent in over:
            sent.result()

    def facts_of(self, path: str | os.PathLike[str]) -> Facts | None:
        """Wait for a file, and return what `put` returned for it.

        None for one that is to be sent now: it was not sent, could not be, or has changed since.
        """
        sent = self._sent.get(_signature(os.path.realpath(path)))
        return None if sent is None or sent.exception() is not None else sent.result()

    def end(self) -> None:
        """Begin no more; blocks for as long as a revision is being opened."""
        with self._lock, self._opening:
            self._is_over = True
            if self._executor is not None:
                self._executor.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        """Wait for what is being sent, which ends soon once its revision is dropped; blocks."""
        if self._executor is not None:
            self._executor.shutdown()

    def _named(self, place: str) -> Path:
        """Return a name of a file that stays until the publication ends."""
        try:
            if self._names is None:
                self._names = self._folder()
            name = self._names / str(len(self._sent))
            os.link(place, name)
        except OSError:  # another disk, or one without hard links
            from pathlib import Path

            return Path(place)
        return name

    def _send(self, name: str, path: Path) -> Facts:
        with self._opening:
            if self._is_over:
                raise CanceledError("the call has ended")
            session = self._begin()
        return self._put(session, name, path)


def uploads_of(
    ctx: ProducerContext, destination: str, spec: Mapping[str, Any]
) -> EarlyUploads[object, Mapping[str, Any]]:
    """Return the early uploads of a call, bound to the revision of a destination."""
    revisions = ctx._revisions
    assert revisions is not None, "asked before"

    def begin() -> object:
        ctx.raise_if_canceled()
        return ctx._block(revisions.session(destination, spec))

    def put(session: object, name: str, path: Path) -> Mapping[str, Any]:
        ref = output_ref(name, ctx.workspace_scope_id)
        return ctx._block(revisions.put(session, ref, path))

    return EarlyUploads(begin, put, ctx.mktemp)


def _signature(path: str) -> _Signature:
    facts = os.stat(path)
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
