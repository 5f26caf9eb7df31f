"""The one HTTP application: of `gen-worker serve --http`, of the dev runner, of the scheduler.

A plain ASGI callable. Calls are answered here; all other routes are in `routes`.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hmac import compare_digest
from typing import TYPE_CHECKING

from gen_worker.errors import OverloadedError, classify
from gen_worker.models.hub.local.asgi import Answer, Call, FileAnswer, send_answer, send_file
from gen_worker.models.hub.local.asgi import read_body as fill_body
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.models.hub.local.routing import Router
from gen_worker.runtime.http.answers import encode
from gen_worker.runtime.http.call_routes import (
    CALL_PATH,
    READ_HEADERS,
    SUBMIT_PATH,
    WARMUP_PATH,
    CallRoutes,
)
from gen_worker.runtime.http.exchange import ClientGoneError, respond
from gen_worker.runtime.http.options import HttpOptions
from gen_worker.runtime.http.origins import is_local_host, is_same_origin
from gen_worker.runtime.http.routes import FactRoutes, FileRoutes, ModelRoutes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gen_worker.errors import Failure
    from gen_worker.models.hub.local.routing import Route
    from gen_worker.runtime.http.backend import Backend
    from gen_worker.runtime.http.exchange import Headers, Receive, Scope, Send

__all__ = ["HttpApp"]

_log = logging.getLogger("gen_worker.runtime")

_EVENTS_END = "/events"
_OPEN_PATHS = ("/healthz", "/readyz")
_MAX_KNOWN = 1024


class HttpApp:
    """A plain ASGI callable; all of it runs on one event loop."""

    def __init__(
        self,
        backend: Backend,
        options: HttpOptions | None = None,
        *,
        report: Callable[[Failure], None] = lambda _failure: None,
    ) -> None:
        """Answer for a backend.

        Args:
            backend: Where calls go.
            options: What is allowed.
            report: Told on the loop of every call that failed, for the operator's log.
        """
        self.backend = backend
        self.options = options or HttpOptions()
        self._token = self.options.token.encode()
        self._executor = ThreadPoolExecutor(4, "http")
        self._hosts: set[bytes] = set()
        self._calls = CallRoutes(backend, self.options, self._admit, report)
        self.express = self._calls.express
        """Used by our own server; see `exchange.Express`."""
        self._router = Router(self._table())

    def _table(self) -> Iterable[Route]:
        backend = self.backend
        yield from FactRoutes(backend, lambda: self.is_draining).table()
        yield from self._calls.jobs.table()
        if backend.files is not None:
            limit = self.options.max_body_bytes
            yield from FileRoutes(backend.files, self._executor, limit).table()
        if backend.models is not None:
            yield from ModelRoutes(backend.models).table()

    @property
    def is_draining(self) -> bool:
        """Whether new calls are refused; those under way go on."""
        return self._calls.is_draining

    def drain(self) -> None:
        """Refuse new calls from now on."""
        self._calls.is_draining = True

    @property
    def active_calls(self) -> int:
        """Calls whose callers wait."""
        return self._calls.active

    @property
    def idle_s(self) -> float:
        """Seconds since the last call or submitted request ended; 0 while one runs."""
        return self._calls.idle_s

    def close(self) -> None:
        """Let go of the threads; nothing is answered any more."""
        self._calls.pings.close()
        self._executor.shutdown(wait=False, cancel_futures=True)

    # -- from a request to what answers it ---------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _answer_other(scope, receive, send)
            return
        headers: Headers = {name: value for name, value in scope["headers"] if name in READ_HEADERS}
        try:
            if self._token or self.options.is_loopback or b"origin" in headers:
                self._admit(scope["path"], headers)
            if scope["method"] == "POST" and scope["path"].startswith(CALL_PATH):
                await self._calls.call(scope, headers, receive, send)
            else:
                await self._route(scope, headers, receive, send)
        except Refusal as refusal:
            await self._refuse(scope, refusal, send)
        except OverloadedError as error:
            await self._fail(error, send)
        except ClientGoneError:
            return
        except Exception:  # of one request; the server goes on
            _log.exception("%s %s failed", scope["method"], scope["path"])
            failed = Refusal(500, "internal", "the server failed; its log says why")
            with suppress(RuntimeError):  # the answer has begun
                await self._refuse(scope, failed, send)

    def _admit(self, path: str, headers: Headers) -> None:
        """Refuse who may not ask, and web pages that make a browser ask."""
        if self._token:
            if path in _OPEN_PATHS:
                return
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not compare_digest(given.strip(), self._token):
                raise Refusal(
                    401, "unauthorized", "a token is needed: send 'Authorization: Bearer <token>'"
                )
            return
        host = headers.get(b"host", b"")
        if self.options.is_loopback and host not in self._hosts:
            if not is_local_host(host):
                raise Refusal(403, "forbidden_host", "this server answers to localhost only")
            if len(self._hosts) < _MAX_KNOWN:
                self._hosts.add(host)
        origin = headers.get(b"origin")
        if origin is not None and not is_same_origin(origin, host):
            raise Refusal(403, "forbidden_origin", "web pages of other origins are not answered")

    async def _route(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path == SUBMIT_PATH and method == "POST":
            await self._calls.submit(headers, receive, send)
        elif path.startswith(WARMUP_PATH) and method == "POST":
            await self._calls.warm_up(scope, headers, receive, send)
        elif path.startswith("/v1/requests/") and path.endswith(_EVENTS_END) and method == "GET":
            await self._calls.follow(scope, headers, receive, send)
        elif path.startswith((CALL_PATH, WARMUP_PATH)) or path == SUBMIT_PATH:
            raise Refusal(405, "method_not_allowed", "here is POST")
        else:
            await self._others(scope, receive, send)

    async def _others(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, receive)
        route, call.params = self._router.find(call.method, call.segments)
        answer: Answer | FileAnswer
        if route.is_stream:
            answer = await route.handler(call)
        else:
            await fill_body(call, self.options.max_body_bytes)
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(self._executor, route.handler, call)
        if isinstance(answer, FileAnswer):
            try:
                await send_file(call, answer, send, self._executor)
                return
            except FileNotFoundError:  # removed since it was looked for; nothing was sent yet
                raise Refusal(404, "file_not_found", "there is no such file") from None
        await send_answer(answer, send, with_body=call.method != "HEAD")

    async def _refuse(self, scope: Scope, refusal: Refusal, send: Send) -> None:
        headers = {}
        if refusal.status == 401:
            headers["www-authenticate"] = "Bearer"
        elif refusal.status == 503:
            headers["retry-after"] = "1"
        if self.options.is_plain and refusal.code == "unknown_function":
            answer = Answer(str(refusal).encode(), status=404, content_type="text/plain")
        else:
            answer = Answer(refusal.to_dict(), status=refusal.status, headers=headers)
        await send_answer(answer, send, with_body=scope["method"] != "HEAD")

    async def _fail(self, error: OverloadedError, send: Send) -> None:
        failure = classify(error, origin="input")
        status, more = self._calls.status(failure)
        body = {"error": failure.error_type, "message": failure.message}
        await respond(send, status, encode(body), *more)


async def _answer_other(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "lifespan":
        raise ValueError(f"HTTP is spoken here, not {scope['type']!r}")
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
