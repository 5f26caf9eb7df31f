"""The one HTTP application: of `gen-worker serve --http`, of the dev runner, of the scheduler.

A plain ASGI callable. Calls are answered here; all other routes are in `routes`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hmac import compare_digest
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import (
    OverloadedError,
    UnknownFunctionError,
    classify,
)
from gen_worker.events import Failed, Result
from gen_worker.models.hub.local.asgi import (
    Answer,
    Call,
    FileAnswer,
    send_answer,
    send_file,
)
from gen_worker.models.hub.local.asgi import read_body as fill_body
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.models.hub.local.routing import Router
from gen_worker.runtime.http.answers import encode, retry_after, status_of
from gen_worker.runtime.http.calls import StreamedCall, WholeCall
from gen_worker.runtime.http.exchange import (
    ClientGoneError,
    Departures,
    read_body,
    respond,
    send_events,
    start_events,
)
from gen_worker.runtime.http.origins import is_local_host, is_same_origin
from gen_worker.runtime.http.requests import invocation_from, invocation_of, read_submission
from gen_worker.runtime.http.routes import FactRoutes, FileRoutes, JobRoutes, ModelRoutes
from gen_worker.runtime.http.targets import parse_target, target_of_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gen_worker.errors import Failure
    from gen_worker.models.hub.local.routing import Route
    from gen_worker.runtime.engine import Invocation
    from gen_worker.runtime.http.backend import Backend
    from gen_worker.runtime.http.exchange import Headers, Receive, Scope, Send
    from gen_worker.runtime.http.jobs import Job, Reader

__all__ = ["HttpApp", "HttpOptions"]

_log = logging.getLogger("gen_worker.runtime")

_CALL = "/v1/request/"
_SUBMIT = "/v1/requests"
_WARMUP = "/v1/warmup/"
_EVENTS_END = "/events"
_READ_HEADERS = frozenset(
    (
        b"accept",
        b"authorization",
        b"content-length",
        b"host",
        b"idempotency-key",
        b"last-event-id",
        b"origin",
    )
)
_OPEN_PATHS = ("/healthz", "/readyz")
_MAX_KNOWN = 1024
_MAX_KEY_CHARS = 256


class HttpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What one host allows and how it answers."""

    token: str = ""
    """What `Authorization: Bearer` must carry; empty asks for none."""
    is_loopback: bool = False
    """Whether only this machine can connect: then no other name of a host is answered, which a
    web page could have made to lead here."""
    owner: str | None = None
    """Whose calls these are, unless the caller says."""
    max_body_bytes: int = 256 * 1024 * 1024
    max_answer_bytes: int = 64 * 1024 * 1024
    """A streamed output collected for a client that did not ask for a stream."""
    ping_s: float = 15.0
    """After so long without an event a stream shows a sign of life."""
    is_plain: bool = False
    """Answer as `gen_worker.testing.http_runner` is documented: 200, 400, 404 as text, 500."""


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
        self.is_draining = False
        """Whether new calls are refused; those under way go on."""
        self._report = report
        self._token = self.options.token.encode()
        self._executor = ThreadPoolExecutor(4, "http")
        self._router = Router(self._table())
        self._calls: dict[str, WholeCall | StreamedCall] = {}
        self._streams: set[Any] = set()
        self._known: dict[str, str] = {}
        self._hosts: set[bytes] = set()
        self._departures: Departures | None = None
        self._ping: asyncio.TimerHandle | None = None
        self._id_prefix = f"http-{os.urandom(4).hex()}"
        self._next_id = 0
        self._last_busy = time.monotonic()

    def _table(self) -> Iterable[Route]:
        backend = self.backend
        self._job_routes = JobRoutes(backend, self._cancel)
        yield from FactRoutes(backend, lambda: self.is_draining).table()
        yield from self._job_routes.table()
        if backend.files is not None:
            limit = self.options.max_body_bytes
            yield from FileRoutes(backend.files, self._executor, limit).table()
        if backend.models is not None:
            yield from ModelRoutes(backend.models).table()

    @property
    def active_calls(self) -> int:
        """Calls whose callers wait."""
        return len(self._calls)

    @property
    def idle_s(self) -> float:
        """Seconds since the last call ended; 0 while one runs."""
        return 0.0 if self._calls else time.monotonic() - self._last_busy

    def close(self) -> None:
        """Let go of the threads; nothing is answered any more."""
        if self._ping is not None:
            self._ping.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    # -- from a request to what answers it ---------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _answer_other(scope, receive, send)
            return
        headers: Headers = {
            name: value for name, value in scope["headers"] if name in _READ_HEADERS
        }
        try:
            if self._token or self.options.is_loopback or b"origin" in headers:
                self._admit(scope, headers)
            if scope["method"] == "POST" and scope["path"].startswith(_CALL):
                await self._call(scope, headers, receive, send)
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

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Refuse who may not ask, and web pages that make a browser ask."""
        if self._token:
            if scope["path"] in _OPEN_PATHS:
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
        if path == _SUBMIT and method == "POST":
            await self._submit(headers, receive, send)
        elif path.startswith(_WARMUP) and method == "POST":
            await self._warm_up(scope, headers, receive, send)
        elif path.startswith("/v1/requests/") and path.endswith(_EVENTS_END) and method == "GET":
            await self._follow(scope, headers, receive, send)
        elif path.startswith((_CALL, _WARMUP)) or path == _SUBMIT:
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

    # -- calls -------------------------------------------------------------------------------------

    async def _call(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        function = self._known.get(scope["path"]) or self._find(scope)
        body = await read_body(receive, headers, self.options.max_body_bytes)
        invocation = invocation_of(function, body, self._new_id(), self.options.owner)
        self._refuse_when_draining()
        wants_events = b"text/event-stream" in headers.get(b"accept", b"")
        if b"idempotency-key" in headers:
            await self._join(invocation, body, headers, wants_events, receive, send)
        elif wants_events:
            await self._stream(scope, invocation, body, receive, send)
        else:
            await self._whole(scope, invocation, body, receive, send)

    async def _whole(
        self,
        scope: Scope,
        invocation: Invocation,
        body: bytes,
        receive: Receive,
        send: Send,
    ) -> None:
        call = WholeCall(receive, self.options.max_answer_bytes)
        self._begin(call, invocation, scope)
        try:
            outcome = await call.outcome()
        finally:
            self._end(call, invocation, scope)
        if isinstance(outcome, Result):
            await respond(send, 200, call.answer(outcome))
        else:
            await self._respond_failed(outcome, call, body, send)

    async def _stream(
        self,
        scope: Scope,
        invocation: Invocation,
        body: bytes,
        receive: Receive,
        send: Send,
    ) -> None:
        call = StreamedCall(receive)
        self._begin(call, invocation, scope)
        self._keep_alive(call)
        try:
            failed = await call.pass_on(send)
        finally:
            self._streams.discard(call)
            self._end(call, invocation, scope)
        if failed is not None:
            await self._respond_failed(failed, call, body, send)

    def _begin(self, call: WholeCall | StreamedCall, invocation: Invocation, scope: Scope) -> None:
        if self._departures is None:
            self._departures = Departures()
        self._calls.setdefault(invocation.request_id, call)
        call.handle = self.backend.submit(invocation, call)
        self._departures.watch(call, scope)

    def _end(self, call: WholeCall | StreamedCall, invocation: Invocation, scope: Scope) -> None:
        assert self._departures is not None, "it has begun"
        self._departures.forget(scope)
        if self._calls.get(invocation.request_id) is call:
            del self._calls[invocation.request_id]
            if not self._calls:
                self._last_busy = time.monotonic()

    async def _respond_failed(
        self, failed: Failed, call: WholeCall | StreamedCall, body: bytes, send: Send
    ) -> None:
        failure = failed.failure
        self._report(failure)
        error = ""
        if failure.error_type == "validation" and failure.origin == "input" and not _is_json(body):
            error = "invalid_json"
        status, more = self._status(failure)
        await respond(send, status, call.answer(failed, error), *more)

    def _status(self, failure: Failure) -> tuple[int, tuple[tuple[bytes, bytes], ...]]:
        if self.options.is_plain:
            return 400, ()
        status = status_of(failure)
        wait = retry_after(failure, status)
        return status, ((b"retry-after", wait.encode()),) if wait else ()

    def _find(self, scope: Scope, prefix: str = _CALL) -> str:
        """Return the function of a path, and remember it for the next time.

        Raises:
            Refusal: 404, there is none.
        """
        raw = scope.get("raw_path") or scope["path"].encode()
        target = target_of_path(raw.decode("latin-1").partition("?")[0], prefix)
        try:
            function = self.backend.find(target)
        except UnknownFunctionError as error:
            raise _unknown(error) from error
        # A quoted slash makes other segments than the path shows.
        if prefix == _CALL and b"%" not in raw and len(self._known) < _MAX_KNOWN:
            self._known[scope["path"]] = function
        return function

    async def _warm_up(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        function = self._find(scope, _WARMUP)
        body = await read_body(receive, headers, self.options.max_body_bytes)
        invocation = invocation_of(function, body, self._new_id(), self.options.owner)
        self._refuse_when_draining()
        began = time.perf_counter()
        error: str | None = None
        try:
            await self.backend.warm_up(function)
        except Exception as raised:  # the author's
            failure = classify(raised)
            self._report(failure)
            error = failure.message
        if error is None and body.strip():
            call = WholeCall(receive, self.options.max_answer_bytes)
            self._begin(call, invocation, scope)
            try:
                outcome = await call.outcome()
            finally:
                self._end(call, invocation, scope)
            error = outcome.failure.message if isinstance(outcome, Failed) else None
        answer = {
            "ok": error is None,
            "request_id": invocation.request_id,
            "duration_ms": round((time.perf_counter() - began) * 1e3, 3),
            "error_message": error,
        }
        status = 200 if error is None else (400 if self.options.is_plain else 503)
        await respond(send, status, encode(answer))

    # -- submitted requests ------------------------------------------------------------------------

    async def _submit(self, headers: Headers, receive: Receive, send: Send) -> None:
        body = await read_body(receive, headers, self.options.max_body_bytes)
        submitted = read_submission(body)
        target = parse_target(submitted.function)
        try:
            function = self.backend.find(target)
        except UnknownFunctionError as error:
            raise _unknown(error) from error
        self._refuse_when_draining()
        owner = self.options.owner
        invocation = invocation_from(submitted, function, self._new_id(), owner)
        job = self.backend.jobs.submit(invocation, key=_key(headers), body=body)
        location = (b"location", f"{_SUBMIT}/{job.request_id}".encode())
        await respond(send, 202, job.answer(), location)

    async def _join(
        self,
        invocation: Invocation,
        body: bytes,
        headers: Headers,
        wants_events: bool,
        receive: Receive,
        send: Send,
    ) -> None:
        """Answer a call that has a key: it goes on when its client leaves, who may come back."""
        job = self.backend.jobs.submit(invocation, key=_key(headers), body=body)
        if wants_events:
            await self._pass_on(job, job.read(0), receive, send)
            return
        await _unless_gone(job.wait(), receive)
        outcome = job.outcome
        if isinstance(outcome, Failed):
            status, more = self._status(outcome.failure)
            await respond(send, status, job.answer(), *more)
        else:
            await respond(send, 200, job.answer())

    async def _follow(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        call = Call(scope, receive)
        request_id = "/".join(call.segments[2:-1])
        job = self._job_routes.job(request_id)
        last = headers.get(b"last-event-id", b"").decode("latin-1")
        last = last or call.query.get("last_event_id", "")
        if not (last.isascii() and last.isdecimal() and len(last) < 16) and last:
            raise Refusal(400, "invalid_last_event_id", "Last-Event-ID is the `id` of an event")
        await self._pass_on(job, job.read(int(last or 0)), receive, send)

    async def _pass_on(self, job: Job, reader: Reader, receive: Receive, send: Send) -> None:
        self._keep_alive(reader)
        try:
            await start_events(send)
            while data := await _unless_gone(reader.read(), receive):
                await send_events(send, data)
            await send_events(send, b"", is_last=True)
        finally:
            self._streams.discard(reader)
            reader.close()

    def _cancel(self, request_id: str) -> bool | None:
        call = self._calls.get(request_id)
        if call is None:
            return None
        call.cancel("caller")
        return True

    # -- signs of life -----------------------------------------------------------------------------

    def _keep_alive(self, stream: Any) -> None:
        self._streams.add(stream)
        if self._ping is None:
            loop = asyncio.get_running_loop()
            self._ping = loop.call_later(self.options.ping_s, self._ping_all)

    def _ping_all(self) -> None:
        self._ping = None
        for stream in tuple(self._streams):
            stream.ping()
            self._keep_alive(stream)

    # -- refusals ----------------------------------------------------------------------------------

    def _new_id(self) -> str:
        self._next_id += 1
        return f"{self._id_prefix}-{self._next_id}"

    def _refuse_when_draining(self) -> None:
        if self.is_draining:
            raise Refusal(503, "draining", "the server is stopping: ask another one")

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
        status, more = self._status(failure)
        body = {"error": failure.error_type, "message": failure.message}
        await respond(send, status, encode(body), *more)


def _unknown(error: UnknownFunctionError) -> Refusal:
    return Refusal(404, "unknown_function", classify(error, origin="input").message)


def _key(headers: Headers) -> str:
    key = headers.get(b"idempotency-key", b"").decode("latin-1")
    if len(key) > _MAX_KEY_CHARS:
        raise Refusal(
            400, "invalid_idempotency_key", f"the key has more than {_MAX_KEY_CHARS} characters"
        )
    return key


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body or b"{}", type=msgspec.Raw)
    except (ValueError, RecursionError):
        return False
    return True


async def _unless_gone(wanted: Any, receive: Receive) -> Any:
    """Wait for something while the client is there.

    Raises:
        ClientGoneError: It has gone.
    """
    task = asyncio.ensure_future(wanted)
    gone = asyncio.ensure_future(_departure(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        for waiting in (task, gone):
            waiting.cancel()


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer_other(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "lifespan":
        raise ValueError(f"HTTP is spoken here, not {scope['type']!r}")
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
