"""The NDJSON server: what all its connections share.

It keeps the table of requests, so that a cancel frame reaches a request of any connection, and the
idle clock. A `Connection` takes the lines of one client, a `Request` answers one of them.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import time
from typing import TYPE_CHECKING

import msgspec

from gen_worker.runtime.ndjson import frames
from gen_worker.runtime.ndjson.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.errors import Failure
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
    max_waiting_bytes: int = 1024 * 1024
    """The same in bytes."""
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
        owner: str | None = None,
        device: str | None = None,
        report: Callable[[Failure], None] = lambda _failure: None,
    ) -> None:
        """Prepare a server; `listen` and `attach_stdio` open its ears.

        Args:
            engine: Runs the calls.
            token: What every frame must carry; empty asks for none.
            limits: What one client may do.
            owner: Whose calls these are.
            device: Where every call runs; None leaves it to the engine.
            report: Told on the loop of every call that failed, for the operator's log.
        """
        self.engine = engine
        self.limits = limits or ServerLimits()
        self.owner = owner
        self.device = device
        self.report = report
        self.is_closing = False
        self._token = token.encode()
        self.requests: dict[str | None, Request] = {}
        """Running and waiting, by id; None is nobody's."""
        self._connections: set[Connection] = set()
        self._listeners: list[asyncio.Server] = []
        self._last_busy = time.monotonic()
        self._changed = asyncio.Event()
        self._id_prefix = f"local-{os.urandom(4).hex()}"
        self._next_number = itertools.count(1).__next__

    async def listen(self, listener: socket.socket) -> None:
        """Accept connections on a bound, listening socket. The idle clock begins now."""
        loop = asyncio.get_running_loop()
        if listener.family == socket.AF_UNIX:
            server = await loop.create_unix_server(
                lambda: Connection(self, "unix"), sock=listener, backlog=1024
            )
        else:
            server = await loop.create_server(
                lambda: Connection(self, "tcp"), sock=listener, backlog=1024
            )
        self._listeners.append(server)
        self._last_busy = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since the last request ended; 0 while one runs or waits."""
        return 0.0 if self.requests else time.monotonic() - self._last_busy

    async def close(self, grace_s: float = 10.0) -> None:
        """Stop accepting, cancel every request, and wait until their answers are sent.

        Args:
            grace_s: How long handlers may take to stop, and clients to read.
        """
        deadline = time.monotonic() + grace_s
        self.is_closing = True
        for listener in self._listeners:
            listener.close()
        for request in list(self.requests.values()):
            request.cancel("shutdown")
        await self._wait_until(self._has_answered, deadline)
        for connection in list(self._connections):
            connection.close()
        await self._wait_until(lambda: not self._connections, deadline)
        for connection in list(self._connections):
            connection.abort()

    def _has_answered(self) -> bool:
        return not self.requests and all(one.has_answered for one in self._connections)

    async def _wait_until(self, is_so: Callable[[], bool], deadline: float) -> None:
        while not is_so():
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), deadline - time.monotonic())
            except TimeoutError:
                return

    # -- what connections ask ----------------------------------------------------------------------

    def next_request_id(self) -> str:
        return f"{self._id_prefix}-{self._next_number()}"

    @property
    def has_token(self) -> bool:
        return bool(self._token)

    def permits(self, token: str) -> bool:
        from hmac import compare_digest  # late: a private socket needs no token

        return compare_digest(token.encode("utf-8", "surrogatepass"), self._token)

    def refusal(self, frame: frames.Frame) -> bytes:
        """Return the answer to a request that comes too late, or whose id is taken."""
        if self.is_closing:
            return frames.stopping_line(frame.request_id)
        text = f"request_id {frame.request_id!r} is already running: give every request its own"
        return frames.usage_line(text, frame.request_id)

    def obey(self, frame: frames.Frame) -> bytes:
        """Do what a cancel or detach frame says; return its acknowledgement."""
        if frame.cancel is not None:
            request_id = frame.cancel.request_id
            request = self.requests.get(request_id)
            is_canceled = request is not None and request.cancel("caller")
            return frames.canceled_line(request_id, canceled=is_canceled)
        assert frame.detach is not None
        request_id = frame.detach.request_id
        request = self.requests.get(request_id)
        if request is not None:
            request.is_detached = True
        return frames.detached_line(request_id, detached=request is not None)

    def opened(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self.is_closing:
            connection.close()

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._changed.set()

    def ended(self, request: Request) -> None:
        del self.requests[request.request_id]
        if not self.requests:
            self._last_busy = time.monotonic()

    def settled(self) -> None:
        """Note that a connection has answered everything it has read."""
        if self.is_closing:
            self._changed.set()
