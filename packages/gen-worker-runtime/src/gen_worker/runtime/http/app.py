"""The one HTTP application: of `gen-worker serve --http`, of the dev runner, of the scheduler.

A plain ASGI callable. Calls are answered here; all other routes are in a table.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from gen_worker.models.hub.local.asgi import Answer, FileAnswer, send_answer, send_file
from gen_worker.models.hub.local.asgi import read_body as fill_body
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.models.hub.local.routing import Router
from gen_worker.runtime.http.call_routes import READ_HEADERS, WARMUP_PATH, CallRoutes
from gen_worker.runtime.http.entrance import CALL_PATH
from gen_worker.runtime.http.exchange import ClientGoneError, respond
from gen_worker.runtime.http.gate import Gate, require
from gen_worker.runtime.http.job_routes import SUBMIT_PATH
from gen_worker.runtime.http.options import HttpOptions
from gen_worker.runtime.http.refusals import reply_to_error
from gen_worker.runtime.http.routes import FactRoutes, FileRoutes, ModelRoutes
from gen_worker.runtime.http.table import HttpCall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gen_worker.errors import Failure
    from gen_worker.runtime.http.backend import Backend
    from gen_worker.runtime.http.credentials import Principal
    from gen_worker.runtime.http.exchange import Headers, Receive, Scope, Send
    from gen_worker.runtime.http.table import HttpRoute

__all__ = ["HttpApp"]

_EVENTS_END = "/events"


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
        self._gate = Gate(self.options)
        self._executor = ThreadPoolExecutor(4, "http")
        self._calls = CallRoutes(backend, self.options, self._gate, report)
        self.express = self._calls.express
        """Used by our own server; see `exchange.Express`."""
        self._table = tuple(self._routes())
        self._router = Router(self._table)

    def _routes(self) -> Iterable[HttpRoute]:
        backend = self.backend
        yield from FactRoutes(backend, lambda: self._table, lambda: self.is_draining).table()
        yield from self._calls.table()
        if backend.files is not None:
            limit = self.options.max_body_bytes
            yield from FileRoutes(backend.files, self._executor, limit).table()
        if backend.models is not None:
            yield from ModelRoutes(backend.models).table()
        yield from backend.routes

    @property
    def is_draining(self) -> bool:
        """Whether new calls are refused; those under way go on."""
        return self._calls.is_draining

    def drain(self) -> None:
        """Refuse new calls from now on.

        Whoever waits for a request that goes on without this process is told to come back.
        """
        self._calls.drain()

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
            caller = self._gate.admit(scope["path"], headers)
            if scope["method"] == "POST" and scope["path"].startswith(CALL_PATH):
                await self._calls.call(scope, headers, caller, receive, send)
            else:
                await self._route(scope, headers, caller, receive, send)
        except ClientGoneError:
            return
        except Exception as error:  # of one request; the server goes on
            await self._answer_error(scope, error, send)

    async def _route(
        self, scope: Scope, headers: Headers, caller: Principal, receive: Receive, send: Send
    ) -> None:
        path, method = scope["path"], scope["method"]
        if path == SUBMIT_PATH and method == "POST":
            await self._calls.jobs.submit(headers, caller, receive, send)
        elif path.startswith(WARMUP_PATH) and method == "POST":
            await self._calls.warm_up(scope, headers, caller, receive, send)
        elif path.startswith("/v1/requests/") and path.endswith(_EVENTS_END) and method == "GET":
            await self._calls.jobs.follow(scope, headers, caller, receive, send)
        else:
            await self._others(scope, caller, receive, send)

    async def _others(self, scope: Scope, caller: Principal, receive: Receive, send: Send) -> None:
        call = HttpCall(scope, receive)
        call.caller = caller
        route, call.params = self._router.find(call.method, call.segments)
        require(caller, route.needs)
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

    async def _answer_error(self, scope: Scope, error: Exception, send: Send) -> None:
        is_plain = self.options.is_plain
        if is_plain and isinstance(error, Refusal) and error.code == "unknown_function":
            answer = Answer(str(error).encode(), status=404, content_type="text/plain")
            await send_answer(answer, send, with_body=scope["method"] != "HEAD")
            return
        what = f"{scope['method']} {scope['path']}"
        status, body, headers = reply_to_error(error, what, is_plain=is_plain)
        with suppress(RuntimeError):  # the answer has begun
            await respond(send, status, body, *headers, has_body=scope["method"] != "HEAD")


async def _answer_other(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "lifespan":
        raise ValueError(f"HTTP is spoken here, not {scope['type']!r}")
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
