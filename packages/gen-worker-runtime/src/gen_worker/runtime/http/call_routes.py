"""Calls that live as long as their caller waits. The one part that has to be quick."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from gen_worker.errors import classify
from gen_worker.events import Failed, Result
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.http.answers import encode, printable
from gen_worker.runtime.http.calls import StreamedCall, WholeCall
from gen_worker.runtime.http.credentials import INVOKE
from gen_worker.runtime.http.entrance import CALL_PATH, Entrance
from gen_worker.runtime.http.exchange import Departures, read_body, respond
from gen_worker.runtime.http.gate import require
from gen_worker.runtime.http.job_routes import SUBMIT_PATH, JobRoutes, elsewhere
from gen_worker.runtime.http.openapi import WARM_UP
from gen_worker.runtime.http.pings import Pings
from gen_worker.runtime.http.refusals import failed_status
from gen_worker.runtime.http.requests import is_json
from gen_worker.runtime.http.table import HttpRoute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gen_worker.errors import Failure
    from gen_worker.runtime.engine import Invocation
    from gen_worker.runtime.http.backend import Backend
    from gen_worker.runtime.http.credentials import Principal
    from gen_worker.runtime.http.exchange import Answer, Headers, Leaver, Receive, Scope, Send
    from gen_worker.runtime.http.gate import Gate
    from gen_worker.runtime.http.options import HttpOptions

__all__ = ["READ_HEADERS", "WARMUP_PATH", "CallRoutes"]

WARMUP_PATH = "/v1/warmup/"
_SUBMIT_URL = SUBMIT_PATH.encode()
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


class CallRoutes:
    """The routes that make calls, and what is under way."""

    def __init__(
        self,
        backend: Backend,
        options: HttpOptions,
        gate: Gate,
        report: Callable[[Failure], None],
    ) -> None:
        """Make calls on a backend.

        Args:
            backend: Where they go.
            options: What is allowed.
            gate: Says who asks.
            report: Told of every call that failed.
        """
        self.pings = Pings(options.ping_s)
        self._entrance = Entrance(backend, options.owner)
        self.jobs = JobRoutes(backend, options, self._entrance, self.pings, self._cancel)
        self._backend = backend
        self._direct: Any = backend.direct
        """None: every call is a job; nothing here asks for more of it then."""
        self._options = options
        self._gate = gate
        self._report = report
        self._calls: dict[str, tuple[WholeCall | StreamedCall, str | None]] = {}
        """With the owner of each."""
        self._departures: Departures | None = None
        self._last_busy = time.monotonic()

    def table(self) -> Iterator[HttpRoute]:
        yield HttpRoute("POST", f"{CALL_PATH}{{function*}}", INVOKE, elsewhere)
        if self._direct is not None:
            path = f"{WARMUP_PATH}{{function*}}"
            yield HttpRoute("POST", path, INVOKE, elsewhere, operation=WARM_UP)
        yield from self.jobs.table()

    @property
    def is_draining(self) -> bool:
        """Whether new calls are refused; those under way go on."""
        return self._entrance.is_draining

    def drain(self) -> None:
        self._entrance.is_draining = True
        if self._direct is None:
            self.jobs.dismiss_guests()

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

    def _cancel(self, request_id: str, caller: Principal) -> bool | None:
        """Cancel a call whose caller waits; None when there is none."""
        call, owner = self._calls.get(request_id, (None, None))
        if call is None or not caller.may_act_for(owner):
            return None
        call.cancel("caller")
        return True

    async def call(
        self, scope: Scope, headers: Headers, caller: Principal, receive: Receive, send: Send
    ) -> None:
        require(caller, INVOKE)
        function = self._entrance.find(scope)
        body = await read_body(receive, headers, self._options.max_body_bytes)
        invocation = self._entrance.invocation(function, body, caller)
        self._entrance.refuse_when_draining()
        if self._direct is None or b"idempotency-key" in headers:
            await self.jobs.join(scope, invocation, body, headers, receive, send)
        elif b"text/event-stream" in headers.get(b"accept", b""):
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

    def express(self, url: bytes, headers: Headers, body: bytes, answer: Answer) -> Leaver | None:
        """Answer what is asked most: submissions, and calls of known functions; see `Express`."""
        if url == _SUBMIT_URL:
            return self._express_submission(headers, body, answer)
        function = self._entrance.known.get(url)
        if function is None or self._direct is None or self._entrance.is_draining:
            return None
        is_other = b"idempotency-key" in headers or b"event-stream" in headers.get(b"accept", b"")
        if is_other or len(body) > self._options.max_body_bytes:
            return None
        try:
            caller = self._gate.admit(CALL_PATH, headers)
            require(caller, INVOKE)
            invocation = self._entrance.invocation(function, body, caller)
        except Refusal:  # is told in the usual way
            return None

        def end(outcome: Result | Failed) -> None:
            self._forget(call, invocation)
            if isinstance(outcome, Result):
                answer(200, call.answer(outcome), ())
            else:
                answer(*self._failed_answer(outcome, call, body))

        call = WholeCall(_nobody, self._options.max_answer_bytes, end)
        self._calls.setdefault(invocation.request_id, (call, invocation.owner))
        call.handle = self._direct.submit(invocation, call)
        return call

    def _express_submission(self, headers: Headers, body: bytes, answer: Answer) -> Leaver | None:
        if self._options.is_plain or len(body) > self._options.max_body_bytes:
            return None
        try:
            caller = self._gate.admit(SUBMIT_PATH, headers)
            require(caller, INVOKE)
        except Refusal:  # is told in the usual way
            return None
        return self.jobs.express(headers, caller, body, answer)

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
        self._calls.setdefault(invocation.request_id, (call, invocation.owner))
        call.handle = self._direct.submit(invocation, call)
        self._departures.watch(call, scope)

    def _end(self, call: WholeCall | StreamedCall, invocation: Invocation, scope: Scope) -> None:
        assert self._departures is not None, "it has begun"
        self._departures.forget(scope)
        self._forget(call, invocation)

    def _forget(self, call: WholeCall | StreamedCall, invocation: Invocation) -> None:
        known = self._calls.get(invocation.request_id)
        if known is not None and known[0] is call:
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
        status, more = failed_status(failure, is_plain=self._options.is_plain)
        return status, call.answer(failed, error), more

    async def warm_up(
        self, scope: Scope, headers: Headers, caller: Principal, receive: Receive, send: Send
    ) -> None:
        require(caller, INVOKE)
        if self._direct is None:
            raise Refusal(404, "route_not_found", "there is nothing at this path")
        function = self._entrance.find(scope, WARMUP_PATH)
        body = await read_body(receive, headers, self._options.max_body_bytes)
        invocation = self._entrance.invocation(function, body, caller)
        self._entrance.refuse_when_draining()
        began = time.perf_counter()
        failure: Failure | None = None
        status = 200
        more: tuple[tuple[bytes, bytes], ...] = ()
        try:
            await self._direct.warm_up(function)
        except Exception as raised:  # the author's
            failure = classify(raised)
            self._report(failure)
            status = 400 if self._options.is_plain else 503
        if failure is None and body.strip():
            _, outcome = await self._outcome(scope, invocation, receive)
            if isinstance(outcome, Failed):
                failure = outcome.failure
                status, more = failed_status(failure, is_plain=self._options.is_plain)
        answer = {
            "ok": failure is None,
            "request_id": invocation.request_id,
            "duration_ms": round((time.perf_counter() - began) * 1e3, 3),
            "error_type": None if failure is None else failure.error_type,
            "error_message": None if failure is None else printable(failure.message),
        }
        await respond(send, status, encode(answer), *more)


async def _nobody() -> dict[str, Any]:
    raise AssertionError("the connection itself tells when its client goes")
