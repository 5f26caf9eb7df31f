"""The NDJSON server: what all its connections share.

It keeps the table of running requests, so that a cancel frame reaches a request of any connection,
and the idle clock. A `Connection` parses the lines of one client, a `Request` answers one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import socket
import time
from typing import TYPE_CHECKING

import msgspec

from gen_worker.runtime.ndjson.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.runtime.engine import Engine
    from gen_worker.runtime.ndjson.request import Request

__all__ = ["Server", "ServerLimits"]


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one client may do."""

    max_frame_bytes: int = 64 * 1024 * 1024
    frame_timeout_s: float = 30.0
    """How long a connection may stay silent before its first frame is complete."""
    max_waiting_frames: int = 64
    """Frames read ahead on one kept-open connection before reading pauses."""
    write_buffer_bytes: int = 256 * 1024
    """Answers buffered for a slow reader before its call is paused."""
    max_answer_bytes: int = 64 * 1024 * 1024
    """A streamed output collected for a client that did not ask for a stream."""


class Server:
    """Answers frames with an engine. Lives on one running event loop."""

    def __init__(
        self,
        engine: Engine,
        *,
        token: str = "",
        limits: ServerLimits | None = None,
        device: str | None = None,
    ) -> None:
        """Prepare a server; `listen` and `attach_stdio` open its ears.

        Args:
            engine: Runs the calls.
            token: What every frame must carry; empty asks for none.
            limits: What one client may do.
            device: Passed on to every call; None leaves it to the engine.
        """
        self.engine = engine
        self.limits = limits or ServerLimits()
        self.device = device
        self._token = token.encode()
        self._running: dict[str, Request] = {}
        self._connections: set[Connection] = set()
        self._listeners: list[asyncio.Server] = []
        self._last_busy = time.monotonic()
        self._is_closing = False
        self._idle: asyncio.Event | None = None
        self._id_prefix = f"local-{os.urandom(4).hex()}"
        self._next_id = 0

    async def listen(self, listener: socket.socket) -> None:
        """Accept connections on a bound socket."""
        loop = asyncio.get_running_loop()
        if listener.family == socket.AF_UNIX:
            server = await loop.create_unix_server(
                lambda: Connection(self, is_local=True), sock=listener, backlog=1024
            )
        else:
            server = await loop.create_server(
                lambda: Connection(self, is_local=False), sock=listener, backlog=1024
            )
        self._listeners.append(server)

    def console(self, on_end: Callable[[], None]) -> asyncio.Protocol:
        """Return the protocol for a trusted byte stream such as stdin.

        Args:
            on_end: Called once, when the input has ended and every frame of it is answered.
        """
        return Connection(self, is_local=True, on_end=on_end)

    @property
    def idle_s(self) -> float:
        """Seconds since the last request ended; 0 while one runs or waits."""
        return 0.0 if self._running else time.monotonic() - self._last_busy

    async def close(self, grace_s: float = 10.0) -> None:
        """Stop accepting, cancel every request, and wait for their answers to be written."""
        self._is_closing = True
        for listener in self._listeners:
            listener.close()
        self._idle = asyncio.Event()
        for request in list(self._running.values()):
            request.cancel("shutdown")
        if self._running:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), grace_s)
        for connection in list(self._connections):
            connection.close()

    def next_request_id(self) -> str:
        self._next_id += 1
        return f"{self._id_prefix}-{self._next_id}"

    def permits(self, token: str) -> bool:
        return not self._token or hmac.compare_digest(token.encode(), self._token)

    def cancel(self, request_id: str) -> bool:
        request = self._running.get(request_id)
        return request is not None and request.cancel("caller")

    @property
    def is_closing(self) -> bool:
        return self._is_closing

    def opened(self, connection: Connection) -> None:
        self._connections.add(connection)

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def began(self, request: Request) -> None:
        self._running[request.request_id] = request

    def ended(self, request: Request) -> None:
        if self._running.get(request.request_id) is request:
            del self._running[request.request_id]
        self._last_busy = time.monotonic()
        if self._idle is not None and not self._running:
            self._idle.set()

    def is_running(self, request_id: str) -> bool:
        return request_id in self._running
