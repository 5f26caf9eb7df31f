"""A network between two ends of a connection, which breaks and falls silent when it is told to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Cable"]

_CHUNK_BYTES = 16 * 1024


class Cable:
    """Carries bytes between whoever connects to `address` and a server, whatever they say.

    Example:
        async with Orchestrator() as orchestrator, Cable(orchestrator.address) as cable:
            ...  # a worker connects to cable.address
            cable.cut()
    """

    def __init__(self, target: str) -> None:
        """Prepare to carry.

        Args:
            target: `host:port` of the server.
        """
        self._target = target
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._cut_after_bytes: int | None = None
        self.address = ""
        """Where to connect to instead."""
        self.connections = 0
        """How many there were."""
        self.carried_bytes = 0
        """In both directions."""
        self.chunk_delay_s = 0.0
        """What 16 KiB take, in each direction."""
        self.is_refusing = False
        """Whether new connections are broken at once."""

    async def __aenter__(self) -> Cable:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        self.resume()
        while self._links:
            await asyncio.wait([link.task for link in self._links])

    def cut(self) -> None:
        """Break every connection, in the middle of whatever is said."""
        for link in self._links:
            link.abort()

    def cut_after(self, more_bytes: int) -> None:
        """Break every connection once so many more bytes were carried."""
        self._cut_after_bytes = self.carried_bytes + more_bytes

    def stall(self) -> None:
        """Carry nothing more on the connections there are, without closing one."""
        for link in self._links:
            link.flowing.clear()

    def resume(self) -> None:
        """Carry on, with what was held back first."""
        for link in self._links:
            link.flowing.set()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.is_refusing:
            writer.transport.abort()
            return
        host, _, port = self._target.rpartition(":")
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        link = _Link(task, writer, far_writer)
        self._links.add(link)
        try:
            ways = (
                asyncio.ensure_future(self._pump(link, reader, far_writer)),
                asyncio.ensure_future(self._pump(link, far_reader, writer)),
            )
            await asyncio.wait(ways)
        finally:
            link.abort()
            self._links.discard(link)

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while data := await reader.read(_CHUNK_BYTES):
                await link.flowing.wait()
                if self.chunk_delay_s:
                    await asyncio.sleep(self.chunk_delay_s)
                data, is_last = self._allowed(data)
                writer.write(data)
                await writer.drain()
                if is_last:
                    self.cut()
                    return
            writer.write_eof()
        except (OSError, RuntimeError):
            link.abort()  # one side is gone

    def _allowed(self, data: bytes) -> tuple[bytes, bool]:
        """Return what of these bytes is carried, and whether the connections break after it."""
        limit = self._cut_after_bytes
        is_last = limit is not None and self.carried_bytes + len(data) >= limit
        if is_last and limit is not None:
            data = data[: limit - self.carried_bytes]
            self._cut_after_bytes = None
        self.carried_bytes += len(data)
        return data, is_last


class _Link:
    """One connection, both ways."""

    def __init__(
        self, task: asyncio.Task[None], near: asyncio.StreamWriter, far: asyncio.StreamWriter
    ) -> None:
        self.task = task
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._writers = (near, far)

    def abort(self) -> None:
        self.flowing.set()
        for writer in self._writers:
            writer.transport.abort()
