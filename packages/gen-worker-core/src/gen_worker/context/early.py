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

    from gen_worker.context.producers import ProducerContext

__all__ = ["EarlyUploads"]

_AT_ONCE = 2
_Signature = tuple[int, int, int]


class EarlyUploads:
    """The uploads of one call that began before its function returned.

    Files stay where they are and are sent from there, so nothing is held in memory. Two are sent
    at once, beside the work of the function.
    """

    def __init__(self, ctx: ProducerContext, destination: str, spec: Mapping[str, Any]) -> None:
        """Bind to the revision of a destination, which the first file opens."""
        self._ctx = ctx
        self._destination = destination
        self._spec = spec
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._sent: dict[str, tuple[_Signature, Future[Mapping[str, Any]]]] = {}
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
            for _, known in self._sent.values():
                if known.done():
                    known.result()
            known_signature, _ = self._sent.get(place, (None, None))
            if known_signature == signature:
                return
            if self._executor is None:
                from concurrent.futures import ThreadPoolExecutor

                self._executor = ThreadPoolExecutor(_AT_ONCE, "gen-worker-early")
            self._sent[place] = (signature, self._executor.submit(self._send, place))

    def facts_of(self, path: str | os.PathLike[str]) -> Mapping[str, Any] | None:
        """Wait for a file, and return what the host knows of it.

        None for one that was not sent, or that has changed since.
        """
        place = os.path.realpath(path)
        signature, sent = self._sent.get(place, (None, None))
        if sent is None or signature != _signature(place):
            return None
        return sent.result()

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

    def _send(self, path: str) -> Mapping[str, Any]:
        ctx = self._ctx
        ctx.raise_if_canceled()
        revisions = ctx._revisions
        assert revisions is not None, "asked before"
        with self._opening:
            if self._is_over:
                raise CanceledError("the call has ended")
            session = ctx._block(revisions.session(self._destination, self._spec))
        folder, name = os.path.split(path)
        ref = output_ref(f"{os.path.basename(folder)}/{name}", ctx.workspace_scope_id)
        from pathlib import Path

        return ctx._block(revisions.put(session, ref, Path(path)))


def _signature(path: str) -> _Signature:
    facts = os.stat(path)
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
