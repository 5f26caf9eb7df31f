"""A listener for whoever watches a worker: `/metrics`, `/healthz` and `/readyz`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.errors import SettingsError, ValidationError
from gen_worker.runtime.telemetry.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gen_worker.runtime.http import HttpServer
    from gen_worker.runtime.ndjson.address import TcpAddress, UnixAddress

    Answer = tuple[int, bytes, str]

__all__ = ["Probes", "open_metrics_server", "parse_metrics_address"]

_TEXT = "text/plain; charset=utf-8"


class Probes:
    """The ASGI application. Its callables are called on the loop and must not block."""

    def __init__(
        self,
        exposition: Callable[[], bytes],
        *,
        trouble: Callable[[], str],
        unready: Callable[[], str],
    ) -> None:
        """Serve what these say.

        Args:
            exposition: All figures, in the text format of Prometheus.
            trouble: Why only a new process can do the work of this one; empty while it can.
            unready: Why requests had better not come here now; empty if they may.
        """
        self._exposition = exposition
        self._trouble = trouble
        self._unready = unready

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        status, body, content_type = self._answer(scope["method"], scope["path"])
        headers = [
            (b"content-type", content_type.encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        if status == 405:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        shown = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": shown})

    def _answer(self, method: str, path: str) -> Answer:
        if path not in ("/metrics", "/healthz", "/readyz"):
            return 404, b"there are /metrics, /healthz and /readyz\n", _TEXT
        if method not in ("GET", "HEAD"):
            return 405, b"use GET\n", _TEXT
        if path == "/metrics":
            return 200, self._exposition(), CONTENT_TYPE
        if path == "/healthz":
            return _state(self._trouble())
        return _state(self._unready())


def _state(trouble: str) -> Answer:
    return 503 if trouble else 200, f"{trouble or 'ok'}\n".encode(), _TEXT


def open_metrics_server(address: str, probes: Probes) -> HttpServer:
    """Listen; the server answers once its `serve` runs.

    Args:
        address: `host:port` or `:port`, which means this machine alone; `unix:///path` too.
        probes: The application.

    Raises:
        SettingsError: It is no address.
        ListenError: It is taken or out of reach.
    """
    import logging

    from gen_worker.runtime.http import HttpServer, open_listener
    from gen_worker.runtime.http.listener import url_of
    from gen_worker.runtime.ndjson.claim import ListenError

    try:
        listener = open_listener(parse_metrics_address(address))
    except ListenError as error:
        raise ListenError(f"WORKER_METRICS_ADDR {address!r} is not to be had: {error}") from error
    logging.getLogger("gen_worker.telemetry").info("figures are on %s", url_of(listener))
    return HttpServer(probes, listener, grace_s=1.0)


def parse_metrics_address(text: str) -> TcpAddress | UnixAddress:
    """Read an address as operators write it.

    Raises:
        SettingsError: It is none.
    """
    from gen_worker.runtime.ndjson.address import parse_address

    try:
        return parse_address(text if "://" in text or text.startswith("/") else f"tcp://{text}")
    except ValidationError:
        problem = f"WORKER_METRICS_ADDR {text!r} is no address: write host:port or :port"
        raise SettingsError((problem,)) from None
