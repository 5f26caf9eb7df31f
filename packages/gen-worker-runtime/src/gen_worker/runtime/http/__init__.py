"""Serving plain ASGI applications: uvicorn with uvloop and httptools, on TCP or a unix socket."""

from __future__ import annotations

from gen_worker.runtime.http.listener import open_listener, url_of
from gen_worker.runtime.http.server import HttpServer

__all__ = ["HttpServer", "open_listener", "url_of"]
