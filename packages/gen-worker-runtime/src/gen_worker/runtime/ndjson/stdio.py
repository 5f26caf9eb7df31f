"""Standard input and output as one more connection of the server."""

from __future__ import annotations

import asyncio
import os
import select
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

from gen_worker.runtime.ndjson.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.runtime.ndjson.server import Server

__all__ = ["attach_stdio"]

_CHUNK_BYTES = 256 * 1024


def attach_stdio(
    server: Server,
    on_end: Callable[[OSError | None], None],
    *,
    stdin: int = 0,
    stdout: int = 1,
) -> None:
    """Answer frames read from `stdin` on `stdout`, one after the other. No token is asked for.

    Both may be files, pipes or a terminal. They are read and written in threads of their own: a
    reader that stalls holds its own requests back and nobody else's.

    Args:
        server: Runs the requests; its event loop is the running one.
        on_end: Called on the loop once: when the input has ended and everything is answered, or
            with what broke the output.
        stdin: File descriptor to read.
        stdout: File descriptor to write.
    """
    connection = Connection(server, "console")
    transport = _StdioTransport(connection, on_end, stdin, stdout)
    connection.connection_made(transport)
    transport.start()


class _StdioTransport(asyncio.Transport):
    """The part of a transport that a connection uses, over two plain descriptors.

    Not a pipe transport: asyncio's would make descriptors non-blocking that other processes share,
    and cannot take regular files.
    """

    def __init__(
        self,
        connection: Connection,
        on_end: Callable[[OSError | None], None],
        stdin: int,
        stdout: int,
    ) -> None:
        super().__init__()
        self._connection = connection
        self._on_end = on_end
        self._stdin = stdin
        self._stdout = stdout
        self._loop = asyncio.get_running_loop()
        self._may_read = threading.Event()
        self._is_reading = True
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._unwritten = 0
        self._high = _CHUNK_BYTES
        self._is_over_high = False
        self._is_closing = False
        self._is_lost = False

    def start(self) -> None:
        # Daemons: a read or write that never returns must not keep the process from ending.
        for work in (self._read, self._write_out):
            name = f"gen-worker-std{'in' if work == self._read else 'out'}"
            threading.Thread(target=work, name=name, daemon=True).start()
        self._may_read.set()

    # -- in their threads --------------------------------------------------------------------------

    def _read(self) -> None:
        data = b"?"
        while data:
            self._may_read.wait()
            self._may_read.clear()
            try:
                data = os.read(self._stdin, _CHUNK_BYTES)
            except BlockingIOError:
                select.select([self._stdin], [], [])
                self._may_read.set()
                continue
            except OSError:  # the terminal has gone: the end of input, said another way
                data = b""
            self._post(self._received, data)

    def _write_out(self) -> None:
        while (data := self._outbox.get()) is not None:
            try:
                self._write_all(data)
            except OSError as error:
                self._post(self._lose, error)
                return
            self._post(self._written, len(data))
        self._post(self._lose, None)

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._stdout, view) :]
            except BlockingIOError:  # somebody who shares the pipe made it non-blocking
                select.select([], [self._stdout], [])

    def _post(self, function: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed: nobody is left to tell
            return

    # -- on the loop -------------------------------------------------------------------------------

    def _received(self, data: bytes) -> None:
        if self._is_lost:
            return
        if not data:
            self._connection.eof_received()
            return
        self._connection.data_received(data)
        if self._is_reading:
            self._may_read.set()

    def _written(self, size_bytes: int) -> None:
        self._unwritten -= size_bytes
        if self._is_over_high and self._unwritten <= self._high // 4:
            self._is_over_high = False
            self._connection.resume_writing()

    def _lose(self, error: OSError | None) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        self._connection.connection_lost(error)
        self._on_end(error)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_closing or self._is_lost:
            return
        self._unwritten += len(data)
        self._outbox.put(bytes(data))
        if not self._is_over_high and self._unwritten > self._high:
            self._is_over_high = True
            self._connection.pause_writing()

    def close(self) -> None:
        """Close once everything is written; the descriptors belong to the process."""
        if not self._is_closing:
            self._is_closing = True
            self._outbox.put(None)

    def abort(self) -> None:
        self._is_closing = True
        self._lose(None)

    def is_closing(self) -> bool:
        return self._is_closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high or _CHUNK_BYTES

    def get_write_buffer_size(self) -> int:
        return self._unwritten

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True
        self._may_read.set()
