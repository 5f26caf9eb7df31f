"""Requests that go on without their client: submitted, joined, followed, asked for, canceled."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from gen_worker.models.hub.local.asgi import Answer, Call
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.http.answers import encode
from gen_worker.runtime.http.credentials import INVOKE, INVOKE_OR_READ
from gen_worker.runtime.http.exchange import (
    ClientGoneError,
    Departures,
    DismissedError,
    Guest,
    read_body,
    respond,
    send_events,
    start_events,
)
from gen_worker.runtime.http.gate import require
from gen_worker.runtime.http.openapi import CANCEL_REQUEST, FOLLOW_REQUEST, SHOW_REQUEST, SUBMIT
from gen_worker.runtime.http.refusals import Reply, failed_status, reply_to_error
from gen_worker.runtime.http.requests import key_of, read_submission, wishes_in, wishes_of
from gen_worker.runtime.http.table import HttpRoute

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from gen_worker.runtime.engine import Invocation
    from gen_worker.runtime.http.backend import Backend
    from gen_worker.runtime.http.credentials import Principal
    from gen_worker.runtime.http.entrance import Entrance
    from gen_worker.runtime.http.exchange import Answer as Answered
    from gen_worker.runtime.http.exchange import Headers, Leaver, Receive, Scope, Send
    from gen_worker.runtime.http.jobs import Job, Reader
    from gen_worker.runtime.http.options import HttpOptions
    from gen_worker.runtime.http.pings import Pings
    from gen_worker.runtime.http.table import HttpCall

__all__ = ["SUBMIT_PATH", "JobRoutes", "elsewhere"]

SUBMIT_PATH = "/v1/requests"

_EARLY_S = 1.0
"""After which a stream begins though nothing has come: some clients wait no longer for a head."""


class JobRoutes:
    """What `backend.jobs` keeps, for those who submit, wait, follow, ask and cancel."""

    def __init__(
        self,
        backend: Backend,
        options: HttpOptions,
        entrance: Entrance,
        pings: Pings,
        cancel_waiting: Callable[[str, Principal], bool | None],
    ) -> None:
        """Answer for what `backend.jobs` keeps.

        Args:
            backend: Keeps the jobs.
            options: What is allowed.
            entrance: What is submitted comes through it.
            pings: Shows signs of life on streams.
            cancel_waiting: Cancels a call whose caller waits for it; None when there is none.
        """
        self._backend = backend
        self._options = options
        self._entrance = entrance
        self._pings = pings
        self._cancel_waiting = cancel_waiting
        self._departures: Departures | None = None
        self._guests: dict[Guest, str] = {}
        """Who waits here, and for which request."""
        self._tasks: set[asyncio.Task[None]] = set()

    def table(self) -> Iterator[HttpRoute]:
        one, look = "/v1/requests/{id}", INVOKE_OR_READ
        yield HttpRoute("POST", SUBMIT_PATH, INVOKE, elsewhere, operation=SUBMIT)
        yield HttpRoute("GET", f"{one}/events", look, elsewhere, operation=FOLLOW_REQUEST)
        yield HttpRoute("GET HEAD", one, look, self.show, is_stream=True, operation=SHOW_REQUEST)
        cancel = HttpRoute("DELETE", one, INVOKE, self.cancel, is_stream=True)
        yield cancel._replace(operation=CANCEL_REQUEST)

    def dismiss_guests(self) -> None:
        """Tell who waits to come back, because this process ends and the requests do not."""
        for guest in tuple(self._guests):
            guest.dismiss()

    # -- made --------------------------------------------------------------------------------------

    async def submit(
        self, headers: Headers, caller: Principal, receive: Receive, send: Send
    ) -> None:
        require(caller, INVOKE)
        body = await read_body(receive, headers, self._options.max_body_bytes)
        status, shown, more = await self._submitted(headers, caller, body)
        await respond(send, status, shown, *more)

    def express(self, headers: Headers, caller: Principal, body: bytes, answer: Answered) -> Leaver:
        """Do the same without what ASGI needs for each request; see `Express`."""
        task = asyncio.get_running_loop().create_task(
            self._answer(self._submitted(headers, caller, body), answer)
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return _UNCONCERNED

    async def _answer(self, coming: Coroutine[Any, Any, Reply], answer: Answered) -> None:
        try:
            reply = await coming
        except Exception as error:  # of one request; the server goes on
            reply = reply_to_error(error, f"POST {SUBMIT_PATH}", is_plain=False)
        answer(*reply)

    async def _submitted(self, headers: Headers, caller: Principal, body: bytes) -> Reply:
        submitted = read_submission(body)
        invocation = self._entrance.submitted(submitted, caller)
        self._entrance.refuse_when_draining()
        job = await self._backend.jobs.submit(
            invocation, key=key_of(headers), body=body, wishes=wishes_of(submitted)
        )
        location = (b"location", f"{SUBMIT_PATH}/{job.request_id}".encode())
        return Reply(202, await job.answer(), (location,))

    async def join(
        self,
        scope: Scope,
        invocation: Invocation,
        body: bytes,
        headers: Headers,
        receive: Receive,
        send: Send,
    ) -> None:
        """Answer a call that may go on without its client.

        One that has a key does when its client leaves, who may come back; any other is canceled.
        """
        key = key_of(headers)
        job = await self._backend.jobs.submit(
            invocation, key=key, body=body, wishes=wishes_in(body)
        )
        with self._guest(scope, receive, job) as guest:
            try:
                if b"text/event-stream" in headers.get(b"accept", b""):
                    await self._stream(job, guest, send)
                else:
                    await guest.until(job.wait())
                    await self._respond(job, send)
            except ClientGoneError:
                if not key:
                    await job.cancel("disconnect")
                raise
            except DismissedError:
                await _send_away(job, send)

    async def _respond(self, job: Job, send: Send) -> None:
        if job.failure is None:
            await respond(send, 200, await job.answer())
        else:
            status, more = failed_status(job.failure, is_plain=self._options.is_plain)
            await respond(send, status, await job.answer(), *more)

    # -- followed ----------------------------------------------------------------------------------

    async def follow(
        self, scope: Scope, headers: Headers, caller: Principal, receive: Receive, send: Send
    ) -> None:
        require(caller, INVOKE_OR_READ)
        call = Call(scope, receive)
        job = await self._job("/".join(call.segments[2:-1]), caller)
        last = headers.get(b"last-event-id", b"").decode("latin-1")
        last = last or call.query.get("last_event_id", "")
        if not (last.isascii() and last.isdecimal() and len(last) < 16) and last:
            raise Refusal(400, "invalid_last_event_id", "Last-Event-ID is the `id` of an event")
        with self._guest(scope, receive, job) as guest:
            with self._reading(job, int(last or 0)) as reader:
                await start_events(send)
                await _pass_on(reader, b"", guest, send)

    async def _stream(self, job: Job, guest: Guest, send: Send) -> None:
        """Send events as they come; a failure before all others is an answer of its own."""
        with self._reading(job, 0) as reader:
            early = asyncio.get_running_loop().call_later(_EARLY_S, reader.ping)
            try:
                data = await guest.until(reader.read())
            finally:
                early.cancel()
            if job.failure is not None and job.last_event_id == 1:
                await self._respond(job, send)
            else:
                await start_events(send)
                await _pass_on(reader, data, guest, send)

    @contextmanager
    def _reading(self, job: Job, after: int) -> Iterator[Reader]:
        reader = job.read(after)
        self._pings.add(reader)
        try:
            yield reader
        finally:
            self._pings.discard(reader)
            reader.close()

    @contextmanager
    def _guest(self, scope: Scope, receive: Receive, job: Job) -> Iterator[Guest]:
        if self._departures is None:
            self._departures = Departures()
        guest = Guest(receive)
        self._guests[guest] = job.request_id
        self._departures.watch(guest, scope)
        try:
            yield guest
        finally:
            guest.is_over = True
            self._departures.forget(scope)
            del self._guests[guest]

    # -- asked for ---------------------------------------------------------------------------------

    async def show(self, call: HttpCall) -> Answer:
        job = await self._job(call.params["id"], call.caller)
        return Answer(await job.answer(), content_type="application/json")

    async def cancel(self, call: HttpCall) -> Answer:
        request_id = call.params["id"]
        is_canceled = self._cancel_waiting(request_id, call.caller)
        status = "running"
        if is_canceled is None:
            job = await self._job(request_id, call.caller)
            is_canceled, status = await job.cancel("caller"), job.status
        return Answer({"request_id": request_id, "canceled": is_canceled, "status": status})

    async def _job(self, request_id: str, caller: Principal) -> Job:
        job = await self._backend.jobs.find(request_id)
        if job is None or not caller.may_act_for(job.owner):
            raise Refusal(
                404,
                "unknown_request",
                f"there is no request {request_id[:130]!r} here; those that have ended are kept "
                "for a while",
            )
        return job


async def _pass_on(reader: Reader, data: bytes, guest: Guest, send: Send) -> None:
    """Send what was read, and the rest as it comes."""
    with suppress(DismissedError):  # it knows the last event it has
        if data:
            await send_events(send, data)
        while data := await guest.until(reader.read()):
            await send_events(send, data)
    await send_events(send, b"", is_last=True)


async def _nobody() -> Any:
    raise AssertionError("a submission goes on, whoever leaves")


_UNCONCERNED = Guest(_nobody)
"""The client of a submission."""
_UNCONCERNED.is_over = True


async def _send_away(job: Job, send: Send) -> None:
    """Answer who waits for a request that goes on when this process has ended."""
    path = f"{SUBMIT_PATH}/{job.request_id}"
    body = {
        "error": "draining",
        "message": f"the server is stopping, and the request goes on: ask for {path} later",
        "request_id": job.request_id,
        "retryable": True,
    }
    headers = (b"retry-after", b"1"), (b"location", path.encode())
    await respond(send, 503, encode(body), *headers)


async def elsewhere(_call: HttpCall) -> Answer:
    """Stand in the table for a route that the application itself answers."""
    raise AssertionError("it is answered before the table is looked at")
