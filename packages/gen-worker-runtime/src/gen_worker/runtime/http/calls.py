"""A call whose caller waits: for the whole answer, or for a stream of events."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec

from gen_worker.errors import Failure, OutputTooLargeError, classify
from gen_worker.events import Delta, Failed, Result
from gen_worker.runtime.http.answers import answer_of, json_line, records_of
from gen_worker.runtime.http.exchange import send_events, start_events
from gen_worker.runtime.http.sse import COMMENT, delta_frames, frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gen_worker.cancel import CancelReason
    from gen_worker.events import Event
    from gen_worker.runtime.http.backend import Handle
    from gen_worker.runtime.http.exchange import Receive, Send

__all__ = ["StreamedCall", "WholeCall"]

_MAX_RECORDS_BYTES = 1024 * 1024
_HIGH_BYTES = 256 * 1024
"""Events waiting for a slow client before its call is paused."""


class _Call:
    """The `Sink` of one call, and its client's presence."""

    # Class attributes, so that a short call stores only what it needs.
    wants_events = True
    handle: Handle | None = None
    is_over = False

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.started_at = perf_counter()

    def left(self) -> None:
        self.cancel("disconnect")

    def cancel(self, reason: CancelReason) -> None:
        if self.handle is not None and not self.is_over:
            self.handle.cancel(reason)

    def answer(self, outcome: Result | Failed, error: str = "") -> bytes:
        """Return the body of the whole answer; `error` is a word for what was wrong with it."""
        return answer_of(outcome, perf_counter() - self.started_at, error=error)


class WholeCall(_Call):
    """A call that is answered once it has ended."""

    _items: list[bytes] | None = None
    _items_bytes = 0
    _records = b""
    refusal: Failure | None = None

    def __init__(
        self, receive: Receive, max_bytes: int, end: Callable[[Result | Failed], object]
    ) -> None:
        """Make the sink of a call.

        Args:
            receive: Of its client.
            max_bytes: Of an output that is collected.
            end: Called once, on the loop.
        """
        self.receive = receive
        self.started_at = perf_counter()
        self._max_bytes = max_bytes
        self._tell = end

    def deliver(self, batch: Sequence[Event]) -> None:
        last = batch[-1]
        # `isinstance` is quick only when it is true: it asks the metaclass of a struct otherwise.
        if isinstance(last, Result):
            if len(batch) > 1:
                self._collect(batch)
        elif not isinstance(last, Failed):
            self._collect(batch)
            return
        elif len(batch) > 1:
            self._collect(batch)
        self.is_over = True
        self.handle = None  # which holds this: a cycle would keep both until the collector comes
        if self.refusal is not None:
            last = Failed(request_id=last.request_id, failure=self.refusal, timings=last.timings)
        tell, self._tell = self._tell, _nobody  # it may lead back here
        tell(last)

    def _collect(self, batch: Sequence[Event]) -> None:
        """Keep what a function streams to a client that waits for the whole answer."""
        items = [bytes(event.value) for event in batch if isinstance(event, Delta)]
        if self.refusal is not None:
            return
        if items:
            self._items = self._items or []
            self._items += items
            self._items_bytes += sum(map(len, items))
            if self._items_bytes > self._max_bytes:
                self._refuse()
        if len(items) < len(batch) and len(self._records) < _MAX_RECORDS_BYTES:
            self._records += records_of(batch)

    def _refuse(self) -> None:
        text = (
            f"the answer has more than {self._max_bytes} bytes: "
            "ask for it with `Accept: text/event-stream`"
        )
        error = OutputTooLargeError(text, size_bytes=self._items_bytes, max_bytes=self._max_bytes)
        self.refusal = classify(error, origin="input")
        self._items = None
        self.cancel("interrupt")

    def answer(self, outcome: Result | Failed, error: str = "") -> bytes:
        """Return the body of the whole answer; `error` is a word for what was wrong with it."""
        output = None
        if isinstance(outcome, Result) and outcome.is_streamed:
            output = msgspec.Raw(b"[%b]" % b",".join(self._items or ()))
        total_s = perf_counter() - self.started_at
        return answer_of(outcome, total_s, output=output, events=self._records, error=error)


def _nobody(_outcome: Result | Failed) -> None:
    raise AssertionError("a call ends once")


class StreamedCall(_Call):
    """A call whose caller gets its events as they come, several at once when there are several."""

    def __init__(self, receive: Receive) -> None:
        super().__init__(receive)
        self._loop = asyncio.get_running_loop()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._is_paused = False
        self._wake: asyncio.Future[None] | None = None
        self._has_begun = False
        self._refused: Failed | None = None

    def deliver(self, batch: Sequence[Event]) -> None:
        last = batch[-1]
        data = delta_frames(batch)
        if isinstance(last, (Result, Failed)):
            self.is_over = True
            self.handle = None
            if isinstance(last, Failed) and not data and not self._has_begun:
                self._refused = last
            total_s = perf_counter() - self.started_at
            if isinstance(last, Result):
                value = msgspec.Raw(json_line(last.value))
                data += frame(b"result", answer_of(last, total_s, output=value))
            else:
                data += frame(b"error", answer_of(last, total_s))
        if data:
            self._put(data)

    def ping(self) -> None:
        """Show the client, and whatever is in between, that the call goes on."""
        if not self._waiting and not self.is_over:
            self._put(COMMENT)

    def _put(self, data: bytes) -> None:
        self._has_begun = True
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > _HIGH_BYTES and not self._is_paused and self.handle is not None:
            self._is_paused = True
            self.handle.pause()
        wake = self._wake
        if wake is not None and not wake.done():
            wake.set_result(None)

    async def pass_on(self, send: Send) -> Failed | None:
        """Send everything, as fast as the client reads, to the end of the call.

        Returns:
            The failure of a call that failed before there was anything to send: nothing is sent
            then, so that it can be answered with a status of its own.
        """
        try:
            await self._something()
            if self._refused is not None:
                return self._refused
            await start_events(send)
            while not self.is_over or self._waiting:
                await self._something()
                data = b"".join(self._waiting)
                self._waiting.clear()
                self._waiting_bytes = 0
                if self._is_paused:
                    self._is_paused = False
                    if self.handle is not None:
                        self.handle.resume()
                is_last = self.is_over and not self._waiting
                await send_events(send, data, is_last=is_last)
            return None
        except asyncio.CancelledError:
            self.cancel("shutdown")
            raise

    async def _something(self) -> None:
        if not self._waiting:
            self._wake = self._loop.create_future()
            await self._wake
