"""One call of one client: the sink the engine delivers to, writing the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.errors import CanceledError, OutputTooLargeError, classify
from gen_worker.events import Delta, Failed, Result, context_record
from gen_worker.runtime.engine import Invocation
from gen_worker.runtime.ndjson import frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    import msgspec

    from gen_worker.cancel import CancelReason
    from gen_worker.errors import Failure
    from gen_worker.events import Event
    from gen_worker.runtime.engine import RunningCall
    from gen_worker.runtime.ndjson.connection import Connection
    from gen_worker.runtime.ndjson.frames import EventName, Frame
    from gen_worker.runtime.ndjson.server import Server

__all__ = ["Request"]


class Request:
    """One call and its answer: the `Sink` the engine delivers to."""

    __slots__ = (
        "_call",
        "_collected",
        "_collected_bytes",
        "_connection",
        "_echo",
        "_frame",
        "_is_canceled",
        "_refusal",
        "_server",
        "is_detached",
        "request_id",
        "size_bytes",
        "wants_events",
    )

    def __init__(
        self, server: Server, connection: Connection, frame: Frame, size_bytes: int
    ) -> None:
        self._server = server
        self._connection = connection
        self._frame = frame
        self._echo = frame.request_id
        self._call: RunningCall | None = None
        self._collected: list[bytes] | None = None
        self._collected_bytes = 0
        self._refusal: Failure | None = None
        self._is_canceled = False
        self.request_id = frame.request_id or server.next_request_id()
        self.size_bytes = size_bytes
        self.wants_events = frame.events
        self.is_detached = False
        """Whether it goes on without its client."""

    def start(self) -> None:
        """Submit the call, unless it was canceled while it waited for its turn."""
        if self._is_canceled:
            self._end(frames.error_line(classify(CanceledError(), origin="input"), self._echo))
            return
        frame, server = self._frame, self._server
        payload = bytes(frame.payload)
        invocation = Invocation(
            function=frame.function,
            payload=b"{}" if payload == b"null" else payload,
            result_format="json",
            request_id=self.request_id,
            job_id=self.request_id,
            owner=server.owner,
            timeout_ms=frame.timeout_ms,
            device=server.device,
        )
        self._call = server.engine.submit(invocation, self)

    def cancel(self, reason: CancelReason) -> bool:
        """Cancel it, running or waiting; False when it was canceled before."""
        if self._call is not None:
            return self._call.token.cancel(reason)
        was_canceled, self._is_canceled = self._is_canceled, True
        return not was_canceled

    def pause(self) -> None:
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        if self._call is not None:
            self._call.resume()

    def deliver(self, batch: Sequence[Event]) -> None:
        """Write what happened, joined into one write."""
        last = batch[-1]
        if self._frame.stream:
            data = frames.event_lines(_values_of(batch), self._echo)
            if isinstance(last, Result):
                self._end(data + frames.done_line(self._echo))
            elif isinstance(last, Failed):
                self._end(data + self._error_line(last))
            elif data:
                self._connection.write(data)
            return
        if isinstance(last, Failed):
            self._end(self._error_line(last))
            return
        items = frames.event_items(_values_of(batch), self._echo)
        if isinstance(last, Result):
            collected = (items,) if self._collected is None else (*self._collected, items)
            self._end(frames.answer_line(collected, self._echo))
        else:
            self._collect(items)

    def _collect(self, items: bytes) -> None:
        """Keep what a function streams to a client that waits for the whole answer."""
        if self._refusal is not None:
            return
        if self._collected is None:
            self._collected = []
        self._collected.append(items)
        self._collected_bytes += len(items)
        limit = self._server.limits.max_answer_bytes
        if self._collected_bytes > limit:
            text = f"the answer has more than {limit} bytes: ask for it with `stream`"
            error = OutputTooLargeError(text, size_bytes=self._collected_bytes, max_bytes=limit)
            self._refusal = classify(error, origin="input")
            self._collected.clear()
            self.cancel("interrupt")

    def _error_line(self, failed: Failed) -> bytes:
        failure = self._refusal or failed.failure
        self._server.report(failure)
        return frames.error_line(failure, self._echo, with_traceback=self._frame.traceback)

    def _end(self, data: bytes) -> None:
        self._connection.write(data)
        self._connection.finished(self)


def _values_of(batch: Sequence[Event]) -> list[tuple[EventName, msgspec.Raw]]:
    """Return what the client gets to see of a batch, under the names it knows."""
    values: list[tuple[EventName, msgspec.Raw]] = []
    for event in batch:
        if isinstance(event, Delta):
            values.append(("yield", event.value))
        elif isinstance(event, Result):
            values.append(("result", event.value))
        elif (record := context_record(event)) is not None:
            values.append(("context", frames.encode_context(record)))
    return values
