"""One run of an HTTP host: from its listener to its end, which lets what is under way finish."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from gen_worker.runtime.http.server import HttpServer

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from gen_worker.runtime.http.app import HttpApp

__all__ = ["serve_app"]

_LOOK_S = 0.05


async def serve_app(
    app: HttpApp,
    listener: socket.socket,
    stop: asyncio.Event,
    *,
    ready: Callable[[], object] | None = None,
    drain_s: float = 30.0,
) -> None:
    """Answer until `stop` is set; then let calls, streams and submitted requests end.

    Args:
        app: What is served; closed in the end.
        listener: From `open_listener`; closed in the end.
        stop: The word to stop.
        ready: Called on the loop once connections are accepted.
        drain_s: How long what is under way may go on after the word; what is left is canceled.
    """
    server = HttpServer(app, listener, grace_s=drain_s)
    serving = asyncio.ensure_future(server.serve(ready))
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        app.drain()
        deadline = time.monotonic() + drain_s
        server.stop()
        await serving
        # Submitted requests have no connection that would be waited for.
        while app.backend.jobs.running and time.monotonic() < deadline:
            await asyncio.sleep(_LOOK_S)
    finally:
        stopping.cancel()
        app.close()
