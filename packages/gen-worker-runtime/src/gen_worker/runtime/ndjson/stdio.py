"""Standard input and output as one more connection of the server."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.runtime.ndjson.server import Server

__all__ = ["attach_stdio"]

_CHUNK_BYTES = 256 * 1024


def attach_stdio(
    server: Server, on_end: Callable[[], None], *, stdin: int = 0, stdout: int = 1
) -> None:
    """Answer frames read from `stdin` on `stdout`, one after the other.

    Both may be files, pipes or a terminal. A reader that stalls `stdout` stalls the server: nothing
    is buffered for it.

    Args:
        server: Runs the requests; its event loop is the running one.
        on_end: Called on the loop once the input has ended and everything is answered.
        stdin: File descriptor to read.
        stdout: File descriptor to write.
    """
    loop = asyncio.get_running_loop()
    connection = server.console(on_end)
    transport = _StdoutTransport(stdout)
    connection.connection_made(transport)

    def read() -> None:
        while data := os.read(stdin, _CHUNK_BYTES):
            transport.wait_until_reading()
            loop.call_soon_threadsafe(connection.data_received, data)
        loop.call_soon_threadsafe(connection.eof_received)

    # A daemon: a read that never returns must not keep the process from ending.
    threading.Thread(target=read, name="gen-worker-stdin", daemon=True).start()


class _StdoutTransport(asyncio.Transport):
    """The part of a transport that a connection uses, over a plain descriptor."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._reading = threading.Event()
        self._reading.set()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered."""

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """The descriptors belong to the process."""

    def is_reading(self) -> bool:
        return self._reading.is_set()

    def pause_reading(self) -> None:
        self._reading.clear()

    def resume_reading(self) -> None:
        self._reading.set()

    def wait_until_reading(self) -> None:
        self._reading.wait()
