"""Files of an artifact that go to the hub while later ones are still being made."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from gen_worker.context.refs import output_ref
from gen_worker.errors import CanceledError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future, ThreadPoolExecutor
    from pathlib import Path

    from gen_worker.context.producers import ProducerContext

__all__ = ["EarlyUploads"]

_AT_ONCE = 2
_Signature = tuple[int, int, int, int]
"""Device, inode, size and time of change: of a file that was moved since, the same."""


class EarlyUploads:
    """The uploads of one call that began before its function returned.

    Files stay on disk and are sent from there, so nothing is held in memory. They may be moved at
    any time: what is sent is another name of each. Two are sent at once, beside the work of the
    function.
    """

    def __init__(self, ctx: ProducerContext, destination: str, spec: Mapping[str, Any]) -> None:
        """Bind to the revision of a destination, which the first file opens."""
        self._ctx = ctx
        self._destination = destination
        self._spec = spec
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._sent: dict[_Signature, Future[Mapping[str, Any]]] = {}
        self._names: Path | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._is_over = False

    def add(self, path: str | os.PathLike[str]) -> None:
        """Begin to send a finished file; never blocks.

        Raises:
            FileNotFoundError: There is no such file.
            Exception: An earlier file could not be sent; there is no use in going on.
        """
        place = os.path.realpath(path)
        signature = _signature(place)
        with self._lock:
            if self._is_over:
                raise CanceledError("the call has ended")
            for known in self._sent.values():
                if known.done():
                    known.result()
            if signature in self._sent:
                return
            if self._executor is None:
                from concurrent.futures import ThreadPoolExecutor

                self._executor = ThreadPoolExecutor(_AT_ONCE, "gen-worker-early")
            ref = output_ref("/".join(place.split(os.sep)[-2:]), self._ctx.workspace_scope_id)
            self._sent[signature] = self._executor.submit(self._send, ref, self._named(place))

    def facts_of(self, path: str | os.PathLike[str]) -> Mapping[str, Any] | None:
        """Wait for a file, and return what the host knows of it.

        None for one that was not sent, or that has changed since.
        """
        sent = self._sent.get(_signature(os.path.realpath(path)))
        return None if sent is None else sent.result()

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
        """Return a name of a file that stays until the call ends."""
        if self._names is None:
            self._names = self._ctx.mktemp()
        name = self._names / str(len(self._sent))
        try:
            os.link(place, name)
        except OSError:  # another disk, or one without hard links
            from pathlib import Path

            return Path(place)
        return name

    def _send(self, ref: str, path: Path) -> Mapping[str, Any]:
        ctx = self._ctx
        ctx.raise_if_canceled()
        revisions = ctx._revisions
        assert revisions is not None, "asked before"
        with self._opening:
            if self._is_over:
                raise CanceledError("the call has ended")
            session = ctx._block(revisions.session(self._destination, self._spec))
        return ctx._block(revisions.put(session, ref, path))


def _signature(path: str) -> _Signature:
    facts = os.stat(path)
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
