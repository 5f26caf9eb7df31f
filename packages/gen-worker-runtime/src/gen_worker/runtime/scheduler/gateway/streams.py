"""One call of a worker, served: its end, and what is written to it.

Two writes at once break a call, and one whose write is canceled does not end: so commands have one
writer, which is let finish what it is writing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import grpc.aio

if TYPE_CHECKING:
    from gen_worker.runtime.scheduler.gateway.session import Session
    from gen_worker.runtime.scheduler.gateway.values import Passage, Refusal
    from gen_worker.runtime.wire import Inbound, StreamRole

__all__ = ["RefusedError", "ServedStream"]

_WRITE_S = 1.0
"""That a write under way may take once its stream is to end."""

_log = logging.getLogger("gen_worker.scheduler.gateway")


class RefusedError(Exception):
    """Ends the stream that is being served. Never leaves the gateway."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.details)
        self.refusal = refusal


class _Unwritten(NamedTuple):
    data: bytes
    command: Inbound | None
    """What the bytes mean; None when whoever sent them did not say."""


class ServedStream:
    """One call. Made in the task that serves it."""

    def __init__(
        self, role: StreamRole, context: grpc.aio.ServicerContext[bytes, bytes], max_bytes: int
    ) -> None:
        """Begin.

        Args:
            role: Of the three.
            context: Of the call.
            max_bytes: Of commands that wait to be written.
        """
        task = asyncio.current_task()
        assert task is not None
        self.role = role
        self.context = context
        self.task = task
        self.is_ending = False
        self.refusal: Refusal | None = None
        """Why it is ended by us; None ends it in order."""
        self.started_unix_ms = 0
        self._max_bytes = max_bytes
        self._queue: deque[_Unwritten] = deque()
        self._news: asyncio.Future[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._is_writing = False
        self.unwritten_bytes = 0

    @property
    def unwritten(self) -> int:
        return len(self._queue)

    def end(self, refusal: Refusal | None = None) -> None:
        """Serve it no longer. From anywhere on the loop; only the first call counts."""
        if self.is_ending:
            return
        self.is_ending = True
        self.refusal = refusal
        # Its own task looks whether it is to go on; canceled, it could not even say goodbye.
        if asyncio.current_task() is not self.task:
            self.task.cancel()

    # Writing.

    def send(self, data: bytes, command: Inbound | None) -> bool:
        """Have bytes written, and tell whether they were taken."""
        if self.unwritten_bytes >= self._max_bytes:
            return False
        self.unwritten_bytes += len(data)
        self._queue.append(_Unwritten(data, command))
        self._wake()
        return True

    def begin_writing(self, session: Session, passage: Passage | None) -> None:
        """Write what is sent, until the stream ends."""
        self._writer = asyncio.get_running_loop().create_task(self._write(session, passage))

    async def end_writing(self) -> None:
        """Write nothing more; what waits is dropped."""
        writer = self._writer
        if writer is None:
            return
        self._wake()
        if self._is_writing:
            await asyncio.wait([writer], timeout=_WRITE_S)
        writer.cancel()
        await asyncio.wait([writer], timeout=_WRITE_S)
        self._queue.clear()

    def _wake(self) -> None:
        news, self._news = self._news, None
        if news is not None and not news.done():
            news.set_result(None)

    async def _write(self, session: Session, passage: Passage | None) -> None:
        loop = asyncio.get_running_loop()
        try:
            while not self.is_ending:
                if not self._queue:
                    self._news = loop.create_future()
                    await self._news
                    continue
                item = self._queue.popleft()
                try:
                    await self._pass(session, passage, item)
                finally:
                    self.unwritten_bytes -= len(item.data)
        except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
            _log.debug("writing to worker %r ended: %r", session.worker_id, error)
            self.end()  # the worker is gone, and the reader may not know yet
        except Exception:
            _log.exception("writing to worker %r failed", session.worker_id)
            self.end()

    async def _pass(self, session: Session, passage: Passage | None, item: _Unwritten) -> None:
        async def write() -> None:
            self._is_writing = True
            try:
                await self.context.write(item.data)
            finally:
                self._is_writing = False
            session.sent += 1
            session.sent_bytes += len(item.data)

        if passage is None or item.command is None:
            await write()
        else:
            await passage.cross(session, "control", item.command, write, is_command=True)
