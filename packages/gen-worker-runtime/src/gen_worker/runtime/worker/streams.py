"""One bidirectional gRPC stream of bytes: one reader, one writer.

Two writes at once break a call, and canceling a task inside `read` or `write` ends it: so nothing
but the two loops here ever awaits one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import grpc.aio

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.runtime.worker.outbox import Outbox, Role

__all__ = ["End", "Stream", "ended"]


async def ended(*tasks: asyncio.Future[Any]) -> None:
    """Wait until tasks have ended, also when this one is canceled meanwhile, even twice.

    What they took from the outbox is back in it only then. The cancellation follows afterwards.
    """
    is_canceled = False
    while running := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError:
            is_canceled = True
    for task in tasks:
        if not task.cancelled():
            task.exception()  # whoever wants it can ask; asyncio needs to complain no more
    if is_canceled:
        raise asyncio.CancelledError


class End(NamedTuple):
    """How a stream ended."""

    code: str
    """Name of the gRPC status; `OK` for a clean end."""
    details: str = ""
    is_complete: bool = False
    """Whether the other end said so after all was written, and so has read it."""


class Stream:
    """Writes what the outbox has for its role, hands on what it reads, and ends once."""

    def __init__(
        self,
        role: Role,
        outbox: Outbox,
        *,
        opened: Callable[[], None],
        received: Callable[[bytes], None],
    ) -> None:
        """Prepare a stream.

        Args:
            role: Which messages it writes.
            outbox: Where they come from.
            opened: Called once the transport is ready and the first message is written.
            received: Called with each message; must not block.
        """
        self.role = role
        self._outbox = outbox
        self._opened = opened
        self._received = received
        self._news: asyncio.Future[None] | None = None
        self._is_finishing = self._has_finished = False

    def wake(self) -> None:
        """Look into the outbox again. On the loop."""
        news, self._news = self._news, None
        if news is not None and not news.done():
            news.set_result(None)

    def finish(self) -> None:
        """Write what waits, then say that no more will come. On the loop."""
        self._is_finishing = True
        self.wake()

    async def run(
        self,
        channel: grpc.aio.Channel,
        method: str,
        metadata: tuple[tuple[str, str], ...],
        first: bytes,
    ) -> End:
        """Open the stream, write `first` before anything else, and go on until it ends.

        Canceling this closes the stream. Whatever was being written is back in the outbox then.
        """
        open_stream: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
        open_stream = channel.stream_stream(method)
        call = open_stream(metadata=metadata)
        writer: asyncio.Task[None] | None = None
        try:
            await call.write(first)
            self._opened()
            writer = asyncio.get_running_loop().create_task(self._write(call))
            while isinstance(data := await call.read(), bytes):  # anything else is the end
                self._received(data)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the status below says why
        finally:
            call.cancel()
            if writer is not None:
                writer.cancel()
                await ended(writer)
        code = await call.code()
        is_complete = self._has_finished and code is grpc.StatusCode.OK
        return End(code.name, await call.details() or "", is_complete)

    async def _write(self, call: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
        outbox, role, loop = self._outbox, self.role, asyncio.get_running_loop()
        while True:
            outgoing = outbox.next(role)
            if outgoing is None:
                if self._is_finishing:
                    await call.done_writing()
                    self._has_finished = True
                    return
                self._news = loop.create_future()
                await self._news
                continue
            try:
                await call.write(outgoing.data)
            except BaseException:
                outbox.returned(outgoing)
                raise
            outbox.written(outgoing)
