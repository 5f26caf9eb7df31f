"""One address for all: the API of clients, the files of workers, and the key of their tokens."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from gen_worker.models.hub.local.asgi import Answer, send_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.models.hub.local.app import HubApp
    from gen_worker.runtime.http import HttpApp
    from gen_worker.runtime.http.exchange import Receive, Scope, Send

__all__ = ["JWKS_PATH", "Front"]

JWKS_PATH = "/.well-known/jwks.json"
_FILES = ("/api/v1/file/", "/api/v1/media/", "/upload/")


class Front:
    """A plain ASGI callable that passes on by path."""

    def __init__(self, app: HttpApp, store: HubApp, jwks: Callable[[], dict[str, Any]]) -> None:
        """Put them together.

        Args:
            app: Answers everything but the rest.
            store: Answers workers, each for what its job's token says.
            jwks: Returns the public key of workers' tokens; may block.
        """
        self.express = app.express
        """Used by our own server; see `gen_worker.runtime.http.exchange.Express`."""
        self._app = app
        self._store = store
        self._jwks = jwks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        if path.startswith(_FILES):
            await self._store(scope, receive, send)
        elif path == JWKS_PATH and scope["method"] in ("GET", "HEAD"):
            answer = Answer(await asyncio.to_thread(self._jwks))
            await send_answer(answer, send, with_body=scope["method"] == "GET")
        else:
            await self._app(scope, receive, send)
