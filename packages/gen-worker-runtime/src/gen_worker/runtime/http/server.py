"""A server for one ASGI application."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

import uvicorn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["HttpServer"]

_BACKLOG = 1024


class HttpServer:
    """Serves until it is told to stop. Signals are its caller's business."""

    def __init__(self, app: Any, listener: socket.socket, *, grace_s: float = 10.0) -> None:
        """Prepare to serve.

        Args:
            app: A plain ASGI callable; it needs no lifespan.
            listener: From `open_listener`; closed when the server ends, with its socket file.
            grace_s: How long a stop waits for requests under way.
        """
        self._listener = listener
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=grace_s,  # type: ignore[arg-type]  # passed on to wait_for
        )
        self._server = _Server(config)

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
        self._server.should_exit = True


class _Server(uvicorn.Server):
    ready: Callable[[], object] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.ready is not None:
            self.ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
