"""Calls: waited for, followed, submitted. The one part of the application that has to be quick."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

from gen_worker.errors import UnknownFunctionError, classify
from gen_worker.events import Failed, Result
from gen_worker.models.hub.local.asgi import Call
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.http.answers import encode, printable, retry_after, status_of
from gen_worker.runtime.http.calls import StreamedCall, WholeCall
from gen_worker.runtime.http.exchange import (
    Departures,
    read_body,
    respond,
    send_events,
    start_events,
    unless_gone,
)
from gen_worker.runtime.http.pings import Pings
from gen_worker.runtime.http.requests import (
    invocation_from,
    invocation_of,
    is_json,
    key_of,
    read_submission,
)
from gen_worker.runtime.http.routes import JobRoutes
from gen_worker.runtime.http.targets import parse_target, target_of_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.errors import Failure
    from gen_worker.runtime.engine import Invocation
    from gen_worker.runtime.http.backend import Backend, Target
    from gen_worker.runtime.http.exchange import Answer, Headers, Receive, Scope, Send
    from gen_worker.runtime.http.jobs import Reader
    from gen_worker.runtime.http.options import HttpOptions

__all__ = ["CALL_PATH", "READ_HEADERS", "SUBMIT_PATH", "WARMUP_PATH", "CallRoutes"]

CALL_PATH = "/v1/request/"
SUBMIT_PATH = "/v1/requests"
WARMUP_PATH = "/v1/warmup/"
READ_HEADERS = frozenset(
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
_MAX_KNOWN = 1024


class CallRoutes:
    """The routes that make calls, and what is under way."""

    def __init__(
        self,
        backend: Backend,
        options: HttpOptions,
        admit: Callable[[str, Headers], None],
        report: Callable[[Failure], None],
    ) -> None:
        """Make calls on a backend.

        Args:
            backend: Where they go.
            options: What is allowed.
            admit: Raises a `Refusal` for who may not ask, given a path and the headers.
            report: Told of every call that failed.
        """
        self.is_draining = False
        """Whether new calls are refused; those under way go on."""
        self.jobs = JobRoutes(backend, self.cancel)
        self.pings = Pings(options.ping_s)
        self._backend = backend
        self._options = options
        self._admit = admit
        self._report = report
        self._calls: dict[str, WholeCall | StreamedCall] = {}
        self._known: dict[bytes, str] = {}
        """Functions by the paths that were asked for, as they were sent."""
        self._departures: Departures | None = None
        self._id_prefix = f"http-{os.urandom(4).hex()}"
        self._next_id = 0
        self._last_busy = time.monotonic()

    @property
    def active(self) -> int:
        """Calls whose callers wait."""
        return len(self._calls)

    @property
    def idle_s(self) -> float:
        """Seconds since the last call or submitted request ended; 0 while one runs."""
        if self._calls:
            return 0.0
        return min(time.monotonic() - self._last_busy, self._backend.jobs.idle_s)

    def cancel(self, request_id: str) -> bool | None:
        """Cancel a call whose caller waits; None when there is none."""
        call = self._calls.get(request_id)
        if call is None:
            return None
        call.cancel("caller")
        return True

    async def call(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        function = self._find(scope)
        body = await read_body(receive, headers, self._options.max_body_bytes)
        invocation = invocation_of(function, body, self._new_id(), self._options.owner)
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
        call, outcome = await self._outcome(scope, invocation, receive)
        if isinstance(outcome, Result):
            await respond(send, 200, call.answer(outcome))
        else:
            await self._respond_failed(outcome, call, body, send)

    async def _outcome(
        self, scope: Scope, invocation: Invocation, receive: Receive
    ) -> tuple[WholeCall, Result | Failed]:
        """Make a call and wait for its end; a server that gives up waiting cancels it."""
        ended: asyncio.Future[Result | Failed] = asyncio.get_running_loop().create_future()

        def end(outcome: Result | Failed) -> None:
            if not ended.done():
                ended.set_result(outcome)

        call = WholeCall(receive, self._options.max_answer_bytes, end)
        self._begin(call, invocation, scope)
        try:
            return call, await ended
        except asyncio.CancelledError:
            call.cancel("shutdown")
            raise
        finally:
            self._end(call, invocation, scope)

    def express(
        self, url: bytes, headers: Headers, body: bytes, answer: Answer
    ) -> WholeCall | None:
        """Answer a call of a known function that waits for its whole answer; see `Express`."""
        function = self._known.get(url)
        if function is None or self.is_draining:
            return None
        is_other = b"idempotency-key" in headers or b"event-stream" in headers.get(b"accept", b"")
        if is_other or len(body) > self._options.max_body_bytes:
            return None
        try:
            self._admit(CALL_PATH, headers)
            invocation = invocation_of(function, body, self._new_id(), self._options.owner)
        except Refusal:  # is told in the usual way
            return None

        def end(outcome: Result | Failed) -> None:
            self._forget(call, invocation)
            if isinstance(outcome, Result):
                answer(200, call.answer(outcome), ())
            else:
                answer(*self._failed_answer(outcome, call, body))

        call = WholeCall(_nobody, self._options.max_answer_bytes, end)
        self._calls.setdefault(invocation.request_id, call)
        call.handle = self._backend.submit(invocation, call)
        return call

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
        self.pings.add(call)
        try:
            failed = await call.pass_on(send)
        finally:
            self.pings.discard(call)
            self._end(call, invocation, scope)
        if failed is not None:
            await self._respond_failed(failed, call, body, send)

    def _begin(self, call: WholeCall | StreamedCall, invocation: Invocation, scope: Scope) -> None:
        if self._departures is None:
            self._departures = Departures()
        self._calls.setdefault(invocation.request_id, call)
        call.handle = self._backend.submit(invocation, call)
        self._departures.watch(call, scope)

    def _end(self, call: WholeCall | StreamedCall, invocation: Invocation, scope: Scope) -> None:
        assert self._departures is not None, "it has begun"
        self._departures.forget(scope)
        self._forget(call, invocation)

    def _forget(self, call: WholeCall | StreamedCall, invocation: Invocation) -> None:
        if self._calls.get(invocation.request_id) is call:
            del self._calls[invocation.request_id]
            if not self._calls:
                self._last_busy = time.monotonic()

    async def _respond_failed(
        self, failed: Failed, call: WholeCall | StreamedCall, body: bytes, send: Send
    ) -> None:
        status, answer, more = self._failed_answer(failed, call, body)
        await respond(send, status, answer, *more)

    def _failed_answer(
        self, failed: Failed, call: WholeCall | StreamedCall, body: bytes
    ) -> tuple[int, bytes, tuple[tuple[bytes, bytes], ...]]:
        failure = failed.failure
        self._report(failure)
        error = ""
        if failure.error_type == "validation" and failure.origin == "input" and not is_json(body):
            error = "invalid_json"
        status, more = self.status(failure)
        return status, call.answer(failed, error), more

    def status(self, failure: Failure) -> tuple[int, tuple[tuple[bytes, bytes], ...]]:
        if self._options.is_plain:
            return 400, ()
        status = status_of(failure)
        wait = retry_after(failure, status)
        return status, ((b"retry-after", wait.encode()),) if wait else ()

    def _find(self, scope: Scope, prefix: str = CALL_PATH) -> str:
        """Return the function of a path, and remember it for the next time.

        Raises:
            Refusal: 404, there is none.
        """
        raw = (scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0]
        known = self._known.get(raw)
        if known is not None:
            return known
        target = target_of_path(raw.decode("latin-1"), prefix)
        function = self._lookup(target)
        if prefix == CALL_PATH and len(self._known) < _MAX_KNOWN:
            self._known[raw] = function
        return function

    def _lookup(self, target: Target) -> str:
        try:
            return self._backend.find(target)
        except UnknownFunctionError as error:
            message = classify(error, origin="input").message
            raise Refusal(404, "unknown_function", message) from error

    async def warm_up(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        function = self._find(scope, WARMUP_PATH)
        body = await read_body(receive, headers, self._options.max_body_bytes)
        invocation = invocation_of(function, body, self._new_id(), self._options.owner)
        self._refuse_when_draining()
        began = time.perf_counter()
        failure: Failure | None = None
        status = 200
        more: tuple[tuple[bytes, bytes], ...] = ()
        try:
            await self._backend.warm_up(function)
        except Exception as raised:  # the author's
            failure = classify(raised)
            self._report(failure)
            status = 400 if self._options.is_plain else 503
        if failure is None and body.strip():
            _, outcome = await self._outcome(scope, invocation, receive)
            if isinstance(outcome, Failed):
                failure = outcome.failure
                status, more = self.status(failure)
        answer = {
            "ok": failure is None,
            "request_id": invocation.request_id,
            "duration_ms": round((time.perf_counter() - began) * 1e3, 3),
            "error_type": None if failure is None else failure.error_type,
            "error_message": None if failure is None else printable(failure.message),
        }
        await respond(send, status, encode(answer), *more)

    # -- submitted requests ------------------------------------------------------------------------

    async def submit(self, headers: Headers, receive: Receive, send: Send) -> None:
        body = await read_body(receive, headers, self._options.max_body_bytes)
        submitted = read_submission(body)
        function = self._lookup(parse_target(submitted.function))
        self._refuse_when_draining()
        owner = self._options.owner
        invocation = invocation_from(submitted, function, self._new_id(), owner)
        job = await self._backend.jobs.submit(invocation, key=key_of(headers), body=body)
        location = (b"location", f"{SUBMIT_PATH}/{job.request_id}".encode())
        await respond(send, 202, await job.answer(), location)

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
        job = await self._backend.jobs.submit(invocation, key=key_of(headers), body=body)
        if wants_events:
            await self._pass_on(job.read(0), receive, send)
            return
        await unless_gone(job.wait(), receive)
        if job.failure is None:
            await respond(send, 200, await job.answer())
        else:
            status, more = self.status(job.failure)
            await respond(send, status, await job.answer(), *more)

    async def follow(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        call = Call(scope, receive)
        request_id = "/".join(call.segments[2:-1])
        job = await self.jobs.job(request_id)
        last = headers.get(b"last-event-id", b"").decode("latin-1")
        last = last or call.query.get("last_event_id", "")
        if not (last.isascii() and last.isdecimal() and len(last) < 16) and last:
            raise Refusal(400, "invalid_last_event_id", "Last-Event-ID is the `id` of an event")
        await self._pass_on(job.read(int(last or 0)), receive, send)

    async def _pass_on(self, reader: Reader, receive: Receive, send: Send) -> None:
        self.pings.add(reader)
        try:
            await start_events(send)
            while data := await unless_gone(reader.read(), receive):
                await send_events(send, data)
            await send_events(send, b"", is_last=True)
        finally:
            self.pings.discard(reader)
            reader.close()

    def _new_id(self) -> str:
        self._next_id += 1
        return f"{self._id_prefix}-{self._next_id}"

    def _refuse_when_draining(self) -> None:
        if self.is_draining:
            raise Refusal(503, "draining", "the server is stopping: ask another one")


async def _nobody() -> dict[str, Any]:
    raise AssertionError("the connection itself tells when its client goes")
