"""A server for one ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

import uvicorn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["HttpServer"]

_BACKLOG = 1024
_TICK_S = 1.0
_CLEANUP_S = 5.0
"""For requests that were cut off to clean up; what they use is closed next."""


class HttpServer:
    """Serves until it is told to stop. Signals are its caller's business."""

    def __init__(
        self,
        app: Any,
        listener: socket.socket,
        *,
        grace_s: float = 10.0,
        patience_s: float = 30.0,
        idle_s: float = 5.0,
    ) -> None:
        """Prepare to serve.

        Args:
            app: A plain ASGI callable; it needs no lifespan.
            listener: From `open_listener`; closed when the server ends, with its socket file.
            grace_s: How long a stop waits for requests under way.
            patience_s: How long the head of a request may take, and how long its body may pause.
            idle_s: How long a connection without requests is kept; looked at once a second.
        """
        self._listener = listener
        config = uvicorn.Config(
            app,
            http=_protocol_class(),
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="error",  # what hostile clients send is not worth a line each
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=idle_s,  # type: ignore[arg-type]  # passed on to call_later
            timeout_graceful_shutdown=grace_s,  # type: ignore[arg-type]  # passed on to wait_for
        )
        self._server = _Server(config, patience_s)

    async def serve(self, ready: Callable[[], object] | None = None) -> None:
        """Accept and answer until `stop`; call it on a loop of `gen_worker.runtime.loop.run`.

        Args:
            ready: Called on the loop once connections are accepted.
        """
        is_unix = self._listener.family == socket.AF_UNIX
        path = self._listener.getsockname() if is_unix else ""
        self._server.ready = ready
        try:
            await self._server.serve(sockets=[self._listener])
        finally:
            self._listener.close()
            if path:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    def stop(self) -> None:
        """Accept nothing more, let requests under way end, then end. From any thread."""
        self._server.stop()


def _protocol_class() -> type[asyncio.Protocol]:
    """Return the protocol for the parser that this system has."""
    try:
        from gen_worker.runtime.http.connection import Connection
    except ImportError:
        from gen_worker.runtime.http.plain_connection import PlainConnection

        return PlainConnection
    return Connection


class _Server(uvicorn.Server):
    ready: Callable[[], object] | None = None

    def __init__(self, config: uvicorn.Config, patience_s: float) -> None:
        super().__init__(config)
        self._patience_s = patience_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        if self.ready is not None:
            self.ready()

    async def main_loop(self) -> None:
        """Tick once a second, not ten times: an idle worker is to take no CPU."""
        ticks = 0
        while not await self.on_tick(ticks * 10):
            for connection in tuple(self.server_state.connections):
                connection.close_if_stalled(self._patience_s)  # type: ignore[union-attr]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _TICK_S)
            ticks += 1

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End as uvicorn does, which cancels what takes too long, and wait until it has ended."""
        await super().shutdown(sockets)
        if self.server_state.tasks:
            await asyncio.wait(tuple(self.server_state.tasks), timeout=_CLEANUP_S)

    def stop(self) -> None:
        self.should_exit = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the server with it
                self._loop.call_soon_threadsafe(self._stopping.set)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
